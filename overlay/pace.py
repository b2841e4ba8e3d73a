"""When the reconciler looks: how long it rests, and what it hears of in between.

Used by `reconciler` alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator

from overlay import errors

BULK = 2000
BULK_WAIT_S = 1.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When full passes happen. Units: seconds, but for `rounds`.

    `interval_s` lies between two glances, or between two passes while something could not be done, and leaves room
    for both within ten seconds; `whole_s` between two passes that nothing gave a reason for: they find what an event
    should have told.
    `gap_s` lies between the end of one pass and the begin of the next, at least, and three times the length of the
    last pass up to `gap_cap_s`, so that a storm of events costs a quarter of a core. `settle_s` lets a burst end.
    """

    interval_s: float = 8.0
    whole_s: float = 60.0
    gap_s: float = 0.5
    gap_cap_s: float = 1.5
    settle_s: float = 0.1
    tick_s: float = 0.25
    rounds: int = 3

    def rest_s(self, busy_s: float) -> float:
        """How long to rest after `busy_s` of work."""
        return min(max(self.gap_s, 3 * busy_s), max(self.gap_cap_s, self.gap_s))


class Bulk:
    """Holds everybody else up while thousands of entries are written: looks and notices would only cost it time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writers = 0
        self._idle = threading.Event()
        self._idle.set()

    @contextlib.contextmanager
    def write(self, count: int) -> Iterator[None]:
        """`count` entries are being written."""
        if count < BULK:
            yield
            return
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def wait(self) -> None:
        """Until nobody does, but not for ever."""
        self._idle.wait(BULK_WAIT_S)

    def _count(self, more: int) -> None:
        with self._lock:
            self._writers += more
            (self._idle.clear if self._writers else self._idle.set)()


def heard(
    log: logging.Logger, stop: threading.Event, source: str, events: Callable[[threading.Event], Iterator[None]]
) -> Iterator[None]:
    """What `events` yields, and once more whenever some may have been lost."""
    while not stop.is_set():
        try:
            yield from events(stop)
        except errors.KernelError as exc:
            log.warning("%s events lost, listening again: %s", source, exc)
            yield
            stop.wait(1)


def rest(
    timing: Timing, stop: threading.Event, wake: threading.Event, monotonic: Callable[[], float], busy_s: float
) -> None:
    """Wait for a reason to look again, but not too short, after a look that took `busy_s`."""
    ended = monotonic()
    stop.wait(timing.rest_s(busy_s))
    while not stop.is_set() and monotonic() - ended < timing.interval_s:
        if wake.wait(timing.tick_s):
            stop.wait(timing.settle_s)
            return
