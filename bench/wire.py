"""HTTP/1.1 over unix sockets, no more of it than timing needs: whole messages read, requests composed.

`http.client` would do, but costs more than what is measured here. Bodies must have a Content-Length, as dockerd's and
the plugin's have.
"""

from __future__ import annotations

import dataclasses
import socket

CHUNK = 65536
_END = b"\r\n\r\n"


class Closed(Exception):
    """The other side went away."""


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer, as it came."""

    raw: bytes

    @property
    def target(self) -> str:
        """The method's name in a request: `POST /IpamDriver.RequestAddress HTTP/1.1`."""
        return self.raw.split(b" ", 2)[1].decode().lstrip("/")

    @property
    def status(self) -> int:
        """The status of an answer: `HTTP/1.1 200 OK`."""
        return int(self.raw.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        """What comes after the head."""
        return self.raw.partition(_END)[2]


class Reader:
    """Messages out of a blocking socket, one after the other."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._buffer = b""

    def message(self) -> Message:
        """The next message. Raises Closed, OSError."""
        while True:
            size = length(self._buffer)
            if size is not None and len(self._buffer) >= size:
                raw, self._buffer = self._buffer[:size], self._buffer[size:]
                return Message(raw)
            chunk = self._source.recv(CHUNK)
            if not chunk:
                raise Closed
            self._buffer += chunk


def length(buffer: bytes) -> int | None:
    """How long the message at the buffer's start is, None while its head is not whole."""
    head, end, _ = buffer.partition(_END)
    if not end:
        return None
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(head) + len(end) + int(value)
    return len(head) + len(end)


def post(method: str, body: bytes) -> bytes:
    """A call as the engine writes it."""
    head = f"POST /{method} HTTP/1.1\r\nHost: plugin\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
