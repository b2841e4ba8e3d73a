"""A registry's watch run in a thread of the test, and what it told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

from overlay import registry

Event = registry.WatchEvent


class Watching:
    """Use as a context: at its end the watch must have ended within a second, and without an exception."""

    def __init__(self, watched: registry.Registry) -> None:
        self._watched = watched
        self._stop = threading.Event()
        self._told = threading.Condition()
        self._failed: list[BaseException] = []
        self.events: list[Event] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            for event in self._watched.watch(self._stop):
                with self._told:
                    self.events.append(event)
                    self._told.notify_all()
        except BaseException as exc:  # noqa: BLE001  # shown by the test
            self._failed.append(exc)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        began = time.monotonic()
        self._stop.set()
        self._thread.join(5.0)
        took_s = time.monotonic() - began
        assert not self._failed, self._failed
        assert took_s < 1.0, f"the watch went on for {took_s} s"

    def wait(self, done: Callable[[list[Event]], bool], what: str, timeout_s: float = 10.0) -> list[Event]:
        """All events so far, once `done` holds for them."""
        with self._told:
            assert self._told.wait_for(lambda: done(self.events), timeout_s), (
                f"waited {timeout_s} s for {what}: {self.events}"
            )
            return list(self.events)

    def wait_snapshot(self, count: int = 1, timeout_s: float = 10.0) -> registry.Snapshot:
        """The last Snapshot, once there are `count`."""
        seen = self.wait(lambda _: len(self.snapshots) >= count, f"{count} snapshots", timeout_s)
        return [event for event in seen if isinstance(event, registry.Snapshot)][-1]

    def wait_outages(self, count: int = 1, timeout_s: float = 10.0) -> registry.Outage:
        """The last Outage, once there are `count`."""
        seen = self.wait(lambda _: len(self.outages) >= count, f"{count} outages", timeout_s)
        return [event for event in seen if isinstance(event, registry.Outage)][-1]

    def wait_changes(self, count: int, timeout_s: float = 10.0) -> list[registry.Change]:
        """All changes, once there are `count`."""
        self.wait(lambda _: len(self.changes) >= count, f"{count} changes", timeout_s)
        return self.changes

    @property
    def snapshots(self) -> list[registry.Snapshot]:
        return [event for event in self.events if isinstance(event, registry.Snapshot)]

    @property
    def outages(self) -> list[registry.Outage]:
        return [event for event in self.events if isinstance(event, registry.Outage)]

    @property
    def changes(self) -> list[registry.Change]:
        return [change for event in self.events if isinstance(event, registry.Delta) for change in event.changes]
