"""One look of the audit: what each side says now, read for the look, and where the sides differ.

Comparing is pure and each room's own; here is only what is read and in which order. A side that cannot be read is
noted, and the others are compared all the same. Caller: `plugin.audit`.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from driver import audit as driver_audit
from driver import compare, confirmation, desired, endpoint, engine, ports
from driver import errors as driver_errors
from driver import service as driver_service
from driver import store as driver_store
from ipam import compare as ipam_compare
from ipam import requests
from ipam import rows as ipam_rows
from ipam import service as ipam_service
from overlay import (
    compare_kernel,
    compare_lease,
    difference,
    errors,
    firewall_port,
    kernel,
    netstate,
    node,
    nodes,
    nodestore,
    peers,
    reconciler,
    registry,
    statefile,
    tunnel_guard,
)
from plugin import known_pools

Difference = difference.Difference


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is looked at. `docker`, `filters` are the audit's own: no other thread's answers, nothing remembered."""

    docker: confirmation.ConfirmedEngine
    state: statefile.StateFile
    driver: driver_service.Driver
    ipam: ipam_service.Ipam
    nodes: nodes.Nodes
    reconciler: reconciler.Reconciler
    kernel: kernel.Kernel
    filters: firewall_port.Inspector
    make_registry: Callable[[str], registry.Registry]
    default_prefix: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one look, or what several of them, saw alike.

    `troubles`: the sides, and networks, that could not be looked at, and why. `findings`, `known` are for who mends:
    what differs from Docker, and all that any of the looks saw Docker use; `known` None where Docker was not reached.
    What Docker does not list is gone only where `is_confirmed`, see `driver.confirmation`. Units: `seen_at` seconds
    of the monotonic clock, the begin of the last look.
    """

    seen_at: float
    differences: tuple[Difference, ...] = ()
    troubles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    findings: driver_audit.Findings = dataclasses.field(default_factory=driver_audit.Findings)
    known: tuple[requests.KnownPool, ...] | None = None
    is_confirmed: bool = False
    missing_ports: frozenset[ports.HostPort] = frozenset()
    stale_ports: frozenset[ports.HostPort] = frozenset()


def agreed(before: Sight, now: Sight) -> Sight:
    """What two looks saw alike; Docker knows what it knew in either."""
    known = None
    if before.known is not None and now.known is not None:
        known = tuple(known_pools.union(before.known, now.known))
    return Sight(
        seen_at=now.seen_at,
        differences=tuple(difference.agreed(before.differences, now.differences)),
        troubles={**before.troubles, **now.troubles},
        findings=driver_audit.confirm(before.findings, now.findings),
        known=known,
        is_confirmed=before.is_confirmed and now.is_confirmed,
        missing_ports=before.missing_ports & now.missing_ports,
        stale_ports=before.stale_ports & now.stale_ports,
    )


class Window:
    """The looks of the last `grace_s` seconds and the one before: what all of them saw is no passing moment's.

    Pure. Two looks at least.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._looks: list[Sight] = []

    def add(self, now: Sight) -> None:
        """One more look."""
        self._looks.append(now)
        while len(self._looks) > 2 and self._looks[1].seen_at <= now.seen_at - self._grace_s:
            self._looks.pop(0)

    def recent(self) -> Sight | None:
        """What the last two looks agree on."""
        return agreed(*self._looks[-2:]) if len(self._looks) > 1 else None

    def settled(self) -> Sight | None:
        """What all looks agree on; None until they reach back far enough."""
        if len(self._looks) < 2 or self._looks[0].seen_at > self._looks[-1].seen_at - self._grace_s:
            return None
        return functools.reduce(agreed, self._looks)


def look(sources: Sources) -> Sight:
    """One look at everything."""
    looking = _Looking(sources)
    seen_at = time.monotonic()
    return looking.look(seen_at, looking.read_docker())


def glance(sources: Sources, seen_at: float, docker: confirmation.Look) -> Sight:
    """One look at what costs nobody much: not at etcd, where thousands of hosts would ask, nor at peers' entries.

    Those, and the packet filter, have watches of their own. `docker` is what that told from `seen_at` on.
    """
    return _Looking(sources, whole=False).look(seen_at, docker)


class _Looking:
    """One look under way."""

    def __init__(self, sources: Sources, *, whole: bool = True) -> None:
        self._sources = sources
        self._whole = whole
        self._troubles: dict[str, str] = {}

    def look(self, seen_at: float, docker: confirmation.Look | None) -> Sight:
        sources = self._sources
        seen = None if docker is None else docker.networks
        self._troubles |= known_pools.unreadable(seen or ())
        memory = compare.Known(networks=tuple(sources.driver.networks()), endpoints=tuple(sources.driver.endpoints()))
        networks, endpoints = driver_store.DriverStore(sources.state).load()
        rows = compare.Known(networks=tuple(networks), endpoints=tuple(endpoints))
        pools = ipam_rows.read_file(sources.state)
        known = None if seen is None else known_pools.of(seen, sources.default_prefix)
        reserved = sources.driver.publisher.reserved()
        found = [
            *compare.with_memory(rows, memory),
            *self._slices(rows, memory),
            *compare.with_reservations(rows, reserved),
            *ipam_compare.with_memory(pools, sources.ipam.rows()),
            *ipam_compare.within(pools),
            *self._with_docker(rows, pools, seen),
            *(self._kernel(rows, docker_seen=seen is not None) if self._whole else self._links(rows)),
            *(self._firewall(rows) if self._whole else ()),
        ]
        return Sight(
            seen_at=seen_at,
            differences=tuple(dict.fromkeys(found)),
            troubles=self._troubles,
            findings=driver_audit.find_between(rows, memory, seen) if seen is not None else driver_audit.Findings(),
            known=tuple(known) if known is not None else None,
            is_confirmed=docker is not None and docker.is_confirmed,
            missing_ports=compare.missing_ports(rows, reserved),
            stale_ports=compare.stale_ports(rows, reserved),
        )

    def read_docker(self) -> confirmation.Look | None:
        """None where it does not answer, which is noted."""
        try:
            return self._sources.docker.look({net.id for net in self._sources.driver.networks()})
        except driver_errors.EngineError as exc:
            self._troubles["docker"] = str(exc)
            return None

    def _with_docker(
        self, rows: compare.Known, pools: requests.KnownRows, seen: Sequence[engine.EngineNetwork] | None
    ) -> Iterator[Difference]:
        if seen is None:
            yield from ipam_compare.with_endpoints(pools, {end.id: _addresses_of(end) for end in rows.endpoints})
            return
        yield from compare.with_docker(rows, seen)
        yield from ipam_compare.with_docker(pools, known_pools.of(seen, self._sources.default_prefix))

    def _slices(self, *known: compare.Known) -> Iterator[Difference]:
        """What the reconciler is told to keep for networks and endpoints of which nobody knows."""
        owners = {desired.network_owner(net.id) for side in known for net in side.networks}
        owners |= {desired.endpoint_owner(end.id) for side in known for end in side.endpoints}
        for owner, count in sorted(self._sources.reconciler.owners().items()):
            if owner not in owners and owner.startswith(desired.OWNERS):
                yield Difference(
                    kind=difference.Kind.ROW_CHANGED,
                    thing=f"slice {owner}",
                    says=difference.Says(state=difference.ABSENT, memory=f"{count} kernel objects"),
                    repair="forget the slice",
                )

    def _kernel(self, rows: compare.Known, *, docker_seen: bool) -> Iterator[Difference]:
        """Leases first: what peers come to is desired too. Forwarding is switched on once Docker was seen."""
        states = [_wanted(rows)]
        states += [desired.forwarding(rows.networks)] if rows.networks and docker_seen else []
        for one in self._sources.nodes.all():
            sides = self._read_node(one)
            yield from compare_lease.compare(sides)
            states.append(one.desired_with(_peers_of(sides)))
        wanted = netstate.EMPTY.union(*states)
        try:
            links = tuple(self._sources.kernel.list_links())
            seen = compare_kernel.Seen(links=links, observed=self._sources.kernel.observe(wanted))
        except errors.KernelError as exc:
            self._troubles["kernel"] = str(exc)
            return
        yield from compare_kernel.with_desired(wanted, seen)

    def _links(self, rows: compare.Known) -> Iterator[Difference]:
        try:
            yield from compare_kernel.with_links(self._wanted_links(rows), self._sources.kernel.list_links())
        except errors.KernelError as exc:
            self._troubles["kernel"] = str(exc)

    def _wanted_links(self, rows: compare.Known) -> netstate.NetState:
        return netstate.EMPTY.union(_wanted(rows), *(one.programmed() for one in self._sources.nodes.all()))

    def _read_node(self, one: node.Node) -> compare_lease.Sides:
        known, held, book = one.now()
        agreed_on = self._sources.make_registry(one.prefix)
        store = nodestore.NodeStore(self._sources.state)
        snapshot, config, ttl_s = None, None, None
        try:
            config, snapshot = agreed_on.read_config(), agreed_on.read_leases()
            told = snapshot.leases.get(known.own.key) if known is not None else None
            left = agreed_on.time_left(told) if told is not None else None
            ttl_s = left.seconds if left is not None else None
        except (errors.RegistryError, errors.SettingsError) as exc:
            self._troubles["etcd"] = str(exc)
        return compare_lease.Sides(
            prefix=one.prefix,
            saved=store.load(one.prefix),
            saved_peers=store.load_peers(one.prefix),
            key=known.own.key if known is not None else None,
            attrs=known.attrs if known is not None else None,
            held=held,
            peers=book.leases,
            config=config,
            snapshot=snapshot,
            ttl_s=ttl_s,
        )

    def _firewall(self, rows: compare.Known) -> Iterator[Difference]:
        plan = desired.firewall_plan(rows.networks, rows.endpoints)
        can_guard = not self._sources.reconciler.limits()
        guarded = desired.guard_plan(rows.networks, rows.endpoints) if can_guard else None
        tunnels = tunnel_guard.plan(self._wanted_links(rows)) if can_guard else None
        try:
            found: Sequence[firewall_port.Finding] = self._sources.filters.look(plan, guarded, tunnels)
        except errors.KernelError as exc:
            self._troubles["firewall"] = str(exc)
            return
        yield from compare_kernel.with_firewall(found)


def _wanted(rows: compare.Known) -> netstate.NetState:
    """What networks and endpoints come to. An endpoint whose network is gone comes to nothing."""
    by_id = {net.id: net for net in rows.networks}
    states = [desired.network_state(net) for net in rows.networks]
    ends = (end for end in rows.endpoints if end.network_id in by_id)
    states += [desired.endpoint_state(by_id[end.network_id], end) for end in ends]
    for net in rows.networks:
        published = [port for end in rows.endpoints if end.network_id == net.id for port in end.published]
        if ports.needs_loopback(published):
            states.append(desired.loopback(net, on=True))
    return netstate.EMPTY.union(*states)


def _peers_of(sides: compare_lease.Sides) -> peers.Leases:
    """Those of etcd where it answers, else those of the state file."""
    return sides.saved_peers if sides.snapshot is None else sides.snapshot.leases


def _addresses_of(end: endpoint.Endpoint) -> tuple[netstate.IPAddress, ...]:
    return tuple(one.ip for one in (end.address, end.address_v6) if one is not None)
