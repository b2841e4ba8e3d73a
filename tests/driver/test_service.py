"""The driver over the real reconciler, on a kernel and a firewall in memory."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import threading
from collections.abc import Callable
from typing import Any

import pytest

from driver import desired, endpoint, errors, names, network, plumbing, service
from overlay import errors as overlay_errors
from overlay import guard, kernel_fake, netstate

Host = Any  # the fixture's class lives in conftest.py

NETWORK_ID = names.NetworkId("4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e")
OTHER_NETWORK_ID = names.NetworkId("7f84cb89bbd1fc848023e910ba4fdc258d9add842940b85e68dedf598ce9fae8")
ENDPOINT_ID = names.EndpointId("1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809")
OTHER_ENDPOINT_ID = names.EndpointId("2b3d5839100ae6fd7bc96fd96e49592f486cc36c69dc46fcb34c794e9954bbcf")
SAME_SHORT_ID = names.NetworkId(NETWORK_ID[:12] + "0" * 52)
BRIDGE = netstate.IfName("fp-4d5d70de7705")
HOST_END = netstate.IfName("fph1a2299da1bc9")
CONTAINER_END = netstate.IfName("fpc1a2299da1bc9")
END = endpoint.Endpoint(
    id=ENDPOINT_ID,
    network_id=NETWORK_ID,
    address=ipaddress.IPv4Interface("10.2.20.5/24"),
    mac=netstate.Mac("02:42:0a:02:14:05"),
    mtu=1450,
)
JOINED = dataclasses.replace(END, joined=True, sandbox=names.sandbox_of("/var/run/docker/netns/b6f0529d4689"))
NET = network.Network(
    id=NETWORK_ID,
    bridge=BRIDGE,
    pool=ipaddress.IPv4Network("10.2.20.0/24"),
    gateway=ipaddress.IPv4Interface("10.2.20.1/24"),
    prefix="/coreos.com/network",
    overlay=ipaddress.IPv4Network("10.2.0.0/16"),
    device=netstate.IfName("flannel.1"),
    mtu=1450,
)


def test_a_network_is_recorded_built_and_opened(host: Host) -> None:
    host.create_network()
    assert host.known() == ([NET], [])
    assert host.links() == {BRIDGE}
    assert host.firewall.plan == desired.firewall_plan([NET])


def test_creating_a_network_again_changes_nothing(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    before = host.known()
    host.create_network()
    assert host.known() == before
    assert host.links() == {BRIDGE, HOST_END}


def test_one_id_cannot_be_two_networks(host: Host) -> None:
    host.create_network()
    with pytest.raises(errors.Conflict, match="network 4d5d70de7705 exists with other properties"):
        host.create_network(pool="10.2.20.0/25")
    assert host.known() == ([NET], [])


def test_two_networks_with_one_short_id_have_a_bridge_each_for_good(host: Host) -> None:
    host.create_network(pool="10.2.20.0/25")
    host.create_network(SAME_SHORT_ID, "10.2.20.128/25")
    assert host.links() == {BRIDGE, "fp-242ec0649e8c"}
    before = host.known()
    host.start()
    assert (host.known(), host.links()) == (before, {BRIDGE, "fp-242ec0649e8c"})
    host.driver.delete_network(NETWORK_ID)
    host.create_network(SAME_SHORT_ID, "10.2.20.128/25")  # the engine's repeat, now that the shorter name is free
    assert (host.known()[0], host.links()) == (before[0][1:], {"fp-242ec0649e8c"})


NAME = {"com__docker__network__bridge__name": "br0.blue"}


def test_a_bridge_has_the_name_that_the_operator_chose_for_good(host: Host) -> None:
    host.give_ipv6()
    host.create_network(pool_v6="fd00:2:0:14::/64", **NAME)
    host.create_endpoint()
    made = {"br0.blue", HOST_END}
    assert (host.known()[0][0].bridge, host.links()) == ("br0.blue", made)
    assert {rules.bridge for rules in host.firewall.plan} == {"br0.blue"}
    assert host.kernel.observe(desired.network_state(host.known()[0][0])) >= {
        netstate.Sysctl(key="net.ipv6.conf.br0/blue.accept_ra", value="0", optional=True)
    }
    before = host.known()
    host.create_network(pool_v6="fd00:2:0:14::/64", **NAME)
    host.start()
    assert (host.known(), host.links()) == (before, made)
    host.driver.delete_network(NETWORK_ID)
    assert (host.known(), host.links(), host.kernel.has_link("br0.blue")) == (([], []), set(), False)


def test_a_link_of_somebody_elses_is_no_bridge_of_ours(host: Host) -> None:
    host.kernel.add_foreign_link(netstate.IfName("br0.blue"))
    with pytest.raises(
        errors.Conflict, match=r"a link br0\.blue is there that is not flannelpy's; choose another name"
    ):
        host.create_network(**NAME)
    assert (host.known(), host.links()) == (([], []), set())
    assert host.kernel.has_link("br0.blue")


def test_after_a_reboot_a_link_that_somebody_else_made_first_is_left_alone(host: Host) -> None:
    host.create_network(**NAME)
    host.create_endpoint()
    host.kernel = kernel_fake.KernelFake()
    host.kernel.add_foreign_link(netstate.IfName("br0.blue"))
    host.start()
    assert host.links() == set()
    assert {line.partition(": ")[2] for line in host.reconciler.last_errors} == {
        "br0.blue is a bridge that is not ours"
    }
    host.driver.delete_network(NETWORK_ID)
    host.reconciler.run_pass()
    assert (host.kernel.has_link("br0.blue"), host.reconciler.last_errors) == (True, ())


def test_two_networks_have_two_bridges(host: Host) -> None:
    host.create_network(pool="10.2.20.0/25", **NAME)
    with pytest.raises(errors.Conflict, match=r"network 4d5d70de7705 has bridge br0\.blue"):
        host.create_network(OTHER_NETWORK_ID, "10.2.20.128/25", **NAME)
    assert host.links() == {"br0.blue"}


def test_a_container_calls_its_interface_as_its_network_says(host: Host) -> None:
    host.create_network(com__docker__network__container_iface_prefix="blue")
    host.create_endpoint()
    taken = {"SrcName": CONTAINER_END, "DstPrefix": "blue"}
    assert host.join()["InterfaceName"] == taken
    host.start()
    assert host.join()["InterfaceName"] == taken


def test_no_two_networks_share_an_address(host: Host) -> None:
    host.create_network()
    with pytest.raises(
        errors.Conflict, match=r"pool 10\.2\.20\.128/25 overlaps pool 10\.2\.20\.0/24 of network 4d5d"
    ):
        host.create_network(OTHER_NETWORK_ID, "10.2.20.128/25")
    assert (host.known(), host.links()) == (([NET], []), {BRIDGE})


def test_two_slices_of_the_lease_are_two_networks(host: Host) -> None:
    host.create_network(pool="10.2.20.0/25")
    host.create_network(OTHER_NETWORK_ID, "10.2.20.128/25")
    assert host.links() == {BRIDGE, "fp-7f84cb89bbd1"}
    assert {rules.subnet for rules in host.firewall.plan} == {
        ipaddress.IPv4Network("10.2.20.0/25"),
        ipaddress.IPv4Network("10.2.20.128/25"),
    }


def test_slices_of_one_lease_never_give_one_route_twice(host: Host) -> None:
    """Docker refuses a route that the container has already: it could not be on both."""
    ids = [letter * 64 for letter in "abc"]

    def make(number: int) -> None:
        host.create_network(ids[number], f"10.2.20.{number * 64}/26", flannelpy__gateway="docker")

    def levels() -> list[int]:
        return [net.route_level for net in host.known()[0]]

    for number in range(3):
        make(number)
    host.driver.delete_network(ids[1])
    host.start()
    make(2)
    assert levels() == [0, 2]
    make(1)
    assert levels() == [0, 2, 1]
    targets = []
    for number, network_id in enumerate(ids):
        host.create_endpoint(network_id, f"10.2.20.{number * 64 + 5}/26", network_id)
        answer = host.join(network_id, network_id=network_id)
        targets += [route["Destination"] for route in answer["StaticRoutes"]]
    assert len(targets) == len(set(targets)) == 8 + 16 + 32
    assert not any(
        ipaddress.IPv4Network(target).overlaps(ipaddress.IPv4Network("10.2.20.0/24")) for target in targets
    )


def test_a_container_on_more_slices_than_there_are_levels_is_given_no_route_twice(host: Host) -> None:
    """Those of the first will do, and without them Docker would not start it. As with rows of before levels."""
    ids = [letter * 64 for letter in "abcdef"]
    targets = []
    for number, network_id in enumerate(ids):
        host.create_network(network_id, f"10.2.20.{number * 32}/27")
        host.create_endpoint(network_id, f"10.2.20.{number * 32 + 5}/27", network_id)
        targets.append(
            [route["Destination"] for route in host.join(network_id, network_id=network_id)["StaticRoutes"]]
        )
    assert [len(one) for one in targets] == [8, 16, 32, 64, 128, 0]
    assert host.join(ids[5], network_id=ids[5])["Gateway"] == "10.2.20.161"


def test_before_the_lease_is_known_no_route_covers_a_neighbour(host: Host) -> None:
    host.create_network(pool="10.2.20.0/25")
    host.create_network(OTHER_NETWORK_ID, "10.2.20.128/25")
    host.holdings.leases.clear()
    host.create_endpoint(address="10.2.20.5/25")
    targets = [ipaddress.IPv4Network(route["Destination"]) for route in host.join()["StaticRoutes"]]
    assert len(targets) == 8
    assert not any(target.overlaps(ipaddress.IPv4Network("10.2.20.0/24")) for target in targets)


def test_a_pool_of_another_ipam_is_refused_with_the_command_to_use(host: Host) -> None:
    data = [{"AddressSpace": "LocalDefault", "Pool": "172.18.0.0/16", "Gateway": "172.18.0.1/16"}]
    with pytest.raises(errors.WrongIpam, match="docker network create -d flannelpy --ipam-driver flannelpy NAME"):
        host.call("CreateNetwork", {"NetworkID": NETWORK_ID, "IPv4Data": data})
    assert (host.known(), host.links()) == (([], []), set())


def test_a_pool_outside_the_lease_is_refused(host: Host) -> None:
    with pytest.raises(errors.BadRequest, match=r"pool 10\.2\.21\.0/24 is not part of a lease of this host"):
        host.create_network(pool="10.2.21.0/24")
    assert host.known() == ([], [])


def test_a_network_before_any_lease_is_refused(host: Host) -> None:
    host.holdings.leases.clear()
    with pytest.raises(errors.BadRequest, match=r"none held"):
        host.create_network()


def test_a_bridge_that_the_kernel_refuses_leaves_nothing_behind(host: Host) -> None:
    host.kernel.refuse(netstate.BridgeLink(name=BRIDGE, mac=netstate.Mac("02:42:0a:02:14:01"), mtu=1450))
    with pytest.raises(overlay_errors.KernelError, match="operation not permitted"):
        host.create_network()
    assert host.known() == ([], [])
    assert host.links() == set()
    assert host.firewall.plan == frozenset()


def test_a_firewall_that_refuses_leaves_nothing_behind(host: Host) -> None:
    host.firewall.refusal = "nft: permission denied"
    with pytest.raises(overlay_errors.KernelError, match="nft: permission denied"):
        host.create_network()
    assert host.known() == ([], [])
    host.firewall.refusal = None
    assert host.links() == set()
    assert host.firewall.plan == frozenset()


def test_a_failed_repetition_does_not_take_the_network_away(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    before = host.known()
    host.firewall.refusal = "nft: busy"
    with pytest.raises(overlay_errors.KernelError):
        host.create_network()
    assert host.known() == before


def test_deleting_a_network_takes_what_is_left_of_its_endpoints(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    host.call("DeleteNetwork", {"NetworkID": NETWORK_ID})
    assert (host.known(), host.links(), host.firewall.plan) == (([], []), set(), frozenset())


def test_deleting_an_unknown_network_is_success(host: Host) -> None:
    assert host.call("DeleteNetwork", {"NetworkID": NETWORK_ID}) == {}


def test_a_network_that_cannot_be_deleted_at_once_goes_in_the_background(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    bridge = netstate.BridgeLink(name=BRIDGE, mac=netstate.Mac("02:42:0a:02:14:01"), mtu=1450)
    host.kernel.refuse(bridge, "device or resource busy")
    host.firewall.refusal = "nft: busy"
    with pytest.raises(overlay_errors.KernelError) as caught:
        host.call("DeleteNetwork", {"NetworkID": NETWORK_ID})
    assert caught.value.failures == (f"ip link del {BRIDGE}: device or resource busy", "nft: busy")
    assert host.known() == ([], [])
    host.kernel.refuse(bridge, None)
    host.firewall.refusal = None
    assert host.links() == set()
    assert host.firewall.plan == frozenset()


def test_an_endpoint_is_a_veth_pair_in_the_bridge(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    assert host.known() == ([NET], [END])
    assert host.links() == {BRIDGE, HOST_END}
    assert host.kernel.has_link(CONTAINER_END)
    assert netstate.BridgePort(name=HOST_END, bridge=BRIDGE, mtu=1450) in host.kernel.observe(netstate.EMPTY)


def test_the_first_endpoint_lets_the_host_route(host: Host) -> None:
    host.create_network()
    assert not host.kernel.observe(desired.FORWARDING) & desired.FORWARDING
    host.create_endpoint()
    assert host.kernel.observe(desired.FORWARDING) >= desired.FORWARDING


def test_creating_an_endpoint_again_changes_nothing(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    host.create_endpoint()
    assert host.known() == ([NET], [END])


def test_one_id_cannot_be_two_endpoints(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    with pytest.raises(errors.Conflict, match=r"endpoint 1a2299da1bc9 exists with address 10\.2\.20\.5/24"):
        host.create_endpoint(address="10.2.20.6/24")
    assert host.known() == ([NET], [END])


def test_two_endpoints_with_one_short_id_have_interfaces_of_their_own_for_good(host: Host) -> None:
    twin = names.EndpointId(ENDPOINT_ID[:12] + "0" * 52)
    host.create_network()
    host.create_endpoint()
    host.create_endpoint(twin, "10.2.20.6/24")
    assert host.links() == {BRIDGE, HOST_END, "fph6d8ce25869fe"}
    before = host.known()
    host.start()
    assert (host.known(), host.links()) == (before, {BRIDGE, HOST_END, "fph6d8ce25869fe"})
    host.delete_endpoint()
    host.create_endpoint(twin, "10.2.20.6/24")  # the engine's repeat, now that the shorter name is free
    assert host.join(twin)["InterfaceName"]["SrcName"] == "fpc6d8ce25869fe"
    host.start()
    host.leave(twin)
    host.delete_endpoint(twin)
    assert (host.known(), host.links()) == (([NET], []), {BRIDGE})


def test_an_endpoint_adopted_from_docker_takes_no_others_name(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    twin = dataclasses.replace(
        END, id=names.EndpointId(ENDPOINT_ID[:12] + "0" * 52), address=ipaddress.IPv4Interface("10.2.20.6/24")
    )
    host.driver.adopt_endpoint(dataclasses.replace(twin, joined=True))
    assert [end.host_end for end in host.known()[1]] == [HOST_END, "fph6d8ce25869fe"]


@pytest.mark.parametrize(
    "address", ["10.2.20.1/24", "10.2.20.0/24", "10.2.20.255/24", "10.2.21.5/24", "172.18.0.5/16"]
)
def test_an_address_that_no_container_can_have_is_refused(host: Host, address: str) -> None:
    host.create_network()
    with pytest.raises(errors.BadRequest, match="is not a container's address in network 4d5d70de7705"):
        host.create_endpoint(address=address)
    assert host.known() == ([NET], [])


def test_an_endpoint_of_an_unknown_network_is_refused_with_the_way_out(host: Host) -> None:
    with pytest.raises(errors.UnknownNetwork, match="docker network rm it and create it anew"):
        host.create_endpoint()


def test_a_pair_that_the_kernel_refuses_leaves_nothing_behind(host: Host) -> None:
    host.create_network()
    pair = netstate.VethPair(name=HOST_END, peer=CONTAINER_END, bridge=BRIDGE, mtu=1450)
    host.kernel.refuse(pair)
    with pytest.raises(overlay_errors.KernelError, match="operation not permitted"):
        host.create_endpoint()
    assert host.known() == ([NET], [])
    host.kernel.refuse(pair, None)
    assert host.links() == {BRIDGE}


def test_a_deleted_endpoint_goes_in_the_background(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    host.delete_endpoint()
    assert host.known() == ([NET], [])
    assert host.links() == {BRIDGE}


def test_deleting_and_leaving_the_unknown_is_success(host: Host) -> None:
    assert host.delete_endpoint() == {}
    assert host.leave() == {}
    host.create_network()
    host.create_endpoint()
    assert host.leave() == {}
    assert host.known() == ([NET], [END])
    assert host.delete_endpoint() == host.delete_endpoint() == {}


def test_join_gives_the_containers_end_away(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    assert host.join()["InterfaceName"] == {"SrcName": CONTAINER_END, "DstPrefix": "eth"}
    host.kernel.take_away(CONTAINER_END)
    assert host.known() == ([NET], [JOINED])
    assert host.links() == {BRIDGE, HOST_END}
    assert not host.kernel.has_link(CONTAINER_END)


def test_endpoints_of_one_container_may_speak_for_each_other_from_join_on(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    other = dataclasses.replace(
        END,
        id=names.EndpointId("b" * 64),
        address=ipaddress.IPv4Interface("10.2.20.6/24"),
        mac=netstate.Mac("02:42:0a:02:14:06"),
    )
    host.driver.create_endpoint(other)

    def allowed() -> set[tuple[str, ...]]:
        ports = (port for port in host.firewall.guarded if isinstance(port, guard.GuardedPort))
        return {(port.name, *sorted(map(str, port.addresses))) for port in ports}

    host.join()
    assert allowed() == {(HOST_END, "10.2.20.5"), ("fphbbbbbbbbbbbb", "10.2.20.6")}
    host.driver.join(NETWORK_ID, other.id, publishes=False, sandbox=JOINED.sandbox)
    both = {(HOST_END, "10.2.20.5", "10.2.20.6"), ("fphbbbbbbbbbbbb", "10.2.20.5", "10.2.20.6")}
    assert allowed() == both
    host.start()
    assert allowed() == both
    host.driver.leave(other.id)
    host.driver.delete_endpoint(other.id)
    host.start()
    assert allowed() == {(HOST_END, "10.2.20.5")}


def test_join_twice_answers_the_same(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    assert host.join(ports=2) == host.join(ports=2)


def test_join_of_the_unknown_is_refused(host: Host) -> None:
    with pytest.raises(errors.UnknownNetwork):
        host.join()
    host.create_network()
    with pytest.raises(errors.UnknownEndpoint, match="endpoint 1a2299da1bc9 is not known to flannelpy"):
        host.join()


def test_join_in_another_network_is_refused(host: Host) -> None:
    host.create_network(pool="10.2.20.0/25")
    host.create_network(OTHER_NETWORK_ID, "10.2.20.128/25")
    host.create_endpoint()
    with pytest.raises(errors.UnknownEndpoint, match="endpoint 1a2299da1bc9 is not in network 7f84cb89bbd1"):
        host.join(network_id=OTHER_NETWORK_ID)
    assert not host.known()[1][0].joined


def test_join_after_leave_gives_the_same_end_again(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    first = host.join()
    host.leave()
    assert host.known() == ([NET], [END])
    assert host.join() == first
    assert host.kernel.has_link(CONTAINER_END)
    assert host.known() == ([NET], [JOINED])


def test_a_pair_that_died_with_its_container_is_made_anew_at_the_next_join(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    host.join()
    host.kernel.take_away(CONTAINER_END)
    host.leave()
    host.kernel.delete(netstate.BridgePort(name=HOST_END, bridge=BRIDGE, mtu=1450))
    host.join()
    assert host.kernel.has_link(HOST_END)
    assert host.kernel.has_link(CONTAINER_END)
    assert host.links() == {BRIDGE, HOST_END}


def test_a_join_that_was_refused_can_be_repeated(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    host.join()
    host.leave()
    port = netstate.BridgePort(name=HOST_END, bridge=BRIDGE, mtu=1450)
    host.kernel.delete(port)
    host.kernel.refuse(port)
    with pytest.raises(overlay_errors.KernelError):
        host.join()
    host.kernel.refuse(port, None)
    host.join()
    assert host.kernel.has_link(CONTAINER_END)


def test_forty_containers_join_at_once(host: Host) -> None:
    host.create_network()
    end_ids = [f"{n:012x}" + "0" * 52 for n in range(40)]

    def run(number: int) -> str:
        host.create_endpoint(end_ids[number], f"10.2.20.{number + 10}/24")
        return str(host.join(end_ids[number])["InterfaceName"]["SrcName"])

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        assert list(pool.map(run, range(40))) == [f"fpc{end_id[:12]}" for end_id in end_ids]
    assert len(host.links()) == 41
    assert {end.id for end in host.driver.endpoints() if end.joined} == set(end_ids)
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        list(pool.map(host.delete_endpoint, end_ids))
    assert (host.known(), host.links()) == (([NET], []), {BRIDGE})


class SlowPlumbing:
    """A reconciler whose `set` of one kind of owner waits for a test: the engine may have given up meanwhile."""

    def __init__(self, inner: plumbing.Plumbing, owner: str = "endpoint:") -> None:
        self.inner = inner
        self.owner = owner
        self.began, self.go_on = threading.Event(), threading.Event()

    def set(self, owner: str, state: netstate.NetState) -> None:
        if owner.startswith(self.owner):
            self.began.set()
            assert self.go_on.wait(10)
        self.inner.set(owner, state)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_an_endpoint_deleted_while_it_is_made_leaves_nothing_behind(host: Host) -> None:
    host.create_network()
    slow = SlowPlumbing(host.reconciler)
    driver = service.Driver(host.store(), host.holdings, slow, host.ports)
    driver.restore()
    thread = threading.Thread(target=driver.create_endpoint, args=(END,))
    thread.start()
    assert slow.began.wait(10)
    driver.delete_endpoint(ENDPOINT_ID)
    slow.go_on.set()
    thread.join(10)
    assert driver.endpoints() == []
    assert host.links() == {BRIDGE}


@pytest.mark.parametrize("word", ["adopt_endpoint", "correct_endpoint"])
def test_an_endpoint_deleted_while_dockers_word_of_it_is_plumbed_leaves_nothing_behind(host: Host, word: str) -> None:
    host.create_network()
    slow = SlowPlumbing(host.reconciler)
    driver = service.Driver(host.store(), host.holdings, slow, host.ports)
    driver.restore()
    thread = threading.Thread(target=getattr(driver, word), args=(END,))
    thread.start()
    assert slow.began.wait(10)
    driver.delete_endpoint(ENDPOINT_ID)
    slow.go_on.set()
    thread.join(10)
    assert driver.endpoints() == []
    assert host.links() == {BRIDGE}


def test_a_restart_on_the_same_kernel_changes_nothing(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    host.join()
    host.kernel.take_away(CONTAINER_END)
    host.create_endpoint(OTHER_ENDPOINT_ID, "10.2.20.6/24")
    known, links = host.known(), host.links()
    host.start()
    assert (host.known(), host.links()) == (known, links)
    assert not host.kernel.has_link(CONTAINER_END)


def test_a_reboot_brings_bridges_and_rules_back(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    host.join()
    host.kernel = type(host.kernel)()
    host.firewall.flush()
    host.start()
    assert host.links() == {BRIDGE}  # the container's end is gone with the container
    assert host.firewall.plan == desired.firewall_plan([NET])
    assert host.leave() == host.delete_endpoint() == {}
    assert host.known() == ([NET], [])


def test_killed_between_create_and_join_the_endpoint_can_still_join(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    host.kernel = type(host.kernel)()
    host.start()
    host.join()
    assert host.kernel.has_link(CONTAINER_END)


def test_killed_between_leave_and_delete_the_pair_still_goes(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    host.join()
    host.leave()
    host.start()
    host.delete_endpoint()
    assert host.links() == {BRIDGE}


def test_a_kernel_that_refuses_at_the_start_is_asked_again_in_the_background(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    host.kernel = type(host.kernel)()
    host.firewall.flush()
    bridge = netstate.BridgeLink(name=BRIDGE, mac=netstate.Mac("02:42:0a:02:14:01"), mtu=1450)
    host.kernel.refuse(bridge)
    host.firewall.refusal = "nft: busy"
    host.start()
    host.kernel.refuse(bridge, None)
    host.firewall.refusal = None
    assert host.links() == {BRIDGE, HOST_END}
    assert host.firewall.plan == desired.firewall_plan([NET])


def test_a_restart_does_not_let_the_host_route_yet(make_host: Callable[[], Host]) -> None:
    host = make_host()
    host.create_network()
    host.create_endpoint()
    host.kernel = type(host.kernel)()
    host.start()
    assert not host.kernel.observe(desired.FORWARDING) & desired.FORWARDING


# -- IPv6 ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def dual(host: Host) -> Host:
    host.give_ipv6()
    host.create_network(pool_v6="fd00:2:0:14::/64")
    return host


def test_a_network_of_both_families_is_recorded_built_and_opened(dual: Host) -> None:
    (net,), _ = dual.known()
    assert net == dataclasses.replace(
        NET,
        v6=network.NetworkV6(
            pool=ipaddress.IPv6Network("fd00:2:0:14::/64"),
            gateway=ipaddress.IPv6Interface("fd00:2:0:14::1/64"),
            overlay=ipaddress.IPv6Network("fd00:2::/48"),
            device=netstate.IfName("flannel-v6.1"),
        ),
    )
    state = desired.network_state(net)
    assert dual.kernel.observe(state) >= state
    assert dual.firewall.plan == desired.firewall_plan([net])
    dual.create_network(pool_v6="fd00:2:0:14::/64")
    assert dual.known() == ([net], [])


def test_an_endpoint_has_both_addresses(dual: Host) -> None:
    assert dual.create_endpoint(address_v6="fd00:2:0:14::5/64") == {"Interface": {"MacAddress": "02:42:0a:02:14:05"}}
    _, ends = dual.known()
    assert ends == [dataclasses.replace(END, address_v6=ipaddress.IPv6Interface("fd00:2:0:14::5/64"))]
    dual.create_endpoint(address_v6="fd00:2:0:14::5/64")
    with pytest.raises(errors.Conflict):
        dual.create_endpoint(address_v6="fd00:2:0:14::6/64")
    assert dual.join()["GatewayIPv6"] == "fd00:2:0:14::1"


def test_the_first_endpoint_lets_the_host_route_both_families(dual: Host) -> None:
    both = desired.FORWARDING | desired.FORWARDING_V6
    assert not dual.kernel.observe(both) & both
    dual.create_endpoint()
    assert dual.kernel.observe(both) >= both


def test_without_ipv6_the_host_is_left_without_ipv6_forwarding(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    assert not host.kernel.observe(desired.FORWARDING_V6) & desired.FORWARDING_V6


def test_a_bridge_deleted_by_hand_comes_back_with_ipv6_as_it_was(dual: Host) -> None:
    (net,), _ = dual.known()
    state = desired.network_state(net)
    dual.kernel.delete(netstate.BridgeLink(name=BRIDGE, mac=netstate.Mac(""), mtu=0))
    assert not dual.kernel.observe(state) & state
    dual.reconciler.run_pass()
    assert dual.kernel.observe(state) >= state
    assert dual.reconciler.last_errors == ()


def test_a_network_of_both_families_leaves_nothing_behind(dual: Host) -> None:
    dual.create_endpoint(address_v6="fd00:2:0:14::5/64")
    dual.call("DeleteNetwork", {"NetworkID": NETWORK_ID})
    assert (dual.known(), dual.links(), dual.firewall.plan) == (([], []), set(), frozenset())


# -- following the lease ---------------------------------------------------------------------------------------------


def mtus(host: Host) -> dict[str, int]:
    """What the kernel has."""
    return {obj.name: obj.mtu for obj in host.kernel.observe(netstate.EMPTY) if isinstance(obj, netstate.Link)}


def test_devices_and_rows_follow_the_overlays_mtu(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "driver")
    host.create_network()
    host.create_endpoint()
    host.join()
    host.change_mtu(8950)
    assert host.known() == ([dataclasses.replace(NET, mtu=8950)], [JOINED])
    assert mtus(host) == {BRIDGE: 8950, HOST_END: 8950}
    host.create_endpoint(OTHER_ENDPOINT_ID, "10.2.20.6/24")
    assert mtus(host) == {BRIDGE: 8950, HOST_END: 8950, "fph2b3d5839100a": 8950}
    host.change_mtu(1400)
    assert mtus(host) == {BRIDGE: 1400, HOST_END: 1450, "fph2b3d5839100a": 8950}  # no less than the containers' ends
    assert [line for line in caplog.messages if "follows" in line] == [
        "network follows its lease id=4d5d70de7705 mtu=8950 was=1450",
        "network follows its lease id=4d5d70de7705 mtu=1400 was=8950",
    ]
    host.start()
    assert host.known()[0] == [dataclasses.replace(NET, mtu=1400)]
    assert mtus(host)[BRIDGE] == 1400


def test_a_chosen_mtu_is_kept_as_far_as_it_fits(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.create_network(com__docker__network__driver__mtu="1400")
    for overlay_mtu, mtu in ((8950, 1400), (1300, 1300), (1350, 1350), (1450, 1400)):
        host.change_mtu(overlay_mtu)
        assert mtus(host) == {BRIDGE: mtu}
        assert [(net.mtu, net.chosen_mtu) for net in host.known()[0]] == [(mtu, 1400)]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"the overlay has no room for the network's own MTU wanted=1400 mtu={mtu} id=4d5d70de7705"
        for mtu in (1300, 1350)
    ]


def test_another_device_reaches_the_firewall_and_the_file(dual: Host) -> None:
    held = dual.holdings.leases[0]
    dual.holdings.leases[0] = dataclasses.replace(
        held, device="flannel.9", v6=dataclasses.replace(held.v6, device="flannel-v6.9")
    )
    dual.driver.refresh()
    assert [(net.device, net.v6.device) for net in dual.known()[0]] == [("flannel.9", "flannel-v6.9")]
    assert [(rules.device, rules.v6.device) for rules in dual.firewall.plan] == [("flannel.9", "flannel-v6.9")]


def test_what_changed_while_nobody_looked_is_followed_at_the_start(host: Host) -> None:
    host.create_network()
    host.holdings.leases[0] = dataclasses.replace(host.holdings.leases[0], overlay_mtu=1400, direct=True)
    host.start()
    assert host.known()[0] == [dataclasses.replace(NET, mtu=1400, direct=True)]
    assert [rules.direct for rules in host.firewall.plan] == [True]
    assert mtus(host) == {BRIDGE: 1400}


def test_a_refresh_without_news_touches_nothing(host: Host) -> None:
    host.create_network()
    host.kernel.set_link(BRIDGE, mtu=1400)  # were it plumbed again, it would be put right
    host.firewall.flush()
    host.driver.refresh()
    assert mtus(host) == {BRIDGE: 1400}
    assert host.firewall.plan == frozenset()


def test_a_refresh_without_a_lease_changes_nothing(host: Host) -> None:
    host.create_network()
    host.holdings.leases.clear()
    host.driver.refresh()
    assert host.known() == ([NET], [])


def test_what_the_kernel_refuses_to_change_is_changed_in_the_background(host: Host) -> None:
    host.create_network()
    bridge = netstate.BridgeLink(name=BRIDGE, mac=netstate.Mac("02:42:0a:02:14:01"), mtu=1450)
    host.kernel.refuse(bridge)
    host.firewall.refusal = "nft: busy"
    host.change_mtu(1400)
    assert host.known()[0] == [dataclasses.replace(NET, mtu=1400)]
    host.kernel.refuse(bridge, None)
    host.firewall.refusal = None
    host.reconciler.run_pass()
    assert mtus(host) == {BRIDGE: 1400}


@pytest.mark.parametrize("owner", ["network:", "endpoint:"])
def test_a_network_deleted_while_it_follows_leaves_nothing_behind(host: Host, owner: str) -> None:
    host.create_network()
    host.create_endpoint()
    slow = SlowPlumbing(host.reconciler, owner)
    slow.go_on.set()
    driver = service.Driver(host.store(), host.holdings, slow, host.ports)
    driver.restore()
    slow.began.clear()
    slow.go_on.clear()
    host.holdings.leases[0] = dataclasses.replace(host.holdings.leases[0], overlay_mtu=1400)
    thread = threading.Thread(target=driver.refresh)
    thread.start()
    assert slow.began.wait(10)
    driver.delete_network(NETWORK_ID)
    slow.go_on.set()
    thread.join(10)
    assert driver.networks() == []
    assert host.links() == set()


def test_a_container_may_send_what_is_its_own_from_before_it_joins_until_it_is_deleted(host: Host) -> None:
    host.create_network()
    bridge = guard.GuardedBridge(name=BRIDGE, mac=netstate.Mac("02:42:0a:02:14:01"))
    port = guard.GuardedPort(name=HOST_END, mac=END.mac, addresses=(END.address.ip,))
    host.create_endpoint()
    assert host.firewall.guarded == {bridge, port}
    host.join()
    host.leave()
    assert host.firewall.guarded == {bridge, port}
    host.delete_endpoint()
    host.reconciler.run_pass()
    assert host.firewall.guarded == {bridge}
    assert host.reconciler.repairs == {}
    host.driver.delete_network(NETWORK_ID)
    host.reconciler.run_pass()
    assert host.firewall.guarded == frozenset()


def test_both_addresses_and_a_given_mac_are_a_containers_own(dual: Host) -> None:
    ids = {"NetworkID": NETWORK_ID, "EndpointID": ENDPOINT_ID}
    given = {"Address": "10.2.20.5/24", "AddressIPv6": "fd00:2:0:14::5/64", "MacAddress": "02:00:00:00:00:AB"}
    dual.call("CreateEndpoint", {**ids, "Interface": given, "Options": {}})
    addresses = (ipaddress.ip_address("10.2.20.5"), ipaddress.ip_address("fd00:2:0:14::5"))
    assert guard.GuardedPort(name=HOST_END, mac=netstate.Mac("02:00:00:00:00:ab"), addresses=addresses) in (
        dual.firewall.guarded
    )


def test_where_forging_is_allowed_the_port_is_free_and_others_are_not(host: Host) -> None:
    host.create_network(pool="10.2.20.0/25", flannelpy__spoofing="allow")
    host.create_network(OTHER_NETWORK_ID, "10.2.20.128/25")
    host.create_endpoint()
    host.create_endpoint(OTHER_ENDPOINT_ID, "10.2.20.130/25", OTHER_NETWORK_ID)
    ports = {one for one in host.firewall.guarded if isinstance(one, guard.GuardedPort)}
    assert {one.name: one.free for one in ports} == {HOST_END: True, "fph2b3d5839100a": False}


def test_a_guard_that_cannot_be_written_fails_the_endpoint_and_leaves_nothing(host: Host) -> None:
    host.create_network()
    host.firewall.refusal = "nft: permission denied"
    with pytest.raises(overlay_errors.KernelError, match="nft: permission denied"):
        host.create_endpoint()
    assert (host.known(), host.links()) == (([NET], []), {BRIDGE})


class SlowGuard:
    """A reconciler whose guard is written when `go_on` is set."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.go_on, self.done = inner, threading.Event(), threading.Event()

    def write_guard(self) -> None:
        assert self.go_on.wait(10)
        self.inner.write_guard()
        self.done.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_a_guard_that_takes_long_is_written_beside_and_holds_no_endpoint_up(host: Host) -> None:
    """The port may send nothing until it is: a hundred starts at once would wait for each other's run of nft."""
    host.create_network()
    slow = SlowGuard(host.reconciler)
    slow.go_on.set()
    driver = service.Driver(host.store(), host.holdings, slow, host.ports, timing=service.Timing(guard_wait_s=0.01))
    driver.restore()
    slow.go_on.clear()
    slow.done.clear()
    driver.create_endpoint(END)
    port = guard.GuardedPort(name=HOST_END, mac=END.mac, addresses=(END.address.ip,))
    assert [end.id for end in driver.endpoints()] == [ENDPOINT_ID]
    assert port not in host.firewall.guarded
    slow.go_on.set()
    assert slow.done.wait(10)
    assert port in host.firewall.guarded


def test_after_a_restart_or_a_flush_all_containers_are_guarded_again(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    guarded = host.firewall.guarded
    host.firewall.flush()
    host.start()
    assert host.firewall.guarded == guarded
    host.firewall.flush()
    host.reconciler.run_pass()
    assert host.firewall.guarded == guarded


def test_an_endpoint_that_docker_knows_and_we_do_not_is_guarded_too(host: Host) -> None:
    host.create_network()
    host.driver.adopt_endpoint(dataclasses.replace(END, joined=True))
    assert guard.GuardedPort(name=HOST_END, mac=END.mac, addresses=(END.address.ip,)) in host.firewall.guarded
