"""Asks a peer through the tunnel whether a TCP segment arrives: with the kernel's own checksum, and with ours.

Used by `offload_watch` alone. A reset says as much as a connection: the checksum was right. The kernel leaves the
checksum of its own segments to the device, and sends what comes through a raw socket as it is. Raw sockets need
CAP_NET_RAW, which Docker gives to every plugin. Acts in the network namespace of the calling thread.
Source: RFC 9293 §3.1, §3.10.7.1; raw(7).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time

from overlay import offload

PORT = 9
"""Discard: nobody listens there, and whoever does expects nothing. Source: RFC 863."""

KERNEL_S = 1.5
"""The kernel sends again after a second: two packets."""

CRAFTED_S = 0.75
CRAFTED_TRIES = 2

_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_HEADER = struct.Struct("!HHIIBBHHH")


class Probe:
    """See the module. Keeps nothing. Takes at most KERNEL_S + CRAFTED_TRIES * CRAFTED_S."""

    def ask(self, tunnel: offload.Tunnel) -> offload.Answers:
        """Send up to two segments of each kind. Raises OSError where this host cannot even send them."""
        if _connect(tunnel):
            return offload.Answers(kernel=True, crafted=False)
        return offload.Answers(kernel=False, crafted=_send_crafted(tunnel))


def _connect(tunnel: offload.Tunnel) -> bool:
    with socket.socket(_family(tunnel), socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leaves no TIME_WAIT behind
        sock.settimeout(KERNEL_S)
        sock.bind((str(tunnel.own), 0))
        try:
            sock.connect((str(tunnel.peer), PORT))
        except ConnectionError:
            return True
        except TimeoutError:
            return False
    return True


def _send_crafted(tunnel: offload.Tunnel) -> bool:
    """The port that the answers go to is taken, so that they are nobody's; the kernel resets an accepted one."""
    with (
        socket.socket(_family(tunnel), socket.SOCK_STREAM) as reserved,
        socket.socket(_family(tunnel), socket.SOCK_RAW, socket.IPPROTO_TCP) as sock,
    ):
        reserved.bind((str(tunnel.own), 0))
        port: int = reserved.getsockname()[1]
        sock.settimeout(CRAFTED_S)
        sock.bind((str(tunnel.own), 0))
        sock.connect((str(tunnel.peer), 0))
        for _ in range(CRAFTED_TRIES):
            sock.send(pack_syn(tunnel, port))
            if _hear(sock, tunnel, port, time.monotonic() + CRAFTED_S):
                return True
    return False


def _hear(sock: socket.socket, tunnel: offload.Tunnel, port: int, deadline: float) -> bool:
    while (left_s := deadline - time.monotonic()) > 0:
        sock.settimeout(left_s)  # not select(2): it takes no descriptor above 1023
        try:
            packet = sock.recv(256)
        except TimeoutError:
            return False
        if is_answer(packet, tunnel.own.version, port):
            return True
    return False


def pack_syn(tunnel: offload.Tunnel, port: int) -> bytes:
    """A segment that asks for a connection from `port` to PORT, whole with its checksum."""
    bare = _HEADER.pack(port, PORT, 1, 0, 5 << 4, _SYN, 65535, 0, 0)
    pseudo = tunnel.own.packed + tunnel.peer.packed + struct.pack("!II", len(bare), socket.IPPROTO_TCP)
    return _HEADER.pack(port, PORT, 1, 0, 5 << 4, _SYN, 65535, checksum(pseudo + bare), 0)


def checksum(data: bytes) -> int:
    """The Internet checksum; `data` has an even number of bytes. Source: RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def is_answer(packet: bytes, version: int, port: int) -> bool:
    """Whether this, as a raw socket gives it, answers the segment from `port`: only IPv4 comes with its header."""
    at = (packet[0] & 0xF) * 4 if version == 4 and packet else 0
    if len(packet) < at + _HEADER.size:
        return False
    source, target, _, _, _, flags, _, _, _ = _HEADER.unpack_from(packet, at)
    return (source, target) == (PORT, port) and bool(flags & (_RST | _ACK))


def _family(tunnel: offload.Tunnel) -> socket.AddressFamily:
    return socket.AF_INET if isinstance(tunnel.own, ipaddress.IPv4Address) else socket.AF_INET6
