"""Background threads that do not die: what one raises is logged once, counted and named, and it begins again.

Every thread of the worker that lasts is started by `Supervisor.start`. A loop that paces itself tells of its rounds
by `note` and `well` instead of ending with the first that fails. Without threads of its own; safe to call from any.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

_LOGGED_LIMIT = 1000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Units: seconds.

    A thread that failed begins again after `first_s`, and twice as long after each further failure up to `cap_s`.
    When it has run for `well_s` since, it is well: no longer named, and the next pause is the first one again. The
    same failure is logged again after `quiet_s` at the earliest.
    """

    first_s: float = 0.5
    cap_s: float = 30.0
    well_s: float = 10.0
    quiet_s: float = 3600.0


@dataclasses.dataclass(slots=True, kw_only=True)
class _Trouble:
    """A thread that failed and is not well yet. `running_since` None: it waits, or tells of its rounds itself."""

    reason: str
    failures: int = 0
    running_since: float | None = None


class Supervisor:
    """See the module. Names of threads are their label in the metrics: a role, and a prefix where there are many."""

    def __init__(self, timing: Timing | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._timing = timing or Timing()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failures: collections.Counter[str] = collections.Counter()
        self._troubles: dict[str, _Trouble] = {}
        self._logged: dict[tuple[str, str], float] = {}

    def start(self, name: str, run: Callable[[], object], stop: threading.Event) -> threading.Thread:
        """Call `run` in its own thread, and again after whatever it raises, until it returns or `stop` is set."""
        thread = threading.Thread(target=self._keep_running, args=(name, run, stop), name=name, daemon=True)
        thread.start()
        return thread

    def note(self, name: str, exc: Exception) -> None:
        """A round of the thread failed; it goes on by itself."""
        reason = f"{type(exc).__name__}: {exc}"[:500]
        with self._lock:
            self._failures[name] += 1
            trouble = self._troubles.setdefault(name, _Trouble(reason=reason))
            trouble.reason, trouble.running_since = reason, None
            trouble.failures += 1
            fresh = self._is_fresh(name, reason)
        if not fresh:
            return
        if isinstance(getattr(exc, "status", None), int):  # raised on purpose, by any of the packages
            log.warning("thread failed, trying again thread=%s reason=%s", name, exc)
        else:
            log.error("bug: unexpected error in a thread, trying again thread=%s", name, exc_info=exc)

    def well(self, name: str) -> None:
        """A round of the thread succeeded."""
        if name not in self._troubles:  # nearly always: no lock for that
            return
        with self._lock:
            trouble = self._troubles.pop(name, None)
        if trouble is not None:
            log.info("thread works again thread=%s failures=%d", name, trouble.failures)

    def troubles(self) -> tuple[str, ...]:
        """A line for each thread that failed and is not well again."""
        now = self._monotonic()
        with self._lock:
            names = [name for name, trouble in self._troubles.items() if self._is_well(trouble, now)]
        for name in names:
            self.well(name)
        with self._lock:
            return tuple(
                f"thread {name} failed, {trouble.failures} times so far: {trouble.reason}"
                for name, trouble in sorted(self._troubles.items())
            )

    def failures(self) -> Mapping[str, int]:
        """How often each thread failed since the start; threads that never did are left out."""
        with self._lock:
            return dict(self._failures)

    def _keep_running(self, name: str, run: Callable[[], object], stop: threading.Event) -> None:
        pause_s = self._timing.first_s
        while True:
            began = self._monotonic()
            try:
                run()
            except Exception as exc:  # noqa: BLE001 - the one place where every thread's errors end
                self.note(name, exc)
            else:
                break
            if self._monotonic() - began >= self._timing.well_s:
                pause_s = self._timing.first_s
            if stop.wait(pause_s):
                break
            pause_s = min(2 * pause_s, self._timing.cap_s)
            self._set_running(name)
        with self._lock:
            trouble = self._troubles.get(name)
            if trouble is not None and (stop.is_set() or trouble.running_since is not None):
                del self._troubles[name]

    def _set_running(self, name: str) -> None:
        with self._lock:
            if name in self._troubles:
                self._troubles[name].running_since = self._monotonic()

    def _is_well(self, trouble: _Trouble, now: float) -> bool:
        return trouble.running_since is not None and now - trouble.running_since >= self._timing.well_s

    def _is_fresh(self, name: str, reason: str) -> bool:
        """Whether this failure is worth a line in the log. Called under the lock."""
        now = self._monotonic()
        self._logged = {key: at for key, at in self._logged.items() if now - at < self._timing.quiet_s}
        if (name, reason) in self._logged:
            return False
        if len(self._logged) >= _LOGGED_LIMIT:
            self._logged.clear()
        self._logged[name, reason] = now
        return True
