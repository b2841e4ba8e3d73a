"""Stands between dockerd and the plugin on a lab's host, and writes down how long each call took.

The plugin's classic socket is moved aside and this listener takes its place, before dockerd has dialled it; so the
calls are the engine's own, with its own bodies, in the middle of real container starts. A call lasts from the moment
its last byte is here to the moment the plugin's whole answer is: what the engine waits for, one pass through a socket
included. Bytes are handed on unchanged; one connection of the engine is one connection to the plugin.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import socket
import threading
import time
from collections.abc import Iterator

from bench import wire

ASIDE = "run/flannelpy-recorded.sock"
CLASSIC = "run/docker/plugins/flannelpy.sock"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the engine. Units: seconds; `began` on the monotonic clock."""

    method: str
    began: float
    took: float
    status: int


class Recorder:
    """The listener and what it has seen."""

    def __init__(self, listener: socket.socket, upstream: pathlib.Path) -> None:
        self._listener = listener
        self._upstream = upstream
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._ended = threading.Event()

    def taken(self) -> list[Call]:
        """The calls since the last time this was asked, in the order in which they ended."""
        with self._lock:
            calls, self._calls = self._calls, []
        return calls

    def run(self) -> None:
        """Serve until `end`."""
        while not self._ended.is_set():
            try:
                peer, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            peer.settimeout(None)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def end(self) -> None:
        """Stop listening."""
        self._ended.set()
        self._listener.close()

    def _serve(self, peer: socket.socket) -> None:
        with peer, socket.socket(socket.AF_UNIX) as plugin, contextlib.suppress(OSError, wire.Closed):
            plugin.connect(str(self._upstream))
            asked, answered = wire.Reader(peer), wire.Reader(plugin)
            while True:
                request = asked.message()
                began = time.monotonic()
                plugin.sendall(request.raw)
                answer = answered.message()
                took = time.monotonic() - began
                with self._lock:  # before the engine hears it, and with it who asked the engine
                    self._calls.append(Call(method=request.target, began=began, took=took, status=answer.status))
                peer.sendall(answer.raw)


@contextlib.contextmanager
def recording(root: pathlib.Path) -> Iterator[Recorder]:
    """Record on the host with this root directory; afterwards the plugin's own socket is back in its place."""
    classic, aside = root / CLASSIC, root / ASIDE
    classic.rename(aside)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(classic))
            listener.listen(64)
            listener.settimeout(0.5)
            recorder = Recorder(listener, aside)
            thread = threading.Thread(target=recorder.run, name="recorder", daemon=True)
            thread.start()
            try:
                yield recorder
            finally:
                recorder.end()
                thread.join(timeout=2)
    finally:
        aside.rename(classic)
