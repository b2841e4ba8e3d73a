"""gunicorn around the application: two unix sockets, one worker, threads.

The master imports no more than this module, so that a worker killed at any moment is back in a tenth of a second and
the process pair stays small. Threads and clients start in the worker, after the fork: gRPC demands it.
Source: docs.gunicorn.org/en/stable/settings.html; libraries.md §4 has what each setting here costs when left out.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import os
import pathlib
import resource
import socket
import stat
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from gunicorn import util
from gunicorn.app import base
from gunicorn.http import errors
from gunicorn.workers import gthread

from plugin import host_lock

THREADS = 24
"""dockerd starts containers of different networks side by side; a call may wait 20 s for the first lease."""

SOCKET_NAME = "flannelpy.sock"
PLUGIN_SOCKET_DIR = pathlib.Path("/run/docker/plugins")
"""Where dockerd looks for a managed plugin's socket, inside the plugin."""

MANAGED_RUN_DIR = pathlib.Path("/host/run")
"""Where plugin/config.json mounts the host's /run."""

PATIENCE_S = 10
"""Seconds between two parts of one request. dockerd sends each in one go."""

DESCRIPTORS = 1 << 20
"""As many as the process may have, up to this: each published port of a `native` network takes one. More is nobody's
use, and programs that look through all of them exist."""

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
ACCEPT_RETRY_S = 0.1

LINE_LIMIT = 1000
"""Characters of a line about what is no request."""

GC_THRESHOLDS = (10_000, 20, 100)
"""With Python's own a full collection comes with every fortieth change of a peer, and takes 70 ms at 5,000 peers."""

M_ARENA_MAX = -8
"""Source: malloc.h."""

MIMETYPE = "application/vnd.docker.plugins.v1.2+json"

REFUSED = {errors.LimitRequestLine: 414, errors.LimitRequestHeaders: 431, errors.UnsupportedTransferCoding: 501}
"""The status for what is no request; 400 for the rest."""

WSGI = Callable[..., Any]


def format_error(message: str) -> dict[str, str]:
    """An error as both APIs read it: `Err` the network driver's and of any status but 200, `Error` the IPAM's."""
    return {"Err": message, "Error": message}


class _Impatient(socket.socket):
    """A connection whose other side goes on within PATIENCE_S, or counts as closed from then on."""

    given_up = False

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Called by gunicorn, which has the socket block."""
        try:
            return b"" if self.given_up else super().recv(size, flags)
        except BlockingIOError:
            self.given_up = True
            return b""


class Worker(gthread.ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's threads, which answer what is no HTTP request as all else is answered, not with a web page.

    And which wait for the rest of a request for so long only: THREADS of them that stop short would be the last.
    """

    is_short = False
    """Of descriptors or memory, at the last connection."""

    def accept(self, listener: Any) -> None:
        """Called by gunicorn, which would end the worker for what passes: the connection waits in the kernel."""
        try:
            super().accept(listener)
            self.is_short = False
        except OSError as exc:
            if exc.errno not in SHORTAGES:
                raise
            if not self.is_short:
                self.log.warning("no connection can be taken, trying on: %s", exc.strerror)
            self.is_short = True
            time.sleep(ACCEPT_RETRY_S)  # or it would turn in circles

    def handle(self, conn: Any) -> Any:
        """Called by gunicorn for each request."""
        if not isinstance(conn.sock, _Impatient):
            conn.sock = _Impatient(fileno=conn.sock.detach())
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", PATIENCE_S, 0))
        return super().handle(conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Called by gunicorn in the place of an answer; the connection is closed afterwards."""
        if not isinstance(exc, errors.ParseException):
            super().handle_error(req, client, addr, exc)
            return
        status, message = REFUSED.get(type(exc), 400), f"no HTTP request: {exc}"[:LINE_LIMIT]
        self.log.warning("refused status=%d reason=%r", status, message)
        body = json.dumps(format_error(message)) + "\n"
        head = f"HTTP/1.1 {status} Refused\r\nConnection: close\r\nContent-Type: {MIMETYPE}\r\n"
        with contextlib.suppress(OSError):
            util.write_nonblock(client, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())


class Server(base.BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """The gunicorn application. `load` builds the WSGI app in the worker, `stop` ends what it started."""

    def __init__(self, sockets: Sequence[pathlib.Path], load: Callable[[], WSGI], stop: Callable[[], None]) -> None:
        self._sockets = sockets
        self._load = load
        self._stop = stop
        super().__init__()

    def load_config(self) -> None:
        """Called by gunicorn."""
        settings = {
            "bind": [f"unix:{path}" for path in self._sockets],
            "worker_class": Worker,
            "workers": 1,
            "threads": THREADS,
            "umask": 0o117,  # sockets 0660: the default is 0777
            "timeout": 0,  # killing a worker would cut calls that dockerd then repeats with an empty body
            "graceful_timeout": 5,  # dockerd kills after 10 s
            "keepalive": 3600,  # the server must not close first: dockerd's next call would lose its body
            "max_requests": 0,
            "forwarder_headers": "",  # headers that would change the path; a front end of ours there is none
            "secure_scheme_headers": {},
            "control_socket_disable": True,
            "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # noqa: S108 - heartbeat file
            "accesslog": None,
            "errorlog": "-",
            "loglevel": "warning",
            # A collection writes into each object it looks at, and so copies what worker and master share.
            "pre_fork": lambda _server, _worker: gc.freeze(),
            "worker_exit": lambda _server, _worker: self._stop(),
        }
        for key, value in settings.items():
            self.cfg.set(key, value)

    def load(self) -> WSGI:
        """Called by gunicorn in the worker, after the fork."""
        gc.set_threshold(*GC_THRESHOLDS)
        _share_arenas()
        return self._load()


def _share_arenas() -> None:
    """Keep malloc's arenas few: each of two dozen threads would hold on to what it freed in one of its own.

    Saves 5 of 115 MB with 5,000 peers. Source: mallopt(3).
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_ARENA_MAX, 2)


def raise_descriptor_limit() -> None:
    """Let this process, and the worker, have as many descriptors as it may.

    systemd's and containerd's soft limit is 1,024 for the sake of programs that use select(2); none of ours does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    # Where fs.nr_open was lowered since the hard limit was set the kernel refuses to have that again: getrlimit(2).
    for ceiling in (hard, wanted):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, ceiling))
            return


def choose_sockets(run_dir: pathlib.Path) -> list[pathlib.Path]:
    """Where to listen; the last one is the classic socket.

    In a managed plugin (`run_dir` is where its config.json mounts the host's /run): dockerd's own place, and the
    classic one on the host, through which `-d flannelpy` without a tag resolves. Outside one, the classic alone.
    """
    classic = run_dir / "docker" / "plugins" / SOCKET_NAME
    return [PLUGIN_SOCKET_DIR / SOCKET_NAME, classic] if run_dir == MANAGED_RUN_DIR else [classic]


def prepare_socket(path: pathlib.Path) -> None:
    """Make the directory, and clear away what would make binding fail: a stale socket's, or a broken, path.

    Raises OSError where somebody listens there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISSOCK(mode) and host_lock.is_live(path):
        raise OSError(errno.EADDRINUSE, f"another process listens at {path}")
    if stat.S_ISSOCK(mode) or stat.S_ISLNK(mode):
        path.unlink()
