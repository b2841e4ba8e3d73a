"""The composition root: builds the object graph and holds what `plugin.http` asks for.

The socket answers before any of it exists: `start` returns at once and a thread builds. A call that comes earlier
waits a bounded time. What cannot be built (a wrong setting, a broken state file) is said in every answer and in
/readyz; the plugin does not die of it, or dockerd would disable it and nobody could ask why. All but wrong settings
is tried again until it works.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import plugin
from driver import endpoints as driver_endpoints
from ipam import endpoints as ipam_endpoints
from overlay import errors, supervisor
from plugin import http, logs, report, server, settings
from plugin import metrics as gauges

if TYPE_CHECKING:
    from plugin import engine_watch, graph

log = logging.getLogger(__name__)

BUILD_WAIT_S = 20.0
"""How long a call waits for the object graph; building takes well under a second unless the disk hangs."""


class App:
    """The running plugin, seen from HTTP. Implements `http.Core`."""

    def __init__(
        self,
        env: Mapping[str, str],
        timing: engine_watch.Timing | None = None,
        *,
        obstacle: errors.OverlayError | None = None,
    ) -> None:
        """`obstacle`: why nothing may be built here, whatever is set."""
        self._timing = timing
        self._obstacle = obstacle
        self._settings, self._problems = settings.parse_settings(env)
        self._constants = {
            **driver_endpoints.CONSTANT,
            **ipam_endpoints.constants(sticky_mac=self._settings.sticky_mac),
        }
        self._recent = logs.configure(self._settings.log_level)
        self._built = threading.Event()
        self._supervisor = supervisor.Supervisor()
        self._ending = threading.Event()
        self._turn = threading.Lock()
        """Starting or stopping: a plugin is ended while it starts, too."""
        self._graph: graph.Graph | None = None
        self._failure: errors.OverlayError | None = None
        self._metrics = gauges.Metrics(self._samples)

    def start(self) -> server.WSGI:
        """The WSGI application; what is behind it is being built."""
        for problem in self._problems:
            log.error("%s", problem)
        self._supervisor.start("build", self._build, self._ending)
        return http.make_app(self, self._constants)

    def stop(self) -> None:
        """End the threads. Network, lease and containers stay as they are."""
        self._ending.set()
        with self._turn:
            self._metrics.close()
            if self._graph is not None:
                self._graph.stop()

    def methods(self) -> Mapping[str, http.Method]:
        """Implements `http.Core`."""
        if not self._built.wait(BUILD_WAIT_S):
            raise errors.NotReady("flannelpy is still starting; see the plugin's log")
        if self._failure is not None:
            raise self._failure
        return self._graph.methods if self._graph is not None else {}

    def observe(self, name: str, seconds: float, status: int) -> None:
        """Implements `http.Core`. Only names that exist become labels."""
        known = name in self._constants or (self._graph is not None and name in self._graph.methods)
        self._metrics.observe_call(name if known else "other", seconds, status)

    def status(self) -> http.Answer:
        """Implements `http.Core`."""
        told: dict[str, Any] = {
            "version": plugin.__version__,
            "mode": "standalone" if self._settings.standalone else "etcd",
            "settings_problems": [str(problem) for problem in self._problems],
            "missing": list(self.missing()),
            "last_errors": self._recent.lines(),
        }
        return told | (report.status(self._graph) if self._graph is not None else {})

    def peers(self) -> http.Answer:
        """Implements `http.Core`."""
        return {"peers": report.peers(self._graph) if self._graph is not None else []}

    def examine(self, subnets: frozenset[str]) -> http.Answer:
        """Implements `http.Core`."""
        return {"peers": report.examine(self._graph, subnets) if self._graph is not None else {}}

    def audit(self, settle_s: float, *, repair: bool) -> http.Answer:
        """Implements `http.Core`."""
        self.methods()  # waits for the graph, and raises what kept it from being built
        if self._graph is None:
            raise errors.NotReady("flannelpy is still starting; see the plugin's log")
        auditor = self._graph.audit
        return auditor.repair(settle_s) if repair else auditor.report(settle_s)

    def uninstall(self) -> http.Answer:
        """Implements `http.Core`."""
        if not isinstance(self._failure, errors.Uninstalled):
            self.methods()  # waits for the graph, and raises what kept it from being built
        if self._graph is None:
            raise errors.NotReady("flannelpy is still starting; see the plugin's log")
        from plugin import uninstall

        with self._turn:
            uninstall.require_unused(self._graph)
            self._failure = errors.Uninstalled(
                "flannelpy was uninstalled from this host: docker plugin disable, then rm it; or enable it again"
            )
            return {"left": uninstall.remove_all(self._graph)}

    def missing(self) -> tuple[str, ...]:
        """Implements `http.Core`."""
        if self._failure is not None:
            return (str(self._failure),)
        if self._graph is None:
            return ("starting",)
        return tuple(report.missing(self._graph))

    def metrics(self) -> tuple[bytes, str]:
        """Implements `http.Core`."""
        return self._metrics.render(), gauges.CONTENT_TYPE

    def _samples(self) -> Iterable[gauges.Sample]:
        return report.samples(self._graph) if self._graph is not None else ()

    def _build(self) -> None:
        if self._obstacle is not None:
            self._fail(self._obstacle)
            return
        if self._problems:
            self._fail(errors.SettingsError("; ".join(str(problem) for problem in self._problems)))
            return
        if self._graph is None:
            self._begin()
        with self._turn:
            if not self._ending.is_set():
                self._serve_metrics()

    def _begin(self) -> None:
        """Raises what keeps it from being built; the supervisor tells, and tries again: a disk may have room then."""
        built: graph.Graph | None = None
        try:
            # Late: these bring grpc and pyroute2, half a second of imports that the first answer must not wait for.
            from plugin import graph

            built = graph.build(self._settings, self._timing, self._supervisor)
            gc.collect()  # what imports left behind: peers find room there
            self._graph, self._failure = built, None
            self._built.set()
            with self._turn:
                if not self._ending.is_set():
                    built.start()
        except Exception as exc:
            failure = exc if isinstance(exc, errors.OverlayError) else None
            self._fail(failure or errors.OverlayError(f"flannelpy could not start: {type(exc).__name__}: {exc}"))
            if built is not None:
                self._graph = None
                built.stop()
            raise

    def _serve_metrics(self) -> None:
        address = self._settings.metrics_address
        if address is None:
            return
        try:
            self._metrics.serve(address.host, address.port, self._supervisor)
        except OSError as exc:  # containers do without: no reason to refuse them
            log.warning("metrics not served at METRICS_ADDRESS %s:%d: %s", address.host, address.port, exc)

    def _fail(self, exc: errors.OverlayError) -> None:
        if str(exc) != str(self._failure):
            log.error("not started: %s", exc)
        self._failure = exc
        self._built.set()
