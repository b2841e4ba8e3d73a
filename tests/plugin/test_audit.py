"""The audit over the whole plugin in memory: each kind of difference is made by hand, told, and mended."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from driver import desired, endpoint, engine, names
from driver import store as driver_store
from ipam import requests
from overlay import netstate
from plugin import audit, sight
from tests.overlay import node_host
from tests.plugin import memory_plugin
from tests.plugin.test_engine_watch import EMPTY, SEEN

Plugin = memory_plugin.MemoryPlugin

NETWORK, ENDPOINT = memory_plugin.NETWORK_ID[:12], memory_plugin.ENDPOINT_ID[:12]
BRIDGE = netstate.IfName(f"fp-{NETWORK}")
OWN = node_host.key("10.2.1.0/24")
OWN_KEY = f"{node_host.PREFIX}/subnets/10.2.1.0-24"
PEER = node_host.key("10.2.9.0/24")
SIDES = ("docker", "etcd", "state", "kernel", "firewall")
STALE_ID = names.EndpointId("3" * 64)


@pytest.fixture
def full(make_plugin: Callable[..., Plugin]) -> Plugin:
    """With its lease, one network and one container, of which all sides know."""
    plugin = make_plugin(saved=True).join()
    plugin.ago_s = 3600.0
    memory_plugin.fill(plugin)
    plugin.ago_s = 0.0
    plugin.driver.join(memory_plugin.NETWORK_ID, memory_plugin.ENDPOINT_ID, publishes=False)
    plugin.kernel.take_away(netstate.IfName(f"fpc{ENDPOINT}"))
    plugin.engine.networks = [SEEN]
    plugin.registry.put_peer(PEER, node_host.attrs("192.0.2.9"))
    node_host.until(lambda: plugin.nodes.all()[0].status().peers == 1)
    for _ in range(2):
        plugin.watch.look()
    plugin.reconciler.run_pass()
    return plugin


def told(plugin: Plugin) -> list[tuple[str, str]]:
    return [(one["kind"], one["object"]) for one in plugin.audit(0.001, repair=False)["differences"]]


def repaired(plugin: Plugin) -> list[tuple[str, str]]:
    """What was mended; that nothing is left."""
    answer = plugin.audit(0.0, repair=True)
    assert answer["differences"] == []
    assert told(plugin) == []
    return [(one["kind"], one["object"]) for one in answer["mended"]]


def run_sql(plugin: Plugin, *statements: str) -> None:
    """Somebody else writes into the state file."""
    with plugin.state.write() as tx:
        for statement in statements:
            tx.run(statement)


def test_where_all_agree_nothing_is_told(full: Plugin) -> None:
    answer = full.audit(0.0, repair=False)
    assert answer == {"differences": [], "looked_at": dict.fromkeys(SIDES, True), "troubles": {}}
    assert full.audit(0.0, repair=True) == {**answer, "mended": []}


def test_a_gateway_that_docker_does_not_tell_is_no_difference(full: Plugin) -> None:
    """It tells none for a subnet of the user's own without one."""
    silent = tuple(dataclasses.replace(pool, gateway=None) for pool in SEEN.pools)
    full.engine.networks = [dataclasses.replace(SEEN, pools=silent)]
    assert told(full) == []


def test_what_differs_is_told_with_what_each_side_says(full: Plugin) -> None:
    full.engine.networks = [dataclasses.replace(SEEN, endpoints=())]
    (end, address) = full.audit(0.0, repair=False)["differences"]
    assert end.pop("since") <= address.pop("since")
    assert (end, address) == (
        {
            "kind": "endpoint:stale",
            "object": ENDPOINT,
            "says": {
                "docker": "nothing",
                "state": f"network_id={NETWORK} address=10.2.1.2/24 mac=02:42:0a:02:01:02 joined=True mtu=1450",
            },
            "repair": "forget it, once it is old enough: Docker does not know it",
        },
        {
            "kind": "address:stale",
            "object": "10.2.1.2",
            "says": {"docker": "nothing", "state": "in use (endpoint)"},
            "repair": "release it, once it is old enough: Docker has no endpoint with it",
        },
    )


def test_what_differs_keeps_the_moment_at_which_it_was_first_seen(full: Plugin) -> None:
    full.engine.networks = [EMPTY]
    first, second = (full.audit(0.0, repair=False)["differences"][0]["since"] for _ in range(2))
    assert first == second


def test_what_one_of_several_looks_does_not_see_is_no_difference(full: Plugin) -> None:
    """A container that is being made is ours some moments before it is Docker's."""
    for odd in range(3):
        first = full.engine.asked + 1
        full.engine.meanwhile = lambda asked, odd=first + odd: setattr(  # type: ignore[misc]
            full.engine, "networks", [SEEN if asked == odd else EMPTY]
        )
        assert told(full) == []
    full.engine.meanwhile = lambda _asked: None
    full.engine.networks = [EMPTY]
    assert told(full) != []


def test_one_look_alone_is_had_for_the_asking(full: Plugin) -> None:
    full.engine.networks = [EMPTY]
    before = full.engine.asked
    assert len(full.audit(0.0, repair=False)["differences"]) == 2
    assert full.engine.asked == before + 1


def test_an_address_given_out_again_between_two_looks_is_no_difference(full: Plugin) -> None:
    """A busy host: at every look some start is under way, and the same address may be the next start's."""
    memory_plugin.take(full, "10.2.1.7")

    def start_another(_asked: int) -> None:
        full.ipam.release_address(full.ipam.usage()[0].id, ipaddress.ip_address("10.2.1.7"))
        memory_plugin.take(full, "10.2.1.7")

    full.engine.meanwhile = start_another
    assert told(full) == []
    full.engine.meanwhile = lambda _asked: None
    assert told(full) == [("address:stale", "10.2.1.7")]


def test_an_engine_that_does_not_answer_is_said_and_the_rest_compared(full: Plugin) -> None:
    full.engine.failure = "connection refused"
    full.kernel.delete(netstate.BridgeLink(name=BRIDGE, mac=netstate.Mac(""), mtu=0))
    answer = full.audit(0.0, repair=False)
    assert answer["looked_at"] == {**dict.fromkeys(SIDES, True), "docker": False}
    assert answer["troubles"] == {"docker": "connection refused"}
    assert f"link {BRIDGE}" in {one["object"] for one in answer["differences"]}


def test_an_etcd_that_does_not_answer_is_said_and_the_peers_of_the_file_are_wanted(full: Plugin) -> None:
    full.registry.go_down()
    full.kernel.delete(netstate.Route(destination=PEER.v4, gateway=PEER.v4.network_address, link=DEVICE))
    answer = full.audit(0.0, repair=False)
    assert answer["looked_at"] == {**dict.fromkeys(SIDES, True), "etcd": False}
    assert [one["object"] for one in answer["differences"]] == ["route 10.2.9.0/24"]


DEVICE = netstate.IfName("flannel.1")


def test_a_kernel_and_a_firewall_that_cannot_be_read_are_said(full: Plugin) -> None:
    full.kernel.break_observe("no buffer space")
    full.firewall.refusal = "nft: not found"
    answer = full.audit(0.0, repair=False)
    assert answer["troubles"] == {"kernel": "no buffer space", "firewall": "nft: not found"}


def test_two_audits_at_once_come_one_after_the_other(full: Plugin) -> None:
    full.engine.networks = [EMPTY]
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(told(full))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert answers == [[("endpoint:stale", ENDPOINT), ("address:stale", "10.2.1.2")]] * 3


def test_an_audit_that_waits_too_long_for_another_is_refused(full: Plugin) -> None:
    full.auditor = audit.Audit(full.sources, wait_s=0.01)
    held, done = threading.Event(), threading.Event()
    full.engine.meanwhile = lambda _asked: (held.set(), done.wait(10))[0]
    slow = threading.Thread(target=lambda: full.audit(0.0, repair=False))
    slow.start()
    assert held.wait(10)
    answer = full.client().get("/audit")
    done.set()
    slow.join(10)
    assert (answer.status_code, "another audit is under way" in json.loads(answer.data)["Err"]) == (409, True)
    assert told(full) == []


def test_more_callers_than_the_server_can_spare_are_refused_at_once(full: Plugin) -> None:
    held, done = threading.Event(), threading.Event()
    full.engine.meanwhile = lambda _asked: (held.set(), done.wait(10))[0]
    slow = [threading.Thread(target=lambda: full.audit(0.0, repair=False)) for _ in range(audit.CALLERS)]
    for thread in slow:
        thread.start()
    assert held.wait(10)
    node_host.until(lambda: full.auditor._callers._value == 0)
    with pytest.raises(audit.Busy, match="4 audits are under way or wait"):
        full.audit(0.0, repair=False)
    done.set()
    for thread in slow:
        thread.join(10)
    assert told(full) == []


# -- Docker and the rows -------------------------------------------------------------------------------------------


def test_an_endpoint_that_docker_lost_is_forgotten_with_its_address(full: Plugin) -> None:
    full.engine.networks = [EMPTY]
    assert repaired(full) == [("endpoint:stale", ENDPOINT), ("address:stale", "10.2.1.2")]
    assert [str(one.ip) for one in full.ipam.addresses()] == ["10.2.1.1"]


def test_an_address_just_given_out_is_told_and_kept(full: Plugin) -> None:
    """The engine may still be at it: it repeats a broken call for half a minute."""
    memory_plugin.take(full, "10.2.1.7")
    answer = full.audit(0.0, repair=True)
    assert [(one["kind"], one["object"]) for one in answer["differences"]] == [("address:stale", "10.2.1.7")]
    full.ipam.release_address(full.ipam.usage()[0].id, ipaddress.ip_address("10.2.1.7"))
    full.ago_s = 3600.0
    memory_plugin.take(full, "10.2.1.7")
    assert repaired(full) == [("address:stale", "10.2.1.7")]


def test_a_container_that_is_being_made_is_told_and_kept(full: Plugin) -> None:
    """However close the looks are: Docker stores an endpoint after our answer, and repeats a broken call."""
    made = names.EndpointId("5" * 64)
    address = full.ipam.request_address(requests.AddressRequest(pool_id=full.ipam.usage()[0].id))
    full.driver.create_endpoint(
        endpoint.Endpoint(id=made, network_id=memory_plugin.NETWORK_ID, address=address, mac=names.mac_of(address.ip))
    )
    answer = full.audit(0.0, repair=True)
    assert [(one["kind"], one["object"]) for one in answer["differences"]] == [
        ("endpoint:stale", made[:12]),
        ("address:stale", "10.2.1.3"),
    ]
    assert [end.id for end in full.driver.endpoints()] == [memory_plugin.ENDPOINT_ID, made]
    full.driver.join(memory_plugin.NETWORK_ID, made, publishes=False)


def test_a_network_that_is_being_made_is_told_and_kept(plugin: Plugin) -> None:
    memory_plugin.fill_network(plugin)
    before = plugin.driver.networks()
    answer = plugin.audit(0.0, repair=True)
    assert ("network:stale", NETWORK) in {(one["kind"], one["object"]) for one in answer["differences"]}
    assert plugin.driver.networks() == before


@pytest.mark.parametrize("what", ["endpoint", "network"])
def test_what_is_being_deleted_is_not_adopted_again(full: Plugin, what: str) -> None:
    """Docker shows it for a moment after DeleteEndpoint, or DeleteNetwork."""
    if what == "endpoint":
        full.driver.delete_endpoint(memory_plugin.ENDPOINT_ID)
    else:
        full.driver.delete_network(memory_plugin.NETWORK_ID)
    full.audit(0.0, repair=True)
    assert full.driver.endpoints() == []


def test_what_a_new_process_read_from_its_file_is_as_good_as_just_made(full: Plugin) -> None:
    """The call that the old one died in may be repeated."""
    full.driver.restore()
    full.engine.networks = []
    full.audit(0.0, repair=True)
    assert [net.id for net in full.driver.networks()] == [memory_plugin.NETWORK_ID]


def test_a_network_that_docker_lost_is_forgotten_with_all_of_it(full: Plugin) -> None:
    full.engine.networks = []
    assert repaired(full) == [("network:stale", NETWORK), ("pool:stale", "10.2.1.0/24")]
    assert (full.driver.networks(), full.driver.endpoints(), full.ipam.usage()) == ([], [], [])


def test_what_docker_knows_and_the_file_lost_is_adopted(full: Plugin) -> None:
    later = engine.EngineEndpoint(id=STALE_ID, address=ipaddress.IPv4Interface("10.2.1.9/24"), mac=None)
    full.engine.networks = [dataclasses.replace(SEEN, endpoints=(*SEEN.endpoints, later))]
    answer = full.audit(0.0, repair=True)
    assert [(one["kind"], one["object"]) for one in answer["mended"]] == [
        ("endpoint:missing", "333333333333"),
        ("address:missing", "10.2.1.9"),
    ]
    # a container's link cannot be made from outside
    assert [(one["kind"], one["object"]) for one in answer["differences"]] == [("port:lost", "link fph333333333333")]


def test_docker_wins_over_a_row_that_says_otherwise(full: Plugin) -> None:
    (end,) = SEEN.endpoints
    other = dataclasses.replace(end, mac=netstate.Mac("02:42:0a:02:01:77"))
    full.engine.networks = [dataclasses.replace(SEEN, endpoints=(other,))]
    assert repaired(full) == [("endpoint:changed", ENDPOINT)]
    assert [one.mac for one in driver_store.DriverStore(full.state).load()[1]] == ["02:42:0a:02:01:77"]


def test_docker_wins_over_a_network_that_says_otherwise(full: Plugin) -> None:
    full.engine.networks = [
        dataclasses.replace(SEEN, options={"flannelpy.gateway": "docker", "com.docker.network.driver.mtu": "1400"})
    ]
    assert told(full) == [("network:changed", NETWORK)]
    assert repaired(full) == [("network:changed", NETWORK)]
    assert [(net.gateway_mode.value, net.mtu) for net in full.driver.networks()] == [("docker", 1400)]


def test_an_address_that_two_containers_have_is_told_and_left_to_an_operator(full: Plugin) -> None:
    (end,) = SEEN.endpoints
    full.engine.networks = [
        dataclasses.replace(SEEN, endpoints=(end, dataclasses.replace(end, id=STALE_ID))),
    ]
    found = {(one["kind"], one["object"], one["repair"]) for one in full.audit(0.0, repair=False)["differences"]}
    assert ("address:doubled", "10.2.1.2", "") in found


def test_a_network_that_the_file_lost_is_adopted_with_its_pool(make_plugin: Callable[..., Plugin]) -> None:
    plugin = make_plugin(saved=True).join()
    plugin.engine.networks = [EMPTY]
    assert repaired(plugin) == [("network:missing", NETWORK), ("pool:missing", "10.2.1.0/24")]
    assert [net.id for net in plugin.driver.networks()] == [memory_plugin.NETWORK_ID]


def test_an_aux_address_that_is_an_endpoints_here_is_told(full: Plugin) -> None:
    pool = dataclasses.replace(SEEN.pools[0], aux=frozenset({ipaddress.IPv4Address("10.2.1.7")}))
    full.engine.networks = [dataclasses.replace(SEEN, pools=(pool,))]
    usage = full.ipam.usage()[0]
    full.ipam.request_address(memory_plugin.requests.AddressRequest(pool_id=usage.id))  # 10.2.1.3
    assert ("address:missing", "10.2.1.7") in told(full)
    taken = dataclasses.replace(pool, aux=frozenset({ipaddress.IPv4Address("10.2.1.3")}))
    full.engine.networks = [dataclasses.replace(SEEN, pools=(taken,))]
    assert told(full) == [("address:changed", "10.2.1.3")]


def test_without_docker_an_endpoints_address_that_is_free_is_told(full: Plugin) -> None:
    full.engine.failure = "connection refused"
    run_sql(full, "DELETE FROM ipam_addresses WHERE ip = '10.2.1.2'")
    assert ("address:missing", "10.2.1.2") in told(full)


def test_published_ports_are_reserved_and_no_others(full: Plugin) -> None:
    full.engine.networks = [dataclasses.replace(SEEN, options={"flannelpy.gateway": "native"})]
    assert repaired(full) == [("network:changed", NETWORK)]
    wish = {"Proto": 6, "IP": "", "Port": 80, "HostIP": "0.0.0.0", "HostPort": 8080, "HostPortEnd": 8080}
    full.driver.publisher.publish(memory_plugin.NETWORK_ID, memory_plugin.ENDPOINT_ID, [wish])
    full.reconciler.run_pass()
    assert told(full) == []
    key = f"net.ipv4.conf.{BRIDGE}.route_localnet"  # 127.0.0.1 is one of the addresses
    full.kernel.apply([netstate.Add(obj=netstate.Sysctl(key=key, value="0"))])
    assert repaired(full) == [("kernel:changed", f"sysctl {key}")]
    (held,) = full.host_ports.list_held()
    full.host_ports.release(held)
    assert full.host_ports.reserve(dataclasses.replace(held, number=9090))
    assert repaired(full) == [("published:missing", "0.0.0.0:8080/tcp"), ("published:stale", "0.0.0.0:9090/tcp")]
    assert full.host_ports.list_held() == {held}


# -- the state file and memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "things"),
    [
        ("DELETE FROM endpoints", [f"endpoint {ENDPOINT}"]),
        ("DELETE FROM networks", [f"network {NETWORK}", f"endpoint {ENDPOINT}"]),
        ("UPDATE endpoints SET mac = '02:42:0a:02:01:99'", [f"endpoint {ENDPOINT}"]),
        ("UPDATE networks SET masquerade = 0", [f"network {NETWORK}"]),
        ("DELETE FROM ipam_addresses WHERE ip = '10.2.1.2'", ["address 10.2.1.2"]),
        ("DELETE FROM ipam_pools", ["pool flannelpy/10.2.1.0/24"]),
        ("UPDATE ipam_addresses SET kind = 'aux' WHERE ip = '10.2.1.2'", ["address 10.2.1.2"]),
    ],
)
def test_a_row_changed_by_hand_is_as_docker_has_it_afterwards(
    full: Plugin, statement: str, things: list[str]
) -> None:
    before = (full.driver.networks(), full.driver.endpoints(), [one.ip for one in full.ipam.addresses()])
    links = full.kernel.observe(netstate.EMPTY)
    run_sql(full, statement)
    found = [thing for kind, thing in told(full) if kind == "row:changed"]
    assert found == things
    assert {("row:changed", thing) for thing in things} <= set(repaired(full))
    assert (full.driver.networks(), full.driver.endpoints(), [one.ip for one in full.ipam.addresses()]) == before
    assert full.kernel.observe(netstate.EMPTY) == links


def test_pools_that_overlap_are_told(full: Plugin) -> None:
    """Their addresses would be given out twice."""
    run_sql(
        full,
        """
        INSERT INTO ipam_pools (pool_id, prefix, lease, cidr, since)
        SELECT 'flannelpy/10.2.1.0/25', prefix, lease, '10.2.1.0/25', since FROM ipam_pools
        """,
    )
    assert set(told(full)) == {
        ("pool:doubled", "10.2.1.0/24"),
        ("pool:stale", "10.2.1.0/25"),
        ("row:changed", "pool flannelpy/10.2.1.0/25"),
    }


ENDPOINT_ROW = """
    INSERT INTO endpoints (id, network_id, address, mac, host_end, joined)
    SELECT '3333333333333333333333333333333333333333333333333333333333333333', network_id, '10.2.1.9/24',
    '02:42:0a:02:01:09', 'fph333333333333', 1 FROM endpoints
"""
ADDRESS_ROW = """
    INSERT INTO ipam_addresses (pool_id, ip, kind, since)
    VALUES ('flannelpy/10.2.1.0/24', '10.2.1.9', 'endpoint', 0)
"""
POOL_ROW = """
    INSERT INTO ipam_pools (pool_id, prefix, lease, cidr, since)
    VALUES ('flannelpy/10.2.2.0/24', '/x', '10.2.2.0/24', '10.2.2.0/24', 0)
"""


@pytest.mark.parametrize(
    ("statement", "thing"),
    [
        (ENDPOINT_ROW, "endpoint 333333333333"),
        (ADDRESS_ROW, "address 10.2.1.9"),
        (POOL_ROW, "pool flannelpy/10.2.2.0/24"),
    ],
)
def test_a_row_that_nobody_knows_goes(full: Plugin, statement: str, thing: str) -> None:
    before = full.state_of_all()
    run_sql(full, statement)
    assert ("row:changed", thing) in told(full)
    assert ("row:changed", thing) in repaired(full)
    assert full.state_of_all() == before


def test_a_slice_of_an_endpoint_that_is_no_more_is_forgotten(full: Plugin) -> None:
    """As after a bug: the reconciler would keep the link for ever."""
    port = netstate.VethPair(
        name=netstate.IfName("fph333333333333"), peer=netstate.IfName("fpc333333333333"), bridge=BRIDGE, mtu=1450
    )
    full.reconciler.set(desired.endpoint_owner(STALE_ID), frozenset({port}))
    assert told(full) == [
        ("row:changed", f"slice endpoint:{STALE_ID}"),
        ("kernel:stale", "link fph333333333333"),
        ("link:left", "link fpc333333333333"),
    ]
    assert len(repaired(full)) == 3


# -- the kernel and the packet filter ------------------------------------------------------------------------------


def test_what_is_missing_in_the_kernel_is_made(full: Plugin) -> None:
    full.kernel.delete(netstate.Address(link=BRIDGE, interface=ipaddress.ip_interface("10.2.1.1/24")))
    full.kernel.delete(netstate.Route(destination=PEER.v4, gateway=PEER.v4.network_address, link=DEVICE))
    full.kernel.set_link(BRIDGE, mtu=1300)
    assert sorted(repaired(full)) == [
        ("kernel:changed", f"link {BRIDGE}"),
        ("kernel:missing", f"address 10.2.1.1/24 dev {BRIDGE}"),
        ("kernel:missing", "route 10.2.9.0/24"),
    ]


def test_what_nobody_wants_in_the_kernel_goes(full: Plugin) -> None:
    left = netstate.Route(
        destination=ipaddress.ip_network("10.2.8.0/24"), gateway=ipaddress.ip_address("10.2.8.0"), link=DEVICE
    )
    bridge = netstate.BridgeLink(
        name=netstate.IfName("fp-000000000000"), mac=netstate.Mac("02:00:00:00:00:09"), mtu=1
    )
    full.kernel.apply([netstate.Add(obj=left), netstate.Add(obj=bridge)])
    assert sorted(repaired(full)) == [
        ("kernel:stale", "link fp-000000000000"),
        ("kernel:stale", "route 10.2.8.0/24"),
    ]


def test_a_link_without_our_mark_is_told_and_left_alone(full: Plugin) -> None:
    full.kernel.add_foreign_link(netstate.IfName("fph444444444444"), "veth")
    full.kernel.add_foreign_link(netstate.IfName("br-0123456789ab"))
    full.kernel.add_foreign_link(netstate.IfName("flannel.42"), "vxlan")  # a flanneld's, of another network
    assert told(full) == [("link:left", "link fph444444444444")]
    answer = full.audit(0.0, repair=True)
    assert [one["kind"] for one in answer["differences"]] == ["link:left"]
    assert full.kernel.has_link(netstate.IfName("fph444444444444"))


def test_a_container_cut_off_is_told(full: Plugin) -> None:
    full.kernel.delete(netstate.BridgePort(name=netstate.IfName(f"fph{ENDPOINT}"), bridge=BRIDGE, mtu=1450))
    assert told(full) == [("port:lost", f"link fph{ENDPOINT}")]


def test_rules_taken_away_are_written_again(full: Plugin) -> None:
    full.firewall.plan = frozenset()
    assert repaired(full) == [("firewall:missing", "nft")]
    full.firewall.guarded = frozenset()
    assert repaired(full) == [("firewall:missing", "nft-bridge")]
    full.firewall.tunnelled = frozenset()
    assert repaired(full) == [("firewall:missing", "nft-inet")]


# -- etcd ----------------------------------------------------------------------------------------------------------


def silence(plugin: Plugin) -> None:
    """The node's own threads see nothing of what happens from now on: what they heal is not the audit's work."""
    plugin.nodes.stop()


def test_a_key_of_our_own_that_is_gone_or_changed_is_put_right(full: Plugin) -> None:
    silence(full)
    full.registry.delete_peer(OWN)
    assert ("lease:missing", OWN_KEY) in told(full)
    assert repaired(full) == [("lease:missing", OWN_KEY)]
    full.registry.put_peer(OWN, dataclasses.replace(node_host.attrs("192.0.2.1"), backend_data='{"VtepMAC":"x"}'))
    assert repaired(full) == [("lease:changed", OWN_KEY)]


def test_a_key_of_our_subnet_that_another_host_has_is_told_and_left_alone(full: Plugin) -> None:
    silence(full)
    other = node_host.attrs("192.0.2.66")
    full.registry.put_peer(OWN, other)
    (one,) = full.audit(0.0, repair=True)["differences"]
    assert (one["kind"], one["object"], one["repair"]) == ("lease:foreign", OWN_KEY, "")
    assert full.registry.read_leases().leases[OWN].attrs == other


def test_a_grant_that_has_ended_or_is_another_one_is_looked_at_again(full: Plugin) -> None:
    silence(full)
    full.registry.drop_grant(OWN)
    assert repaired(full) == [("lease:changed", OWN_KEY)]
    full.registry.put_peer(OWN, node_host.attrs("192.0.2.1", node_host.MAC))  # word for word, with another grant
    assert repaired(full) == [("lease:changed", OWN_KEY)]


def test_a_second_key_under_our_address_is_told_and_left_alone(full: Plugin) -> None:
    silence(full)
    twin = node_host.key("10.2.7.0/24")
    full.registry.put_peer(twin, node_host.attrs("192.0.2.1"))
    kinds = {(one["kind"], one["repair"]) for one in full.audit(0.0, repair=False)["differences"]}
    assert ("lease:doubled", "") in kinds


def test_a_config_that_changed_is_told_and_left_to_a_restart(full: Plugin) -> None:
    full.registry.set_config(node_host.CONFIG.replace("vxlan", "host-gw"))
    (one,) = full.audit(0.0, repair=True)["differences"]
    assert (one["kind"], one["object"]) == ("config:changed", f"{node_host.PREFIX}/config")


def test_peers_of_the_file_that_etcd_has_otherwise_are_read_again(full: Plugin) -> None:
    run_sql(full, "DELETE FROM peers")
    assert told(full) == [("peer:missing", f"{node_host.PREFIX}/subnets/10.2.9.0-24")]
    full.audit(0.0, repair=True)
    node_host.until(lambda: told(full) == [])
    run_sql(full, "INSERT INTO peers SELECT prefix, '10.2.8.0-24', attrs FROM peers")
    assert told(full) == [("peer:stale", f"{node_host.PREFIX}/subnets/10.2.8.0-24")]
    full.audit(0.0, repair=True)
    node_host.until(lambda: told(full) == [])


def test_a_peer_that_etcd_has_otherwise_is_read_again(full: Plugin) -> None:
    run_sql(full, "UPDATE peers SET attrs = replace(attrs, '192.0.2.9', '192.0.2.8')")
    assert told(full) == [("peer:changed", f"{node_host.PREFIX}/subnets/10.2.9.0-24")]
    full.audit(0.0, repair=True)
    node_host.until(lambda: told(full) == [])


# -- HTTP ----------------------------------------------------------------------------------------------------------


def test_get_reports_and_post_repairs(full: Plugin) -> None:
    full.firewall.flush()
    client = full.client()
    answer = client.get("/audit?settle=0")
    assert answer.status_code == 200
    assert [one["kind"] for one in json.loads(answer.data)["differences"]] == ["firewall:missing"] * 3
    answer = client.post("/audit?settle=0")
    told_now = json.loads(answer.data)
    assert answer.status_code == 200
    assert (told_now["differences"], [one["kind"] for one in told_now["mended"]]) == ([], ["firewall:missing"] * 3)


@pytest.mark.parametrize("settle", ["-1", "31", "nan", "inf", "3s", "", "%ff"])
def test_a_pause_that_cannot_be_is_refused(full: Plugin, settle: str) -> None:
    answer = full.client().get(f"/audit?settle={settle}")
    assert answer.status_code == 400
    assert "expected settle=SECONDS from 0 to 30" in json.loads(answer.data)["Err"]


def test_the_background_looks_again_soon_while_something_waits_to_be_mended(full: Plugin) -> None:
    timing = dataclasses.replace(memory_plugin.TIMING, period_s=60.0, confirm_s=10.0, grace_s=3600.0)
    watch = full.make_watch(timing)
    watch.look()
    assert watch._pause_s() == 60.0
    full.engine.networks = [EMPTY]
    watch.look()
    assert watch._pause_s() == 10.0
    full.engine.networks = [SEEN]
    full.kernel.add_foreign_link(netstate.IfName("fph444444444444"), "veth")  # nobody can mend that
    watch.look()
    assert watch._pause_s() == 60.0


def test_the_background_frees_no_address_of_an_endpoint_that_the_driver_has(full: Plugin) -> None:
    """Docker shows an endpoint when CreateEndpoint was answered, and that may take longer than its address is old."""
    made = endpoint.Endpoint(
        id=STALE_ID,
        network_id=memory_plugin.NETWORK_ID,
        address=ipaddress.IPv4Interface("10.2.1.9/24"),
        mac=netstate.Mac("02:42:0a:02:01:09"),
    )
    full.ago_s = 3600.0
    memory_plugin.take(full, "10.2.1.9")
    full.watch.look()
    full.watch.look()  # for two looks the address is nobody's; the endpoint comes just before the third
    assert "10.2.1.9" not in {str(one.ip) for one in full.ipam.addresses()}
    memory_plugin.take(full, "10.2.1.9")
    full.watch = full.make_watch(memory_plugin.TIMING)
    full.watch.look()
    full.engine.meanwhile = lambda _asked: full.driver.create_endpoint(made)
    full.watch.look()
    assert "10.2.1.9" in {str(one.ip) for one in full.ipam.addresses()}


# -- what several looks come to ------------------------------------------------------------------------------------


def at(seen_at: float) -> sight.Sight:
    return sight.Sight(seen_at=seen_at)


def test_a_window_is_settled_once_it_reaches_back_over_the_grace() -> None:
    window = sight.Window(20.0)
    for seen_at, settled in ((0.0, False), (10.0, False), (19.9, False), (20.0, True), (30.0, True), (90.0, True)):
        window.add(at(seen_at))
        assert (window.settled() is not None) is settled, seen_at


def test_a_window_keeps_no_more_looks_than_it_needs() -> None:
    window = sight.Window(20.0)
    for number in range(100):
        window.add(at(10.0 * number))
    assert [one.seen_at for one in window._looks] == [970.0, 980.0, 990.0]


def test_one_look_alone_settles_nothing() -> None:
    window = sight.Window(0.0)
    window.add(at(0.0))
    assert (window.recent(), window.settled()) == (None, None)
