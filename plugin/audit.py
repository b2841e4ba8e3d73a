"""`flannelpy audit`: looks anew at Docker, etcd, the state file, memory and kernel, and says where they differ.

Nothing here is believed because the plugin did it: every side is read for the look. Comparing is pure and each room's
own; here is only what is read, in which order, and when a difference counts: what is being made or deleted is one
side's some moments before it is the other's, so two looks must agree. Called by `plugin.app` for /audit, in a thread
that dockerd does not wait for: the Engine API may be asked. One look at a time; no lock of the rooms is held.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from driver import compare, desired, engine
from driver import errors as driver_errors
from driver import service as driver_service
from driver import store as driver_store
from ipam import compare as ipam_compare
from ipam import service as ipam_service
from ipam import store as ipam_store
from overlay import (
    compare_kernel,
    compare_lease,
    difference,
    errors,
    firewall_port,
    kernel,
    lease,
    netstate,
    node,
    nodes,
    nodestore,
    registry,
    statefile,
)
from plugin import known_pools

log = logging.getLogger(__name__)

SETTLE_S = 3.0
"""Between the two looks that must agree."""

WAIT_S = 20.0
"""How long a call waits for another one's looks."""

SIDES = ("docker", "etcd", "state", "kernel", "firewall")


class Busy(errors.OverlayError):
    """Another audit is under way."""

    status = 409


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is looked at. `docker`, `filters` are the audit's own: no other thread's answers, nothing remembered."""

    docker: engine.Engine
    state: statefile.StateFile
    driver: driver_service.Driver
    ipam: ipam_service.Ipam
    nodes: nodes.Nodes
    kernel: kernel.Kernel
    filters: firewall_port.Inspector
    make_registry: Callable[[str], registry.Registry]
    default_prefix: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look, or what two of them agree on. `troubles`: the sides that could not be looked at, and why."""

    differences: tuple[difference.Difference, ...] = ()
    troubles: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Audit:
    """See the module."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._turn = threading.Lock()
        self._first_seen: dict[difference.Difference, float] = {}

    def report(self, settle_s: float = SETTLE_S) -> Mapping[str, Any]:
        """Where the sides differ, for /audit. Raises Busy."""
        if not self._turn.acquire(timeout=WAIT_S):
            raise Busy("another audit is under way; try again in some seconds")
        try:
            return self._as_json(self._agreed(settle_s))
        finally:
            self._turn.release()

    def look(self) -> Look:
        """One look."""
        found = _Looking(self._sources)
        differences = tuple(found.differences())
        return Look(differences=differences, troubles=found.troubles)

    def _agreed(self, settle_s: float) -> Look:
        first = self.look()
        if not first.differences:
            return self._note(first)
        time.sleep(settle_s)
        second = self.look()
        both = difference.agreed(first.differences, second.differences)
        return self._note(Look(differences=tuple(both), troubles=second.troubles))

    def _note(self, seen: Look) -> Look:
        now = time.time()
        self._first_seen = {one: self._first_seen.get(one, now) for one in seen.differences}
        return seen

    def _as_json(self, seen: Look) -> Mapping[str, Any]:
        return {
            "differences": [
                {**one.as_json(), "since": _timestamp(self._first_seen[one])} for one in seen.differences
            ],
            "looked_at": {side: side not in seen.troubles for side in SIDES},
            "troubles": dict(seen.troubles),
        }


class _Looking:
    """One look: reads all sides, then compares those that could be read."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.troubles: dict[str, str] = {}

    def differences(self) -> Iterator[difference.Difference]:
        """All of them. A side that cannot be read is noted, and the others are compared all the same."""
        sources = self._sources
        seen = self._read_docker()
        networks, endpoints = driver_store.DriverStore(sources.state).load()
        rows = compare.Known(networks=tuple(networks), endpoints=tuple(endpoints))
        memory = compare.Known(networks=tuple(sources.driver.networks()), endpoints=tuple(sources.driver.endpoints()))
        pools = ipam_store.read_rows(sources.state)
        yield from compare.with_memory(rows, memory)
        yield from ipam_compare.with_memory(pools, sources.ipam.rows())
        yield from ipam_compare.within(pools)
        if seen is not None:
            yield from compare.with_docker(rows, seen)
            known = known_pools.of(seen, sources.default_prefix)
            yield from ipam_compare.with_docker(pools, known)
        else:
            ends = {str(end.id): _addresses_of(end) for end in rows.endpoints}
            yield from ipam_compare.with_endpoints(pools, ends)
        states = [desired.network_state(net) for net in rows.networks]
        by_id = {net.id: net for net in rows.networks}
        states += [desired.endpoint_state(by_id[end.network_id], end) for end in rows.endpoints]
        if rows.networks and seen is not None:
            states.append(desired.forwarding(rows.networks))
        for one in sources.nodes.all():
            sides = self._read_node(one)
            yield from compare_lease.compare(sides)
            states.append(one.desired_with(_peers_of(sides)))
        yield from self._kernel(netstate.EMPTY.union(*states))
        yield from self._firewall(desired.firewall_plan(rows.networks))

    def _read_docker(self) -> list[engine.EngineNetwork] | None:
        known = {net.id for net in self._sources.driver.networks()}
        try:
            return self._sources.docker.list_networks(known)
        except driver_errors.EngineError as exc:
            self.troubles["docker"] = str(exc)
            return None

    def _read_node(self, one: node.Node) -> compare_lease.Sides:
        known, held, book = one.now()
        agreed = self._sources.make_registry(one.prefix)
        store = nodestore.NodeStore(self._sources.state)
        snapshot, config, ttl_s = None, None, None
        try:
            config, snapshot = agreed.read_config(), agreed.read_leases()
            told = snapshot.leases.get(known.own.key) if known is not None else None
            ttl_s = agreed.time_left(told) if told is not None else None
        except (errors.RegistryError, errors.SettingsError) as exc:
            self.troubles["etcd"] = str(exc)
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

    def _kernel(self, wanted: netstate.NetState) -> Iterator[difference.Difference]:
        try:
            seen = compare_kernel.Seen(
                links=tuple(self._sources.kernel.list_links()), observed=self._sources.kernel.observe(wanted)
            )
        except errors.KernelError as exc:
            self.troubles["kernel"] = str(exc)
            return
        yield from compare_kernel.with_desired(wanted, seen)

    def _firewall(self, plan: Any) -> Iterator[difference.Difference]:
        try:
            found = self._sources.filters.look(plan)
        except errors.KernelError as exc:
            self.troubles["firewall"] = str(exc)
            return
        yield from compare_kernel.with_firewall(found)


def _peers_of(sides: compare_lease.Sides) -> Mapping[lease.SubnetKey, lease.Lease]:
    """Those of etcd where it answers, else those of the state file."""
    return sides.saved_peers if sides.snapshot is None else sides.snapshot.leases


def _addresses_of(end: Any) -> tuple[netstate.IPAddress, ...]:
    return tuple(one.ip for one in (end.address, end.address_v6) if one is not None)


def _timestamp(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")
