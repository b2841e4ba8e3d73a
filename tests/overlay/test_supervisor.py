"""Threads that fail begin again: told once, counted, named until they are well."""

from __future__ import annotations

import logging
import threading

import pytest

from overlay import errors, supervisor
from tests.overlay import node_host

FAST = supervisor.Timing(first_s=0.001, cap_s=0.01, well_s=0.2, quiet_s=3600.0)


class Loop:
    """Fails while `failure` is set, and counts its beginnings."""

    def __init__(self) -> None:
        self.failure: Exception | None = ValueError("injected")
        self.stop = threading.Event()
        self.begun = 0

    def run(self) -> None:
        self.begun += 1
        if self.failure is not None:
            raise self.failure
        self.stop.wait(10)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "overlay.supervisor"]


def test_what_fails_begins_again_is_logged_once_counted_and_named_until_it_is_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    watched, loop = supervisor.Supervisor(FAST), Loop()
    thread = watched.start("node:/a", loop.run, loop.stop)
    node_host.until(lambda: loop.begun > 5)
    (trouble,) = watched.troubles()
    assert trouble.startswith("thread node:/a failed, ")
    assert trouble.endswith(" times so far: ValueError: injected")
    assert watched.failures()["node:/a"] >= 5
    assert lines(caplog) == ["bug: unexpected error in a thread, trying again thread=node:/a"]
    loop.failure = None
    node_host.until(lambda: not watched.troubles(), "well again")
    assert lines(caplog)[1].startswith("thread works again thread=node:/a failures=")
    loop.stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_a_failure_on_purpose_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    watched = supervisor.Supervisor(FAST)
    watched.note("beat:/a", errors.RegistryUnavailable("etcd is away"))
    watched.note("beat:/a", errors.RegistryUnavailable("etcd is away"))
    assert lines(caplog) == ["thread failed, trying again thread=beat:/a reason=etcd is away"]
    watched.well("beat:/a")
    assert watched.troubles() == ()
    assert watched.failures() == {"beat:/a": 2}


def test_a_thread_that_ends_is_in_no_trouble() -> None:
    watched, loop = supervisor.Supervisor(FAST), Loop()
    thread = watched.start("leave:/a", loop.run, loop.stop)
    node_host.until(watched.troubles)
    loop.stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert watched.troubles() == ()


def test_pauses_grow_to_a_cap_and_begin_anew_after_a_good_run() -> None:
    """Time passes only where it is said: a run of `well_s` that fails counts as good."""
    now = 0.0
    ran_s = iter((0.0, 0.0, 0.0, 0.0, 20.0, 0.0))
    paused: list[float] = []

    def run() -> None:
        nonlocal now
        now += next(ran_s)
        raise ValueError

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            paused.append(timeout)
            return len(paused) == 6

    watched = supervisor.Supervisor(supervisor.Timing(first_s=1, cap_s=5, well_s=10), lambda: now)
    watched.start("engine", run, Stop()).join(5)
    assert paused == [1, 2, 4, 5, 1, 2]
