"""Hostile requests over the whole plugin in memory: what they may do is be refused."""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import flask.testing
import hypothesis
import pytest
from hypothesis import strategies as st

from driver import ports
from plugin import http, server
from tests.plugin import hostile, memory_plugin, sessions

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

SHM = "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None
"""Where a state file costs no write to a disk: there are many."""

LONG = hypothesis.settings.get_current_profile_name() == "long"
SEQUENCES, LENGTH = 7000 if LONG else 700, 15
STATUSES = {200, 400, 404, 405, 409, 410, 413, 414, 503}
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
