"""A netlink socket for bulk work: many requests in one system call, whole dumps, and change notices.

Used by `kernel_netlink` alone, one socket per operation: nothing is shared between threads, and each sees the network
namespace of the thread that opened it. Errors come back as the kernel's own words.
Source: netlink(7); linux/netlink.h (NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from overlay import rtnl

SOL_NETLINK = 270
NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 10, 11, 12
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER = 4 << 20
DATAGRAM = 1 << 18
BATCH = 1000
"""Messages per system call: even if each is refused, the answers fit into the receive buffer."""

DUMP_TRIES = 10
TIMEOUT_S = 10.0
NLM_F_ACK_TLVS = 0x200
NLMSGERR_ATTR_MSG = 1
_NOTHING_THERE = (errno.ENOENT, errno.ENODEV)
"""What the kernel says to a dump of a table that is not there, or of a device that went while we asked."""


class DumpInterrupted(OSError):
    """The table kept changing while it was read."""


class Refusal(OSError):
    """The kernel said no; `errno` and its own words."""


def open_socket(groups: int = 0, buffer: int = RECEIVE_BUFFER) -> RtnlSocket:
    """A socket in the calling thread's network namespace, which hears the notices of `groups`. Raises OSError."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            sock.setsockopt(SOL_NETLINK, option, 1)
        sock.bind((0, groups))
    except OSError:
        sock.close()
        raise
    return RtnlSocket(sock)


def has_strict_dumps(option: int = NETLINK_GET_STRICT_CHK) -> bool:
    """Whether the kernel heeds what is asked of a dump; what else fails is said where it is needed.

    Source: netlink(7), NETLINK_GET_STRICT_CHK, Linux 4.20.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
            sock.setsockopt(SOL_NETLINK, option, 1)
    except OSError as exc:
        return exc.errno != errno.ENOPROTOOPT
    return True


class RtnlSocket:
    """One socket, for one thread. A context manager."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.settimeout(TIMEOUT_S)
        self._sequence = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def next_sequence(self) -> int:
        """A number for a message to be sent by `transact`."""
        self._sequence += 1
        return self._sequence

    def transact(self, messages: Sequence[bytes]) -> Mapping[int, Refusal]:
        """Send messages that were packed with numbers of `next_sequence`; what was refused, by number.

        Only refusals are answered, and the last message of each batch: the kernel has worked off the whole batch when
        `send` returns.
        """
        refused: dict[int, Refusal] = {}
        for at in range(0, len(messages), BATCH):
            batch = list(messages[at : at + BATCH])
            batch[-1] = _ask_for_answer(batch[-1])
            self._socket.send(b"".join(batch))
            self._collect(rtnl.HEADER.unpack_from(batch[-1])[3], refused)
        return refused

    def dump(self, kind: int, body: bytes) -> list[tuple[bytes, int, int]]:
        """A whole table: (datagram, start, end) of each message's body. Raises Refusal, DumpInterrupted.

        A table that does not exist is empty.
        """
        for _ in range(DUMP_TRIES):
            sequence = self.next_sequence()
            self._socket.send(rtnl.pack_message(kind, rtnl.NLM_F_REQUEST | rtnl.NLM_F_DUMP, sequence, body))
            found: list[tuple[bytes, int, int]] = []
            if self._read_dump(sequence, found):
                return found
        raise DumpInterrupted(errno.EINTR, f"the table changed during each of {DUMP_TRIES} attempts to read it")

    def get(self, kind: int, body: bytes) -> tuple[bytes, int, int]:
        """One object. Raises Refusal."""
        sequence = self.next_sequence()
        self._socket.send(rtnl.pack_message(kind, rtnl.NLM_F_REQUEST, sequence, body))
        while True:
            for data, answer, _, number, at, end in self._receive():
                if number != sequence:
                    continue
                if answer == rtnl.NLMSG_ERROR:
                    raise _parse_refusal(data, at, end) or Refusal(errno.ENOENT, "no answer")
                return data, at, end

    def wait(self, timeout_s: float) -> list[tuple[bytes, int, int, int]]:
        """The notices of one datagram: (datagram, type, start, end); empty after `timeout_s`. Raises OSError."""
        self._socket.settimeout(timeout_s)
        try:
            return [(data, kind, at, end) for data, kind, _, _, at, end in self._receive()]
        except (TimeoutError, BlockingIOError):
            return []

    def _read_dump(self, sequence: int, found: list[tuple[bytes, int, int]]) -> bool:
        """Whether the dump came through whole."""
        whole = True
        while True:
            for data, kind, flags, number, at, end in self._receive():
                if number != sequence:
                    continue
                whole = whole and not flags & rtnl.NLM_F_DUMP_INTR
                if kind in {rtnl.NLMSG_DONE, rtnl.NLMSG_ERROR}:
                    refusal = _parse_refusal(data, at, end)
                    if refusal is None or refusal.errno in _NOTHING_THERE:
                        return whole
                    raise refusal
                found.append((data, at, end))

    def _collect(self, last: int, refused: dict[int, Refusal]) -> None:
        while True:
            for data, kind, _, number, at, end in self._receive():
                if kind != rtnl.NLMSG_ERROR:
                    continue
                refusal = _parse_refusal(data, at, end)
                if refusal is not None:
                    refused[number] = refusal
                if number == last:
                    return

    def _receive(self) -> Iterator[tuple[bytes, int, int, int, int, int]]:
        data = self._socket.recv(DATAGRAM)
        return ((data, *message) for message in rtnl.parse_messages(data))


def _ask_for_answer(message: bytes) -> bytes:
    length, kind, flags, sequence, port = rtnl.HEADER.unpack_from(message)
    return rtnl.HEADER.pack(length, kind, flags | rtnl.NLM_F_ACK, sequence, port) + message[rtnl.HEADER.size :]


def _parse_refusal(data: bytes, at: int, end: int) -> Refusal | None:
    """What an error or the end of a dump says; None for success."""
    if end - at < 4:
        return None
    code = -struct.unpack_from("=i", data, at)[0]
    if code == 0:
        return None
    _, kind, flags, _, _ = rtnl.HEADER.unpack_from(data, at - rtnl.HEADER.size)
    words = os.strerror(code)
    if flags & NLM_F_ACK_TLVS:
        start = at + 4 + (rtnl.HEADER.size if kind == rtnl.NLMSG_ERROR else 0)  # an error quotes the request's header
        said = rtnl.parse_attributes(data, start, end).get(NLMSGERR_ATTR_MSG)
        words = said.rstrip(b"\0").decode(errors="replace") if said else words
    return Refusal(code, words)
