"""Real etcds for the contract tests: on loopback, on free ports, in a directory that goes with the test."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import trustme

from lab import roots
from overlay import errors, etcd_client, etcd_settings

T = TypeVar("T")


def wait_for(look: Callable[[], T], what: str, timeout_s: float = 20.0) -> T:
    """What `look` returns, once that is true; looked at every 20 ms, and RegistryUnavailable counts as not yet."""
    give_up = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(errors.RegistryUnavailable):
            if seen := look():
                return seen
        assert time.monotonic() < give_up, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, all different."""
    with contextlib.ExitStack() as held:
        socks = [held.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """PEM files for TLS: one server certificate for all members, one client certificate."""

    ca: str
    server_cert: str
    server_key: str
    client_cert: str
    client_key: str


def make_files(folder: pathlib.Path, *names: str) -> Files:
    """A certificate authority, a server certificate for `names`, a client certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    ca = trustme.CA()
    server, client = ca.issue_cert(*names), ca.issue_cert("client@flannelpy.test")
    parts = {
        "ca": ca.cert_pem,
        "server_cert": server.cert_chain_pems[0],
        "server_key": server.private_key_pem,
        "client_cert": client.cert_chain_pems[0],
        "client_key": client.private_key_pem,
    }
    for name, blob in parts.items():
        blob.write_to_path(str(folder / name))
    return Files(**{name: str(folder / name) for name in parts})


def _program(name: str) -> str:
    """The lab's own etcd 3.4: Debian's package would start a service on the machine."""
    found = roots.path_of("bookworm") / "usr/bin" / name
    assert found.exists(), f"{name} is missing: python -m lab prepare"
    return str(found)


def _state(task: pathlib.Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


class Member:
    """One etcd process, and what starts it anew on the same ports and directory."""

    def __init__(self, folder: pathlib.Path, name: str, options: Sequence[str]) -> None:
        self.folder = folder
        self.name = name
        self.options = list(options)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        found = _program("etcd")
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [found, "--name", self.name, "--data-dir", str(self.data), *self.options], stdout=log, stderr=log
            )

    @property
    def data(self) -> pathlib.Path:
        return self.folder / f"{self.name}.etcd"

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number is signal.SIGSTOP:  # takes effect thread by thread: a request could still be answered
            tasks = pathlib.Path(f"/proc/{self._process.pid}/task")
            wait_for(lambda: all(_state(task) == "T" for task in tasks.iterdir()), f"{self.name} stopped")

    def kill(self) -> None:
        """kill -9; nothing where it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Cluster:
    """One or three members."""

    def __init__(self, folder: pathlib.Path, *, members: int = 1, tls: str = "", options: Sequence[str] = ()) -> None:
        """`tls`: "" for http, "ca" for https, "mutual" where clients must show a certificate."""
        folder.mkdir(parents=True, exist_ok=True)
        self.files = make_files(folder / "tls", "127.0.0.1", "localhost") if tls else None
        scheme = "https" if tls else "http"
        ports = free_ports(2 * members)
        self.urls = tuple(f"{scheme}://127.0.0.1:{port}" for port in ports[:members])
        peers = [f"http://127.0.0.1:{port}" for port in ports[members:]]
        together = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
        self._join = ["--initial-cluster", together, "--initial-advertise-peer-urls", peers[0]]
        # Elections are quick with one member; three under load need more than a moment.
        pace = ["--heartbeat-interval", "20", "--election-timeout", "200"] if members == 1 else []
        extra = [*options, *pace, "--logger", "zap", "--initial-cluster", together]
        if self.files:
            extra += ["--cert-file", self.files.server_cert, "--key-file", self.files.server_key]
        if self.files and tls == "mutual":
            extra += ["--client-cert-auth", "--trusted-ca-file", self.files.ca]
        self.members = [
            Member(folder, f"m{number}", [*_addresses(url, peer), *extra])
            for number, (url, peer) in enumerate(zip(self.urls, peers, strict=True))
        ]

    def start(self) -> None:
        for member in self.members:
            member.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until every member answers a linearizable read; where authentication is on, until it is refused."""
        for url in self.urls:
            with contextlib.closing(self.client(url)) as client:
                wait_for(functools.partial(_answers, client), f"{url} to answer")

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def restore(self, backup: pathlib.Path) -> None:
        """Stop all, put the store of `backup` in place, start anew: a single member."""
        self.kill()
        (member,) = self.members
        shutil.rmtree(member.data)
        self.ctl(
            "snapshot", "restore", str(backup), "--name", member.name, "--data-dir", str(member.data), *self._join
        )
        self.start()

    def client(
        self, *urls: str, username: str = "", password: str = "", with_cert: bool = True, timeout_s: float = 5.0
    ) -> etcd_client.EtcdClient:
        """A client of the members at `urls`, of all without any."""
        files = self.files
        return etcd_client.EtcdClient(
            etcd_settings.EtcdSettings(
                endpoints=urls or self.urls,
                ca_file=files.ca if files else "",
                cert_file=files.client_cert if files and with_cert else "",
                key_file=files.client_key if files and with_cert else "",
                username=username,
                password=password,
                timeout_s=timeout_s,
            )
        )

    def ctl(self, *words: str, stdin: str = "") -> str:
        """Run etcdctl, for what our client does not do."""
        found = _program("etcdctl")
        done = subprocess.run(
            [found, "--endpoints", ",".join(self.urls), *words],
            env={"ETCDCTL_API": "3"},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, f"etcdctl {words[:2]}: {done.stderr}"
        return done.stdout


def guard(cluster: Cluster, prefix: str, user: str, password: str) -> None:
    """Switch authentication on; `user` may do all under `prefix` and nothing else."""
    cluster.ctl("user", "add", "root:root-secret")
    cluster.ctl("user", "add", f"{user}:{password}")
    cluster.ctl("role", "add", "nodes")
    cluster.ctl("role", "grant-permission", "nodes", "readwrite", prefix + "/", prefix + "0")
    cluster.ctl("user", "grant-role", user, "nodes")
    cluster.ctl("user", "grant-role", "root", "root")
    cluster.ctl("auth", "enable")


def _answers(client: etcd_client.EtcdClient) -> bool:
    with contextlib.suppress(errors.RegistryDenied):
        client.get("ready")
    return True


def _addresses(url: str, peer: str) -> list[str]:
    return [
        "--listen-client-urls", url, "--advertise-client-urls", url,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
    ]  # fmt: skip


@contextlib.contextmanager
def running(
    folder: pathlib.Path, *, members: int = 1, tls: str = "", options: Sequence[str] = ()
) -> Iterator[Cluster]:
    """A cluster that answers, gone at the end."""
    cluster = Cluster(folder, members=members, tls=tls, options=options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()
