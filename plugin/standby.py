"""What a second plugin on a host does: nothing, but to say so wherever it is asked, until the first has ended.

A managed plugin must listen, or Docker disables it: the same server and the same answers as of one that cannot be
built, in a child process, on the socket that Docker made for it alone. Outside Docker there is only the classic
socket, which is the first one's, and so only the log. The parent waits for the lock, and then serves as if it had
just started.
Caller: `plugin.__main__`.
"""

from __future__ import annotations

import contextlib
import logging
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


def wait(take: Callable[[], str], occupant: str, sockets: Sequence[pathlib.Path], env: Mapping[str, str]) -> None:
    """Return when `take` says "": nobody else has this host any more. `sockets` are this plugin's own."""
    logs.configure("info")
    signal.signal(signal.SIGTERM, _end)  # a plugin is process 1, which no signal ends by itself
    child = 0
    try:
        while occupant:
            log.error("standing by: %s", occupant)
            child = _serve(sockets, occupant, env) if sockets else 0
            shown = occupant
            while occupant == shown and _lives(child):
                time.sleep(LOOK_S)
                occupant = take()
            _stop(child)
            child = 0
    finally:
        _stop(child)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log.info("the host is free: taking over")


def _serve(sockets: Sequence[pathlib.Path], occupant: str, env: Mapping[str, str]) -> int:
    """Answer in a child process; its id. Nothing of this process runs in threads yet."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for path in sockets:
            server.prepare_socket(path)
        server.Server(sockets, lambda: _load(occupant, env), lambda: None).run()
    except SystemExit:
        status = 0
    finally:
        os._exit(status)


def _load(occupant: str, env: Mapping[str, str]) -> server.WSGI:
    from plugin import app

    return app.App(env, obstacle=errors.HostOccupied(occupant)).start()


def _lives(child: int) -> bool:
    """Whether it is not to be replaced."""
    return not child or os.waitpid(child, os.WNOHANG) == (0, 0)


def _stop(child: int) -> None:
    """End it, and wait until it has given its socket up. At once: it has only refusals to give."""
    if child:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGINT)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
