"""Who writes for whom: one caller at a time writes, for all who came before it began; those wait for what it says.

Used by `firewall_keeper`, whose writes run programs: they cost as much for one caller as for a hundred. No lock is
held while somebody writes. Knows nothing of what is written. Safe to call from any thread.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Done(Generic[T]):
    """What a write that began after the call came to. `own`: it was this caller who wrote."""

    outcome: T
    own: bool


@dataclasses.dataclass(slots=True)
class _Batch(Generic[T]):
    """Those who wait for one write. `outcome` has one element once it is done, none if it broke off."""

    outcome: list[T] = dataclasses.field(default_factory=list)
    done: bool = False


class GroupCommit(Generic[T]):
    """See the module. `write` takes whatever is declared when it begins, and must end by itself."""

    def __init__(self, write: Callable[[], T]) -> None:
        self._write = write
        self._changed = threading.Condition()  # over the two below; never held while anything is written
        self._writing = False
        self._next: _Batch[T] = _Batch()

    def run(self, wait_s: float) -> Done[T] | None:
        """Have written what was declared before this call; None if others were at it for `wait_s` seconds.

        Raises what `write` raised; RuntimeError where it did so for another caller.
        """
        with self._changed:
            batch = self._next
            if not self._changed.wait_for(lambda: batch.done or not self._writing, timeout=wait_s):
                return None
            if batch.done:
                if not batch.outcome:
                    raise RuntimeError("the write that this was part of broke off; see its own traceback")
                return Done(outcome=batch.outcome[0], own=False)
            self._writing = True
            self._next = _Batch()
        try:
            batch.outcome.append(self._write())
        finally:
            with self._changed:
                batch.done = True
                self._writing = False
                self._changed.notify_all()
        return Done(outcome=batch.outcome[0], own=True)
