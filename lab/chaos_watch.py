"""Pings between all pairs of containers, from one thread of this process: no program runs in any container.

A raw ICMP socket belongs for life to the network namespace it was made in, so each container's is opened by a short
thread that visits its namespace. Times are the monotonic clock's. Called by `chaos`; what a loss is, `chaos_verdict`
says. Source: RFC 792, raw(7), setns(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import pathlib
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from typing import Final

from lab import chaos_verdict, errors

INTERVAL_S: Final = 0.2
_LATELY_S: Final = 1.5
_CLONE_NEWNET: Final = 0x40000000
_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1
_ECHO_REPLY: Final = 0
_ECHO: Final = 8
_HEADER: Final = struct.Struct("!BBHHH")
_MARK: Final = struct.Struct("!IQ")  # which pair, which probe


@dataclasses.dataclass(frozen=True, slots=True)
class _End:
    """A container: where it answers, and the socket in its namespace."""

    address: str
    sock: socket.socket


class Watch:
    """See the module. Safe to call from any thread."""

    def __init__(self, names: Sequence[str]) -> None:
        self._pairs = [chaos_verdict.Pair(source, target) for source in names for target in names if source != target]
        self._ends: dict[str, _End] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ident = os.getpid() & 0xFFFF
        self._worst_pause_s = 0.0
        self._thread = threading.Thread(target=self._run, name="chaos-watch", daemon=True)

    def start(self) -> None:
        """Begin to ping; pairs of which an end is missing count as lost."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close all sockets."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        for name in list(self._ends):
            self.detach(name)

    def attach(self, name: str, namespace: pathlib.Path, address: str) -> None:
        """Ping from and to this container from now on. Raises LabError where the namespace is gone."""
        end = _End(address, _open_in(namespace))
        self.detach(name)
        with self._lock:
            self._ends[name] = end

    def detach(self, name: str) -> None:
        """Forget a container; one not there is not missed."""
        with self._lock:
            end = self._ends.pop(name, None)
            if end is not None:
                end.sock.close()

    def losses(self) -> list[chaos_verdict.Loss]:
        """Every loss so far."""
        with self._lock:
            now = time.monotonic()
            for pair in self._pairs:
                pair.decide(now)
            return [loss for pair in self._pairs for loss in pair.losses()]

    def silent(self) -> list[str]:
        """The pairs of which nothing was heard lately, `h1>h2`; at first, all of them."""
        with self._lock:
            since = time.monotonic() - _LATELY_S
            return [f"{pair.source}>{pair.target}" for pair in self._pairs if pair.heard_s < since]

    def counts(self) -> tuple[int, int]:
        """Probes sent, and answered."""
        with self._lock:
            return sum(pair.sent for pair in self._pairs), sum(pair.answered for pair in self._pairs)

    @property
    def worst_pause_s(self) -> float:
        """How long this thread itself had to wait for a processor, at worst: how busy the machine was."""
        return self._worst_pause_s

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= due:
                self._worst_pause_s = max(self._worst_pause_s, now - due)
                with self._lock:
                    self._send_all()
                due = now + INTERVAL_S
            with self._lock:
                socks = [end.sock for end in self._ends.values()]
            with contextlib.suppress(OSError, ValueError):  # one of them was just closed
                readable, _, _ = select.select(socks, [], [], max(0.0, due - time.monotonic()))
                for sock in readable:
                    self._receive(sock)

    def _send_all(self) -> None:
        for index, pair in enumerate(self._pairs):
            now = time.monotonic()
            source, target = self._ends.get(pair.source), self._ends.get(pair.target)
            if source is None or target is None:
                pair.send(now, failed=True)
                continue
            number = pair.send(now)
            with contextlib.suppress(OSError):  # no route, no carrier: it will not be answered
                source.sock.sendto(_format_echo(self._ident, _MARK.pack(index, number)), (target.address, 0))
            pair.decide(now)

    def _receive(self, sock: socket.socket) -> None:
        while True:
            try:
                data = sock.recv(512)
            except OSError:  # all is read, or an error came for an earlier probe
                return
            marked = _parse_reply(data, self._ident)
            if marked is not None:
                index, number = marked
                with self._lock:
                    self._pairs[index].answer(number, time.monotonic())


def _format_echo(ident: int, payload: bytes) -> bytes:
    """An echo request with its checksum (RFC 1071)."""
    bare = _HEADER.pack(_ECHO, 0, 0, ident, 0) + payload
    total = sum(struct.unpack(f"!{len(bare) // 2}H", bare))
    total = (total & 0xFFFF) + (total >> 16)
    total += total >> 16
    return _HEADER.pack(_ECHO, 0, ~total & 0xFFFF, ident, 0) + payload


def _parse_reply(data: bytes, ident: int) -> tuple[int, int] | None:
    """The mark of an answer to one of our probes, out of an IPv4 packet; None for anything else."""
    start = (data[0] & 0xF) * 4 if data else 0
    if len(data) != start + _HEADER.size + _MARK.size:
        return None
    kind, _, _, its_ident, _ = _HEADER.unpack_from(data, start)
    if kind != _ECHO_REPLY or its_ident != ident:
        return None
    index, number = _MARK.unpack_from(data, start + _HEADER.size)
    return index, number


def _open_in(namespace: pathlib.Path) -> socket.socket:
    """Open a raw ICMP socket in a network namespace. Raises LabError."""
    opened: list[socket.socket | OSError] = []

    def visit() -> None:
        try:
            with namespace.open("rb") as there:
                if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")  # noqa: TRY301
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            sock.setblocking(False)
            sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _ECHO_REPLY) & 0xFFFFFFFF))
            opened.append(sock)
        except OSError as exc:
            opened.append(exc)

    thread = threading.Thread(target=visit)  # its namespace changes, and it ends with that
    thread.start()
    thread.join()
    match opened:
        case [socket.socket() as sock]:
            return sock
        case _:
            raise errors.LabError(f"no ping from {namespace}: {opened[0]}")
