"""RequestAddress with sixteen callers at once: over the socket, and in the plugin's process without it.

dockerd holds a lock per network over RequestAddress and CreateEndpoint (libnetwork, networkLocker), so sixteen calls
meet only if sixteen networks start containers at the same moment; after that each network sends its next call.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import selectors
import socket
import time
from collections.abc import Iterator

import lab
from bench import figures, rig, wire
from ipam import reconcile
from lab import site

CALLERS = 16
BATCHES = 9
ROUNDS = 50
PAUSE_S = 0.02
ANSWER_S = 10.0
PROBE = pathlib.Path(__file__).with_name("address_probe.py")


def measure(on: rig.Rig) -> Iterator[figures.Figure]:
    """All calls of all rounds, in both ways, in batches that take turns."""
    inner: list[list[float]] = []
    outer: list[list[float]] = []
    for _ in range(BATCHES):
        inner.append([1000 * took for took in in_process(on.h1)])
        outer.append([1000 * took for took in over_socket(on.h1, CALLERS)])
    alone = [1000 * took for _ in range(BATCHES) for took in over_socket(on.h1, 1)]
    together = list(itertools.chain.from_iterable(outer))
    yield figures.usual_tail("request_address_p99_ms", "ms", inner)
    yield figures.usual_tail("request_address_socket_p99_ms", "ms", outer)
    yield figures.median("request_address_socket_p50_ms", "ms", together)
    yield figures.median("request_address_alone_socket_p50_ms", "ms", alone)


def in_process(host: lab.Host) -> list[float]:
    """Seconds of each call of the handler: the JSON object in, the answer out after its commit, no HTTP.

    By a process of its own in the installed plugin's root, with its interpreter, its code and its disk, and a state
    file beside the plugin's.
    """
    pid = rig.plugin_pids(host)[0]
    enter = ["nsenter", f"--target={pid}", "--mount", "--", "/usr/bin/python3", "-", str(CALLERS), str(ROUNDS)]
    said = host.exec(enter, stdin=PROBE.read_bytes(), timeout_s=60)
    took: list[float] = json.loads(said)
    return took


def over_socket(host: lab.Host, count: int) -> list[float]:
    """Seconds from a request's last byte to the whole answer's, for callers that all send at the same moment."""
    pool_id = reconcile.ID_PREFIX + site.subnet_of(host, rig.NETWORK)
    took: list[float] = []
    with callers(str(host.root / site.SOCKET), count) as made:
        for _ in range(ROUNDS):
            seconds, answers = burst(made, [take(pool_id)] * count)
            took += seconds
            burst(made, [give(pool_id, json.loads(answer.body)["Address"]) for answer in answers])
            time.sleep(PAUSE_S)
    return took


class Caller:
    """One connection of the engine."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self._buffer = b""
        self.sent = 0.0

    def send(self, request: bytes) -> None:
        """Begin a call."""
        self._buffer = b""
        self.sent = time.monotonic()
        self.socket.sendall(request)

    def receive(self) -> wire.Message | None:
        """The answer, once it is whole."""
        chunk = self.socket.recv(wire.CHUNK)
        if not chunk:
            raise wire.Closed
        self._buffer += chunk
        size = wire.length(self._buffer)
        return wire.Message(self._buffer) if size is not None and len(self._buffer) >= size else None


@contextlib.contextmanager
def callers(path: str, count: int) -> Iterator[list[Caller]]:
    """Open connections, as dockerd keeps them."""
    made: list[Caller] = []
    try:
        for _ in range(count):
            made.append(Caller(path))  # noqa: PERF401 - those made before one fails are closed
        yield made
    finally:
        for one in made:
            one.socket.close()


def burst(made: list[Caller], requests: list[bytes]) -> tuple[list[float], list[wire.Message]]:
    """Send one request on each connection, all at once; the seconds that each took, and the answers."""
    took: list[float] = []
    answers: list[wire.Message] = []
    with selectors.DefaultSelector() as ready:
        for one in made:
            ready.register(one.socket, selectors.EVENT_READ, one)
        for one, request in zip(made, requests, strict=True):
            one.send(request)
        while len(answers) < len(made):
            events = ready.select(ANSWER_S)
            if not events:
                raise TimeoutError
            for key, _ in events:
                answer = key.data.receive()
                if answer is not None:
                    if answer.status != 200:
                        raise lab.LabError(f"refused: {answer.body.decode()}")
                    took.append(time.monotonic() - key.data.sent)
                    answers.append(answer)
    return took, answers


def take(pool_id: str) -> bytes:
    """The engine's request."""
    body = {"PoolID": pool_id, "Address": "", "Options": None}
    return wire.post("IpamDriver.RequestAddress", json.dumps(body).encode())


def give(pool_id: str, address: str) -> bytes:
    """And the one that undoes it."""
    ip = address.partition("/")[0]
    return wire.post("IpamDriver.ReleaseAddress", json.dumps({"PoolID": pool_id, "Address": ip}).encode())
