"""The background look at Docker: creates the default network, and mends what a crash left different.

One thread, the only one that calls the Engine API. Looks soon after the start, then every minute; Docker's word
counts. What the rooms do with it is theirs (`driver.audit`, `ipam.service`); here is only when and in which order.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time

from driver import audit, engine, errors, service
from ipam import endpoints as ipam_endpoints
from ipam import requests
from ipam import service as ipam_service
from overlay import holdings

log = logging.getLogger(__name__)

FIRST_LOOKS_S = (0.0, 10.0, 30.0)
"""Pauses before the first looks, once the engine answers; a thing is stale when two looks in a row miss it."""
PERIOD_S = 60.0
RETRY_S = 2.0
GRACE_S = 60.0
"""How old an address must be before Docker's not knowing it counts: a start may take 30 s of the engine's repeats."""


class EngineWatch:
    """See the module. `default_network` "" for none, `default_prefix` for networks that name none."""

    def __init__(
        self,
        docker: engine.Engine,
        driver: service.Driver,
        ipam: ipam_service.Ipam,
        leases: holdings.Holdings,
        *,
        default_prefix: str,
        default_network: str,
    ) -> None:
        self._docker = docker
        self._driver = driver
        self._ipam = ipam
        self._leases = leases
        self._default_prefix = default_prefix
        self._default_network = default_network
        self._last = audit.Findings()
        self._lock = threading.Lock()
        self._error: str | None = "not asked yet"
        self._mended = 0

    def run(self, stop: threading.Event) -> None:
        """Look until `stop` is set. An engine that does not answer is asked again, for ever."""
        pauses = iter(FIRST_LOOKS_S)
        pause = next(pauses)
        while not stop.wait(pause):
            try:
                self.look()
                self._create_default()
                pause = next(pauses, PERIOD_S)
            except errors.EngineError as exc:
                self._note(str(exc))
                pause = RETRY_S
            except Exception:
                log.exception("bug: unexpected error in the look at the engine")
                pause = PERIOD_S

    def look(self) -> list[str]:
        """One look, and the mending of what two looks agree on; a line for each thing mended."""
        seen_at = time.monotonic()
        networks, endpoints = self._driver.networks(), self._driver.endpoints()
        seen = self._docker.list_networks({net.id for net in networks})
        self._note(None)
        if networks:
            self._driver.allow_forwarding()
        now = audit.find(networks, endpoints, seen)
        done = audit.mend(self._driver, audit.confirm(self._last, now))
        self._last = now
        known = [
            _known_pool(net, net.pool, self._default_prefix) for net in seen if net.ipam_ours and net.pool is not None
        ]
        done += self._ipam.release_unknown(known, seen_at, GRACE_S)
        done += self._ipam.adopt(known, seen_at, GRACE_S)
        for line in done:
            log.warning("mended: %s", line)
        with self._lock:
            self._mended += len(done)
        return done

    def status(self) -> dict[str, object]:
        """For /status."""
        with self._lock:
            return {"reachable": self._error is None, "error": self._error, "mended": self._mended}

    def _create_default(self) -> None:
        if not self._default_network:
            return
        if not self._leases.held():
            raise errors.EngineError(f"DEFAULT_NETWORK {self._default_network} waits for the lease")
        try:
            self._docker.create_network(self._default_network)
        except errors.EngineError as exc:
            raise errors.EngineError(f"cannot create DEFAULT_NETWORK {self._default_network}: {exc}") from exc

    def _note(self, error: str | None) -> None:
        with self._lock:
            if error is not None and error != self._error:
                log.info("engine not reached yet, asking again: %s", error)
            self._error = error


def _known_pool(net: engine.EngineNetwork, pool: ipaddress.IPv4Network, default_prefix: str) -> requests.KnownPool:
    return requests.KnownPool(
        prefix=ipam_endpoints.parse_prefix(net.ipam_options) or default_prefix,
        cidr=pool,
        subpool=net.ip_range,
        gateway=net.gateway,
        aux=net.aux,
        endpoints=frozenset(end.address.ip for end in net.endpoints) if net.ours else None,
    )
