"""What counts as lost, for how long, and what excuses it."""

from __future__ import annotations

from lab.chaos_verdict import LIMIT_S, Loss, Pair, Piece, Window, failures, judge, unexcused


def told(*probes: tuple[float, float | None], now: float = 1000) -> list[Loss]:
    """The losses of a pair with probes (sent at, answered after), None for never."""
    pair = Pair("h1", "h2")
    numbers = [(pair.send(sent_s), sent_s, after_s) for sent_s, after_s in probes]
    for number, sent_s, after_s in sorted(numbers, key=lambda each: each[1] + (each[2] or 0)):
        if after_s is not None:
            pair.answer(number, sent_s + after_s)
    pair.decide(now)
    return pair.losses()


def loss(begin_s: float, end_s: float | None) -> Loss:
    return Loss(source="h1", target="h2", begin_s=begin_s, end_s=end_s)


def window(host: str, begin_s: float, end_s: float) -> Window:
    return Window(host=host, begin_s=begin_s, end_s=end_s)


def test_answers_are_no_loss() -> None:
    assert told((1, 0.1), (2, 0.1), (3, 1.9)) == []


def test_a_loss_lasts_from_the_first_lost_probe_to_the_next_answered_one() -> None:
    assert told((1, 0.1), (2, None), (3, None), (4, 0.1)) == [loss(2, 4)]


def test_two_losses_are_two() -> None:
    assert told((1, None), (2, 0.1), (3, None), (4, 0.1)) == [loss(1, 2), loss(3, 4)]


def test_a_loss_that_goes_on_has_no_end() -> None:
    assert told((1, 0.1), (2, None), (3, None)) == [loss(2, None)]


def test_what_is_not_decided_yet_is_no_loss() -> None:
    assert told((1, 0.1), (2, None), now=3.9) == []


def test_an_answer_that_overtakes_another_ends_no_loss_too_early() -> None:
    assert told((1, 1.9), (2, 0.1), (3, 0.1)) == []


def test_a_late_answer_is_none() -> None:
    assert told((1, 0.1), (2, 2.1), (3, 0.1)) == [loss(2, 3)]


def test_an_answer_twice_counts_once() -> None:
    pair = Pair("h1", "h2")
    number = pair.send(1)
    pair.answer(number, 1.1)
    pair.answer(number, 1.2)
    assert (pair.sent, pair.answered, pair.losses()) == (1, 1, [])


def test_when_a_pair_was_heard_last_is_when_the_answered_probe_was_sent() -> None:
    pair = Pair("h1", "h2")
    first, second, third = pair.send(1), pair.send(2), pair.send(3)
    assert pair.heard_s == float("-inf")
    pair.answer(second, 2.5)
    pair.answer(first, 2.6)
    pair.answer(third, 5.5)
    assert pair.heard_s == 2


def test_a_probe_that_could_not_be_sent_is_lost() -> None:
    pair = Pair("h1", "h2")
    pair.send(1, failed=True)
    pair.answer(pair.send(2), 2.1)
    assert pair.losses() == [loss(1, 2)]


def test_a_watcher_that_sends_late_makes_no_loss() -> None:
    assert told((1, 0.1), (31, 0.1)) == []


def test_a_window_of_either_end_excuses_and_no_other() -> None:
    whole = loss(10, 20)
    assert unexcused(whole, [window("h1", 5, 25)], 99) == []
    assert unexcused(whole, [window("h2", 10, 20)], 99) == []
    assert unexcused(whole, [window("h3", 5, 25)], 99) == [Piece(loss=whole, begin_s=10, end_s=20)]


def test_only_what_lies_outside_of_the_windows_counts() -> None:
    whole = loss(10, 40)
    left = unexcused(whole, [window("h2", 30, 35), window("h1", 12, 20), window("h1", 15, 18)], 99)
    assert [(piece.begin_s, piece.end_s) for piece in left] == [(10, 12), (20, 30), (35, 40)]


def test_a_window_after_or_before_a_loss_excuses_nothing() -> None:
    whole = loss(10, 20)
    assert unexcused(whole, [window("h1", 0, 10), window("h1", 25, 30)], 99) == [
        Piece(loss=whole, begin_s=10, end_s=20)
    ]


def test_a_loss_that_goes_on_lasts_until_now() -> None:
    assert [piece.length_s for piece in unexcused(loss(10, None), [], 25)] == [15]
    assert unexcused(loss(10, None), [window("h1", 9, float("inf"))], 25) == []


def test_the_longest_comes_first_and_only_those_over_the_limit_fail() -> None:
    short, limit, long = loss(1, 2), loss(10, 10 + LIMIT_S), loss(30, 30.5 + LIMIT_S)
    pieces = judge([short, limit, long], [], 99)
    assert [piece.loss for piece in pieces] == [long, limit, short]
    assert [piece.loss for piece in failures(pieces)] == [long]
