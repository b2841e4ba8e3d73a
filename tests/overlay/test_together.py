"""Deltas that wait behind one another, as one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from overlay import lease, registry, together

KEYS = [lease.parse_subnet_key(f"10.2.{number}.0-24") for number in range(5)]
GONE = [registry.LeaseGone(key=key) for key in KEYS]
EMPTY = registry.Snapshot(revision=1, leases={})
OUTAGE = registry.Outage(reason="gone")


def delta(revision: int, *changes: registry.LeaseGone) -> registry.Delta:
    return registry.Delta(revision=revision, changes=changes)


def test_neighbours_become_one_with_all_changes_in_order_and_the_last_revision() -> None:
    waiting = [EMPTY, delta(2, GONE[0]), delta(3, GONE[1], GONE[2]), OUTAGE, delta(5, GONE[3])]
    assert together.merge(waiting) == [EMPTY, delta(3, *GONE[:3]), OUTAGE, delta(5, GONE[3])]


def test_whoever_is_behind_gets_what_waits_in_one_step() -> None:
    told = threading.Event()

    def events() -> Iterator[together.Event]:
        yield EMPTY
        for number in range(4):
            yield delta(2 + number, GONE[number])
        told.set()
        yield OUTAGE

    gathered = together.gather(events(), threading.Event())
    assert next(gathered) == EMPTY
    assert told.wait(5)
    rest = list(gathered)
    assert rest[-1] == OUTAGE
    assert [change for one in rest if isinstance(one, registry.Delta) for change in one.changes] == GONE[:4]
    assert len(rest) <= 3


def test_what_the_watch_raises_is_raised_after_its_events() -> None:
    def events() -> Iterator[together.Event]:
        yield EMPTY
        raise ZeroDivisionError

    gathered = together.gather(events(), threading.Event())
    assert next(gathered) == EMPTY
    with pytest.raises(ZeroDivisionError):
        next(gathered)


def test_only_so_many_events_wait() -> None:
    read = 0
    stop, full = threading.Event(), threading.Event()

    def events() -> Iterator[together.Event]:
        nonlocal read
        for number in range(3 * together.LIMIT):
            read += 1
            if read > together.LIMIT:
                full.set()
            yield delta(number, GONE[0])

    gathered = together.gather(events(), stop)
    next(gathered)
    assert full.wait(5)
    assert read <= 2 * together.LIMIT + 2
    stop.set()
    assert list(gathered)
    assert read == 3 * together.LIMIT
