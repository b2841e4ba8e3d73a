"""One plugin per host: a lock in the host's /run, which all plugins of a host share, held until its processes end.

Two of them would take each other's socket, remove each other's links and hand out the same addresses. The lock is
flock(2)'s, of an open file: it ends with the last process that has it, however that ends, and a file left behind is
in nobody's way. The worker inherits it from the master, so a worker's death frees nothing. An abstract unix socket
would do as well, but any process of the host's network namespace, unprivileged ones too, could bind that first.
A plugin of an older version knows no lock, and a lock's file can be deleted: then the classic socket, which answers,
shows that it is there.

Who has found another there gives way from then on, over restarts: it takes the host when that has been free for a
while. So neither a boot, which starts all plugins side by side, nor a crash, after which Docker starts the plugin
again, lets the two change places. A master that was killed leaves its worker behind for a second: that is waited for,
and no other plugin.
Callers: `plugin.__main__` and `plugin.standby`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import socket
import time
from collections.abc import Mapping

import plugin
from plugin import plugin_id

log = logging.getLogger(__name__)

LOCK_NAME = "flannelpy.lock"
MARK_NAME = "standby"

GIVES_WAY_S = 15.0
"""Docker dials a plugin that it starts again for 12.5 s."""

TRIES, TRY_S = 5, 0.05
"""One that gives way looks by having the lock for a moment, which must hold nobody up."""

HOST_PROC = pathlib.Path("/host/procfs")
"""A managed plugin has a process namespace of its own."""

INFO_LIMIT = 4096
ADVICE = "one flannelpy per host: this one touches nothing, and takes over once that one has ended"
FREE = f"the flannelpy that served this host has ended; this one takes over after {GIVES_WAY_S:g} s, if it stays so"

ENDING = "the flannelpy that served this host was killed, and its worker has not ended yet"


class HostLock:
    """The lock of this host. For one thread."""

    def __init__(
        self,
        run_dir: pathlib.Path,
        classic: pathlib.Path,
        state_dir: pathlib.Path,
        *,
        gives_way_s: float = GIVES_WAY_S,
    ) -> None:
        """`run_dir` is the host's /run, `classic` the socket in it that only the holder may have."""
        self._path = run_dir / LOCK_NAME
        self._classic = classic
        self._mark = state_dir / MARK_NAME
        self._gives_way_s = gives_way_s
        self._gives_way = self._mark.exists()
        self._free_since: float | None = None
        self._is_lockless = False
        self._file = -1

    def take(self) -> str:
        """Have the lock from now on: ""; or a text that says who has it."""
        if self._file >= 0:
            return ""
        occupant = self._try()
        if occupant:
            self._free_since = None
            if occupant != ENDING:
                self._give_way()
            return occupant
        if self._gives_way:
            now = time.monotonic()
            self._free_since = now if self._free_since is None else self._free_since
            if now - self._free_since < self._gives_way_s:
                self.release()
                return FREE
        with contextlib.suppress(OSError):
            self._mark.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a full /run: then nobody is told who has it
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(describe()).encode(), 0)
        return ""

    def release(self) -> None:
        """Let others have it; harmless where it is not held."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _try(self) -> str:
        """Have the lock for now: ""; or who has it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:  # containers must start all the same
            self._tell_lockless(exc)
        else:
            self._file = file
            if self._is_taken():
                holder = parse_holder(os.pread(file, INFO_LIMIT, 0))
                self.release()
                return ENDING if _has_ended(holder) else explain(holder)
        if is_live(self._classic):
            self.release()
            return f"another plugin answers at {self._classic}, and has no lock at {self._path}; {ADVICE}"
        return ""

    def _is_taken(self) -> bool:
        """Have the lock for now, unless somebody else has it. That there can be none is nobody's having it."""
        for left in reversed(range(1 if self._gives_way else TRIES)):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(TRY_S if left else 0)
            except OSError as exc:
                self._tell_lockless(exc)
                return False
            else:
                return False
        return True

    def _tell_lockless(self, exc: OSError) -> None:
        if not self._is_lockless:
            log.error("no lock, so a second flannelpy on this host would not notice this one: %s", exc)
        self._is_lockless = True

    def _give_way(self) -> None:
        self._gives_way = True
        with contextlib.suppress(OSError):
            self._mark.parent.mkdir(parents=True, exist_ok=True)
            self._mark.touch()


def describe() -> dict[str, str]:
    """This process, for those who come later."""
    return {
        "plugin": plugin_id.read(),
        "pid": _host_pid(),
        "version": plugin.__version__,
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def is_live(path: pathlib.Path) -> bool:
    """Whether somebody listens at a unix socket; what cannot be asked is not there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
    return True


def _host_pid() -> str:
    try:
        return str((HOST_PROC / "self").readlink())
    except OSError:
        return str(os.getpid())


def _has_ended(holder: Mapping[str, str]) -> bool:
    """Whether it is known that the process which wrote this is gone."""
    proc = HOST_PROC if (HOST_PROC / "self").is_symlink() else pathlib.Path("/proc")
    pid = holder.get("pid", "")
    return pid.isdecimal() and not (proc / pid).exists()


def parse_holder(told: bytes) -> dict[str, str]:
    """What the holder wrote into the file; nothing where that cannot be read."""
    with contextlib.suppress(ValueError):
        read = json.loads(told)
        if isinstance(read, dict):
            return {str(key): str(value)[:80] for key, value in read.items()}
    return {}


def explain(holder: Mapping[str, str]) -> str:
    """Who holds the lock."""
    parts = [f"plugin {holder['plugin'][:12]} (docker plugin ls)"] if holder.get("plugin") else []
    parts += [f"{key} {holder[key]}" for key in ("pid", "version", "since") if holder.get(key)]
    return f"another flannelpy serves this host: {', '.join(parts) or 'it does not say which'}; {ADVICE}"
