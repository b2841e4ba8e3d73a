"""The life of a lease while etcd is half there: slow, frozen, guarded, without quorum; and while a clock jumps."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import itertools
import json
import logging
import os
import pathlib
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from overlay import errors, etcd_client, etcd_settings, lease, node, registry_etcd
from tests.overlay import etcd_server, life, node_host

pytestmark = pytest.mark.contract

until, lines = life.until, life.lines
FAKETIME = pathlib.Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
REPOSITORY = pathlib.Path(node_host.__file__).parent.parent.parent


class SlowLine:
    """A TCP proxy to one member that lets every answer wait for `delay_s`."""

    def __init__(self, url: str) -> None:
        self.delay_s = 0.0
        self._sending = threading.Lock()
        host, _, port = url.rpartition("//")[2].rpartition(":")
        self._to = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._to)
                self._open += [near, far]
                waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                for run, args in (
                    (self._pass_on, (near, far)),
                    (self._take, (far, near, waiting)),
                    (self._give, (near, waiting)),
                ):
                    threading.Thread(target=run, args=args, daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                far.sendall(data)

    def _take(self, far: socket.socket, near: socket.socket, waiting: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        """HTTP/2 frame by frame: those of stream 0 are the connection's own, which a slow disk does not slow down."""
        held = b""
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                held += data
                while len(held) >= 9 and len(held) >= (size := 9 + int.from_bytes(held[:3], "big")):
                    frame, held = held[:size], held[size:]
                    if int.from_bytes(frame[5:9], "big"):
                        waiting.put((time.monotonic() + self.delay_s, frame))
                    else:
                        self._send(near, frame)

    def _give(self, near: socket.socket, waiting: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        pause = threading.Event()
        with contextlib.suppress(OSError):
            while True:
                due, frame = waiting.get()
                pause.wait(max(0.0, due - time.monotonic()))
                self._send(near, frame)

    def _send(self, near: socket.socket, frame: bytes) -> None:
        with self._sending:
            near.sendall(frame)

    def close(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Iterator[etcd_server.Cluster]:
    with etcd_server.running(tmp_path / "etcd") as running:
        yield running


def test_an_etcd_that_takes_three_seconds_for_every_answer_is_slow_and_no_outage(
    tmp_path: pathlib.Path, cluster: etcd_server.Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        contextlib.closing(SlowLine(cluster.urls[0])) as line,
        contextlib.closing(
            cluster.client(line.url, timeout_s=etcd_settings.EtcdSettings(endpoints=()).timeout_s)
        ) as slow,
        contextlib.closing(life.Life(tmp_path / "host", cluster, client=slow)) as host,
    ):
        line.delay_s = 3.0
        one = host.host.start()
        until(lambda: one.status().confirmed and one.status().followed, "joined and followed", 60)
        until(lambda: host.events().get("registry_slow"))
        host.world.put_lease(node_host.key("10.2.9.0/24"), node_host.attrs("192.0.2.9"), None)
        until(lambda: one.status().peers == 1)
        seen = host.events()
        assert seen.keys() == {"lease_held", "registry_slow"}
        assert re.fullmatch(
            rf"registry answers slowly prefix={node_host.PREFIX} seconds=3\.\d",
            lines(caplog, "registry answers slowly")[0],
        )


@pytest.fixture
def three(tmp_path: pathlib.Path) -> Iterator[etcd_server.Cluster]:
    with etcd_server.running(tmp_path / "etcd", members=3) as running:
        yield running


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_without_quorum_and_leader_all_stays_as_it_is_until_there_is_one(
    tmp_path: pathlib.Path, three: etcd_server.Cluster, how: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(life.Life(tmp_path / "host", three)) as host:
        host.join()
        before = host.own()
        for member in three.members[:2]:
            member.kill() if how is signal.SIGKILL else member.signal(how)
        until(lambda: host.node.status().outage, "the outage is noticed")
        until(lambda: host.events().get("keepalive_failed"), "the keepalive fails")
        assert (host.node.status().confirmed, host.node.held()) == (True, host.held)
        for member in three.members[:2]:
            member.start() if how is signal.SIGKILL else member.signal(signal.SIGCONT)
        until(lambda: host.node.status().outage is None, "back")
        host.safe()
        assert host.own() == before
        assert "lease_expired" not in host.events()
        assert len(lines(caplog, "registry lost")) == host.events()["registry_lost"] >= 1


def test_one_frozen_member_of_three_costs_no_call(three: etcd_server.Cluster) -> None:
    """It keeps its connections, and gRPC goes on asking it; the second half of a call goes to another member.

    Followers only, and calls of three seconds: electing a leader takes longer, and gRPC notices by itself after two.
    """
    for number in followers(three):
        urls = three.urls[number:] + three.urls[:number]  # the one that will freeze comes first
        with contextlib.closing(three.client(*urls, timeout_s=3.0)) as client:
            agreed = registry_etcd.EtcdRegistry(client, node_host.PREFIX)
            held = agreed.put_lease(node_host.key(f"10.2.{number}.0/24"), life.OURS, None)
            three.members[number].signal(signal.SIGSTOP)
            try:
                assert agreed.keep_alive(held) > 0
                began = time.monotonic()
                agreed.put_lease(held.key, node_host.attrs("192.0.2.7"), held)
                assert time.monotonic() - began < 1.4  # by now all calls go elsewhere
            finally:
                three.members[number].signal(signal.SIGCONT)
            three.wait_ready()


def followers(cluster: etcd_server.Cluster) -> list[int]:
    told = json.loads(cluster.ctl("endpoint", "status", "-w", "json"))
    seen = {one["Endpoint"]: one["Status"] for one in told}
    leads = {url: status["leader"] == status["header"]["member_id"] for url, status in seen.items()}
    return [number for number, url in enumerate(cluster.urls) if not leads[url]]


class Worker:
    """Repeats one thing in a thread of its own; a failure ends it, and shows."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.done = 0
        self.failed: BaseException | None = None
        self.slowest_s = 0.0
        self._act = act
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.02):
                began = time.monotonic()
                self._act()
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                self.done += 1
        except BaseException as exc:  # noqa: BLE001  # shown by the test
            self.failed = exc

    def end(self) -> None:
        self._stop.set()
        self._thread.join(30)


def test_members_killed_one_by_one_fail_no_lease_operation_of_four_threads(three: etcd_server.Cluster) -> None:
    """Some twenty seconds: create, rewrite, renew and read while each member in turn dies and comes back."""
    numbers = itertools.count()
    with contextlib.closing(three.client(timeout_s=8.0)) as client:
        agreed = registry_etcd.EtcdRegistry(client, node_host.PREFIX)
        mine = [agreed.put_lease(node_host.key("10.3.0.0/24"), life.OURS, None)]
        kept = agreed.put_lease(node_host.key("10.3.1.0/24"), life.OURS, None)

        def create() -> None:
            number = next(numbers) % 250
            agreed.delete_lease(agreed.put_lease(node_host.key(f"10.2.{number}.0/24"), life.OURS, None))

        def rewrite() -> None:
            mine[0] = agreed.put_lease(mine[0].key, node_host.attrs(f"192.0.2.{next(numbers) % 250}"), mine[0])

        def renew() -> None:
            assert agreed.keep_alive(kept) > 0

        def read() -> None:
            assert kept.key in agreed.read_leases().leases

        workers = [Worker(act) for act in (create, rewrite, renew, read)]
        try:
            for member in three.members:
                threading.Event().wait(2.0)
                member.kill()
                threading.Event().wait(3.0)
                member.start()
                three.wait_ready()
        finally:
            for worker in workers:
                worker.end()
        assert [worker.failed for worker in workers] == [None] * 4
        assert all(worker.done > 20 for worker in workers), [worker.done for worker in workers]
        print("operations", [worker.done for worker in workers], "slowest", [worker.slowest_s for worker in workers])


@pytest.fixture
def guarded(tmp_path: pathlib.Path) -> Iterator[etcd_server.Cluster]:
    """Client certificates, a user with a password, and tokens that live a second or two."""
    with etcd_server.running(tmp_path / "etcd", options=["--auth-token-ttl", "1"]) as cluster:
        etcd_server.guard(cluster, node_host.PREFIX, "node", "node-secret")
        yield cluster


def test_an_expired_token_is_renewed_for_calls_and_watch_and_the_password_never_shows(
    tmp_path: pathlib.Path, guarded: etcd_server.Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    own = guarded.client(username="node", password="node-secret")
    world = guarded.client(username="node", password="node-secret")
    with contextlib.closing(life.Life(tmp_path / "host", guarded, client=own, world=world)) as host:
        host.host.timing = dataclasses.replace(host.host.timing, heal_first_s=5, heal_s=5)
        host.join()
        until(lambda: own.requests.read()["login"] >= 3, "two tokens ended between rewrites")
        assert host.events().keys() <= {"lease_held", "key_healed"}
        guarded.kill()
        until(lambda: host.node.status().outage)
        guarded.start()
        until(lambda: host.node.status().outage is None, "the watch has a new token too")
        host.world.put_lease(node_host.key("10.2.9.0/24"), node_host.attrs("192.0.2.9"), None)
        until(lambda: host.node.status().peers == 1)
        host.safe()
        with (
            contextlib.closing(guarded.client(username="node", password="wrong-secret")) as wrong,
            pytest.raises(errors.RegistryDenied) as caught,
        ):
            registry_etcd.EtcdRegistry(wrong, node_host.PREFIX).read_leases()
        told = "\n".join([caplog.text, repr(caught.value), str(host.node.status()), str(own.requests.read())])
    assert "logged in to etcd user=node" in told
    assert "secret" not in told


ONE_SUBNET = (
    '{"Network": "10.2.0.0/22", "SubnetLen": 24, "SubnetMin": "10.2.1.0", "SubnetMax": "10.2.1.0",'
    ' "Backend": {"Type": "vxlan"}}'
)


def test_two_hosts_that_start_at_once_on_the_last_subnet_both_stay_up_and_one_has_it(
    tmp_path: pathlib.Path, cluster: etcd_server.Cluster
) -> None:
    """Scenarios 4 and 5, twenty times over. flanneld that loses exits (D4)."""
    with contextlib.closing(cluster.client()) as first, contextlib.closing(cluster.client()) as second:
        for turn in range(20):
            prefix = f"/turn{turn}/network"
            hosts = [host_at(tmp_path / f"{turn}-{ip}", who, prefix, ip) for ip, who in ((1, first), (2, second))]
            assert hosts[0].registry.create_config(ONE_SUBNET)
            try:
                race([host.make(prefix) for host in hosts])
            finally:
                for host in hosts:
                    host.close()


def race(nodes: list[node.Node]) -> None:
    """Start both at the same instant; one gets the subnet, the other the error that says who has it until when."""
    start = threading.Barrier(2)
    threads = [threading.Thread(target=lambda one=one: (start.wait(5), one.start())) for one in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    until(
        lambda: sorted(settled(one) for one in nodes) == ["has it", "out of subnets"],
        "one winner and one clear error",
    )
    (loser,) = (one for one in nodes if settled(one) != "has it")
    (winner,) = (one for one in nodes if one is not loser)
    with pytest.raises(errors.OutOfSubnets) as caught:
        loser.wait(5)
    holder = rf"1 leases: 10\.2\.1\.0/24 by {winner.status().public_ip} until \d{{4}}-\d\d-\d\d \d\d:\d\d UTC"
    assert re.search(holder, str(caught.value)), str(caught.value)
    assert all(thread.is_alive() for one in nodes for thread in one._threads)


def settled(one: node.Node) -> str:
    seen = one.status()
    if seen.confirmed:
        return "has it"
    return "out of subnets" if "out of subnets" in (seen.trouble or "") else "undecided"


def host_at(folder: pathlib.Path, client: etcd_client.EtcdClient, prefix: str, ip: int) -> node_host.NodeHost:
    folder.mkdir()
    eth0 = dataclasses.replace(node_host.ETH0, addresses=(ipaddress.IPv4Interface(f"192.0.2.{ip}/24"),))
    host = node_host.NodeHost(
        folder,
        registry_etcd.EtcdRegistry(client, prefix),  # type: ignore[arg-type]  # any registry will do
    )
    host.kernel = type(host.kernel)([eth0])
    host.reopen()
    return host


def test_the_requests_to_start_are_as_many_with_ten_peers_as_with_five_thousand(
    tmp_path: pathlib.Path, cluster: etcd_server.Cluster
) -> None:
    """Scenario 27. flannel asks once for every lease (D9)."""
    few, many = (requests_to_start(tmp_path / str(count), cluster, count) for count in (10, 5000))
    assert few == many
    assert {kind: times for kind, times in many.items() if times} == {
        "read": 1,
        "list": 2,
        "grant": 1,
        "write": 1,
        "watch": 1,
    }


def requests_to_start(folder: pathlib.Path, cluster: etcd_server.Cluster, count: int) -> dict[str, int]:
    """What a host asks of etcd until it has its lease and knows that many peers."""
    prefix = f"/with{count}/network"
    with contextlib.closing(cluster.client()) as world, contextlib.closing(cluster.client()) as client:
        config = '{"Network": "10.0.0.0/8", "Backend": {"Type": "vxlan"}}'
        registry_etcd.EtcdRegistry(world, prefix).create_config(config)
        fill(cluster, prefix, count)
        with contextlib.closing(host_at(folder, client, prefix, 250)) as host:
            one = host.make(prefix)
            one.start()
            until(lambda: one.status().confirmed and one.status().peers == count, f"{count} peers", 60)
            until(lambda: client.requests.read()["watch"] == 1)
            return client.requests.read()


def fill(cluster: etcd_server.Cluster, prefix: str, count: int) -> None:
    """That many peers, in transactions of a hundred keys as no node would write them."""
    puts = []
    for number in range(count):
        subnet = ipaddress.IPv4Network((int(ipaddress.IPv4Address("10.16.0.0")) + 256 * number, 24))
        name = lease.format_subnet_key(lease.SubnetKey(v4=subnet))
        mac = f"0e:00:00:01:{number // 256:02x}:{number % 256:02x}"
        value = lease.format_attrs(node_host.attrs(str(ipaddress.IPv4Address("198.18.0.0") + number), mac))
        puts.append(f"put {prefix}/subnets/{name} {json.dumps(value)}")
    for start in range(0, count, 100):
        cluster.ctl("txn", stdin="\n" + "\n".join(puts[start : start + 100]) + "\n\n\n")


class Process:
    """A node in a process of its own."""

    def __init__(
        self, cluster: etcd_server.Cluster, folder: pathlib.Path, ttl_s: int, env: Mapping[str, str]
    ) -> None:
        folder.mkdir()
        self.log = folder / "log"
        with self.log.open("wb") as errors_to:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.overlay.node_process", ",".join(cluster.urls), str(folder), str(ttl_s)],
                cwd=REPOSITORY,
                env={**os.environ, **env},
                stdout=subprocess.PIPE,
                stderr=errors_to,
                text=True,
            )
        self.told: dict[str, Any] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.told = json.loads(line)

    def cpu_s(self) -> float:
        fields = pathlib.Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.mark.parametrize("days", [3, -3])
def test_a_clock_that_jumps_by_days_changes_nothing_for_the_lease(
    tmp_path: pathlib.Path, cluster: etcd_server.Cluster, days: int
) -> None:
    """Scenario 26. flannel reckons with the wall clock."""
    assert FAKETIME.exists(), "libfaketime is missing: python -m lab packages faketime"
    stamp = tmp_path / "stamp"
    stamp.write_text("+0")
    env = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(stamp),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    with contextlib.closing(cluster.client()) as client:
        world = registry_etcd.EtcdRegistry(client, node_host.PREFIX)
        world.create_config(node_host.CONFIG)
        with contextlib.closing(Process(cluster, tmp_path / "host", 6, env)) as one:
            until(lambda: one.told.get("events", {}).get("key_healed") == 1, "joined, and the first rewrite is over")
            before = world.read_leases()
            clock, asked = one.told["clock"], one.told["requests"]
            stamp.write_text(f"{days:+}d")
            until(lambda: abs(one.told["clock"] - clock - days * 86_400) < 600, "the clock has jumped")
            until(lambda: one.told["events"]["clock_jumped"] == 1, "the jump is noticed")
            threading.Event().wait(13)  # twice the TTL
            told = dict(one.told)
            after = world.read_leases()
        assert after == before
        renewed = told["requests"].pop("renew") - asked.pop("renew")
        assert told["requests"] == asked  # no rewrite, no new watch, no new lease
        assert 3 <= renewed <= 20  # every two seconds
        seen = (told["confirmed"], told["followed"], told["outage"], told["trouble"], told["subnet"])
        assert seen == (True, True, None, None, "10.2.1.0/24")
        assert 0 < told["expires_in_s"] <= 6
        assert {kind: count for kind, count in told["events"].items() if count} == {
            "lease_held": 1,
            "key_healed": 1,
            "clock_jumped": 1,
        }
        (line,) = (line for line in one.log.read_text().splitlines() if "wall clock was set" in line)
        assert abs(int(line.rpartition("jump_s=")[2]) - days * 86_400) < 600


@pytest.mark.timeout(180)
def test_a_node_whose_etcd_is_down_for_a_minute_costs_less_than_one_percent_of_a_core(
    tmp_path: pathlib.Path, cluster: etcd_server.Cluster
) -> None:
    """Its lease runs out meanwhile, so that it also tries to claim it: the most it ever does."""
    with contextlib.closing(cluster.client()) as client:
        registry_etcd.EtcdRegistry(client, node_host.PREFIX).create_config(node_host.CONFIG)
    with contextlib.closing(Process(cluster, tmp_path / "host", 30, {})) as one:
        until(lambda: one.told.get("confirmed") and one.told["followed"], "joined")
        cluster.kill()
        until(lambda: one.told["outage"])
        used_s = one.cpu_s()
        threading.Event().wait(60)
        used_s = one.cpu_s() - used_s
        assert one.told["events"]["claim_failed"] >= 1
        print(f"cpu in 60 s: {used_s:.2f} s")
        assert used_s < 0.6
        cluster.start()
        until(lambda: one.told["confirmed"] and one.told["outage"] is None, "all well again")
