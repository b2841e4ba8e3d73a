"""Thousands of peers: how soon they are in a new host's kernel, what they weigh, and what they cost at rest.

Measured on a `Stage`: the installed plugin on the lab's bare host, or the plugin's processes alone (`bench.bare`).
The peers are in etcd before the plugin starts. Every part begins and ends without lease, state file and device.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

import lab
from bench import figures, inside

ROUNDS: Final = 5
SETTLE_S: Final = 3.0
WAIT_S: Final = 60.0
IDLE_PEERS: Final = 1000
IDLE_S: Final = 60.0
REST_S: Final = 15.0
"""After a start, until nothing of it is left to do: the engine is asked three times, caches are written."""

CHECKS: Final = 10
CHANGES: Final = 500
FEW: Final = 10


class Stage(Protocol):
    """A host on which the plugin can be started again and again."""

    @property
    def net(self) -> pathlib.Path:
        """The host's network namespace, from which etcd can be reached."""
        ...

    @property
    def etcd(self) -> str:
        """ADDRESS:PORT, plain HTTP."""
        ...

    @property
    def socket(self) -> pathlib.Path:
        """The plugin's own."""
        ...

    def start(self, prefix: str) -> None:
        """Start the plugin for a flannel network."""
        ...

    def forget(self) -> None:
        """Stop it, and take device, entries and state away; harmless where nothing runs."""
        ...

    def processes(self) -> list[pathlib.Path]:
        """The /proc directories of all the plugin's processes."""
        ...


def measure(on: Stage) -> Iterator[figures.Figure]:
    """All parts."""
    for step in STEPS.values():
        yield from step(on)


def converge_5000(on: Stage) -> Iterator[figures.Figure]:
    """With the weight at the end of each round."""
    took, weights = [], []
    with _network(on, 5000) as prefix:
        for _ in range(ROUNDS):
            took.append(_converge(on, prefix, 5000))
            time.sleep(SETTLE_S)
            weights.append(pss_mb(on))
            _forget(on, prefix)
    yield figures.median("converge_5000_s", "s", took)
    yield figures.median("plugin_pss_mb_5000", "MB", weights)


def converge_10000(on: Stage) -> Iterator[figures.Figure]:
    """The clock alone."""
    took = []
    with _network(on, 10_000) as prefix:
        for _ in range(ROUNDS):
            took.append(_converge(on, prefix, 10_000))
            _forget(on, prefix)
    yield figures.median("converge_10000_s", "s", took)


def requests(on: Stage) -> Iterator[figures.Figure]:
    """What etcd has begun to serve from before the start until long after all is programmed."""
    counts = [_count_requests(on, count) for count in (FEW, 5000)]
    yield figures.pair("etcd_requests_start", "", *counts)


def at_rest(on: Stage) -> Iterator[figures.Figure]:
    """A minute of nothing with a thousand peers: user and system time of all processes, and of tools they ran."""
    with _running(on, IDLE_PEERS):
        time.sleep(REST_S)
        before, checks = cpu_s(on), _checks(on)
        began = time.monotonic()
        time.sleep(IDLE_S)
        share = (cpu_s(on) - before) / (time.monotonic() - began)
        made = _checks(on) - checks
    yield figures.single("idle_cpu_percent_1000", "%", 100 * share)
    yield figures.single("idle_checks_per_minute_1000", "", made)


def checks(on: Stage) -> Iterator[figures.Figure]:
    """Each check is brought about by a link that comes and goes, which is nothing of ours."""
    took = []
    with _running(on, 5000):
        time.sleep(REST_S)
        for _ in range(CHECKS):
            before, number = cpu_s(on), _checks(on)
            for words in ("link add bench0 type veth", "link del bench0"):
                subprocess.run(["nsenter", f"--net={on.net}", "--", "ip", *words.split()], check=True)
            _wait_until(lambda number=number: _checks(on) > number, "a full check")  # type: ignore[misc]
            time.sleep(SETTLE_S)
            took.append((cpu_s(on) - before) / (_checks(on) - number))
    yield figures.median("noop_check_5000_cpu_s", "s", took)


def deltas(on: Stage) -> Iterator[figures.Figure]:
    """One change after the other; then as many again at once."""
    with _running(on, 5000) as prefix:
        time.sleep(SETTLE_S)
        with inside.running(on.net, "deltas", on.etcd, prefix, "5000", str(CHANGES)) as changing:
            answered: Any = json.loads(inside.finish(changing, WAIT_S + CHANGES))  # Any: JSON
        yield figures.tail("delta_p99_ms", "ms", [1000 * took for took in answered["apart"]])
        yield figures.median("delta_p50_ms", "ms", [1000 * took for took in answered["apart"]])
        yield figures.single("delta_burst_s", "s", answered["together"])


STEPS: Final[Mapping[str, Callable[[Stage], Iterator[figures.Figure]]]] = {
    "converge_5000": converge_5000,
    "converge_10000": converge_10000,
    "requests": requests,
    "checks": checks,
    "deltas": deltas,
    "at_rest": at_rest,
}


def cpu_s(on: Stage) -> float:
    """User and system time of the plugin's processes, and of those that they ran to their end."""
    ticks = 0
    for process in on.processes():
        stat = (process / "stat").read_text()
        ticks += sum(map(int, stat[stat.rindex(")") + 2 :].split()[11:15]))  # proc(5): utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")


def pss_mb(on: Stage) -> float:
    """Proportional set size of all the plugin's processes. Units: 10^6 bytes."""
    kilobytes = 0
    for process in on.processes():
        lines = (process / "smaps_rollup").read_text().splitlines()
        kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes * 1024 / 1e6


def started(on: Stage) -> float:
    """When the plugin's oldest process began, by the monotonic clock; the kernel keeps hundredths."""
    stats = [(process / "stat").read_text() for process in on.processes()]
    ticks = [int(stat[stat.rindex(")") + 2 :].split()[19]) for stat in stats]  # proc(5): field 22, starttime
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return min(ticks) / os.sysconf("SC_CLK_TCK") - since_boot


@contextlib.contextmanager
def _network(on: Stage, count: int) -> Iterator[str]:
    """A flannel network of `count` peers in etcd; its prefix."""
    prefix = f"/scale-{count}/network"
    _tell(on, "put-peers", prefix, str(count))
    try:
        yield prefix
    finally:
        on.forget()
        _tell(on, "delete", prefix)


@contextlib.contextmanager
def _running(on: Stage, count: int) -> Iterator[str]:
    """The same, with a plugin that has all of them."""
    with _network(on, count) as prefix:
        _converge(on, prefix, count)
        yield prefix


def _converge(on: Stage, prefix: str, count: int) -> float:
    """Seconds from the start of the plugin's first process until the kernel lists everything of every peer."""
    with inside.running(on.net, "entries", str(count), str(WAIT_S)) as watching:
        time.sleep(inside.BEGIN_S)
        on.start(prefix)
        complete = inside.answer(watching, WAIT_S)
    return complete - started(on)


def _forget(on: Stage, prefix: str) -> None:
    on.forget()
    _tell(on, "keep-peers", prefix)


def _count_requests(on: Stage, count: int) -> float:
    with _network(on, count) as prefix:
        before = _ask(on, "requests")
        _converge(on, prefix, count)
        time.sleep(SETTLE_S)
        return _ask(on, "requests") - before


def _tell(on: Stage, verb: str, *words: str) -> None:
    with inside.running(on.net, verb, on.etcd, *words) as program:
        inside.finish(program, WAIT_S)


def _ask(on: Stage, verb: str) -> float:
    with inside.running(on.net, verb, on.etcd) as program:
        return inside.answer(program, WAIT_S)


def _checks(on: Stage) -> int:
    """How many full checks the plugin has made, as it says itself."""
    connection = _UnixConnection(on.socket)
    connection.request("GET", "/status")
    status: Any = json.loads(connection.getresponse().read())  # Any: JSON
    connection.close()
    return int((status["kernel"]["last_pass"] or {}).get("number", 0))


def _wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        if time.monotonic() > deadline:
            raise lab.LabError(f"not within {WAIT_S:g} s: {what}")
        time.sleep(0.2)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: pathlib.Path) -> None:
        super().__init__("plugin", timeout=WAIT_S)
        self._path = path

    def connect(self) -> None:
        """Called by http.client. The path may be longer than a socket address holds."""
        self.sock: Any = socket.socket(socket.AF_UNIX)  # Any: the base declares it untyped
        self.sock.settimeout(self.timeout)
        directory = os.open(self._path.parent, os.O_PATH)
        try:
            self.sock.connect(f"/proc/self/fd/{directory}/{self._path.name}")
        finally:
            os.close(directory)
