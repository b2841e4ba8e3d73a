"""One writes for all who wait."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from overlay import group_commit


class Paper:
    """What is written is what was declared when the writing began; each writing waits for the test."""

    def __init__(self) -> None:
        self.declared = 0
        self.writes: list[int] = []
        self.began, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.bug: Exception | None = None
        self.group = group_commit.GroupCommit(self.write)

    def write(self) -> int:
        self.writes.append(self.declared)
        written = self.declared
        self.began.release()
        assert self.go_on.acquire(timeout=10)
        if self.bug is not None:
            raise self.bug
        return written


@pytest.fixture
def paper() -> Paper:
    return Paper()


Call = Callable[..., concurrent.futures.Future[group_commit.Done[int] | None]]


@pytest.fixture
def call(paper: Paper) -> Iterator[Call]:
    """Calls `run` in a thread of its own, and returns when it waits or writes."""
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        yield lambda wait_s=10.0: pool.submit(paper.group.run, wait_s)


def await_waiting(paper: Paper, count: int) -> None:
    until = time.monotonic() + 10
    while len(paper.group._changed._waiters) < count:  # type: ignore[attr-defined]  # nothing else tells who sleeps
        assert time.monotonic() < until
        time.sleep(0.001)


def test_who_comes_alone_writes(paper: Paper) -> None:
    paper.go_on.release()
    assert paper.group.run(1) == group_commit.Done(outcome=0, own=True)
    paper.declared = 7
    paper.go_on.release()
    assert paper.group.run(1) == group_commit.Done(outcome=7, own=True)


def test_all_who_come_while_somebody_writes_share_the_next_write(paper: Paper, call: Call) -> None:
    first = call()
    assert paper.began.acquire(timeout=10)
    paper.declared = 1
    others = [call() for _ in range(40)]
    await_waiting(paper, 40)
    paper.go_on.release(2)
    assert first.result(10) == group_commit.Done(outcome=0, own=True)
    done = [one.result(10) for one in others]
    assert paper.writes == [0, 1]
    assert [one.outcome for one in done if one] == [1] * 40
    assert sum(one.own for one in done if one) == 1


def test_a_write_that_broke_off_is_told_to_those_it_was_for_and_to_nobody_else(paper: Paper, call: Call) -> None:
    first = call()
    assert paper.began.acquire(timeout=10)
    others = [call() for _ in range(3)]
    await_waiting(paper, 3)
    paper.go_on.release()
    assert first.result(10) == group_commit.Done(outcome=0, own=True)
    assert paper.began.acquire(timeout=10)
    paper.bug = KeyError("bug")
    paper.go_on.release()
    errors = [one.exception(10) for one in others]
    assert sorted(type(error).__name__ for error in errors) == ["KeyError", "RuntimeError", "RuntimeError"]
    paper.bug = None
    paper.go_on.release()
    assert paper.group.run(1) == group_commit.Done(outcome=0, own=True)


def test_nobody_waits_longer_than_asked(paper: Paper, call: Call) -> None:
    first = call()
    assert paper.began.acquire(timeout=10)
    asked = time.monotonic()
    assert paper.group.run(0.2) is None
    assert 0.2 <= time.monotonic() - asked < 2
    paper.go_on.release()
    assert first.result(10) == group_commit.Done(outcome=0, own=True)
    paper.go_on.release()
    assert paper.group.run(1) == group_commit.Done(outcome=0, own=True)
