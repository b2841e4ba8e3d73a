from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipam import pool, requests, service

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.ipam.conftest import World

A = ipaddress.IPv4Address
N = ipaddress.IPv4Network
POOL = "flannelpy/10.2.20.0/24"
DEFAULT = "/coreos.com/network"


def known(cidr: str = "10.2.20.0/24", *endpoints: int, aux: tuple[int, ...] = (), **more: Any) -> requests.KnownPool:
    net = ipaddress.ip_network(cidr)
    return requests.KnownPool(
        prefix=more.get("prefix", DEFAULT),
        cidr=net,
        subpool=more.get("subpool"),
        gateway=more.get("gateway", net[1]),
        aux=frozenset(net[n] for n in aux),
        endpoints=None if more.get("unasked") else frozenset(net[n] for n in endpoints),
    )


def fill(ipam: service.Ipam, *numbers: int) -> None:
    """A pool with its gateway and these addresses."""
    ipam.request_pool(requests.PoolRequest())
    ipam.request_address(requests.AddressRequest(pool_id=POOL, purpose=requests.Purpose.GATEWAY))
    for number in numbers:
        ipam.request_address(requests.AddressRequest(pool_id=POOL, ip=A(f"10.2.20.{number}")))


def held(ipam: service.Ipam) -> dict[int, str]:
    return {int(row.ip) & 255: str(row.kind) for row in ipam.addresses()}


def later(world: World, seconds: float = 600.0) -> float:
    world.clock.advance(seconds)
    return world.clock.mono


def test_what_docker_does_not_know_is_released(world: World, ipam: service.Ipam) -> None:
    fill(ipam, 2, 3, 4)
    assert ipam.release_unknown([known("10.2.20.0/24", 3, aux=(4,))], later(world)) == [
        "address 10.2.20.2 of pool flannelpy/10.2.20.0/24 released: Docker has no endpoint with it"
    ]
    assert held(ipam) == held(world.start()) == {1: "gateway", 3: "explicit", 4: "explicit"}


def test_a_flannel_network_that_a_crash_left_without_pools_is_left(world: World, ipam: service.Ipam) -> None:
    fill(ipam)
    world.holdings.wait("/blue/network", 0)
    assert ipam.release_unknown([known()], later(world)) == []
    assert world.holdings.joined == [DEFAULT]


def test_a_pool_without_a_network_is_released_and_its_flannel_network_left(world: World, ipam: service.Ipam) -> None:
    ipam.request_pool(requests.PoolRequest(prefix="/blue/network"))
    assert ipam.release_unknown([], later(world)) == [
        "pool flannelpy/10.9.7.0/24 released: Docker has no network on it"
    ]
    assert ipam.usage() == []
    assert world.holdings.joined == [DEFAULT]


def test_what_is_young_is_left_alone(world: World, ipam: service.Ipam) -> None:
    fill(ipam, 2)
    assert ipam.release_unknown([], later(world, 19.0)) == []
    assert ipam.release_unknown([known()], world.clock.mono) == []
    assert len(ipam.release_unknown([known()], later(world, 1.0))) == 1


def test_a_pool_with_a_young_address_is_left_alone(world: World, ipam: service.Ipam) -> None:
    fill(ipam)
    seen_at = later(world)
    fill_one(ipam, 9)
    assert ipam.release_unknown([], seen_at) == []


def fill_one(ipam: service.Ipam, number: int) -> None:
    ipam.request_address(requests.AddressRequest(pool_id=POOL, ip=A(f"10.2.20.{number}")))


def test_after_a_restart_nothing_is_judged_before_the_grace_is_over(world: World, ipam: service.Ipam) -> None:
    """The engine may be in the middle of a start whose address the dead process answered."""
    fill(ipam, 2)
    later(world)
    again = world.start()
    assert again.release_unknown([], world.clock.mono) == []
    assert again.release_unknown([], later(world, 15.0)) == []
    assert len(again.release_unknown([], later(world, 5.0))) == 1


def test_a_wall_clock_that_jumps_releases_nothing(world: World, ipam: service.Ipam) -> None:
    fill(ipam, 2)
    world.clock.wall += 86_400
    assert ipam.release_unknown([], world.clock.mono) == []


def test_a_gateway_that_docker_does_not_show_stays_as_long_as_its_network(world: World, ipam: service.Ipam) -> None:
    fill(ipam, 2)
    ipam.release_unknown([known(gateway=None)], later(world))
    assert held(ipam) == {1: "gateway"}


def test_endpoints_that_docker_was_not_asked_for_stay(world: World, ipam: service.Ipam) -> None:
    fill(ipam, 2, 3)
    assert ipam.release_unknown([known(unasked=True)], later(world)) == []
    assert held(ipam) == {1: "gateway", 2: "explicit", 3: "explicit"}


def test_a_gateway_that_docker_does_not_show_is_the_first_address_of_an_adopted_pool(
    world: World, ipam: service.Ipam
) -> None:
    """And is not handed out to a container."""
    ipam.adopt([known("10.2.20.0/24", 7, gateway=None)], later(world))
    assert held(ipam) == {1: "gateway", 7: "endpoint"}
    assert ipam.adopt([known("10.2.20.0/24", 7, gateway=None)], later(world)) == []


def test_a_pool_keeps_the_gateway_it_has_where_docker_shows_none(world: World, ipam: service.Ipam) -> None:
    ipam.request_pool(requests.PoolRequest())
    ipam.request_address(requests.AddressRequest(pool_id=POOL, purpose=requests.Purpose.GATEWAY, ip=A("10.2.20.254")))
    assert ipam.adopt([known(gateway=None)], later(world)) == []
    assert held(ipam) == {254: "gateway"}


def test_a_lost_file_is_rebuilt_from_docker(world: World, ipam: service.Ipam) -> None:
    look = [
        known("10.2.20.0/25", 5, 9, aux=(20,), subpool=N("10.2.20.0/26")),
        known("10.9.7.0/24", 2, prefix="/blue/network"),
    ]
    lines = ipam.adopt(look, later(world))
    assert lines[:2] == [
        "pool flannelpy/10.2.20.0/25 adopted from Docker",
        "address 10.2.20.1 of pool flannelpy/10.2.20.0/25 adopted from Docker (gateway)",
    ]
    assert len(lines) == 8
    again = world.start()
    assert [(use.id, use.prefix, use.subpool, use.gateway, use.used) for use in again.usage()] == [
        ("flannelpy/10.2.20.0/25", DEFAULT, N("10.2.20.0/26"), A("10.2.20.1"), 4),
        ("flannelpy/10.9.7.0/24", "/blue/network", None, A("10.9.7.1"), 2),
    ]
    assert [(str(row.ip), row.kind.value) for row in again.addresses()] == [
        ("10.2.20.1", "gateway"),
        ("10.2.20.5", "endpoint"),
        ("10.2.20.9", "endpoint"),
        ("10.2.20.20", "aux"),
        ("10.9.7.1", "gateway"),
        ("10.9.7.2", "endpoint"),
    ]
    assert world.holdings.joined == [DEFAULT, "/blue/network"]
    assert next(use.lease for use in again.usage()) == N("10.2.20.0/24")


def test_adopting_twice_changes_nothing(world: World, ipam: service.Ipam) -> None:
    look = [known("10.2.20.0/24", 5)]
    ipam.adopt(look, later(world))
    assert ipam.adopt(look, later(world)) == ipam.release_unknown(look, later(world)) == []


def test_adopting_tells_aux_addresses_from_endpoints(world: World, ipam: service.Ipam) -> None:
    fill(ipam, 2, 3)
    assert ipam.adopt([known("10.2.20.0/24", 2, aux=(3,))], later(world)) == []
    assert held(ipam) == held(world.start()) == {1: "gateway", 2: "endpoint", 3: "aux"}


def test_what_was_freed_around_the_look_is_not_brought_back(world: World, ipam: service.Ipam) -> None:
    fill(ipam, 2, 3)
    seen_at = later(world)
    ipam.release_address(POOL, A("10.2.20.2"))
    assert ipam.adopt([known("10.2.20.0/24", 2, 3)], seen_at) == []
    ipam.release_pool(POOL)
    assert ipam.adopt([known("10.2.20.0/24", 3)], seen_at) == []
    assert ipam.usage() == []
    assert len(ipam.adopt([known("10.2.20.0/24", 3)], later(world))) == 3


def test_what_cannot_be_adopted_is_named_and_the_rest_is_adopted(world: World, ipam: service.Ipam) -> None:
    fill(ipam)
    stray = known("192.0.2.0/24", 2)
    look = [
        known("10.2.20.0/25"),
        known("10.2.21.0/31"),
        requests.KnownPool(
            prefix=DEFAULT,
            cidr=stray.cidr,
            subpool=None,
            gateway=stray.gateway,
            aux=frozenset([A("198.51.100.1")]),
            endpoints=stray.endpoints,
        ),
    ]
    lines = ipam.adopt(look, later(world))
    assert lines[0] == (
        "pool 10.2.20.0/25 of Docker cannot be adopted: it overlaps pool flannelpy/10.2.20.0/24; remove one of the "
        "two networks"
    )
    assert lines[1].startswith("pool 10.2.21.0/31 of Docker cannot be adopted: pool 10.2.21.0/31 has no addresses")
    assert lines[-1] == ("address 198.51.100.1 of Docker cannot be adopted: it is not in pool flannelpy/192.0.2.0/24")
    assert [use.id for use in ipam.usage()] == [POOL, "flannelpy/192.0.2.0/24"]


def test_adopting_without_a_lease_still_adopts(make_world: Callable[..., World]) -> None:
    world = make_world()
    ipam = world.start()
    ipam.adopt([known("10.2.20.0/24", 2)], later(world))
    assert [(use.id, use.lease) for use in ipam.usage()] == [(POOL, N("10.2.20.0/24"))]


def test_ipv6_pools_and_addresses_are_released_and_adopted_like_the_others(
    dual_world: World, dual: service.Ipam
) -> None:
    four, six = known("10.2.20.0/24", 2), known("fd00:2:0:14::/65", 2, 0x4000, aux=(9,))
    assert dual.adopt([four, six], later(dual_world)) == [
        "pool flannelpy/10.2.20.0/24 adopted from Docker",
        "address 10.2.20.1 of pool flannelpy/10.2.20.0/24 adopted from Docker (gateway)",
        "address 10.2.20.2 of pool flannelpy/10.2.20.0/24 adopted from Docker (endpoint)",
        "pool flannelpy/fd00:2:0:14::/65 adopted from Docker",
        "address fd00:2:0:14::1 of pool flannelpy/fd00:2:0:14::/65 adopted from Docker (gateway)",
        "address fd00:2:0:14::2 of pool flannelpy/fd00:2:0:14::/65 adopted from Docker (endpoint)",
        "address fd00:2:0:14::9 of pool flannelpy/fd00:2:0:14::/65 adopted from Docker (aux)",
        "address fd00:2:0:14::4000 of pool flannelpy/fd00:2:0:14::/65 adopted from Docker (endpoint)",
    ]
    assert [str(use.lease) for use in dual.usage()] == ["10.2.20.0/24", "fd00:2:0:14::/64"]
    assert dual.release_unknown([four, known("fd00:2:0:14::/65", 0x4000, aux=(9,))], later(dual_world)) == [
        "address fd00:2:0:14::2 of pool flannelpy/fd00:2:0:14::/65 released: Docker has no endpoint with it"
    ]
    assert dual.release_unknown([four], later(dual_world)) == [
        "pool flannelpy/fd00:2:0:14::/65 released: Docker has no network on it"
    ]


subsets = st.frozensets(st.integers(2, 30), max_size=12)


@settings(deadline=None)
@given(ours=subsets, dockers=subsets, aux=subsets)
def test_afterwards_both_know_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    world_in: Callable[[Any], World],
    ours: frozenset[int],
    dockers: frozenset[int],
    aux: frozenset[int],
) -> None:
    world = world_in(tmp_path_factory.mktemp("reconcile"))
    ipam = world.start()
    fill(ipam, *sorted(ours))
    look = [known("10.2.20.0/24", *(dockers - aux), aux=tuple(aux))]
    seen_at = later(world)
    ipam.release_unknown(look, seen_at)
    ipam.adopt(look, seen_at)
    assert set(held(ipam)) == {1} | dockers | aux
    assert {number for number, kind in held(ipam).items() if kind == pool.Kind.AUX} == aux
    world.files.pop().close()
