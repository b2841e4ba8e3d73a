"""No lock that a call takes is held while a program runs or etcd is asked: what hangs holds up only who needs it."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from overlay import firewall, firewall_fake, lease, registry, registry_fake
from tests.overlay import node_host
from tests.plugin import memory_plugin

NETWORK_ID, ENDPOINT_ID = memory_plugin.NETWORK_ID, memory_plugin.ENDPOINT_ID
OTHER_NETWORK_ID = "7f84cb89bbd1fc848023e910ba4fdc258d9add842940b85e68dedf598ce9fae8"
ROOMS = ("overlay.", "ipam.", "driver.", "plugin.")
QUICK_S = 1.0
BLUE = "/blue/network"
BLUE_CONFIG = '{"Network": "10.9.0.0/16", "Backend": {"Type": "vxlan", "VNI": 9}}'

Plugin = memory_plugin.MemoryPlugin


class HangingFirewall(firewall_fake.FirewallFake):
    """Its tools hang from `hang` to `go_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.hang, self.began, self.go_on = threading.Event(), threading.Event(), threading.Event()

    def ensure(self, plan: firewall.FirewallPlan) -> tuple[str, ...]:
        if self.hang.is_set():
            self.began.set()
            assert self.go_on.wait(30)
        return super().ensure(plan)


@dataclasses.dataclass
class Hang:
    """What hangs from `at` on until `go_on`; `asked` tells what for."""

    at: threading.Event = dataclasses.field(default_factory=threading.Event)
    go_on: threading.Event = dataclasses.field(default_factory=threading.Event)
    asked: list[str] = dataclasses.field(default_factory=list)

    def pause(self, what: str) -> None:
        if self.at.is_set():
            self.asked.append(what)
            assert self.go_on.wait(30)


class HangingRegistry(registry_fake.FakeRegistry):
    """An etcd that takes requests and does not answer."""

    def __init__(self, config: str, hang: Hang) -> None:
        super().__init__(config)
        self.hang = hang

    def read_leases(self) -> registry.Snapshot:
        self.hang.pause("read")
        return super().read_leases()

    def delete_lease(self, held: lease.Lease) -> None:
        self.hang.pause("delete")
        super().delete_lease(held)


@pytest.fixture
def hang() -> Iterator[Hang]:
    one = Hang()
    yield one
    one.go_on.set()


@pytest.fixture
def hanging() -> HangingFirewall:
    return HangingFirewall()


@pytest.fixture
def plugin(make_plugin: Callable[..., Plugin], hanging: HangingFirewall) -> Iterator[Plugin]:
    """A network with the half of the lease, and a firewall that may hang."""
    made = make_plugin(saved=True, firewall=hanging)
    create_network(made, NETWORK_ID, "10.2.1.0/25")
    yield made
    hanging.go_on.set()


def post(plugin: Plugin, method: str, **body: object) -> dict[str, Any]:
    response = plugin.client().post(f"/{method}", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.get_json(force=True)
    return answer


def create_network(plugin: Plugin, network_id: str, pool: str) -> None:
    granted = post(plugin, "IpamDriver.RequestPool", AddressSpace="flannelpy", Pool=pool)
    gateway = {"RequestAddressType": "com.docker.network.gateway"}
    address = post(plugin, "IpamDriver.RequestAddress", PoolID=granted["PoolID"], Address="", Options=gateway)
    data = {"AddressSpace": "flannelpy", "Pool": pool, "Gateway": address["Address"]}
    post(plugin, "NetworkDriver.CreateNetwork", NetworkID=network_id, IPv4Data=[data], IPv6Data=[])


def use_network(plugin: Plugin) -> None:
    """A container's whole life on the network, and what goes on beside."""
    ids = {"NetworkID": NETWORK_ID, "EndpointID": ENDPOINT_ID}
    pool_id = "flannelpy/10.2.1.0/25"
    address = post(plugin, "IpamDriver.RequestAddress", PoolID=pool_id, Address="", Options={})["Address"]
    post(plugin, "NetworkDriver.CreateEndpoint", **ids, Interface={"Address": address}, Options={})
    post(plugin, "NetworkDriver.Join", **ids, SandboxKey="/var/run/docker/netns/b6f0529d4689", Options={})
    plugin.driver.refresh()
    plugin.status()
    post(plugin, "NetworkDriver.Leave", **ids)
    post(plugin, "NetworkDriver.DeleteEndpoint", **ids)
    post(plugin, "IpamDriver.ReleaseAddress", PoolID=pool_id, Address=address.partition("/")[0])


@pytest.fixture
def creation(plugin: Plugin, hanging: HangingFirewall) -> Iterator[concurrent.futures.Future[None]]:
    """Another network, being made while the firewall hangs."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        hanging.hang.set()
        made = pool.submit(create_network, plugin, OTHER_NETWORK_ID, "10.2.1.128/25")
        assert hanging.began.wait(10)
        yield made
        hanging.go_on.set()


def test_a_firewall_that_hangs_holds_no_other_network_up(
    plugin: Plugin, hanging: HangingFirewall, creation: concurrent.futures.Future[None]
) -> None:
    began = time.monotonic()
    use_network(plugin)
    assert time.monotonic() - began < QUICK_S
    assert not creation.done()
    hanging.go_on.set()
    creation.result(10)
    assert {net.id for net in plugin.driver.networks()} == {NETWORK_ID, OTHER_NETWORK_ID}


@pytest.mark.usefixtures("creation")
def test_no_lock_is_held_while_the_firewalls_tools_run(plugin: Plugin) -> None:
    waiters = plugin.reconciler._keeper.rules._commit._changed._waiters  # type: ignore[attr-defined]  # nothing else tells
    for look in (plugin.reconciler.run_pass, plugin.reconciler.glance, plugin.driver._plumbing.write_firewall_again):
        threading.Thread(target=look, daemon=True).start()
    until = time.monotonic() + 10
    while len(waiters) < 3:
        assert time.monotonic() < until
        time.sleep(0.001)
    rooms = {path: lock for path, lock in locks_of(plugin) if ".firewall." not in path}
    assert len(rooms) >= 12, sorted(rooms)
    held = [path for path, lock in rooms.items() if is_held(lock)]
    # But the turn of the one network that is being made, for which nobody else waits.
    assert len(held) == 1, held
    assert f"._creations._turns['{OTHER_NETWORK_ID}']" in held[0]


def test_an_etcd_that_hangs_holds_no_call_up(make_plugin: Callable[..., Plugin], hang: Hang) -> None:
    plugin = make_plugin(saved=True, registry=HangingRegistry(node_host.CONFIG, hang)).join()
    create_network(plugin, NETWORK_ID, "10.2.1.0/25")
    plugin.registry = HangingRegistry(BLUE_CONFIG, hang)
    blue = post(plugin, "IpamDriver.RequestPool", AddressSpace="flannelpy", Options={"flannelpy.prefix": BLUE})
    for one in plugin.nodes.all():
        node_host.until(lambda one=one: one.status().confirmed and one.status().followed)
    hang.at.set()
    for one in plugin.nodes.all():
        threading.Thread(target=one.claim, daemon=True).start()
    node_host.until(lambda: hang.asked == ["read", "read"])
    began = time.monotonic()
    post(plugin, "IpamDriver.ReleasePool", PoolID=blue["PoolID"])
    use_network(plugin)
    create_network(plugin, OTHER_NETWORK_ID, "10.2.1.128/25")
    plugin.status()
    assert time.monotonic() - began < QUICK_S
    assert [one.prefix for one in plugin.nodes.all()] == [node_host.PREFIX]
    node_host.until(lambda: "delete" in hang.asked)
    rooms = {path: lock for path, lock in locks_of(plugin) if ".registry." not in path}
    assert len(rooms) >= 20, sorted(rooms)
    held = [path.rpartition(".")[2] for path, lock in rooms.items() if is_held(lock)]
    assert held == ["deciding"], held  # the node's own, which no call takes
    hang.go_on.set()
    node_host.until(lambda: plugin.registry.read_leases().leases == {})


def locks_of(root: object) -> Iterator[tuple[str, Any]]:
    """Every lock that hangs on an object of ours, with its way from `root`."""
    kinds = (type(threading.Lock()), type(threading.RLock()))
    seen: set[int] = set()
    queue: list[tuple[str, object]] = [("plugin", root)]
    while queue:
        path, one = queue.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, kinds):
            yield path, one
        elif isinstance(one, threading.Condition):
            queue.append((f"{path}.lock", one._lock))  # type: ignore[attr-defined]  # what is looked for
        elif isinstance(one, dict):
            queue += [(f"{path}[{key!r}]", value) for key, value in one.items()]
        elif isinstance(one, list | tuple | set | frozenset):
            queue += [(f"{path}[{number}]", value) for number, value in enumerate(one)]
        elif type(one).__module__.startswith((*ROOMS, "tests.")):
            queue += [(f"{path}.{name}", value) for name, value in attributes(one)]


def is_held(lock: Any) -> bool:
    free: bool = lock.acquire(blocking=False)
    if free:
        lock.release()
    return not free


def attributes(one: object) -> list[tuple[str, object]]:
    if dataclasses.is_dataclass(one):
        return [(field.name, getattr(one, field.name)) for field in dataclasses.fields(one)]
    return list(getattr(one, "__dict__", {}).items())
