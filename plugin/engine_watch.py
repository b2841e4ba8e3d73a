"""The background look at Docker: creates the default network, and mends what a crash left different.

One thread, the only one that calls the Engine API. Looks soon after the start, then every minute; Docker's word
counts. What the rooms do with it is theirs (`driver.audit`, `ipam.service`); here is only when and in which order.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time

from driver import audit, engine, errors, names, service
from ipam import service as ipam_service
from overlay import holdings, netstate
from plugin import known_pools

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Units: seconds.

    `first_looks_s` are the pauses before the first looks, once the engine answers, `period_s` those between later
    ones: two looks in a row must agree before anything is mended, so neither may be short. `retry_s` lies between two
    tries to reach the engine, or to create the default network. `grace_s` is how old an address must be before
    Docker's not knowing it counts: a start may take 30 s of the engine's repeats.
    """

    first_looks_s: tuple[float, ...] = (0.0, 10.0, 55.0)
    period_s: float = 60.0
    retry_s: float = 2.0
    grace_s: float = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`default_network` "" for none, `default_prefix` for networks that name none."""

    default_prefix: str
    default_network: str = ""
    timing: Timing = dataclasses.field(default_factory=Timing)


class EngineWatch:
    """See the module."""

    def __init__(
        self,
        docker: engine.Engine,
        driver: service.Driver,
        ipam: ipam_service.Ipam,
        leases: holdings.Holdings,
        options: Options,
    ) -> None:
        self._docker = docker
        self._driver = driver
        self._ipam = ipam
        self._leases = leases
        self._options = options
        self._timing = options.timing
        self._last = audit.Findings()
        self._lock = threading.Lock()
        self._error: str | None = "not asked yet"
        self._default_error: str | None = None
        self._mended = 0
        self._names: dict[names.NetworkId, str] = {}

    def run(self, stop: threading.Event) -> None:
        """Look until `stop` is set. An engine that does not answer is asked again, for ever."""
        pauses = iter(self._timing.first_looks_s)
        look_at = time.monotonic() + next(pauses)
        pause = look_at - time.monotonic()
        while not stop.wait(pause):
            try:
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + self._timing.retry_s
                    self.look()
                    look_at = time.monotonic() + next(pauses, self._timing.period_s)
                created = self._create_default()
            except errors.EngineError as exc:
                self._note(str(exc))
                created = True  # the next look comes first
            except Exception:
                log.exception("bug: unexpected error in the look at the engine")
                look_at = time.monotonic() + self._timing.period_s
                created = True
            pause = max(0.0, look_at - time.monotonic())
            if not created:  # tried again soon, but not looked: two looks close together are no two opinions
                pause = min(pause, self._timing.retry_s)

    def look(self) -> list[str]:
        """One look, and the mending of what two looks agree on; a line for each thing mended."""
        self._driver.publisher.retry()
        seen_at = time.monotonic()
        networks, endpoints = self._driver.networks(), self._driver.endpoints()
        seen = self._docker.list_networks({net.id for net in networks})
        self._note(None)
        self._names = {net.id: net.name for net in seen if net.ours}
        if networks:
            self._driver.allow_forwarding()
        now = audit.find(networks, endpoints, seen)
        done = audit.mend(self._driver, audit.confirm(self._last, now))
        self._last = now
        known = known_pools.of(seen, self._options.default_prefix)
        done += self._ipam.release_unknown(known, seen_at, self._timing.grace_s)
        done += self._ipam.adopt(known, seen_at, self._timing.grace_s)
        for line in done:
            log.warning("mended: %s", line)
        with self._lock:
            self._mended += len(done)
        return done

    def network_of(self, cidr: netstate.IPNetwork) -> str:
        """What an operator calls the network on a pool: its id, and its name as of the last look; "" for no network.

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
                "error": self._error,
                "default_network": self._default_error,
                "mended": self._mended,
            }

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
                self._docker.create_network(name)
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
