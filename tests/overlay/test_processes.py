"""The flannelds of a host: in a /proc made of files, and among real processes in real network namespaces."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import subprocess
import threading
from collections.abc import Iterator

import pytest

from overlay import flanneld, lease, processes

SLEEP = shutil.which("sleep") or "/bin/sleep"


@pytest.fixture
def proc(tmp_path: pathlib.Path) -> pathlib.Path:
    """A /proc with one process, which is no flanneld, and what else is in a /proc."""
    (tmp_path / "net").mkdir()
    (tmp_path / "uptime").write_text("1 2\n")
    add(tmp_path, 1, "systemd", ["/sbin/init"])
    return tmp_path


def add(proc: pathlib.Path, pid: int, comm: str, argv: list[str], *, network: pathlib.Path | None = None) -> None:
    entry = proc / str(pid)
    (entry / "net").mkdir(parents=True)
    (entry / "comm").write_text(comm + "\n")
    (entry / "cmdline").write_text("".join(word + "\0" for word in argv))
    (entry / "net/dev").symlink_to(network or processes.OWN_NETWORK)


def test_a_flanneld_is_found_among_others_by_pid(proc: pathlib.Path) -> None:
    add(proc, 1000, "flanneld", ["/opt/bin/flanneld", "-etcd-prefix=/blue/network"])
    (proc / "1000/environ").write_text("FLANNELD_ETCD_PREFIX=/red/network\0PATH=/bin\0")
    add(proc, 99, "flanneld", ["flanneld"])
    (proc / "99/environ").write_text("FLANNELD_ETCD_PREFIX=/red/network\0PATH=/bin\0")
    assert processes.find_flannelds(proc) == (
        flanneld.Flanneld(pid=99, prefix="/red/network"),
        flanneld.Flanneld(pid=1000, prefix="/blue/network"),
    )


def test_a_flanneld_in_another_network_namespace_is_none_of_this_host(proc: pathlib.Path) -> None:
    add(proc, 7, "flanneld", ["flanneld"], network=proc / "uptime")
    (proc / "7/environ").write_text("")
    assert processes.find_flannelds(proc) == ()


def test_a_process_that_ends_while_it_is_read_is_skipped(proc: pathlib.Path) -> None:
    add(proc, 7, "flanneld", ["flanneld"])
    (proc / "7/net/dev").unlink()
    add(proc, 8, "flanneld", ["flanneld"])
    (proc / "8/environ").write_text("")
    assert processes.find_flannelds(proc) == (flanneld.Flanneld(pid=8, prefix=flanneld.DEFAULT_PREFIX),)


def test_no_proc_means_no_flanneld(tmp_path: pathlib.Path) -> None:
    assert processes.find_flannelds(tmp_path / "none") == ()


def test_the_file_for_docker_may_be_missing(tmp_path: pathlib.Path) -> None:
    assert processes.read_subnet_env(tmp_path / "subnet.env") is None
    (tmp_path / "subnet.env").write_text("FLANNEL_SUBNET=10.5.72.1/24\n")
    assert processes.read_subnet_env(tmp_path / "subnet.env") == lease.parse_subnet_key("10.5.72.0-24")


@contextlib.contextmanager
def running(directory: pathlib.Path, *words: str) -> Iterator[int]:
    """A program called flanneld that only waits, in the thread's own network namespace."""
    program = directory / "flanneld"
    program.write_text(f"#!/bin/sh\n{SLEEP} 60 & trap 'kill $!' TERM; wait\n")
    program.chmod(0o755)
    process = subprocess.Popen([program, *words])
    try:
        wait = threading.Event()
        for _ in range(500):  # until it has become the program
            if pathlib.Path(f"/proc/{process.pid}/comm").read_text() == "flanneld\n":
                break
            wait.wait(0.01)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.contract
def test_only_the_flanneld_of_our_own_network_namespace_is_seen(make_netns, tmp_path: pathlib.Path) -> None:
    here, there = make_netns(), make_netns()
    try:
        with here.inside(), running(tmp_path, "--etcd-prefix", "/blue/network") as pid:
            seen = processes.find_flannelds(pathlib.Path("/proc"))
            assert seen == (flanneld.Flanneld(pid=pid, prefix="/blue/network"),)
            with there.inside():
                assert processes.find_flannelds(pathlib.Path("/proc")) == ()
        with here.inside():
            assert processes.find_flannelds(pathlib.Path("/proc")) == ()
    finally:
        here.close()
        there.close()


@pytest.mark.contract
def test_it_is_seen_without_rights_over_it(make_netns, tmp_path: pathlib.Path) -> None:
    """As a managed plugin has it: other capabilities than flanneld, so that its environment is closed to us."""
    space = make_netns()
    script = "import pathlib; from overlay import processes; print(processes.find_flannelds(pathlib.Path('/proc')))"
    try:
        with space.inside(), running(tmp_path) as pid:
            done = subprocess.run(
                ["setpriv", "--bounding-set", "-all,+net_admin", "--inh-caps", "-all", "python3", "-c", script],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                cwd=pathlib.Path(__file__).parents[2],
            )
            assert done.stdout == f"(Flanneld(pid={pid}, prefix='/coreos.com/network'),)\n", done.stderr
    finally:
        space.close()
