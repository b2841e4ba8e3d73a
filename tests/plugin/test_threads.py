"""No thread of the plugin dies: each is made to fail where it meets the world, is named, and works again."""

from __future__ import annotations

import ast
import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterator

import pytest

import driver
import ipam
import overlay
import plugin as plugin_package
from driver import endpoint, names
from ipam import requests
from overlay import firewall, firewall_fake, guard, netstate
from plugin import settings
from tests.overlay import node_host
from tests.plugin import memory_plugin

SUPERVISED = {"overlay/supervisor.py"}
ENDING = {
    "overlay/together.py",  # what it raises is raised again in the thread `node`
    "overlay/etcd_channel.py",  # waits and cancels
    "overlay/etcd_resolve.py",  # one answer of the system's resolver
    "overlay/examine.py",  # who asked waits for them
}
"""Threads that end by themselves, soon or with another one."""

Fail = Callable[[object, str], None]
Case = Callable[[memory_plugin.MemoryPlugin, Fail], Iterator[None]]
"""Breaks what the thread uses, yields, and shows after it was mended that the thread works."""


class BreakableFirewall(firewall_fake.FirewallFake):
    """Fails as no firewall should while `broken`."""

    broken = False

    def ensure(self, plan: firewall.FirewallPlan) -> tuple[str, ...]:
        if self.broken:
            raise RuntimeError("injected")
        return super().ensure(plan)

    def guard(self, plan: guard.GuardPlan) -> tuple[str, ...]:
        if self.broken:
            raise RuntimeError("injected")
        return super().guard(plan)


def is_programmed(plugin: memory_plugin.MemoryPlugin, subnet: str) -> bool:
    state = plugin.kernel.observe(netstate.EMPTY)
    return any(isinstance(obj, netstate.Route) and str(obj.destination) == subnet for obj in state)


def put_peer(plugin: memory_plugin.MemoryPlugin, last: int) -> str:
    subnet = f"10.2.{last}.0/24"
    plugin.registry.put_peer(node_host.key(subnet), node_host.attrs(f"192.0.2.{last}", f"0e:00:00:00:00:{last:02x}"))
    return subnet


def fail_node_at_its_watch(plugin: memory_plugin.MemoryPlugin, fail: Fail) -> Iterator[None]:
    fail(plugin.registry, "watch")
    plugin.nodes.all()[0].follow_anew()
    yield
    subnet = put_peer(plugin, 7)
    node_host.until(lambda: is_programmed(plugin, subnet), "a new peer")


def fail_node_at_an_event(plugin: memory_plugin.MemoryPlugin, fail: Fail) -> Iterator[None]:
    """The state file, at a peer that comes: it is saved after all."""
    fail(plugin.state, "write")
    subnet = put_peer(plugin, 8)
    yield
    node_host.until(lambda: is_programmed(plugin, subnet), "the peer")
    saved = lambda: {str(key) for key in plugin.store.load_peers(node_host.PREFIX)}  # noqa: E731
    node_host.until(lambda: subnet in saved(), "the peer in the file")


def fail_beat(plugin: memory_plugin.MemoryPlugin, fail: Fail) -> Iterator[None]:
    fail(plugin.registry, "keep_alive")
    plugin.registry.go_down()
    plugin.registry.come_back()  # after an outage the lease is renewed at once
    yield
    count = plugin.registry.keep_alives
    node_host.until(lambda: plugin.registry.keep_alives > count, "a keepalive", 10)


def fail_reconciler(plugin: memory_plugin.MemoryPlugin, fail: Fail) -> Iterator[None]:
    fail(plugin.kernel, "observe")
    plugin.reconciler.forget("nobody")
    yield
    subnet = put_peer(plugin, 9)
    node_host.until(lambda: is_programmed(plugin, subnet), "the peer")
    route = next(obj for obj in plugin.kernel.observe(netstate.EMPTY) if isinstance(obj, netstate.Route))
    plugin.kernel.delete(route)
    node_host.until(lambda: route in plugin.kernel.observe(netstate.EMPTY), "the route is repaired", 20)


def fail_kernel_events(plugin: memory_plugin.MemoryPlugin, fail: Fail) -> Iterator[None]:
    fail(plugin.nodes, "notice")
    plugin.kernel.add_foreign_link(netstate.IfName("dummy0"))
    yield
    moved = memory_plugin.moved(plugin, "192.0.2.55/24")
    node_host.until(lambda: plugin.nodes.all()[0].status().public_ip == moved, "the underlay is looked at", 20)


def fail_firewall_events(plugin: memory_plugin.MemoryPlugin, _fail: Fail) -> Iterator[None]:
    assert isinstance(plugin.firewall, BreakableFirewall)
    plugin.firewall.broken = True
    plugin.firewall.flush()
    yield
    plugin.firewall.broken = False
    node_host.until(lambda: plugin.firewall.plan, "the rules are repaired", 20)


def fail_underlay(plugin: memory_plugin.MemoryPlugin, fail: Fail) -> Iterator[None]:
    fail(plugin.kernel, "list_underlays")
    plugin.nodes.notice()
    yield
    moved = memory_plugin.moved(plugin, "192.0.2.56/24")
    node_host.until(lambda: plugin.nodes.all()[0].status().public_ip == moved, "the underlay is looked at", 20)


def fail_offload(plugin: memory_plugin.MemoryPlugin, fail: Fail) -> Iterator[None]:
    fail(memory_plugin.SilentPeers, "ask")
    put_peer(plugin, 10)
    yield
    questions = plugin.graph.offload.status()[0].questions
    node_host.until(lambda: plugin.graph.offload.status()[0].questions > questions, "a peer is asked")


def fail_engine(plugin: memory_plugin.MemoryPlugin, fail: Fail) -> Iterator[None]:
    fail(plugin.engine, "list_networks")
    yield
    asked = plugin.engine.asked
    node_host.until(lambda: plugin.engine.asked > asked + 1, "Docker is asked")


def fail_writer(plugin: memory_plugin.MemoryPlugin, _fail: Fail) -> Iterator[None]:
    assert isinstance(plugin.firewall, BreakableFirewall)
    plugin.firewall.broken = True
    (usage,) = plugin.ipam.usage()
    pool_id = usage.id

    def start_container(last: int) -> None:
        address = plugin.ipam.request_address(requests.AddressRequest(pool_id=pool_id))
        plugin.driver.create_endpoint(
            endpoint.Endpoint(
                id=names.EndpointId(f"{last:064x}"),
                network_id=memory_plugin.NETWORK_ID,
                address=address,
                mac=names.mac_of(address.ip),
            )
        )

    for last in (1, 2):
        with pytest.raises(Exception, match="unexpected RuntimeError: injected"):
            start_container(last)
    yield
    plugin.firewall.broken = False
    start_container(3)


def fail_state_file(plugin: memory_plugin.MemoryPlugin, fail: Fail) -> Iterator[None]:
    fail(plugin.state, "try_again")
    yield
    plugin.state.trouble = "the disk was full"
    node_host.until(lambda: plugin.state.trouble is None, "the file is tried again", 20)


CASES: dict[str, tuple[str, Case]] = {
    "node, its watch": (f"node:{node_host.PREFIX}", fail_node_at_its_watch),
    "node, an event": (f"node:{node_host.PREFIX}", fail_node_at_an_event),
    "beat": (f"beat:{node_host.PREFIX}", fail_beat),
    "reconciler": ("reconciler", fail_reconciler),
    "kernel-events": ("kernel-events", fail_kernel_events),
    "firewall-events": ("firewall-events", fail_firewall_events),
    "underlay": ("underlay", fail_underlay),
    "offload": ("offload", fail_offload),
    "engine": ("engine", fail_engine),
    "writer": ("writer", fail_writer),
    "state-file": ("state-file", fail_state_file),
}


@pytest.mark.parametrize("case", CASES)
def test_a_thread_that_fails_is_told_once_counted_named_and_works_again(
    case: str,
    make_plugin: Callable[..., memory_plugin.MemoryPlugin],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, run = CASES[case]
    plugin = make_plugin(saved=True, firewall=BreakableFirewall())
    memory_plugin.fill(plugin)
    plugin.reconciler.on_events(lambda: plugin.nodes.notice())  # noqa: PLW0108 - what a test breaks later
    timing = dataclasses.replace(memory_plugin.TIMING, grace_s=3600.0)  # Docker knows of nothing here
    chosen = settings.Settings(tx_checksum="auto")
    plugin.graph = dataclasses.replace(plugin.graph, watch=plugin.make_watch(timing), settings=chosen)
    caplog.set_level(logging.INFO, "overlay.supervisor")

    def raises(*_args: object, **_named: object) -> None:
        raise RuntimeError("injected")

    plugin.graph.start()
    try:
        plugin.join()
        node_host.until(lambda: not plugin.missing(), "ready")
        with monkeypatch.context() as broken:
            steps = run(plugin, lambda of, method: broken.setattr(of, method, raises))
            next(steps)
            node_host.until(lambda: plugin.supervisor.failures().get(name), f"{name} fails", 20)
            assert any(line.startswith(f"thread {name} failed") for line in plugin.missing())
            assert f'flannelpy_thread_failures_total{{thread="{name}"}}'.encode() in plugin.metrics()[0]
        next(steps, None)
        node_host.until(lambda: not plugin.missing(), "ready again", 20)
        told = [record for record in caplog.records if record.getMessage().endswith(f" thread={name}")]
        assert len(told) == 1
        assert told[0].exc_info is not None
    finally:
        plugin.graph.halt.set()
        plugin.nodes.stop()
        for thread in plugin.graph.threads:
            thread.join(5)
    assert not [thread for thread in plugin.graph.threads if thread.is_alive()]


def test_every_thread_is_supervised_or_ends_by_itself() -> None:
    found = set()
    for package in (overlay, ipam, driver, plugin_package):
        assert package.__file__ is not None
        root = pathlib.Path(package.__file__).parent
        for path in root.glob("*.py"):
            for call in ast.walk(ast.parse(path.read_text())):
                if isinstance(call, ast.Call) and _name_of(call.func) in {"Thread", "Timer", "ThreadPoolExecutor"}:
                    found.add(f"{root.name}/{path.name}")
    assert found == SUPERVISED | ENDING


def _name_of(called: ast.expr) -> str:
    match called:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""
