"""What happened to a registry kept in this process, for those who watch it.

Called by `registry_standalone` and `registry_fake`, whose every change passes through one object: they publish here
under their own lock order (change first, then publish), and `watch` is built on it. Holds no leases itself.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterator

from overlay import registry

_POLL_S = 0.25
"""How often a waiter looks at its stop event, which cannot wake the condition."""

_KEPT = 1000


class Feed:
    """The last changes, in order of their revisions. Safe to call from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._changes: collections.deque[tuple[int, registry.Change]] = collections.deque()
        self._forgotten = 0  # the highest revision that is no longer here
        self._losses = 0
        self._outage = ""
        self._down = False

    def publish(self, revision: int, change: registry.Change) -> None:
        """Add what happened at `revision`, which is above all before it."""
        with self._changed:
            self._changes.append((revision, change))
            if len(self._changes) > _KEPT:
                self._forgotten = self._changes.popleft()[0]
            self._changed.notify_all()

    def forget(self, revision: int) -> None:
        """Drop what happened up to `revision`: watchers that have not seen it start over."""
        with self._changed:
            while self._changes and self._changes[0][0] <= revision:
                self._changes.popleft()
            self._forgotten = max(self._forgotten, revision)
            self._changed.notify_all()

    def clear(self) -> None:
        """The store went back in time: nothing of this happened. Follows `break_off`, so that watchers start over."""
        with self._changed:
            self._changes.clear()
            self._forgotten = 0

    def break_off(self, reason: str) -> None:
        """Contact is lost. Every watcher will see it, however soon it is back."""
        with self._changed:
            self._losses += 1
            self._outage = reason
            self._down = True
            self._changed.notify_all()

    def resume(self) -> None:
        """Contact is back: watchers start over."""
        with self._changed:
            self._down = False
            self._changed.notify_all()

    def watch(
        self, stop: threading.Event, read: Callable[[], registry.Snapshot]
    ) -> Iterator[registry.Snapshot | registry.Delta | registry.Outage]:
        """`Registry.watch`: `read` gives all leases; a change must be visible there before it is published."""
        with self._changed:
            losses = self._losses - self._down
        since: int | None = None
        while not stop.is_set():
            match self._next(stop, losses, since):
                case registry.Outage() as outage:
                    losses, since = losses + 1, None  # what is missed from here on is in the next snapshot
                    yield outage
                case registry.Delta() as delta:
                    since = delta.revision
                    yield delta
                case None if not stop.is_set():
                    snapshot = read()
                    since = snapshot.revision
                    yield snapshot

    def _next(self, stop: threading.Event, losses: int, since: int | None) -> registry.Outage | registry.Delta | None:
        """An outage not told yet, or what came after `since`, or None: start over. Waits while nothing happens."""
        with self._changed:
            while not stop.is_set():
                if losses < self._losses:
                    return registry.Outage(reason=self._outage)
                if not self._down:
                    if since is None or since < self._forgotten:
                        return None
                    new = [(revision, change) for revision, change in self._changes if revision > since]
                    if new:
                        return registry.Delta(revision=new[-1][0], changes=tuple(change for _, change in new))
                self._changed.wait(_POLL_S)
            return None
