"""Containers as the engine makes them, on a real kernel: what the driver's calls alone let them send."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from driver import service, store
from overlay import firewall_exec, kernel_netlink, reconciler
from tests.overlay import conftest

pytestmark = pytest.mark.contract

Host = Any  # the fixture's class lives in conftest.py
Netns = Any
IDS = {name: f"{number:012x}" + "0" * 52 for number, name in enumerate(("a", "b", "c"), start=1)}
ADDRESSES = {"a": "10.2.20.5", "b": "10.2.20.6", "c": "10.2.20.7"}


class World:
    """A driver in a namespace, and containers."""

    def __init__(self, host: Host, space: Netns, make_netns: Callable[[], Netns]) -> None:
        self.host, self.space, self._make_netns = host, space, make_netns
        self.containers: dict[str, Netns] = {}
        with space.inside():
            self.reconciler = reconciler.Reconciler(kernel_netlink.KernelNetlink(), firewall_exec.FirewallExec())
            self.reconciler.open_gate()
            host.driver = service.Driver(
                store.DriverStore(host.files[-1]), host.holdings, self.reconciler, host.ports
            )

    def start(self, name: str) -> None:
        """As dockerd does: the container's end gets its MAC and address, and is set up."""
        with self.space.inside():
            answer = self.host.create_endpoint(IDS[name], f"{ADDRESSES[name]}/24")
            link = self.host.join(IDS[name])["InterfaceName"]["SrcName"]
        made = self.containers[name] = self._make_netns()
        self.space.run(f"ip link set {link} netns {made.path} name eth0")
        made.run(f"ip link set eth0 address {answer['Interface']['MacAddress']}")
        made.run(f"ip addr add {ADDRESSES[name]}/24 dev eth0", "ip link set eth0 up")

    def hears(self, target: str, source: str, address: str) -> bool:
        """Whether what a container sends from an address arrives at another one.

        Sent again and again: the first are lost where a link that was set up has no queue yet.
        """
        where, who = self.containers[target], self.containers[source]
        with where.bind(ADDRESSES[target], 7000) as server, who.bind(address) as client:
            server.settimeout(0.1)
            for _ in range(20):
                client.sendto(b"question", (ADDRESSES[target], 7000))
                with contextlib.suppress(TimeoutError):
                    return bool(server.recv(64))
        return False

    def close(self) -> None:
        for one in self.containers.values():
            one.close()


@pytest.fixture
def make_netns() -> Callable[[], Netns]:
    """Namespaces as those of tests/overlay."""
    return conftest.Netns


@pytest.fixture
def netns() -> Iterator[Netns]:
    space = conftest.Netns()
    yield space
    space.close()


@pytest.fixture
def world(host: Host, netns: Netns, make_netns: Callable[[], Netns]) -> Iterator[World]:
    made = World(host, netns, make_netns)
    yield made
    made.close()


def test_containers_reach_each_other_under_their_own_names_only(world: World) -> None:
    with world.space.inside():
        world.host.create_network()
    for name in ("a", "b"):
        world.start(name)
    assert world.hears("b", "a", ADDRESSES["a"])
    assert world.hears("a", "b", ADDRESSES["b"])
    world.containers["a"].run("ip addr add 10.2.20.99/24 dev eth0")
    assert not world.hears("b", "a", "10.2.20.99")
    world.containers["a"].run("ip link set eth0 address 02:00:00:00:00:99")
    assert not world.hears("b", "a", ADDRESSES["a"])


def test_a_container_that_leaves_and_joins_again_is_heard_again(world: World) -> None:
    with world.space.inside():
        world.host.create_network()
    for name in ("a", "b"):
        world.start(name)
    with world.space.inside():
        world.host.leave(IDS["a"])
        world.host.delete_endpoint(IDS["a"])
        world.reconciler.run_pass()
        assert 'fph000000000001"' not in world.space.run("nft list table bridge flannelpy")
    world.containers["a"].close()
    world.start("a")
    assert world.hears("b", "a", ADDRESSES["a"])


@pytest.mark.parametrize(("option", "heard"), [("true", True), ("false", False)])
def test_without_icc_they_reach_the_gateway_and_not_each_other(world: World, option: str, heard: bool) -> None:
    world.space.sysctl("bridge/bridge-nf-call-iptables", "0")  # or the rules do it alone
    with world.space.inside():
        world.host.create_network(com__docker__network__bridge__enable_icc=option)
    for name in ("a", "b"):
        world.start(name)
    assert world.hears("b", "a", ADDRESSES["a"]) is heard
    with world.space.bind("10.2.20.1", 7000) as server, world.containers["a"].bind(ADDRESSES["a"]) as client:
        server.settimeout(5)
        client.sendto(b"question", ("10.2.20.1", 7000))
        assert server.recv(64) == b"question"


def test_isolation_taken_off_by_hand_comes_back(world: World) -> None:
    with world.space.inside():
        world.host.create_network(com__docker__network__bridge__enable_icc="false")
    for name in ("a", "b"):
        world.start(name)
    world.space.run("bridge link set dev fph000000000001 isolated off")
    assert world.space.run("bridge -d link show").count(" isolated on ") == 1
    with world.space.inside():
        world.reconciler.run_pass()
    assert world.space.run("bridge -d link show").count(" isolated on ") == 2
    assert not world.hears("b", "a", ADDRESSES["a"])
