from __future__ import annotations

from driver import recent


def test_an_id_is_recent_for_twenty_seconds_after_it_was_noted_last() -> None:
    now = 100.0
    ids = recent.Recent(lambda: now)
    ids.note(["a", "b"])
    now = 110.0
    ids.note(["a", "c"])
    assert ids.ids() == {"a", "b", "c"}
    now = 120.0
    assert ids.ids() == {"a", "c"}
    now = 130.0
    assert ids.ids() == frozenset()


def test_what_nobody_asks_for_is_forgotten_too() -> None:
    """An engine that never answers is no reason to remember every container."""
    now = 0.0
    ids = recent.Recent(lambda: now)
    for number in range(1000):
        now += 1.0
        ids.note([str(number)])
    assert len(ids._noted) == recent.KEEP_S
