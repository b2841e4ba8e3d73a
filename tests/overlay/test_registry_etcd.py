"""What only a real etcd can show: death, silence, members lost, TLS, log-in, refusal."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import pathlib
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from overlay import errors, etcd_client, etcd_errors, etcd_settings, etcd_values, lease, registry, registry_etcd
from tests.overlay import etcd_server, watching

pytestmark = pytest.mark.contract

PREFIX = "/coreos.com/network"
ATTRS = lease.LeaseAttrs(public_ip=ipaddress.IPv4Address("192.0.2.1"), backend_type="vxlan")


def key(number: int) -> lease.SubnetKey:
    return lease.SubnetKey(v4=ipaddress.IPv4Network((f"10.2.{number}.0", 24)))


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Iterator[etcd_server.Cluster]:
    with etcd_server.running(tmp_path) as running:
        yield running


@contextlib.contextmanager
def using(client: etcd_client.EtcdClient) -> Iterator[registry_etcd.EtcdRegistry]:
    with contextlib.closing(client):
        yield registry_etcd.EtcdRegistry(client, PREFIX)


def test_keys_and_values_are_flannels(cluster: etcd_server.Cluster) -> None:
    with using(cluster.client()) as agreed:
        held = agreed.put_lease(key(20), ATTRS, None)
        shown = cluster.ctl("get", "--prefix", "/")
        assert shown.splitlines() == [
            "/coreos.com/network/subnets/10.2.20.0-24",
            '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan"}',
        ]
        assert "granted with TTL(86400s)" in cluster.ctl("lease", "timetolive", f"{held.lease_id:016x}")


def test_a_refused_create_leaves_no_lease_behind(cluster: etcd_server.Cluster) -> None:
    with using(cluster.client()) as agreed:
        held = agreed.put_lease(key(20), ATTRS, None)
        with pytest.raises(errors.SubnetTaken):
            agreed.put_lease(key(20), ATTRS, None)
        assert cluster.ctl("lease", "list").split()[-1:] == [f"{held.lease_id:016x}"]
        assert "found 1 leases" in cluster.ctl("lease", "list")
        agreed.delete_lease(held)
        assert "found 0 leases" in cluster.ctl("lease", "list")


def test_a_key_whose_lease_was_taken_away_gets_a_new_one(cluster: etcd_server.Cluster) -> None:
    """flanneld rewrites keys with a lease of its own; ours may then have ended."""
    with contextlib.closing(cluster.client()) as client:
        agreed = registry_etcd.EtcdRegistry(client, PREFIX)
        first = agreed.put_lease(key(20), ATTRS, None)
        other, _ = client.grant(600)
        name = f"{PREFIX}/subnets/10.2.20.0-24"
        moved = client.put_if(name, lease.format_attrs(ATTRS), lease_id=other, revision=first.mod_revision)
        client.revoke(first.lease_id)
        assert isinstance(moved, etcd_values.Stored)
        stale = dataclasses.replace(first, mod_revision=moved.item.mod_revision)
        again = agreed.put_lease(key(20), ATTRS, stale)
        assert again.lease_id not in (0, first.lease_id, other)
        assert agreed.keep_alive(again) == registry.SUBNET_TTL_S


def test_nothing_is_lost_when_etcd_is_killed_and_started_anew(cluster: etcd_server.Cluster) -> None:
    with using(cluster.client(timeout_s=1.0)) as agreed, watching.Watching(agreed) as watch:
        watch.wait_snapshot()
        for number in range(10):
            agreed.put_lease(key(number), ATTRS, None)
        cluster.kill()
        watch.wait_outages()
        cluster.start()
        agreed.put_lease(key(10), ATTRS, None)
        watch.wait_snapshot(2)
        agreed.put_lease(key(11), ATTRS, None)
        watch.wait(lambda events: last_revision(events) == agreed.read_leases().revision, "all revisions")
        seen = {held for snapshot in watch.snapshots for held in snapshot.leases} | {
            change.lease.key for change in watch.changes if isinstance(change, registry.LeasePut)
        }
    assert seen == {key(number) for number in range(12)}


def last_revision(events: list[watching.Event]) -> int:
    return max(event.revision for event in events if not isinstance(event, registry.Outage))


def test_a_silent_etcd_is_noticed_and_heard_again(cluster: etcd_server.Cluster) -> None:
    with using(cluster.client(timeout_s=1.0)) as agreed, watching.Watching(agreed) as watch:
        watch.wait_snapshot()
        cluster.members[0].signal(signal.SIGSTOP)
        began = time.monotonic()
        try:
            with pytest.raises(errors.RegistryUnavailable, match="Deadline Exceeded"):
                agreed.read_leases()
            assert time.monotonic() - began < 2.0
            watch.wait_outages(timeout_s=9.0 - (time.monotonic() - began))  # leaves time to claim a lost key anew
        finally:
            cluster.members[0].signal(signal.SIGCONT)
        watch.wait_snapshot(2, timeout_s=20.0)


def test_a_silent_watch_ends_within_a_second_of_stop(cluster: etcd_server.Cluster) -> None:
    with using(cluster.client()) as agreed:
        with watching.Watching(agreed) as watch:
            watch.wait_snapshot()
            cluster.members[0].signal(signal.SIGSTOP)
        cluster.members[0].signal(signal.SIGCONT)


def test_a_watch_below_the_compaction_says_so(cluster: etcd_server.Cluster) -> None:
    with contextlib.closing(cluster.client()) as client:
        agreed = registry_etcd.EtcdRegistry(client, PREFIX)
        for number in range(3):
            agreed.put_lease(key(number), ATTRS, None)
        cluster.ctl("compaction", str(agreed.read_leases().revision))
        with pytest.raises(etcd_errors.Compacted):
            list(client.watch_prefix(PREFIX, 1, threading.Event()))


def test_members_can_be_lost_one_at_a_time_without_a_failed_call(tmp_path: pathlib.Path) -> None:
    with (
        etcd_server.running(tmp_path, members=3) as cluster,
        using(cluster.client()) as agreed,
        watching.Watching(agreed) as watch,
    ):
        watch.wait_snapshot()
        held = agreed.put_lease(key(0), ATTRS, None)
        for number, member in enumerate(cluster.members):
            member.kill()
            held = agreed.put_lease(key(0), ATTRS, held)
            assert agreed.keep_alive(held) == registry.SUBNET_TTL_S
            agreed.put_lease(key(number + 1), ATTRS, None)
            member.start()
            cluster.wait_ready()
        final = agreed.read_leases()
        watch.wait(lambda events: last_revision(events) >= final.revision, "the last revision")
    assert set(final.leases) == {key(number) for number in range(4)}


def secret_free(caught: pytest.ExceptionInfo[BaseException], secret: str) -> bool:
    return secret not in "".join(traceback.format_exception(caught.value))


def test_tls_with_an_authority_alone(tmp_path: pathlib.Path) -> None:
    with etcd_server.running(tmp_path, tls="ca") as cluster:
        with using(cluster.client(with_cert=False)) as agreed:
            agreed.put_lease(key(0), ATTRS, None)
            with watching.Watching(agreed) as watch:
                assert len(watch.wait_snapshot().leases) == 1
                agreed.put_lease(key(1), ATTRS, None)
                watch.wait_changes(1)
        stranger = etcd_server.make_files(tmp_path / "stranger", "127.0.0.1")
        wrong = etcd_settings.EtcdSettings(endpoints=cluster.urls, ca_file=stranger.ca)
        with (
            using(etcd_client.EtcdClient(wrong)) as agreed,
            pytest.raises(errors.RegistryDenied, match="CERTIFICATE"),
        ):
            agreed.read_leases()


def test_tls_with_client_certificates(tmp_path: pathlib.Path) -> None:
    with etcd_server.running(tmp_path, tls="mutual") as cluster:
        with using(cluster.client()) as agreed:
            agreed.put_lease(key(0), ATTRS, None)
        with using(cluster.client(with_cert=False)) as agreed:
            # The refusal races with the end of the connection, which is then all that is seen.
            refusal = etcd_server.wait_for(lambda: refused(agreed), "etcd's refusal")
        assert "wants one" in str(refusal)


def refused(agreed: registry.Registry) -> errors.RegistryDenied | None:
    try:
        agreed.read_leases()
    except errors.RegistryDenied as exc:
        return exc
    return None


def test_tls_members_under_several_names_stand_in_for_one_another(tmp_path: pathlib.Path) -> None:
    with etcd_server.running(tmp_path, tls="ca") as cluster:
        assert cluster.files is not None
        (dead,) = etcd_server.free_ports(1)
        both = etcd_settings.EtcdSettings(
            endpoints=(f"https://localhost:{dead}", *cluster.urls), ca_file=cluster.files.ca
        )
        with using(etcd_client.EtcdClient(both)) as agreed:
            agreed.put_lease(key(0), ATTRS, None)
            assert set(agreed.read_leases().leases) == {key(0)}


@pytest.fixture
def guarded(tmp_path: pathlib.Path) -> Iterator[etcd_server.Cluster]:
    """An etcd whose user `node` may do all under PREFIX, and whose tokens live a second or two."""
    with etcd_server.running(tmp_path, options=["--auth-token-ttl", "1"]) as cluster:
        etcd_server.guard(cluster, PREFIX, "node", "node-secret")
        yield cluster


def test_a_user_logs_in_without_tls_and_again_when_the_token_has_ended(guarded: etcd_server.Cluster) -> None:
    with using(guarded.client(username="node", password="node-secret")) as agreed:
        agreed.create_config("{}")
        held = agreed.put_lease(key(0), ATTRS, None)
        idle_since = time.monotonic()
        etcd_server.wait_for(lambda: time.monotonic() - idle_since > 3.0, "the token to end")
        assert agreed.keep_alive(held) == registry.SUBNET_TTL_S
        with watching.Watching(agreed) as watch:
            watch.wait_snapshot()
            guarded.kill()
            watch.wait_outages()
            guarded.start()  # knows no token any more
            again = agreed.put_lease(key(0), ATTRS, held)
            assert watch.wait_snapshot(2).revision >= held.mod_revision
            watch.wait(lambda events: last_revision(events) >= again.mod_revision, "the rewrite")


def test_a_wrong_password_is_refused_and_not_repeated_in_the_error(guarded: etcd_server.Cluster) -> None:
    with using(guarded.client(username="node", password="wrong-secret")) as agreed:
        with pytest.raises(errors.RegistryDenied, match="authentication failed") as caught:
            agreed.read_leases()
        assert secret_free(caught, "wrong-secret")
        with watching.Watching(agreed) as watch:
            assert "authentication failed" in watch.wait_outages().reason
    with using(guarded.client()) as agreed, pytest.raises(errors.RegistryDenied, match="user name is empty"):
        agreed.read_leases()


def test_what_the_user_may_not_touch_is_refused(guarded: etcd_server.Cluster) -> None:
    with contextlib.closing(guarded.client(username="node", password="node-secret")) as client:
        other = registry_etcd.EtcdRegistry(client, "/other")
        with pytest.raises(errors.RegistryDenied, match="permission denied"):
            other.read_config()
        with pytest.raises(errors.RegistryDenied, match="permission denied"):
            other.put_lease(key(0), ATTRS, None)
        with pytest.raises(errors.RegistryDenied, match="permission denied"):
            next(client.watch_prefix("/other", 1, threading.Event()))
        with watching.Watching(other) as watch:
            assert "permission denied" in watch.wait_outages().reason


def test_a_user_given_to_an_etcd_without_log_in_does_no_harm(cluster: etcd_server.Cluster) -> None:
    with using(cluster.client(username="node", password="node-secret")) as agreed:
        agreed.put_lease(key(0), ATTRS, None)
        with watching.Watching(agreed) as watch:
            assert set(watch.wait_snapshot().leases) == {key(0)}


def test_a_member_that_has_lost_its_leader_is_an_outage_and_no_silence(tmp_path: pathlib.Path) -> None:
    """It goes on answering pings, and would keep a watch waiting for as long as there is no leader."""
    with (
        etcd_server.running(tmp_path, members=3) as three,
        using(three.client(three.urls[0])) as agreed,
        watching.Watching(agreed) as seen,
    ):
        seen.wait_snapshot()
        for member in three.members[1:]:
            member.kill()
        assert "no leader" in seen.wait_outages(timeout_s=30).reason


def test_a_call_that_nobody_answers_ends_at_its_deadline_even_where_pings_are_answered() -> None:
    """gRPC gives up a connection that is silent, but not one that is alive and keeps a request for itself."""
    asked = threading.Event()

    class Silent(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc's stubs make it Any
        def service(self, handler_call_details: object) -> object:
            def answer(request: bytes, context: object) -> bytes:
                asked.set()
                release.wait(30)
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    release = threading.Event()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers((Silent(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        settings = etcd_settings.EtcdSettings(endpoints=(f"http://127.0.0.1:{port}",), timeout_s=2)
        with contextlib.closing(etcd_client.EtcdClient(settings)) as client:
            began = time.monotonic()
            with pytest.raises(errors.RegistryUnavailable, match="Deadline Exceeded"):
                client.get("/x")
            assert asked.is_set()
            assert time.monotonic() - began < 4
    finally:
        release.set()
        server.stop(None)


@pytest.mark.parametrize("guarded", [False, True])
def test_a_quiet_watch_tells_that_it_lives(cluster: etcd_server.Cluster, guarded: bool) -> None:
    """Others write into etcd meanwhile: its revision moves, and there is nothing to tell."""
    settings = etcd_settings.EtcdSettings(endpoints=cluster.urls, progress_s=0.5)
    if guarded:  # a role that may do no more than it must
        etcd_server.guard(cluster, PREFIX, "node", "secret")
        settings = dataclasses.replace(settings, username="node", password="secret")
    with using(etcd_client.EtcdClient(settings)) as agreed, watching.Watching(agreed) as watch:
        watch.wait_snapshot()
        cluster.ctl("--user", "root:root-secret", "put", "/elsewhere", "x")
        lives = registry.Progress(within_s=1.0)
        watch.wait(lambda events: events.count(lives) >= 2, "two words")
        agreed.put_lease(key(20), ATTRS, None)
        watch.wait_changes(1)
        assert (len(watch.snapshots), watch.outages) == (1, [])


def test_a_watch_with_notices_of_etcd_itself_tells_that_it_lives(tmp_path: pathlib.Path) -> None:
    """Clusters of Kubernetes are set so. Else one question, asked after a pause of this host, would be the last."""
    options = ["--experimental-watch-progress-notify-interval", "100ms"]
    with etcd_server.running(tmp_path, options=options) as cluster:
        settings = etcd_settings.EtcdSettings(endpoints=cluster.urls, progress_s=0.5)
        with using(etcd_client.EtcdClient(settings)) as agreed, watching.Watching(agreed) as watch:
            lives = registry.Progress(within_s=1.0)
            watch.wait(lambda events: events.count(lives) >= 3, "three words")
            assert (len(watch.snapshots), watch.outages) == (1, [])


def test_a_watch_lives_whose_token_has_ended(tmp_path: pathlib.Path) -> None:
    """JSON web tokens end after some minutes, whoever uses them; a watch that was granted goes on without."""
    files = etcd_server.make_files(tmp_path / "keys", "localhost")
    tokens = f"jwt,pub-key={files.server_cert},priv-key={files.server_key},sign-method=ES256,ttl=2s"
    with etcd_server.running(tmp_path / "etcd", options=["--auth-token", tokens]) as cluster:
        etcd_server.guard(cluster, PREFIX, "node", "secret")
        settings = etcd_settings.EtcdSettings(
            endpoints=cluster.urls, progress_s=0.5, username="node", password="secret"
        )
        with using(etcd_client.EtcdClient(settings)) as agreed, watching.Watching(agreed) as watch:
            lives = registry.Progress(within_s=1.0)
            watch.wait(lambda events: events.count(lives) >= 10, "words after the token's end", timeout_s=20)
            agreed.put_lease(key(20), ATTRS, None)
            watch.wait_changes(1)
            assert (len(watch.snapshots), watch.outages) == (1, [])


def test_a_tls_file_that_is_away_for_a_moment_is_an_outage(tmp_path: pathlib.Path) -> None:
    """Certificates are replaced by deletion and writing, and etcd is restarted for them."""
    with etcd_server.running(tmp_path, tls="ca") as cluster:
        assert cluster.files is not None
        authority = pathlib.Path(cluster.files.ca)
        # a name: it is resolved anew, and so the files read anew, when its addresses are older than 30 s
        url = cluster.urls[0].replace("127.0.0.1", "localhost")
        with using(cluster.client(url, timeout_s=1.0)) as agreed, watching.Watching(agreed) as watch:
            watch.wait_snapshot()
            agreed._client._resolved_at = float("-inf")
            aside = authority.rename(tmp_path / "aside")
            cluster.kill()
            watch.wait_outages()
            with pytest.raises(errors.SettingsError, match="TLS file"):
                agreed.read_config()
            threading.Event().wait(1.0)  # the watch, too, has tried meanwhile; it tells of an outage only once
            aside.rename(authority)
            cluster.start()
            watch.wait_snapshot(2)
            agreed.put_lease(key(20), ATTRS, None)
            watch.wait_changes(1)


def test_a_watch_that_answers_no_longer_is_an_outage(cluster: etcd_server.Cluster) -> None:
    settings = etcd_settings.EtcdSettings(endpoints=cluster.urls, progress_s=0.5, timeout_s=1.0)
    with using(etcd_client.EtcdClient(settings)) as agreed, watching.Watching(agreed) as watch:
        watch.wait(lambda events: registry.Progress(within_s=1.0) in events, "a first word")
        cluster.members[0].signal(signal.SIGSTOP)
        try:
            told = watch.wait_outages(timeout_s=5.0)  # before gRPC's own pings notice
        finally:
            cluster.members[0].signal(signal.SIGCONT)
        assert told.reason.endswith("no answer from the watch for 1.5 s")
        watch.wait_snapshot(2, timeout_s=20.0)
