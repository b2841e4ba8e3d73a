"""host-gw and DirectRouting on the real kernel: ways that depend on the underlay's routes, and follow them."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from overlay import registry_fake
from tests.overlay import real_node
from tests.overlay.node_host import until

pytestmark = pytest.mark.contract

HOST_GW = '{"Network": "10.2.0.0/16", "Backend": {"Type": "host-gw"}}'
DIRECT = '{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": true}}'
WITHIN_S = 6.0
"""Shorter than the pause between two looks without an event."""
DEFAULT = "ip route add default via 192.0.2.254"
Hosts = list[real_node.RealNode]


@pytest.fixture
def join(make_netns: Any, tmp_path: pathlib.Path) -> Iterator[Callable[[str], Hosts]]:
    """Two hosts in a network of the given config; each has a bridge with its subnet's first address."""
    with contextlib.ExitStack() as down:

        def make(config: str) -> Hosts:
            registry = registry_fake.FakeRegistry(config)
            hosts = []
            for number, space in enumerate(down.enter_context(real_node.plug(make_netns, 2))):
                (tmp_path / str(number)).mkdir()
                space.run(f"ip addr add 192.0.2.{number + 1}/24 dev eth0", DEFAULT)
                space.run("ip link add cbr0 type bridge", "ip link set cbr0 up")
                space.run(f"ip addr add 10.2.{number + 1}.1/24 dev cbr0")
                host = real_node.RealNode(space, registry, tmp_path / str(number), f"0e:00:00:00:{number:02x}")
                host.join()
                down.callback(host.stop)
                hosts.append(host)
            return hosts

        yield make


def meet(hosts: Hosts, what: str) -> None:
    def both() -> bool:
        return all([hosts[1].answers("10.2.1.1", "-I 10.2.2.1"), hosts[0].answers("10.2.2.1", "-I 10.2.1.1")])

    until(both, what, WITHIN_S)


def way(host: real_node.RealNode) -> str:
    """The route to the other host's subnet."""
    return str(host.netns.run("ip route show 10.2.2.0/24")).strip()


def entries(host: real_node.RealNode) -> tuple[str, str]:
    fdb = host.netns.run("bridge fdb show dev flannel.1")
    return str(host.netns.run("ip neigh show dev flannel.1 nud permanent")), str("dst 192.0.2.2" in fdb)


def test_host_gw_routes_over_the_underlay_and_has_its_whole_mtu(join: Callable[[str], Hosts]) -> None:
    hosts = join(HOST_GW)
    meet(hosts, "at first")
    assert "via 192.0.2.2 dev eth0 proto 70" in way(hosts[0])
    assert hosts[0].answers("10.2.2.1", "-M do -s 1472")
    assert not hosts[0].answers("10.2.2.1", "-M do -s 1473")
    assert "flannel" not in hosts[0].netns.run("ip link")
    assert hosts[0].node.status().mtu == 1500


def test_host_gw_routes_come_back_after_the_underlay_was_down(join: Callable[[str], Hosts]) -> None:
    hosts = join(HOST_GW)
    meet(hosts, "at first")
    hosts[0].netns.run("ip link set eth0 down")
    assert way(hosts[0]) == ""
    hosts[0].netns.run("ip link set eth0 up", DEFAULT)
    meet(hosts, "after the bounce")


def test_host_gw_routes_follow_a_peer_that_moves(join: Callable[[str], Hosts]) -> None:
    hosts = join(HOST_GW)
    meet(hosts, "at first")
    hosts[1].netns.run("ip addr add 192.0.2.77/24 dev eth0", "ip addr del 192.0.2.2/24 dev eth0")
    hosts[1].netns.run("ip addr replace 192.0.2.77/24 dev eth0", "ip route replace default via 192.0.2.254")
    until(lambda: "via 192.0.2.77 dev eth0" in way(hosts[0]), "the new gateway", WITHIN_S)
    meet(hosts, "under its new address")


def test_direct_routing_follows_the_routes_below(join: Callable[[str], Hosts]) -> None:
    """A router in between asks for the tunnel, its going for the plain route; neither leaves anything behind."""
    hosts = join(DIRECT)
    meet(hosts, "directly")
    until(lambda: "via 192.0.2.2 dev eth0" in way(hosts[0]), "a direct route", WITHIN_S)
    assert entries(hosts[0]) == ("", "False")
    hosts[1].netns.run("ip addr add 192.0.2.254/24 dev eth0")  # the "router" is the peer under another address
    hosts[0].netns.run("ip route add 192.0.2.2/32 via 192.0.2.254 dev eth0")
    until(lambda: "dev flannel.1" in way(hosts[0]), "through the tunnel", WITHIN_S)
    neighbours, fdb = entries(hosts[0])
    assert ("10.2.2.0" in neighbours, fdb) == (True, "True")
    meet(hosts, "through the tunnel")
    hosts[0].netns.run("ip route del 192.0.2.2/32")
    until(lambda: "via 192.0.2.2 dev eth0" in way(hosts[0]), "directly again", WITHIN_S)
    until(lambda: entries(hosts[0]) == ("", "False"), "nothing is left of the tunnel's entries", WITHIN_S)
    meet(hosts, "directly again")
