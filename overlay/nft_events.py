"""News of nftables from the kernel itself: that something changed, and whether anything has since.

Used by `firewall_exec`, so that it runs tools only where they could find something: neither function starts a
program. iptables-nft changes nftables too; iptables-legacy does not, and is never heard here. Each call sees the
network namespace of its thread. Source: netlink(7); linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import socket
import struct
import threading
from collections.abc import Iterable, Iterator

from overlay import errors, rtnl

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWGEN, NFT_MSG_GETGEN = 15, 16

RECEIVE_BUFFER = 1 << 16
"""Small, so that emptying it costs little in any storm: what does not fit is somebody else's, and that is enough."""

DATAGRAM = 1 << 16
MOST_AT_ONCE = 1000
MOST_OURS = 1000
COALESCE_S = 0.1
"""Longer than a transaction takes, and most scripts of an operator."""

_NFGENMSG = struct.Struct(">BBH")
_NFTA_GEN_ID = 1


def read_generation() -> int | None:
    """The number of the last change of nftables; None if the kernel does not tell.

    While two readings are equal, nothing has changed between them, but for what was just being changed at the first:
    the kernel counts a moment before it shows. Its notice comes after.
    """
    request = rtnl.pack_message(
        NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, rtnl.NLM_F_REQUEST, 1, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)
    )
    try:
        with open_socket() as sock:
            sock.settimeout(1)
            sock.send(request)
            return _parse_generation(sock.recv(DATAGRAM))
    except OSError:
        return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A moment: the number of the last change, None if the kernel does not tell, and how much news there was."""

    number: int | None
    news: int


class Journal:
    """Which changes were our own and have been seen to be no one else's, so that nobody needs to look after them.

    One thread hears, others write: what is added is only ever a number.
    """

    def __init__(self) -> None:
        self._news = 0
        self._ours: dict[int, None] = {}

    def mark(self) -> Mark:
        """This moment."""
        return Mark(number=read_generation(), news=self._news)

    def note_ours(self, before: int | None, after: int | None) -> bool:
        """We wrote once between two readings; whether nobody else did."""
        if before is None or after != before + 1:
            return False
        self._ours[after] = None
        while len(self._ours) > MOST_OURS:
            del self._ours[next(iter(self._ours))]
        return True

    def is_ours(self, then: Mark, now: Mark) -> bool:
        """Whether all that has changed from `then` to `now` was ours."""
        if then.number is None or now.number is None or then.news != now.news:
            return False
        return 0 <= now.number - then.number <= MOST_OURS and self._all_ours(range(then.number + 1, now.number + 1))

    def hear(self, numbers: frozenset[int] | None) -> bool:
        """Take notice of changes; whether any may have been somebody else's."""
        if numbers and self._all_ours(numbers):
            return False
        self._news += 1
        return True

    def _all_ours(self, numbers: Iterable[int]) -> bool:
        return all(number in self._ours for number in numbers)


def changes(stop: threading.Event) -> Iterator[frozenset[int] | None]:
    """Yields whenever nftables may have changed; ends within a second of `stop`. Raises KernelError.

    The numbers of the changes, None where some may have been missed. The first comes at once: from then on nothing
    is missed. All changes within COALESCE_S come as one, and so do those that happen while the caller is busy.
    """
    try:
        with open_socket(NFNLGRP_NFTABLES) as sock:
            yield None
            while not stop.is_set():
                heard = _Heard()
                if heard.wait(sock):
                    stop.wait(COALESCE_S)
                    heard.take_all(sock)
                    yield heard.numbers()
    except OSError as exc:
        raise errors.KernelError([f"nftables events: {exc.strerror or exc}"]) from exc


@contextlib.contextmanager
def open_socket(group: int = 0) -> Iterator[socket.socket]:
    """A socket to nfnetlink, in the multicast group of this number, 0 for none."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind((0, 1 << (group - 1) if group else 0))
        yield sock


class _Heard:
    """One burst of notices."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        self._lost = False

    def numbers(self) -> frozenset[int] | None:
        """The numbers of the changes, None where some may have been missed."""
        return None if self._lost or not self._numbers else frozenset(self._numbers)

    def wait(self, sock: socket.socket) -> bool:
        """Wait a little for a first notice."""
        sock.settimeout(0.5)
        try:
            self._take(sock)
        except TimeoutError:
            return False
        return True

    def take_all(self, sock: socket.socket) -> None:
        """The kernel drops notices until a full buffer was emptied; after that it keeps all again."""
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(MOST_AT_ONCE):
                self._take(sock)
            self._lost = True

    def _take(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(DATAGRAM)
        except OSError as exc:
            if exc.errno != errno.ENOBUFS:
                raise
            self._lost = True
            return
        if (number := _parse_generation(data)) is not None:
            self._numbers.add(number)


def _parse_generation(data: bytes) -> int | None:
    for kind, _, _, at, end in rtnl.parse_messages(data):
        if kind == NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN:
            said = rtnl.parse_attributes(data, at + _NFGENMSG.size, end).get(_NFTA_GEN_ID)
            return None if said is None else int.from_bytes(said, "big")
    return None
