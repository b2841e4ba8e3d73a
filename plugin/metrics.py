"""Prometheus metrics: counted where calls are answered, read from the rooms when asked for.

Owns its registry of collectors, so that two apps in one test process do not meet. Caller: `plugin.app`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import prometheus_client
from prometheus_client import core, exposition

from overlay import supervisor
from plugin import metrics_server

CONTENT_TYPE = exposition.CONTENT_TYPE_PLAIN_0_0_4
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)

Sample = tuple[str, str, dict[str, str], float]
"""Name, help text, labels, value: of a counter where the name ends in _total, of a gauge otherwise."""


class Metrics:
    """What is counted. `read` gives the samples of the moment."""

    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        self._server: metrics_server.MetricsServer | None = None
        self._calls = prometheus_client.Histogram(
            "flannelpy_call_seconds",
            "Time to answer one call of the engine, by method and HTTP status.",
            ("method", "status"),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(_Rooms(read))

    def observe_call(self, method: str, seconds: float, status: int) -> None:
        """One call was answered."""
        self._calls.labels(method=method, status=str(status)).observe(seconds)

    def render(self) -> bytes:
        """Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)

    def serve(self, host: str, port: int, watched: supervisor.Supervisor) -> None:
        """Serve over TCP as well, from a thread of its own. Raises OSError."""
        self._server = metrics_server.MetricsServer(host, port, self.render, CONTENT_TYPE, watched)

    def close(self) -> None:
        """Stop serving; harmless where nothing is served."""
        if self._server is not None:
            self._server.close()
            self._server = None


class _Rooms:
    """Reads the rooms at each scrape."""

    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._read = read

    def collect(self) -> Iterator[core.Metric]:
        families: dict[str, core.GaugeMetricFamily | core.CounterMetricFamily] = {}
        for name, text, labels, value in self._read():
            family = families.get(name)
            if family is None:
                kind = core.CounterMetricFamily if name.endswith("_total") else core.GaugeMetricFamily
                family = families[name] = kind(name, text, labels=tuple(labels))
            family.add_metric(list(labels.values()), value)
        yield from families.values()

    def describe(self) -> list[core.Metric]:
        """Nothing: the rooms need not be there yet when the collector is registered."""
        return []
