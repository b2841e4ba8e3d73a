"""One ICMP echo, of any size: whether a peer answers it.

Used by `examine` alone. Raw sockets need CAP_NET_RAW, which Docker gives to every plugin. Acts in the network
namespace of the calling thread. Source: RFC 792, RFC 4443 §4, ip(7) (IP_PMTUDISC_PROBE), ipv6(7).
"""

from __future__ import annotations

import os
import socket
import struct
import time

from overlay import netstate, probe

ICMP_OVERHEAD = {4: 28, 6: 48}
"""Bytes of the headers in front of an echo's data, by family: what a packet of a given size leaves for it."""

_ECHO = struct.Struct("!BBHHH")
_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PROBE = 10, 23, 3


def ask(peer: netstate.IPAddress, own: netstate.IPAddress | None, *, size: int, timeout_s: float) -> bool:
    """Whether `peer` answers a packet of `size` bytes, headers included, sent from `own` and never fragmented.

    Raises OSError where this host may not send pings at all; no route and too large a packet are no answer.
    """
    version = peer.version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        if version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PROBE)
        mark = int.from_bytes(os.urandom(2), "big")
        try:
            if own is not None:
                sock.bind((str(own), 0))
            sock.connect((str(peer), 0))
            sock.send(pack_echo(version, mark, max(0, size - ICMP_OVERHEAD[version])))
            return _hear(sock, version, mark, time.monotonic() + timeout_s)
        except (ConnectionError, TimeoutError):
            return False
        except OSError as exc:
            if isinstance(exc, PermissionError):
                raise
            return False


def pack_echo(version: int, mark: int, length: int) -> bytes:
    """An echo request with `length` bytes of data. The kernel sums ICMPv6 itself."""
    data = bytes(length)
    head = _ECHO.pack(_REQUEST[version], 0, 0, mark, 1)
    total = probe.checksum(head + data + bytes(length % 2)) if version == 4 else 0
    return _ECHO.pack(_REQUEST[version], 0, total, mark, 1) + data


def is_reply(packet: bytes, version: int, mark: int) -> bool:
    """Whether this, as a raw socket gives it, answers the echo `mark`: IPv4 comes with its header."""
    at = (packet[0] & 0xF) * 4 if version == 4 and packet else 0
    if len(packet) < at + _ECHO.size:
        return False
    kind, _, _, found, _ = _ECHO.unpack_from(packet, at)
    return bool(kind == _REPLY[version] and found == mark)


def _hear(sock: socket.socket, version: int, mark: int, deadline: float) -> bool:
    while (left_s := deadline - time.monotonic()) > 0:
        sock.settimeout(left_s)  # not select(2): it takes no descriptor above 1023
        try:
            packet = sock.recv(1 << 16)
        except TimeoutError:
            return False
        if is_reply(packet, version, mark):
            return True
    return False
