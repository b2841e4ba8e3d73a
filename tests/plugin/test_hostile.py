"""Hostile requests over the whole plugin in memory: what they may do is be refused."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import pathlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import flask.testing
import hypothesis
import pytest
from hypothesis import strategies as st

from driver import ports
from overlay import firewall_exec
from plugin import http, server
from tests.plugin import hostile, memory_plugin, sessions

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

ROOT = pathlib.Path(server.__file__).parent.parent
SHM = "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None
"""Where a state file costs no write to a disk: there are many."""

LONG = hypothesis.settings.get_current_profile_name() == "long"
SEQUENCES, LENGTH = 7000 if LONG else 700, 15
STATUSES = {200, 400, 404, 405, 409, 413, 414, 503}
PAGES = {"/healthz": "text/plain", "/readyz": "text/plain", "/metrics": "text/plain"}


class Tracebacks(logging.Handler):
    """What was logged with a traceback, or as an error."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR or "Traceback" in record.getMessage():
            self.seen.append(record.getMessage()[:500])


@contextlib.contextmanager
def no_tracebacks() -> Iterator[None]:
    """The log of the block has none. Its lines go nowhere else: some hold what pytest-xdist cannot carry."""
    root, watch = logging.getLogger(), Tracebacks()
    before, root.handlers = root.handlers, [watch]
    try:
        yield
    finally:
        root.handlers = before
    assert watch.seen == []


@contextlib.contextmanager
def fresh() -> Iterator[tuple[memory_plugin.MemoryPlugin, flask.testing.FlaskClient]]:
    """A plugin of its own for each example, in a flannel network of both families."""
    with tempfile.TemporaryDirectory(dir=SHM) as directory, no_tracebacks():
        plugin = memory_plugin.MemoryPlugin(pathlib.Path(directory), saved=True, dual=True)
        try:
            yield plugin, plugin.client()
        finally:
            plugin.close()


def play(client: flask.testing.FlaskClient, call: sessions.Call) -> int:
    return client.post(f"/{call.method}", data=hostile.encode(call.body)).status_code


def check_answer(request: hostile.Request, response: Any) -> None:
    """An error is one that dockerd can read, and says no more than it should."""
    assert response.status_code in STATUSES, (request, response.data[:500])
    if response.status_code != 200 and request.verb != "HEAD" and request.path not in PAGES:
        told = json.loads(response.data)
        assert told.keys() == {"Err", "Error"}, (request, told)
        assert told["Err"] == told["Error"] != "", request
        assert len(told["Err"]) <= http.MESSAGE_LIMIT
        assert "Traceback" not in told["Err"]
    elif response.status_code == 200 and response.mimetype == server.MIMETYPE and request.verb != "HEAD":
        assert isinstance(json.loads(response.data), dict)


@pytest.mark.parametrize("session", sessions.SESSIONS)
def test_a_session_is_right_and_leaves_nothing(session: str) -> None:
    with fresh() as (plugin, client):
        before = plugin.state_of_all()
        refused = [call.method for call in sessions.SESSIONS[session] if play(client, call) != 200]
        plugin.reconciler.run_pass()
        assert refused == ["NetworkDriver.AllocateNetwork"]
        assert plugin.state_of_all() == before


def test_every_call_that_is_served_is_in_a_session() -> None:
    with fresh() as (plugin, _):
        served = {"Plugin.Activate", *memory_plugin.CONSTANTS, *plugin.methods()}
    assert {call.method for call in sessions.CALLS} == served


def test_of_two_sessions_one_publishes() -> None:
    reserved = {}
    for session in sessions.SESSIONS:
        with fresh() as (plugin, client):
            for call in sessions.up_to(session, "NetworkDriver.ProgramExternalConnectivity"):
                play(client, call)
            reserved[session] = {
                f"{ports.format_host(port.ip)}:{port.number}/{port.protocol}"
                for port in plugin.host_ports.list_held()
            }
    assert reserved == {
        "auto": set(),
        "native": {
            "0.0.0.0:8080/tcp", "[::]:8080/tcp", "192.0.2.1:5300/udp", "[2001:db8::1]:8443/tcp", "[::]:32768/udp"
        },
    }  # fmt: skip


asked = []


@hypothesis.given(
    st.sampled_from([calls[:number] for calls in sessions.SESSIONS.values() for number in range(len(calls) + 1)]),
    st.lists(hostile.requests(), min_size=LENGTH, max_size=LENGTH),
)
@hypothesis.settings(
    max_examples=SEQUENCES,
    deadline=None,
    derandomize=not LONG,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
def _ten_thousand(right: Sequence[sessions.Call], wrong: list[hostile.Request]) -> None:
    with fresh() as (plugin, client):
        for call in right:
            play(client, call)
        before = plugin.state_of_all()
        for request in wrong:
            response = client.open(request.path, method=request.verb, data=request.data)
            asked.append(request.path)
            check_answer(request, response)
            after = plugin.state_of_all()
            assert (response.status_code == 200 and request.verb == "POST") or after == before, request
            before = after


@pytest.mark.timeout(3600 if LONG else 600)
def test_ten_thousand_hostile_requests_are_answered_and_an_error_changes_nothing() -> None:
    asked.clear()
    _ten_thousand()
    assert len(asked) >= 10_000


TOOLS = ("nft", "iptables-nft-save", "iptables-nft-restore", "ip6tables-nft-save", "ip6tables-nft-restore")
RECORDER = """#!/bin/sh
{{ printf '%s\\n' "${{0##*/}}" "$@"; [ "${{0%-save}}" != "$0" ] || /bin/cat; }} >>{record}
case "$0 $*" in
*-save*) printf '*filter\\n:FORWARD DROP [0:0]\\n:DOCKER-USER - [0:0]\\n-A FORWARD -j DOCKER-USER\\nCOMMIT\\n' ;;
*list*FORWARD*) : ;;
*list*) echo 'Error: No such file or directory' >&2; exit 1 ;;
esac
"""
"""Stands for the tools of the packet filter: writes down what it is told, and shows a filter table of Docker's."""


class RecordingPlugin:
    """A plugin whose packet filter is the real one, over tools that write down what they are told."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.record = directory / "told"
        self.record.touch()
        tools = directory / "tools"
        tools.mkdir()
        for name in TOOLS:
            (tools / name).write_text(RECORDER.format(record=self.record))
            (tools / name).chmod(0o755)
        self.plugin = memory_plugin.MemoryPlugin(directory, saved=True, dual=True)
        self.firewall = firewall_exec.FirewallExec(lockfile=str(directory / "lock"), path=str(tools))
        self.client = self.plugin.client()

    def reached(self, *, rows: bool = True) -> str:
        """All that a text of a request could have become: kernel objects, rows, and what the tools were told."""
        plugin = self.plugin
        self.firewall.ensure(plugin.firewall.plan)
        wanted = plugin.reconciler._slices.whole()
        seen = (wanted, plugin.kernel.observe(wanted), plugin.driver.networks(), plugin.driver.endpoints())
        return f"{seen} {plugin.ipam.usage()} {plugin.rows() if rows else ''} {self.record.read_text()}"


ALLOWED = re.compile(r"[a-zA-Z0-9 \t\n_.:,;/|{}()\"'=!<>@#*\[\]&+-]*")


SPOILED = [
    pytest.param(calls, number, id=f"{session}-{call.method}")
    for session, calls in sessions.SESSIONS.items()
    for number, call in enumerate(calls)
    if session == "auto" or call.method in sessions.OWN
]


@pytest.mark.parametrize(("calls", "number"), SPOILED)
def test_no_text_of_a_request_reaches_a_tool_the_kernel_or_a_row(calls: Sequence[sessions.Call], number: int) -> None:
    """Each text of each call, spoiled in every way; the calls before it were right, and those after it follow."""
    call = calls[number]
    texts = [path for path in hostile.places(call.body) if isinstance(hostile.at(call.body, path), str)]
    with tempfile.TemporaryDirectory(dir=SHM) as directory, no_tracebacks():
        host = RecordingPlugin(pathlib.Path(directory))
        try:
            for right in calls[:number]:
                play(host.client, right)
            for path in texts:
                for trick in hostile.tricks(hostile.at(call.body, path)):
                    if path[-1] in sessions.CHOSEN and trick.isalnum() and len(trick) <= 13:
                        continue
                    spoiled = hostile.put(call.body, path, trick)
                    request = hostile.Request(verb="POST", path=f"/{call.method}", data=hostile.encode(spoiled))
                    check_answer(request, host.client.post(request.path, data=request.data))
                    rows = path[-1] not in sessions.NAMED  # those are kept: by them a container is known again
                    assert hostile.MARK not in host.reached(rows=rows).lower(), (path, trick[:80])
            for right in calls[number:]:
                play(host.client, right)
            assert ALLOWED.fullmatch(host.record.read_text())
        finally:
            host.plugin.close()


TOLD = {
    "auto": ("fp-4d5d70de7705", "fph1a2299da1bc9", "10.2.1.0/24", "fd00:2:0:1::/64", "iptables-nft-restore"),
    "native": (
        *("blue0", "net.ipv4.conf.blue0.route_localnet", "iface_prefix='net'", "tcp . 8080 : 10.2.1.2 . 80"),
        *("192.0.2.1 . udp . 5300 : 10.2.1.2 . 53", "2001:db8::1 . tcp . 8443 : fd00:2:0:1::2 . 443"),
        "udp . 32768 : fd00:2:0:1::2 . 53",
    ),
}


@pytest.mark.parametrize("session", sessions.SESSIONS)
def test_the_tools_are_really_told_of_a_network(tmp_path: pathlib.Path, session: str) -> None:
    host = RecordingPlugin(tmp_path)
    for call in sessions.up_to(session, "NetworkDriver.ProgramExternalConnectivity"):
        play(host.client, call)
    told = host.reached()
    assert [text for text in TOLD[session] if text not in told] == []
    host.plugin.close()


SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "spawnl", "spawnv", "execl", "execvp", "eval", "exec"}


@pytest.mark.parametrize("room", ["driver", "ipam", "overlay", "plugin"])
def test_the_product_calls_no_shell(room: str) -> None:
    for file in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                assert called not in SHELLS, f"{file}:{node.lineno}: {called}"
                assert all(word.arg != "shell" for word in node.keywords), f"{file}:{node.lineno}: shell="
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert "subprocess" not in names or file.name == "firewall_tools.py", f"{file}:{node.lineno}"
                assert not names & {"pty", "commands", "shlex"}, f"{file}:{node.lineno}"
