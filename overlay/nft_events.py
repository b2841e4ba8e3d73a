"""News of nftables from the kernel itself: that something changed, and whether anything has since.

Used by `firewall_exec`, so that it runs tools only where they could find something: neither function starts a
program. iptables-nft changes nftables too; iptables-legacy does not, and is never heard here. Each call sees the
network namespace of its thread. Source: netlink(7); linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

from overlay import errors, rtnl

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWGEN, NFT_MSG_GETGEN = 15, 16
SOL_NETLINK, NETLINK_NO_ENOBUFS = 270, 5

RECEIVE_BUFFER = 1 << 16
"""Small, so that emptying it costs little in any storm: what does not fit is not needed, one notice says it all."""

DATAGRAM = 1 << 16
MOST_AT_ONCE = 1000
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
        with _open_socket() as sock:
            sock.settimeout(1)
            sock.send(request)
            return _parse_generation(sock.recv(DATAGRAM))
    except OSError:
        return None


def changes(stop: threading.Event) -> Iterator[None]:
    """Yields whenever nftables may have changed; ends within a second of `stop`. Raises KernelError.

    The first comes at once: from then on nothing is missed. All changes within COALESCE_S come as one, and so do
    those that happen while the caller is busy.
    """
    try:
        with _open_socket(NFNLGRP_NFTABLES) as sock:
            yield
            while not stop.is_set():
                if _hear(sock):
                    stop.wait(COALESCE_S)
                    _empty(sock)
                    yield
    except OSError as exc:
        raise errors.KernelError([f"nftables events: {exc.strerror or exc}"]) from exc


@contextlib.contextmanager
def _open_socket(group: int = 0) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
        sock.bind((0, 1 << (group - 1) if group else 0))
        yield sock


def _hear(sock: socket.socket) -> bool:
    sock.settimeout(0.5)
    try:
        return bool(sock.recv(DATAGRAM))
    except TimeoutError:
        return False


def _empty(sock: socket.socket) -> None:
    """The kernel drops notices until a full buffer was emptied; after that it keeps all again."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        for _ in range(MOST_AT_ONCE):
            sock.recv(DATAGRAM)


def _parse_generation(data: bytes) -> int | None:
    for kind, _, _, at, end in rtnl.parse_messages(data):
        if kind == NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN:
            said = rtnl.parse_attributes(data, at + _NFGENMSG.size, end).get(_NFTA_GEN_ID)
            return None if said is None else int.from_bytes(said, "big")
    return None
