"""Processes that the lab started, told apart from any later process with the same number.

A record is the pid and the start time (proc(5), /proc/pid/stat field 22); signals go through a pidfd, so between
the look and the kill the number cannot change hands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import select
import signal
import time
from collections.abc import Iterable

from lab import errors


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """One process. started: clock ticks since boot."""

    pid: int
    started: int


def identify(pid: int) -> ProcessId | None:
    """Give the record of a living process; None for one that is gone or a zombie."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = stat[stat.rindex(")") + 2 :].split()  # the name before it may hold blanks and brackets
    return None if state in "ZX" else ProcessId(pid=pid, started=int(rest[18]))


def is_alive(process: ProcessId) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def kill(processes: Iterable[ProcessId], *, timeout_s: float = 10) -> None:
    """End processes at once and wait until they are gone; those already gone are skipped.

    Ending the init of a pid namespace ends everything in it, and the wait covers that too.
    Raises: Timeout, naming the pids that are still there.
    """
    with contextlib.ExitStack() as fds:
        waiting: dict[int, ProcessId] = {}
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(process.pid)
                fds.callback(os.close, fd)
                if identify(process.pid) == process:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                    waiting[fd] = process
        _wait_gone(waiting, time.monotonic() + timeout_s)


def _wait_gone(waiting: dict[int, ProcessId], deadline: float) -> None:
    poll = select.poll()
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    while waiting:
        left = deadline - time.monotonic()
        if left <= 0:
            raise errors.Timeout(f"still there after SIGKILL: {sorted(p.pid for p in waiting.values())}")
        for fd, _ in poll.poll(left * 1000):
            poll.unregister(fd)
            del waiting[fd]


def runs_below(proc: pathlib.Path, pid: int) -> bool:
    """Whether a pid of another pid namespace runs, looked up in that namespace's /proc."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"
