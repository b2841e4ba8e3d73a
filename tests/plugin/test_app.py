"""The application's beginning and end, which may come in either order."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from overlay import kernel_version
from plugin import app, graph
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
