"""What differs between Docker and the driver, and the mending of it.

Docker's own data trumps the state file. Finding is pure; a thing that Docker lacks must be missing in two looks
before it goes, since an endpoint that is being made is ours some milliseconds before it is Docker's.
Caller: `plugin.engine_watch`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
from collections.abc import Collection, Iterable

from driver import endpoint, engine, errors, names, network, service
from overlay import errors as overlay_errors

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """One look. `stale_*` is ours and not Docker's, `missing_*` is Docker's and not ours."""

    stale_networks: frozenset[names.NetworkId] = frozenset()
    stale_endpoints: frozenset[names.EndpointId] = frozenset()
    missing_networks: tuple[engine.EngineNetwork, ...] = ()
    missing_endpoints: tuple[endpoint.Endpoint, ...] = ()


def find(
    networks: Collection[network.Network],
    endpoints: Collection[endpoint.Endpoint],
    seen: Iterable[engine.EngineNetwork],
) -> Findings:
    """Compare what we knew before the look with what Docker said."""
    seen = list(seen)
    seen_ids = {net.id for net in seen}
    ours = [net for net in seen if net.ours]
    seen_endpoints = {end.id for net in ours for end in net.endpoints}
    known_ids = {net.id for net in networks}
    known_endpoints = {end.id for end in endpoints}
    return Findings(
        stale_networks=frozenset(known_ids - seen_ids),
        stale_endpoints=frozenset(known_endpoints - seen_endpoints),
        missing_networks=tuple(net for net in ours if net.id not in known_ids and net.pool and net.gateway),
        missing_endpoints=tuple(
            _as_endpoint(net.id, end) for net in ours for end in net.endpoints if end.id not in known_endpoints
        ),
    )


def confirm(before: Findings, now: Findings) -> Findings:
    """What two looks agree is stale, and what the second one says is missing."""
    return Findings(
        stale_networks=before.stale_networks & now.stale_networks,
        stale_endpoints=before.stale_endpoints & now.stale_endpoints,
        missing_networks=now.missing_networks,
        missing_endpoints=now.missing_endpoints,
    )


def mend(driver: service.Driver, findings: Findings) -> list[str]:
    """Make the driver know what Docker knows; a line for each thing mended."""
    done = []
    for endpoint_id in sorted(findings.stale_endpoints):
        driver.delete_endpoint(endpoint_id)
        done.append(f"endpoint {endpoint_id[:12]} forgotten: Docker does not know it")
    for network_id in sorted(findings.stale_networks):
        driver.delete_network(network_id)
        done.append(f"network {network_id[:12]} forgotten: Docker does not know it")
    for net in findings.missing_networks:
        done += _adopt_network(driver, net)
    known = {net.id for net in driver.networks()}
    for end in findings.missing_endpoints:
        if end.network_id in known:
            driver.adopt_endpoint(end)
            done.append(f"endpoint {end.id[:12]} adopted from Docker: {end.address.ip}")
    return done


def _adopt_network(driver: service.Driver, net: engine.EngineNetwork) -> list[str]:
    if net.pool is None or net.gateway is None:
        return []
    gateway = ipaddress.IPv4Interface((net.gateway, net.pool.prefixlen))
    data = network.PoolData(address_space=network.ADDRESS_SPACE, pool=net.pool, gateway=gateway)
    try:
        driver.create_network(net.id, [data], network.parse_options(net.options), internal=net.internal)
    except (errors.DriverError, overlay_errors.OverlayError) as exc:
        log.warning("cannot adopt network name=%s id=%s reason=%s", net.name, net.id[:12], exc)
        return []
    return [f"network {net.id[:12]} adopted from Docker: {net.pool}"]


def _as_endpoint(network_id: names.NetworkId, end: engine.EngineEndpoint) -> endpoint.Endpoint:
    return endpoint.Endpoint(
        id=end.id,
        network_id=network_id,
        address=end.address,
        mac=end.mac or names.mac_of(end.address.ip),
        joined=True,
    )
