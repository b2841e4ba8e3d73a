"""The application's beginning and end, which may come in either order."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Callable

import pytest

from overlay import kernel_version, statefile
from plugin import app, graph
from tests.overlay import node_host, small_disk
from tests.plugin import memory_plugin

ENV = {"ETCD_ENDPOINTS": "http://127.0.0.1:1"}


def test_an_end_while_it_is_built_starts_nothing(
    make_plugin: Callable[..., memory_plugin.MemoryPlugin], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = make_plugin(saved=True).graph
    building, ended = threading.Event(), threading.Event()

    def build(*_args: object) -> graph.Graph:
        building.set()
        assert ended.wait(10)
        return built

    monkeypatch.setattr(graph, "build", build)
    one = app.App(ENV)
    one.start()
    assert building.wait(10)
    one.stop()
    ended.set()
    one.methods()  # waits until it is built
    for thread in threading.enumerate():
        if thread.name == "build":
            thread.join(10)
    assert built.threads == []
    assert not built.halt.is_set()


def test_what_cannot_be_built_is_told_and_tried_again_until_it_works(
    make_plugin: Callable[..., memory_plugin.MemoryPlugin], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at the start, say, or any bug."""
    built = make_plugin(saved=True).graph
    failures: list[Exception] = [statefile.StateFileError("disk full"), ZeroDivisionError("a bug")]
    go_on = threading.Semaphore(0)

    def build(*_args: object) -> graph.Graph:
        assert go_on.acquire(timeout=10)
        if failures:
            raise failures.pop(0)
        return built

    monkeypatch.setattr(graph, "build", build)
    one = app.App(ENV)
    one.start()
    try:
        go_on.release()
        node_host.until(lambda: one.missing() == ("disk full",))
        with pytest.raises(statefile.StateFileError, match="disk full"):
            one.methods()
        go_on.release()
        node_host.until(lambda: one.missing() == ("flannelpy could not start: ZeroDivisionError: a bug",))
        go_on.release()
        node_host.until(lambda: built.threads)
        assert one.methods() is built.methods
        assert "disk full" not in one.missing()
    finally:
        one.stop()


BOOT = """
import ipaddress
from ipam import requests
from driver import endpoint, names
from overlay import errors, netstate, statefile
from tests.overlay import node_host
from tests.plugin import memory_plugin

before = memory_plugin.MemoryPlugin(disk, saved=True)
memory_plugin.fill(before)
before.join()
before.registry.put_peer(node_host.key("10.2.7.0/24"), node_host.attrs("192.0.2.7", "0e:00:00:00:00:07"))
node_host.until(lambda: before.store.load_peers(node_host.PREFIX))
wanted = before.kernel.observe(netstate.EMPTY)
before.close()
fill()
before.registry.go_down("etcd is away")
before.kernel = type(before.kernel)([memory_plugin.node_host.ETH0])
plugin = memory_plugin.MemoryPlugin(disk, host=before)
plugin.reconciler.run_pass()
plugin.nodes.start()
print(plugin.kernel.observe(netstate.EMPTY) == wanted)
(usage,) = plugin.ipam.usage()
take = lambda: plugin.ipam.request_address(requests.AddressRequest(pool_id=usage.id))
try:
    take()
except errors.OverlayError as exc:
    print(exc)
print([line for line in plugin.missing() if "state file" in line])
plugin.registry.come_back()
node_host.until(lambda: plugin.nodes.all()[0].status().confirmed and plugin.nodes.all()[0].status().followed)
plugin.registry.put_peer(node_host.key("10.2.8.0/24"), node_host.attrs("192.0.2.8", "0e:00:00:00:00:08"))
routes = lambda: {str(o.destination) for o in plugin.kernel.observe(netstate.EMPTY) if isinstance(o, netstate.Route)}
node_host.until(lambda: routes() == {"10.2.7.0/24", "10.2.8.0/24"})
print(plugin.supervisor.failures())
make_room()
plugin.state.try_again()
plugin.nodes.all()[0].save_again()
node_host.until(lambda: len(plugin.store.load_peers(node_host.PREFIX)) == 2)
print(take())
print([line for line in plugin.missing() if "state file" in line])
plugin.close()
"""


@pytest.mark.contract
def test_a_full_disk_at_the_start_costs_new_containers_and_nothing_else(tmp_path: pathlib.Path) -> None:
    """Lease, peers, networks and containers are programmed from a file that can only be read."""
    same, refused, trouble, failures, address, after = small_disk.run(BOOT, tmp_path / "disk")
    assert same == "True"
    told = f"cannot write the state file {tmp_path}/disk/state.db: database or disk is full; make room on its disk"
    assert refused == f"nothing was changed: {told}"
    assert trouble == f"['{told}']"
    assert failures == "{}"
    assert address == "10.2.1.3/24"
    assert after == "[]"


def test_an_end_while_it_starts_waits_for_the_threads_it_began(
    make_plugin: Callable[..., memory_plugin.MemoryPlugin], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = make_plugin(saved=True).graph
    starting, ending = threading.Event(), threading.Event()
    begin = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "reconciler":
            starting.set()
            ending.wait(1)
        begin(thread)

    monkeypatch.setattr(graph, "build", lambda *_args: built)
    monkeypatch.setattr(threading.Thread, "start", start)
    one = app.App(ENV)
    one.start()
    assert starting.wait(10)
    threading.Timer(0.2, ending.set).start()
    one.stop()
    assert {"reconciler", "engine"} <= {thread.name for thread in built.threads}
    assert not any(thread.is_alive() for thread in built.threads)


def test_a_kernel_that_is_too_old_is_said_in_every_answer_and_nothing_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graph, "build", lambda *_args: pytest.fail("built"))
    obstacle = kernel_version.find_obstacle("4.19.0-27-amd64", has_strict_dumps=False)
    one = app.App(ENV, obstacle=obstacle)
    client = one.start().test_client()  # type: ignore[attr-defined]
    answers = [client.post("/NetworkDriver.Leave", data="{}"), client.get("/readyz"), client.get("/status")]
    one.stop()
    assert [answer.status_code for answer in answers] == [500, 503, 200]
    for answer in answers:
        assert "Linux 4.19.0-27-amd64 is too old" in answer.get_data(as_text=True)
    assert client.post("/NetworkDriver.GetCapabilities").status_code == 200
    assert "error not started: Linux 4.19.0-27-amd64 is too old" in answers[2].get_json()["last_errors"][0]
