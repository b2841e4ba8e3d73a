"""The look at checksum offload over a real node, with kernel and registry in memory and a wire that can be broken."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import threading
from collections.abc import Callable, Iterator

import pytest

from overlay import kernel_fake, member, netstate, node, offload, offload_watch, registry_fake
from tests.overlay import node_host

DEVICE = netstate.IfName("flannel.1")
PEER = node_host.key("10.2.9.0/24")


@dataclasses.dataclass
class Wire:
    """Answers as a peer would, over hardware that is `sound` or not. `spoil` is called at each question."""

    kernel: kernel_fake.KernelFake
    sound: bool = True
    there: bool = True
    error: OSError | None = None
    spoil: Callable[[], None] = lambda: None
    asked: list[str] = dataclasses.field(default_factory=list)

    def ask(self, tunnel: offload.Tunnel) -> offload.Answers:
        self.asked.append(str(tunnel.peer))
        self.spoil()
        if self.error is not None:
            raise self.error
        heard = self.there and (self.sound or not self.kernel.tx_checksum(DEVICE))
        return offload.Answers(kernel=heard, crafted=self.there and not heard)


class World:
    """One host with one peer, and a watch by a clock that the test moves."""

    def __init__(self, host: node_host.NodeHost) -> None:
        self.host = host
        self.wire = Wire(host.kernel)
        self.now = 1000.0
        self.nodes: list[node.Node] = []
        self.stop = threading.Event()
        self.watch = offload_watch.OffloadWatch(
            lambda: self.nodes, self.wire, lambda _count: 0, monotonic=lambda: self.now
        )

    def join(self) -> node.Node:
        made = self.host.join()
        self.host.reconciler.open_gate()
        self.nodes = [made]
        self.host.registry.put_peer(PEER, node_host.attrs("192.0.2.9"))
        node_host.until(lambda: offload.find_tunnels(made.programmed()))
        return made

    def look(self, seconds: float = 10) -> None:
        for _ in range(int(seconds)):
            self.watch.look(self.stop)
            self.now += 1

    @property
    def on(self) -> bool | None:
        return self.host.kernel.tx_checksum(DEVICE)

    @property
    def status(self) -> offload_watch.Status:
        (one,) = self.watch.status()
        return one


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[World]:
    registry = registry_fake.FakeRegistry(node_host.CONFIG)
    host = node_host.NodeHost(tmp_path, registry, options=member.Options(tx_checksum=None))
    yield World(host)
    host.close()


def test_without_a_peer_nothing_is_asked(world: World) -> None:
    world.nodes = [world.host.join()]
    world.look()
    assert (world.wire.asked, world.on) == ([], True)
    assert world.status.verdict == "unknown"


def test_a_sound_wire_is_left_alone(world: World) -> None:
    world.join()
    world.look()
    assert (world.wire.asked, world.on) == (["10.2.9.0"], True)
    assert world.status == offload_watch.Status(
        prefix=node_host.PREFIX, verdict="sound", asked=1, questions=1, trouble=None
    )


def test_a_broken_wire_is_switched_off_and_said_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.wire.sound = False
    world.join()
    with caplog.at_level(logging.WARNING, "overlay.offload_watch"):
        world.look(3600)
    assert (world.on, world.status.verdict, world.status.questions) == (False, "broken", 3)
    assert [record.getMessage() for record in caplog.records] == [
        (
            "checksum offload is broken below this host, switched off prefix=/coreos.com/network peer=10.2.9.0: only"
            " TCP with checksums computed here gets through; TX_CHECKSUM=off spares the search"
        )
    ]


def test_what_was_switched_off_stays_off_when_the_device_is_made_anew(world: World) -> None:
    world.wire.sound = False
    made = world.join()
    world.look()
    (device,) = (obj for obj in made.programmed() if isinstance(obj, netstate.VxlanLink))
    world.host.kernel.delete(device)
    world.host.reconciler.run_pass()
    assert world.on is False
    made.look_at_underlay()
    assert world.on is False


def test_after_a_restart_a_device_that_is_off_stays_off_while_the_wire_is_broken(world: World) -> None:
    world.wire.sound = False
    world.join()
    world.look()
    world.host.nodes[-1].stop()
    world.host.reopen()
    seen: list[bool | None] = []
    world.wire.spoil = lambda: seen.append(world.on)
    world.watch = offload_watch.OffloadWatch(
        lambda: world.nodes, world.wire, lambda _count: 0, monotonic=lambda: world.now
    )
    world.join().look_at_underlay()
    assert world.on is False
    world.look()
    assert (seen, world.on, world.status.verdict) == ([False, True], False, "broken")


def test_a_device_found_off_is_switched_on_where_the_wire_is_sound(world: World) -> None:
    world.join()
    world.host.nodes[-1].stop()
    world.host.reopen()
    world.host.kernel.set_tx_checksum(DEVICE, on=False)
    world.join()
    assert world.on is False
    world.look()
    assert (world.on, world.status.verdict) == (True, "sound")


def test_a_fixed_setting_overrules_what_is_found(world: World) -> None:
    world.host.options = member.Options(tx_checksum=False)
    world.join()
    assert world.on is False
    world.host.nodes[-1].stop()
    world.host.reopen()
    world.host.options = member.Options(tx_checksum=True)
    world.join()
    assert world.on is True


def test_switching_the_devices_is_no_change_of_the_underlay(world: World) -> None:
    made = world.join()
    made.set_tx_checksum(False)
    assert (world.on, made.status().events.get("underlay_changed", 0)) == (False, 0)
    made.set_tx_checksum(True)
    assert world.on is True


def test_a_switch_thrown_by_hand_is_thrown_back_and_counted(world: World) -> None:
    world.join()
    world.look()
    for _ in range(2):
        world.host.reconciler.run_pass()
    world.host.kernel.set_tx_checksum(DEVICE, on=False)
    world.host.reconciler.run_pass()
    assert (world.on, dict(world.host.reconciler.repairs)) == (True, {"link": 1})


def test_what_cannot_be_asked_is_told_and_tried_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.wire.error = PermissionError(1, "Operation not permitted")
    world.join()
    with caplog.at_level(logging.WARNING, "overlay.offload_watch"):
        world.look(60)
    assert world.status == offload_watch.Status(
        prefix=node_host.PREFIX,
        verdict="silent",
        asked=1,
        questions=2,
        trouble="cannot ask 10.2.9.0: Operation not permitted",
    )
    assert [record.getMessage() for record in caplog.records] == [
        "checksum offload not examined prefix=/coreos.com/network reason=cannot ask 10.2.9.0: Operation not permitted"
    ]
    world.wire.error = None
    world.look(60)
    assert (world.status.verdict, world.status.trouble) == ("sound", None)


def test_a_stop_in_the_middle_leaves_the_device_as_it_was(world: World) -> None:
    world.wire.sound = False
    world.join()

    def stop_at_the_third() -> None:
        if len(world.wire.asked) == 3:
            assert world.on is False
            world.stop.set()

    world.wire.spoil = stop_at_the_third
    world.look()
    assert (len(world.wire.asked), world.on) == (3, True)


def test_a_bug_in_the_middle_leaves_the_device_as_it_was(world: World) -> None:
    world.wire.sound = False
    world.join()

    def fail_at_the_third() -> None:
        if len(world.wire.asked) == 3:
            raise RuntimeError("a bug")

    world.wire.spoil = fail_at_the_third
    with pytest.raises(RuntimeError):
        world.look()
    assert world.on is True


def test_a_network_that_was_left_is_forgotten(world: World) -> None:
    world.join()
    world.look()
    world.nodes = []
    world.look(1)
    assert world.watch.status() == []


def test_the_thread_looks_until_it_is_stopped(world: World) -> None:
    world.join()
    world.now = 0.0
    ticks = iter(range(1000, 10**6, 10))
    watch = offload_watch.OffloadWatch(
        lambda: world.nodes, world.wire, lambda _count: 0, monotonic=lambda: float(next(ticks))
    )
    thread = threading.Thread(target=watch.run, args=(world.stop,))
    thread.start()
    node_host.until(lambda: world.wire.asked, within_s=10)
    world.stop.set()
    thread.join(timeout=5)
    assert not thread.is_alive()
