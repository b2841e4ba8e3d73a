"""The keeping of a lease, against a registry in memory. What only a real etcd does: test_lease_life.py."""

from __future__ import annotations

import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from overlay import errors, lease, registry, registry_fake
from tests.overlay import node_host

OWN = node_host.key("10.2.1.0/24")
OURS = node_host.attrs("192.0.2.1", node_host.MAC)
THIEFS = node_host.attrs("192.0.2.66", "0e:00:00:00:00:66")
until = node_host.until


class TickingRegistry(registry_fake.FakeRegistry):
    """Its leases have little time left, its renewals may take long, and it tells who rewrote what."""

    def __init__(self, config: str | None = None) -> None:
        super().__init__(config)
        self.left_s = 86_400
        self.takes_s = 0.0
        self.refusals = 0
        self.puts: list[lease.Lease | None] = []

    def put_lease(self, key: lease.SubnetKey, attrs: lease.LeaseAttrs, over: lease.Lease | None) -> lease.Lease:
        stored = super().put_lease(key, attrs, over)
        self.puts.append(over)
        return dataclasses.replace(stored, ttl_s=None if over else self.left_s)

    def keep_alive(self, held: lease.Lease) -> int:
        threading.Event().wait(self.takes_s)
        if self.refusals:
            self.refusals -= 1
            raise errors.RegistryUnavailable("no answer")
        super().keep_alive(held)
        return self.left_s


@pytest.fixture
def ticking() -> TickingRegistry:
    return TickingRegistry(node_host.CONFIG)


@pytest.fixture
def host(tmp_path: pathlib.Path, ticking: TickingRegistry) -> Iterator[node_host.NodeHost]:
    one = node_host.NodeHost(tmp_path, ticking)
    yield one
    one.close()


def timing(host: node_host.NodeHost, **seconds: float) -> None:
    host.timing = dataclasses.replace(node_host.FAST, **seconds)


def events(host: node_host.NodeHost) -> dict[str, int]:
    """What was counted at all."""
    return {kind: count for kind, count in host.nodes[-1].status().events.items() if count}


def messages(caplog: pytest.LogCaptureFixture, start: str) -> list[str]:
    return [text for record in caplog.records if (text := record.getMessage()).startswith(start)]


def test_the_own_key_is_rewritten_soon_after_the_start_and_then_again_and_again(
    host: node_host.NodeHost, ticking: TickingRegistry
) -> None:
    timing(host, heal_first_s=0.1, heal_s=0.02)
    host.join()
    first = ticking._snapshot().leases[OWN]
    until(lambda: events(host).get("key_healed", 0) >= 3)
    host.nodes[-1].stop()
    healed = ticking._snapshot().leases[OWN]
    assert (healed.attrs, healed.lease_id) == (first.attrs, first.lease_id)
    assert ticking.puts[0] is None
    assert all(over is not None for over in ticking.puts[1:])
    assert events(host)["lease_held"] == 1


def test_the_first_rewrite_waits_between_five_and_ten_seconds_by_default(host: node_host.NodeHost) -> None:
    one = host.join()
    left_s = one._keeper._heal_at - time.monotonic()
    assert 4 < left_s <= 10


def test_a_rewrite_that_gets_no_answer_leaves_the_lease_as_it_was(
    host: node_host.NodeHost, caplog: pytest.LogCaptureFixture
) -> None:
    timing(host, heal_first_s=0.2, heal_s=0.02)
    one = host.join()
    host.registry.go_down()
    until(lambda: events(host).get("heal_failed", 0) >= 2)
    assert (one.status().confirmed, one.status().trouble) == (True, None)
    assert "key_healed" not in events(host)
    assert messages(caplog, "own key not rewritten")[0].endswith(
        "reason=the registry does not answer: connection refused"
    )


def test_a_keepalive_that_failed_is_tried_again_before_a_clone_could_take_the_lease(
    host: node_host.NodeHost, ticking: TickingRegistry
) -> None:
    """Nothing breaks the watch here, whose return would be a reason to renew."""
    timing(host, beat_s=6.0, heal_first_s=3600, heal_s=3600)
    one = host.join()
    before = ticking.keep_alives
    ticking.refusals = 1
    one._keeper.beat_now()
    until(lambda: events(host).get("keepalive_failed") == 1)
    until(lambda: ticking.keep_alives > before, within_s=3.0)


def test_a_rewrite_succeeds_with_a_file_that_cannot_be_written(
    host: node_host.NodeHost, caplog: pytest.LogCaptureFixture
) -> None:
    """What is rewritten is in the file already."""
    timing(host, heal_first_s=0.2, heal_s=0.02)
    one = host.join()
    assert host.file is not None
    host.file._connection.execute("PRAGMA query_only = ON")
    healed = events(host).get("key_healed", 0)
    until(lambda: events(host).get("key_healed", 0) >= healed + 2)
    assert (one.status().confirmed, one.status().trouble) == (True, None)
    assert "bug" not in caplog.text


def test_a_file_that_cannot_be_written_is_trouble_and_no_bug(
    host: node_host.NodeHost, caplog: pytest.LogCaptureFixture
) -> None:
    """Here the file has another address than the key that is rewritten."""
    timing(host, heal_first_s=3600, heal_s=3600)
    one = host.join()
    saved = host.store.load(node_host.PREFIX)
    assert saved is not None
    assert host.file is not None
    host.store.save(dataclasses.replace(saved, config=node_host.CONFIG + " " * 100_000))
    host.file._connection.execute("PRAGMA query_only = ON")
    one._keeper._heal()
    assert "cannot write the state file" in messages(caplog, "lease not saved")[0]
    assert "bug" not in caplog.text
    assert (one.status().confirmed, one.status().trouble) == (True, None)
    # it is opened anew before the next write
    until(lambda: one.save_again() is None and host.store.load(node_host.PREFIX) == saved)


def test_a_rewrite_finds_a_thief_and_leaves_its_key_alone(host: node_host.NodeHost, ticking: TickingRegistry) -> None:
    """The watch may not have told it yet."""
    host.in_use = True
    one = host.join()
    with ticking._lock:
        ticking._leases[OWN] = dataclasses.replace(ticking._leases[OWN], attrs=THIEFS, mod_revision=99)
    one._keeper._heal()
    assert one.status().conflict is not None
    assert ticking._snapshot().leases[OWN].attrs == THIEFS
    assert events(host) == {"lease_held": 1, "subnet_lost": 1}


def test_a_lease_taken_over_at_the_start_is_renewed_at_once(
    host: node_host.NodeHost, ticking: TickingRegistry
) -> None:
    """Its day may be over in a second: the host was down until now."""
    host.join().stop()
    before = ticking.keep_alives
    host.reopen()
    host.join()
    until(lambda: ticking.keep_alives == before + 1)


def test_a_lease_is_renewed_at_once_when_the_registry_is_back(
    host: node_host.NodeHost, ticking: TickingRegistry
) -> None:
    one = host.join()
    ticking.go_down()
    until(lambda: one.status().outage)
    before = ticking.keep_alives
    ticking.come_back()
    until(lambda: ticking.keep_alives > before)
    assert {"registry_lost": 1, "registry_back": 1}.items() <= events(host).items()


def test_the_time_that_was_granted_is_what_the_status_shows(
    host: node_host.NodeHost, ticking: TickingRegistry
) -> None:
    ticking.left_s = 30
    one = host.join()
    left_s = one.status().expires_in_s
    assert left_s is not None
    assert 20 < left_s <= 30


def test_a_lease_that_ran_out_in_an_outage_is_said_not_confirmed_and_claimed_again(
    host: node_host.NodeHost, ticking: TickingRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    timing(host, beat_s=0.02)
    ticking.left_s = 1
    one = host.join()
    before = one.held()
    ticking.go_down()
    until(lambda: not one.status().confirmed)
    assert one.held() == before
    seen = events(host)
    assert seen["lease_expired"] == 1
    assert seen["keepalive_failed"] >= 1
    assert len(messages(caplog, "lease has run out unrenewed, subnet kept")) == 1
    ticking.expire(OWN)
    ticking.come_back()
    until(lambda: one.status().confirmed and OWN in ticking._snapshot().leases)


def test_a_slow_registry_is_said_once_and_counted_each_time(
    host: node_host.NodeHost, ticking: TickingRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    timing(host, beat_s=0.01, slow_s=0.02)
    ticking.takes_s = 0.03
    host.join()
    until(lambda: events(host).get("registry_slow", 0) >= 3)
    assert messages(caplog, "registry answers slowly") == [
        f"registry answers slowly prefix={node_host.PREFIX} seconds=0.0"
    ]
    ticking.takes_s = 0.0
    slow = events(host)["registry_slow"]
    before = ticking.keep_alives
    until(lambda: ticking.keep_alives > before + 3)
    assert events(host)["registry_slow"] <= slow + 1


def test_a_wall_clock_that_is_set_is_said_and_changes_nothing(
    host: node_host.NodeHost, caplog: pytest.LogCaptureFixture
) -> None:
    one = host.join()
    before = one.status().expires_in_s
    one._keeper._clock_offset += 3 * 86_400
    one._keeper._look_at_clock()
    one._keeper._look_at_clock()
    assert messages(caplog, "wall clock") == [
        f"wall clock was set, lease unaffected prefix={node_host.PREFIX} jump_s=-259200"
    ]
    after = one.status().expires_in_s
    assert before is not None
    assert after is not None
    assert before - 5 < after <= before
    assert events(host) == {"lease_held": 1, "clock_jumped": 1}


def test_a_failed_claim_is_counted_each_time(host: node_host.NodeHost, ticking: TickingRegistry) -> None:
    one = host.join()
    one._keeper._fail(errors.RegistryUnavailable("no leader"))
    until(lambda: one.status().confirmed)
    assert events(host) == {"lease_held": 2, "claim_failed": 1}


def test_a_deleted_and_a_stolen_key_are_counted(host: node_host.NodeHost, ticking: TickingRegistry) -> None:
    host.in_use = True
    one = host.join()
    ticking.delete_peer(OWN)
    until(lambda: events(host).get("lease_held") == 2)
    ticking.put_peer(OWN, THIEFS)
    until(lambda: one.status().conflict)
    ticking.delete_peer(OWN)
    until(lambda: one.status().confirmed)
    assert events(host) == {"lease_held": 3, "key_gone": 1, "subnet_lost": 1, "subnet_regained": 1}


def test_a_store_that_went_back_and_a_key_nobody_can_read_are_counted(
    host: node_host.NodeHost, ticking: TickingRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    old = ticking.read_leases()
    one = host.join()
    ticking.put_garbage("notes", "no subnet key")
    until(lambda: events(host).get("key_unreadable"))
    ticking.restore(old)
    until(lambda: events(host).get("store_went_back") and one.status().confirmed)
    assert messages(caplog, "key skipped") == [
        f"key skipped prefix={node_host.PREFIX} key=notes reason=no subnet key"
    ]
    assert messages(caplog, "registry went back in time") == [
        f"registry went back in time prefix={node_host.PREFIX} from=3 to=1"
    ]


class SecondLook(TickingRegistry):
    """Says on every look what a test laid out for it; then the truth."""

    def __init__(self, config: str | None = None) -> None:
        super().__init__(config)
        self.looks: list[Callable[[], registry.Snapshot]] = []

    def read_leases(self) -> registry.Snapshot:
        return self.looks.pop(0)() if self.looks else super().read_leases()


PEERS = [node_host.key(f"10.2.{number}.0/24") for number in range(2, 8)]
ROUTES = {str(one.v4) for one in PEERS}


@pytest.fixture
def many(tmp_path: pathlib.Path) -> Iterator[tuple[node_host.NodeHost, SecondLook]]:
    """A host with six peers."""
    agreed = SecondLook(node_host.CONFIG)
    for number, one in enumerate(PEERS):
        agreed.put_peer(one, node_host.attrs(f"192.0.2.{number + 10}", f"0e:00:00:00:00:{number + 10}"))
    host = node_host.NodeHost(tmp_path, agreed)
    timing(host, doubt_s=0.05)
    host.join()
    until(lambda: host.routes() == ROUTES)
    yield host, agreed
    host.close()


def lose_all_peers(agreed: SecondLook) -> registry.Snapshot:
    """The store comes back without any lease; what it held before."""
    before = agreed._snapshot()
    agreed.restore(registry.Snapshot(revision=before.revision, leases={}))
    return before


def test_peers_that_are_back_at_the_second_look_were_never_gone(
    many: tuple[node_host.NodeHost, SecondLook], caplog: pytest.LogCaptureFixture
) -> None:
    """All leases ended while etcd was away, and every host claims its own again within seconds."""
    caplog.set_level("INFO")
    host, agreed = many
    before = agreed._snapshot()
    agreed.looks = [lambda: before]
    lose_all_peers(agreed)
    until(lambda: events(host).get("snapshot_refuted"))
    assert host.routes() == ROUTES
    assert messages(caplog, "most peers") == [
        f"most peers missing, looking again before anything goes prefix={node_host.PREFIX} before=6 now=0",
        f"most peers are there again prefix={node_host.PREFIX} now=7",
    ]


def test_peers_that_are_missing_at_both_looks_are_gone(many: tuple[node_host.NodeHost, SecondLook]) -> None:
    host, agreed = many
    lose_all_peers(agreed)
    until(lambda: host.routes() == set())
    seen = events(host)
    assert (seen["snapshot_doubted"], seen.get("snapshot_refuted")) == (1, None)


def test_an_outage_between_the_two_looks_keeps_everything(many: tuple[node_host.NodeHost, SecondLook]) -> None:
    host, agreed = many

    def fail() -> registry.Snapshot:
        raise errors.RegistryUnavailable("etcd has no leader")

    agreed.looks = [fail] * 3
    before = agreed._snapshot()
    agreed.looks.append(lambda: before)
    lose_all_peers(agreed)
    until(lambda: host.nodes[-1].status().outage == "etcd has no leader")
    assert host.routes() == ROUTES
    until(lambda: host.nodes[-1].status().outage is None)
    assert host.routes() == ROUTES
    assert events(host)["snapshot_refuted"] == 1


def test_a_stop_between_the_two_looks_keeps_everything(many: tuple[node_host.NodeHost, SecondLook]) -> None:
    host, agreed = many
    one = host.nodes[-1]
    one._timing = dataclasses.replace(one._timing, doubt_s=3600)
    lose_all_peers(agreed)
    until(lambda: events(host).get("snapshot_doubted"))
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < 2
    assert host.routes() == ROUTES


def test_what_the_second_look_has_seen_is_not_heard_again(many: tuple[node_host.NodeHost, SecondLook]) -> None:
    """A peer that went and came back between the looks: its going is old news."""
    host, agreed = many
    one = host.nodes[-1]
    _, _, book = one._standing.now()
    one._hear(dataclasses.replace(agreed._snapshot(), revision=100))
    one._hear(registry.Delta(revision=100, changes=(registry.LeaseGone(key=PEERS[0]),)))
    assert one._standing.now()[2].leases.keys() == book.leases.keys()
    one._hear(registry.Delta(revision=101, changes=(registry.LeaseGone(key=PEERS[0]),)))
    assert PEERS[0] not in one._standing.now()[2].leases


def test_a_new_lease_that_overlaps_an_older_one_is_given_back_for_another(
    host: node_host.NodeHost, ticking: TickingRegistry
) -> None:
    """Another host, with another SubnetLen, was quicker by a moment: etcd cannot compare that."""
    wide = node_host.key("10.2.0.0/22")
    quick = [lambda: ticking.put_peer(wide, THIEFS)]
    put = ticking.put_lease

    def race(key: lease.SubnetKey, attrs: lease.LeaseAttrs, over: lease.Lease | None) -> lease.Lease:
        if quick:
            quick.pop()()
        return put(key, attrs, over)

    ticking.put_lease = race  # type: ignore[method-assign]
    one = host.start()
    assert one.wait(5).subnet == node_host.key("10.2.4.0/24").v4
    assert ticking._snapshot().leases.keys() == {wide, node_host.key("10.2.4.0/24")}
    assert events(host) == {"lease_held": 1}


def test_an_overlap_is_only_said_where_containers_use_the_subnet(
    host: node_host.NodeHost, ticking: TickingRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    host.in_use = True
    one = host.join()
    held = one.held()
    wide = node_host.key("10.2.0.0/22")
    ticking.put_peer(wide, THIEFS)
    until(lambda: one.status().overlaps)
    (told,) = one.status().overlaps
    assert told == (
        "lease 10.2.0.0/22 of 192.0.2.66 overlaps this host's 10.2.1.0/24, and other hosts reach one of the two: "
        "give all hosts one network config; on one of these two remove its flannelpy networks, then delete its key "
        "10.2.1.0-24 or 10.2.0.0-22"
    )
    assert messages(caplog, "subnet overlaps") == [f"subnet overlaps prefix={node_host.PREFIX}: {told}"]
    assert (one.held(), OWN in ticking._snapshot().leases) == (held, True)
    assert events(host) == {"lease_held": 1, "overlapped": 1}
    ticking.delete_peer(wide)
    until(lambda: not one.status().overlaps)
