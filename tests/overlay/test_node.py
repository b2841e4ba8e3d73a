"""The life of a node against a registry that is other hosts, the clock and the broken cable at will."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import pytest

from overlay import (
    errors,
    flanneld,
    kernel,
    kernel_fake,
    lease,
    member,
    netstate,
    node,
    nodestore,
    registry,
    statefile,
)
from tests.overlay import node_host

OWN = node_host.key("10.2.1.0/24")
PEER = node_host.key("10.2.2.0/24")
OTHER = node_host.key("10.2.3.0/24")
OURS = node_host.attrs("192.0.2.1", node_host.MAC)
PEERS = node_host.attrs("192.0.2.2", "0e:00:00:00:00:02")
OTHERS = node_host.attrs("192.0.2.3", "0e:00:00:00:00:03")
THIEFS = node_host.attrs("192.0.2.66", "0e:00:00:00:00:66")
HELD = lease.HeldSubnet(
    prefix=node_host.PREFIX,
    network=ipaddress.IPv4Network("10.2.0.0/16"),
    subnet=ipaddress.IPv4Network("10.2.1.0/24"),
    device="flannel.1",
    overlay_mtu=1450,
)
until = node_host.until
once = node_host.once
MoodyRegistry = node_host.MoodyRegistry


@pytest.fixture
def moody() -> MoodyRegistry:
    return MoodyRegistry(node_host.CONFIG)


@pytest.fixture
def host(tmp_path: pathlib.Path, moody: MoodyRegistry) -> Iterator[node_host.NodeHost]:
    one = node_host.NodeHost(tmp_path, moody)
    yield one
    one.close()


def own_lease(host: node_host.NodeHost) -> lease.Lease | None:
    return host.registry._snapshot().leases.get(OWN)


def has_own_lease(host: node_host.NodeHost) -> Callable[[], bool]:
    return lambda: (found := own_lease(host)) is not None and found.attrs == OURS


def test_a_node_joins_publishes_and_remembers(host: node_host.NodeHost) -> None:
    host.registry.put_peer(PEER, PEERS)
    one = host.join()
    assert one.held() == HELD
    assert own_lease(host) is not None
    assert host.store.load(node_host.PREFIX) is not None
    until(lambda: host.store.load_peers(node_host.PREFIX).keys() == {PEER})
    assert host.kernel.observe(netstate.EMPTY) == {
        netstate.VxlanLink(
            name=netstate.IfName("flannel.1"),
            vni=1,
            port=8472,
            local=ipaddress.IPv4Address("192.0.2.1"),
            underlay=netstate.IfName("eth0"),
            mac=node_host.MAC,
            mtu=1450,
        ),
        netstate.Address(link=netstate.IfName("flannel.1"), interface=ipaddress.IPv4Interface("10.2.1.0/32")),
        netstate.Neighbour(
            link=netstate.IfName("flannel.1"),
            ip=ipaddress.IPv4Address("10.2.2.0"),
            mac=netstate.Mac("0e:00:00:00:00:02"),
        ),
        netstate.FdbEntry(
            link=netstate.IfName("flannel.1"),
            mac=netstate.Mac("0e:00:00:00:00:02"),
            vtep_ip=ipaddress.IPv4Address("192.0.2.2"),
        ),
        netstate.Route(
            destination=ipaddress.IPv4Network("10.2.2.0/24"),
            gateway=ipaddress.IPv4Address("10.2.2.0"),
            link=netstate.IfName("flannel.1"),
        ),
    }


def test_the_echo_of_our_own_writing_is_no_news(host: node_host.NodeHost, moody: MoodyRegistry) -> None:
    host.join()
    found = own_lease(host)
    host.registry.put_peer(PEER, PEERS)
    until(lambda: host.routes() == {"10.2.2.0/24"})
    assert own_lease(host) == found


def test_peers_come_and_go(host: node_host.NodeHost) -> None:
    one = host.join()
    host.registry.put_peer(PEER, PEERS)
    host.registry.put_peer(OTHER, OTHERS)
    until(lambda: host.routes() == {"10.2.2.0/24", "10.2.3.0/24"})
    host.registry.delete_peer(PEER)
    until(lambda: host.routes() == {"10.2.3.0/24"})
    until(lambda: host.store.load_peers(node_host.PREFIX).keys() == {OTHER})
    assert one.status().peers == 1


def test_a_bad_peer_is_skipped_and_named(host: node_host.NodeHost) -> None:
    one = host.join()
    host.registry.put_peer(OTHER, dataclasses.replace(OTHERS, backend_type="host-gw"))
    host.registry.put_garbage("notes", "no subnet key")
    host.registry.put_peer(PEER, PEERS)
    until(lambda: host.routes() == {"10.2.2.0/24"})
    until(lambda: len(one.status().skipped) == 2)
    assert one.status().skipped[0].startswith("10.2.3.0-24: backend type is host-gw")


def test_everything_works_from_the_state_file_alone(host: node_host.NodeHost) -> None:
    host.registry.put_peer(PEER, PEERS)
    host.join().stop()
    host.kernel = type(host.kernel)([node_host.ETH0])  # a reboot
    host.registry.go_down()
    host.reopen()
    one = host.make()
    one.restore()
    assert one.held() == HELD
    assert host.routes() == {"10.2.2.0/24"}
    one.start()
    assert one.wait(0) == HELD
    until(lambda: one.status().trouble is not None)
    assert (one.status().confirmed, one.status().subnet) == (False, "10.2.1.0/24")


def test_an_underlay_that_comes_up_late_is_enough_without_the_registry(host: node_host.NodeHost) -> None:
    """Power comes back: the plugin is up before the network, and etcd is not up at all."""
    host.registry.put_peer(PEER, PEERS)
    host.join().stop()
    host.registry.go_down()
    late = type(host.kernel)([dataclasses.replace(node_host.ETH0, addresses=())])
    host.kernel = late
    host.reopen()
    one = host.make()
    one.restore()
    assert one.held() is None
    one.start()
    until(lambda: one.status().trouble is not None)
    late._underlays[:] = [node_host.ETH0]
    until(lambda: one.held() == HELD and host.routes() == {"10.2.2.0/24"})


def test_a_restart_keeps_the_subnet_and_rewrites_the_key(host: node_host.NodeHost) -> None:
    host.join().stop()
    before = own_lease(host)
    host.join()
    after = own_lease(host)
    assert before is not None
    assert after is not None
    assert (after.attrs, after.lease_id) == (before.attrs, before.lease_id)


def test_a_lost_race_at_the_start_costs_no_lease(host: node_host.NodeHost, moody: MoodyRegistry) -> None:
    moody.before_put = once(lambda: moody.put_peer(OWN, THIEFS))
    one = host.join()
    assert one.held() == dataclasses.replace(HELD, subnet=PEER.v4)


def test_our_key_written_and_deleted_before_the_watch_begins_is_claimed_again(
    host: node_host.NodeHost, moody: MoodyRegistry
) -> None:
    moody.after_put = once(lambda: moody.delete_peer(OWN))
    host.start().wait(5)
    until(has_own_lease(host))


def test_a_deleted_key_is_claimed_again_with_the_same_subnet(host: node_host.NodeHost) -> None:
    one = host.join()
    host.registry.delete_peer(OWN)
    until(has_own_lease(host))
    until(lambda: one.status().confirmed)
    assert one.held() == HELD


def test_an_expired_lease_is_claimed_again_with_the_same_subnet(host: node_host.NodeHost) -> None:
    host.join()
    host.registry.expire(OWN)
    until(has_own_lease(host))


def test_a_claim_that_fails_is_made_again_without_any_news(host: node_host.NodeHost, moody: MoodyRegistry) -> None:
    """The key was deleted with etcdctl while the leader changed: the watch never broke, and keepalives still work."""
    one = host.join()

    def fail() -> None:
        raise errors.RegistryUnavailable("etcd has no leader")

    moody.before_read = fail
    host.registry.delete_peer(OWN)
    until(lambda: one.status().trouble == "etcd has no leader")
    assert (one.status().confirmed, one.held()) == (False, HELD)
    moody.before_read = lambda: None
    until(has_own_lease(host))
    until(lambda: one.status().confirmed)


def test_a_key_rewritten_with_another_mac_is_put_right(host: node_host.NodeHost) -> None:
    host.join()
    host.registry.put_peer(OWN, node_host.attrs("192.0.2.1", "0e:00:00:00:00:77"))
    until(has_own_lease(host))


def test_a_stolen_subnet_is_said_and_never_changed(host: node_host.NodeHost) -> None:
    host.in_use = True
    host.registry.put_peer(PEER, PEERS)
    one = host.join()
    host.registry.put_peer(OWN, THIEFS)
    until(lambda: one.status().conflict)
    assert one.status().conflict == (
        "subnet 10.2.1.0/24 is leased by 192.0.2.66, but containers of this host (192.0.2.1) use 10.2.1.0/24: "
        "they keep their addresses and are cut off; remove this host's flannelpy networks, or free the other lease"
    )
    with pytest.raises(errors.LeaseLost, match=r"leased by 192\.0\.2\.66"):
        one.wait(5)
    assert one.held() == HELD
    assert host.routes() == {"10.2.2.0/24"}
    found = own_lease(host)
    assert found is not None
    assert found.attrs == THIEFS


def test_a_stolen_subnet_heals_when_its_key_becomes_free(host: node_host.NodeHost) -> None:
    host.in_use = True
    one = host.join()
    host.registry.put_peer(OWN, THIEFS)
    until(lambda: one.status().conflict)
    host.registry.delete_peer(OWN)
    until(has_own_lease(host))
    until(lambda: one.status().confirmed)
    assert one.wait(0) == HELD


def test_a_lease_in_the_way_under_another_key_is_noticed_when_it_goes(host: node_host.NodeHost) -> None:
    host.in_use = True
    host.join().stop()
    wide = node_host.key("10.2.0.0/20")
    host.registry.delete_peer(OWN)
    host.registry.put_peer(wide, THIEFS)
    one = host.start()
    until(lambda: one.status().conflict)
    host.registry.delete_peer(wide)
    until(lambda: one.status().confirmed)
    assert has_own_lease(host)()
    assert one.wait(5) == HELD


def test_a_subnet_stolen_just_after_we_wrote_it_is_noticed(host: node_host.NodeHost, moody: MoodyRegistry) -> None:
    """What the watch says of the thief may be heard before what we wrote is settled."""
    host.in_use = True
    one = host.join()
    moody.after_put = once(lambda: moody.put_peer(OWN, THIEFS))
    host.registry.delete_peer(OWN)
    until(lambda: one.status().conflict)
    assert not one.status().confirmed


def test_without_containers_a_stolen_subnet_is_given_up_for_another(host: node_host.NodeHost) -> None:
    """The way out that the error names: remove this host's networks."""
    host.in_use = True
    one = host.join()
    host.registry.put_peer(OWN, THIEFS)
    until(lambda: one.status().conflict)
    host.in_use = False
    assert one.wait(5) == dataclasses.replace(HELD, subnet=PEER.v4)
    until(lambda: one.status().followed and host.routes() == {"10.2.1.0/24"})  # the thief is a peer now
    host.registry.put_peer(OTHER, OTHERS)
    until(lambda: host.routes() == {"10.2.1.0/24", "10.2.3.0/24"})
    until(lambda: host.store.load_peers(node_host.PREFIX).keys() == {OWN, OTHER})


def test_a_subnet_given_out_while_another_is_claimed_is_a_conflict_and_not_forgotten(
    host: node_host.NodeHost, moody: MoodyRegistry
) -> None:
    """Ours expired while we were down and another host got it; a network is created while we look for another one."""
    host.join().stop()
    moody.delete_peer(OWN)
    moody.put_peer(OWN, THIEFS)
    host.reopen()
    one = host.make()
    one.restore()
    granted: list[lease.HeldSubnet] = []

    def grant() -> None:
        granted.append(one.wait(0))
        host.in_use = one.holds(granted[0])

    moody.before_read = once(grant)
    one.start()
    until(lambda: one.status().conflict)
    assert (granted, host.in_use, one.held()) == ([HELD], True, HELD)
    assert "10.2.1.0/24 is leased by 192.0.2.66" in str(one.status().conflict)
    assert moody._snapshot().leases.keys() == {OWN}
    saved = host.store.load(node_host.PREFIX)
    assert saved is not None
    assert saved.key == OWN


def test_a_new_network_waits_until_the_registry_has_said_whose_the_saved_subnet_is(
    host: node_host.NodeHost, moody: MoodyRegistry
) -> None:
    host.join().stop()
    moody.delete_peer(OWN)
    moody.put_peer(OWN, THIEFS)
    host.reopen()
    one = host.make()
    one.restore()
    granted: list[lease.HeldSubnet] = []
    creating = threading.Thread(target=lambda: granted.append(one.wait(5)))

    def create() -> None:
        creating.start()
        creating.join(0.1)

    moody.before_config = once(create)
    one.start()
    until(lambda: granted)
    creating.join(5)
    assert granted == [dataclasses.replace(HELD, subnet=PEER.v4)]


def test_a_subnet_that_became_another_one_is_not_given_out(host: node_host.NodeHost) -> None:
    host.in_use = True
    one = host.join()
    before = one.wait(5)
    assert one.holds(before)
    host.registry.put_peer(OWN, THIEFS)
    until(lambda: one.status().conflict)
    assert not one.holds(before)
    host.in_use = False
    after = one.wait(5)
    assert (one.holds(before), one.holds(after)) == (False, True)


def test_a_former_subnet_is_given_back_only_when_nothing_got_it(
    host: node_host.NodeHost, moody: MoodyRegistry
) -> None:
    """The config has no place for it any more, and a network is created while another one is claimed."""
    host.join().stop()
    moody.set_config('{"Network": "10.2.0.0/16", "SubnetMin": "10.2.50.0", "Backend": {"Type": "vxlan"}}')
    host.reopen()
    one = host.make()
    one.restore()

    def grant() -> None:
        one.wait(0)
        host.in_use = True

    moody.before_read = once(grant)
    one.start()
    until(lambda: "has no subnet 10.2.1.0/24" in str(one.status().trouble))
    assert (one.held(), moody._snapshot().leases.keys()) == (HELD, {OWN})
    host.in_use = False
    until(lambda: one.status().subnet == "10.2.50.0/24")
    until(lambda: {str(key) for key in moody._snapshot().leases} == {"10.2.50.0/24"})


def test_a_conflict_ends_where_the_peers_are_read_anew_at_the_same_time(host: node_host.NodeHost) -> None:
    """`docker network create` gives the lost subnet up while an audit repairs what the state file has of peers."""
    host.in_use = True
    one = host.join()
    host.registry.put_peer(OWN, THIEFS)
    until(lambda: one.status().conflict)
    host.in_use = False
    one._standing.forget_refusal()
    one.follow_anew()
    assert one.wait(5) == dataclasses.replace(HELD, subnet=PEER.v4)


def test_a_subnet_that_was_given_up_while_its_claim_was_under_way_is_not_taken_up_again(
    host: node_host.NodeHost, moody: MoodyRegistry
) -> None:
    host.in_use = True
    one = host.join()
    host.registry.put_peer(OWN, THIEFS)
    until(lambda: one.status().conflict)
    host.in_use = False
    given_up: list[lease.HeldSubnet] = []
    waiting = threading.Thread(target=lambda: given_up.append(one.wait(5)))

    def give_up() -> None:
        waiting.start()
        until(lambda: one.held() is None)

    moody.before_read = once(give_up)
    one.claim()
    waiting.join(5)
    assert given_up == [dataclasses.replace(HELD, subnet=PEER.v4)]


DUAL = '{"Network": "10.2.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:2::/48", "Backend": {"Type": "vxlan"}}'


def dual_host(directory: pathlib.Path, agreed: MoodyRegistry, number: int) -> node_host.NodeHost:
    """A host with both families, which takes the first free subnets unless a test says otherwise."""
    directory.mkdir()
    eth0 = dataclasses.replace(
        node_host.ETH0,
        addresses=(ipaddress.IPv4Interface(f"192.0.2.{number}/24"),),
        addresses_v6=(ipaddress.IPv6Interface(f"2001:db8::{number}/64"),),
        has_default_route_v6=True,
    )
    mac = netstate.Mac(f"0e:00:00:00:00:0{number}")
    host = node_host.NodeHost(directory, agreed, kernel=kernel_fake.KernelFake([eth0]), mac=mac)
    host.in_use = True
    return host


@pytest.fixture
def pair(tmp_path: pathlib.Path) -> Iterator[tuple[node_host.NodeHost, node_host.NodeHost]]:
    agreed = MoodyRegistry(DUAL)
    hosts = dual_host(tmp_path / "1", agreed, 1), dual_host(tmp_path / "2", agreed, 2)
    yield hosts
    for host in hosts:
        host.close()


def chance(host: node_host.NodeHost, *numbers: int) -> None:
    """What chance gives a host that asks."""
    ports, left = host.ports(), list(numbers)
    host.ports = lambda: dataclasses.replace(  # type: ignore[method-assign]
        ports, pick=lambda count: left.pop(0) % count if left else 0
    )


def test_two_hosts_that_join_at_once_never_have_one_ipv6_subnet(
    pair: tuple[node_host.NodeHost, node_host.NodeHost],
) -> None:
    """Their keys differ by the IPv4 subnets, so that etcd takes both."""
    first, second = pair
    chance(first, 7, 42)
    chance(second, 9, 42)
    one = first.make()
    first.registry.before_put = once(lambda: second.start().wait(5))  # type: ignore[attr-defined]
    one.start()
    one.wait(5)
    until(lambda: one.status().followed)
    (other,) = second.nodes
    assert (one.status().subnet_v6, other.status().subnet_v6) == ("fd00:2:0:8::/64", "fd00:2:0:a::/64")
    assert one.status().overlaps == other.status().overlaps == ()


def test_an_ipv6_subnet_that_a_flanneld_took_a_moment_before_is_not_given_out(
    pair: tuple[node_host.NodeHost, node_host.NodeHost],
) -> None:
    """A network that waits for the lease has it before any watch tells of the other one."""
    host, _ = pair
    host.in_use = False
    rival = lease.SubnetKey(v4=OTHER.v4, v6=ipaddress.IPv6Network("fd00:2:0:1::/64"))
    host.registry.before_put = once(lambda: host.registry.put_peer(rival, OTHERS))  # type: ignore[attr-defined]
    one = host.start()
    held = one.wait(5)
    assert held.v6 is not None
    assert (str(held.subnet), str(held.v6.subnet)) == ("10.2.1.0/24", "fd00:2:0:2::/64")
    assert host.registry._snapshot().leases.keys() == {rival, lease.SubnetKey(v4=held.subnet, v6=held.v6.subnet)}


def test_an_ipv6_subnet_that_another_host_has_too_is_said(
    pair: tuple[node_host.NodeHost, node_host.NodeHost], caplog: pytest.LogCaptureFixture
) -> None:
    host, _ = pair
    one = host.join()
    rival = lease.SubnetKey(v4=OTHER.v4, v6=ipaddress.IPv6Network("fd00:2:0:1::/64"))
    host.registry.put_peer(rival, OTHERS)
    until(lambda: one.status().overlaps)
    (told,) = one.status().overlaps
    assert told.startswith(
        "lease 10.2.3.0/24 and fd00:2:0:1::/64 of 192.0.2.3 overlaps this host's 10.2.1.0/24 and fd00"
    )
    assert told in caplog.text


def test_an_outage_keeps_the_peers(host: node_host.NodeHost) -> None:
    host.registry.put_peer(PEER, PEERS)
    one = host.join()
    host.registry.go_down("connection refused")
    until(lambda: one.status().outage)
    assert (one.status().outage, one.held(), host.routes()) == ("connection refused", HELD, {"10.2.2.0/24"})
    host.registry.come_back()
    until(lambda: one.status().outage is None)
    assert host.routes() == {"10.2.2.0/24"}


def test_who_departed_during_an_outage_is_dropped_on_disk_too(host: node_host.NodeHost) -> None:
    host.registry.put_peer(PEER, PEERS)
    one = host.join()
    until(lambda: host.store.load_peers(node_host.PREFIX).keys() == {PEER})
    host.registry.go_down()
    until(lambda: one.status().outage)
    host.registry.delete_peer(PEER)
    host.registry.put_peer(OTHER, OTHERS)
    host.registry.come_back()
    until(lambda: host.routes() == {"10.2.3.0/24"})
    until(lambda: host.store.load_peers(node_host.PREFIX).keys() == {OTHER})


def test_who_departed_while_we_were_down_is_dropped(host: node_host.NodeHost) -> None:
    host.registry.put_peer(PEER, PEERS)
    host.join().stop()
    host.registry.delete_peer(PEER)
    host.join()
    until(lambda: host.routes() == set())
    until(lambda: host.store.load_peers(node_host.PREFIX) == {})


def test_our_key_that_ended_during_an_outage_is_claimed_again(host: node_host.NodeHost) -> None:
    one = host.join()
    host.registry.go_down()
    until(lambda: one.status().outage)
    host.registry.expire(OWN)
    host.registry.come_back()
    until(has_own_lease(host))
    until(lambda: one.status().confirmed)


def test_a_registry_restored_from_an_old_backup_gets_our_key_again(host: node_host.NodeHost) -> None:
    old = host.registry.read_leases()
    one = host.join()
    host.registry.restore(old)
    until(has_own_lease(host))
    until(lambda: one.status().confirmed)
    assert one.held() == HELD


def test_a_backup_in_which_another_host_has_our_subnet_is_a_conflict(host: node_host.NodeHost) -> None:
    """The revisions in the backup are older than ours: that does not make them an echo."""
    host.in_use = True
    host.registry.put_peer(OWN, THIEFS)
    old = host.registry.read_leases()
    host.registry.delete_peer(OWN)
    for _ in range(5):
        host.registry.put_peer(PEER, PEERS)
    one = host.join()
    host.registry.restore(old)
    until(lambda: one.status().conflict)


def test_nonsense_under_our_key_is_said_and_left_alone(host: node_host.NodeHost) -> None:
    one = host.join()
    host.registry.put_garbage("10.2.1.0-24", "no JSON")
    host.registry.delete_peer(OWN)
    until(lambda: one.status().trouble)
    assert one.status().trouble == "subnet 10.2.1.0/24 has a key that is no lease"
    assert (one.status().confirmed, one.held(), own_lease(host)) == (False, HELD, None)


@pytest.fixture
def beating(host: node_host.NodeHost) -> node_host.NodeHost:
    host.timing = dataclasses.replace(node_host.FAST, beat_s=0.02)
    return host


RIVAL = flanneld.Flanneld(pid=1234, prefix=node_host.PREFIX)


def test_a_flanneld_that_starts_beside_us_is_told_and_nothing_is_torn_down(beating: node_host.NodeHost) -> None:
    beating.registry.put_peer(PEER, PEERS)
    one = beating.join()
    until(lambda: beating.routes() == {"10.2.2.0/24"})
    beating.flannelds = (RIVAL,)
    until(lambda: one.status().findings.rival)
    assert one.held() == HELD
    assert beating.routes() == {"10.2.2.0/24"}
    with pytest.raises(errors.FlanneldRunning):
        one.wait(5)
    beating.flannelds = ()
    until(lambda: one.status().findings.rival is None)
    assert one.wait(5) == HELD


class MuteKernel(kernel_fake.KernelFake):
    """Does not list links while a test says so."""

    mute = False

    def list_underlays(self) -> list[kernel.UnderlayLink]:
        if self.mute:
            raise errors.KernelError(["cannot list this host's links: no buffer space available"])
        return super().list_underlays()


def test_a_flanneld_that_has_ended_is_told_no_more_whatever_the_registry_does(host: node_host.NodeHost) -> None:
    """The next keepalive is an hour away, and our own key cannot be claimed: the thread that would look is busy.

    That it has begun is told at once, by the key which it renews.
    """
    one = host.join()
    host.flannelds = (RIVAL,)
    host.registry.put_peer(OWN, OURS)
    until(lambda: one.status().findings.rival)
    host.registry.go_down()
    host.registry.delete_peer(OWN)
    host.flannelds = (RIVAL, dataclasses.replace(RIVAL, pid=99))
    assert "pid 1234" in str(one.status().findings.rival)
    host.flannelds = (dataclasses.replace(RIVAL, pid=99),)
    until(lambda: "pid 99" in str(one.status().findings.rival))
    host.flannelds = ()
    until(lambda: one.status().findings.rival is None)


def test_a_flanneld_that_has_ended_is_told_no_more_where_the_lease_is_lost(host: node_host.NodeHost) -> None:
    one = host.join()
    host.flannelds = (RIVAL,)
    host.in_use = True
    host.registry.delete_peer(OWN)
    until(lambda: one.status().findings.rival)
    host.registry.put_peer(OWN, THIEFS)
    until(lambda: one.status().conflict)
    host.in_use = False
    with pytest.raises(errors.NotReady):
        one.wait(0.05)  # lets the subnet go
    assert one.held() is None
    host.registry.go_down()
    host.flannelds = ()
    assert one.status().findings.rival is None


def test_addresses_in_the_range_that_are_gone_are_told_no_more(host: node_host.NodeHost) -> None:
    docker0 = dataclasses.replace(
        node_host.ETH0,
        name=netstate.IfName("docker0"),
        index=3,
        addresses=(ipaddress.IPv4Interface("10.2.9.1/24"),),
        has_default_route=False,
    )
    host.kernel = MuteKernel([node_host.ETH0, docker0])
    host.reopen()
    one = host.join()
    assert one.status().findings.overlaps
    host.kernel.mute = True
    assert one.status().findings.overlaps, "a kernel that cannot be asked takes nothing back"
    host.kernel.mute = False
    host.kernel.set_underlays([node_host.ETH0])
    assert one.status().findings.overlaps == ()


def test_a_look_that_hangs_holds_nobody_else_up(host: node_host.NodeHost) -> None:
    """As a process whose memory is locked holds up whoever reads its command line."""
    one = host.join()
    host.flannelds = (RIVAL,)
    host.registry.put_peer(OWN, OURS)
    until(lambda: one.status().findings.rival)
    reading, go_on, in_time = threading.Event(), threading.Event(), []
    host.before_flannelds = lambda: (reading.set(), in_time.append(go_on.wait(5)))
    slow = threading.Thread(target=one.status)
    slow.start()
    assert reading.wait(5)
    assert one.status().findings.rival
    go_on.set()
    slow.join(5)
    assert in_time == [True]


def test_a_look_again_is_made_only_now_and_then(host: node_host.NodeHost) -> None:
    """Whoever polls /readyz shall not have all processes of the host read each time."""
    host.timing = dataclasses.replace(node_host.FAST, findings_s=3600)
    one = host.join()
    host.flannelds = (RIVAL,)
    host.registry.delete_peer(OWN)
    until(lambda: one.status().findings.rival)
    host.flannelds = ()
    assert one.status().findings.rival


def test_a_node_takes_over_when_flanneld_has_ended(host: node_host.NodeHost) -> None:
    host.registry.put_peer(OWN, OURS)
    host.flannelds = (RIVAL,)
    one = host.start()
    with pytest.raises(errors.FlanneldRunning, match=r"flanneld \(pid 1234\)"):
        one.wait(5)
    assert host.kernel.observe(netstate.EMPTY) == netstate.EMPTY
    revision = host.registry.read_leases().revision
    host.flannelds = ()
    until(lambda: one.status().confirmed)
    assert one.wait(5) == HELD
    assert host.registry.read_leases().revision == revision
    until(lambda: host.registry.keep_alives == 1)  # at once: it may have been about to end


def test_a_restart_beside_a_flanneld_leaves_what_is_programmed(host: node_host.NodeHost) -> None:
    """Containers may use it; the registry is not written to."""
    host.registry.put_peer(PEER, PEERS)
    host.join().stop()
    until(lambda: host.routes() == {"10.2.2.0/24"})
    host.reopen()
    host.flannelds = (RIVAL,)
    one = host.start()
    until(lambda: one.status().trouble)
    host.reconciler.open_gate()
    host.reconciler.run_pass()
    assert host.routes() == {"10.2.2.0/24"}
    assert not one.status().confirmed
    with pytest.raises(errors.FlanneldRunning):
        one.wait(5)


def test_two_hosts_with_one_address_are_told_and_do_not_write_for_ever(
    host: node_host.NodeHost, tmp_path: pathlib.Path
) -> None:
    """Vagrant's first interface is 10.0.2.15 everywhere: each takes the other's key for its own."""
    (tmp_path / "twin").mkdir()
    twin = node_host.NodeHost(tmp_path / "twin", host.registry, mac=netstate.Mac("0e:00:00:00:00:02"))
    try:
        one, other = host.join(), twin.start()
        until(lambda: one.status().findings.twin or other.status().findings.twin)
        (told,) = {each.status().findings.twin for each in (one, other)} - {None}
        assert "10.2.1.0/24 is published again and again with our PublicIP 192.0.2.1" in told
        assert host.registry.read_leases().revision < 10
    finally:
        twin.close()


def test_a_subnet_with_an_address_elsewhere_on_the_host_is_not_given_out(host: node_host.NodeHost) -> None:
    docker0 = dataclasses.replace(
        node_host.ETH0,
        name=netstate.IfName("docker0"),
        addresses=(ipaddress.IPv4Interface("10.2.1.1/24"),),
        has_default_route=False,
    )
    host.kernel = type(host.kernel)([node_host.ETH0, docker0])
    host.reopen()
    one = host.start()
    with pytest.raises(errors.AddressTaken, match=r"docker0 has 10\.2\.1\.1/24"):
        one.wait(5)
    until(lambda: one.status().findings.overlaps)
    (told,) = one.status().findings.overlaps
    assert told.startswith("docker0 has 10.2.1.1/24 of this host's flannel subnet 10.2.1.0/24")


def test_the_lease_is_kept_alive(beating: node_host.NodeHost) -> None:
    beating.join()
    until(lambda: beating.registry.keep_alives >= 3)


def test_a_lease_that_ended_unseen_is_renewed_under_the_same_key(beating: node_host.NodeHost) -> None:
    beating.join()
    before = own_lease(beating)
    assert before is not None
    beating.registry.drop_grant(OWN)
    until(lambda: (found := own_lease(beating)) is not None and found.lease_id != before.lease_id)
    seen = beating.registry.keep_alives
    until(lambda: beating.registry.keep_alives > seen)


def test_keepalives_go_on_after_an_outage(beating: node_host.NodeHost) -> None:
    one = beating.join()
    beating.registry.go_down()
    until(lambda: one.status().outage)
    beating.registry.come_back()
    seen = beating.registry.keep_alives
    until(lambda: beating.registry.keep_alives > seen + 2)


def test_a_missing_config_is_said_at_once(host: node_host.NodeHost) -> None:
    host.registry.set_config(None)
    one = host.start()
    began = time.monotonic()
    with pytest.raises(errors.ConfigMissing):
        one.wait(20)
    assert time.monotonic() - began < 5


def test_a_config_that_appears_is_taken_at_once(host: node_host.NodeHost) -> None:
    host.registry.set_config(None)
    host.timing = node.Timing(beat_s=3600, retry_first_s=3600, retry_cap_s=3600)
    one = host.start()
    with pytest.raises(errors.ConfigMissing):
        one.wait(20)
    host.registry.set_config(node_host.CONFIG)
    assert one.wait(5) == HELD


def test_a_config_put_right_while_an_attempt_is_under_way_is_taken(
    host: node_host.NodeHost, moody: MoodyRegistry
) -> None:
    host.registry.set_config(None)
    reading, go_on = threading.Event(), threading.Event()
    told: list[object] = []

    def pause() -> None:
        reading.set()
        assert go_on.wait(5)
        moody.before_config = once(lambda: moody.set_config(node_host.CONFIG))

    moody.before_config = pause
    host.timing = node.Timing(beat_s=3600, retry_first_s=3600, retry_cap_s=3600)
    one = host.start()
    assert reading.wait(5)
    waiting = threading.Thread(target=lambda: told.append(one.wait(5)))
    waiting.start()
    until(one._kick.is_set)
    go_on.set()
    waiting.join(5)
    assert told == [HELD]


def test_waiting_without_a_registry_ends_and_names_the_reason(host: node_host.NodeHost) -> None:
    host.registry.go_down("connection refused")
    one = host.start()
    until(lambda: one.status().trouble)
    with pytest.raises(
        errors.NotReady, match=r"no flannel lease under /coreos\.com/network yet: .*connection refused"
    ):
        one.wait(0.05)
    host.registry.come_back()
    assert one.wait(5) == HELD


def test_leaving_gives_the_key_back_and_clears_up(host: node_host.NodeHost) -> None:
    host.registry.put_peer(PEER, PEERS)
    one = host.join()
    until(lambda: host.routes() == {"10.2.2.0/24"})
    one.leave()
    assert host.kernel.observe(netstate.EMPTY) == netstate.EMPTY
    assert own_lease(host) is not None
    one.give_back()
    assert own_lease(host) is None
    assert (host.store.load(node_host.PREFIX), one.held()) == (None, None)


def test_leaving_without_the_registry_lets_the_lease_expire(host: node_host.NodeHost) -> None:
    one = host.join()
    host.registry.go_down()
    one.leave()
    one.give_back()
    assert own_lease(host) is not None
    assert host.store.load(node_host.PREFIX) is None


def test_leaving_never_takes_the_key_of_another(host: node_host.NodeHost) -> None:
    host.in_use = True
    one = host.join()
    host.registry.put_peer(OWN, THIEFS)
    until(lambda: one.status().conflict)
    one.leave()
    one.give_back()
    found = own_lease(host)
    assert found is not None
    assert found.attrs == THIEFS


def test_a_lease_that_comes_while_leaving_is_given_back(host: node_host.NodeHost, moody: MoodyRegistry) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        writing.set()
        assert go_on.wait(10)

    moody.before_put = pause
    one = host.start()
    assert writing.wait(5)
    one.leave()
    go_on.set()
    one.give_back()
    assert own_lease(host) is None
    assert (host.store.load(node_host.PREFIX), one.held()) == (None, None)
    assert host.kernel.observe(netstate.EMPTY) == netstate.EMPTY


def test_a_lease_that_is_saved_while_leaving_is_given_back_and_forgotten(
    host: node_host.NodeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving, go_on = threading.Event(), threading.Event()
    save = host.store.save

    def save_slowly(saved: nodestore.SavedNode) -> None:
        saving.set()
        assert go_on.wait(10)
        save(saved)

    monkeypatch.setattr(host.store, "save", save_slowly)
    one = host.start()
    assert saving.wait(5)
    one.leave()
    threading.Timer(0.2, go_on.set).start()
    one.give_back()
    assert (own_lease(host), host.store.load(node_host.PREFIX), one.held()) == (None, None, None)
    assert host.kernel.observe(netstate.EMPTY) == netstate.EMPTY


def test_a_lease_that_comes_after_leaving_is_given_back_too(host: node_host.NodeHost) -> None:
    """An attempt that was stuck for longer than leaving waits for its thread."""
    one = host.make()
    one.leave()
    one.give_back()
    with one._keeper.deciding:
        joined = member.join(node_host.PREFIX, host.options, host.ports(), threading.Event(), one._origins)
        one._keeper.settle(joined, None)
    assert (own_lease(host), host.store.load(node_host.PREFIX), one.held()) == (None, None, None)


def test_stopping_leaves_all_as_it_is_and_does_not_take_long(host: node_host.NodeHost) -> None:
    host.registry.put_peer(PEER, PEERS)
    one = host.join()
    until(lambda: host.routes() == {"10.2.2.0/24"})
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < 2
    assert own_lease(host) is not None
    assert host.routes() == {"10.2.2.0/24"}
    assert not any(thread.is_alive() for thread in one._threads)


def test_a_kernel_that_refuses_does_not_stop_the_node(host: node_host.NodeHost) -> None:
    device = netstate.VxlanLink(
        name=netstate.IfName("flannel.1"),
        vni=1,
        port=8472,
        local=ipaddress.IPv4Address("192.0.2.1"),
        underlay=netstate.IfName("eth0"),
        mac=node_host.MAC,
        mtu=1450,
    )
    host.kernel.refuse(device)
    one = host.start()
    assert one.wait(5) == HELD
    until(lambda: one.status().followed)
    host.kernel.refuse(device, None)
    host.registry.put_peer(PEER, PEERS)
    until(lambda: one.status().peers == 1)
    host.reconciler.open_gate()
    until(lambda: host.reconciler.run_pass() and host.routes() == {"10.2.2.0/24"})


def test_a_full_disk_is_trouble_and_not_the_end(host: node_host.NodeHost) -> None:
    assert host.file is not None
    host.file.close()
    one = host.make()
    one.start()
    until(lambda: one.status().trouble)
    with pytest.raises(errors.NotReady, match="state file"):
        one.wait(0.05)


def fill_disk(host: node_host.NodeHost) -> None:
    assert host.file is not None
    host.file._connection.execute("PRAGMA max_page_count = 1")  # SQLite's own "database or disk is full"


def make_room(host: node_host.NodeHost) -> None:
    assert host.file is not None
    host.file._connection.execute("PRAGMA max_page_count = 1000000")


def test_peers_come_and_go_while_the_disk_is_full_and_are_saved_when_it_has_room(host: node_host.NodeHost) -> None:
    """An audit may have the file's peers written anew meanwhile: the thread that follows must not end of it."""
    one = host.join()
    fill_disk(host)
    for number in range(2, 120):
        host.registry.put_peer(
            node_host.key(f"10.2.{number}.0/24"),
            node_host.attrs(f"192.0.2.{number}", f"0e:00:00:00:00:{number:02x}"),
        )
    until(lambda: len(host.routes()) == 118)
    one.follow_anew()
    host.registry.put_peer(node_host.key("10.2.200.0/24"), node_host.attrs("192.0.2.200", "0e:00:00:00:00:c8"))
    until(lambda: "10.2.200.0/24" in host.routes())
    assert len(host.store.load_peers(node_host.PREFIX)) < 119
    make_room(host)
    one.save_again()
    until(lambda: len(host.store.load_peers(node_host.PREFIX)) == 119)


class FullStore(nodestore.NodeStore):
    """A disk on which this host's own row has no room."""

    is_full = True

    def save(self, saved: nodestore.SavedNode) -> None:
        if self.is_full:
            raise statefile.StateFileError("cannot write the state file: database or disk is full")
        super().save(saved)


def test_a_host_that_moved_follows_its_peers_while_the_disk_is_full(host: node_host.NodeHost) -> None:
    """The subnet is in the file already; that the address is not there yet is no reason to know no peer."""
    host.in_use = True
    host.join().stop()
    moved = dataclasses.replace(node_host.ETH0, addresses=(ipaddress.IPv4Interface("192.0.2.100/24"),))
    host.kernel = type(host.kernel)([moved])
    host.reopen()
    assert host.file is not None
    host.store = full = FullStore(host.file)
    host.registry.put_peer(PEER, PEERS)
    one = host.join()
    assert (one.status().trouble, host.routes()) == (None, {"10.2.2.0/24"})
    found, saved = own_lease(host), host.store.load(node_host.PREFIX)
    assert found is not None
    assert saved is not None
    assert (found.attrs.public_ip, saved.attrs) == (ipaddress.IPv4Address("192.0.2.100"), OURS)
    full.is_full = False
    expected = dataclasses.replace(saved, attrs=found.attrs, lease_id=found.lease_id)
    until(lambda: one.save_again() is None and host.store.load(node_host.PREFIX) == expected)


def test_a_subnet_that_is_not_in_the_file_is_not_had(host: node_host.NodeHost) -> None:
    assert host.file is not None
    host.store = full = FullStore(host.file)
    one = host.start()
    until(lambda: "disk is full" in str(one.status().trouble))
    assert one.held() is None
    full.is_full = False
    until(lambda: one.held() == HELD)


class CountedRegistry(MoodyRegistry):
    """Remembers by what each watch is to end."""

    def __init__(self, config: str) -> None:
        super().__init__(config)
        self.stops: list[threading.Event] = []

    def watch(self, stop: threading.Event) -> Iterator[registry.Snapshot | registry.Delta | registry.Outage]:
        self.stops.append(stop)
        return super().watch(stop)


class CrowdedStore(nodestore.NodeStore):
    """A disk with room for a page, not for the peers: writes of a page say that it is mended."""

    def save_peers(
        self, prefix: str, put: Mapping[lease.SubnetKey, lease.Lease], gone: Iterable[lease.SubnetKey]
    ) -> None:
        if put or gone:
            raise statefile.StateFileError("cannot write the state file: database or disk is full")


def test_peers_for_which_there_is_no_room_are_tried_less_and_less_often(tmp_path: pathlib.Path) -> None:
    """Each try cuts the watch and reads all leases again."""
    agreed = CountedRegistry(node_host.CONFIG)
    host = node_host.NodeHost(tmp_path, agreed)
    host.timing = dataclasses.replace(host.timing, save_first_s=0.2)
    assert host.file is not None
    host.store = CrowdedStore(host.file)
    one = host.join()
    agreed.put_peer(PEER, PEERS)
    until(lambda: one._unsaved)
    ends_at = time.monotonic() + 2.0
    while time.monotonic() < ends_at:
        one.save_again()
        threading.Event().wait(0.01)
    assert 2 <= len(agreed.stops) <= 5  # after 0.2, 0.4, 0.8 s
    host.close()


class SlowStore(nodestore.NodeStore):
    """A disk that is still writing when somebody asks whether all was written. Counts readings of all peers."""

    loads = 0
    meanwhile: Callable[[], object] | None = None

    def load_peers(self, prefix: str) -> dict[lease.SubnetKey, lease.Lease]:
        self.loads += 1
        return super().load_peers(prefix)

    def save_peers(
        self, prefix: str, put: Mapping[lease.SubnetKey, lease.Lease], gone: Iterable[lease.SubnetKey]
    ) -> None:
        if self.meanwhile is not None:
            self.meanwhile()
        super().save_peers(prefix, put, gone)


def test_a_slow_disk_is_no_reason_to_read_all_leases_again(host: node_host.NodeHost) -> None:
    """The thread `state-file` asks every five seconds, on each of thousands of hosts."""
    assert host.file is not None
    file = host.store
    host.store = slow = SlowStore(host.file)
    one = host.join()
    loads, slow.meanwhile = slow.loads, one.save_again
    host.registry.put_peer(PEER, PEERS)
    until(lambda: PEER in file.load_peers(node_host.PREFIX))
    host.registry.delete_peer(PEER)
    until(lambda: PEER not in file.load_peers(node_host.PREFIX))
    host.registry.put_peer(OTHER, OTHERS)
    until(lambda: OTHER in file.load_peers(node_host.PREFIX))
    assert slow.loads == loads


def test_a_host_that_moved_rewrites_its_key_with_the_new_address(host: node_host.NodeHost) -> None:
    host.in_use = True
    host.join().stop()
    moved = dataclasses.replace(node_host.ETH0, addresses=(ipaddress.IPv4Interface("192.0.2.100/24"),))
    host.kernel = type(host.kernel)([moved])
    host.reopen()
    one = host.join()
    found = own_lease(host)
    assert found is not None
    assert (found.attrs, one.held()) == (node_host.attrs("192.0.2.100", node_host.MAC), HELD)


def test_many_changes_of_our_key_end_with_our_key(beating: node_host.NodeHost) -> None:
    """Both threads, all events, no lost update: whoever writes last, we find our key as we want it."""
    one = beating.join()
    for number in range(30):
        with contextlib.suppress(KeyError):
            (
                lambda: beating.registry.delete_peer(OWN),
                lambda: beating.registry.expire(OWN),
                lambda: beating.registry.drop_grant(OWN),
                lambda: beating.registry.put_peer(OWN, node_host.attrs("192.0.2.1", "0e:00:00:00:00:77")),
                lambda: beating.registry.put_peer(OWN, THIEFS),
                beating.registry.compact,
            )[number % 6]()
    beating.registry.delete_peer(OWN)
    until(has_own_lease(beating))
    until(lambda: one.status().confirmed and one.status().conflict is None)

    def agrees() -> bool:  # the deletion above may be told only now
        found, (_, held, _) = own_lease(beating), one._standing.now()
        return found is not None and held is not None and held.mod_revision == found.mod_revision

    until(agrees)


def test_the_options_reach_the_choice_of_the_underlay(host: node_host.NodeHost) -> None:
    host.options = member.Options(iface="eth9")
    one = host.start()
    with pytest.raises(errors.UnderlayError, match="IFACE='eth9' matches no interface"):
        one.wait(5)
