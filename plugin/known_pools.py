"""Docker's networks as the pools that `ipam` compares its own with.

Pure. Callers: `plugin.engine_watch` and `plugin.audit`; here, since `driver` and `ipam` do not know each other.
"""

from __future__ import annotations

from collections.abc import Iterable

from driver import engine
from ipam import endpoints as ipam_endpoints
from ipam import requests
from overlay import netstate


def of(seen: Iterable[engine.EngineNetwork], default_prefix: str) -> list[requests.KnownPool]:
    """All pools of the networks whose IPAM is this plugin."""
    return [_known_pool(net, pool, default_prefix) for net in seen if net.ipam_ours for pool in net.pools]


def _known_pool(net: engine.EngineNetwork, pool: engine.EnginePool, default_prefix: str) -> requests.KnownPool:
    return requests.KnownPool(
        prefix=ipam_endpoints.parse_prefix(net.ipam_options) or default_prefix,
        cidr=pool.cidr,
        subpool=pool.ip_range,
        gateway=pool.gateway,
        aux=pool.aux,
        endpoints=_endpoint_addresses(net, pool.cidr.version) if net.ours else None,
    )


def _endpoint_addresses(net: engine.EngineNetwork, version: int) -> frozenset[netstate.IPAddress]:
    if version == 4:
        return frozenset(end.address.ip for end in net.endpoints)
    return frozenset(end.address_v6.ip for end in net.endpoints if end.address_v6 is not None)
