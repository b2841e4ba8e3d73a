"""Published ports through the engine's calls, over a kernel, a packet filter and a host's ports in memory."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from driver import errors, names, ports
from overlay import errors as overlay_errors
from overlay import fields, firewall, netstate

Host = Any  # the fixture's class lives in conftest.py

NETWORK_ID = names.NetworkId("4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e")
ENDPOINT_ID = names.EndpointId("1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809")
OTHER_ENDPOINT_ID = names.EndpointId("2b3d5839100ae6fd7bc96fd96e49592f486cc36c69dc46fcb34c794e9954bbcf")
TCP, UDP = firewall.Protocol.TCP, firewall.Protocol.UDP
V4, V6 = ipaddress.ip_address("0.0.0.0"), ipaddress.ip_address("::")
LOCALNET = "net.ipv4.conf.fp-4d5d70de7705.route_localnet"


def wish(port: int, first: int = 0, last: int = 0, *, ip: str = "", proto: int = 6) -> dict[str, Any]:
    return {"Proto": proto, "IP": "", "Port": port, "HostIP": ip, "HostPort": first, "HostPortEnd": last or first}


def ids(endpoint_id: str) -> dict[str, str]:
    return {"NetworkID": NETWORK_ID, "EndpointID": endpoint_id}


def publish(host: Host, *wishes: dict[str, Any], endpoint_id: str = ENDPOINT_ID, **more: object) -> None:
    options = {"com.docker.network.portmap": list(wishes), "com.docker.network.endpoint.exposedports": []}
    options |= {f"com.docker.network.driver.private.{name}": value for name, value in more.items()}
    assert host.call("ProgramExternalConnectivity", {**ids(endpoint_id), "Options": options}) == {}


def revoke(host: Host, endpoint_id: str = ENDPOINT_ID) -> None:
    assert host.call("RevokeExternalConnectivity", ids(endpoint_id)) == {}


def start(host: Host, endpoint_id: str = ENDPOINT_ID, address: str = "10.2.20.5/24", address_v6: str = "") -> None:
    host.create_endpoint(endpoint_id, address, address_v6=address_v6)
    assert host.join(endpoint_id, ports=1)["Gateway"] == "10.2.20.1"


@pytest.fixture
def native(host: Host) -> Host:
    """A host with a native network and a container on it."""
    host.create_network(flannelpy__gateway="native")
    start(host)
    return host


def shown(host: Host) -> list[str]:
    """What is published, by the rows, the packet filter and the host's ports, which must be one."""
    rows = [port for end in host.known()[1] for port in end.published]
    filtered = [port for rules in host.firewall.plan for port in rules.published]
    assert set(filtered) == set(rows)
    assert {ports.host_port(port) for port in rows} == host.ports.held
    return [ports.format_published(port) for port in rows]


def opened(host: Host) -> tuple[str | None, list[bool]]:
    """Whether the bridge lets the loopback in, and whether the ports of it let frames back out."""
    host.reconciler.run_pass()
    wanted = netstate.Sysctl(key=LOCALNET, value="?")
    seen = host.kernel.observe(frozenset({wanted}))
    values = [obj.value for obj in seen if isinstance(obj, netstate.Sysctl)]
    return next(iter(values), None), [obj.hairpin for obj in seen if isinstance(obj, netstate.BridgePort)]


def test_a_published_port_is_recorded_reserved_and_redirected(native: Host) -> None:
    publish(native, wish(80, 8080), wish(53, 5353, proto=17), wish(81, 8081, ip="127.0.0.1"))
    assert shown(native) == ["0.0.0.0:8080->80/tcp", "0.0.0.0:5353->53/udp", "127.0.0.1:8081->81/tcp"]
    assert opened(native) == ("1", [True])


def test_a_container_of_both_families_publishes_in_both(host: Host) -> None:
    host.give_ipv6()
    host.create_network(pool_v6="fd00:2:0:14::/64", flannelpy__gateway="native")
    start(host, address_v6="fd00:2:0:14::5/64")
    publish(host, wish(80, 8080), wish(81, 8081, ip="::"))
    assert shown(host) == ["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp", "[::]:8081->81/tcp"]
    publish(host, wish(82))
    assert shown(host) == ["0.0.0.0:32768->82/tcp", "[::]:32768->82/tcp"]


def test_where_another_network_is_the_ipv6_gateway_ipv4_alone_is_published(host: Host) -> None:
    """Engines from 29.4.1 say so; the other network's driver publishes the same ports over IPv6."""
    host.give_ipv6()
    host.create_network(pool_v6="fd00:2:0:14::/64", flannelpy__gateway="native")
    start(host, address_v6="fd00:2:0:14::5/64")
    host.ports.others.add(ports.HostPort(protocol=TCP, ip=V6, number=8080))
    wishes = wish(80, 8080), wish(81, 8081, ip="::"), wish(82)
    publish(host, *wishes, no_proxy_6to4=True)
    assert shown(host) == ["0.0.0.0:8080->80/tcp", "0.0.0.0:32768->82/tcp"]
    host.ports.others.clear()
    publish(host, *wishes, no_proxy_6to4=False)  # it is the gateway of both families now
    both = ["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp", "[::]:8081->81/tcp"]
    assert shown(host)[:3] == both
    publish(host, *wishes, no_proxy_6to4=True)
    assert [line for line in shown(host) if line.startswith("[")] == []
    publish(host, wish(81, 8081, ip="::"), no_proxy_6to4=True)
    assert shown(host) == []


def test_a_port_of_the_ipv6_loopback_is_said_to_lead_nowhere(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.give_ipv6()
    host.create_network(pool_v6="fd00:2:0:14::/64", flannelpy__gateway="native")
    start(host, address_v6="fd00:2:0:14::5/64")
    publish(host, wish(80, 8080, ip="127.0.0.1"), wish(80, 8082), wish(80, 8081, ip="::1", proto=17))
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == (
        "port is published on the IPv6 loopback, from where nothing is routed; publish it on 127.0.0.1 "
        "endpoint=1a2299da1bc9 port=[::1]:8081->80/udp"
    )


def test_an_ephemeral_port_is_one_that_is_free_in_both_families(host: Host) -> None:
    host.give_ipv6()
    host.create_network(pool_v6="fd00:2:0:14::/64", flannelpy__gateway="native")
    start(host, address_v6="fd00:2:0:14::5/64")
    host.ports.others |= {
        ports.HostPort(protocol=TCP, ip=V4, number=32768),
        ports.HostPort(protocol=TCP, ip=V6, number=32769),
    }
    publish(host, wish(80))
    assert shown(host) == ["0.0.0.0:32770->80/tcp", "[::]:32770->80/tcp"]


@pytest.mark.parametrize("ending", ["revoke", "leave", "delete_endpoint"])
def test_each_way_in_which_a_container_ends_takes_its_ports_along(native: Host, ending: str) -> None:
    start(native, OTHER_ENDPOINT_ID, "10.2.20.6/24")
    publish(native, wish(80, 8081), endpoint_id=OTHER_ENDPOINT_ID)
    publish(native, wish(80, 8080))
    revoke(native) if ending == "revoke" else getattr(native, ending)()
    assert shown(native) == ["0.0.0.0:8081->80/tcp"]
    assert opened(native)[0] == "1"  # the other one still needs it
    native.delete_endpoint(OTHER_ENDPOINT_ID)
    assert shown(native) == []
    assert opened(native)[0] == "0"


def test_clients_without_a_connection_are_looked_at_anew_when_their_port_comes_and_goes(native: Host) -> None:
    publish(native, wish(80, 8080), wish(53, 5353, proto=17))
    publish(native, wish(80, 8080), wish(53, 5353, proto=17))
    revoke(native)
    publish(native, wish(53, 5353, proto=17))
    native.delete_endpoint()
    told = [ports.format_published(port) for port in native.ports.forgotten]
    assert told == ["0.0.0.0:5353->53/udp"] * 4


def test_an_endpoint_that_docker_has_at_another_address_is_published_there(native: Host) -> None:
    publish(native, wish(80, 8080))
    (end,) = native.driver.endpoints()
    native.driver.correct_endpoint(dataclasses.replace(end, address=ipaddress.IPv4Interface("10.2.20.9/24")))
    assert shown(native) == ["0.0.0.0:8080->80/tcp"]
    (rules,) = native.firewall.plan
    assert {str(port.address) for port in rules.published} == {"10.2.20.9"}


def test_a_removed_network_takes_its_ports_along(native: Host) -> None:
    publish(native, wish(80, 8080))
    native.call("DeleteNetwork", {"NetworkID": NETWORK_ID})
    assert shown(native) == []
    assert native.links() == set()


def test_a_repeated_call_changes_nothing_and_a_different_one_replaces(native: Host) -> None:
    publish(native, wish(80), wish(81, 8000, 8002))
    for _ in range(2):
        publish(native, wish(80), wish(81, 8000, 8002))
        assert shown(native) == ["0.0.0.0:32768->80/tcp", "0.0.0.0:8000->81/tcp"]
    publish(native, wish(81, 8000, 8002), wish(82))
    assert shown(native) == ["0.0.0.0:8000->81/tcp", "0.0.0.0:32769->82/tcp"]
    publish(native)
    assert shown(native) == []


def test_two_wishes_for_one_port_of_the_container_get_two_of_the_host(native: Host) -> None:
    for _ in range(2):
        publish(native, wish(80), wish(80, 8000, 8002), wish(80, 8000), wish(80, 8000, 8002))
        assert [line.split(":")[1] for line in shown(native)] == [
            "32768->80/tcp",
            "8001->80/tcp",
            "8000->80/tcp",
            "8002->80/tcp",
        ]


def test_a_port_that_is_taken_is_refused_in_dockers_words_and_nothing_changes(native: Host) -> None:
    start(native, OTHER_ENDPOINT_ID, "10.2.20.6/24")
    publish(native, wish(80, 8080))
    native.ports.others.add(ports.HostPort(protocol=TCP, ip=ipaddress.ip_address("127.0.0.1"), number=8081))
    for taken in (8080, 8081):
        with pytest.raises(errors.PortTaken) as caught:
            publish(native, wish(82, 8082), wish(80, taken), endpoint_id=OTHER_ENDPOINT_ID)
        assert str(caught.value) == f"Bind for 0.0.0.0:{taken} failed: port is already allocated"
        assert shown(native) == ["0.0.0.0:8080->80/tcp"]
    with pytest.raises(errors.PortTaken, match=r"Bind for 0\.0\.0\.0:8080-8081 failed: port is already allocated"):
        publish(native, wish(80, 8080, 8081), endpoint_id=OTHER_ENDPOINT_ID)
    publish(native, wish(80, 8080, 8082), endpoint_id=OTHER_ENDPOINT_ID)
    assert shown(native) == ["0.0.0.0:8080->80/tcp", "0.0.0.0:8082->80/tcp"]


def test_a_refused_change_leaves_what_was_there(native: Host) -> None:
    publish(native, wish(80, 8080))
    for wrong in (wish(80, 8081, proto=132), wish(0, 8081), wish(80, 8081, ip="192.0.2.77"), wish(80, 8081, ip="::")):
        with pytest.raises((errors.DriverError, fields.FieldError)):
            publish(native, wish(82, 8082), wrong)
        assert shown(native) == ["0.0.0.0:8080->80/tcp"]


def test_what_the_packet_filter_refuses_is_not_published(native: Host) -> None:
    publish(native, wish(80, 8080))
    native.firewall.refusal = "nft: permission denied"
    with pytest.raises(overlay_errors.KernelError, match="nft: permission denied"):
        publish(native, wish(80, 8080), wish(81, 8081))
    native.firewall.refusal = None
    native.reconciler.run_pass()
    native.driver.publisher.retry()  # the new port is given back when its rule is known to be gone
    assert shown(native) == ["0.0.0.0:8080->80/tcp"]


@pytest.mark.parametrize("ending", ["revoke", "leave", "delete_endpoint", "network"])
def test_a_port_that_the_packet_filter_still_redirects_is_not_given_back(native: Host, ending: str) -> None:
    """Its next owner, of whichever program, would lose packets to ours."""
    publish(native, wish(80, 8080), wish(81, 8081, proto=17))
    held = set(native.ports.held)
    native.firewall.refusal = "nft: permission denied"
    end_of(native, ending)
    native.driver.publisher.settle([], native.driver.publisher.reserved())  # the audit finds them in no row
    assert native.ports.held == held
    native.firewall.refusal = None
    native.ports.forgotten.clear()
    native.driver.publisher.retry()
    assert shown(native) == []
    assert [port.protocol for port in native.ports.forgotten] == [UDP], (
        "clients that the rule led to the old container"
    )


def test_a_port_of_a_publication_that_could_not_be_undone_is_not_given_back(native: Host) -> None:
    native.firewall.refusal = "nft: permission denied"
    with pytest.raises(overlay_errors.KernelError):
        publish(native, wish(80, 8080))
    assert {port.number for port in native.ports.held} == {8080}, "whether the rule stands nobody could tell"
    native.firewall.refusal = None
    native.driver.publisher.retry()
    assert shown(native) == []


def end_of(host: Host, ending: str) -> None:
    match ending:
        case "revoke":
            revoke(host)
        case "network":
            with pytest.raises(overlay_errors.KernelError):
                host.call("DeleteNetwork", {"NetworkID": NETWORK_ID})
        case _:
            getattr(host, ending)()


def test_a_port_whose_rule_is_gone_is_published_again_at_once(native: Host) -> None:
    publish(native, wish(80, 8080))
    native.firewall.refusal = "nft: permission denied"
    revoke(native)
    native.firewall.refusal = None
    publish(native, wish(80, 8080))
    assert shown(native) == ["0.0.0.0:8080->80/tcp"]


def test_a_port_that_is_being_published_is_not_given_back_by_an_audit(native: Host) -> None:
    """It is reserved before it is in a row."""
    settled: list[None] = []
    reserve = native.ports.reserve

    def reserve_and_settle(port: ports.HostPort) -> bool:
        taken = reserve(port)
        native.driver.publisher.settle([], native.driver.publisher.reserved())
        settled.append(None)
        return bool(taken)

    native.ports.reserve = reserve_and_settle
    publish(native, wish(80, 8080))
    assert settled
    native.driver.publisher.settle([], native.driver.publisher.reserved())  # of a look before the row was there
    assert shown(native) == ["0.0.0.0:8080->80/tcp"]


def test_a_restarted_plugin_has_the_same_ports(native: Host) -> None:
    publish(native, wish(80), wish(81, 8000, 8002))
    before = shown(native)
    native.ports.others.add(ports.HostPort(protocol=TCP, ip=V4, number=40000))
    native.start()
    assert shown(native) == before == ["0.0.0.0:32768->80/tcp", "0.0.0.0:8000->81/tcp"]
    assert opened(native) == ("1", [True])
    publish(native, wish(80), wish(81, 8000, 8002))
    assert shown(native) == before
    revoke(native)
    assert (shown(native), opened(native)) == ([], ("0", [False]))


def test_a_restarted_plugin_forgets_the_clients_of_ports_that_are_published_no_more(native: Host) -> None:
    publish(native, wish(80, 8080))
    native.start()
    assert native.ports.kept_flows is not None
    pools, kept = native.ports.kept_flows
    assert [str(pool) for pool in pools] == ["10.2.20.0/24"]
    assert [ports.format_published(port) for port in kept] == ["0.0.0.0:8080->80/tcp"]


def test_a_port_that_somebody_took_meanwhile_is_reserved_when_it_is_free_again(
    native: Host, caplog: pytest.LogCaptureFixture
) -> None:
    publish(native, wish(80, 8080), wish(81, 8081))
    taken = ports.HostPort(protocol=TCP, ip=V4, number=8080)
    native.ports.held.clear()
    native.ports.others.add(taken)
    native.start()
    assert "another process's, too, which hears nothing there port=0.0.0.0:8080/tcp" in caplog.text
    assert native.ports.held == {ports.HostPort(protocol=TCP, ip=V4, number=8081)}
    native.ports.others.clear()
    native.driver.publisher.retry()
    assert shown(native) == ["0.0.0.0:8080->80/tcp", "0.0.0.0:8081->81/tcp"]


def test_a_port_given_up_while_somebody_else_has_it_is_not_reserved_later(native: Host) -> None:
    publish(native, wish(80, 8080))
    native.ports.held.clear()
    native.ports.others.add(ports.HostPort(protocol=TCP, ip=V4, number=8080))
    native.start()
    revoke(native)
    native.ports.others.clear()
    native.driver.publisher.retry()
    assert shown(native) == []


@pytest.mark.parametrize("mode", ["auto", "docker"])
def test_where_docker_publishes_nothing_is_published_here(host: Host, mode: str) -> None:
    host.create_network(flannelpy__gateway=mode)
    host.create_endpoint()
    assert "Gateway" not in host.join(ports=1)
    publish(host, wish(80, 8080), wish(80, 8080, proto=132))
    assert shown(host) == []


def test_an_internal_network_publishes_nothing(host: Host) -> None:
    told = {"com.docker.network.internal": True, "com.docker.network.generic": {"flannelpy.gateway": "native"}}
    data = {"AddressSpace": "flannelpy", "Pool": "10.2.20.0/24", "Gateway": "10.2.20.1/24"}
    host.call("CreateNetwork", {"NetworkID": NETWORK_ID, "Options": told, "IPv4Data": [data]})
    host.create_endpoint()
    host.join()
    publish(host, wish(80, 8080))
    assert shown(host) == []


def test_nothing_is_published_for_an_endpoint_that_nobody_knows(native: Host) -> None:
    with pytest.raises(errors.UnknownEndpoint):
        publish(native, wish(80, 8080), endpoint_id=OTHER_ENDPOINT_ID)
    publish(native, endpoint_id=OTHER_ENDPOINT_ID)
    revoke(native, OTHER_ENDPOINT_ID)
    assert shown(native) == []


def test_a_container_without_ports_costs_no_look_at_the_packet_filter(native: Host) -> None:
    native.firewall.refusal = "nobody should ask"
    publish(native)
    revoke(native)
    native.leave()
    native.delete_endpoint()
    assert native.known()[1] == []


def test_many_containers_that_want_one_port_at_once_leave_one_with_it(host: Host) -> None:
    host.create_network(flannelpy__gateway="native")
    several = [names.EndpointId(f"{number:012x}" + "0" * 52) for number in range(8)]
    for number, endpoint_id in enumerate(several):
        start(host, endpoint_id, f"10.2.20.{10 + number}/24")

    def attempt(endpoint_id: str) -> bool:
        try:
            publish(host, wish(80, 8080), wish(81), endpoint_id=endpoint_id)
        except errors.PortTaken:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, several)) == 1
    assert len(shown(host)) == 2


def test_ports_that_come_and_go_at_once_leave_the_loopback_as_the_last_one_needs_it(host: Host) -> None:
    host.create_network(flannelpy__gateway="native")
    several = [names.EndpointId(f"{number:012x}" + "0" * 52) for number in range(6)]
    for number, endpoint_id in enumerate(several):
        start(host, endpoint_id, f"10.2.20.{10 + number}/24")

    def come_and_go(endpoint_id: str) -> None:
        for _ in range(5):
            publish(host, wish(80), endpoint_id=endpoint_id)
            revoke(host, endpoint_id)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(come_and_go, several))
    assert (shown(host), opened(host)[0]) == ([], "0")
    publish(host, wish(80), endpoint_id=several[0])
    assert opened(host)[0] == "1"


WISHES = st.lists(
    st.builds(
        lambda port, span, ip, proto: wish(port, *span, ip=ip, proto=proto),
        st.integers(80, 82),
        st.sampled_from([(0, 0), (8000, 8000), (8001, 8001), (8000, 8003), (8002, 8005)]),
        st.sampled_from(["", "", "127.0.0.1", "0.0.0.0"]),
        st.sampled_from([6, 6, 17]),
    ),
    max_size=4,
)
STEPS = st.one_of(
    st.tuples(st.just("publish"), st.integers(0, 2), WISHES),
    st.tuples(st.sampled_from(["revoke", "rejoin", "remake", "restart"]), st.integers(0, 2), st.just([])),
)


@hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(st.lists(STEPS, max_size=12))
def test_whatever_happens_rows_rules_and_reserved_ports_are_one_and_no_port_is_anothers(
    host: Host, steps: list[tuple[str, int, list[dict[str, Any]]]]
) -> None:
    several = [names.EndpointId(f"{number:012x}" + "0" * 52) for number in range(3)]
    host.create_network(flannelpy__gateway="native")
    for number, endpoint_id in enumerate(several):
        start(host, endpoint_id, f"10.2.20.{10 + number}/24")
    for step, number, wishes in steps:
        endpoint_id = several[number]
        if step == "publish":
            before = shown(host)
            try:
                publish(host, *wishes, endpoint_id=endpoint_id)
            except errors.PortTaken:
                assert shown(host) == before
            else:
                published = shown(host)
                publish(host, *wishes, endpoint_id=endpoint_id)
                assert shown(host) == published
        elif step == "revoke":
            revoke(host, endpoint_id)
        elif step == "rejoin":
            host.leave(endpoint_id)
            host.join(endpoint_id, ports=1)
        elif step == "remake":
            host.delete_endpoint(endpoint_id)
            start(host, endpoint_id, f"10.2.20.{10 + number}/24")
        else:
            host.start()
        held = [ports.host_port(port) for end in host.driver.endpoints() for port in end.published]
        assert len(held) == len(set(held))
        shown(host)
    host.call("DeleteNetwork", {"NetworkID": NETWORK_ID})
    assert (shown(host), host.links()) == ([], set())


def test_out_of_descriptors_nothing_of_a_range_stays_and_what_was_there_does(native: Host) -> None:
    publish(native, wish(80, 8080))
    native.ports.most = 3
    with pytest.raises(errors.OutOfDescriptors):
        publish(native, *(wish(port, port) for port in range(9000, 9010)))
    assert shown(native) == ["0.0.0.0:8080->80/tcp"]
    native.ports.most = None
    publish(native, *(wish(port, port) for port in range(9000, 9010)))
    assert len(shown(native)) == 10


def test_ports_that_cannot_be_reserved_again_for_want_of_descriptors_are_one_line_in_the_log(
    native: Host, caplog: pytest.LogCaptureFixture
) -> None:
    publish(native, *(wish(port, port) for port in range(9000, 9010)))
    reserved = frozenset(native.ports.held)
    native.ports.held.clear()
    native.ports.most = 4
    native.driver.publisher.settle(reserved, ())
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "6 published ports not reserved, trying again: 4 ports are reserved"
    ]
    native.ports.most = None
    native.driver.publisher.retry()
    assert native.ports.held == reserved
