"""Two hosts on the real kernel, and what the packets between them say when something is broken on the way."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from overlay import ping, registry_fake
from tests.overlay import node_host, real_node
from tests.overlay.node_host import until

pytestmark = pytest.mark.contract

A, B = "10.2.1.0/24", "10.2.2.0/24"


@pytest.fixture
def pair(make_netns: Any, tmp_path: pathlib.Path) -> Iterator[list[real_node.RealNode]]:
    registry = registry_fake.FakeRegistry(node_host.CONFIG)
    with real_node.plug(make_netns, 2) as spaces:
        hosts = []
        for number, space in enumerate(spaces):
            (tmp_path / str(number)).mkdir()
            space.run(f"ip addr add 192.0.2.{number + 1}/24 dev eth0", "ip route add default via 192.0.2.254")
            host = real_node.RealNode(space, registry, tmp_path / str(number), f"0e:00:00:00:{number:02x}")
            host.join()
            hosts.append(host)
        until(lambda: hosts[0].answers("10.2.2.0"), "the way is there", 10)
        yield hosts
        for host in hosts:
            host.stop()


def said(host: real_node.RealNode) -> str:
    with host.netns.inside():
        return host.node.examine(frozenset({B}))[B]


def drop(host: real_node.RealNode, rule: str) -> None:
    text = f"table inet t {{\nchain c {{\ntype filter hook input priority -200;\n{rule} drop\n}}\n}}\n"
    host.netns.run("nft -f -", text=text)


def test_a_sound_peer_is_reachable(pair: list[real_node.RealNode]) -> None:
    assert said(pair[0]) == "reachable"


def test_a_filtered_tunnel_port_is_named(pair: list[real_node.RealNode]) -> None:
    drop(pair[1], "udp dport 8472")
    assert "UDP port 8472 is filtered" in said(pair[0])


def test_a_host_that_is_down_is_named(pair: list[real_node.RealNode]) -> None:
    pair[1].netns.run("ip link set eth0 down")
    assert "192.0.2.2 does not answer a ping over eth0" in said(pair[0])


def test_a_link_that_carries_less_is_told_from_the_rest(pair: list[real_node.RealNode]) -> None:
    """A path that silently drops large packets, as a switch with a small MTU does."""
    drop(pair[1], "udp dport 8472 meta length > 1400")
    assert "packets of 1450 bytes do not" in said(pair[0])


def test_tcp_that_does_not_arrive_is_told_from_the_rest(pair: list[real_node.RealNode]) -> None:
    drop(pair[1], "meta l4proto tcp")
    assert "TX_CHECKSUM=off" in said(pair[0])


def test_a_ping_is_heard_at_its_full_size_and_no_byte_more(pair: list[real_node.RealNode]) -> None:
    host, peer = pair[0], node_host.key(B).v4.network_address
    own = node_host.key(A).v4.network_address
    with host.netns.inside():
        assert ping.ask(peer, own, size=1450, timeout_s=2)
        assert not ping.ask(peer, own, size=1451, timeout_s=0.3)
        assert not ping.ask(node_host.key("10.2.77.0/24").v4[1], own, size=84, timeout_s=0.3)
