"""What becomes of a node when the link below changes while it runs."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import threading
from collections.abc import Iterator

import pytest

from overlay import kernel, lease, netstate, node, nodes, statefile
from tests.overlay import node_host
from tests.overlay.node_host import until

OWN = node_host.key("10.2.1.0/24")
MOVED = (ipaddress.IPv4Interface("192.0.2.100/24"),)
PUBLISHED = node_host.attrs("192.0.2.100", node_host.MAC)


@pytest.fixture
def moody() -> node_host.MoodyRegistry:
    return node_host.MoodyRegistry(node_host.CONFIG)


@pytest.fixture
def host(tmp_path: pathlib.Path, moody: node_host.MoodyRegistry) -> Iterator[node_host.NodeHost]:
    one = node_host.NodeHost(tmp_path, moody, in_use=True)
    yield one
    one.close()


def link(**changes: object) -> kernel.UnderlayLink:
    return dataclasses.replace(node_host.ETH0, **changes)  # type: ignore[arg-type]


def at(*addresses: str) -> tuple[ipaddress.IPv4Interface, ...]:
    return tuple(ipaddress.IPv4Interface(address) for address in addresses)


def change(host: node_host.NodeHost, one: node.Node, *links: kernel.UnderlayLink) -> None:
    """The operator's hand, and what the kernel's event makes `nodes` do."""
    host.kernel.set_underlays(links)
    one.look_at_underlay()


def device(host: node_host.NodeHost) -> netstate.VxlanLink:
    return next(obj for obj in host.kernel.observe(netstate.EMPTY) if isinstance(obj, netstate.VxlanLink))


def published(host: node_host.NodeHost) -> lease.LeaseAttrs:
    return host.registry._snapshot().leases[OWN].attrs


def saved(host: node_host.NodeHost) -> lease.LeaseAttrs | None:
    row = host.store.load(node_host.PREFIX)
    return None if row is None else row.attrs


class Gate:
    """Keeps those who ask the registry waiting."""

    def __init__(self) -> None:
        self.asked, self.open = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.asked.set()
        self.open.wait(10)


def record_locals(host: node_host.NodeHost) -> list[netstate.IPAddress]:
    """The local address of every device that a node declares from now on."""
    told: list[netstate.IPAddress] = []
    plain = host.reconciler.set

    def declare(owner: str, state: netstate.NetState) -> None:
        told.extend(obj.local for obj in state if isinstance(obj, netstate.VxlanLink))
        plain(owner, state)

    host.reconciler.set = declare  # type: ignore[method-assign]
    return told


def test_another_address_moves_the_device_and_is_published_under_the_same_key(host: node_host.NodeHost) -> None:
    one = host.join()
    change(host, one, link(addresses=MOVED))
    assert device(host).local == MOVED[0].ip
    until(lambda: published(host) == PUBLISHED)
    until(lambda: saved(host) == PUBLISHED)
    assert (one.status().public_ip, one.status().confirmed) == ("192.0.2.100", True)


def test_an_address_that_joins_the_one_in_use_changes_nothing(host: node_host.NodeHost) -> None:
    """A floating address comes and goes, and may sort first."""
    one = host.join()
    before = host.registry.read_leases()
    change(host, one, link(addresses=at("192.0.2.7/32", "192.0.2.1/24")))
    assert (host.registry.read_leases(), device(host).local) == (before, ipaddress.IPv4Address("192.0.2.1"))


def test_another_mtu_is_given_to_the_device_and_told_to_the_rooms_above(host: node_host.NodeHost) -> None:
    told: list[int] = []
    host.changed = lambda: told.append(1)
    one = host.join()
    told.clear()
    change(host, one, link(mtu=9000))
    held = one.held()
    assert held is not None
    assert (device(host).mtu, held.overlay_mtu, one.status().mtu, told) == (8950, 8950, 8950, [1])
    change(host, one, link(mtu=1400))
    assert (device(host).mtu, one.status().mtu, told) == (1350, 1350, [1, 1])


def test_a_lost_link_is_waited_for_and_nothing_is_given_up(host: node_host.NodeHost) -> None:
    one = host.join()
    host.registry.put_peer(node_host.key("10.2.9.0/24"), node_host.attrs("192.0.2.9"))
    until(lambda: host.routes() == {"10.2.9.0/24"})
    before = host.registry.read_leases()
    change(host, one)
    assert "set IFACE" in str(one.status().underlay_trouble)
    assert (one.held() is not None, host.registry.read_leases()) == (True, before)
    change(host, one, node_host.ETH0)
    assert one.status().underlay_trouble is None
    host.reconciler.run_pass()
    assert (device(host).mac, host.routes()) == (node_host.MAC, {"10.2.9.0/24"})


def test_a_moved_host_whose_registry_is_away_publishes_when_it_is_back(host: node_host.NodeHost) -> None:
    one = host.join()
    host.registry.go_down()
    change(host, one, link(addresses=at("192.0.2.100/24")))
    assert device(host).local == ipaddress.IPv4Address("192.0.2.100")
    until(lambda: not one.status().confirmed)
    host.registry.come_back()
    until(lambda: one.status().confirmed)
    assert published(host) == node_host.attrs("192.0.2.100", node_host.MAC)


def test_a_move_while_a_claim_is_at_the_registry_outlives_its_outcome(
    host: node_host.NodeHost, moody: node_host.MoodyRegistry
) -> None:
    told, gate = record_locals(host), Gate()
    one = host.join()
    moody.before_put = gate.wait
    claiming = threading.Thread(target=one.claim)
    claiming.start()
    assert gate.asked.wait(5)
    told.clear()
    change(host, one, link(addresses=MOVED))
    assert (device(host).local, gate.open.is_set()) == (MOVED[0].ip, False)
    moody.before_put = lambda: None
    gate.open.set()
    claiming.join(5)
    until(lambda: published(host) == PUBLISHED and saved(host) == PUBLISHED)
    assert set(told) == {MOVED[0].ip}
    assert (one.status().public_ip, one.status().confirmed) == ("192.0.2.100", True)


def test_a_move_while_a_restored_host_joins_outlives_the_outcome(
    host: node_host.NodeHost, moody: node_host.MoodyRegistry
) -> None:
    host.join().stop()
    host.reopen()
    told, gate = record_locals(host), Gate()
    moody.before_read = gate.wait
    one = host.start()
    assert gate.asked.wait(5)
    told.clear()
    change(host, one, link(addresses=MOVED))
    moody.before_read = lambda: None
    gate.open.set()
    until(lambda: published(host) == PUBLISHED and saved(host) == PUBLISHED)
    assert set(told) == {MOVED[0].ip}


def test_a_move_while_a_new_host_joins_is_seen_when_it_has_joined(
    host: node_host.NodeHost, moody: node_host.MoodyRegistry
) -> None:
    gate = Gate()
    moody.before_read = gate.wait
    one = host.start()
    assert gate.asked.wait(5)
    change(host, one, link(addresses=MOVED))
    moody.before_read = lambda: None
    gate.open.set()
    until(lambda: one.status().confirmed and published(host) == PUBLISHED)
    assert device(host).local == MOVED[0].ip


def test_a_move_while_a_claim_finds_a_thief_outlives_the_conflict(
    host: node_host.NodeHost, moody: node_host.MoodyRegistry
) -> None:
    told, gate = record_locals(host), Gate()
    one = host.join()
    moody.before_read = gate.wait
    host.registry.put_peer(OWN, node_host.attrs("192.0.2.66"))
    assert gate.asked.wait(5)
    told.clear()
    change(host, one, link(addresses=MOVED))
    moody.before_read = lambda: None
    gate.open.set()
    until(lambda: one.status().conflict)
    host.registry.put_peer(node_host.key("10.2.9.0/24"), node_host.attrs("192.0.2.9"))
    until(lambda: host.routes() == {"10.2.9.0/24"})
    assert set(told) == {MOVED[0].ip}
    assert one.status().public_ip == "192.0.2.100"


def test_the_devices_of_all_networks_move_at_once_while_the_registry_does_not_answer(tmp_path: pathlib.Path) -> None:
    gate, stop = Gate(), threading.Event()
    hosts: dict[str, node_host.NodeHost] = {}
    for number, prefix in enumerate(("/coreos.com/network", "/blue/network", "/green/network"), start=1):
        config = f'{{"Network":"10.{number}.0.0/16","Backend":{{"Type":"vxlan","VNI":{number}}}}}'
        (tmp_path / str(number)).mkdir()
        hosts[prefix] = node_host.NodeHost(tmp_path / str(number), node_host.MoodyRegistry(config), in_use=True)
    together = nodes.Nodes(node_host.PREFIX, lambda prefix: hosts[prefix].make(prefix))
    together.restore(list(hosts))
    together.start()
    for one in together.all():
        until(lambda one=one: one.status().followed)
    following = threading.Thread(target=together.follow_underlay, args=(stop,))
    try:
        for host in hosts.values():
            host.registry.before_read = gate.wait  # type: ignore[attr-defined]
            host.kernel.set_underlays([link(addresses=MOVED)])
        following.start()
        together.notice()
        until(lambda: all(device(host).local == MOVED[0].ip for host in hosts.values()), within_s=2)
        assert gate.asked.wait(5)
    finally:
        stop.set()
        gate.open.set()
        following.join(5)
        together.stop()
        for host in hosts.values():
            host.close()


def test_a_move_while_the_plugin_was_down_keeps_the_subnet_even_without_containers(
    host: node_host.NodeHost,
) -> None:
    host.join().stop()
    host.in_use = False
    host.kernel.set_underlays([link(addresses=at("192.0.2.100/24"))])
    host.reopen()
    host.join()
    assert set(host.registry.read_leases().leases) == {OWN}
    assert published(host) == node_host.attrs("192.0.2.100", node_host.MAC)


def test_a_subnet_that_another_host_took_is_not_written_over_by_a_move(host: node_host.NodeHost) -> None:
    one = host.join()
    thief = node_host.attrs("192.0.2.66")
    host.registry.put_peer(OWN, thief)
    until(lambda: one.status().conflict)
    change(host, one, link(addresses=at("192.0.2.100/24")))
    assert published(host) == thief


def test_a_look_that_fails_is_not_the_last_one(host: node_host.NodeHost, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that is full for a moment must not end the following of the underlay for good."""
    told: list[int] = []

    def changed() -> None:
        told.append(1)
        if len(told) == 1:
            raise statefile.StateFileError("disk full")

    together = nodes.Nodes(node_host.PREFIX, host.make)
    together.restore([])
    together.start()
    together.wait(None, 5)
    one = together.all()[0]
    until(lambda: one.status().confirmed and one.status().followed)
    host.changed = changed
    stop = threading.Event()
    following = threading.Thread(target=together.follow_underlay, args=(stop,))
    following.start()
    try:
        for mtu in (9000, 1400):
            host.kernel.set_underlays([link(mtu=mtu)])
            together.notice()
            until(lambda mtu=mtu: device(host).mtu == mtu - 50)
        until(lambda: told == [1, 1])
        assert "disk full" in caplog.text
    finally:
        stop.set()
        following.join(5)
        together.stop()


def test_a_peer_gives_way_to_a_link_of_the_host_and_comes_back(host: node_host.NodeHost) -> None:
    """A bridge of Docker's may get a range of the flannel network at any time: that is no change of the underlay."""
    one = host.join()
    host.registry.put_peer(node_host.key("10.2.13.0/24"), node_host.attrs("192.0.2.3", "0e:00:00:00:00:03"))
    host.registry.put_peer(node_host.key("10.2.14.0/24"), node_host.attrs("192.0.2.4", "0e:00:00:00:00:04"))
    node_host.until(lambda: host.routes() == {"10.2.13.0/24", "10.2.14.0/24"})
    bridge = link(name=netstate.IfName("br-db"), index=3, addresses=at("10.2.13.1/24"), has_default_route=False)
    change(host, one, link(), bridge)
    assert host.routes() == {"10.2.14.0/24"}
    reason = "its subnet lies in 10.2.13.0/24, which br-db of this host has"
    assert one.status().skipped == (f"10.2.13.0-24: {reason}",)
    assert [view.problem for view in one.list_peers()] == [reason, None]
    assert one.status().events["underlay_changed"] == 0
    change(host, one, link())
    assert host.routes() == {"10.2.13.0/24", "10.2.14.0/24"}
    assert one.status().skipped == ()


def test_a_peer_outside_the_network_is_named_and_gets_nothing(host: node_host.NodeHost) -> None:
    one = host.join()
    host.registry.put_peer(node_host.key("172.17.0.0/16"), node_host.attrs("192.0.2.3", "0e:00:00:00:00:03"))
    node_host.until(lambda: one.status().skipped)
    assert host.routes() == set()
