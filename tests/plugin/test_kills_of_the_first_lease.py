"""The plugin killed -9 at every point between nothing and a first lease: a host never has two, or loses one.

Before a change the worker alone, after it the plugin as a whole; both families, and a feature to be switched off.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from lab import roots
from overlay import faults
from tests.overlay import node_host
from tests.plugin import kills, machine

pytestmark = [pytest.mark.contract, pytest.mark.timeout(300)]

PREFIX = "/coreos.com/network"
NODE = f"node:{PREFIX}"
READ_FEATURE = """
import sys
sys.path.insert(0, sys.argv[1])
from overlay import ethtool
print(ethtool.read_tx_checksum(sys.argv[2]))
"""
DEVICES = ("flannel.1", "flannel-v6.1")


class Joining(machine.Machine):
    """A host that has no lease yet, and an etcd of its own that has none either."""

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__(directory, ETCD_ENDPOINTS="http://127.0.0.1:2379", TX_CHECKSUM="off")
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
        for device in DEVICES:
            with contextlib.suppress(subprocess.CalledProcessError):  # where it was killed before there was one
                self.run("ip", "link", "del", device)
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
            self.etcdctl("put", f"{PREFIX}/config", kills.DUAL)
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


def devices(host: Joining) -> dict[str, tuple[object, ...]]:
    """Of each device: flags, what it is made of, addresses, whether it hears routers, its feature."""
    found = {}
    for name in DEVICES:
        (link,) = json.loads(host.run("ip", "-j", "-d", "link", "show", name))
        (shown,) = json.loads(host.run("ip", "-j", "addr", "show", name))
        hears = host.run("cat", f"/proc/sys/net/ipv6/conf/{name}/accept_ra").strip()
        found[name] = (
            sorted(link["flags"]),
            link["mtu"],
            link["ifalias"],
            link["linkinfo"],
            [one["family"] for one in shown["addr_info"] if one["scope"] == "global"],
            f"accept_ra={hears}",
            host.run(sys.executable, "-c", READ_FEATURE, str(machine.REPOSITORY), name).strip(),
        )
    return found


def test_a_kill_on_the_way_to_the_first_lease_leaves_one_lease_and_whole_devices(host: Joining) -> None:
    passed = [point for who, point in host.record(lambda: join(host)) if who == NODE]
    assert {"etcd.request.after", "state.commit.before", "kernel.feature.after", "kernel.sysctl.after"} <= set(passed)
    whole = devices(host)
    assert [each[5] for each in whole.values()] == ["accept_ra=0"] * 2
    wrong = []
    for point in kills.count(passed):
        host.forget()
        failure = killed_at(host, point, whole)
        if failure:
            wrong.append(f"{point}: {failure}")
    assert wrong == []


def killed_at(host: Joining, point: kills.Point, whole: dict[str, tuple[object, ...]]) -> str:
    """Join, killed there; what is wrong then."""
    is_before = point.name.endswith(".before")
    host.give(faults.Order(point=point.name, handler=NODE, nth=point.nth, action="kill" if is_before else "hold"))
    with contextlib.nullcontext() if is_before else host.killed_while_held():
        join(host)
        told = json.loads(host.get("/status"))["flannel_networks"][0]
    key = f"{told['subnet']}&{told['subnet_v6']}".replace("/", "-")
    if not (host.struck() and host.leases() == host.saved() == [key]):
        return f"struck={host.struck()} etcd={host.leases()} file={host.saved()} told={told}"
    now = devices(host)
    return "" if now == whole else f"{whole} became {now}"
