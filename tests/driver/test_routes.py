"""The routes of containers to their flannel network: around the lease, and never one twice."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from driver import names, network, routes
from overlay import netstate

LEASES = (ipaddress.IPv4Network("10.2.20.0/24"), ipaddress.IPv6Network("fd00:2:0:14::/64"))
WHOLE = network.Network(
    id=names.NetworkId("4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e"),
    bridge=netstate.IfName("fp-4d5d70de7705"),
    pool=ipaddress.IPv4Network("10.2.20.0/24"),
    gateway=ipaddress.IPv4Interface("10.2.20.1/24"),
    prefix="/coreos.com/network",
    overlay=ipaddress.IPv4Network("10.2.16.0/21"),
    device=netstate.IfName("flannel.1"),
    mtu=1450,
    v6=network.NetworkV6(
        pool=ipaddress.IPv6Network("fd00:2:0:14::/64"),
        gateway=ipaddress.IPv6Interface("fd00:2:0:14::1/64"),
        overlay=ipaddress.IPv6Network("fd00:2::/48"),
        device=netstate.IfName("flannel-v6.1"),
    ),
)
SLICE = dataclasses.replace(
    WHOLE,
    pool=ipaddress.IPv4Network("10.2.20.64/26"),
    gateway=ipaddress.IPv4Interface("10.2.20.65/26"),
)


def told(net: network.Network, leases: tuple[netstate.IPNetwork, ...] = LEASES) -> list[tuple[str, str]]:
    return [(str(route.target), str(route.next_hop)) for route in routes.plan(net, leases)]


def test_a_network_with_the_whole_lease_gets_one_route_for_each_family() -> None:
    assert told(WHOLE) == [("10.2.16.0/21", "10.2.20.1"), ("fd00:2::/48", "fd00:2:0:14::1")]


def test_a_slice_gets_routes_around_its_lease() -> None:
    assert told(SLICE) == [
        ("10.2.16.0/22", "10.2.20.65"),
        ("10.2.21.0/24", "10.2.20.65"),
        ("10.2.22.0/23", "10.2.20.65"),
        ("fd00:2::/48", "fd00:2:0:14::1"),  # of IPv6 it has all
    ]


def test_its_neighbour_gets_the_same_in_halves() -> None:
    neighbour = dataclasses.replace(SLICE, v6=None, route_level=1)
    assert [target for target, _ in told(neighbour)] == [
        *("10.2.16.0/23", "10.2.18.0/23"),
        *("10.2.21.0/25", "10.2.21.128/25"),
        *("10.2.22.0/24", "10.2.23.0/24"),
    ]


@pytest.mark.parametrize("leases", [(), (ipaddress.IPv4Network("10.0.0.0/14"),)])
def test_without_a_lease_in_the_overlay_a_slice_gets_the_one_route(leases: tuple[netstate.IPNetwork, ...]) -> None:
    assert told(dataclasses.replace(SLICE, v6=None), leases) == [("10.2.16.0/21", "10.2.20.65")]


def test_a_pool_outside_the_lease_of_today_has_no_route_over_it() -> None:
    """Docker would refuse a container that is on both networks."""
    former = ipaddress.IPv4Network("10.2.18.0/24")
    net = dataclasses.replace(WHOLE, v6=None)
    around = ["10.2.16.0/23", "10.2.19.0/24", "10.2.21.0/24", "10.2.22.0/23"]
    assert [target for target, _ in told(net, (*LEASES, former))] == around
    unknown = dataclasses.replace(SLICE, v6=None, pool=former)
    assert [target for target, _ in told(unknown, (WHOLE.pool,))] == around


def test_where_the_pool_is_all_there_is_no_route_is_left() -> None:
    """The kernel has it already."""
    alone = dataclasses.replace(WHOLE, v6=None, overlay=WHOLE.pool)
    assert told(alone) == told(dataclasses.replace(alone, pool=SLICE.pool)) == []


@settings(deadline=None)
@given(st.integers(16, 23), st.integers(24, 28), st.integers(0, 15))
def test_all_but_the_lease_is_covered_once_and_no_two_neighbours_share_a_route(
    overlay_len: int, lease_len: int, place: int
) -> None:
    overlay = ipaddress.IPv4Network((ipaddress.IPv4Address("10.2.0.0"), overlay_len))
    lease = ipaddress.IPv4Network((int(overlay.network_address) + place * 2 ** (32 - lease_len), lease_len))
    assume(lease.subnet_of(overlay))
    pool = next(lease.subnets())
    nets = [
        dataclasses.replace(WHOLE, v6=None, overlay=overlay, pool=pool, route_level=level)
        for level in range(routes.MAX_LEVEL + 1)
    ]
    targets = [[route.target for route in routes.plan(net, (lease,))] for net in nets]
    for each in targets:
        assert sum(target.num_addresses for target in each) == overlay.num_addresses - lease.num_addresses
        assert list(ipaddress.collapse_addresses([*each, lease])) == [overlay]  # type: ignore[type-var, list-item]
    assert not any(set(one) & set(other) for one, other in itertools.combinations(targets, 2))


def test_the_first_free_level_is_taken_and_the_last_one_shared() -> None:
    assert routes.choose_level([]) == 0
    assert routes.choose_level([0, 2]) == 1
    assert routes.choose_level(range(9)) == routes.MAX_LEVEL
