"""Kernel objects as values: keys and indexes."""

import ipaddress

import pytest

from overlay import netstate

BRIDGE = netstate.IfName("br-a")
MAC = netstate.Mac("02:00:00:00:00:0a")

OBJECTS: list[tuple[netstate.KernelObject, netstate.Key]] = [
    (netstate.Sysctl(key="net.ipv4.ip_forward", value="1"), ("sysctl", "net.ipv4.ip_forward")),
    (netstate.BridgeLink(name=BRIDGE, mac=MAC, mtu=1450), ("link", "br-a")),
    (netstate.BridgePort(name=netstate.IfName("v1"), bridge=BRIDGE, mtu=1450), ("link", "v1")),
    (
        netstate.Address(link=BRIDGE, interface=ipaddress.ip_interface("10.2.20.1/24")),
        ("address", "br-a", b"\x0a\x02\x14\x01", 24),
    ),
    (
        netstate.Neighbour(link=BRIDGE, ip=ipaddress.ip_address("10.2.21.0"), mac=MAC),
        ("neighbour", "br-a", b"\x0a\x02\x15\x00"),
    ),
    (
        netstate.FdbEntry(link=BRIDGE, mac=MAC, vtep_ip=ipaddress.ip_address("198.51.100.2")),
        ("fdb", "br-a", "02:00:00:00:00:0a"),
    ),
    (
        netstate.Route(
            destination=ipaddress.ip_network("10.2.21.0/24"), gateway=ipaddress.ip_address("10.2.21.0"), link=BRIDGE
        ),
        ("route", b"\x0a\x02\x15\x00", 24),
    ),
]


@pytest.mark.parametrize(("obj", "key"), OBJECTS)
def test_key_names_what_the_kernel_lets_exist_once(obj: netstate.KernelObject, key: netstate.Key) -> None:
    assert netstate.key_of(obj) == key


def test_a_pair_and_a_port_of_one_name_share_a_key() -> None:
    pair = netstate.VethPair(name=netstate.IfName("v1"), peer=netstate.IfName("c1"), bridge=BRIDGE, mtu=1450)
    port = netstate.BridgePort(name=netstate.IfName("v1"), bridge=BRIDGE, mtu=1450)
    assert netstate.index([pair, port]) == {("link", "v1"): port}


def test_what_is_desired_is_up() -> None:
    assert netstate.BridgeLink(name=BRIDGE, mac=MAC, mtu=1450).up


@pytest.mark.parametrize(
    ("key", "link"),
    [
        ("net.ipv6.conf.flannel-v6/1.disable_ipv6", "flannel-v6.1"),
        ("net.ipv4.conf.br-a.rp_filter", "br-a"),
        ("net.ipv4.conf.all.rp_filter", None),
        ("net.ipv4.ip_forward", None),
    ],
)
def test_a_kernel_parameter_knows_its_link(key: str, link: str | None) -> None:
    assert netstate.Sysctl(key=key, value="0").link == link


def test_a_part_lies_in_the_whole_and_never_across_families() -> None:
    net = ipaddress.ip_network
    assert netstate.is_part(net("10.2.20.0/25"), net("10.2.20.0/24"))
    assert netstate.is_part(net("2001:db8::/64"), net("2001:db8::/64"))
    assert not netstate.is_part(net("10.2.20.0/23"), net("10.2.20.0/24"))
    assert not netstate.is_part(net("10.2.21.0/24"), net("10.2.20.0/24"))
    assert not netstate.is_part(net("2001:db8::/64"), net("0.0.0.0/0"))
    assert not netstate.is_part(net("10.2.20.0/24"), net("::/0"))
