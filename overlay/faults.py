"""Fault points: the moments at which a test may kill the plugin, or hold it until it is killed from outside.

Every commit, every change of the kernel and every answer passes one before it and one after it, which `POINTS` lists:
`reached("state.commit.before")`. Without `switch_on` that is one look at a variable, and nothing in production
switches it on: plugin/config.json has no FAULT_POINTS, so that dockerd refuses to set it. A test's own build of the
plugin has it (lab.plugin_image).

What is to happen is written into a directory, so that it outlives the worker that it kills:
`order` (an Order as JSON; taken away when it fires, so that it fires once), `held` (made while a thread is held),
`go` (ends a hold), `record` (if it is there, every point reached is appended to it).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import threading
import time
from collections.abc import Iterator

POINTS = (
    "handler",  # a call of dockerd
    "state.commit",
    "etcd.request",
    "kernel.link",
    "kernel.entries",  # addresses, neighbours, forwarding entries, routes
    "kernel.sysctl",
    "kernel.feature",  # a device's, by ethtool
    "kernel.flow",  # one that conntrack is to forget
    "firewall.write",  # nftables and iptables
    "firewall.consent",  # firewalld's, for one link or range
    "port.reserve",  # of this host
    "port.release",
)
"""Each has a `.before` and, unless the change failed, an `.after`."""

VARIABLE = "FAULT_POINTS"
HOLD_S = 25.0
"""A handler never takes longer, held or not: dockerd has no deadline of its own after a restart."""

_POLL_S = 0.02


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to happen at which moment. `handler` "" for any; `nth`, from 1, counts what fits since it was given.

    `action` is "kill", which is SIGKILL for the worker by itself, or "hold".
    """

    point: str
    handler: str = ""
    nth: int = 1
    action: str = "kill"
    hold_s: float = HOLD_S


class Points:
    """The orders of one directory. Safe to call from any thread."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._given = ""
        self._hits = 0

    def reached(self, point: str, handler: str) -> None:
        """A thread is at `point`."""
        self._record(point, handler)
        order = self._take(point, handler)
        if order is None:
            return
        if order.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self._hold(point, handler, order.hold_s)

    def _record(self, point: str, handler: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(self._directory / "record", os.O_WRONLY | os.O_APPEND)
            try:
                os.write(descriptor, f"{handler} {point}\n".encode())
            finally:
                os.close(descriptor)

    def _take(self, point: str, handler: str) -> Order | None:
        """The order, if its moment has come."""
        path = self._directory / "order"
        with self._lock:
            try:
                given = path.read_text()
            except FileNotFoundError:
                return None
            if given != self._given:
                self._given, self._hits = given, 0
            order = Order(**json.loads(given))
            if order.point != point or order.handler not in ("", handler):
                return None
            self._hits += 1
            if self._hits < order.nth:
                return None
            path.unlink()
            self._given = ""
            return order

    def _hold(self, point: str, handler: str, hold_s: float) -> None:
        """Wait for `go`, so that a test can end this process, its parent or both at this very moment."""
        (self._directory / "held").write_text(f"{handler} {point}\n")
        give_up = time.monotonic() + hold_s
        while not (self._directory / "go").exists() and time.monotonic() < give_up:
            time.sleep(_POLL_S)
        with contextlib.suppress(FileNotFoundError):
            (self._directory / "held").unlink()


class _Switch:
    points: Points | None = None


_switch = _Switch()
_thread = threading.local()


def switch_on(directory: pathlib.Path) -> None:
    """Take orders from this directory, in this process and for good."""
    _switch.points = Points(directory)


def reached(point: str) -> None:
    """Tell that the calling thread is at `point`; does nothing unless switched on."""
    if _switch.points is not None:
        _switch.points.reached(point, getattr(_thread, "handler", threading.current_thread().name))


@contextlib.contextmanager
def within(handler: str) -> Iterator[None]:
    """Name what the calling thread is about; other threads go by their own names."""
    _thread.handler = handler
    try:
        yield
    finally:
        del _thread.handler
