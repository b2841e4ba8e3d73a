"""Which routes a container gets that leaves by another way than its network's bridge.

Pure. Caller: `driver.endpoint`. Without a gateway of ours a container reaches its flannel network by static routes.
Docker gives a container no interface whose address a route of it covers already, and no route twice, through
whichever interface: so a network that has but a slice of its lease gives routes around the lease, and its neighbours
in the lease the same way in smaller pieces. Source: moby daemon/libnetwork/osl/interface_linux.go,
checkRouteConflict; osl/route_linux.go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from driver import network
from overlay import netstate

MAX_LEVEL = 4
"""How often routes are halved at most: a /16 around a /24 takes eight routes, and 128 then."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """To a part of the flannel network of one family, through the bridge."""

    target: netstate.IPNetwork
    next_hop: netstate.IPAddress


def choose_level(taken: Iterable[int]) -> int:
    """How often a new network halves its routes, beside others of its flannel network on this host."""
    used = set(taken)
    return next((level for level in range(MAX_LEVEL) if level not in used), MAX_LEVEL)


def plan(net: network.Network, leases: Iterable[netstate.IPNetwork]) -> tuple[Route, ...]:
    """To the other hosts' containers; where the network has its lease whole, in one route. leases: this host's."""
    leased = list(leases)
    targets = _around(net.overlay, net.pool, leased, net.route_level)
    routes = [Route(target=target, next_hop=net.gateway.ip) for target in targets]
    if net.v6 is not None:
        targets = _around(net.v6.overlay, net.v6.pool, leased, net.route_level)
        routes += [Route(target=target, next_hop=net.v6.gateway.ip) for target in targets]
    return tuple(routes)


def _around(
    overlay: netstate.IPNetwork, pool: netstate.IPNetwork, leased: Iterable[netstate.IPNetwork], level: int
) -> list[netstate.IPNetwork]:
    lease = next((one for one in leased if netstate.is_part(pool, one)), pool)
    if lease == pool or not netstate.is_part(lease, overlay):
        return [overlay]
    return [piece for part in _without(overlay, lease) for piece in _pieces(part, level)]


def _without(whole: netstate.IPNetwork, part: netstate.IPNetwork) -> list[netstate.IPNetwork]:
    """What is left of a network, in order of address. Shape: `part` lies in `whole`."""
    if whole == part:
        return []
    return [
        rest
        for half in whole.subnets()
        for rest in (_without(half, part) if netstate.is_part(part, half) else [half])
    ]


def _pieces(whole: netstate.IPNetwork, level: int) -> list[netstate.IPNetwork]:
    length = min(whole.prefixlen + level, whole.max_prefixlen)
    return [*whole.subnets(new_prefix=length)]
