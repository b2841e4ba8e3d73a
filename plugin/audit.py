"""`flannelpy audit`: looks anew at Docker, etcd, state file, memory and kernel, says where they differ, and mends.

Nothing here is believed because the plugin did it: every side is read for the look (`plugin.sight`). What is being
made or deleted is one side's some moments before it is the other's, so several looks must agree. Called by
`plugin.app` for /audit, in a thread that dockerd does not wait for: the Engine API may be asked. One call at a time;
no lock of the rooms is held while anybody is asked.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from driver import audit as driver_audit
from driver import desired
from ipam import service as ipam_service
from overlay import difference, errors
from plugin import known_pools, sight

log = logging.getLogger(__name__)

Sources = sight.Sources
Kind = difference.Kind

SIDES = ("docker", "etcd", "state", "kernel", "firewall")
LOOKS = 3
"""So many looks must agree: on a busy host a start, or an end, takes longer than lies between two of them."""

WAIT_S = 60.0
"""How long a call waits for another one to end."""

CALLERS = 4
"""At once, all but one of whom wait: the other threads of the server are for dockerd."""


class Busy(errors.OverlayError):
    """Another audit is under way."""

    status = 409


class Audit:
    """See the module."""

    def __init__(self, sources: Sources, *, wait_s: float = WAIT_S) -> None:
        self._sources = sources
        self._wait_s = wait_s
        self._turn = threading.Lock()
        self._callers = threading.BoundedSemaphore(CALLERS)
        self._first_seen: dict[difference.Difference, float] = {}

    def report(self, settle_s: float) -> Mapping[str, Any]:
        """Where the sides differ, for GET /audit. `settle_s` lies between two looks, 0 for one alone. Raises Busy."""
        with self._one_at_a_time():
            return self._as_json(self._look(settle_s, LOOKS if settle_s else 1))

    def repair(self, settle_s: float) -> Mapping[str, Any]:
        """Mend what can be mended, and say what that was and what is left. Raises Busy."""
        with self._one_at_a_time():
            before = self._look(settle_s, LOOKS)
            if not before.differences:
                return {**self._as_json(before), "mended": []}
            self._mend(before)
            after = self._look(settle_s, LOOKS)
        mended = [one for one in before.differences if one not in set(after.differences)]
        for one in mended:
            log.warning("mended: %s", one)
        return {**self._as_json(after), "mended": [one.as_json() for one in mended]}

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._callers.acquire(blocking=False):
            raise Busy(f"{CALLERS} audits are under way or wait; try again in some seconds")
        try:
            if not self._turn.acquire(timeout=self._wait_s):
                raise Busy("another audit is under way; try again in some seconds")
            try:
                yield
            finally:
                self._turn.release()
        finally:
            self._callers.release()

    def _look(self, settle_s: float, looks: int) -> sight.Sight:
        """What several looks agree on; one is enough where it finds nothing."""
        seen = sight.look(self._sources)
        for _ in range(looks - 1):
            if not seen.differences:
                break
            time.sleep(settle_s)
            seen = sight.agreed(seen, sight.look(self._sources))
        now = time.time()
        self._first_seen = {one: self._first_seen.get(one, now) for one in seen.differences}
        return seen

    def _mend(self, seen: sight.Sight) -> None:
        """From the top down: what Docker says, then leases, then the kernel, which follows the others."""
        sources = self._sources
        findings = seen.findings if seen.is_confirmed else driver_audit.adoptions(seen.findings)
        findings = driver_audit.settled(findings, sources.driver.recent())
        for what, why in driver_audit.mend(sources.driver, findings).refused.items():
            log.warning("%s: %s", what, why)
        sources.driver.publisher.settle(seen.missing_ports, seen.stale_ports)
        if seen.known is not None:
            if seen.is_confirmed:
                sources.ipam.settle_rows(seen.known)
                ours = known_pools.of_rows(sources.driver.networks(), sources.driver.endpoints())
                used = known_pools.union(ours, seen.known)
                sources.ipam.release_unknown(used, seen.seen_at, ipam_service.GRACE_S)
            sources.ipam.adopt(seen.known, seen.seen_at, ipam_service.GRACE_S)
            if sources.driver.networks():
                sources.driver.allow_forwarding()
        things = {(one.kind, one.thing) for one in seen.differences}
        for one in sources.nodes.all():
            kinds = {kind for kind, thing in things if thing.startswith(f"{one.prefix}/subnets/")}
            if kinds & {Kind.LEASE_MISSING, Kind.LEASE_CHANGED}:
                one.claim()
            if kinds & {Kind.PEER_STALE, Kind.PEER_MISSING, Kind.PEER_CHANGED}:
                one.follow_anew()
        known = {desired.network_owner(net.id) for net in sources.driver.networks()}
        known |= {desired.endpoint_owner(end.id) for end in sources.driver.endpoints()}
        for kind, thing in things:
            owner = thing.removeprefix("slice ")
            if kind is Kind.ROW_CHANGED and owner != thing and owner not in known:
                sources.reconciler.forget(owner)
        sources.reconciler.run_pass()

    def _as_json(self, seen: sight.Sight) -> dict[str, Any]:
        return {
            "differences": [
                {**one.as_json(), "since": _timestamp(self._first_seen[one])} for one in seen.differences
            ],
            "looked_at": {side: side not in seen.troubles for side in SIDES},
            "troubles": dict(seen.troubles),
        }


def _timestamp(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")
