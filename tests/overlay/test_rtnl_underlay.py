"""The underlay as the real kernel tells it: which addresses and routes count, and what asking costs."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from typing import Any

import pytest

from overlay import kernel, kernel_netlink, netstate

pytestmark = pytest.mark.contract

DEVICE = netstate.IfName("flannel.1")
ETH0, ETH1 = netstate.IfName("eth0"), netstate.IfName("eth1")


@pytest.fixture
def host(netns: Any) -> Iterator[kernel_netlink.KernelNetlink]:
    netns.run(
        f"ip link add {ETH0} up type veth peer name wire0",
        f"ip link add {ETH1} up type veth peer name wire1",
        "ip link set wire0 up",
        "ip link set wire1 up",
        f"ip addr add 192.0.2.1/24 dev {ETH0}",
        f"ip addr add 198.51.100.1/24 dev {ETH1}",
    )
    with netns.inside():
        yield kernel_netlink.KernelNetlink()


def addresses(host: kernel_netlink.KernelNetlink, name: netstate.IfName) -> tuple[list[str], list[str]]:
    [found] = [link for link in host.list_underlays() if link.name == name]
    return [str(one.ip) for one in found.addresses], [str(one.ip) for one in found.addresses_v6]


def defaults(host: kernel_netlink.KernelNetlink) -> tuple[list[str], list[str]]:
    links = host.list_underlays()
    return (
        [link.name for link in links if link.has_default_route],
        [link.name for link in links if link.has_default_route_v6],
    )


def ways(host: kernel_netlink.KernelNetlink) -> set[str]:
    return {f"{one.destination} via {one.gateway} dev {one.link}" for one in host.list_routes()}


def test_addresses_that_last_go_first_and_those_no_peer_can_use_are_left_out(
    host: kernel_netlink.KernelNetlink, netns: Any
) -> None:
    """The kernel lists IPv6 addresses the latest first."""
    netns.run(
        "ip link add eth2 up type veth peer name wire2",
        "ip addr add 169.254.0.7/16 dev eth2 scope global",
        "ip addr add 203.0.113.1/24 dev eth2",
        f"ip addr add 2001:db8::7/64 dev {ETH1} nodad",
        f"ip addr add 2001:db8::6/64 dev {ETH1} nodad valid_lft 600 preferred_lft 600",
        f"ip addr add 2001:db8::5/64 dev {ETH1} nodad preferred_lft 0",
    )
    assert addresses(host, netstate.IfName("eth2")) == (["203.0.113.1", "169.254.0.7"], [])
    assert addresses(host, ETH1) == (["198.51.100.1"], ["2001:db8::7", "2001:db8::6"])


def test_a_temporary_address_goes_last(host: kernel_netlink.KernelNetlink, netns: Any) -> None:
    netns.sysctl(f"ipv6/conf/{ETH1}/use_tempaddr", "2")
    netns.run(f"ip addr add 2001:db8::6/64 dev {ETH1} nodad mngtmpaddr valid_lft 9000 preferred_lft 9000")
    _, [first, second] = addresses(host, ETH1)
    assert (first, second != first) == ("2001:db8::6", True)


def test_the_default_route_with_the_lowest_metric_counts_in_each_family(
    host: kernel_netlink.KernelNetlink, netns: Any
) -> None:
    assert defaults(host) == ([], [])
    netns.run(
        f"ip addr add 2001:db8::1/64 dev {ETH0} nodad",
        f"ip addr add 2001:db8:1::1/64 dev {ETH1} nodad",
        f"ip route add default via 192.0.2.254 dev {ETH0} metric 200",
        f"ip route add default via 198.51.100.254 dev {ETH1} metric 100",
        f"ip -6 route add default via 2001:db8::ff dev {ETH0} metric 100",
        f"ip -6 route add default via 2001:db8:1::ff dev {ETH1} metric 200",
    )
    assert defaults(host) == ([ETH1], [ETH0])


def test_of_a_route_over_several_links_the_first_is_told(host: kernel_netlink.KernelNetlink, netns: Any) -> None:
    netns.run(
        f"ip route add default nexthop via 198.51.100.254 dev {ETH1} nexthop via 192.0.2.254 dev {ETH0}",
        f"ip route add 203.0.113.0/24 via inet6 fe80::9 dev {ETH0}",
    )
    assert defaults(host) == ([ETH1], [])
    assert ways(host) == {
        "192.0.2.0/24 via None dev eth0",
        "198.51.100.0/24 via None dev eth1",
        "0.0.0.0/0 via 198.51.100.254 dev eth1",
        "203.0.113.0/24 via fe80::9 dev eth0",
    }


def test_a_port_of_a_bridge_without_addresses_is_no_underlay(host: kernel_netlink.KernelNetlink, netns: Any) -> None:
    netns.run("ip link add br0 up type bridge", "ip link set wire0 master br0", f"ip link set {ETH0} master br0")
    assert {link.name for link in host.list_underlays()} == {"br0", ETH0, ETH1, "wire1"}


def test_ten_thousand_routes_of_ours_cost_the_look_at_the_underlay_little(
    host: kernel_netlink.KernelNetlink, netns: Any
) -> None:
    netns.run(f"ip route add default via 192.0.2.254 dev {ETH0}")
    device = netstate.VxlanLink(
        name=DEVICE,
        vni=1,
        port=8472,
        local=ipaddress.ip_address("192.0.2.1"),
        underlay=ETH0,
        mac=netstate.Mac("02:00:00:00:00:01"),
        mtu=1450,
    )
    own = netstate.Address(link=DEVICE, interface=ipaddress.ip_interface("10.0.0.0/32"))
    before = (host.list_underlays(), host.list_routes())
    gateways = [ipaddress.IPv4Address("10.0.1.0") + number * 256 for number in range(10_000)]
    routes = [
        netstate.Route(destination=ipaddress.IPv4Network((gateway, 24)), gateway=gateway, link=DEVICE)
        for gateway in gateways
    ]
    assert host.apply([netstate.Add(obj=obj) for obj in (device, own, *routes)]) == []
    started = time.process_time()
    after = (host.list_underlays(), host.list_routes())
    spent_s = time.process_time() - started
    assert after == before
    assert spent_s < 0.03  # 0.006 s; reading the whole table takes 0.045 s each time


def test_direct_routes_of_ours_are_passed_over(host: kernel_netlink.KernelNetlink) -> None:
    before = host.list_routes()
    direct = netstate.Route(
        destination=ipaddress.ip_network("10.2.22.0/24"),
        gateway=ipaddress.ip_address("192.0.2.9"),
        link=ETH0,
        onlink=False,
    )
    assert host.apply([netstate.Add(obj=direct)]) == []
    assert host.list_routes() == before
    assert kernel.UnderlayRoute(destination=ipaddress.ip_network("192.0.2.0/24"), gateway=None, link=ETH0) in before
