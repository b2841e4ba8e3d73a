"""The worker killed -9 at every point between nothing and a first lease: a host never has two, or loses one."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from lab import roots
from overlay import faults
from tests.overlay import node_host
from tests.plugin import kills

pytestmark = [pytest.mark.contract, pytest.mark.timeout(300)]

PREFIX = "/coreos.com/network"
NODE = f"node:{PREFIX}"


class Joining(kills.Machine):
    """A host that has no lease yet, and an etcd of its own that has none either."""

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__(directory, ETCD_ENDPOINTS="http://127.0.0.1:2379")
        self._tools = roots.path_of("bookworm") / "usr/bin"
        etcd = f"{self._tools}/etcd --data-dir {directory}/etcd --logger zap --log-level error"
        self.run("sh", "-c", f"{etcd} >/dev/null 2>{directory}/etcd.log & echo $! >{directory}/etcd.pid")
        node_host.until(self._etcd_answers, "etcd", 30)

    def close(self) -> None:
        super().close()
        os.kill(int((self.directory / "etcd.pid").read_text()), signal.SIGKILL)

    def forget(self) -> None:
        """As if the host had never been: no plugin, no state, no device, no lease."""
        self.stop()
        with contextlib.suppress(subprocess.CalledProcessError):  # where it was killed before there was one
            self.run("ip", "link", "del", "flannel.1")
        shutil.rmtree(self.directory / "state", ignore_errors=True)
        self.etcdctl("del", "--prefix", f"{PREFIX}/subnets/")

    def etcdctl(self, *words: str) -> str:
        return self.run("env", "ETCDCTL_API=3", str(self._tools / "etcdctl"), *words)

    def leases(self) -> list[str]:
        """The subnets that etcd has."""
        keys = self.etcdctl("get", "--prefix", "--keys-only", f"{PREFIX}/subnets/").split()
        return [key.rpartition("/")[2] for key in keys]

    def saved(self) -> list[str]:
        """The subnets that the state file has."""
        with contextlib.closing(sqlite3.connect(self.directory / "state/flannelpy.db", timeout=5)) as connection:
            return [row[0] for row in connection.execute("SELECT subnet FROM nodes")]

    def _etcd_answers(self) -> bool:
        try:
            self.etcdctl("put", f"{PREFIX}/config", node_host.CONFIG)
        except subprocess.CalledProcessError:
            return False
        return True


@pytest.fixture
def host() -> Iterator[Joining]:
    with tempfile.TemporaryDirectory() as directory:
        made = Joining(pathlib.Path(directory))
        yield made
        made.close()


def join(host: Joining) -> None:
    host.start()
    node_host.until(host.ready, "ready", 40)


def test_a_kill_on_the_way_to_the_first_lease_leaves_one_lease(host: Joining) -> None:
    passed = [point for who, point in host.record(lambda: join(host)) if who == NODE]
    assert "etcd.request.after" in passed
    assert "state.commit.before" in passed
    wrong = []
    for point in kills.count(passed):
        host.forget()
        host.give(faults.Order(point=point.name, handler=NODE, nth=point.nth))
        join(host)
        told = json.loads(host.get("/status"))["flannel_networks"][0]["subnet"]
        if not (host.struck() and host.leases() == host.saved() == [told.replace("/", "-")]):
            wrong.append(f"{point}: struck={host.struck()} etcd={host.leases()} file={host.saved()} told={told}")
    assert wrong == []
