"""Which link carries the overlay."""

import dataclasses
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import errors, kernel, netstate, underlay


def link(name: str, *addresses: str, default: bool = False, **changes: Any) -> kernel.UnderlayLink:
    interfaces = [ipaddress.ip_interface(address) for address in addresses]
    made = kernel.UnderlayLink(
        name=netstate.IfName(name),
        index=1,
        mtu=1500,
        up=True,
        addresses=tuple(one for one in interfaces if isinstance(one, ipaddress.IPv4Interface)),
        has_default_route=default,
        addresses_v6=tuple(one for one in interfaces if isinstance(one, ipaddress.IPv6Interface)),
    )
    return dataclasses.replace(made, **changes)


def choose(links: list[kernel.UnderlayLink], iface: str = "", public_ip: str | None = None) -> underlay.Underlay:
    public = None if public_ip is None else ipaddress.IPv4Address(public_ip)
    return underlay.choose_underlay(links, underlay.Wish(iface=iface, public_ip=public))


def choose_dual(links: list[kernel.UnderlayLink], iface: str = "", **changes: Any) -> underlay.Underlay:
    return underlay.choose_underlay(links, underlay.Wish(iface=iface, want_v6=True, **changes))


ENS = link("ens33", "198.51.100.1/24", "198.51.100.8/24", default=True)
BOND = link("bond0.7", "192.0.2.1/25", mtu=9000)
IDLE = link("eno9", up=False)
LINKS = [BOND, ENS, IDLE]

ON_ENS = underlay.Underlay(
    name=netstate.IfName("ens33"),
    ip=ipaddress.IPv4Address("198.51.100.1"),
    mtu=1500,
    public_ip=ipaddress.IPv4Address("198.51.100.1"),
)
ON_BOND = underlay.Underlay(
    name=netstate.IfName("bond0.7"),
    ip=ipaddress.IPv4Address("192.0.2.1"),
    mtu=9000,
    public_ip=ipaddress.IPv4Address("192.0.2.1"),
)


@pytest.mark.parametrize(
    ("iface", "expected"),
    [
        ("", ON_ENS),
        ("bond0.7", ON_BOND),
        ("192.0.2.1", ON_BOND),
        (r"192\.0\.2\.", ON_BOND),
        ("bond", ON_BOND),
        ("^e", ON_ENS),
    ],
)
def test_iface_is_an_address_a_name_or_an_expression(iface: str, expected: underlay.Underlay) -> None:
    assert choose(LINKS, iface) == expected


def test_a_named_address_is_the_one_used() -> None:
    chosen = choose(LINKS, "198.51.100.8")
    assert chosen.ip == chosen.public_ip == ipaddress.IPv4Address("198.51.100.8")


def test_addresses_are_matched_before_names() -> None:
    named_like = link("a192", "203.0.113.1/24")
    assert choose([named_like, BOND], "192").name == "bond0.7"


def test_the_owner_of_the_public_address_goes_before_the_default_route() -> None:
    assert choose(LINKS, public_ip="192.0.2.1") == ON_BOND


def test_a_public_address_behind_nat_needs_no_owner() -> None:
    public = ipaddress.IPv4Address("203.0.113.7")
    assert choose(LINKS, public_ip=str(public)) == dataclasses.replace(ON_ENS, public_ip=public)


CANDIDATES = "bond0.7 (192.0.2.1), ens33 (198.51.100.1, 198.51.100.8, default route), eno9 (no address, down)"


@pytest.mark.parametrize(
    ("links", "iface", "message"),
    [
        (LINKS, "wlan0", f"IFACE='wlan0' matches no interface; there are: {CANDIDATES}"),
        (LINKS, "eno9", f"interface eno9 has no IPv4 address; set IFACE to another of: {CANDIDATES}"),
        ([BOND], "", "no default route on this host; set IFACE to one of: bond0.7 (192.0.2.1)"),
        ([], "", "no default route on this host; set IFACE to one of: none at all"),
        (
            [link("odd", "192.0.2.9/24", mtu=0)],
            "odd",
            "interface odd has no MTU; set IFACE to another of: odd (192.0.2.9)",
        ),
    ],
)
def test_what_does_not_fit_names_the_candidates(links: list[kernel.UnderlayLink], iface: str, message: str) -> None:
    with pytest.raises(errors.UnderlayError) as caught:
        choose(links, iface)
    assert str(caught.value) == message


def test_a_broken_expression_is_said_to_be_one() -> None:
    with pytest.raises(errors.UnderlayError, match=r"IFACE='eth\[' is no interface and no regular expression"):
        choose(LINKS, "eth[")


# -- two families ----------------------------------------------------------------------------------------------------

DUAL = link("eth0", "192.0.2.1/24", "2001:db8::1/64", "2001:db8::7/64", default=True, has_default_route_v6=True)
V4_ONLY = link("eth1", "198.51.100.1/24")
V6_ONLY = link("eth2", "2001:db8:0:2::1/64")

ON_DUAL = underlay.Underlay(
    name=netstate.IfName("eth0"),
    ip=ipaddress.IPv4Address("192.0.2.1"),
    mtu=1500,
    public_ip=ipaddress.IPv4Address("192.0.2.1"),
    v6=underlay.UnderlayV6(ip=ipaddress.IPv6Address("2001:db8::1"), public_ip=ipaddress.IPv6Address("2001:db8::1")),
)
ON_SECOND_V6 = dataclasses.replace(
    ON_DUAL,
    v6=underlay.UnderlayV6(ip=ipaddress.IPv6Address("2001:db8::7"), public_ip=ipaddress.IPv6Address("2001:db8::7")),
)
ON_V6_ONLY = underlay.Underlay(
    name=netstate.IfName("eth2"),
    ip=ipaddress.IPv4Address("0.0.0.0"),
    mtu=1500,
    public_ip=ipaddress.IPv4Address("0.0.0.0"),
    v6=underlay.UnderlayV6(
        ip=ipaddress.IPv6Address("2001:db8:0:2::1"), public_ip=ipaddress.IPv6Address("2001:db8:0:2::1")
    ),
)


@pytest.mark.parametrize(
    ("iface", "expected"),
    [
        ("", ON_DUAL),
        ("eth0", ON_DUAL),
        ("192.0.2.1", ON_DUAL),
        ("2001:DB8::7", ON_SECOND_V6),
        ("db8::7$", ON_SECOND_V6),
        ("eth2", ON_V6_ONLY),
        ("2001:db8:0:2::1", ON_V6_ONLY),
    ],
)
def test_one_match_chooses_the_link_for_both_families(iface: str, expected: underlay.Underlay) -> None:
    assert choose_dual([V4_ONLY, DUAL, V6_ONLY], iface) == expected


def test_ipv6_that_nobody_asked_for_is_left_alone() -> None:
    assert choose([DUAL]) == dataclasses.replace(ON_DUAL, v6=None)
    elsewhere = dataclasses.replace(DUAL, has_default_route_v6=False)
    assert choose([elsewhere, dataclasses.replace(V6_ONLY, has_default_route_v6=True)]).name == "eth0"


def test_the_owner_of_the_public_ipv6_address_goes_before_the_default_route() -> None:
    public = ipaddress.IPv6Address("2001:db8:0:2::1")
    assert choose_dual([DUAL, V6_ONLY], public_ipv6=public) == ON_V6_ONLY


def test_public_addresses_behind_nat_are_published_and_no_more() -> None:
    v4, v6 = ipaddress.IPv4Address("203.0.113.7"), ipaddress.IPv6Address("2001:db8:ff::7")
    chosen = choose_dual([DUAL], public_ip=v4, public_ipv6=v6)
    expected_v6 = underlay.UnderlayV6(ip=ipaddress.IPv6Address("2001:db8::1"), public_ip=v6)
    assert chosen == dataclasses.replace(ON_DUAL, public_ip=v4, v6=expected_v6)


def test_a_host_of_ipv6_alone_publishes_no_ipv4_address() -> None:
    lone = dataclasses.replace(V6_ONLY, has_default_route_v6=True)
    assert choose_dual([lone], public_ip=ipaddress.IPv4Address("203.0.113.7")) == ON_V6_ONLY


def test_one_default_route_is_enough() -> None:
    assert choose_dual([dataclasses.replace(DUAL, has_default_route_v6=False), V6_ONLY]) == ON_DUAL


@pytest.mark.parametrize(
    ("links", "iface", "message"),
    [
        (
            [
                dataclasses.replace(DUAL, has_default_route_v6=False),
                dataclasses.replace(V6_ONLY, has_default_route_v6=True),
            ],
            "",
            (
                "the default route is over eth0 for IPv4 and over eth2 for IPv6, and one interface must carry both;"
                " set IFACE to one of: eth0 (192.0.2.1, 2001:db8::1, 2001:db8::7, default route),"
                " eth2 (2001:db8:0:2::1, IPv6 default route)"
            ),
        ),
        (
            [V4_ONLY],
            "eth1",
            (
                "interface eth1 has no IPv6 address that other hosts could send to, and the network config has"
                " EnableIPv6; give it one, or set IFACE to another of: eth1 (198.51.100.1)"
            ),
        ),
        (
            [link("eth3")],
            "eth3",
            (
                "interface eth3 has no IPv6 address that other hosts could send to, and the network config has"
                " EnableIPv6; give it one, or set IFACE to another of: eth3 (no address)"
            ),
        ),
    ],
)
def test_what_does_not_fit_both_families_is_said(links: list[kernel.UnderlayLink], iface: str, message: str) -> None:
    with pytest.raises(errors.UnderlayError) as caught:
        choose_dual(links, iface)
    assert str(caught.value) == message


# -- routes ----------------------------------------------------------------------------------------------------------


def way(destination: str, gateway: str | None = None, over: str = "eth0") -> kernel.UnderlayRoute:
    hop = None if gateway is None else ipaddress.ip_address(gateway)
    return kernel.UnderlayRoute(
        destination=ipaddress.ip_network(destination), gateway=hop, link=netstate.IfName(over)
    )


WAYS = [
    way("0.0.0.0/0", "192.0.2.254"),
    way("192.0.2.0/24"),
    way("192.0.2.128/25", "192.0.2.9"),
    way("192.0.2.0/24", over="eth1"),
    way("2001:db8::/64"),
]


@pytest.mark.parametrize(
    ("ip", "found", "direct"),
    [
        ("192.0.2.7", WAYS[1], WAYS[1]),
        ("192.0.2.200", WAYS[2], None),
        ("203.0.113.1", WAYS[0], None),
        ("2001:db8::9", WAYS[4], WAYS[4]),
        ("2001:db8:0:1::9", None, None),
    ],
)
def test_the_longest_prefix_is_the_way(
    ip: str, found: kernel.UnderlayRoute | None, direct: kernel.UnderlayRoute | None
) -> None:
    table = underlay.RouteTable(WAYS)
    assert (table.find(ipaddress.ip_address(ip)), table.find_direct(ipaddress.ip_address(ip))) == (found, direct)


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=20),
    st.ip_addresses(v=4),
)
def test_the_table_finds_what_a_walk_over_all_routes_finds(
    rows: list[tuple[int, int]], ip: ipaddress.IPv4Address
) -> None:
    nearby = [(int(ip) ^ (number & 0xFF), length) for number, length in rows]
    networks = [ipaddress.IPv4Network(row, strict=False) for row in (*rows, *nearby)]
    routes = [way(str(network)) for network in networks]
    holding = [route for route in routes if ip in route.destination]
    expected = max(holding, key=lambda route: route.destination.prefixlen, default=None)
    assert underlay.RouteTable(routes).find(ip) == expected


def test_ranges_of_the_host_inside_the_network_are_found() -> None:
    """Not those around it: a host may have all of 10.0.0.0/8, and the network be a part of that on purpose."""
    networks = (ipaddress.IPv4Network("10.2.0.0/16"), ipaddress.IPv6Network("fd00:2::/48"))
    links = [
        link("eth0", "10.0.0.5/8", "10.2.9.9/24", "fd00:2:0:9::1/64", default=True),
        link("docker0", "172.17.0.1/16"),
        link("br-db", "10.2.13.1/24", "10.2.13.2/24"),
        link("br-all", "10.2.0.1/16", "fd00:2::1/48"),
        link("flannel.1", "10.2.20.0/32", "10.2.21.1/24"),
    ]
    found = underlay.find_host_ranges(links, networks, {netstate.IfName("flannel.1")})
    assert [(str(one.network), one.link) for one in found] == [
        ("10.2.9.0/24", "eth0"),
        ("fd00:2:0:9::/64", "eth0"),
        ("10.2.13.0/24", "br-db"),
    ]
