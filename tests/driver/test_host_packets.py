"""What a container's raw frames do to its host's own IP stack: nothing that the guard has not seen, and no router.

container eth0 ── fph000000000001, port of fp-… (10.2.20.1/24) ── host ── wire (192.0.2.1/24, its way out)
"""

from __future__ import annotations

import contextlib
import ipaddress
import pathlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.driver import test_guarded_containers as guarded
from tests.overlay import conftest

pytestmark = pytest.mark.contract

Host = Any  # the fixture's class lives in conftest.py
PORT, OWN, GATEWAY = "fph000000000001", "10.2.20.5", "10.2.20.1"
RESERVED = [f"01:80:c2:00:00:{number:02x}" for number in (*range(16), *range(0x20, 0x30))]
ARP, IP, IP6, VLAN, QINQ, EXPERIMENTAL = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88A8, 0x88B5
ALL_NODES = "33:33:00:00:00:01"


def checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", total ^ 0xFFFF)


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def udp(source: str, target: str, text: bytes) -> bytes:
    body = struct.pack(">HHHH", 53, 7000, 8 + len(text), 0) + text
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0) + packed(source) + packed(target)
    return head[:10] + checksum(head) + head[12:] + body


def advertisement(router: str, prefix: str = "2001:db8:bad::") -> bytes:
    """A router's, with a default route and a prefix for addresses. Source: RFC 4861 §4.2."""
    source, target = packed("fe80::bad"), packed("ff02::1")
    options = struct.pack(">BB6s", 1, 1, mac(router))
    options += struct.pack(">BBBBIII16s", 3, 4, 64, 0xC0, 3600, 3600, 0, packed(prefix))
    body = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + options
    pseudo = source + target + struct.pack(">II", len(body), 58)
    body = body[:2] + checksum(pseudo + body) + body[4:]
    return struct.pack(">IHBB", 6 << 28, len(body), 58, 255) + source + target + body


def arp(sender: str, sender_ip: str, target_ip: str) -> bytes:
    return struct.pack(">HHBBH", 1, IP, 6, 4, 1) + mac(sender) + packed(sender_ip) + bytes(6) + packed(target_ip)


def tagged(frame: bytes, kind: int, number: int) -> bytes:
    return frame[:12] + struct.pack(">HH", kind, number) + frame[12:]


class Attack:
    """A host with a way out, and a container on it that writes its frames itself."""

    def __init__(self, world: guarded.World, **options: str) -> None:
        self.world, self.space = world, world.space
        self.space.run(
            "ip link add wire type veth peer name router",
            "ip addr add 192.0.2.1/24 dev wire",
            "ip link set wire up",
            "ip link set router up",
            "ip route add default via 192.0.2.254",
        )
        with self.space.inside():
            world.host.create_network(**options)
        world.start("a")
        self.bridge = self.space.run("ip -o link show type bridge").split()[1].rstrip(":")
        self.mac = self._mac_of(world.containers["a"], "eth0")
        self.targets = [*RESERVED, self._mac_of(self.space, self.bridge), "ff:ff:ff:ff:ff:ff", ALL_NODES]

    @staticmethod
    def _mac_of(space: Any, link: str) -> str:
        words: list[str] = space.run(f"ip -o link show dev {link}").split()
        return words[words.index("link/ether") + 1]

    def frame(self, target: str, kind: int, body: bytes) -> bytes:
        return mac(target) + mac(self.mac) + struct.pack(">H", kind) + body

    def frames(self, kind: int, body: bytes) -> list[bytes]:
        """To every MAC that might be special, each plain and with the tags that a host takes for none."""
        plain = [self.frame(target, kind, body) for target in self.targets]
        return plain + [tagged(one, tag, number) for one in plain for tag, number in TAGS]

    def send(self, frames: list[bytes], space: Any = None, link: str = "eth0") -> None:
        with (space or self.world.containers["a"]).inside():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with sock:
            sock.bind((link, 0))
            for frame in frames:
                sock.send(frame)

    def reaches(self, frames: list[bytes]) -> set[bytes]:
        """The texts of those that a socket of the host gets, for all addresses and MACs."""
        with self.space.bind("0.0.0.0", 7000) as server:
            server.settimeout(5)
            self.send([*frames, self.frame(self.targets[-3], IP, udp(OWN, GATEWAY, b"honest, and last"))])
            texts: set[bytes] = set()
            while b"honest, and last" not in texts:
                texts.add(server.recv(64))
        return texts - {b"honest, and last"}

    def routers(self) -> set[str]:
        """The links behind which the host has a router by its own word, once it has heard a real one's."""
        self.send([mac(ALL_NODES) + mac(self.mac) + b"\x86\xdd" + advertisement(self.mac)], self.space, "router")
        until = time.monotonic() + 10
        while "dev wire" not in (routes := self.space.run("ip -6 route show default")):
            assert time.monotonic() < until, routes
        shown = routes + self.space.run("ip -6 route show 2001:db8:bad::/64")
        return {words[words.index("dev") + 1] for line in shown.splitlines() if "dev" in (words := line.split())}


TAGS = ((VLAN, 0), (VLAN, 7), (QINQ, 0))


@pytest.fixture
def world(host: Host) -> Iterator[guarded.World]:
    with (
        contextlib.closing(conftest.Netns()) as space,
        contextlib.closing(guarded.World(host, space, conftest.Netns)) as made,
    ):
        yield made


Start = Callable[..., Attack]


@pytest.fixture
def start(world: guarded.World) -> Start:
    return lambda **options: Attack(world, **options)


@pytest.mark.parametrize("loose", ["0", "1", "2"])
def test_ipv4_in_anothers_name_reaches_no_socket_of_the_host(start: Start, loose: str) -> None:
    """Whatever rp_filter the host has: what counts is the larger of all's and the link's; 2 asks for any route."""
    attack = start()
    attack.space.sysctl("ipv4/conf/all/rp_filter", loose)
    forged = {
        f"{source} to {target}".encode(): (source, target)
        for source in ("198.51.100.7", GATEWAY, "10.2.20.9", "192.0.2.254", "0.0.0.0")
        for target in (GATEWAY, "192.0.2.1", "255.255.255.255", "10.2.20.255", "224.0.0.1")
    }
    frames = [frame for text, ends in forged.items() for frame in attack.frames(IP, udp(*ends, text))]
    assert attack.reaches(frames) == set()


@pytest.mark.parametrize("guard", ["as it is", "allowed", "none", "no bridge"])
def test_no_container_is_a_router_of_its_hosts(start: Start, guard: str) -> None:
    """Not where its operator lets it forge, nor where the kernel has no nftables for bridges.

    Nor until a bridge is back that somebody deleted.
    """
    attack = start(flannelpy__spoofing="allow") if guard == "allowed" else start()
    if guard == "none":
        attack.space.run("nft delete table bridge flannelpy")
    if guard == "no bridge":
        attack.space.run(f"ip link del {attack.bridge}")
    attack.send(attack.frames(IP6, advertisement(attack.mac)))
    assert attack.routers() == {"wire"}


def test_the_host_learns_no_neighbour_from_a_forged_question(start: Start) -> None:
    attack = start()
    attack.send(attack.frames(ARP, arp(attack.mac, "10.2.20.9", GATEWAY)))
    assert attack.reaches([]) == set()
    assert "10.2.20.9" not in attack.space.run("ip neigh show")


@pytest.mark.parametrize("spanning_tree", ["0", "1"])
def test_a_frame_of_any_kind_is_the_bridges_and_never_the_ports(start: Start, spanning_tree: str) -> None:
    attack = start(flannelpy__spoofing="allow")
    attack.space.run(f"ip link set {attack.bridge} type bridge stp_state {spanning_tree}")
    with attack.space.inside():
        at_port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EXPERIMENTAL))
    with at_port:
        at_port.bind((PORT, EXPERIMENTAL))
        at_port.setblocking(False)
        attack.send([attack.frame(target, EXPERIMENTAL, bytes(46)) for target in attack.targets])
        if spanning_tree == "0":
            assert attack.reaches([]) == set()
        with pytest.raises(BlockingIOError):
            at_port.recv(64)


def test_what_somebody_opens_by_hand_is_closed_again(start: Start) -> None:
    """So are the ports of containers that an earlier version started."""
    attack = start()
    attack.space.run(f"ip link set {PORT} type bridge_slave group_fwd_mask 0")
    attack.space.sysctl(f"ipv6/conf/{attack.bridge}/accept_ra", "2")
    lldp = attack.frame("01:80:c2:00:00:0e", IP, udp("198.51.100.7", GATEWAY, b"forged"))
    assert attack.reaches([lldp]) == {b"forged"}
    with attack.space.inside():
        attack.world.reconciler.run_pass()
        assert pathlib.Path("/proc/sys/net/ipv6/conf", attack.bridge, "accept_ra").read_text() == "0\n"
    assert attack.reaches([lldp]) == set()
    assert attack.world.reconciler.last_errors == ()
