"""What has queued up of a registry's watch, as one Delta: who is behind catches up in one step.

Used by `node`. Telling the kernel of one changed peer costs about as much as telling it of a hundred.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Generator, Iterable

from overlay import registry

Event = registry.WatchEvent

LIMIT = 1000
"""Events that may wait; after that the registry's own stream has to."""

END_S = 2.0
"""More than a registry's watch takes to end."""

POLL_S = 0.25
"""How often a reader that has to wait looks at `stop`."""


def gather(events: Iterable[Event], stop: threading.Event) -> Generator[Event]:
    """The same events in the same order, Deltas that wait behind one another as one. Ends and fails as `events` does.

    They are read in a thread of their own, which `stop` must end. Closed early, it leaves that to `stop`, and waits
    for it where that is set: who then begins anew does not do so beside it.
    """
    reader = _Reader(stop)
    thread = threading.Thread(target=reader.run, args=(events,), name="watch", daemon=True)
    thread.start()
    try:
        while waiting := reader.take():
            yield from merge(waiting)
    finally:
        if stop.is_set():
            thread.join(END_S)
    if reader.failure is not None:
        raise reader.failure


def merge(waiting: Iterable[Event]) -> list[Event]:
    """Neighbouring Deltas put together; whoever reads the one sees all changes in their order."""
    merged: list[Event] = []
    run: list[registry.Delta] = []
    for event in waiting:
        if isinstance(event, registry.Delta):
            run.append(event)
            continue
        merged += (*_together(run), event)
        run = []
    return [*merged, *_together(run)]


def _together(run: list[registry.Delta]) -> list[registry.Delta]:
    if len(run) < 2:
        return run
    return [registry.Delta(revision=run[-1].revision, changes=tuple(change for one in run for change in one.changes))]


class _Reader:
    """Reads ahead, up to LIMIT events."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._changed = threading.Condition()
        self._waiting: collections.deque[Event] = collections.deque()
        self._ended = False
        self.failure: Exception | None = None

    def run(self, events: Iterable[Event]) -> None:
        """Read to the end."""
        try:
            for event in events:
                with self._changed:
                    self._waiting.append(event)
                    self._changed.notify_all()
                    while len(self._waiting) >= LIMIT and not self._stop.is_set():
                        self._changed.wait(POLL_S)
        except Exception as exc:  # noqa: BLE001 - raised again where it is waited for
            self.failure = exc
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def take(self) -> list[Event]:
        """All that waits, at least one; nothing at the end."""
        with self._changed:
            while not self._waiting and not self._ended:
                self._changed.wait()
            taken = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
            return taken
