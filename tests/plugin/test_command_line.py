"""`flannelpy audit` as an operator sees it: lines and exit codes, over a plugin that answers on a real socket."""

from __future__ import annotations

import json
import pathlib
import socketserver
import threading
import wsgiref.simple_server
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click import testing

from plugin import __main__ as command_line
from plugin import http
from tests.plugin import memory_plugin
from tests.plugin.test_engine_watch import EMPTY, SEEN

Plugin = memory_plugin.MemoryPlugin
Run = Callable[..., testing.Result]


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, app: Any) -> None:
        self.app = app
        super().__init__(path, _Handler)


class _Handler(wsgiref.simple_server.WSGIRequestHandler):
    def get_environ(self) -> dict[str, Any]:
        self.client_address = ("", 0)
        self.server.base_environ = {"SERVER_NAME": "x", "SERVER_PORT": "0"}
        return super().get_environ()

    def get_app(self) -> Any:
        return self.server.app

    def handle(self) -> None:
        self.server.get_app = self.get_app
        super().handle()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def full(make_plugin: Callable[..., Plugin]) -> Plugin:
    plugin = make_plugin(saved=True).join()
    plugin.ago_s = 3600.0
    memory_plugin.fill(plugin)
    plugin.engine.networks = [SEEN]
    plugin.watch.look()
    plugin.reconciler.run_pass()
    return plugin


@pytest.fixture
def run(full: Plugin, tmp_path: pathlib.Path) -> Iterator[Run]:
    path = tmp_path / "plugin.sock"
    server = _UnixServer(str(path), http.make_app(full, memory_plugin.CONSTANTS))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def ask(*words: str) -> testing.Result:
        return testing.CliRunner().invoke(
            command_line.main, ["audit", "--socket", str(path), "--settle", "0", *words]
        )

    yield ask
    server.shutdown()
    thread.join(5)
    server.server_close()


def test_no_differences_end_with_0(run: Run) -> None:
    told = run()
    assert (told.exit_code, told.output) == (0, "no differences\n")


def test_a_line_tells_each_difference_and_its_repair_and_ends_with_1(full: Plugin, run: Run) -> None:
    full.firewall.plan = frozenset()
    told = run()
    assert (told.exit_code, told.output) == (
        1,
        "differs: firewall:missing nft: state: fp-4d5d70de7705; kernel: nothing; --repair: write the rules again\n",
    )


def test_repair_tells_what_was_mended_and_ends_with_0(full: Plugin, run: Run) -> None:
    full.firewall.plan = frozenset()
    told = run("--repair")
    assert (told.exit_code, told.output) == (
        0,
        "mended: firewall:missing nft: state: fp-4d5d70de7705; kernel: nothing\nno differences are left\n",
    )


def test_what_cannot_be_mended_is_left_and_ends_with_1(full: Plugin, run: Run) -> None:
    full.kernel.add_foreign_link(memory_plugin.netstate.IfName("fph444444444444"), "veth")
    full.firewall.plan = frozenset()
    told = run("--repair")
    assert told.exit_code == 1
    assert told.output.splitlines() == [
        "mended: firewall:missing nft: state: fp-4d5d70de7705; kernel: nothing",
        "differs: link:left link fph444444444444: state: nothing; kernel: veth fph444444444444",
    ]


def test_an_engine_that_does_not_answer_is_said_and_ends_with_2(full: Plugin, run: Run) -> None:
    full.engine.failure = "connection refused"
    told = run()
    assert (told.exit_code, told.output) == (
        2,
        "docker could not be looked at: connection refused\nno differences\n",
    )


def test_differences_that_are_seen_count_more_than_what_is_not(full: Plugin, run: Run) -> None:
    full.engine.failure = "connection refused"
    full.firewall.plan = frozenset()
    assert run().exit_code == 1


def test_json_is_the_whole_answer(full: Plugin, run: Run) -> None:
    full.engine.networks = [EMPTY]
    told = run("--json")
    assert told.exit_code == 1
    assert [one["kind"] for one in json.loads(told.output)["differences"]] == ["endpoint:stale", "address:stale"]


def test_no_plugin_ends_with_2(tmp_path: pathlib.Path) -> None:
    told = testing.CliRunner().invoke(command_line.main, ["audit", "--socket", str(tmp_path / "none.sock")])
    assert (told.exit_code, "no plugin answers at" in told.output) == (2, True)


def test_a_refusal_ends_with_2(run: Run) -> None:
    told = run("--settle", "99")
    assert told.exit_code == 2
    assert "expected settle=SECONDS from 0 to 30" in told.output
