from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from overlay import errors, lease, netstate, node, nodes, nodestore, registry_fake, statefile, supervisor
from tests.overlay import node_host

BLUE = "/blue/network"
BLUE_CONFIG = '{"Network": "10.9.0.0/16", "Backend": {"Type": "vxlan", "VNI": 9}}'


@dataclasses.dataclass
class World:
    """One host in several flannel networks, each with its registry."""

    host: node_host.NodeHost
    registries: dict[str, registry_fake.FakeRegistry]

    def __post_init__(self) -> None:
        self.nodes = nodes.Nodes(node_host.PREFIX, self.make)
        self.host.claim_room = self.nodes.claim_room

    def make(self, prefix: str) -> node.Node:
        self.host.registry = self.registries.setdefault(prefix, registry_fake.FakeRegistry())
        return self.host.make(prefix)

    def start(self, *saved: str) -> nodes.Nodes:
        self.nodes.restore(saved)
        self.nodes.start()
        return self.nodes


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[World]:
    one = World(
        node_host.NodeHost(tmp_path, registry_fake.FakeRegistry()),
        {
            node_host.PREFIX: registry_fake.FakeRegistry(node_host.CONFIG),
            BLUE: registry_fake.FakeRegistry(BLUE_CONFIG),
        },
    )
    yield one
    one.host.close()


def test_the_default_network_is_joined_by_itself(world: World) -> None:
    held = world.start().wait(None, 5)
    assert (held.prefix, str(held.subnet)) == (node_host.PREFIX, "10.2.1.0/24")
    assert world.nodes.held() == [held]


def test_others_are_joined_when_they_are_asked_for(world: World) -> None:
    world.start().wait(None, 5)
    blue = world.nodes.wait(BLUE, 5)
    assert (str(blue.network), blue.device) == ("10.9.0.0/16", "flannel.9")
    assert [held.prefix for held in world.nodes.held()] == [node_host.PREFIX, BLUE]
    assert [one.prefix for one in world.nodes.all()] == [node_host.PREFIX, BLUE]


def test_saved_networks_are_held_without_any_registry(world: World) -> None:
    world.start().wait(None, 5)
    world.nodes.wait(BLUE, 5)
    world.nodes.stop()
    for registry in world.registries.values():
        registry.go_down()
    again = World(world.host, world.registries)
    again.nodes.restore(world.host.store.prefixes())
    assert [held.prefix for held in again.nodes.held()] == [node_host.PREFIX, BLUE]


def test_a_network_asked_for_before_the_start_is_joined_after_it(world: World) -> None:
    world.nodes.restore([])
    with pytest.raises(errors.NotReady):
        world.nodes.wait(BLUE, 0)
    world.nodes.start()
    assert world.nodes.wait(BLUE, 5).prefix == BLUE


def test_leaving_gives_the_subnet_back_and_the_default_is_kept(world: World) -> None:
    world.start().wait(None, 5)
    world.nodes.wait(BLUE, 5)
    world.nodes.leave(BLUE)
    world.nodes.leave(BLUE)
    world.nodes.leave(node_host.PREFIX)
    node_host.until(lambda: world.registries[BLUE].read_leases().leases == {})
    assert [held.prefix for held in world.nodes.held()] == [node_host.PREFIX]


def test_all_can_be_left_for_good_the_default_one_too(world: World) -> None:
    world.start().wait(None, 5)
    world.nodes.wait(BLUE, 5)
    world.registries[BLUE].go_down()
    assert world.nodes.leave_all() == [BLUE]
    assert world.registries[node_host.PREFIX].read_leases().leases == {}
    assert (world.nodes.held(), world.nodes.all(), world.host.store.prefixes()) == ([], [], [])
    assert world.nodes.leave_all() == [BLUE]
    world.registries[BLUE].come_back()
    assert world.nodes.leave_all() == []
    assert world.registries[BLUE].read_leases().leases == {}


def test_on_a_full_disk_all_are_left_too_and_what_is_left_of_them_another_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start().wait(None, 5)
    world.nodes.wait(BLUE, 5)

    def refuse(_store: nodestore.NodeStore, prefix: str) -> None:
        raise statefile.StateFileError(f"cannot write the state file for {prefix}: make room on its disk")

    with monkeypatch.context() as full:
        full.setattr(nodestore.NodeStore, "forget", refuse)
        assert world.nodes.leave_all() == [node_host.PREFIX, BLUE]
    assert world.nodes.leave_all() == []
    assert [registry.read_leases().leases for registry in world.registries.values()] == [{}, {}]


def test_a_network_that_was_left_can_be_joined_again(world: World) -> None:
    world.start()
    first = world.nodes.wait(BLUE, 5)
    world.nodes.leave(BLUE)
    assert world.nodes.wait(BLUE, 5) == first


def test_a_network_is_joined_again_only_when_it_has_been_left(world: World) -> None:
    """A network removed and one created at the same moment: the second must not lose what it has just joined."""
    world.start()
    world.nodes.wait(BLUE, 5)
    for _ in range(5):
        leaving = threading.Thread(target=world.nodes.leave, args=(BLUE,))
        leaving.start()
        world.nodes._join(BLUE)
        leaving.join(10)
        held = world.nodes.wait(BLUE, 5)
        node_host.until(lambda: all(one.status().confirmed for one in world.nodes.all()))
        assert [one.attrs.public_ip for one in world.registries[BLUE].read_leases().leases.values()] == [
            ipaddress.IPv4Address("192.0.2.1")
        ]
        saved = world.host.store.load(BLUE)
        assert saved is not None
        assert saved.key.v4 == held.subnet


class SlowRegistry(registry_fake.FakeRegistry):
    """Giving a lease back waits for the test, as where etcd does not answer."""

    def __init__(self, config: str) -> None:
        super().__init__(config)
        self.began, self.go_on = threading.Event(), threading.Event()

    def delete_lease(self, held: lease.Lease) -> None:
        self.began.set()
        assert self.go_on.wait(10)
        super().delete_lease(held)


@pytest.fixture
def slow(world: World) -> SlowRegistry:
    world.registries[BLUE] = SlowRegistry(BLUE_CONFIG)
    return world.registries[BLUE]


def test_leaving_waits_for_no_registry(world: World, slow: SlowRegistry) -> None:
    """Nor does who creates a network with its room and device, or leaves again."""
    world.start()
    world.nodes.wait(BLUE, 5)
    world.nodes.leave(BLUE)
    assert slow.began.wait(10)
    world.registries["/green"] = registry_fake.FakeRegistry(BLUE_CONFIG)
    assert world.nodes.wait("/green", 5).device == "flannel.9"
    world.nodes.leave(BLUE)
    assert [one.prefix for one in world.nodes.all()] == [node_host.PREFIX, "/green"]
    assert slow.read_leases().leases != {}
    slow.go_on.set()
    node_host.until(lambda: slow.read_leases().leases == {})


def test_a_network_that_is_joined_while_it_is_left_begins_afterwards(world: World, slow: SlowRegistry) -> None:
    world.start()
    first = world.nodes.wait(BLUE, 5)
    world.nodes.leave(BLUE)
    assert slow.began.wait(10)
    with pytest.raises(errors.NotReady, match=r"no flannel lease under /blue/network yet: starting"):
        world.nodes.wait(BLUE, 0.1)
    world.nodes.leave(BLUE)
    with pytest.raises(errors.NotReady):
        world.nodes.wait(BLUE, 0)
    slow.go_on.set()
    assert world.nodes.wait(BLUE, 5) == first
    node_host.until(lambda: all(one.status().confirmed for one in world.nodes.all()))
    assert [str(one.key.v4) for one in slow.read_leases().leases.values()] == [str(first.subnet)]
    assert set(world.host.store.prefixes()) == {BLUE, node_host.PREFIX}


def test_a_network_that_never_got_its_lease_leaves_its_room(world: World) -> None:
    """An attempt under way may claim it after the network was left."""
    reading, go_on = threading.Event(), threading.Event()
    room = ([ipaddress.IPv4Network("10.9.0.0/16")], "flannel.9")

    def claim_late(prefix: str, networks: Sequence[netstate.IPNetwork], device: str) -> None:
        if prefix == BLUE:
            reading.set()
            assert go_on.wait(10)
        world.nodes.claim_room(prefix, networks, device)

    world.host.claim_room = claim_late
    world.start()
    with pytest.raises(errors.NotReady):
        world.nodes.wait(BLUE, 0)
    assert reading.wait(10)
    world.nodes.leave(BLUE)
    go_on.set()
    node_host.until(lambda: not world.nodes._leaving)
    assert world.registries[BLUE].read_leases().leases == {}
    world.nodes.claim_room("/red", *room)


def test_a_stop_waits_for_the_subnet_that_is_given_back(world: World, slow: SlowRegistry) -> None:
    world.start()
    world.nodes.wait(BLUE, 5)
    world.nodes.leave(BLUE)
    assert slow.began.wait(10)
    threading.Timer(1.0, slow.go_on.set).start()
    world.nodes.stop()
    assert slow.read_leases().leases == {}


OVERLAP = (
    "flannel network /blue/network (10.2.128.0/17) overlaps /coreos.com/network (10.2.0.0/16) on this host; "
    "give one of them another Network"
)
SAME_VNI = "flannel network /blue/network has device flannel.1 as /coreos.com/network has; give one another VNI"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ('{"Network": "10.2.128.0/17", "Backend": {"Type": "vxlan", "VNI": 9}}', OVERLAP),
        ('{"Network": "10.9.0.0/16", "Backend": {"Type": "vxlan"}}', SAME_VNI),
    ],
)
def test_two_networks_that_collide_are_refused(world: World, config: str, expected: str) -> None:
    world.registries[BLUE].set_config(config)
    world.start().wait(None, 5)
    with pytest.raises(errors.ConfigInvalid) as caught:
        world.nodes.wait(BLUE, 5)
    assert str(caught.value) == expected
    assert world.registries[BLUE].read_leases().leases == {}
    assert [held.prefix for held in world.nodes.held()] == [node_host.PREFIX]


@pytest.mark.parametrize("inner", [f"{BLUE}/subnets", f"{BLUE}/subnets/inner/", f"{BLUE}//subnets/inner"])
def test_a_network_among_the_leases_of_another_is_refused(world: World, inner: str) -> None:
    world.start()
    ten, nine = ([ipaddress.IPv4Network("10.10.0.0/16")], "flannel.10"), ([ipaddress.IPv4Network("10.9.0.0/16")], "")
    world.nodes.claim_room(BLUE, *nine)
    told = f"flannel network {inner} lies among the leases of {BLUE}, whose hosts would read its keys as theirs"
    with pytest.raises(errors.ConfigInvalid, match=told):
        world.nodes.claim_room(inner, *ten)
    world.nodes.leave(BLUE)
    world.nodes.claim_room(inner, *ten)
    with pytest.raises(errors.ConfigInvalid, match=told):
        world.nodes.claim_room(BLUE, *nine)


@pytest.mark.parametrize("near", [f"{BLUE}/subnetsize", f"{BLUE}/inner", "/blue/networks", "/subnets"])
def test_prefixes_may_lie_side_by_side_and_one_in_the_other(world: World, near: str) -> None:
    world.start()
    world.nodes.claim_room(BLUE, [ipaddress.IPv4Network("10.9.0.0/16")], "flannel.9")
    world.nodes.claim_room(near, [ipaddress.IPv4Network("10.10.0.0/16")], "flannel.10")


def test_two_networks_that_collide_and_are_joined_at_once_are_not_both_joined(world: World) -> None:
    world.registries[BLUE].set_config('{"Network": "10.9.0.0/16", "Backend": {"Type": "vxlan"}}')
    world.registries["/red"] = registry_fake.FakeRegistry('{"Network": "10.8.0.0/16", "Backend": {"Type": "vxlan"}}')
    world.registries[node_host.PREFIX].set_config(None)
    world.start()
    refused: list[str] = []

    def join(prefix: str) -> None:
        try:
            world.nodes.wait(prefix, 5)
        except errors.ConfigInvalid:
            refused.append(prefix)

    threads = [threading.Thread(target=join, args=(prefix,)) for prefix in (BLUE, "/red")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(refused) == 1
    assert len(world.nodes.held()) == 1


def test_room_is_free_again_when_a_network_is_left(world: World) -> None:
    world.start()
    world.nodes.wait(BLUE, 5)
    room = ([ipaddress.IPv4Network("10.9.0.0/16")], "flannel.9")
    with pytest.raises(errors.ConfigInvalid, match="overlaps /blue/network"):
        world.nodes.claim_room("/red", *room)
    world.nodes.claim_room(BLUE, *room)
    world.nodes.leave(BLUE)
    world.nodes.claim_room("/red", *room)


def test_stopping_many_takes_no_longer_than_stopping_one(world: World) -> None:
    world.start().wait(None, 5)
    for number in range(5):
        prefix = f"/net{number}"
        config = f'{{"Network": "10.1{number}.0.0/16", "Backend": {{"Type": "vxlan", "VNI": 1{number}}}}}'
        world.registries[prefix] = registry_fake.FakeRegistry(config)
        world.nodes.wait(prefix, 5)
    began = time.monotonic()
    world.nodes.stop()
    assert time.monotonic() - began < 2


class UnwillingRegistry(registry_fake.FakeRegistry):
    """Fails as no registry should while a lease is given back, so often."""

    failures = 0

    def delete_lease(self, held: lease.Lease) -> None:
        if self.failures:
            self.failures -= 1
            raise ZeroDivisionError
        super().delete_lease(held)


def test_a_subnet_is_given_back_however_often_that_fails(world: World) -> None:
    unwilling = world.registries[BLUE] = UnwillingRegistry(BLUE_CONFIG)
    world.nodes = nodes.Nodes(
        node_host.PREFIX, world.make, supervisor.Supervisor(supervisor.Timing(first_s=0.001, cap_s=0.01))
    )
    world.host.claim_room = world.nodes.claim_room
    world.start().wait(None, 5)
    world.nodes.wait(BLUE, 5)
    unwilling.failures = 3
    world.nodes.leave(BLUE)
    node_host.until(lambda: not unwilling.read_leases().leases)
    assert (unwilling.failures, world.host.store.prefixes()) == (0, [node_host.PREFIX])
    assert str(world.nodes.wait(BLUE, 5).subnet) == "10.9.1.0/24"
