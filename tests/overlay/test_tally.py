"""Counters of events."""

from __future__ import annotations

import threading

from overlay import tally


def test_all_kinds_show_from_the_start_and_count_apart() -> None:
    counts = tally.Tally(["read", "write"])
    counts.add("write")
    counts.add("write", 2)
    assert counts.read() == {"read": 0, "write": 3}


def test_what_was_read_does_not_change_any_more() -> None:
    counts = tally.Tally(["read"])
    before = counts.read()
    counts.add("read")
    assert (before, counts.read()) == ({"read": 0}, {"read": 1})


def test_no_count_is_lost_between_threads() -> None:
    counts = tally.Tally(tally.Event)
    start = threading.Barrier(4)

    def add() -> None:
        start.wait(5)
        for _ in range(5000):
            counts.add(tally.Event.LEASE_HELD)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert counts.read() == {**dict.fromkeys(tally.Event, 0), "lease_held": 20_000}
