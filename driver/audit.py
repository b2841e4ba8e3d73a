"""What differs between Docker and the driver, and the mending of it.

Docker's own data trumps the state file. Finding is pure. Two looks must agree before anything is mended: what is
being made is ours some milliseconds before it is Docker's, and what is being deleted is Docker's some longer.
Caller: `plugin.engine_watch`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping

from driver import compare, creation, endpoint, engine, errors, names, network, service
from overlay import errors as overlay_errors
from overlay import netstate

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """One look. `stale_*` is ours and not Docker's, `missing_*` is Docker's and not ours."""

    stale_networks: frozenset[names.NetworkId] = frozenset()
    stale_endpoints: frozenset[names.EndpointId] = frozenset()
    missing_networks: tuple[engine.EngineNetwork, ...] = ()
    missing_endpoints: tuple[endpoint.Endpoint, ...] = ()
    chosen_mtus: frozenset[tuple[names.NetworkId, int | None]] = frozenset()
    """What Docker says of a network's MTU option, where we know it otherwise: from a state file of before 1.1."""
    changed_networks: tuple[engine.EngineNetwork, ...] = ()
    changed_endpoints: tuple[endpoint.Endpoint, ...] = ()
    """Those that Docker knows and the state file or memory has otherwise, or only one of the two, as Docker has them.
    Only `find_between` tells."""


def find(
    networks: Collection[network.Network],
    endpoints: Collection[endpoint.Endpoint],
    seen: Iterable[engine.EngineNetwork],
) -> Findings:
    """Compare what we knew before the look with what Docker said."""
    seen = list(seen)
    seen_ids = {net.id for net in seen}
    ours = [net for net in seen if net.ours]
    our_ids = {net.id for net in ours}
    seen_endpoints = {end.id for net in ours for end in net.endpoints}
    known_ids = {net.id for net in networks}
    known_endpoints = {end.id for end in endpoints}
    return Findings(
        stale_networks=frozenset(known_ids - seen_ids),
        stale_endpoints=frozenset(
            # those of stale networks go with them
            end.id
            for end in endpoints
            if end.network_id in our_ids and end.id not in seen_endpoints
        ),
        missing_networks=tuple(net for net in ours if net.id not in known_ids and net.pools),
        missing_endpoints=tuple(
            _as_endpoint(net.id, end) for net in ours for end in net.endpoints if end.id not in known_endpoints
        ),
        chosen_mtus=_chosen_mtus(net for net in ours if net.id in known_ids)
        - {(net.id, net.chosen_mtu) for net in networks},
    )


def find_between(file: compare.Known, memory: compare.Known, seen: Iterable[engine.EngineNetwork]) -> Findings:
    """The same with what the state file and this process know, who may differ: what one of them has is known."""
    seen = list(seen)
    networks = {net.id: net for net in (*memory.networks, *file.networks)}
    endpoints = {end.id: end for end in (*memory.endpoints, *file.endpoints)}
    unlike = {one.thing for side in (file, memory) for one in compare.with_docker(side, seen)}
    unlike |= {one.thing.partition(" ")[2] for one in compare.with_memory(file, memory)}
    ours = [net for net in seen if net.ours]
    return dataclasses.replace(
        find(networks.values(), endpoints.values(), seen),
        changed_networks=tuple(net for net in ours if net.id in networks and net.id[:12] in unlike),
        changed_endpoints=tuple(
            _as_endpoint(net.id, end)
            for net in ours
            for end in net.endpoints
            if end.id in endpoints and end.id[:12] in unlike
        ),
    )


def confirm(before: Findings, now: Findings) -> Findings:
    """What two looks agree on, as the second one saw it."""
    networks = {net.id for net in before.missing_networks}
    endpoints = {end.id for end in before.missing_endpoints}
    changed_networks = {net.id for net in before.changed_networks}
    changed_endpoints = {end.id for end in before.changed_endpoints}
    return Findings(
        stale_networks=before.stale_networks & now.stale_networks,
        stale_endpoints=before.stale_endpoints & now.stale_endpoints,
        missing_networks=tuple(net for net in now.missing_networks if net.id in networks),
        missing_endpoints=tuple(end for end in now.missing_endpoints if end.id in endpoints),
        chosen_mtus=before.chosen_mtus & now.chosen_mtus,
        changed_networks=tuple(net for net in now.changed_networks if net.id in changed_networks),
        changed_endpoints=tuple(end for end in now.changed_endpoints if end.id in changed_endpoints),
    )


def adoptions(findings: Findings) -> Findings:
    """Of these the ones that take nothing away."""
    return dataclasses.replace(findings, stale_networks=frozenset(), stale_endpoints=frozenset())


def removals(findings: Findings) -> Findings:
    """The others."""
    return Findings(stale_networks=findings.stale_networks, stale_endpoints=findings.stale_endpoints)


def settled(findings: Findings, recent: Collection[str]) -> Findings:
    """Of these the ones about networks and endpoints that were not made or forgotten a moment ago."""
    return dataclasses.replace(
        findings,
        stale_networks=findings.stale_networks.difference(recent),
        stale_endpoints=findings.stale_endpoints.difference(recent),
        missing_networks=tuple(net for net in findings.missing_networks if net.id not in recent),
        missing_endpoints=tuple(end for end in findings.missing_endpoints if end.id not in recent),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mending:
    """What became of findings: a line for each thing mended, and why the others could not be, by what they are."""

    done: tuple[str, ...] = ()
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)


def mend(driver: service.Driver, findings: Findings) -> Mending:
    """Make the driver know what Docker knows. One thing that cannot be mended does not keep the others from it."""
    done: list[str] = []
    refused: dict[str, str] = {}
    for endpoint_id in sorted(findings.stale_endpoints):
        with _noted(refused, f"endpoint {endpoint_id[:12]} cannot be forgotten"):
            driver.delete_endpoint(endpoint_id)
            done.append(f"endpoint {endpoint_id[:12]} forgotten: Docker does not know it")
    for network_id in sorted(findings.stale_networks):
        with _noted(refused, f"network {network_id[:12]} not taken away whole, retrying in the background"):
            driver.delete_network(network_id)
        done.append(f"network {network_id[:12]} forgotten: Docker does not know it")
    for net in findings.missing_networks:
        with _noted(refused, f"network {net.id[:12]} ({net.name}) cannot be adopted"):
            driver.create_network(_request(net))
            done.append(
                f"network {net.id[:12]} adopted from Docker: {', '.join(str(pool.cidr) for pool in net.pools)}"
            )
    rows = {net.id: net for net in driver.networks()}
    for net in findings.changed_networks:
        with _noted(refused, f"network {net.id[:12]} ({net.name}) cannot be corrected"):
            driver.correct_network(_request(net, rows.get(net.id)))
            done.append(f"network {net.id[:12]} corrected from Docker")
    known = {net.id for net in driver.networks()}
    for end in findings.changed_endpoints:
        with _noted(refused, f"endpoint {end.id[:12]} cannot be corrected"):
            driver.correct_endpoint(end)
            done.append(f"endpoint {end.id[:12]} corrected from Docker: {end.address.ip}")
    for end in findings.missing_endpoints:
        if end.network_id in known:
            with _noted(refused, f"endpoint {end.id[:12]} cannot be adopted"):
                driver.adopt_endpoint(end)
                done.append(f"endpoint {end.id[:12]} adopted from Docker: {end.address.ip}")
    for network_id, chosen_mtu in findings.chosen_mtus:
        with _noted(refused, f"network {network_id[:12]} cannot be corrected"):
            driver.learn_chosen_mtu(network_id, chosen_mtu)
    return Mending(done=tuple(done), refused=refused)


@contextlib.contextmanager
def _noted(refused: dict[str, str], what: str) -> Iterator[None]:
    try:
        yield
    except (errors.DriverError, overlay_errors.OverlayError) as exc:
        refused[what] = str(exc)
    except Exception as exc:  # a bug met with one network must not cost the others their look
        refused[what] = f"bug: {type(exc).__name__}: {exc}"
        log.debug("%s", what, exc_info=True)  # every look meets it again; the line is said once


def _chosen_mtus(ours: Iterable[engine.EngineNetwork]) -> frozenset[tuple[names.NetworkId, int | None]]:
    chosen = set()
    for net in ours:
        with contextlib.suppress(errors.BadRequest):
            chosen.add((net.id, network.parse_options(net.options).mtu))
    return frozenset(chosen)


def _request(net: engine.EngineNetwork, row: network.Network | None = None) -> creation.Request:
    """CreateNetwork, as Docker would ask for it; `row` is what we have of the network."""
    v4, v6 = [], []
    for pool in net.pools:
        gateway, length = _gateway(pool, row), pool.cidr.prefixlen
        match pool.cidr:
            case ipaddress.IPv4Network() as cidr:
                v4.append(_pool_data(cidr, ipaddress.IPv4Interface((gateway, length))))
            case ipaddress.IPv6Network() as cidr:
                v6.append(_pool_data(cidr, ipaddress.IPv6Interface((gateway, length))))
    return creation.Request(
        id=net.id, v4=tuple(v4), v6=tuple(v6), options=network.parse_options(net.options), internal=net.internal
    )


def _gateway(pool: engine.EnginePool, row: network.Network | None) -> netstate.IPAddress:
    """The gateway in a pool of which engines before 29 tell none: that of a `--subnet` without `--gateway`.

    Then it is what our IPAM answered when the network was made, the first address (`ipam.pool.Pool.first`).
    """
    if pool.gateway is not None:
        return pool.gateway
    gateways = () if row is None else (row.gateway.ip, *((row.v6.gateway.ip,) if row.v6 is not None else ()))
    return next((ip for ip in gateways if ip in pool.cidr), pool.cidr[1])


def _pool_data(cidr: creation.Pool, gateway: creation.Gateway) -> creation.PoolData[creation.Pool, creation.Gateway]:
    return creation.PoolData(address_space=network.ADDRESS_SPACE, pool=cidr, gateway=gateway)


def _as_endpoint(network_id: names.NetworkId, end: engine.EngineEndpoint) -> endpoint.Endpoint:
    return endpoint.Endpoint(
        id=end.id,
        network_id=network_id,
        address=end.address,
        mac=end.mac or names.mac_of(end.address.ip),
        joined=True,
        address_v6=end.address_v6,
    )
