"""A virtual machine that was cloned with the plugin's state file, beside its original."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import shutil
import threading
from collections.abc import Iterator

import pytest

from overlay import kernel_fake, lease, netstate, node, registry, registry_fake
from tests.overlay import node_host

OWN = node_host.key("10.2.1.0/24")
CLONES = node_host.key("10.2.2.0/24")
ORIGINALS = node_host.attrs("192.0.2.1", node_host.MAC)
CLONES_MAC = netstate.Mac("0e:00:00:00:00:02")
until = node_host.until


@dataclasses.dataclass
class Pair:
    """An original that runs, and its clone, which has not started yet."""

    original: node_host.NodeHost
    clone: node_host.NodeHost
    before: registry.Snapshot

    @property
    def agreed(self) -> registry_fake.FakeRegistry:
        return self.original.registry

    def key(self) -> lease.Lease:
        return self.agreed._snapshot().leases[OWN]

    def undisturbed(self) -> bool:
        """Whether nobody has written the original's key, and it has heard of nothing."""
        seen = self.original.nodes[-1].status()
        return self.key() == self.before.leases[OWN] and seen.confirmed and seen.conflict is None


def mac_of(host: node_host.NodeHost) -> set[netstate.Mac]:
    return {obj.mac for obj in host.kernel.observe(netstate.EMPTY) if isinstance(obj, netstate.VxlanLink)}


@pytest.fixture
def pair(tmp_path: pathlib.Path) -> Iterator[Pair]:
    agreed = registry_fake.FakeRegistry(node_host.CONFIG)
    (tmp_path / "original").mkdir()
    (tmp_path / "clone").mkdir()
    original = node_host.NodeHost(tmp_path / "original", agreed, in_use=True)
    original.join()
    assert original.file is not None
    original.file._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(tmp_path / "original/state.db", tmp_path / "clone")
    eth0 = dataclasses.replace(node_host.ETH0, addresses=(ipaddress.IPv4Interface("192.0.2.50/24"),))
    clone = node_host.NodeHost(tmp_path / "clone", agreed, kernel=kernel_fake.KernelFake([eth0]), mac=CLONES_MAC)
    clone.timing = dataclasses.replace(clone.timing, watch_s=1000.0)
    yield Pair(original=original, clone=clone, before=agreed.read_leases())
    original.close()
    clone.close()


def name_machines(pair: Pair) -> None:
    """As firmware does; the original's name went into its state file."""
    pair.clone.machine = "m2"
    saved = pair.clone.store.load(node_host.PREFIX)
    assert saved is not None
    pair.clone.store.save(dataclasses.replace(saved, machine="m1"))


def begin_watch(pair: Pair) -> node.Node:
    """Nothing names the machines; the original renewed its lease some time ago."""
    pair.agreed.let_age(OWN, 100)
    one = pair.clone.start()
    until(lambda: "once nobody has renewed it for 1000 s" in str(one.status().trouble))
    return one


def renew(pair: Pair) -> None:
    pair.agreed.keep_alive(pair.key())


def test_a_clone_gets_a_subnet_and_a_mac_of_its_own_and_says_why(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    name_machines(pair)
    one = pair.clone.join()
    assert (one.status().subnet, one.status().conflict) == ("10.2.2.0/24", None)
    assert pair.agreed._snapshot().leases[CLONES].attrs == node_host.attrs("192.0.2.50", CLONES_MAC)
    assert mac_of(pair.clone) == {CLONES_MAC}
    assert "state file is a copy of another machine's" in caplog.text
    assert pair.undisturbed()


def test_a_clone_with_networks_of_its_own_is_in_conflict_until_they_are_removed(pair: Pair) -> None:
    name_machines(pair)
    pair.clone.in_use = True
    one = pair.clone.start()
    until(lambda: one.status().conflict)
    assert one.status().conflict == (
        "subnet 10.2.1.0/24 is leased by 192.0.2.1, and the state file of this host (192.0.2.50) was copied from "
        "that machine: containers here keep their addresses and are cut off; remove this host's flannelpy networks, "
        "and it takes a subnet of its own"
    )
    assert mac_of(pair.clone) == {CLONES_MAC}
    one.claim()
    pair.original.nodes[-1]._keeper._heal()  # which the clone hears of
    pair.before = pair.agreed.read_leases()
    until(lambda: one.status().revision == pair.before.revision)
    one.claim()
    assert pair.undisturbed()
    assert "was copied from that machine" in str(one.status().conflict)
    pair.clone.in_use = False
    assert str(one.wait(5).subnet) == "10.2.2.0/24"
    assert pair.undisturbed()


def test_a_clone_that_nothing_names_learns_it_when_the_original_renews(pair: Pair) -> None:
    one = begin_watch(pair)
    assert one.held() is None  # no network gets the original's subnet meanwhile
    renew(pair)
    assert str(one.wait(5).subnet) == "10.2.2.0/24"
    until(lambda: one.status().confirmed and one.status().followed)
    assert mac_of(pair.clone) == {CLONES_MAC}
    assert pair.undisturbed()


def test_a_host_that_watches_reads_the_leases_seldom(pair: Pair) -> None:
    """After a blackout thousands of hosts may have moved, and each reads all leases."""
    pair.clone.timing = dataclasses.replace(pair.clone.timing, watch_s=30.0, watch_pause_s=30.0)
    agreed = pair.clone.registry = node_host.MoodyRegistry(node_host.CONFIG)
    agreed.put_peer(OWN, ORIGINALS)
    reads: list[None] = []
    agreed.before_read = lambda: reads.append(None)
    one = pair.clone.start()
    until(lambda: "once nobody has renewed it for 30 s" in str(one.status().trouble))
    threading.Event().wait(0.5)
    assert len(reads) == 1


def test_a_clone_with_networks_that_nothing_names_writes_nothing_while_it_watches(pair: Pair) -> None:
    pair.clone.in_use = True
    one = begin_watch(pair)
    one.claim()
    pair.clone.kernel.set_underlays(
        [dataclasses.replace(node_host.ETH0, addresses=(ipaddress.IPv4Interface("192.0.2.51/24"),))]
    )
    one.look_at_underlay()
    assert pair.undisturbed()
    renew(pair)
    until(lambda: one.status().conflict)
    assert "was copied from that machine" in str(one.status().conflict)
    assert mac_of(pair.clone) == {CLONES_MAC}
    assert pair.undisturbed()


def test_new_hardware_takes_the_subnet_when_the_key_of_the_old_one_is_deleted(pair: Pair) -> None:
    """As the document has it; from then on nothing is a copy any more."""
    name_machines(pair)
    pair.clone.in_use = True
    pair.original.nodes[-1].stop()
    one = pair.clone.start()
    until(lambda: one.status().conflict and one.status().followed)
    pair.agreed.delete_peer(OWN)
    until(lambda: one.status().confirmed)
    assert pair.key().attrs == node_host.attrs("192.0.2.50", CLONES_MAC)
    pair.agreed.put_peer(OWN, node_host.attrs("192.0.2.66"))
    until(lambda: one.status().conflict)
    assert "copied" not in str(one.status().conflict)


def test_a_clone_that_restarts_is_the_same_clone(pair: Pair) -> None:
    name_machines(pair)
    pair.clone.in_use = True
    first = pair.clone.start()
    until(lambda: first.status().conflict)
    first.stop()
    pair.clone.reopen()
    second = pair.clone.start()
    until(lambda: second.status().conflict)
    assert pair.undisturbed()


def test_a_copy_on_another_machine_with_the_same_address_has_a_mac_of_its_own(pair: Pair) -> None:
    """New hardware for an old host; or a second host with its address, which is told by what it publishes."""
    name_machines(pair)
    pair.clone.kernel.set_underlays([node_host.ETH0])
    pair.original.nodes[-1].stop()
    one = pair.clone.join()
    assert one.status().subnet == "10.2.1.0/24"
    assert pair.key().attrs == node_host.attrs("192.0.2.1", CLONES_MAC)


def test_new_hardware_with_the_old_address_is_reached_while_the_registry_is_away(pair: Pair) -> None:
    """Peers send to the MAC that the registry has, until they hear of another one."""
    name_machines(pair)
    pair.clone.kernel.set_underlays([node_host.ETH0])
    pair.clone.in_use = True
    pair.original.nodes[-1].stop()
    pair.agreed.go_down()
    one = pair.clone.start()
    until(lambda: one.status().trouble)
    assert mac_of(pair.clone) == {node_host.MAC}
    pair.agreed.come_back()
    until(lambda: one.status().confirmed)
    assert pair.key().attrs == node_host.attrs("192.0.2.1", CLONES_MAC)
    until(lambda: mac_of(pair.clone) == {CLONES_MAC})


def test_a_file_of_an_older_version_gets_the_name_of_the_machine_that_takes_it_up(pair: Pair) -> None:
    saved = pair.original.store.load(node_host.PREFIX)
    assert saved is not None
    pair.original.store.save(dataclasses.replace(saved, machine=None, lease_id=None))
    pair.original.nodes[-1].stop()
    pair.original.reopen()
    pair.original.machine = "m1"
    pair.original.join()
    assert pair.original.store.load(node_host.PREFIX) == dataclasses.replace(
        saved, machine="m1", lease_id=pair.key().lease_id
    )


def test_a_host_of_its_own_registry_alone_is_never_taken_for_a_clone(pair: Pair) -> None:
    """Standalone: the leases are in the state file."""
    name_machines(pair)
    ports = pair.clone.ports()
    pair.clone.ports = lambda: dataclasses.replace(ports, shared=False)  # type: ignore[method-assign]
    pair.original.nodes[-1].stop()
    one = pair.clone.join()
    assert one.status().subnet == "10.2.1.0/24"
