"""The life of a lease against a real etcd: each threat to it, what then happens, and what is said.

A node with kernel and firewall in memory, a real state file and a real registry. Short TTLs; otherwise as in service.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import pathlib
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from overlay import errors, etcd_client, lease, netstate, registry_etcd
from tests.overlay import etcd_server, life, node_host

pytestmark = pytest.mark.contract

OWN, OURS, OWN_KEY = life.OWN, life.OURS, life.OWN_KEY
THIEFS = node_host.attrs("192.0.2.66", "0e:00:00:00:00:66")
TTL_S = 3
until, lines = life.until, life.lines


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Iterator[etcd_server.Cluster]:
    with etcd_server.running(tmp_path / "etcd") as running:
        yield running


@pytest.fixture
def host(tmp_path: pathlib.Path, cluster: etcd_server.Cluster) -> Iterator[life.Life]:
    with contextlib.closing(life.Life(tmp_path / "host", cluster)) as one:
        yield one


@pytest.fixture
def short(tmp_path: pathlib.Path, cluster: etcd_server.Cluster) -> Iterator[life.Life]:
    """As `host`, with leases of three seconds."""
    with contextlib.closing(life.Life(tmp_path / "host", cluster, ttl_s=TTL_S)) as one:
        yield one


def test_a_short_lease_is_kept_alive_for_many_times_its_length(short: life.Life) -> None:
    short.join()
    first = short.own()
    threading.Event().wait(3 * TTL_S)
    assert short.own() == first
    assert short.events() == {"lease_held": 1}
    left_s = short.node.status().expires_in_s
    assert left_s is not None
    assert 0 < left_s <= TTL_S


def test_the_healing_rewrite_keeps_the_etcd_lease_and_is_a_put_that_peers_hear(host: life.Life) -> None:
    host.host.timing = dataclasses.replace(host.host.timing, heal_first_s=1.0)
    host.join()
    first = host.own()
    until(lambda: host.events().get("key_healed"))
    healed = host.own()
    assert first is not None
    assert healed is not None
    assert healed.mod_revision > first.mod_revision
    assert (healed.attrs, healed.lease_id) == (first.attrs, first.lease_id)
    assert host.events() == {"lease_held": 1, "key_healed": 1}


def test_a_reservation_stays_without_a_lease_through_start_heal_and_restart(host: life.Life) -> None:
    """Scenario 7. flannel turns it into a lease of 24 h (D5)."""
    host.world_client.put_if(OWN_KEY, lease.format_attrs(OURS), lease_id=0, revision=0)
    host.host.timing = dataclasses.replace(host.host.timing, heal_first_s=0.5)
    for _ in range(2):
        host.join()
        until(lambda: host.events().get("key_healed"))
        threading.Event().wait(1.2)  # two beats
        host.safe()
        found = host.own()
        assert found is not None
        assert found.lease_id == 0
        assert host.node.status().expires_in_s is None
        host.node.stop()
        host.host.reopen()
    assert "found 0 leases" in host.cluster.ctl("lease", "list")


def test_our_key_deleted_by_hand_is_created_again(host: life.Life, caplog: pytest.LogCaptureFixture) -> None:
    """Scenario 8."""
    host.join()
    host.cluster.ctl("del", OWN_KEY)
    until(lambda: host.events().get("lease_held") == 2)
    host.safe()
    assert host.events() == {"lease_held": 2, "key_gone": 1}
    assert lines(caplog, "own key is gone") == [
        f"own key is gone, claiming it again prefix={node_host.PREFIX} subnet=10.2.1.0/24"
    ]


def test_our_lease_revoked_is_granted_again(host: life.Life) -> None:
    host.join()
    before = host.own()
    assert before is not None
    host.cluster.ctl("lease", "revoke", f"{before.lease_id:016x}")
    until(lambda: host.events().get("lease_held", 0) >= 2)
    host.safe()
    after = host.own()
    assert after is not None
    assert after.lease_id not in (0, before.lease_id)


def test_our_key_stolen_while_containers_run_is_a_conflict_and_heals_when_it_is_free(
    host: life.Life, caplog: pytest.LogCaptureFixture
) -> None:
    """Scenario 9: a blind put, as flanneld's renewal is one (D6)."""
    host.join()
    host.cluster.ctl("put", OWN_KEY, lease.format_attrs(THIEFS))
    until(lambda: host.node.status().conflict)
    threading.Event().wait(1.2)  # two beats, and no word against the thief
    found = host.own()
    assert found is not None
    assert found.attrs == THIEFS
    assert host.node.held() == host.held
    assert len(lines(caplog, "subnet lost")) == 1
    host.cluster.ctl("del", OWN_KEY)
    host.safe()
    assert host.events() == {"lease_held": 2, "subnet_lost": 1, "subnet_regained": 1}


def test_etcd_wiped_gets_our_key_again(host: life.Life, tmp_path: pathlib.Path) -> None:
    host.join()
    empty = tmp_path / "empty.db"
    with etcd_server.running(tmp_path / "other") as other:
        other.ctl("snapshot", "save", str(empty))
    host.cluster.restore(empty)
    host.safe()
    until(lambda: host.events().get("registry_back"))
    seen = host.events()
    assert (seen["store_went_back"], seen["registry_lost"], seen["registry_back"]) == (1, 1, 1)


def test_etcd_restored_at_a_lower_revision_gets_our_key_again(
    host: life.Life, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Scenario 13."""
    backup = tmp_path / "backup.db"
    host.cluster.ctl("snapshot", "save", str(backup))
    host.join()
    for number in range(5):
        host.cluster.ctl("put", f"/elsewhere/{number}", "x")
        host.cluster.ctl("put", f"{node_host.PREFIX}/subnets/10.2.9.0-24", lease.format_attrs(THIEFS))
    until(lambda: host.node.status().peers == 1)
    host.cluster.restore(backup)
    host.safe()
    until(lambda: host.events().get("registry_back"))
    assert host.events()["store_went_back"] == 1
    assert len(lines(caplog, "registry went back in time")) == 1
    assert host.node.status().peers == 0


class TwoStores(etcd_client.EtcdClient):
    """A balancer that keeps the watch on one store and sends all else to another, which was restored behind it."""

    def __init__(self, real: etcd_client.EtcdClient, restored: etcd_client.EtcdClient) -> None:
        self._real, self._restored = real, restored
        self.switched = False

    def __getattribute__(self, name: str) -> object:
        if name in ("_real", "_restored", "switched", "__class__"):
            return object.__getattribute__(self, name)
        return getattr(self._restored if self.switched else self._real, name)


def test_a_watch_that_waits_silently_for_revisions_of_a_lost_store_starts_over(
    host: life.Life, tmp_path: pathlib.Path
) -> None:
    """Scenario 13 without any loss of contact: only the answer to a keepalive tells the lower revision."""
    with etcd_server.running(tmp_path / "restored") as restored, contextlib.closing(restored.client()) as behind:
        host.registry._client = TwoStores(host.client, behind)
        host.join()
        for number in range(20):
            host.cluster.ctl("put", f"{node_host.PREFIX}/subnets/10.2.9.0-24", f'{{"PublicIP":"192.0.2.{number}"}}')
        until(lambda: host.node.status().peers == 1)
        other = registry_etcd.EtcdRegistry(behind, node_host.PREFIX)
        held = other.put_lease(OWN, OURS, None)
        _, mine, _ = host.node._standing.now()
        assert mine is not None
        host.node._standing._lease = dataclasses.replace(mine, lease_id=held.lease_id)
        host.registry._client.switched = True
        until(lambda: host.node.status().peers == 0, "the peer that the restored store does not have")
        assert host.events()["store_went_back"] == 1
        assert host.node.held() == host.held


def test_compaction_while_we_were_away_loses_no_news(host: life.Life) -> None:
    """Scenario 12."""
    host.join()
    host.cluster.kill()
    until(lambda: host.node.status().outage)
    host.cluster.start()
    for number in range(3):
        host.cluster.ctl("put", f"{node_host.PREFIX}/subnets/10.2.9.0-24", f'{{"PublicIP":"192.0.2.{number}"}}')
    revision = host.world.read_leases().revision
    host.cluster.ctl("compaction", str(revision))
    until(lambda: host.node.status().peers == 1)
    host.safe()
    assert host.events()["registry_back"] == 1


def test_history_compacted_under_a_new_watch_is_read_anew_and_counted(host: life.Life) -> None:
    """The moment between reading all and watching on: what was compacted there is not told."""
    seen: list[int] = []
    read = host.registry.read_leases

    def compact_after() -> object:
        told = read()
        if not seen and host.host.nodes and host.node.status().confirmed:
            seen.append(told.revision)
            for number in range(3):
                host.cluster.ctl(
                    "put", f"{node_host.PREFIX}/subnets/10.2.9.0-24", f'{{"PublicIP":"192.0.2.{number}"}}'
                )
            host.cluster.ctl("compaction", str(host.world.read_leases().revision))
        return told

    host.registry.read_leases = compact_after  # type: ignore[method-assign,assignment]
    host.join()
    until(lambda: host.node.status().peers == 1)
    assert host.events() == {"lease_held": 1, "history_compacted": 1}
    host.safe()


def test_etcd_killed_and_started_anew_keeps_our_lease(host: life.Life) -> None:
    host.join()
    before = host.own()
    host.cluster.kill()
    until(lambda: host.node.status().outage)
    until(lambda: host.events().get("keepalive_failed"))
    assert host.node.status().confirmed
    host.cluster.start()
    until(lambda: host.node.status().outage is None)
    host.safe()
    assert host.own() == before
    assert "lease_expired" not in host.events()


def test_all_leases_that_ended_while_etcd_was_unreachable_are_claimed_again(
    short: life.Life, caplog: pytest.LogCaptureFixture
) -> None:
    """Scenario 11: frozen for more than twice the TTL, so that etcd itself has forgotten all leases."""
    short.join()
    before = short.own()
    short.cluster.members[0].signal(signal.SIGSTOP)
    try:
        until(lambda: not short.node.status().confirmed, "nobody agrees to the lease any more")
        assert short.node.held() == short.held
        threading.Event().wait(2 * TTL_S)
    finally:
        short.cluster.members[0].signal(signal.SIGCONT)
    short.safe()
    after = short.own()
    assert before is not None
    assert after is not None
    assert after.lease_id != before.lease_id
    assert short.events()["lease_expired"] >= 1
    assert len(lines(caplog, "lease has run out unrenewed, subnet kept")) >= 1
    threading.Event().wait(2 * TTL_S)
    short.safe()


def test_a_frozen_etcd_holds_no_thread_for_longer_than_its_deadline(host: life.Life) -> None:
    host.join()
    host.cluster.members[0].signal(signal.SIGSTOP)
    try:
        for call in (
            host.world.read_config,
            host.world.read_leases,
            lambda: host.world.create_config("{}"),
            lambda: host.world.put_lease(node_host.key("10.2.8.0/24"), THIEFS, None),
            lambda: host.world.keep_alive(lease.Lease(key=OWN, attrs=OURS, lease_id=7)),
            lambda: host.world.time_left(lease.Lease(key=OWN, attrs=OURS, lease_id=7)),
            lambda: host.world.delete_lease(lease.Lease(key=OWN, attrs=OURS, lease_id=7, mod_revision=7)),
        ):
            began = time.monotonic()
            with pytest.raises(errors.RegistryUnavailable):
                call()
            assert time.monotonic() - began < 5.0  # the client's timeout_s is 4
        began = time.monotonic()
        assert host.node.wait(0) == host.held
        host.node.stop()
        assert time.monotonic() - began < 6.0
    finally:
        host.cluster.members[0].signal(signal.SIGCONT)


def peer(number: int, ip: int | None = None, mac: int | None = None) -> tuple[lease.SubnetKey, lease.LeaseAttrs]:
    attrs = node_host.attrs(f"192.0.2.{ip or number}", f"0e:00:00:00:00:{mac or number}")
    return node_host.key(f"10.2.{number}.0/24"), attrs


def test_a_peer_that_leaves_and_one_that_expires_are_gone_and_the_others_stay(short: life.Life) -> None:
    """Scenario 3, the registry's half; with real flannelds: tests/system."""
    short.join()
    leaves = short.world.put_lease(*peer(20), None)
    short.world.put_lease(*peer(21), None)  # nobody renews it: three seconds
    stays = registry_etcd.EtcdRegistry(short.world_client, node_host.PREFIX)
    stays.put_lease(*peer(22), None)
    until(lambda: short.node.status().peers == 3)
    short.world.delete_lease(leaves)
    until(lambda: short.host.routes() == {"10.2.22.0/24"}, "the deleted and the expired are gone", 20)
    short.safe()


def test_keys_and_values_that_are_no_leases_harm_nobody_through_watch_and_snapshot(
    host: life.Life, caplog: pytest.LogCaptureFixture
) -> None:
    """Scenario 14. In flannel each of them takes all peers away (D1), or hides a taken subnet (D8)."""
    host.join()
    for number in range(20, 26):
        host.world.put_lease(*peer(number), None)
    routes = {f"10.2.{number}.0/24" for number in range(20, 26)}
    until(lambda: host.host.routes() == routes)
    garbage = {"notes": "hello", "10.2.30.0-24": "no json", "10.2.31.0-24": '{"PublicIP":"x"}', "10.2.300.0-24": "{}"}
    for name, value in garbage.items():
        host.cluster.ctl("put", f"{node_host.PREFIX}/subnets/{name}", value)
    host.cluster.ctl("put", f"{node_host.PREFIX}/subnets", "not even below")
    until(lambda: host.events().get("key_unreadable") == len(garbage))
    assert host.host.routes() == routes
    host.cluster.kill()
    until(lambda: host.node.status().outage)
    host.cluster.start()
    until(lambda: host.node.status().outage is None)
    assert host.host.routes() == routes
    assert "snapshot_doubted" not in host.events()
    assert [line.split()[3].rpartition("/")[2] for line in lines(caplog, "key skipped")] == [
        f"{name}" for name in garbage
    ]
    host.safe()


def test_a_peer_that_comes_back_as_another_is_programmed_as_it_is_now(host: life.Life) -> None:
    """Scenario 15, by the watch and by a snapshot (D2): same subnet, new MAC; same subnet, new PublicIP."""
    host.join()
    first = host.world.put_lease(*peer(20), None)
    until(lambda: fdb(host) == {("0e:00:00:00:00:20", "192.0.2.20")})
    second = host.world.put_lease(*peer(20, mac=21), first)
    until(lambda: fdb(host) == {("0e:00:00:00:00:21", "192.0.2.20")}, "the new MAC")
    host.client.close()  # the watch ends; what happens now is in the snapshot of another one
    host.node.stop()
    host.world.put_lease(*peer(20, ip=99, mac=21), second)
    host.client = host.cluster.client(timeout_s=4.0)
    host.host.registry = registry_etcd.EtcdRegistry(host.client, node_host.PREFIX)  # type: ignore[assignment]
    host.host.reopen()
    host.join()
    until(lambda: fdb(host) == {("0e:00:00:00:00:21", "192.0.2.99")}, "the new PublicIP")


def fdb(host: life.Life) -> set[tuple[str, str]]:
    seen = host.host.kernel.observe(netstate.EMPTY)
    return {(obj.mac, str(obj.vtep_ip)) for obj in seen if isinstance(obj, netstate.FdbEntry)}


def test_etcd_down_at_boot_works_from_the_saved_state_and_without_it_as_soon_as_etcd_is_there(
    host: life.Life, tmp_path: pathlib.Path
) -> None:
    """Scenario 10; with a user and password flanneld does not even start then: test_lease_faults.py has that."""
    host.join()
    host.node.stop()
    host.cluster.kill()
    host.host.reopen()
    again = host.host.start()
    assert again.wait(5) == host.held
    assert not again.status().confirmed
    with contextlib.closing(host.cluster.client(timeout_s=1.0)) as client:
        folder = tmp_path / "new"
        folder.mkdir()
        agreed = registry_etcd.EtcdRegistry(client, node_host.PREFIX)
        new = node_host.NodeHost(folder, agreed)  # type: ignore[arg-type]  # any registry will do
        new.kernel = type(new.kernel)(
            [dataclasses.replace(node_host.ETH0, addresses=(ipaddress.IPv4Interface("192.0.2.2/24"),))]
        )
        new.reopen()
        with contextlib.closing(new):
            first = new.start()
            with pytest.raises(errors.NotReady, match="no flannel lease under"):
                first.wait(1)
            host.cluster.start()
            assert first.wait(30).subnet == ipaddress.IPv4Network("10.2.2.0/24")
            host.safe()
