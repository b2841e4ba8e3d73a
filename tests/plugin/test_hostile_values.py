"""Each value of each call wrong in its turn, and each path under each verb: what chance alone seldom hits upon.

Over the whole plugin in memory, just where the call would be right: that a value is refused is then its own fault.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import flask.testing
import pytest

from tests.plugin import hostile, memory_plugin, sessions
from tests.plugin.test_hostile import check_answer, fresh, play

Client = flask.testing.FlaskClient


@contextlib.contextmanager
def after(calls: Sequence[sessions.Call]) -> Iterator[tuple[memory_plugin.MemoryPlugin, Client]]:
    """A plugin to which these were made."""
    with fresh() as (plugin, client):
        for call in calls:
            play(client, call)
        yield plugin, client


def ask(plugin: memory_plugin.MemoryPlugin, client: Client, request: hostile.Request, before: object) -> bool:
    """Whether it changed anything, which only what is answered may."""
    response = client.open(request.path, method=request.verb, data=request.data)
    check_answer(request, response)
    changed = plugin.state_of_all() != before
    assert not changed or (response.status_code, request.verb) == (200, "POST"), request
    return changed


def spoiled(call: sessions.Call) -> Iterator[hostile.Request]:
    """What single ports are is looked at in one call alone."""
    for path in hostile.places(call.body):
        if {sessions.EXPOSED, sessions.PORTMAP} & set(path[:-1]) and "External" not in call.method:
            continue
        for value in hostile.instead(hostile.at(call.body, path)):
            body = hostile.put(call.body, path, value)
            yield hostile.Request(verb="POST", path=f"/{call.method}", data=hostile.encode(body))


NATIVE = sessions.SESSIONS["native"]
PUBLISHED = sessions.up_to("native", "NetworkDriver.ProgramExternalConnectivity")
CASES = [pytest.param(NATIVE[:number], call, id=call.method) for number, call in enumerate(NATIVE)]
CASES += [pytest.param(PUBLISHED, PUBLISHED[-1], id=f"{PUBLISHED[-1].method} again")]


@pytest.mark.parametrize(("before", "call"), CASES)
def test_a_value_that_is_refused_changes_nothing(before: Sequence[sessions.Call], call: sessions.Call) -> None:
    left = list(spoiled(call))
    while left:
        with after(before) as (plugin, client):
            known = plugin.state_of_all()
            while left and not ask(plugin, client, left.pop(), known):
                pass


def test_no_path_is_answered_with_an_error_of_ours_and_what_only_looks_changes_nothing() -> None:
    with after(PUBLISHED) as (plugin, client):
        plugin.ago_s = -3600.0  # an hour later: of what was made a moment ago no audit mends anything
        before = plugin.state_of_all()
        for verb in hostile.VERBS:
            for path in hostile.PATHS:
                if ask(plugin, client, hostile.Request(verb=verb, path=path, data=b"{}"), before):
                    before = plugin.state_of_all()
