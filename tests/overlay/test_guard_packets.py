"""The guard seen by packets: raw frames from one container of a bridge, and what arrives at the others.

fp-a ── fph-a (a), fph-b (b), fph-free (free: may send anything), fph-new (new: not declared), v-other (other)
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from overlay import firewall_exec, guard, kernel_netlink, netstate

pytestmark = pytest.mark.contract

MACS = {name: f"02:42:0a:02:14:{number:02x}" for number, name in enumerate(("a", "b", "free", "new", "other"), 5)}
PORTS = {name: f"fph-{name}" if name != "other" else "v-other" for name in MACS}
BRIDGE_MAC = "02:42:0a:02:14:01"
SOL_PACKET, PACKET_AUXDATA = 263, 8
BROADCAST, LLDP = "ff:ff:ff:ff:ff:ff", "01:80:c2:00:00:0e"
ARP, IP, IP6, VLAN, QINQ, LLDP_TYPE = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88A8, 0x88CC


def v4(name: str) -> str:
    return f"10.2.20.{list(MACS).index(name) + 5}"


def v6(name: str) -> str:
    return f"2001:db8:2:20::{list(MACS).index(name) + 5}"


def local(name: str) -> str:
    return str(guard.link_local(netstate.Mac(BRIDGE_MAC if name == "bridge" else MACS[name])))


def port(name: str, *, free: bool = False) -> guard.GuardedPort:
    addresses = (ipaddress.ip_address(v4(name)), ipaddress.ip_address(v6(name)))
    return guard.GuardedPort(
        name=netstate.IfName(PORTS[name]), mac=netstate.Mac(MACS[name]), addresses=addresses, free=free
    )


PLAN: guard.GuardPlan = frozenset(
    {
        port("a"),
        port("b"),
        port("free", free=True),
        guard.GuardedBridge(name=netstate.IfName("fp-a"), mac=netstate.Mac(BRIDGE_MAC)),
    }
)


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def frame(source: str, kind: int, body: bytes, target: str = BROADCAST) -> bytes:
    return mac(target) + mac(source) + struct.pack(">H", kind) + body


def tagged(whole: bytes, kind: int = VLAN, *, number: int = 7) -> bytes:
    return whole[:12] + struct.pack(">HH", kind, number) + whole[12:]


def arp(sender: str, sender_ip: str, target_ip: str, *, reply: bool = False) -> bytes:
    head = struct.pack(">HHBBH", 1, IP, 6, 4, 2 if reply else 1)
    return head + mac(sender) + ip(sender_ip) + bytes(6) + ip(target_ip)


def udp(source: str, target: str = "10.2.20.255", ports: tuple[int, int] = (7000, 7000)) -> bytes:
    body = struct.pack(">HHHH", *ports, 8, 0)
    return ip4_header(source, target, len(body)) + body


def ip4_header(source: str, target: str, length: int, offset: int = 0) -> bytes:
    """With its checksum: br_netfilter drops what has a wrong one."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 9, offset, 64, 17, 0) + ip(source) + ip(target)
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack(">H", total ^ 0xFFFF) + head[12:]


def fragment(source: str) -> bytes:
    """One that has no UDP header."""
    return ip4_header(source, "10.2.20.255", 8, offset=5) + bytes(8)


def icmp6(source: str, kind: int, target: str | None = None, *, hops: bytes = b"") -> bytes:
    body = struct.pack(">BBHI", kind, 0, 0, 0) + (ip(target) if target else b"")
    head = struct.pack(">IHBB", 6 << 28, len(hops) + len(body), 0 if hops else 58, 255)
    return head + ip(source) + ip("ff02::1") + hops + body


def arp_of_token_ring(sender: str, sender_ip: str, target_ip: str) -> bytes:
    """Hardware type 6, which the kernel takes for Ethernet."""
    return struct.pack(">H", 6) + arp(sender, sender_ip, target_ip)[2:]


def router_alert() -> bytes:
    """The extension header before a report of multicast listeners. Source: RFC 2711."""
    return struct.pack(">BBHHBB", 58, 0, 0x0502, 0, 1, 0)


class Host:
    """A bridge, its containers, and what arrives where."""

    def __init__(self, make_netns: Any) -> None:
        self.space = make_netns()
        self.leaves = {name: make_netns() for name in MACS}
        bridge = netstate.BridgeLink(name=netstate.IfName("fp-a"), mac=netstate.Mac(BRIDGE_MAC), mtu=1450)
        with self.space.inside():
            assert kernel_netlink.KernelNetlink().apply([netstate.Add(obj=bridge)]) == []
        self.space.run("ip addr add 10.2.20.1/24 dev fp-a", "ip addr add 2001:db8:2:20::1/64 dev fp-a nodad")
        for name, leaf in self.leaves.items():
            self.space.run(
                f"ip link add {PORTS[name]} type veth peer name eth0 netns {leaf.path} address {MACS[name]}",
                f"ip link set {PORTS[name]} master fp-a",
                f"ip link set {PORTS[name]} up",
            )
        with self.space.inside():
            self.wall = firewall_exec.FirewallExec()
            self.wall.guard(PLAN)
        for name, leaf in self.leaves.items():
            leaf.run(f"ip addr add {v4(name)}/24 dev eth0", "ip link set eth0 up")
        self._marks = 0

    @contextlib.contextmanager
    def socket(self, space: Any, link: str) -> Iterator[socket.socket]:
        with space.inside():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        with sock:
            sock.bind((link, 3))
            sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            sock.settimeout(5)
            yield sock

    def passes(self, source: str, *frames: bytes, at: str = "b") -> list[bool]:
        """Whether each frame from a container arrives at another one, or at the bridge itself."""
        seen_in, link = (self.space, "fp-a") if at == "bridge" else (self.leaves[at], "eth0")
        with self.socket(seen_in, link) as seen, self.socket(self.leaves["free"], "eth0") as marker:
            with self.socket(self.leaves[source], "eth0") as sender:
                for one in frames:
                    sender.send(one)
            self._marks += 1
            mark = frame(MACS["free"], 0x88B5, struct.pack(">I", self._marks))
            marker.send(mark)
            arrived: list[bytes] = []
            until = time.monotonic() + 10
            while not arrived or arrived[-1] != mark:
                assert time.monotonic() < until
                arrived.append(read(seen))
        return [one in arrived for one in frames]

    def learned(self) -> set[str]:
        """The MACs that the bridge has learned."""
        lines = self.space.run("bridge fdb show br fp-a").splitlines()
        return {line.split()[0] for line in lines if "permanent" not in line and "self" not in line}

    def close(self) -> None:
        for space in (self.space, *self.leaves.values()):
            space.close()


def read(sock: socket.socket) -> bytes:
    """A frame as it was on the wire: the kernel takes a VLAN's tag out and tells it beside."""
    data, beside, _, _ = sock.recvmsg(4096, 256)
    for level, kind, value in beside:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", value[:20])
            if status & 0x10:
                return data[:12] + struct.pack(">HH", tpid if status & 0x40 else VLAN, tci) + data[12:]
    return data


@pytest.fixture(scope="module")
def host(make_netns: Any) -> Iterator[Host]:
    made = Host(make_netns)
    yield made
    made.close()


HONEST = {
    "ARP request": frame(MACS["a"], ARP, arp(MACS["a"], v4("a"), v4("b"))),
    "ARP reply": frame(MACS["a"], ARP, arp(MACS["a"], v4("a"), v4("b"), reply=True), MACS["b"]),
    "ARP announcement": frame(MACS["a"], ARP, arp(MACS["a"], v4("a"), v4("a"))),
    "ARP probe": frame(MACS["a"], ARP, arp(MACS["a"], "0.0.0.0", v4("a"))),
    "UDP": frame(MACS["a"], IP, udp(v4("a"), v4("b")), MACS["b"]),
    "broadcast": frame(MACS["a"], IP, udp(v4("a"))),
    "fragment": frame(MACS["a"], IP, fragment(v4("a"))),
    "ping": frame(MACS["a"], IP6, icmp6(v6("a"), 128)),
    "from its link-local address": frame(MACS["a"], IP6, icmp6(local("a"), 128)),
    "from a private link-local address": frame(MACS["a"], IP6, icmp6("fe80::1:2:3:4", 128)),
    "solicitation": frame(MACS["a"], IP6, icmp6(v6("a"), 135, v6("b"))),
    "advertisement": frame(MACS["a"], IP6, icmp6(v6("a"), 136, v6("a"))),
    "advertisement of its link-local address": frame(MACS["a"], IP6, icmp6(local("a"), 136, local("a"))),
    "duplicate address detection": frame(MACS["a"], IP6, icmp6("::", 135, v6("a"))),
    "the same for its link-local address": frame(MACS["a"], IP6, icmp6("::", 135, local("a"))),
    "listener report": frame(MACS["a"], IP6, icmp6("::", 143, hops=router_alert())),
    "router solicitation": frame(MACS["a"], IP6, icmp6("::", 133)),
}
FORGED = {
    "IPv4 of another": frame(MACS["a"], IP, udp(v4("b"))),
    "IPv4 of the gateway": frame(MACS["a"], IP, udp("10.2.20.1")),
    "IPv4 of the world": frame(MACS["a"], IP, udp("192.0.2.7")),
    "IPv4 of nobody, as for DHCP": frame(MACS["a"], IP, udp("0.0.0.0", "255.255.255.255", (68, 67))),
    "a fragment of another": frame(MACS["a"], IP, fragment(v4("b"))),
    "MAC of another": frame(MACS["b"], IP, udp(v4("a"))),
    "MAC and IPv4 of another": frame(MACS["b"], IP, udp(v4("b"))),
    "MAC of nobody": frame("02:00:00:00:00:99", IP, udp(v4("a"))),
    "ARP for another's address": frame(MACS["a"], ARP, arp(MACS["a"], v4("b"), v4("free"))),
    "ARP reply for the gateway": frame(MACS["a"], ARP, arp(MACS["a"], "10.2.20.1", v4("b"), reply=True)),
    "ARP with another's MAC inside": frame(MACS["a"], ARP, arp(MACS["b"], v4("a"), v4("b"))),
    "ARP probe with another's MAC inside": frame(MACS["a"], ARP, arp(MACS["b"], "0.0.0.0", v4("b"))),
    "ARP in another's frame": frame(MACS["b"], ARP, arp(MACS["a"], v4("a"), v4("b"))),
    "ARP of another hardware": frame(MACS["a"], ARP, arp_of_token_ring(MACS["a"], v4("b"), v4("free"))),
    "ARP probe of another hardware with another's MAC": frame(
        MACS["a"], ARP, arp_of_token_ring(MACS["b"], "0.0.0.0", v4("b"))
    ),
    "reverse ARP": frame(MACS["a"], 0x8035, arp(MACS["a"], v4("a"), v4("b"))),
    "IPv6 of another": frame(MACS["a"], IP6, icmp6(v6("b"), 128)),
    "IPv6 of the world": frame(MACS["a"], IP6, icmp6("2001:db8:ffff::7", 128)),
    "IPv6 of nobody": frame(MACS["a"], IP6, icmp6("::", 128)),
    "link-local address of another": frame(MACS["a"], IP6, icmp6(local("b"), 128)),
    "link-local address of the bridge": frame(MACS["a"], IP6, icmp6(local("bridge"), 128)),
    "IPv6 with another's MAC": frame(MACS["b"], IP6, icmp6(v6("a"), 128)),
    "advertisement of another": frame(MACS["a"], IP6, icmp6(v6("a"), 136, v6("b"))),
    "advertisement of the gateway": frame(MACS["a"], IP6, icmp6(local("a"), 136, "2001:db8:2:20::1")),
    "advertisement of another's link-local address": frame(MACS["a"], IP6, icmp6(v6("a"), 136, local("b"))),
    "duplicate address detection of another": frame(MACS["a"], IP6, icmp6("::", 135, v6("b"))),
    "the same of another's link-local address": frame(MACS["a"], IP6, icmp6("::", 135, local("bridge"))),
    "router advertisement": frame(MACS["a"], IP6, icmp6(local("a"), 134)),
    "router advertisement behind an option": frame(MACS["a"], IP6, icmp6(local("a"), 134, hops=router_alert())),
    "router advertisement in a VLAN of none": tagged(frame(MACS["a"], IP6, icmp6(local("a"), 134)), number=0),
    "redirect": frame(MACS["a"], IP6, icmp6(local("a"), 137, v6("b"))),
    "honest in a VLAN": tagged(frame(MACS["a"], IP, udp(v4("a")))),
    "forged in a VLAN": tagged(frame(MACS["a"], IP, udp(v4("b")))),
    "forged in two VLANs": tagged(tagged(frame(MACS["a"], IP, udp(v4("b")))), QINQ),
    "ARP in a VLAN": tagged(frame(MACS["a"], ARP, arp(MACS["a"], v4("a"), v4("b")))),
    "other kinds": frame(MACS["a"], 0x88B6, bytes(46)),
    "spanning tree": frame(MACS["a"], 38, bytes.fromhex("424203") + bytes(43)),
}


@pytest.mark.parametrize("at", ["b", "bridge", "other"])
def test_what_a_container_says_of_itself_arrives(host: Host, at: str) -> None:
    told = {name: one for name, one in HONEST.items() if at == "b" or one[:6] != mac(MACS["b"])}
    assert [name for name, seen in zip(told, host.passes("a", *told.values(), at=at), strict=True) if not seen] == []


@pytest.mark.parametrize("at", ["b", "bridge", "other"])
def test_what_it_says_in_anothers_name_arrives_nowhere(host: Host, at: str) -> None:
    assert [name for name, seen in zip(FORGED, host.passes("a", *FORGED.values(), at=at), strict=True) if seen] == []


def test_without_the_guard_all_of_it_would_arrive(host: Host) -> None:
    """Else the test above would show nothing."""
    every = FORGED | HONEST
    assert [name for name, seen in zip(every, host.passes("other", *every.values()), strict=True) if not seen] == []


def test_where_the_operator_allows_it_everything_passes(host: Host) -> None:
    every = FORGED | HONEST
    assert [name for name, seen in zip(every, host.passes("free", *every.values()), strict=True) if not seen] == []


def test_a_port_that_nobody_declared_may_send_nothing(host: Host) -> None:
    own = [one[:6] + mac(MACS["new"]) + one[12:] for one in HONEST.values()]
    assert host.passes("new", *HONEST.values(), *FORGED.values(), *own) == [False] * (len(HONEST) * 2 + len(FORGED))


def test_the_bridge_learns_no_forged_mac_not_even_from_what_it_does_not_forward(host: Host) -> None:
    forged, open_ = "02:00:00:00:00:77", "02:00:00:00:00:78"
    host.passes("a", frame(forged, LLDP_TYPE, bytes(46), LLDP), frame(forged, IP, udp(v4("a"))))
    host.passes("other", frame(open_, IP, udp(v4("other"))))
    assert open_ in host.learned()
    assert forged not in host.learned()


def test_real_containers_find_each_other_in_both_families(host: Host) -> None:
    for name in ("a", "b"):
        host.leaves[name].run(f"ip addr add {v6(name)}/64 dev eth0")  # with duplicate address detection
    until = time.monotonic() + 10
    while "tentative" in "".join(host.leaves[name].run("ip -6 addr show dev eth0") for name in ("a", "b")):
        assert time.monotonic() < until
    for source, target in ((v4("a"), v4("b")), (v6("a"), v6("b"))):
        with host.leaves["b"].bind(target, 7000) as server, host.leaves["a"].bind(source) as client:
            server.settimeout(5)
            client.settimeout(5)
            client.sendto(b"question", (target, 7000))
            data, seen = server.recvfrom(64)
            assert (data, seen[0]) == (b"question", source)
            server.sendto(b"answer", seen)
            assert client.recv(64) == b"answer"


def test_duplicate_addresses_are_still_found_out(host: Host) -> None:
    """Who has the address may defend it, and the other one hears that."""
    free = host.leaves["free"]
    free.run(f"ip addr add {v6('b')}/64 dev eth0")
    until = time.monotonic() + 10
    while "dadfailed" not in (seen := free.run("ip -6 addr show dev eth0")):
        assert time.monotonic() < until, seen
        time.sleep(0.05)
    free.run(f"ip addr del {v6('b')}/64 dev eth0")


def test_an_address_added_by_hand_is_not_heard(host: Host) -> None:
    leaf = host.leaves["a"]
    leaf.run("ip addr add 10.2.20.99/24 dev eth0")
    with host.leaves["b"].bind(v4("b"), 7001) as server, leaf.bind("10.2.20.99") as client:
        server.settimeout(0.3)
        client.sendto(b"question", (v4("b"), 7001))
        with pytest.raises(TimeoutError):
            server.recv(64)


def test_what_is_declared_later_is_let_through_and_what_is_gone_is_not(host: Host) -> None:
    one = frame(MACS["new"], IP, udp(v4("new")))
    with host.space.inside():
        host.wall.guard(PLAN | {port("new")})
        assert host.passes("new", one) == [True]
        host.wall.guard(PLAN)
        assert host.passes("new", one) == [False]
        moved = dataclasses.replace(port("a"), mac=netstate.Mac("02:00:00:00:00:aa"))
        host.wall.guard(PLAN - {port("a")} | {moved})
        assert host.passes("a", HONEST["UDP"], HONEST["UDP"].replace(mac(MACS["a"]), mac(moved.mac))) == [False, True]
        host.wall.guard(PLAN)
        assert host.passes("a", HONEST["UDP"]) == [True]
