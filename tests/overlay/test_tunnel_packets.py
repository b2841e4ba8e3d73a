"""VXLAN from containers, seen by packets: one host with tunnels of the kernel, containers on bridges of all kinds.

    fp-… ── red, red2   named ── named (ours, but named by its operator)    flannel.1, .2, .3, -v6.2
    docker0 ── docker   docker_gwbridge ── publisher    br-… ── compose     shop ── shop (the engine's, so named)
    virbr1 ── machine (a virtual machine, itself a flannel node)            eth0 ── peer

What is sent is a whole datagram of a tunnel: where the kernel takes it, the packet inside comes to INNER of the host.
"""

from __future__ import annotations

import ipaddress
import pathlib
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from overlay import firewall, firewall_exec, firewall_fake, kernel_netlink, netstate, reconciler

pytestmark = pytest.mark.contract

LISTINGS = pathlib.Path(__file__).parent / "firewall"
INNER, INNER_PORT = "10.66.1.1", 7777
PORT, OTHER_PORT = 8472, 4789
HOST, HOST_V6 = "192.0.2.1", "2001:db8::1"
PEER, PEER_V6 = "192.0.2.2", "2001:db8::2"
RED, NAMED = "fp-0123456789ab", "named"
LEAVES = {  # link on the host, and the number in its addresses
    "red": (RED, 20),
    "named": (NAMED, 21),
    "docker": ("docker0", 22),
    "publisher": ("docker_gwbridge", 23),
    "compose": ("br-0123456789ab", 24),
    "shop": ("shop", 25),
    "machine": ("virbr1", 26),
}
IfName = netstate.IfName


def tunnel(name: str, vni: int, local: str, *, port: int = PORT, underlay: str = "eth0") -> netstate.VxlanLink:
    return netstate.VxlanLink(
        name=IfName(name),
        vni=vni,
        port=port,
        local=ipaddress.ip_address(local),
        underlay=IfName(underlay),
        mac=netstate.Mac(f"0e:00:00:00:{'06' if ':' in local else '04'}:{vni:02x}"),
        mtu=1400,
    )


TUNNELS = (
    tunnel("flannel.1", 1, HOST),
    tunnel("flannel.2", 2, HOST),
    tunnel("flannel.3", 3, HOST, port=OTHER_PORT),
    tunnel("flannel-v6.2", 2, HOST_V6),
)
RULES: firewall.FirewallPlan = frozenset(
    firewall.BridgeRules(
        bridge=IfName(bridge),
        subnet=ipaddress.IPv4Network(f"10.{number}.0.0/24"),
        overlay=ipaddress.IPv4Network(f"10.{number}.0.0/16"),
        device=IfName(device),
        outside=True,
    )
    for bridge, number, device in ((RED, 20, "flannel.1"), (NAMED, 21, "flannel.1"))
)


def gateway(name: str, version: int = 4) -> str:
    number = LEAVES[name][1]
    return f"10.{number}.0.1" if version == 4 else f"2001:db8:{number}::1"


def address(name: str, version: int = 4) -> str:
    if name == "peer":
        return {4: PEER, 6: PEER_V6}[version]
    return "10.20.0.6" if name == "red2" else gateway(name, version)[:-1] + "5"


def bridge_link(name: str, number: int) -> netstate.BridgeLink:
    return netstate.BridgeLink(name=IfName(name), mac=netstate.Mac(f"02:42:0a:{number:02x}:00:01"), mtu=1400)


class Host:
    """The host and its leaves."""

    def __init__(self, make_netns: Any, filters: Any, underlay: str = "eth0") -> None:
        self.spaces: dict[str, Any] = {name: make_netns() for name in ("host", "peer", *LEAVES)}
        self.host = self.spaces["host"]
        self.containers = [name for name in LEAVES if name != "machine"]
        for space in self.spaces.values():
            space.sysctl("ipv6/conf/all/accept_dad", "0")
            space.sysctl("ipv6/conf/default/accept_dad", "0")
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "bridge/bridge-nf-call-iptables"):
            self.host.sysctl(key, "1")
        for key in ("all", "default"):
            self.host.sysctl(f"ipv4/conf/{key}/rp_filter", "0")
        self._plug("peer", "eth0")
        if underlay != "eth0":
            self.host.run(f"ip link add {underlay} type bridge", f"ip link set {underlay} up")
            self.host.run(f"ip link set eth0 master {underlay}")
        self.host.run(f"ip addr add {HOST}/24 dev {underlay}", f"ip addr add {HOST_V6}/64 dev {underlay} nodad")
        peer = self.spaces["peer"]
        peer.run(f"ip addr add {PEER}/24 dev eth0", f"ip addr add {PEER_V6}/64 dev eth0 nodad")
        with self.host.inside():
            self.reconciler = reconciler.Reconciler(kernel_netlink.KernelNetlink(), filters)
            for one in TUNNELS:
                self.reconciler.set(f"node:{one.name}", frozenset({tunnel_on(one, underlay)}))
            for bridge, number in ((RED, 20), (NAMED, 21)):
                self.reconciler.set(f"network:{bridge}", frozenset({bridge_link(bridge, number)}))
        for name, (link, _) in LEAVES.items():
            if link not in (RED, NAMED):
                self.host.run(f"ip link add {link} type bridge")
            self._plug(name, f"v-{name}")
            self.host.run(f"ip link set v-{name} master {link}", f"ip link set {link} up")
            self.host.run(f"ip addr add {gateway(name)}/24 dev {link}")
            self.host.run(f"ip -6 addr add {gateway(name, 6)}/64 dev {link} nodad")
            leaf = self.spaces[name]
            leaf.run(f"ip addr add {address(name)}/24 dev eth0", f"ip addr add {address(name, 6)}/64 dev eth0 nodad")
            leaf.run(f"ip route add default via {gateway(name)}", f"ip -6 route add default via {gateway(name, 6)}")
        self.spaces["red2"] = make_netns()
        self._plug("red2", "v-red2")
        self.host.run(f"ip link set v-red2 master {RED}")
        self.spaces["red2"].run("ip addr add 10.20.0.6/24 dev eth0")
        peer.run(f"ip route add default via {HOST}", f"ip -6 route add default via {HOST_V6}")
        self.host.run(f"ip addr add {INNER}/32 dev lo")
        self._inner = self.host.bind(INNER, INNER_PORT)

    def _plug(self, name: str, end: str) -> None:
        space = self.spaces[name]
        self.host.run(f"ip link add {end} type veth peer name eth0 netns {space.path}", f"ip link set {end} up")
        space.run("ip link set eth0 up")

    def enters(
        self, source: str, target: str, device: netstate.VxlanLink = TUNNELS[1], *, size: int = 8, wait_s: float = 0.1
    ) -> bool:
        """Whether what a leaf sends to the device's port at an address of the host comes out of the tunnel."""
        self.send(source, target, device.port, datagram(device, b"x" * size))
        return bool(self.hears(wait_s))

    def hears(self, wait_s: float) -> bytes:
        """The next thing that came out of a tunnel; nothing if none does."""
        self._inner.settimeout(wait_s)
        try:
            return self._inner.recv(4096)
        except TimeoutError:
            return b""

    def passes(self, source: str, target: str, port: int = PORT, *, version: int = 4, wait_s: float = 0.1) -> bool:
        """Whether a datagram from one leaf to another arrives at a port."""
        with self.spaces[target].bind(address(target, version), port) as server:
            self.send(source, address(target, version), port, b"some")
            server.settimeout(wait_s)
            try:
                return server.recv(64) == b"some"
            except TimeoutError:
                return False

    def send(self, source: str, target: str, port: int, data: bytes) -> None:
        with self.spaces[source].bind("::" if ":" in target else "0.0.0.0") as client:
            client.sendto(data, (target, port))

    def close(self) -> None:
        self._inner.close()
        for space in self.spaces.values():
            space.close()


def tunnel_on(one: netstate.VxlanLink, underlay: str) -> netstate.VxlanLink:
    return tunnel(one.name, one.vni, str(one.local), port=one.port, underlay=underlay)


def datagram(device: netstate.VxlanLink, said: bytes = b"some", to: tuple[str, int] = (INNER, INNER_PORT)) -> bytes:
    """A VXLAN packet in which somebody says something to an address. Source: RFC 7348 §5, RFC 791 §3.1."""
    udp = struct.pack(">HHHH", 53, to[1], 8 + len(said), 0) + said
    ends = socket.inet_aton("10.66.9.9") + socket.inet_aton(to[0])
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + ends
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    frame = bytes.fromhex(device.mac.replace(":", "")) + b"\x0e\0\0\0\0\x77\x08\x00" + head + udp
    return struct.pack(">II", 0x08000000, device.vni << 8) + frame


@pytest.fixture(scope="module")
def bare(make_netns: Any) -> Iterator[Host]:
    """A host without any rule."""
    host = Host(make_netns, firewall_fake.FirewallFake())
    yield host
    host.close()


@pytest.fixture(scope="module", params=["none", "28", "28-legacy", "29"])
def guarded(request: pytest.FixtureRequest, make_netns: Any, tmp_path_factory: Any) -> Iterator[Host]:
    """A host with our rules, and an engine's, whose policy is ACCEPT."""
    lockfile = str(tmp_path_factory.mktemp("wall") / "lock")
    host = Host(make_netns, firewall_exec.FirewallExec(lockfile=lockfile))
    engine, _, legacy = request.param.partition("-")
    if engine == "29":
        host.host.run("nft -f -", text=(LISTINGS / "docker-29.nft").read_text())
    elif engine != "none":
        text = (LISTINGS / f"docker-{engine}.rules").read_text().replace(":FORWARD DROP", ":FORWARD ACCEPT")
        host.host.run(f"iptables-{legacy or 'nft'}-restore", text=text)
    with host.host.inside():
        host.reconciler.set_firewall(RULES)
        host.reconciler.open_gate()
        host.reconciler.glance()
    if engine == "none":  # where no engine's rules name it, a bridge of any name is anybody's
        host.containers.remove("shop")
    yield host
    host.close()


TARGETS = [(HOST, TUNNELS[1]), (HOST, TUNNELS[2]), (HOST_V6, TUNNELS[3])]


@pytest.mark.parametrize(("target", "device"), TARGETS, ids=lambda value: getattr(value, "name", value))
def test_without_rules_a_container_enters_any_flannel_network(
    bare: Host, target: str, device: netstate.VxlanLink
) -> None:
    for name in bare.containers:
        assert bare.enters(name, target, device, wait_s=2)
        assert bare.enters(name, gateway(name, 6 if ":" in target else 4), device, wait_s=2)


def test_without_rules_its_datagrams_reach_the_ports_of_peers(bare: Host) -> None:
    for name in bare.containers:
        assert bare.passes(name, "peer", wait_s=2)
        assert bare.passes(name, "peer", version=6, wait_s=2)


@pytest.mark.parametrize(("target", "device"), TARGETS, ids=lambda value: getattr(value, "name", value))
def test_no_container_enters_a_flannel_network_through_its_host(
    guarded: Host, target: str, device: netstate.VxlanLink
) -> None:
    for name in guarded.containers:
        for at in (target, gateway(name, 6 if ":" in target else 4)):
            guarded.send(name, at, device.port, datagram(device, name.encode()))
    assert guarded.hears(0.3) == b""


def test_nor_in_pieces(bare: Host, guarded: Host) -> None:
    assert bare.enters("red", HOST, size=3000, wait_s=2)
    assert not guarded.enters("red", HOST, size=3000)


@pytest.mark.parametrize("version", [4, 6])
def test_no_container_reaches_the_ports_of_peers(guarded: Host, version: int) -> None:
    target = address("peer", version)
    for port in (PORT, OTHER_PORT):
        with guarded.spaces["peer"].bind(target, port) as server:
            for name in guarded.containers:
                guarded.send(name, target, port, name.encode())
            server.settimeout(0.3)
            with pytest.raises(TimeoutError):
                assert server.recv(64) == b""
    for name in guarded.containers:
        assert guarded.passes(name, "peer", PORT + 1, version=version, wait_s=2)


def test_what_comes_out_of_a_tunnel_does_not_enter_another(bare: Host, guarded: Host) -> None:
    """A container of another host reaches this one by its addresses in the flannel network, too."""
    said = datagram(TUNNELS[1])
    for host in (bare, guarded):
        host.send("peer", HOST, PORT, datagram(TUNNELS[0], said, to=(gateway("red"), PORT)))
    assert bare.hears(2)
    assert not guarded.hears(0.1)


@pytest.mark.parametrize(("target", "device"), TARGETS, ids=lambda value: getattr(value, "name", value))
def test_peers_and_machines_that_are_nodes_themselves_do(
    guarded: Host, target: str, device: netstate.VxlanLink
) -> None:
    for name in ("peer", "machine"):
        assert guarded.enters(name, target, device, wait_s=2)
    assert guarded.passes("machine", "peer", device.port, version=6 if ":" in target else 4, wait_s=2)
    assert guarded.passes("peer", "machine", device.port, version=6 if ":" in target else 4, wait_s=2)
    assert guarded.passes("host", "peer", device.port, wait_s=2)


def test_tunnels_of_containers_among_themselves_are_theirs(guarded: Host) -> None:
    """As of a Kubernetes whose nodes are containers: also where what a bridge forwards is filtered."""
    assert guarded.passes("red", "red2", wait_s=2)
    assert guarded.passes("named", "red", wait_s=2)


def test_where_tunnels_use_a_bridge_its_machines_speak_for_themselves(
    make_netns: Any, tmp_path: pathlib.Path
) -> None:
    host = Host(make_netns, firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock")), underlay="br-lan")
    host.spaces["vm"] = make_netns()
    host._plug("vm", "tap0")
    host.host.run("ip link set tap0 master br-lan")
    host.spaces["vm"].run("ip addr add 192.0.2.30/24 dev eth0")
    for name in ("peer", "vm"):
        assert host.enters(name, HOST, wait_s=2)
    assert host.passes("vm", "peer", wait_s=2)
    assert host.passes("machine", "peer", wait_s=2)
    for name in ("red", "compose"):
        assert not host.enters(name, HOST)
        assert not host.passes(name, "peer")
    host.close()
