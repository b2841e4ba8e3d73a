"""Packets between two hosts whose kernel state is what the backends desire: namespaces, real kernels, no registry."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from overlay import backend, backend_hostgw, backend_vxlan, diff, halves, kernel_netlink, lease, netstate, underlay

pytestmark = pytest.mark.contract

ETH0 = netstate.IfName("eth0")
PORT = 9999
HEADERS = {halves.V4: 28, halves.V6: 48}
"""IP and UDP."""


@dataclasses.dataclass(frozen=True)
class Host:
    """One of the two hosts; `number` is in its addresses and its subnets."""

    netns: Any
    number: int

    def address(self, version: int) -> netstate.IPAddress:
        """Of its underlay."""
        text = f"192.0.2.{self.number}" if version == halves.V4 else f"2001:db8::{self.number}"
        return ipaddress.ip_address(text)

    def inner(self, version: int) -> str:
        """The address that the other one speaks to: that of the tunnel device."""
        return f"10.2.{self.number}.0" if version == halves.V4 else f"fd00:{self.number}::"

    @property
    def key(self) -> lease.SubnetKey:
        return lease.parse_subnet_key(f"10.2.{self.number}.0-24&fd00:{self.number}::-64")

    def own(self, **changes: Any) -> backend.Own:
        with self.netns.inside():
            listed = kernel_netlink.KernelNetlink()
            links, routes = listed.list_underlays(), listed.list_routes()
        return backend.Own(
            key=self.key,
            underlay=underlay.choose_underlay(links, underlay.Wish(iface=ETH0, want_v6=True, **changes), routes),
            mac=netstate.Mac(f"02:00:00:00:04:{self.number:02x}"),
            mac_v6=netstate.Mac(f"02:00:00:00:06:{self.number:02x}"),
        )

    def reconcile(self, state: netstate.NetState) -> None:
        """What is there becomes `state`, whole and exact."""
        with self.netns.inside():
            host = kernel_netlink.KernelNetlink()
            assert host.apply(diff.plan(state, host.observe(state))) == []
            assert host.observe(state) == state


@pytest.fixture
def hosts(make_netns: Any) -> Iterator[tuple[Host, Host]]:
    """Two hosts on one wire, both families."""
    with contextlib.ExitStack() as stack:
        one, two = Host(make_netns(), 1), Host(make_netns(), 2)
        for host in (one, two):
            stack.callback(host.netns.close)
        one.netns.run(f"ip link add {ETH0} mtu 9000 type veth peer name {ETH0} mtu 9000 netns {two.netns.path}")
        for host in (one, two):
            host.netns.run(
                f"ip link set {ETH0} up",
                f"ip addr add {host.address(halves.V4)}/24 dev {ETH0}",
                f"ip addr add {host.address(halves.V6)}/64 dev {ETH0} nodad",
            )
        yield one, two


def connect(made: backend.Backend, hosts: tuple[Host, Host], owns: tuple[backend.Own, backend.Own]) -> None:
    """Each reads what the other publishes."""
    for host, own, other in ((hosts[0], owns[0], owns[1]), (hosts[1], owns[1], owns[0])):
        peer = lease.Lease(key=other.key, attrs=lease.parse_attrs(lease.format_attrs(made.attrs(other))))
        state, skipped = made.desired(own, {peer.key: peer})
        assert skipped == ()
        host.reconcile(state)


def pass_datagram(sender: Host, receiver: Host, version: int, payload: int) -> bool:
    """Whether a datagram that must not be fragmented arrives whole. Raises OSError where it may not leave."""
    family = socket.AF_INET if version == halves.V4 else socket.AF_INET6
    with contextlib.ExitStack() as stack:
        with receiver.netns.inside():
            inbox = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        with sender.netns.inside():
            outbox = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        inbox.bind((receiver.inner(version), PORT))
        inbox.settimeout(0.3)
        outbox.bind((sender.inner(version), 0))
        if version == halves.V4:
            outbox.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        else:
            outbox.setsockopt(socket.IPPROTO_IPV6, 23, 2)  # IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO
            outbox.setsockopt(socket.IPPROTO_IPV6, 62, 1)  # IPV6_DONTFRAG
        data = bytes(index & 0xFF for index in range(payload))
        for _ in range(15):  # the underlay may still be finding its own neighbours
            outbox.sendto(data, (receiver.inner(version), PORT))
            with contextlib.suppress(TimeoutError):
                return inbox.recv(65536) == data
    return False


def flow(hosts: tuple[Host, Host], version: int, payload: int = 64) -> bool:
    """Whether datagrams pass both ways."""
    one, two = hosts
    return pass_datagram(one, two, version, payload) and pass_datagram(two, one, version, payload)


@pytest.mark.parametrize("version", [halves.V4, halves.V6])
@pytest.mark.parametrize(("mtu", "expected"), [(1500, {4: 1450, 6: 1430}), (9000, {4: 8950, 6: 8930})])
def test_the_largest_packet_passes_and_one_byte_more_does_not(
    hosts: tuple[Host, Host], mtu: int, expected: dict[int, int], version: int
) -> None:
    for host in hosts:
        host.netns.run(f"ip link set {ETH0} mtu {mtu}")
    connect(backend_vxlan.VxlanBackend(), hosts, (hosts[0].own(), hosts[1].own()))
    limit = expected[version] - HEADERS[version]
    assert flow(hosts, version, limit)
    with pytest.raises(OSError, match="Message too long") as caught:
        flow(hosts, version, limit + 1)
    assert caught.value.errno == errno.EMSGSIZE


def test_an_underlay_that_shrinks_takes_the_devices_along(hosts: tuple[Host, Host]) -> None:
    made = backend_vxlan.VxlanBackend(mtu=8000)
    connect(made, hosts, (hosts[0].own(), hosts[1].own()))
    assert flow(hosts, halves.V4, 7950 - HEADERS[halves.V4])
    for host in hosts:
        host.netns.run(f"ip link set {ETH0} mtu 1400")
    connect(made, hosts, (hosts[0].own(), hosts[1].own()))
    assert flow(hosts, halves.V4, 1350 - HEADERS[halves.V4])
    assert flow(hosts, halves.V6, 1330 - HEADERS[halves.V6])
    with pytest.raises(OSError, match="Message too long"):
        flow(hosts, halves.V4, 1351 - HEADERS[halves.V4])


def test_every_option_carries_packets(hosts: tuple[Host, Host]) -> None:
    made = backend_vxlan.VxlanBackend(vni=9999, port=4789, gbp=True, learning=True, mtu=1400)
    connect(made, hosts, (hosts[0].own(), hosts[1].own()))
    assert flow(hosts, halves.V4, 1350 - HEADERS[halves.V4])
    assert flow(hosts, halves.V6, 1330 - HEADERS[halves.V6])


@pytest.mark.parametrize("version", [halves.V4, halves.V6])
def test_a_peer_flips_between_tunnel_and_direct_and_leaves_nothing_behind(
    hosts: tuple[Host, Host], version: int
) -> None:
    """`reconcile` compares whole states: a stale neighbour or forwarding entry would show."""
    made = backend_vxlan.VxlanBackend(direct_routing=True)
    direct = (hosts[0].own(), hosts[1].own())
    routed = [dataclasses.replace(own, underlay=dataclasses.replace(own.underlay, routes=())) for own in direct]
    for owns in ((routed[0], routed[1]), direct, (routed[0], routed[1])):
        connect(made, hosts, owns)
        assert flow(hosts, version)


@pytest.mark.parametrize("version", [halves.V4, halves.V6])
def test_host_gw_carries_full_packets_without_a_tunnel(hosts: tuple[Host, Host], version: int) -> None:
    for host in hosts:
        host.netns.run(f"ip addr add {host.inner(4)}/32 dev lo", f"ip addr add {host.inner(6)}/128 dev lo")
    connect(backend_hostgw.HostGwBackend(), hosts, (hosts[0].own(), hosts[1].own()))
    assert flow(hosts, version, 9000 - HEADERS[version])


def test_a_host_behind_a_nat_is_reached_under_its_public_address(make_netns: Any) -> None:
    """`local` is the interface's address; flanneld since v0.27.4 takes the public one, and nothing leaves."""
    with contextlib.ExitStack() as stack:
        inside, outside, router = Host(make_netns(), 1), Host(make_netns(), 2), make_netns()
        for netns in (inside.netns, outside.netns, router):
            stack.callback(netns.close)
        for name, host in (("in0", inside), ("out0", outside)):
            router.run(
                f"ip link add {name} up type veth peer name {ETH0} netns {host.netns.path}",
            )
        router.run("ip addr add 192.0.2.254/24 dev in0", "ip addr add 198.51.100.254/24 dev out0")
        router.sysctl("ipv4/ip_forward", "1")
        router.run("nft -f -", text=NAT)
        for host, address, gateway in (
            (inside, "192.0.2.1/24", "192.0.2.254"),
            (outside, "198.51.100.2/24", "198.51.100.254"),
        ):
            host.netns.run(
                f"ip link set {ETH0} up",
                f"ip addr add {address} dev {ETH0}",
                f"ip route add default via {gateway}",
            )
        public = ipaddress.IPv4Address("203.0.113.1")
        owns = (v4_own(inside, public), v4_own(outside, None))
        connect(backend_vxlan.VxlanBackend(), (inside, outside), owns)
        assert flow((inside, outside), halves.V4)


NAT = """
table ip nat {
    chain in { type nat hook prerouting priority dstnat; ip daddr 203.0.113.1 dnat to 192.0.2.1; }
    chain out { type nat hook postrouting priority srcnat; ip saddr 192.0.2.1 snat to 203.0.113.1; }
}
"""


def v4_own(host: Host, public_ip: ipaddress.IPv4Address | None) -> backend.Own:
    with host.netns.inside():
        links = kernel_netlink.KernelNetlink().list_underlays()
    return backend.Own(
        key=lease.SubnetKey(v4=host.key.v4),
        underlay=underlay.choose_underlay(links, underlay.Wish(public_ip=public_ip)),
        mac=netstate.Mac(f"02:00:00:00:04:{host.number:02x}"),
    )
