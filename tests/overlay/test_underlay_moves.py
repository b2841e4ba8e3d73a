"""The link below changes under running nodes on the real kernel: the other host must reach them again by itself."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from overlay import registry_fake
from tests.overlay import node_host, real_node
from tests.overlay.node_host import until

pytestmark = pytest.mark.contract

WITHIN_S = 6.0
"""Shorter than the pause between two looks without an event."""
ROUTE = "ip route add default via 192.0.2.254"


class Pair:
    """Two hosts; `a` looks, `b` is moved about. `router` is the namespace of the bridge between them."""

    def __init__(self, router: Any, spaces: list[Any], directory: pathlib.Path, config: str) -> None:
        self.router = router
        self.registry = registry_fake.FakeRegistry(config)
        self.hosts = []
        for number, space in enumerate(spaces):
            (directory / str(number)).mkdir()
            space.run(f"ip addr add 192.0.2.{number + 1}/24 dev eth0", ROUTE)
            host = real_node.RealNode(space, self.registry, directory / str(number), f"0e:00:00:00:{number:02x}")
            host.join()
            self.hosts.append(host)
        self.a, self.b = self.hosts

    def meet(self, what: str) -> None:
        """Both ask: a host whose NIC was changed is heard of by its own question."""
        until(lambda: all([self.b.answers("10.2.1.0"), self.a.answers("10.2.2.0")]), what, WITHIN_S)

    def device(self) -> str:
        return str(self.b.netns.run("ip -d link show flannel.1"))

    def writes(self) -> int:
        return self.registry.read_leases().revision


@pytest.fixture
def pair(make_netns: Any, tmp_path: pathlib.Path) -> Iterator[Pair]:
    with real_node.plug(make_netns, 2, mtu=9000) as spaces:
        for space in spaces:
            space.run("ip link set eth0 mtu 1500")
        made = Pair(spaces.router, spaces, tmp_path, node_host.CONFIG)
        made.meet("at first")
        yield made
        for host in made.hosts:
            host.stop()


def test_a_host_with_another_address_is_reached_there(pair: Pair) -> None:
    pair.b.netns.run("ip addr add 192.0.2.77/24 dev eth0", "ip addr del 192.0.2.2/24 dev eth0")
    pair.b.netns.run("ip addr replace 192.0.2.77/24 dev eth0", "ip route replace default via 192.0.2.254")
    pair.meet("under its new address")
    assert "local 192.0.2.77" in pair.device()
    assert "dst 192.0.2.77" in pair.a.netns.run("bridge fdb show dev flannel.1")
    assert pair.b.node.status().public_ip == "192.0.2.77"


def test_the_mtu_of_the_link_is_followed_both_ways(pair: Pair) -> None:
    for link, device in ((9000, 8950), (1400, 1350), (1500, 1450)):
        pair.b.netns.run(f"ip link set eth0 mtu {link}")
        until(lambda device=device: f" mtu {device} " in pair.device(), f"mtu {device}", WITHIN_S)
    pair.meet("at the end")


def test_a_link_that_was_down_is_used_again_without_a_write(pair: Pair) -> None:
    before = pair.writes()
    pair.b.netns.run("ip link set eth0 down")
    until(lambda: pair.b.node.status().underlay_trouble, "the lost default route is noticed", WITHIN_S)
    pair.b.netns.run("ip link set eth0 up", ROUTE)
    pair.meet("after the bounce")
    until(lambda: pair.b.node.status().underlay_trouble is None, "no trouble any more", WITHIN_S)
    assert pair.writes() == before


def test_a_link_that_was_replaced_gets_the_device_with_its_mac_again(pair: Pair) -> None:
    pair.b.netns.run("ip link del eth0")
    until(lambda: "flannel.1" not in pair.b.netns.run("ip link"), "the kernel took the device along", WITHIN_S)
    pair.router.run(f"ip link add p9 mtu 1500 type veth peer name eth0 mtu 1500 netns {pair.b.netns.path}")
    pair.router.run("ip link set p9 master br0 up")
    pair.b.netns.run("ip link set eth0 up", "ip addr add 192.0.2.2/24 dev eth0", ROUTE)
    pair.meet("over the new link")
    assert "0e:00:00:00:01:01" in pair.device()


def test_another_uplink_is_taken_when_the_default_route_moves(pair: Pair) -> None:
    pair.router.run(f"ip link add p9 mtu 1500 type veth peer name eth1 mtu 1500 netns {pair.b.netns.path}")
    pair.router.run("ip link set p9 master br0 up")
    pair.b.netns.run("ip link set eth1 up", "ip addr del 192.0.2.2/24 dev eth0", "ip addr add 192.0.2.9/24 dev eth1")
    pair.b.netns.run("ip route replace default via 192.0.2.254 dev eth1")
    pair.meet("over the other uplink")
    assert "dev eth1" in pair.device()


def test_a_floating_address_changes_nothing(pair: Pair) -> None:
    before = pair.writes()
    pair.b.netns.run("ip addr add 192.0.2.200/32 dev eth0")
    pair.b.netns.run("ip addr add 192.0.2.201/24 dev eth0")
    pair.meet("with the floating address")
    pair.b.netns.run("ip addr del 192.0.2.200/32 dev eth0")
    pair.meet("without it")
    assert (pair.writes(), pair.b.node.status().public_ip) == (before, "192.0.2.2")
