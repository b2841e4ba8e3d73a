"""Two hosts of a flannel network in namespaces, and between them a wire, or a NIC that never finishes checksums.

Such a NIC sends frames as the kernel hands them down: where the checksum of a TCP segment was left to the device, it
holds the sum of the pseudo header alone. Nobody finishes the outer UDP checksum here either: over IPv4 it is cleared,
which is legal (RFC 7348 §5); over IPv6 it is computed over what there is.
"""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import struct
import threading
from typing import Any

from overlay import diff, firewall_fake, kernel_netlink, netstate, offload, probe, reconciler
from tests.overlay import node_host

UNDERLAY = netstate.IfName("ens33")
DEVICES = {4: netstate.IfName("flannel.1"), 6: netstate.IfName("flannel-v6.1")}
VTEPS = {4: "198.51.100.{}", 6: "2001:db8::{}"}
SUBNETS = {4: "10.2.{}.0/24", 6: "fd00:2:{}::/64"}
HERE, THERE = 1, 2
ECHO_PORT = 8080

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x0800, 0x86DD
PACKET_OUTGOING = 4


def subnet(version: int, host: int) -> netstate.IPNetwork:
    return ipaddress.ip_network(SUBNETS[version].format(host))


def tunnel(version: int) -> offload.Tunnel:
    """The way from HERE to THERE."""
    return offload.Tunnel(own=subnet(version, HERE).network_address, peer=subnet(version, THERE).network_address)


def state(version: int, own: int, *, tx_checksum: bool) -> netstate.NetState:
    """What the backend asks for on host `own`, with the other one as its peer."""
    device, peer = DEVICES[version], HERE + THERE - own
    gateway = subnet(version, peer).network_address
    mac = netstate.Mac(f"02:00:00:00:01:{peer:02x}")
    return frozenset(
        {
            netstate.VxlanLink(
                name=device,
                vni=1,
                port=8472,
                local=ipaddress.ip_address(VTEPS[version].format(own)),
                underlay=UNDERLAY,
                mac=netstate.Mac(f"02:00:00:00:01:{own:02x}"),
                mtu=1430,
                tx_checksum=tx_checksum,
            ),
            netstate.Address(link=device, interface=ipaddress.ip_interface(subnet(version, own).network_address)),
            netstate.Neighbour(link=device, ip=gateway, mac=mac),
            netstate.FdbEntry(link=device, mac=mac, vtep_ip=ipaddress.ip_address(VTEPS[version].format(peer))),
            netstate.Route(destination=subnet(version, peer), gateway=gateway, link=device),
        }
    )


class Site:
    """Host HERE under test, host THERE whose own offload is off, `broken` or sound what lies between them."""

    def __init__(self, make_netns: Any, *, broken: bool, version: int = 4) -> None:
        self.version = version
        self.here, self.there, self._middle = make_netns(), make_netns(), make_netns()
        self._stop = threading.Event()
        for number, host in ((HERE, self.here), (THERE, self.there)):
            self._middle.run(f"ip link add wire{number} up type veth peer name {UNDERLAY} netns {host.path}")
            host.run(
                f"ip link set {UNDERLAY} up",
                f"ip addr add {VTEPS[4].format(number)}/24 dev {UNDERLAY}",
                f"ip -6 addr add {VTEPS[6].format(number)}/64 dev {UNDERLAY} nodad",
            )
            for scope in ("all", "default"):
                host.sysctl(f"ipv6/conf/{scope}/accept_dad", "0")
        self._threads = [threading.Thread(target=self._echo, args=(self._listen(),))]
        if broken:
            with self._middle.inside():
                ends = [packet_socket(f"wire{number}") for number in (HERE, THERE)]
            self._threads.append(threading.Thread(target=self._carry, args=(ends,)))
        else:
            self._middle.run("ip link add wire up type bridge")
            for number in (HERE, THERE):
                self._middle.run(f"ip link set wire{number} master wire")
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=5)
        for space in (self.here, self.there, self._middle):
            space.close()

    def drop_tcp(self, what: str = "meta l4proto tcp") -> None:
        """A firewall in front of THERE."""
        rule = f"add rule inet guard in iifname {DEVICES[self.version]} {what} drop"
        self.there.run(
            "nft -f -",
            text=f"add table inet guard\nadd chain inet guard in {{ type filter hook input priority 0; }}\n{rule}\n",
        )

    def speak(self, size: int = 100_000) -> bool:
        """Whether a TCP connection from HERE carries so many bytes there and back; called inside HERE."""
        sent = bytes(size)
        try:
            with socket.create_connection((str(tunnel(self.version).peer), ECHO_PORT), timeout=2) as sock:
                threading.Thread(target=sock.sendall, args=(sent,)).start()
                left = size
                while left and (data := sock.recv(65536)):
                    left -= len(data)
        except TimeoutError:
            return False
        return not left

    def _listen(self) -> socket.socket:
        with self.there.inside():
            add(kernel_netlink.KernelNetlink(), state(self.version, THERE, tx_checksum=False))
            await_address(self.version, THERE)
            family = socket.AF_INET if self.version == 4 else socket.AF_INET6
            return socket.create_server((str(tunnel(self.version).peer), ECHO_PORT), family=family)

    def _echo(self, server: socket.socket) -> None:
        server.settimeout(0.1)
        with server:
            while not self._stop.is_set():
                try:
                    sock, _ = server.accept()
                except TimeoutError:
                    continue
                with sock, contextlib.suppress(OSError):  # the wire may be gone before the last word
                    sock.settimeout(1)
                    while data := sock.recv(65536):
                        sock.sendall(data)

    def _carry(self, ends: list[socket.socket]) -> None:
        while not self._stop.is_set():
            for end in select.select(ends, [], [], 0.1)[0]:
                frame, (_, _, kind, *_) = end.recvfrom(65536)
                if kind != PACKET_OUTGOING:
                    ends[1 - ends.index(end)].send(without_offload(frame))
        for end in ends:
            end.close()


class Host:
    """HERE as the plugin sees it: real kernel and reconciler, and what `offload_watch` asks of a node."""

    prefix = "/coreos.com/network"

    def __init__(self, version: int) -> None:
        self.kernel = kernel_netlink.KernelNetlink()
        self.reconciler = reconciler.Reconciler(self.kernel, firewall_fake.FirewallFake())
        self.switched: list[bool] = []
        self._version = version
        self._state = state(version, HERE, tx_checksum=True)
        self.reconciler.set("node", self._state)
        self.reconciler.open_gate()
        await_address(version, HERE)

    @property
    def device(self) -> netstate.VxlanLink:
        """As it is in the kernel."""
        (found,) = (obj for obj in self.kernel.observe(netstate.EMPTY) if isinstance(obj, netstate.VxlanLink))
        return found

    def programmed(self) -> netstate.NetState:
        return self._state

    def set_tx_checksum(self, on: bool) -> None:
        self.switched.append(on)
        self._state = state(self._version, HERE, tx_checksum=on)
        self.reconciler.set("node", self._state)


class Tap:
    """Counts the segments that a device of HERE sends to a port; made inside HERE."""

    def __init__(self, device: str, port: int = probe.PORT) -> None:
        self._sock = packet_socket(device)
        self._port = port

    def count(self) -> int:
        self._sock.setblocking(False)
        found = 0
        while True:
            try:
                frame, (_, _, kind, *_) = self._sock.recvfrom(2048)
            except BlockingIOError:
                return found
            at = {ETH_P_IP: 34, ETH_P_IPV6: 54}.get(int.from_bytes(frame[12:14], "big"), len(frame))
            found += kind == PACKET_OUTGOING and frame[at + 2 : at + 4] == struct.pack("!H", self._port)

    def close(self) -> None:
        self._sock.close()


def add(kernel: kernel_netlink.KernelNetlink, wanted: netstate.NetState) -> None:
    assert kernel.apply(diff.plan(wanted, netstate.EMPTY)) == []


def await_address(version: int, host: int) -> None:
    """IPv6 makes an address usable a moment after it was added."""

    def usable() -> bool:
        with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6) as sock:
            try:
                sock.bind((str(subnet(version, host).network_address), 0))
            except OSError:
                return False
        return True

    node_host.until(usable)


def packet_socket(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.bind((device, ETH_P_ALL))
    return sock


def without_offload(frame: bytes) -> bytes:
    """The frame as the NIC sends it on."""
    match int.from_bytes(frame[12:14], "big"):
        case 0x0800 if frame[23] == socket.IPPROTO_UDP:
            return frame[:40] + b"\0\0" + frame[42:]
        case 0x86DD if frame[20] == socket.IPPROTO_UDP:
            bare = frame[54:60] + b"\0\0" + frame[62:]
            pseudo = frame[22:54] + struct.pack("!II", len(bare), socket.IPPROTO_UDP)
            total = probe.checksum(pseudo + bare + bytes(len(bare) % 2)) or 0xFFFF
            return frame[:60] + struct.pack("!H", total) + frame[62:]
        case _:
            return frame
