"""The host-gw backend: routes to peers without a tunnel, and which peers get none."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest

from overlay import backend, backend_hostgw, diff, errors, kernel, lease, netconfig, netstate, underlay

MAC = netstate.Mac("02:00:00:00:00:01")


def way(destination: str, gateway: str | None = None, over: str = "eth0") -> kernel.UnderlayRoute:
    hop = None if gateway is None else ipaddress.ip_address(gateway)
    return kernel.UnderlayRoute(
        destination=ipaddress.ip_network(destination), gateway=hop, link=netstate.IfName(over)
    )


UNDERLAY = underlay.Underlay(
    name=netstate.IfName("eth0"),
    ip=ipaddress.IPv4Address("192.0.2.1"),
    mtu=1500,
    public_ip=ipaddress.IPv4Address("192.0.2.1"),
    routes=(
        way("0.0.0.0/0", "192.0.2.254"),
        way("192.0.2.0/24"),
        way("198.51.100.0/24", over="eth1"),
        way("2001:db8::/64"),
    ),
    v6=underlay.UnderlayV6(ip=ipaddress.IPv6Address("2001:db8::1"), public_ip=ipaddress.IPv6Address("2001:db8::1")),
)


def key(text: str) -> lease.SubnetKey:
    return lease.parse_subnet_key(text)


DUAL = backend.Own(key=key("10.2.20.0-24&fd00:20::-64"), underlay=UNDERLAY, mac=MAC)
V4_ALONE = backend.Own(key=key("10.2.20.0-24"), underlay=dataclasses.replace(UNDERLAY, v6=None), mac=MAC)


def peer(subnet: str, public_ip: str, public_ipv6: str | None = None, **changes: Any) -> lease.Lease:
    attrs = lease.LeaseAttrs(
        public_ip=ipaddress.IPv4Address(public_ip),
        public_ipv6=None if public_ipv6 is None else ipaddress.IPv6Address(public_ipv6),
        backend_type="host-gw",
    )
    return lease.Lease(key=key(subnet), attrs=dataclasses.replace(attrs, **changes), mod_revision=1)


def lines(own: backend.Own, *peers: lease.Lease) -> tuple[list[str], list[str]]:
    state, skipped = backend_hostgw.HostGwBackend().desired(own, {one.key: one for one in peers})
    return [diff.format_op(op) for op in diff.plan(state, netstate.EMPTY)], [str(one) for one in skipped]


def test_a_peer_comes_to_a_route_in_each_family_over_the_link_it_is_on() -> None:
    dual = peer("10.2.21.0-24&fd00:21::-64", "192.0.2.2", "2001:db8::2")
    assert lines(DUAL, dual, peer("10.2.22.0-24", "198.51.100.3")) == (
        [
            "ip route replace 10.2.21.0/24 via 192.0.2.2 dev eth0 proto 70",
            "ip route replace 10.2.22.0/24 via 198.51.100.3 dev eth1 proto 70",
            "ip route replace fd00:21::/64 via 2001:db8::2 dev eth0 proto 70",
        ],
        [],
    )


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (
            peer("10.2.22.0-24", "203.0.113.9"),
            "203.0.113.9 is behind the router 192.0.2.254, and host-gw needs all hosts on one network",
        ),
        (peer("10.2.22.0-24", "192.0.2.9", backend_type="vxlan"), "backend type is vxlan, ours is host-gw"),
        (peer("10.2.22.0-24", "192.0.2.9", backend_type="Host-GW"), "backend type is Host-GW, ours is host-gw"),
        (peer("10.2.22.0-24", "192.0.2.1"), "PublicIP 192.0.2.1 is our own"),
        (peer("10.2.16.0-20", "192.0.2.9"), "its subnet overlaps ours, 10.2.20.0/24"),
        (
            peer("192.0.2.0-28", "192.0.2.9"),
            "its subnet covers 192.0.2.1: packets to that host would be taken for its containers'",
        ),
        (
            peer("10.2.22.0-24&fd00:22::-64", "0.0.0.0", "2001:db8:0:9::1"),
            "IPv6: there is no route to 2001:db8:0:9::1, and host-gw needs all hosts on one network",
        ),
    ],
)
def test_a_peer_that_cannot_be_reached_is_named_and_costs_no_other_its_route(bad: lease.Lease, reason: str) -> None:
    made, skipped = lines(DUAL, bad, peer("10.2.21.0-24", "192.0.2.2"))
    assert made == ["ip route replace 10.2.21.0/24 via 192.0.2.2 dev eth0 proto 70"]
    assert skipped == [f"{lease.format_subnet_key(bad.key)}: {reason}"]


def test_one_half_out_of_reach_costs_not_the_other() -> None:
    half = peer("10.2.21.0-24&fd00:21::-64", "192.0.2.2", "2001:db8:0:9::1")
    made, skipped = lines(DUAL, half)
    assert made == ["ip route replace 10.2.21.0/24 via 192.0.2.2 dev eth0 proto 70"]
    assert skipped == [
        (
            "10.2.21.0-24&fd00:21::-64: IPv6: there is no route to 2001:db8:0:9::1, and host-gw needs all hosts on"
            " one network"
        ),
    ]


def test_a_host_of_ipv4_alone_leaves_ipv6_alone() -> None:
    dual = peer("10.2.21.0-24&fd00:21::-64", "192.0.2.2", "2001:db8::2")
    v6_alone = peer("10.2.22.0-24&fd00:22::-64", "0.0.0.0", "2001:db8::3")
    assert lines(V4_ALONE, dual, v6_alone) == (
        ["ip route replace 10.2.21.0/24 via 192.0.2.2 dev eth0 proto 70"],
        ["10.2.22.0-24&fd00:22::-64: its underlay has IPv6 alone, and this host has no IPv6"],
    )


def test_our_own_lease_is_no_peer() -> None:
    assert lines(V4_ALONE, peer("10.2.20.0-24", "192.0.2.1")) == ([], [])


@pytest.mark.parametrize(
    ("own", "published"),
    [
        (V4_ALONE, '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw"}'),
        (DUAL, '{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"host-gw"}'),
    ],
)
def test_what_is_published_is_flannels_word_for_word(own: backend.Own, published: str) -> None:
    assert lease.format_attrs(backend_hostgw.HostGwBackend().attrs(own)) == published


def test_the_network_config_chooses_it() -> None:
    config = netconfig.parse_network_config('{"Network":"10.2.0.0/16","Backend":{"Type":"Host-GW"}}')
    made = backend.choose_backend(config)
    assert made == backend_hostgw.HostGwBackend()
    assert (made.device, made.device_v6, made.needs_routes, made.warnings) == ("", "", True, ())
    assert made.overlay_mtu(DUAL) == 1500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"public_ip": ipaddress.IPv4Address("203.0.113.7")},
            (
                "PUBLIC_IP 203.0.113.7 differs from 192.0.2.1 on interface eth0, as behind a NAT, which host-gw does"
                ' not support; leave PUBLIC_IP out, or give the network config the Backend {"Type": "vxlan"}'
            ),
        ),
        (
            {
                "v6": underlay.UnderlayV6(
                    ip=ipaddress.IPv6Address("2001:db8::1"), public_ip=ipaddress.IPv6Address("2001:db8::7")
                )
            },
            (
                "PUBLIC_IPV6 2001:db8::7 differs from 2001:db8::1 on interface eth0, as behind a NAT, which host-gw"
                ' does not support; leave PUBLIC_IPV6 out, or give the network config the Backend {"Type": "vxlan"}'
            ),
        ),
    ],
    ids=["v4", "v6"],
)
def test_a_host_behind_a_nat_is_refused(changes: dict[str, Any], message: str) -> None:
    made = backend_hostgw.HostGwBackend()
    made.check_underlay(DUAL)
    with pytest.raises(errors.ConfigInvalid) as caught:
        made.check_underlay(dataclasses.replace(DUAL, underlay=dataclasses.replace(UNDERLAY, **changes)))
    assert str(caught.value) == message


def test_a_subnet_outside_the_network_or_of_a_link_of_the_host_is_skipped() -> None:
    own = dataclasses.replace(
        DUAL,
        networks=(ipaddress.IPv4Network("10.2.0.0/16"), ipaddress.IPv6Network("fd00::/16")),
        host_ranges=(kernel.HostRange(network=ipaddress.IPv4Network("10.2.22.0/24"), link=netstate.IfName("br-db")),),
    )
    stray, taken = peer("172.17.0.0-16", "192.0.2.3"), peer("10.2.22.0-24", "192.0.2.4")
    made, skipped = lines(own, stray, taken, peer("10.2.21.0-24", "192.0.2.2"))
    assert made == ["ip route replace 10.2.21.0/24 via 192.0.2.2 dev eth0 proto 70"]
    assert skipped == [
        "10.2.22.0-24: its subnet lies in 10.2.22.0/24, which br-db of this host has",
        "172.17.0.0-16: its subnet is not inside the flannel network 10.2.0.0/16",
    ]
