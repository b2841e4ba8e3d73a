"""What every registry does alike: the fake, the one in the state file, the one in a real etcd."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import itertools
import pathlib
import threading
from collections.abc import Iterator
from typing import Protocol

import pytest

from overlay import errors, lease, registry, registry_etcd, registry_fake, registry_standalone, statefile
from tests.overlay import etcd_server, watching

CONFIG = '{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan"}}'
KEY = lease.parse_subnet_key("10.2.20.0-24")
OTHER_KEY = lease.parse_subnet_key("10.2.21.0-24")
ATTRS = lease.LeaseAttrs(
    public_ip=ipaddress.IPv4Address("192.0.2.1"),
    backend_type="vxlan",
    backend_data='{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}',
)
OTHER_ATTRS = dataclasses.replace(ATTRS, public_ip=ipaddress.IPv4Address("192.0.2.2"))

_prefixes = itertools.count()


class Kit(Protocol):
    """A registry, and what the rest of the world does to it."""

    registry: registry.Registry

    def expire(self, held: lease.Lease) -> None: ...
    def reserve(self, key: lease.SubnetKey, attrs: lease.LeaseAttrs) -> None: ...


class FakeKit:
    def __init__(self) -> None:
        self.registry = registry_fake.FakeRegistry()

    def expire(self, held: lease.Lease) -> None:
        self.registry.expire(held.key)

    def reserve(self, key: lease.SubnetKey, attrs: lease.LeaseAttrs) -> None:
        self.registry.put_peer(key, attrs, reserved=True)

    def put_garbage(self, name: str, _value: str) -> None:
        self.registry.put_garbage(name)

    def go_down(self) -> None:
        self.registry.go_down()

    def come_back(self) -> None:
        self.registry.come_back()

    def elect(self) -> None:
        self.registry.elect()

    def compact(self) -> None:
        self.registry.compact()

    def back_up(self) -> None:
        self._saved = self.registry.read_leases()

    def restore(self) -> None:
        self.registry.restore(self._saved)


class StandaloneKit:
    """Nothing expires in the state file, so the end of a lease is its deletion."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._file = statefile.StateFile(folder / "state.db", [registry_standalone.SCHEMA])
        self.registry = registry_standalone.StandaloneRegistry(self._file, "/coreos.com/network")

    def expire(self, held: lease.Lease) -> None:
        self.registry.delete_lease(held)

    def reserve(self, key: lease.SubnetKey, attrs: lease.LeaseAttrs) -> None:
        held = self.registry.put_lease(key, attrs, None)
        with self._file.write() as tx:
            tx.run("UPDATE registry_lease SET lease_id = 0 WHERE mod_revision = ?", (held.mod_revision,))

    def close(self) -> None:
        self._file.close()


class EtcdKit:
    def __init__(self, cluster: etcd_server.Cluster) -> None:
        self.cluster = cluster
        self.client = cluster.client(timeout_s=2.0)
        self.prefix = f"/test{next(_prefixes)}/network"
        self.registry = registry_etcd.EtcdRegistry(self.client, self.prefix + "/")

    def expire(self, held: lease.Lease) -> None:
        self.client.revoke(held.lease_id)

    def reserve(self, key: lease.SubnetKey, attrs: lease.LeaseAttrs) -> None:
        self.put_garbage(lease.format_subnet_key(key), lease.format_attrs(attrs))

    def put_garbage(self, name: str, value: str) -> None:
        self.client.put_if(f"{self.prefix}/subnets/{name}", value, lease_id=0, revision=0)

    def go_down(self) -> None:
        self.cluster.kill()

    def come_back(self) -> None:
        self.cluster.start()

    def elect(self) -> None:
        self.cluster.kill()
        self.cluster.start()

    def compact(self) -> None:
        self.cluster.ctl("compaction", str(self.registry.read_leases().revision))

    def back_up(self) -> None:
        """As an operator does; `restore` brings the same revision back."""
        (folder := self.cluster.members[0].folder / "backup").mkdir(exist_ok=True)
        self._backup = folder / f"{next(_prefixes)}.db"
        self.cluster.ctl("snapshot", "save", str(self._backup))

    def restore(self) -> None:
        self.cluster.restore(self._backup)

    def close(self) -> None:
        self.client.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[etcd_server.Cluster]:
    with etcd_server.running(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@contextlib.contextmanager
def make_kit(kind: str, request: pytest.FixtureRequest, folder: pathlib.Path) -> Iterator[object]:
    if kind == "fake":
        yield FakeKit()
        return
    kit = StandaloneKit(folder) if kind == "standalone" else EtcdKit(request.getfixturevalue("cluster"))
    with contextlib.closing(kit):
        yield kit


ETCD = pytest.param("etcd", marks=pytest.mark.contract)


@pytest.fixture(params=["fake", "standalone", ETCD])
def kit(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[object]:
    with make_kit(request.param, request, tmp_path) as made:
        yield made


@pytest.fixture(params=["fake", ETCD])
def fallible(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[object]:
    """A registry that others write to, and that one can lose."""
    with make_kit(request.param, request, tmp_path) as made:
        yield made


def granted(held: lease.Lease) -> lease.Lease:
    """As it is read back: a reader is not told the time granted."""
    return dataclasses.replace(held, ttl_s=None)


def test_the_config_is_missing_until_one_is_written_and_then_stays(kit: Kit) -> None:
    with pytest.raises(errors.ConfigMissing):
        kit.registry.read_config()
    assert kit.registry.create_config(CONFIG)
    assert not kit.registry.create_config("{}")
    assert kit.registry.read_config() == CONFIG


def test_an_empty_registry_has_no_leases(kit: Kit) -> None:
    kit.registry.create_config(CONFIG)
    assert kit.registry.read_leases().leases == {}


def test_a_created_lease_is_read_back(kit: Kit) -> None:
    held = kit.registry.put_lease(KEY, ATTRS, None)
    assert (held.key, held.attrs, held.ttl_s) == (KEY, ATTRS, registry.SUBNET_TTL_S)
    assert held.lease_id != 0
    snapshot = kit.registry.read_leases()
    assert snapshot.leases == {KEY: granted(held)}
    assert snapshot.revision >= held.mod_revision > 0
    assert snapshot.unreadable == ()


def test_a_dual_stack_lease_is_read_back(kit: Kit) -> None:
    key = lease.parse_subnet_key("10.2.20.0-24&fd00:12:13::-56")
    attrs = dataclasses.replace(ATTRS, public_ipv6=ipaddress.IPv6Address("2001:db8::1"), backend_v6_data="{}")
    held = kit.registry.put_lease(key, attrs, None)
    assert kit.registry.read_leases().leases == {key: granted(held)}


def test_a_taken_subnet_is_not_created_again(kit: Kit) -> None:
    held = kit.registry.put_lease(KEY, ATTRS, None)
    with pytest.raises(errors.SubnetTaken, match=r"10\.2\.20\.0/24 is leased by 192\.0\.2\.1"):
        kit.registry.put_lease(KEY, OTHER_ATTRS, None)
    assert kit.registry.read_leases().leases == {KEY: granted(held)}


PLAIN = lease.parse_subnet_key("10.2.20.0-24")
DUAL = lease.parse_subnet_key("10.2.20.0-24&fd00:12:13::-56")
OTHER_DUAL = lease.parse_subnet_key("10.2.20.0-24&fd00:12:14::-56")


@pytest.mark.parametrize(("first", "second"), [(PLAIN, DUAL), (DUAL, PLAIN), (DUAL, OTHER_DUAL)])
def test_one_ipv4_subnet_has_one_key_whatever_its_form(
    kit: Kit, first: lease.SubnetKey, second: lease.SubnetKey
) -> None:
    held = kit.registry.put_lease(first, ATTRS, None)
    with pytest.raises(errors.SubnetTaken, match=r"10\.2\.20\.0/24 is leased by 192\.0\.2\.1"):
        kit.registry.put_lease(second, OTHER_ATTRS, None)
    assert kit.registry.read_leases().leases == {first: granted(held)}


@pytest.mark.parametrize("near", ["10.2.20.0-25", "10.2.2.0-24", "10.2.20.0-23", "110.2.20.0-24"])
def test_subnets_whose_keys_look_alike_are_no_hindrance(kit: Kit, near: str) -> None:
    kit.registry.put_lease(lease.parse_subnet_key(near), OTHER_ATTRS, None)
    held = kit.registry.put_lease(PLAIN, ATTRS, None)
    assert kit.registry.read_leases().leases[PLAIN] == granted(held)


def test_the_two_forms_of_one_subnet_created_at_once_come_to_one_lease(kit: Kit) -> None:
    for number in range(10):
        forms = (
            lease.SubnetKey(v4=ipaddress.IPv4Network((f"10.2.{number}.0", 24))),
            lease.parse_subnet_key(f"10.2.{number}.0-24&fd00:12:13::-56"),
        )
        outcomes: list[str] = []
        start = threading.Barrier(2)

        def create(form: lease.SubnetKey, start: threading.Barrier = start, out: list[str] = outcomes) -> None:
            start.wait(5.0)
            try:
                kit.registry.put_lease(form, ATTRS, None)
                out.append("won")
            except errors.SubnetTaken:
                out.append("lost")

        threads = [threading.Thread(target=create, args=(form,)) for form in forms]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10.0)
        assert sorted(outcomes) == ["lost", "won"]


def test_how_long_a_lease_has_left_is_told_for_that_one(kit: Kit) -> None:
    held = kit.registry.put_lease(KEY, ATTRS, None)
    left = kit.registry.time_left(held)
    assert left is not None
    assert registry.SUBNET_TTL_S - 10 < left.seconds <= registry.SUBNET_TTL_S
    kit.reserve(OTHER_KEY, OTHER_ATTRS)
    assert kit.registry.time_left(kit.registry.read_leases().leases[OTHER_KEY]) is None


def test_the_time_that_is_left_tells_how_long_ago_a_lease_was_renewed(fallible: FakeKit | EtcdKit) -> None:
    """By it a clone learns that its original lives."""
    held = fallible.registry.put_lease(KEY, ATTRS, None)
    threading.Event().wait(2.1)
    before = fallible.registry.time_left(held)
    fallible.registry.keep_alive(held)
    after = fallible.registry.time_left(held)
    assert before is not None
    assert after is not None
    assert before.seconds <= registry.SUBNET_TTL_S - 2 < after.seconds
    assert before.term == after.term


def test_an_election_gives_all_leases_their_time_and_is_told(fallible: FakeKit | EtcdKit) -> None:
    held = fallible.registry.put_lease(KEY, ATTRS, None)
    threading.Event().wait(2.1)
    before = fallible.registry.time_left(held)
    fallible.elect()
    after = fallible.registry.time_left(held)
    assert before is not None
    assert after is not None
    assert before.seconds <= registry.SUBNET_TTL_S - 2 < after.seconds
    assert before.term != after.term


def test_a_lease_that_has_ended_has_no_time_left(fallible: FakeKit | EtcdKit) -> None:
    held = fallible.registry.put_lease(KEY, ATTRS, None)
    fallible.expire(held)
    left = fallible.registry.time_left(held)
    assert left is not None
    assert left.seconds == 0


def test_of_many_who_create_at_once_one_wins(kit: Kit) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(6)

    def create(number: int) -> None:
        attrs = dataclasses.replace(ATTRS, public_ip=ipaddress.IPv4Address("192.0.2.0") + number)
        start.wait(5.0)
        try:
            kit.registry.put_lease(KEY, attrs, None)
            outcomes.append("won")
        except errors.SubnetTaken:
            outcomes.append("lost")

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert sorted(outcomes) == ["lost"] * 5 + ["won"]


def test_a_rewrite_keeps_the_lease_and_moves_the_revision(kit: Kit) -> None:
    held = kit.registry.put_lease(KEY, ATTRS, None)
    again = kit.registry.put_lease(KEY, OTHER_ATTRS, held)
    assert again.lease_id == held.lease_id
    assert again.mod_revision > held.mod_revision
    assert kit.registry.read_leases().leases == {KEY: granted(again)}


def test_a_rewrite_over_what_was_rewritten_is_refused(kit: Kit) -> None:
    held = kit.registry.put_lease(KEY, ATTRS, None)
    again = kit.registry.put_lease(KEY, OTHER_ATTRS, held)
    with pytest.raises(errors.LeaseLost):
        kit.registry.put_lease(KEY, ATTRS, held)
    assert kit.registry.read_leases().leases == {KEY: granted(again)}


def test_a_rewrite_of_an_expired_lease_is_refused(kit: Kit) -> None:
    held = kit.registry.put_lease(KEY, ATTRS, None)
    kit.expire(held)
    with pytest.raises(errors.LeaseLost):
        kit.registry.put_lease(KEY, ATTRS, held)
    assert kit.registry.read_leases().leases == {}


def test_an_expired_subnet_can_be_created_again(kit: Kit) -> None:
    kit.expire(kit.registry.put_lease(KEY, ATTRS, None))
    assert kit.registry.read_leases().leases == {}
    held = kit.registry.put_lease(KEY, OTHER_ATTRS, None)
    assert kit.registry.read_leases().leases == {KEY: granted(held)}


def test_a_reservation_stays_one_when_it_is_rewritten(kit: Kit) -> None:
    kit.reserve(KEY, OTHER_ATTRS)
    reserved = kit.registry.read_leases().leases[KEY]
    assert reserved.lease_id == 0
    held = kit.registry.put_lease(KEY, ATTRS, reserved)
    assert (held.lease_id, held.ttl_s) == (0, None)
    assert kit.registry.read_leases().leases == {KEY: held}
    assert kit.registry.keep_alive(held) == registry.SUBNET_TTL_S


def test_a_lease_is_kept_alive_until_it_has_expired(kit: Kit) -> None:
    held = kit.registry.put_lease(KEY, ATTRS, None)
    assert kit.registry.keep_alive(held) == registry.SUBNET_TTL_S
    kit.expire(held)
    with pytest.raises(errors.LeaseLost):
        kit.registry.keep_alive(held)


def test_a_deleted_lease_is_gone_and_a_second_delete_is_harmless(kit: Kit) -> None:
    held = kit.registry.put_lease(KEY, ATTRS, None)
    kit.registry.delete_lease(held)
    kit.registry.delete_lease(held)
    assert kit.registry.read_leases().leases == {}
    with pytest.raises(errors.LeaseLost):
        kit.registry.keep_alive(held)


def test_a_lease_that_was_rewritten_is_not_deleted(kit: Kit) -> None:
    held = kit.registry.put_lease(KEY, ATTRS, None)
    again = kit.registry.put_lease(KEY, OTHER_ATTRS, held)
    kit.registry.delete_lease(held)
    assert kit.registry.read_leases().leases == {KEY: granted(again)}


def test_a_watch_tells_what_is_there_then_every_change_once_in_order(kit: Kit) -> None:
    first = kit.registry.put_lease(KEY, ATTRS, None)
    with watching.Watching(kit.registry) as watch:
        assert watch.wait_snapshot().leases == {KEY: granted(first)}
        second = kit.registry.put_lease(OTHER_KEY, OTHER_ATTRS, None)
        third = kit.registry.put_lease(OTHER_KEY, ATTRS, second)
        kit.registry.delete_lease(first)
        kit.expire(third)
        assert watch.wait_changes(4) == [
            registry.LeasePut(lease=granted(second)),
            registry.LeasePut(lease=granted(third)),
            registry.LeaseGone(key=KEY),
            registry.LeaseGone(key=OTHER_KEY),
        ]
        revisions = [event.revision for event in watch.events if not isinstance(event, registry.Outage)]
    assert revisions == sorted(revisions)
    assert (len(watch.snapshots), watch.outages) == (1, [])


def test_many_changes_come_to_every_watcher(kit: Kit) -> None:
    keys = [lease.SubnetKey(v4=ipaddress.IPv4Network((f"10.2.{number}.0", 24))) for number in range(60)]
    with watching.Watching(kit.registry) as one, watching.Watching(kit.registry) as two:
        one.wait_snapshot()
        two.wait_snapshot()
        for key in keys:
            kit.registry.put_lease(key, ATTRS, None)
        for watch in (one, two):
            changes = watch.wait_changes(len(keys))
            assert [change.lease.key for change in changes if isinstance(change, registry.LeasePut)] == keys


def test_a_watch_ends_before_it_began(kit: Kit) -> None:
    stop = threading.Event()
    stop.set()
    assert list(kit.registry.watch(stop)) == []


def test_a_watch_can_be_dropped(kit: Kit) -> None:
    events = kit.registry.watch(threading.Event())
    assert isinstance(next(events), registry.Snapshot)
    events.close()  # type: ignore[attr-defined]  # both are generators


GARBAGE = {
    "hello": "{}",
    "10.2.99.0-24": "no json",
    "10.2.98.0-24": '{"PublicIP":"x"}',
    "10.2.97.5-24": '{"PublicIP":"192.0.2.9"}',
    "x10.2.96.0-24": '{"PublicIP":"192.0.2.9"}',
    "10.2.95.0-24/more": '{"PublicIP":"192.0.2.9"}',
}


def test_what_is_no_lease_harms_no_other(fallible: FakeKit | EtcdKit) -> None:
    held = fallible.registry.put_lease(KEY, ATTRS, None)
    with watching.Watching(fallible.registry) as watch:
        watch.wait_snapshot()
        for name, value in GARBAGE.items():
            fallible.put_garbage(name, value)
        other = fallible.registry.put_lease(OTHER_KEY, OTHER_ATTRS, None)
        *bad, last = watch.wait_changes(len(GARBAGE) + 1)
    assert [change.key.rpartition("subnets/")[2] for change in bad if isinstance(change, registry.Unreadable)] == [
        *GARBAGE
    ]
    assert last == registry.LeasePut(lease=granted(other))
    snapshot = fallible.registry.read_leases()
    assert snapshot.leases == {KEY: granted(held), OTHER_KEY: granted(other)}
    assert len(snapshot.unreadable) == len(GARBAGE)
    assert all(bad.reason for bad in snapshot.unreadable)
    with pytest.raises(errors.SubnetTaken, match="no lease"):
        fallible.registry.put_lease(lease.parse_subnet_key("10.2.99.0-24"), ATTRS, None)


def test_an_outage_is_told_once_and_ended_by_all_leases(fallible: FakeKit | EtcdKit) -> None:
    held = fallible.registry.put_lease(KEY, ATTRS, None)
    with watching.Watching(fallible.registry) as watch:
        watch.wait_snapshot()
        fallible.go_down()
        assert watch.wait_outages().reason
        for call in (
            fallible.registry.read_config,
            fallible.registry.read_leases,
            lambda: fallible.registry.put_lease(OTHER_KEY, ATTRS, None),
            lambda: fallible.registry.put_lease(KEY, ATTRS, held),
            lambda: fallible.registry.keep_alive(held),
            lambda: fallible.registry.delete_lease(held),
        ):
            with pytest.raises(errors.RegistryUnavailable):
                call()
        fallible.come_back()
        other = etcd_server.wait_for(
            lambda: fallible.registry.put_lease(OTHER_KEY, OTHER_ATTRS, None), "the registry to be back"
        )
        seen = watch.wait(lambda events: OTHER_KEY in _known(events), "the lease written after the outage")
        assert fallible.registry.keep_alive(held) == registry.SUBNET_TTL_S
    assert _known(seen) == {KEY: granted(held), OTHER_KEY: granted(other)}
    assert len(watch.outages) == 1


def _known(events: list[watching.Event]) -> dict[lease.SubnetKey, lease.Lease]:
    """What one who listens to a watch holds for true."""
    known: dict[lease.SubnetKey, lease.Lease] = {}
    for event in events:
        match event:
            case registry.Snapshot():
                known = dict(event.leases)
            case registry.Delta():
                for change in event.changes:
                    match change:
                        case registry.LeasePut():
                            known[change.lease.key] = change.lease
                        case registry.LeaseGone():
                            known.pop(change.key, None)
                        case registry.Unreadable():
                            pass
            case registry.Outage():
                pass
    return known


def test_a_watch_that_begins_in_an_outage_says_so_once(fallible: FakeKit | EtcdKit) -> None:
    fallible.go_down()
    with watching.Watching(fallible.registry) as watch:
        watch.wait_outages()
        fallible.come_back()
        assert watch.wait_snapshot(timeout_s=20.0).leases == {}
    assert [type(event) for event in watch.events] == [registry.Outage, registry.Snapshot]


def test_a_watch_that_lags_behind_a_compaction_starts_over(fallible: FakeKit | EtcdKit) -> None:
    first = fallible.registry.put_lease(KEY, ATTRS, None)
    events = fallible.registry.watch(threading.Event())
    assert isinstance(next(events), registry.Snapshot)
    fallible.registry.delete_lease(first)
    second = fallible.registry.put_lease(OTHER_KEY, OTHER_ATTRS, None)
    fallible.compact()
    snapshot = next(events)
    assert isinstance(snapshot, registry.Snapshot)
    assert snapshot.leases == {OTHER_KEY: granted(second)}
    again = fallible.registry.put_lease(OTHER_KEY, ATTRS, second)
    assert next(events) == registry.Delta(
        revision=again.mod_revision, changes=(registry.LeasePut(lease=granted(again)),)
    )
    events.close()  # type: ignore[attr-defined]  # both are generators


def test_a_store_that_went_back_in_time_is_read_anew(fallible: FakeKit | EtcdKit) -> None:
    first = fallible.registry.put_lease(KEY, ATTRS, None)
    with watching.Watching(fallible.registry) as watch:
        before = watch.wait_snapshot()
        fallible.back_up()
        for _ in range(5):
            fallible.registry.delete_lease(fallible.registry.put_lease(OTHER_KEY, OTHER_ATTRS, None))
        fallible.registry.put_lease(OTHER_KEY, OTHER_ATTRS, None)
        watch.wait_changes(11)
        fallible.restore()
        watch.wait_outages()
        after = watch.wait_snapshot(2, timeout_s=20.0)
    assert {key: held.attrs for key, held in after.leases.items()} == {KEY: ATTRS}
    assert before.revision <= after.revision < before.revision + 11
    assert first.key in after.leases
