"""Which routes to its flannel network a container gets, whatever its default gateway is.

Pure. Caller: `driver.endpoint`. No driver is told which of a container's networks is its default gateway, so each
gives its routes: peers see the container's address in their own network, whatever else it is connected to. Docker
gives a container no interface whose address a route of it covers already, and no route twice, through whichever
interface: so a network that has but a slice of its lease gives routes around the lease, and its neighbours in the
lease the same way in smaller pieces. Source: moby daemon/libnetwork/osl/interface_linux.go, checkRouteConflict;
osl/route_linux.go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from driver import network
from overlay import firewall, netstate

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
    """To the other hosts' containers; where the network has its lease whole, in one route.

    leases: what this host has of the flannel network, its networks' pools too where they are in no lease of today.
    """
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
    local = firewall.collapse(one for one in (pool, *leased) if netstate.is_part(one, overlay))
    if local == (pool,):
        return [overlay] if pool != overlay else []
    left = [overlay]
    for one in local:
        left = [rest for part in left for rest in _without(part, one)]
    return [piece for part in left for piece in _pieces(part, level)]


def _without(whole: netstate.IPNetwork, part: netstate.IPNetwork) -> list[netstate.IPNetwork]:
    """What is left of a network, in order of address."""
    if not netstate.is_part(part, whole):
        return [whole]
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
