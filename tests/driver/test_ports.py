"""What the engine asks to publish, read strictly, and what it becomes."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from driver import endpoint, errors, names, network, ports
from overlay import fields, firewall, netstate

TCP, UDP = firewall.Protocol.TCP, firewall.Protocol.UDP
END = endpoint.Endpoint(
    id=names.EndpointId("1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809"),
    network_id=names.NetworkId("4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e"),
    address=ipaddress.IPv4Interface("10.2.20.5/24"),
    mac=netstate.Mac("02:42:0a:02:14:05"),
)
DUAL = dataclasses.replace(END, address_v6=ipaddress.IPv6Interface("2001:db8:2:20::5/64"))


ELSEWHERE = (
    "flannelpy.gateway=native publishes tcp and udp; "
    "use a network with flannelpy.gateway=auto, where Docker publishes"
)


def wish(**changes: Any) -> dict[str, Any]:
    """As engines send it for `-p 8081:80`."""
    return {"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8081, "HostPortEnd": 8081} | changes


@pytest.mark.parametrize(
    ("raw", "binding"),
    [
        (wish(), ports.Binding(protocol=TCP, port=80, first=8081, last=8081)),
        (wish(Proto=17), ports.Binding(protocol=UDP, port=80, first=8081, last=8081)),
        (wish(HostPort=0, HostPortEnd=0), ports.Binding(protocol=TCP, port=80)),
        (wish(HostPortEnd=8090), ports.Binding(protocol=TCP, port=80, first=8081, last=8090)),
        ({"Proto": 6, "Port": 80, "HostPort": 8081}, ports.Binding(protocol=TCP, port=80, first=8081, last=8081)),
        ({"Proto": 6, "Port": 80}, ports.Binding(protocol=TCP, port=80)),
        (
            wish(HostIP="::1"),
            ports.Binding(protocol=TCP, port=80, host_ip=ipaddress.ip_address("::1"), first=8081, last=8081),
        ),
        (
            wish(HostIP="0.0.0.0"),
            ports.Binding(protocol=TCP, port=80, host_ip=ipaddress.ip_address("0.0.0.0"), first=8081, last=8081),
        ),
    ],
)
def test_a_port_is_read_as_engines_send_it(raw: dict[str, Any], binding: ports.Binding) -> None:
    assert ports.parse_bindings([raw]) == (binding,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Port": 0}, "Port: expected a whole number from 1 to 65535, got 0"),
        ({"Port": "80"}, "Port: expected a whole number from 1 to 65535, got 80"),
        ({"Port": True}, "Port: expected a whole number from 1 to 65535, got True"),
        ({"Port": None}, "Port: expected a whole number from 1 to 65535, got None"),
        ({"HostPort": 65536}, "HostPort: expected a whole number from 0 to 65535, got 65536"),
        ({"HostPort": -1}, "HostPort: expected a whole number from 0 to 65535, got -1"),
        ({"HostPortEnd": 8080}, "HostPortEnd: expected a port from HostPort 8081 up, got 8080"),
        ({"HostPort": 0}, "HostPortEnd: expected a port from HostPort 0 up, got 8081"),
        ({"HostIP": "localhost"}, "HostIP: expected an IP address, got 'localhost'"),
        ({"HostIP": 7}, "HostIP: expected a string, got a number"),
        ({"HostIP": "::ffff:192.0.2.1"}, "HostIP: expected an address that is no mapped one, got '::ffff:192.0.2.1'"),
        (
            {"Proto": 132},
            "port 80/sctp cannot be published: " + ELSEWHERE,
        ),
        (
            {"Proto": 47},
            "port 80/protocol 47 cannot be published: " + ELSEWHERE,
        ),
    ],
)
def test_what_is_no_port_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((fields.FieldError, errors.BadRequest)) as caught:
        ports.parse_bindings([wish(), wish(**changes)])
    assert str(caught.value) == message


def published(binding: ports.Binding, end: endpoint.Endpoint, number: int) -> list[str]:
    return [ports.format_published(port) for port in ports.publish(binding, ports.addresses(binding, end), number)]


def test_a_port_is_published_in_each_family_that_the_container_has() -> None:
    anywhere = ports.Binding(protocol=TCP, port=80)
    assert published(anywhere, END, 8081) == ["0.0.0.0:8081->80/tcp"]
    assert published(anywhere, DUAL, 8081) == ["0.0.0.0:8081->80/tcp", "[::]:8081->80/tcp"]
    here = dataclasses.replace(anywhere, protocol=UDP, host_ip=ipaddress.ip_address("2001:db8::1"))
    assert published(here, DUAL, 53) == ["[2001:db8::1]:53->80/udp"]


def test_an_ipv6_address_of_the_host_cannot_stand_for_a_container_without() -> None:
    with pytest.raises(errors.BadRequest) as caught:
        ports.addresses(ports.Binding(protocol=TCP, port=80, host_ip=ipaddress.ip_address("::1")), END)
    assert str(caught.value) == (
        "HostIP: ::1 cannot stand for port 80/tcp: endpoint 1a2299da1bc9 has no IPv6 address; "
        "use a network with --ipv6"
    )


BINDINGS = st.builds(
    ports.Binding,
    protocol=st.sampled_from([TCP, UDP]),
    port=st.integers(1, 65535),
    host_ip=st.sampled_from([None, ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1")]),
    first=st.just(8000),
    last=st.integers(8000, 8010),
)


@hypothesis.given(BINDINGS, st.integers(8000, 8010))
def test_what_serves_a_binding_is_kept_for_it(binding: ports.Binding, number: int) -> None:
    found = ports.publish(binding, ports.addresses(binding, DUAL), number)
    assert ports.kept(binding, DUAL, found) == (found if binding.allows(number) else ())
    assert ports.kept(binding, DUAL, found[1:]) == ()
    assert ports.kept(dataclasses.replace(binding, port=binding.port % 65535 + 1), DUAL, found) == ()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
KEYS = st.sampled_from(["Proto", "IP", "Port", "HostIP", "HostPort", "HostPortEnd", "else"])


@hypothesis.example({"HostPort": 9000}, True)
@hypothesis.given(st.dictionaries(KEYS, st.integers(-1, 70000) | ANYTHING), st.booleans())
def test_whatever_comes_is_read_or_refused_in_words(changes: dict[str, Any], whole: bool) -> None:
    try:
        (binding,) = ports.parse_bindings([wish(**changes) if whole else changes])
    except (fields.FieldError, errors.BadRequest):
        return
    assert 0 < binding.port <= ports.MAX_PORT
    assert 0 <= binding.first <= binding.last <= ports.MAX_PORT


@hypothesis.given(st.lists(BINDINGS), st.integers(1, 65535))
def test_the_state_file_gives_back_what_was_written(bindings: list[ports.Binding], number: int) -> None:
    found = tuple(port for one in bindings for port in ports.publish(one, ports.addresses(one, DUAL), number))
    assert ports.decode_published(ports.encode_published(found)) == found


@pytest.mark.parametrize(
    ("host_ip", "needed"),
    [("0.0.0.0", True), ("127.0.0.1", True), ("192.0.2.1", False), ("::", False), ("::1", False)],
)
def test_the_loopback_is_opened_for_ports_that_are_to_be_reached_through_it(host_ip: str, needed: bool) -> None:
    binding = ports.Binding(protocol=TCP, port=80, host_ip=ipaddress.ip_address(host_ip))
    assert ports.needs_loopback(ports.publish(binding, ports.addresses(binding, DUAL), 8081)) is needed
    assert not ports.needs_loopback(())


@pytest.mark.parametrize(
    ("mode", "internal", "here"),
    [("native", False, True), ("native", True, False), ("auto", False, False), ("docker", False, False)],
)
def test_ports_are_ours_to_publish_on_native_networks_that_are_not_internal(
    mode: str, internal: bool, here: bool
) -> None:
    net = network.Network(
        id=END.network_id,
        bridge=netstate.IfName("fp-4d5d70de7705"),
        pool=ipaddress.IPv4Network("10.2.20.0/24"),
        gateway=ipaddress.IPv4Interface("10.2.20.1/24"),
        prefix="/coreos.com/network",
        overlay=ipaddress.IPv4Network("10.2.0.0/16"),
        device=netstate.IfName("flannel.1"),
        mtu=1450,
        internal=internal,
        gateway_mode=network.GatewayMode(mode),
    )
    assert ports.is_publisher(net) is here
