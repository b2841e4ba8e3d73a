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
from collections.abc import Callable, Iterator

import pytest

from overlay import errors, etcd_client, kernel_fake, lease, node, registry_etcd
from tests.overlay import etcd_server, node_host

pytestmark = pytest.mark.contract

OWN = node_host.key("10.2.1.0/24")
OURS = node_host.attrs("192.0.2.1", node_host.MAC)
THIEFS = node_host.attrs("192.0.2.66", "0e:00:00:00:00:66")
CONFIG_KEY = node_host.PREFIX + "/config"
OWN_KEY = node_host.PREFIX + "/subnets/10.2.1.0-24"
TTL_S = 3


def until(true: Callable[[], object], what: str = "", within_s: float = 30.0) -> None:
    node_host.until(true, what, within_s)


class Life:
    """A host in a flannel network whose registry is a real etcd."""

    def __init__(
        self, folder: pathlib.Path, cluster: etcd_server.Cluster, *, ttl_s: int = 86_400, ip: int = 1
    ) -> None:
        self.cluster = cluster
        self.client = cluster.client(timeout_s=4.0)
        self.registry = registry_etcd.EtcdRegistry(self.client, node_host.PREFIX, ttl_s=ttl_s)
        self.registry.create_config(node_host.CONFIG)
        eth0 = dataclasses.replace(node_host.ETH0, addresses=(ipaddress.IPv4Interface(f"192.0.2.{ip}/24"),))
        folder.mkdir(exist_ok=True)
        self.host = node_host.NodeHost(folder, self.registry, kernel=kernel_fake.KernelFake([eth0]))  # type: ignore[arg-type]  # any registry will do
        self.host.in_use = True
        self.host.timing = dataclasses.replace(
            node_host.FAST, beat_s=0.5, retry_first_s=0.1, retry_cap_s=0.5, doubt_s=0.3, heal_first_s=3600
        )
        # what the rest of the world does, past the node's own client
        self.world_client = cluster.client(timeout_s=4.0)
        self.world = registry_etcd.EtcdRegistry(self.world_client, node_host.PREFIX, ttl_s=ttl_s)

    def close(self) -> None:
        self.host.close()
        self.client.close()
        self.world_client.close()

    def join(self) -> None:
        one = self.host.start()
        until(lambda: one.status().confirmed and one.status().followed, "joined and followed")
        self.held = one.held()

    @property
    def node(self) -> node.Node:
        return self.host.nodes[-1]

    def own(self) -> lease.Lease | None:
        """The lease under our key, None where there is none."""
        return self.world.read_leases().leases.get(OWN)

    def events(self) -> dict[str, int]:
        """What was counted at all."""
        return {kind: count for kind, count in self.node.status().events.items() if count}

    def safe(self) -> None:
        """Our key says what we publish, the node is sure of it, and the subnet is the one it always was."""
        until(
            lambda: (found := self.own()) is not None and found.attrs == OURS and self.node.status().confirmed,
            "our key in etcd, and confirmed",
        )
        assert self.node.held() == self.held
        assert self.node.status().conflict is None


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Iterator[etcd_server.Cluster]:
    with etcd_server.running(tmp_path / "etcd") as running:
        yield running


@pytest.fixture
def life(tmp_path: pathlib.Path, cluster: etcd_server.Cluster) -> Iterator[Life]:
    with contextlib.closing(Life(tmp_path / "host", cluster)) as one:
        yield one


@pytest.fixture
def short(tmp_path: pathlib.Path, cluster: etcd_server.Cluster) -> Iterator[Life]:
    """As `life`, with leases of three seconds."""
    with contextlib.closing(Life(tmp_path / "host", cluster, ttl_s=TTL_S)) as one:
        yield one


def lines(caplog: pytest.LogCaptureFixture, start: str) -> list[str]:
    return [text for record in caplog.records if (text := record.getMessage()).startswith(start)]


def test_a_short_lease_is_kept_alive_for_many_times_its_length(short: Life) -> None:
    short.join()
    first = short.own()
    threading.Event().wait(3 * TTL_S)
    assert short.own() == first
    assert short.events() == {"lease_held": 1}
    left_s = short.node.status().expires_in_s
    assert left_s is not None
    assert 0 < left_s <= TTL_S


def test_the_healing_rewrite_keeps_the_etcd_lease_and_is_a_put_that_peers_hear(life: Life) -> None:
    life.host.timing = dataclasses.replace(life.host.timing, heal_first_s=1.0)
    life.join()
    first = life.own()
    until(lambda: life.events().get("key_healed"))
    healed = life.own()
    assert first is not None
    assert healed is not None
    assert healed.mod_revision > first.mod_revision
    assert (healed.attrs, healed.lease_id) == (first.attrs, first.lease_id)
    assert life.events() == {"lease_held": 1, "key_healed": 1}


def test_a_reservation_stays_without_a_lease_through_start_heal_and_restart(life: Life) -> None:
    """Scenario 7. flannel turns it into a lease of 24 h (D5)."""
    life.world_client.put_if(OWN_KEY, lease.format_attrs(OURS), lease_id=0, revision=0)
    life.host.timing = dataclasses.replace(life.host.timing, heal_first_s=0.5)
    for _ in range(2):
        life.join()
        until(lambda: life.events().get("key_healed"))
        threading.Event().wait(1.2)  # two beats
        life.safe()
        found = life.own()
        assert found is not None
        assert found.lease_id == 0
        assert life.node.status().expires_in_s is None
        life.node.stop()
        life.host.reopen()
    assert "found 0 leases" in life.cluster.ctl("lease", "list")


def test_our_key_deleted_by_hand_is_created_again(life: Life, caplog: pytest.LogCaptureFixture) -> None:
    """Scenario 8."""
    life.join()
    life.cluster.ctl("del", OWN_KEY)
    until(lambda: life.events().get("lease_held") == 2)
    life.safe()
    assert life.events() == {"lease_held": 2, "key_gone": 1}
    assert lines(caplog, "own key is gone") == [
        f"own key is gone, claiming it again prefix={node_host.PREFIX} subnet=10.2.1.0/24"
    ]


def test_our_lease_revoked_is_granted_again(life: Life) -> None:
    life.join()
    before = life.own()
    assert before is not None
    life.cluster.ctl("lease", "revoke", f"{before.lease_id:016x}")
    until(lambda: life.events().get("lease_held", 0) >= 2)
    life.safe()
    after = life.own()
    assert after is not None
    assert after.lease_id not in (0, before.lease_id)


def test_our_key_stolen_while_containers_run_is_a_conflict_and_heals_when_it_is_free(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    """Scenario 9: a blind put, as flanneld's renewal is one (D6)."""
    life.join()
    life.cluster.ctl("put", OWN_KEY, lease.format_attrs(THIEFS))
    until(lambda: life.node.status().conflict)
    threading.Event().wait(1.2)  # two beats, and no word against the thief
    found = life.own()
    assert found is not None
    assert found.attrs == THIEFS
    assert life.node.held() == life.held
    assert len(lines(caplog, "subnet lost")) == 1
    life.cluster.ctl("del", OWN_KEY)
    life.safe()
    assert life.events() == {"lease_held": 2, "subnet_lost": 1, "subnet_regained": 1}


def test_etcd_wiped_gets_our_key_again(life: Life, tmp_path: pathlib.Path) -> None:
    life.join()
    empty = tmp_path / "empty.db"
    with etcd_server.running(tmp_path / "other") as other:
        other.ctl("snapshot", "save", str(empty))
    life.cluster.restore(empty)
    life.safe()
    until(lambda: life.events().get("registry_back"))
    seen = life.events()
    assert (seen["store_went_back"], seen["registry_lost"], seen["registry_back"]) == (1, 1, 1)


def test_etcd_restored_at_a_lower_revision_gets_our_key_again(
    life: Life, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Scenario 13."""
    backup = tmp_path / "backup.db"
    life.cluster.ctl("snapshot", "save", str(backup))
    life.join()
    for number in range(5):
        life.cluster.ctl("put", f"/elsewhere/{number}", "x")
        life.cluster.ctl("put", f"{node_host.PREFIX}/subnets/10.2.9.0-24", lease.format_attrs(THIEFS))
    until(lambda: life.node.status().peers == 1)
    life.cluster.restore(backup)
    life.safe()
    until(lambda: life.events().get("registry_back"))
    assert life.events()["store_went_back"] == 1
    assert len(lines(caplog, "registry went back in time")) == 1
    assert life.node.status().peers == 0


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
    life: Life, tmp_path: pathlib.Path
) -> None:
    """Scenario 13 without any loss of contact: only the answer to a keepalive tells the lower revision."""
    with etcd_server.running(tmp_path / "restored") as restored, contextlib.closing(restored.client()) as behind:
        life.registry._client = TwoStores(life.client, behind)
        life.join()
        for number in range(20):
            life.cluster.ctl("put", f"{node_host.PREFIX}/subnets/10.2.9.0-24", f'{{"PublicIP":"192.0.2.{number}"}}')
        until(lambda: life.node.status().peers == 1)
        other = registry_etcd.EtcdRegistry(behind, node_host.PREFIX)
        held = other.put_lease(OWN, OURS, None)
        _, mine, _ = life.node._standing.now()
        assert mine is not None
        life.node._standing._lease = dataclasses.replace(mine, lease_id=held.lease_id)
        life.registry._client.switched = True
        until(lambda: life.node.status().peers == 0, "the peer that the restored store does not have")
        assert life.events()["store_went_back"] == 1
        assert life.node.held() == life.held


def test_compaction_while_we_were_away_loses_no_news(life: Life) -> None:
    """Scenario 12."""
    life.join()
    life.cluster.kill()
    until(lambda: life.node.status().outage)
    life.cluster.start()
    for number in range(3):
        life.cluster.ctl("put", f"{node_host.PREFIX}/subnets/10.2.9.0-24", f'{{"PublicIP":"192.0.2.{number}"}}')
    revision = life.world.read_leases().revision
    life.cluster.ctl("compaction", str(revision))
    until(lambda: life.node.status().peers == 1)
    life.safe()
    assert life.events()["registry_back"] == 1


def test_history_compacted_under_a_new_watch_is_read_anew_and_counted(life: Life) -> None:
    """The moment between reading all and watching on: what was compacted there is not told."""
    seen: list[int] = []
    read = life.registry.read_leases

    def compact_after() -> object:
        told = read()
        if not seen and life.host.nodes and life.node.status().confirmed:
            seen.append(told.revision)
            for number in range(3):
                life.cluster.ctl(
                    "put", f"{node_host.PREFIX}/subnets/10.2.9.0-24", f'{{"PublicIP":"192.0.2.{number}"}}'
                )
            life.cluster.ctl("compaction", str(life.world.read_leases().revision))
        return told

    life.registry.read_leases = compact_after  # type: ignore[method-assign,assignment]
    life.join()
    until(lambda: life.node.status().peers == 1)
    assert life.events() == {"lease_held": 1, "history_compacted": 1}
    life.safe()


def test_etcd_killed_and_started_anew_keeps_our_lease(life: Life) -> None:
    life.join()
    before = life.own()
    life.cluster.kill()
    until(lambda: life.node.status().outage)
    until(lambda: life.events().get("keepalive_failed"))
    assert life.node.status().confirmed
    life.cluster.start()
    until(lambda: life.node.status().outage is None)
    life.safe()
    assert life.own() == before
    assert "lease_expired" not in life.events()


def test_all_leases_that_ended_while_etcd_was_unreachable_are_claimed_again(
    short: Life, caplog: pytest.LogCaptureFixture
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


def test_a_frozen_etcd_holds_no_thread_for_longer_than_its_deadline(life: Life) -> None:
    life.join()
    life.cluster.members[0].signal(signal.SIGSTOP)
    try:
        for call in (
            life.world.read_config,
            life.world.read_leases,
            lambda: life.world.create_config("{}"),
            lambda: life.world.put_lease(node_host.key("10.2.8.0/24"), THIEFS, None),
            lambda: life.world.keep_alive(lease.Lease(key=OWN, attrs=OURS, lease_id=7)),
            lambda: life.world.time_left(lease.Lease(key=OWN, attrs=OURS, lease_id=7)),
            lambda: life.world.delete_lease(lease.Lease(key=OWN, attrs=OURS, lease_id=7, mod_revision=7)),
        ):
            began = time.monotonic()
            with pytest.raises(errors.RegistryUnavailable):
                call()
            assert time.monotonic() - began < 5.0  # the client's timeout_s is 4
        began = time.monotonic()
        assert life.node.wait(0) == life.held
        life.node.stop()
        assert time.monotonic() - began < 6.0
    finally:
        life.cluster.members[0].signal(signal.SIGCONT)
