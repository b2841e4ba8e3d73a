"""The watcher's pings, between two real network namespaces."""

from __future__ import annotations

import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

import lab
from lab import chaos_watch

pytestmark = pytest.mark.contract


@pytest.fixture
def ends() -> Iterator[dict[str, pathlib.Path]]:
    """Two namespaces and a wire; gone with the processes that hold them."""
    holders = [subprocess.Popen(["unshare", "--net", "sleep", "60"]) for _ in range(2)]
    spaces = {f"h{number}": f"/proc/{holder.pid}/ns/net" for number, holder in enumerate(holders, 1)}
    own = pathlib.Path("/proc/self/ns/net").readlink()
    try:
        until(lambda: all(pathlib.Path(space).readlink() != own for space in spaces.values()))
        for number, space in enumerate(spaces.values(), 1):
            inside = ["nsenter", f"--net={space}", "ip"]
            if number == 1:
                peer = str(holders[1].pid)
                wire = [*inside, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", peer]
                subprocess.run(wire, check=True, timeout=10)
            subprocess.run([*inside, "address", "add", f"192.0.2.{number}/24", "dev", "wire"], check=True, timeout=10)
            subprocess.run([*inside, "link", "set", "wire", "up"], check=True, timeout=10)
        yield {name: pathlib.Path(space) for name, space in spaces.items()}
    finally:
        for holder in holders:
            holder.kill()
            holder.wait(timeout=10)


@pytest.fixture
def watch() -> Iterator[chaos_watch.Watch]:
    made = chaos_watch.Watch(["h1", "h2"])
    made.start()
    yield made
    made.stop()


def until(holds: Callable[[], object], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_cut_wire_is_a_loss_in_both_directions_and_ends_with_the_wire_mended(ends, watch) -> None:
    watch.attach("h1", ends["h1"], "192.0.2.1")
    watch.attach("h2", ends["h2"], "192.0.2.2")
    until(lambda: watch.counts()[1] > 4)
    assert not watch.silent()
    whole_s = time.monotonic()
    cable = ["nsenter", f"--net={ends['h1']}", "ip", "link", "set", "wire"]
    subprocess.run([*cable, "down"], check=True, timeout=10)
    # longer than an answer may take: what waits for its neighbour's address when the wire is mended is still answered
    until(lambda: watch.silent() == ["h1>h2", "h2>h1"] and time.monotonic() > whole_s + 4)
    subprocess.run([*cable, "up"], check=True, timeout=10)
    until(lambda: not watch.silent() and all(loss.end_s is not None for loss in watch.losses()))
    lost = [loss for loss in watch.losses() if loss.begin_s > whole_s]
    long = {(loss.source, loss.target) for loss in lost if loss.end_s - loss.begin_s > 1}
    assert long == {("h1", "h2"), ("h2", "h1")}


def test_a_container_that_is_not_there_does_not_answer(ends, watch) -> None:
    watch.attach("h1", ends["h1"], "192.0.2.1")
    until(lambda: watch.silent() == ["h1>h2", "h2>h1"])
    watch.attach("h2", ends["h2"], "192.0.2.2")
    until(lambda: not watch.silent())
    watch.detach("h2")
    until(lambda: watch.silent() == ["h1>h2", "h2>h1"])


def test_a_namespace_that_is_gone_is_an_error(watch, tmp_path) -> None:
    with pytest.raises(lab.LabError, match="no ping from"):
        watch.attach("h1", tmp_path / "gone", "192.0.2.1")
