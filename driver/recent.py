"""Which networks and endpoints were made or forgotten a moment ago.

What is being made is ours some moments before it is Docker's, and what is being deleted is Docker's some longer: what
Docker says of these means nothing yet. Read from the file counts as made: a call may be repeated to a new process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

KEEP_S = 20.0
"""Above the 15 s for which the engine repeats a broken call, after 1, 2, 4 and 8 s.

Source: moby pkg/plugins/client.go (backoff, abort)."""


class Recent:
    """Not safe between threads."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._noted: dict[str, float] = {}  # in the order of their times

    def note(self, ids: Iterable[str]) -> None:
        """These have just been made or forgotten."""
        now = self._monotonic()
        for id_ in ids:
            self._noted.pop(id_, None)
            self._noted[id_] = now
        self._forget(now)

    def ids(self) -> frozenset[str]:
        """Those of the last `KEEP_S` seconds."""
        self._forget(self._monotonic())
        return frozenset(self._noted)

    def _forget(self, now: float) -> None:
        while self._noted and next(iter(self._noted.values())) <= now - KEEP_S:
            del self._noted[next(iter(self._noted))]
