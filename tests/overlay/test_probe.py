"""The segment that asks a peer, and what counts as an answer. What the kernel does with it: test_offload_contract."""

import dataclasses
import fcntl
import ipaddress
import resource
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from overlay import offload, ping, probe

V4 = offload.Tunnel(own=ipaddress.ip_address("10.2.1.0"), peer=ipaddress.ip_address("10.2.2.0"))
V6 = offload.Tunnel(own=ipaddress.ip_address("fd00:2:1::"), peer=ipaddress.ip_address("fd00:2:2::"))
PORT = 40000
RST, SYN, ACK = 0x04, 0x02, 0x10


def segment(source: int = probe.PORT, target: int = PORT, flags: int = RST | ACK) -> bytes:
    return struct.pack("!HHIIBBHHH", source, target, 0, 2, 5 << 4, flags, 0, 0, 0)


def test_the_segment_asks_for_a_connection_to_discard() -> None:
    assert probe.pack_syn(V4, PORT) == bytes.fromhex("9c40 0009 00000001 00000000 50 02 ffff fc94 0000")


@pytest.mark.parametrize("tunnel", [V4, V6])
def test_a_receiver_finds_the_checksum_right(tunnel: offload.Tunnel) -> None:
    whole = probe.pack_syn(tunnel, PORT)
    pseudo = tunnel.own.packed + tunnel.peer.packed + struct.pack("!II", len(whole), 6)
    assert probe.checksum(pseudo + whole) == 0
    elsewhere = dataclasses.replace(tunnel, peer=tunnel.peer + 1)
    assert probe.pack_syn(elsewhere, PORT) != whole


def test_the_checksum_is_that_of_the_standard() -> None:
    """RFC 1071 §3: the sum is ddf2."""
    assert probe.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


@pytest.mark.parametrize("header", [bytes([0x45]) + bytes(19), bytes([0x46]) + bytes(23)])
@pytest.mark.parametrize(
    ("packet", "counts"),
    [
        (segment(), True),
        (segment(flags=RST), True),
        (segment(flags=SYN | ACK), True),
        (segment(flags=SYN), False),
        (segment(source=80), False),
        (segment(target=PORT + 1), False),
        (segment()[:19], False),
    ],
)
def test_a_reset_or_an_acceptance_of_our_segment_is_an_answer(header: bytes, packet: bytes, counts: bool) -> None:
    assert probe.is_answer(header + packet, 4, PORT) is counts
    assert probe.is_answer(packet, 6, PORT) is counts


def test_nothing_is_no_answer() -> None:
    assert not probe.is_answer(b"", 4, PORT)
    assert not probe.is_answer(b"", 6, PORT)


@pytest.fixture
def high() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket whose descriptor select(2) takes not, as one has that reserves 1,000 ports, and its other end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard) if hard >= 0 else 4096, hard))
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    try:
        with ours, theirs, socket.socket(fileno=fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, 2000)) as moved:
            yield moved, theirs
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("asking", ["probe", "ping"])
def test_answers_are_heard_whatever_the_number_of_the_descriptor(
    high: tuple[socket.socket, socket.socket], asking: str
) -> None:
    ours, theirs = high
    reply = struct.pack("!BBHHH", 129, 0, 0, 7, 1)

    def hear(within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        return probe._hear(ours, V6, PORT, deadline) if asking == "probe" else ping._hear(ours, 6, 7, deadline)

    assert not hear(0.05)
    theirs.send(b"something else")
    theirs.send(segment() if asking == "probe" else reply)
    assert hear(2.0)
