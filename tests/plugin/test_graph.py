"""Which threads the plugin starts, and that what is set and known gets to where it is needed."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import time
from collections.abc import Callable, Iterator

import pytest

from driver import network
from ipam import errors, pool, requests
from overlay import netstate
from plugin import graph, settings
from tests.overlay import node_host
from tests.plugin import memory_plugin

POOL = ipaddress.IPv4Network("10.2.1.0/29")
POOL_ID = f"flannelpy/{POOL}"

Build = Callable[..., graph.Graph]


@pytest.fixture
def build(tmp_path: pathlib.Path) -> Iterator[Build]:
    """The real graph, not started, with a pool as Docker tells of one: nothing of it is in the kernel."""
    built: list[graph.Graph] = []

    def make(**chosen: object) -> graph.Graph:
        one = graph.build(
            dataclasses.replace(settings.Settings(state_dir=str(tmp_path), run_dir=str(tmp_path)), **chosen)
        )
        built.append(one)
        known = requests.KnownPool(
            prefix=node_host.PREFIX, cidr=POOL, subpool=None, gateway=POOL[1], aux=frozenset(), endpoints=frozenset()
        )
        one.ipam.adopt([known], time.monotonic())
        return one

    yield make
    for one in built:
        one.stop()


def take(built: graph.Graph, name: str = "") -> str:
    holder = pool.Holder(name=name)
    asked = requests.AddressRequest(pool_id=POOL_ID, purpose=requests.Purpose.ENDPOINT, holder=holder)
    return str(built.ipam.request_address(asked).ip)


@pytest.mark.parametrize(("setting", "asks"), [("auto", True), ("on", False), ("off", False)])
def test_only_auto_asks_about_checksum_offload(
    make_plugin: Callable[..., memory_plugin.MemoryPlugin], setting: str, asks: bool
) -> None:
    plugin = make_plugin(saved=True)
    chosen = dataclasses.replace(plugin.graph, settings=settings.Settings(tx_checksum=setting))
    chosen.start()
    try:
        names = {thread.name for thread in chosen.threads}
    finally:
        chosen.halt.set()
        for thread in chosen.threads:
            thread.join(timeout=5)
    assert ("offload" in names) is asks
    assert {"reconciler", "engine"} <= names
    assert not any(thread.is_alive() for thread in chosen.threads)


@pytest.mark.parametrize("known", [True, False])
def test_nothing_is_removed_before_docker_was_asked(
    make_plugin: Callable[..., memory_plugin.MemoryPlugin], monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Of a state file that knows networks too: it may be an old copy, and not know all of them."""
    plugin = make_plugin(saved=True)
    if known:
        memory_plugin.fill(plugin)
    opened: list[None] = []
    monkeypatch.setattr(plugin.reconciler, "open_gate", lambda: opened.append(None))
    plugin.graph.start()
    plugin.graph.stop()
    assert opened == []


@pytest.mark.parametrize(("seconds", "kept"), [(0, False), (60, True)])
def test_an_address_rests_as_long_as_set(build: Build, seconds: int, kept: bool) -> None:
    built = build(address_quarantine_s=seconds)
    had = take(built, "db")
    built.ipam.release_address(POOL_ID, ipaddress.ip_address(had))
    assert (take(built, "db") == had) is kept


def test_the_error_of_a_full_pool_names_the_network(build: Build) -> None:
    built = build()
    net = network.Network(
        id=memory_plugin.NETWORK_ID,
        bridge=netstate.IfName("fp-4d5d70de7705"),
        pool=POOL,
        gateway=ipaddress.IPv4Interface("10.2.1.1/29"),
        prefix=node_host.PREFIX,
        overlay=ipaddress.IPv4Network("10.2.0.0/16"),
        device=netstate.IfName("flannel.1"),
        mtu=1450,
    )
    built.driver._rows.add_network(net)  # recorded, and not plumbed
    assert [take(built) for _ in range(5)] == [str(POOL[number]) for number in range(2, 7)]
    with pytest.raises(errors.PoolFull) as caught:
        take(built)
    assert str(caught.value).startswith("network 4d5d70de7705: pool 10.2.1.0/29 of lease 10.2.1.0/29 ")
    assert "6 of 6 addresses used" in str(caught.value)
