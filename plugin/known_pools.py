"""Docker's networks as the pools that `ipam` compares its own with, and which of them cannot be read.

Pure. Callers: `plugin.engine_watch` and `plugin.audit`; here, since `driver` and `ipam` do not know each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from driver import endpoint, engine, errors, network
from ipam import endpoints as ipam_endpoints
from ipam import errors as ipam_errors
from ipam import requests
from overlay import netstate


def of(seen: Iterable[engine.EngineNetwork], default_prefix: str) -> list[requests.KnownPool]:
    """All pools of the networks whose IPAM is this plugin."""
    return [_known_pool(net, pool, default_prefix) for net in seen if net.ipam_ours for pool in net.pools]


def of_rows(networks: Iterable[network.Network], endpoints: Iterable[endpoint.Endpoint]) -> list[requests.KnownPool]:
    """The pools of our own networks and endpoints: what these use is in use, whatever Docker says of it yet."""
    ends = list(endpoints)
    found = []
    for net in networks:
        used = [one for end in ends if end.network_id == net.id for one in (end.address, end.address_v6) if one]
        halves = [(net.pool, net.gateway), *([(net.v6.pool, net.v6.gateway)] if net.v6 is not None else ())]
        for cidr, gateway in halves:
            found.append(
                requests.KnownPool(
                    prefix=net.prefix,
                    cidr=cidr,
                    subpool=None,
                    gateway=gateway.ip,
                    aux=frozenset(),
                    endpoints=frozenset(one.ip for one in used if one.ip in cidr),
                )
            )
    return found


def unreadable(seen: Iterable[engine.EngineNetwork]) -> dict[str, str]:
    """The networks of ours in Docker that cannot be read, or their options, and why."""
    return {f"network {net.id[:12]} ({net.name})": reason for net in seen if (reason := net.trouble or _misread(net))}


def _misread(net: engine.EngineNetwork) -> str:
    reasons = []
    if net.ours:
        try:
            network.parse_options(net.options)
        except errors.BadRequest as exc:
            reasons.append(str(exc))
    if net.ipam_ours:
        try:
            ipam_endpoints.parse_prefix(net.ipam_options)
        except ipam_errors.BadRequest as exc:
            reasons.append(str(exc))
    return "; ".join(reasons)


def union(before: Iterable[requests.KnownPool], now: Iterable[requests.KnownPool]) -> list[requests.KnownPool]:
    """All that is used in either of two looks, the later one's word on the rest: unknown to both is nobody's."""
    pools = {item.cidr: item for item in before}
    for item in now:
        other = pools.get(item.cidr)
        if other is not None:
            asked = other.endpoints is not None and item.endpoints is not None
            item = dataclasses.replace(  # noqa: PLW2901 - the later look, and what the earlier one saw besides
                item,
                aux=item.aux | other.aux,
                endpoints=(item.endpoints or frozenset()) | (other.endpoints or frozenset()) if asked else None,
            )
        pools[item.cidr] = item
    return list(pools.values())


def _known_pool(net: engine.EngineNetwork, pool: engine.EnginePool, default_prefix: str) -> requests.KnownPool:
    return requests.KnownPool(
        prefix=_prefix(net) or default_prefix,
        cidr=pool.cidr,
        subpool=pool.ip_range,
        gateway=pool.gateway,
        aux=pool.aux,
        endpoints=_endpoint_addresses(net, pool.cidr.version) if net.ours else None,
    )


def _prefix(net: engine.EngineNetwork) -> str | None:
    """What cannot be read is in use all the same: its addresses are not given to others."""
    try:
        return ipam_endpoints.parse_prefix(net.ipam_options)
    except ipam_errors.BadRequest:
        return None


def _endpoint_addresses(net: engine.EngineNetwork, version: int) -> frozenset[netstate.IPAddress]:
    if version == 4:
        return frozenset(end.address.ip for end in net.endpoints)
    return frozenset(end.address_v6.ip for end in net.endpoints if end.address_v6 is not None)
