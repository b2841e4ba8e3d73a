"""The background look at Docker: creates the default network, and mends what a crash left different.

One thread. Looks at the start, then every minute, and sooner where something differs; Docker's word counts. What the
rooms do with it is theirs (`driver.audit`, `ipam.service`); here is only when, in which order, and how sure.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from driver import audit, confirmation, errors, names, network, service
from ipam import service as ipam_service
from overlay import difference, holdings, netstate, supervisor
from plugin import known_pools, sight

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Units: seconds.

    `period_s` lies between two looks where all agree; `confirm_s` where something differs, which is more than the
    longest pause between two repeats of an engine's call (8 s), so that a start which goes on shows. `grace_s` is how
    long all looks must have seen a thing that Docker does not know before it goes, and how old an address must be.
    `retry_s` lies between two tries to reach the engine, to create the default network, or to learn a new network's
    name.
    """

    period_s: float = 60.0
    confirm_s: float = 10.0
    retry_s: float = 2.0
    grace_s: float = ipam_service.GRACE_S


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`default_network` "" for none. `complete` is called once, when all that Docker knows is known here too.

    Not before, however long that takes: what cannot be adopted may be a running container's. It is named in /status.
    `supervisor` is told of looks that failed.
    """

    default_network: str = ""
    complete: Callable[[], None] = lambda: None
    timing: Timing = dataclasses.field(default_factory=Timing)
    supervisor: supervisor.Supervisor = dataclasses.field(default_factory=supervisor.Supervisor)


Glance = Callable[[float, confirmation.Look], sight.Sight]
"""What the sides say now, given what Docker told from a moment on."""


class EngineWatch:
    """See the module. `docker` is asked from one thread only."""

    def __init__(
        self,
        docker: confirmation.ConfirmedEngine,
        driver: service.Driver,
        ipam: ipam_service.Ipam,
        leases: holdings.Holdings,
        glance: Glance,
        options: Options,
    ) -> None:
        self._docker = docker
        self._driver = driver
        self._ipam = ipam
        self._leases = leases
        self._options = options
        self._timing = options.timing
        self._glance = glance
        self._complete: Callable[[], None] | None = options.complete
        self._window = sight.Window(options.timing.grace_s)
        self._looked_at: float | None = None
        self._pending = False
        self._differences: dict[str, int] = {}
        self._refused: Mapping[str, str] = {}
        self._lines: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._error: str | None = "not asked yet"
        self._default_error: str | None = None
        self._confirmed = False
        self._lists_none = False
        self._mended = 0
        self._names: dict[names.NetworkId, str] = {}

    def run(self, stop: threading.Event) -> None:
        """Look until `stop` is set. An engine that does not answer is asked again, for ever."""
        look_at = time.monotonic()
        pause = 0.0
        created = True
        while not stop.wait(pause):
            try:
                is_due = time.monotonic() >= look_at
                if is_due:
                    look_at = time.monotonic() + self._timing.retry_s
                    self.look()
                    look_at = time.monotonic() + self._pause_s()
                if is_due or not created:
                    created = self._create_default()
                else:
                    self._learn_names()
                if is_due:
                    self._options.supervisor.well("engine")
            except errors.EngineError as exc:
                self._note(str(exc))
                created = True  # the next look comes first
            except Exception as exc:  # noqa: BLE001 - told, and the next look is due all the same
                self._options.supervisor.note("engine", exc)
                look_at = time.monotonic() + self._timing.period_s
                created = True
            # between looks at most this: two looks close together are no two opinions
            pause = min(max(0.0, look_at - time.monotonic()), self._timing.retry_s)

    def look(self) -> list[str]:
        """One look, and the mending of what looks agree on; a line for each thing mended."""
        self._driver.publisher.retry()
        seen_at = time.monotonic()
        networks = self._driver.networks()
        docker = self._ask(networks)
        if networks:
            self._driver.allow_forwarding()
        now = self._glance(seen_at, docker)
        self._window.add(now)
        done = self._mend(now, known_pools.unreadable(docker.networks))
        self._tell_complete(docker)
        recent, settled = self._window.recent(), self._window.settled()
        tried = frozenset(settled.differences) if settled is not None else frozenset()
        with self._lock:
            self._mended += len(done)
            self._looked_at = seen_at
            self._pending = any(one.repair and one not in tried for one in now.differences)
            self._differences = difference.count(recent.differences) if recent is not None else {}
        return done

    def _learn_names(self) -> None:
        """Ask Docker for the names of networks that are new since it was asked last: errors tell them."""
        networks = self._driver.networks()
        if any(net.id not in self._names for net in networks):
            self._ask(networks)

    def _ask(self, known: Sequence[network.Network]) -> confirmation.Look:
        """What Docker has, given what we know; its names are kept. Raises EngineError."""
        seen = self._docker.look({net.id for net in known})
        self._note(None)
        self._names = {net.id: net.name for net in seen.networks if net.ours}
        with self._lock:
            self._confirmed = seen.is_confirmed
            self._lists_none = not any(net.ours or net.trouble for net in seen.networks)
        return seen

    def _tell_complete(self, docker: confirmation.Look) -> None:
        """An engine that is not confirmed may be another one: what it does not list may be here all the same."""
        if self._complete is None or not docker.is_confirmed:
            return
        networks = self._driver.networks()
        left = audit.find(networks, self._driver.endpoints(), docker.networks)
        known = {net.id for net in networks}
        unread = any(net.trouble and net.id not in known for net in docker.networks)
        if not (left.missing_networks or left.missing_endpoints or unread):
            self._complete()
            self._complete = None

    def _mend(self, now: sight.Sight, unreadable: Mapping[str, str]) -> list[str]:
        """What Docker knows is adopted when two looks agree; what it does not know goes when all of the grace do."""
        recent, settled = self._window.recent(), self._window.settled()
        done: list[str] = []
        refused = {f"{what} is left as it is": why for what, why in unreadable.items()}
        if recent is not None:
            done += self._mend_rows(audit.adoptions(recent.findings), refused)
        if settled is not None and settled.is_confirmed:
            done += self._mend_rows(audit.removals(settled.findings), refused)
            done += self._mend_addresses(settled)
        done += self._ipam.adopt(now.known or (), now.seen_at, self._timing.grace_s)
        self._log(done, refused)
        return done

    def _mend_rows(self, findings: audit.Findings, refused: dict[str, str]) -> tuple[str, ...]:
        mending = audit.mend(self._driver, findings)
        refused.update(mending.refused)
        return mending.done

    def _log(self, done: Sequence[str], refused: Mapping[str, str]) -> None:
        """What the look before said already is not said again: what cannot be adopted is tried in every look."""
        lines = frozenset(
            (*(f"mended: {line}" for line in done), *(f"{what}: {why}" for what, why in refused.items()))
        )
        for line in sorted(lines - self._lines):
            log.warning("%s", line)
        self._lines = lines
        with self._lock:
            self._refused = refused

    def _mend_addresses(self, settled: sight.Sight) -> list[str]:
        known, done = settled.known or (), []
        if any(one.kind is difference.Kind.ROW_CHANGED for one in settled.differences):
            done += self._ipam.settle_rows(known)
        ours = known_pools.of_rows(self._driver.networks(), self._driver.endpoints())
        used = known_pools.union(ours, known)
        return done + self._ipam.release_unknown(used, settled.seen_at, self._timing.grace_s)

    def _pause_s(self) -> float:
        with self._lock:
            return self._timing.confirm_s if self._pending else self._timing.period_s

    def network_of(self, cidr: netstate.IPNetwork) -> str:
        """What an operator calls the network on a pool: its id, and the name Docker last told; "" for no network.

        Asks nobody: for error messages of handlers.
        """
        for net in self._driver.networks():
            if cidr == net.pool or (net.v6 is not None and cidr == net.v6.pool):
                name = self._names.get(net.id)
                return f"{name} ({net.id[:12]})" if name else net.id[:12]
        return ""

    def status(self) -> dict[str, object]:
        """For /status."""
        with self._lock:
            return {
                "reachable": self._error is None,
                "confirmed": self._confirmed,
                "error": self._error,
                "default_network": self._default_error,
                "mended": self._mended,
                "looked_s": None if self._looked_at is None else time.monotonic() - self._looked_at,
                "differences": dict(self._differences),
                "refused": dict(self._refused),
            }

    @property
    def lists_none(self) -> bool:
        """Whether Docker answers, and had no network of ours, nor one that may be, when it was last asked."""
        with self._lock:
            return self._error is None and self._lists_none

    @property
    def refused(self) -> Mapping[str, str]:
        """What of Docker's was left as it is at the last look, and why."""
        with self._lock:
            return self._refused

    @property
    def differences(self) -> dict[str, int]:
        """What the last two looks agreed to differ, by kind; some of it is mended only when it is old enough."""
        with self._lock:
            return dict(self._differences)

    def _create_default(self) -> bool:
        """Create the default network where it is wanted and missing; tells whether nothing is left to do."""
        name = self._options.default_network
        if not name:
            return True
        error = None
        if not self._leases.held():
            error = "waits for the lease"
        else:
            try:
                self._docker.create_network(name, {net.id for net in self._driver.networks()})
            except errors.EngineError as exc:
                error = str(exc)
        with self._lock:
            if error is not None and error != self._default_error:
                log.warning("default network not there yet, trying again name=%s reason=%s", name, error)
            self._default_error = error
        return error is None

    def _note(self, error: str | None) -> None:
        with self._lock:
            if error is not None and error != self._error:
                log.info("engine not reached yet, asking again: %s", error)
            self._error = error
