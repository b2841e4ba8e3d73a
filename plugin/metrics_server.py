"""HTTP over TCP for METRICS_ADDRESS: what any container may reach, so a few connections, and each for seconds only.

Owns its thread and its connections. `plugin.metrics` gives the text. Knows one page and keeps no connection open.
When all places are taken the connection that is open longest gives way: those that say nothing never keep a scrape
out. The text is rendered once a second at most, however often it is asked for.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import itertools
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from overlay import supervisor

log = logging.getLogger(__name__)

CONNECTIONS = 16
"""At a time: each has a thread and a descriptor."""

DEADLINE_S = 5.0
"""For a whole connection, however slowly it goes on."""

HEAD_LIMIT = 8192
"""Bytes of a request. http.server would take 6 MB of headers."""

RENDER_S = 1.0
"""How old a text may be: rendering it needs the interpreter for itself, which the engine's calls need, too."""

ACCEPT_RETRY_S = 0.1


class MetricsServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens from its creation on, and serves in a thread. Raises OSError."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        host: str,
        port: int,
        render: Callable[[], bytes],
        content_type: str,
        watched: supervisor.Supervisor,
        *,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.content_type = content_type
        self._render = render
        self._deadline_s = deadline_s
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        self._lock = threading.Lock()
        self._ends_at: dict[socket.socket, float] = {}  # in the order of their coming
        self._text = b""
        self._rendered_at: float | None = None
        self._rendering = threading.Lock()
        self._is_short = False  # of descriptors
        super().__init__((host, port), _Handler)
        poll_s = min(0.5, deadline_s / 4)
        self._stop = threading.Event()
        watched.start("metrics", lambda: self.serve_forever(poll_s), self._stop)

    def close(self) -> None:
        """Stop listening, and end what is connected."""
        self._stop.set()
        self.shutdown()
        self.server_close()
        with self._lock:
            for connection in self._ends_at:
                _end(connection)

    def text(self) -> bytes:
        """What is served, at most RENDER_S old."""
        with self._rendering:
            now = time.monotonic()
            if self._rendered_at is None or now - self._rendered_at > RENDER_S:
                self._text, self._rendered_at = self._render(), now
            return self._text

    def get_request(self) -> tuple[socket.socket, Any]:
        """Called by socketserver, which asks again at once after an error."""
        try:
            taken = super().get_request()
        except OSError as exc:
            if not self._is_short:
                log.warning("metrics: no connection can be taken, trying on: %s", exc.strerror)
            self._is_short = True
            time.sleep(ACCEPT_RETRY_S)  # out of descriptors: it stays readable, and would turn in circles
            raise
        self._is_short = False
        return taken

    def process_request(self, request: Any, client_address: Any) -> None:
        """Called by socketserver for each connection."""
        if not self._places.acquire(blocking=False):
            with self._lock:
                for oldest in itertools.islice(self._ends_at, 1):
                    _end(oldest)
            self._places.acquire()  # in a moment: its thread reads an end, or writes into one
        with self._lock:
            self._ends_at[request] = time.monotonic() + self._deadline_s
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called by socketserver several times a second."""
        now = time.monotonic()
        with self._lock:
            for connection, ends_at in self._ends_at.items():
                if ends_at < now:
                    _end(connection)

    def shutdown_request(self, request: Any) -> None:
        """Called by socketserver after each connection, whatever became of it."""
        super().shutdown_request(request)
        with self._lock:
            if self._ends_at.pop(request, None) is None:
                return
        self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's
        """Called by socketserver while it handles an exception."""
        log.debug("metrics: connection of %s broke off: %r", client_address, sys.exception())


def _end(connection: socket.socket) -> None:
    """Wakes its thread, which closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: MetricsServer
    server_version = "flannelpy"
    sys_version = ""

    def setup(self) -> None:
        """Called by socketserver: the request is read whole, so that its size is known."""
        super().setup()
        self.rfile = io.BufferedReader(io.BytesIO(_read_head(self.connection)))

    def do_GET(self) -> None:
        """Called by http.server."""
        text = self.server.text()
        self.send_response(200)
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Called by http.server for each request and refusal: whoever can connect must not fill the log."""


def _read_head(connection: socket.socket) -> bytes:
    """A request up to its empty line, or what came of it before the other side, or HEAD_LIMIT, ended it."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < HEAD_LIMIT:
        part = connection.recv(HEAD_LIMIT - len(head))
        if not part:
            break
        head += part
    return head
