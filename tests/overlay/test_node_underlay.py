"""What becomes of a node when the link below changes while it runs."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import threading
from collections.abc import Iterator

import pytest

from overlay import kernel, lease, netstate, node, nodes, registry_fake, statefile
from tests.overlay import node_host
from tests.overlay.node_host import until

OWN = node_host.key("10.2.1.0/24")


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Iterator[node_host.NodeHost]:
    one = node_host.NodeHost(tmp_path, registry_fake.FakeRegistry(node_host.CONFIG), in_use=True)
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
    return host.registry.read_leases().leases[OWN].attrs


def test_another_address_moves_the_device_and_is_published_under_the_same_key(host: node_host.NodeHost) -> None:
    one = host.join()
    change(host, one, link(addresses=at("192.0.2.100/24")))
    assert published(host) == node_host.attrs("192.0.2.100", node_host.MAC)
    assert device(host).local == ipaddress.IPv4Address("192.0.2.100")
    assert (one.status().public_ip, one.status().confirmed) == ("192.0.2.100", True)
    saved = host.store.load(node_host.PREFIX)
    assert saved is not None
    assert saved.attrs == published(host)


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
    assert not one.status().confirmed
    host.registry.come_back()
    until(lambda: one.status().confirmed)
    assert published(host) == node_host.attrs("192.0.2.100", node_host.MAC)


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
