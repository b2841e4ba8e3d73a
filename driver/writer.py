"""A write that goes on beside its callers, who wait a little for it and no longer.

One thread writes, for all that have asked until it begins; it ends when nobody asks any more. For what is mostly
quick, at times a run of nft, and may come a moment late: `driver.plumbing` writes so what containers may send, since
an endpoint that is not written yet can send nothing, and a container begins a tenth of a second after its endpoint.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from overlay import errors, supervisor


class Writer:
    """See the module. `write` raises KernelError, and whoever keeps the kernel's state tries again then."""

    def __init__(self, write: Callable[[], None], supervisor_: supervisor.Supervisor) -> None:
        self._write = write
        self._supervisor = supervisor_
        self._never = threading.Event()
        self._changed = threading.Condition()  # over the fields below
        self._asked = 0
        self._written = 0
        self._running = False
        self._failures: dict[int, errors.KernelError] = {}

    def ask(self) -> int:
        """Ask for a write that begins from now on; gives the number to wait for. Never waits."""
        with self._changed:
            self._asked += 1
            if not self._running:
                self._running = True
                self._supervisor.start("writer", self._run, self._never)
            return self._asked

    def wait(self, number: int, timeout_s: float) -> None:
        """Wait until that write is done, or the time is over: then it goes on. Raises its KernelError."""
        with self._changed:
            self._changed.wait_for(lambda: self._written >= number, timeout_s)
            failure = self._failures.pop(number, None)
        if failure is not None:
            raise failure

    def _run(self) -> None:
        while (number := self._next()) is not None:
            failure = None
            try:
                self._write()
            except errors.KernelError as exc:
                failure = exc
            except Exception as exc:  # noqa: BLE001 - told to those who wait, who would take it for done
                self._supervisor.note("writer", exc)
                failure = errors.KernelError([f"unexpected {type(exc).__name__}: {exc}"])
            else:
                self._supervisor.well("writer")
            with self._changed:
                # For those that still wait alone: whoever gave up is not told
                self._failures = dict.fromkeys(range(self._written + 1, number + 1), failure) if failure else {}
                self._written = number
                self._changed.notify_all()

    def _next(self) -> int | None:
        with self._changed:
            if self._written == self._asked:
                self._running = False
                return None
            return self._asked
