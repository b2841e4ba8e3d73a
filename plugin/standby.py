"""What a second plugin on a host does: nothing, but to say so wherever it is asked, until the first has ended.

A managed plugin must listen, or Docker disables it: the same server and the same answers as of one that cannot be
built, in a child process, on the socket that Docker made for it alone. It is never away, whoever has the host:
dockerd dials it half a second after the start, then only after three more, and does nothing else meanwhile. Outside
Docker there is only the classic socket, which is the first one's, and so only the log. The parent waits for the lock,
and then serves as if it had just started.
Caller: `plugin.__main__`.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import pathlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import NoReturn

from overlay import errors
from plugin import logs, server

log = logging.getLogger(__name__)

LOOK_S = 0.25
"""Between two tries to get the lock."""

NOTICE_BYTES = 4096


class Notice:
    """Who has the host, written by the parent and read by the child: it changes while the child's socket stays."""

    def __init__(self) -> None:
        self._room = mmap.mmap(-1, NOTICE_BYTES)  # shared with whoever is forked

    def write(self, text: str) -> None:
        """Replace the text; what does not fit is cut."""
        data = text.encode()[: NOTICE_BYTES - 1]
        self._room[: len(data) + 1] = data + b"\0"

    def read(self) -> str:
        """The text of the moment."""
        return self._room[:].partition(b"\0")[0].decode(errors="replace")


class _Occupied(errors.HostOccupied):
    """Says who has the host now, not who had it when this was made."""

    def __init__(self, notice: Notice) -> None:
        super().__init__()
        self._notice = notice

    def __str__(self) -> str:
        return self._notice.read()


def wait(take: Callable[[], str], occupant: str, sockets: Sequence[pathlib.Path], env: Mapping[str, str]) -> None:
    """Return when `take` says "": nobody else has this host any more. `sockets` are this plugin's own."""
    logs.configure("info")
    signal.signal(signal.SIGTERM, _end)  # a plugin is process 1, which no signal ends by itself
    notice, shown, child = Notice(), "", 0
    try:
        while occupant:
            if occupant != shown:
                log.error("standing by: %s", occupant)
                notice.write(occupant)
                shown = occupant
            if sockets and _has_ended(child):
                child = _serve(sockets, notice, env)
            time.sleep(LOOK_S)
            occupant = take()
    finally:
        _stop(child)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log.info("the host is free: taking over")


def _serve(sockets: Sequence[pathlib.Path], notice: Notice, env: Mapping[str, str]) -> int:
    """Answer in a child process; its id. Nothing of this process runs in threads yet."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for path in sockets:
            server.prepare_socket(path)
        server.Server(sockets, lambda: _load(notice, env), lambda: None).run()
    except SystemExit:
        status = 0
    finally:
        os._exit(status)


def _load(notice: Notice, env: Mapping[str, str]) -> server.WSGI:
    from plugin import app

    return app.App(env, obstacle=_Occupied(notice)).start()


def _has_ended(child: int) -> bool:
    """Whether there is none (0), or it is no more; then it is reaped."""
    return not child or os.waitpid(child, os.WNOHANG) != (0, 0)


def _stop(child: int) -> None:
    """End it, and wait until it has given its socket up. At once: it has only refusals to give."""
    if child:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGINT)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
