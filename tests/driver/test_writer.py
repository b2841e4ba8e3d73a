"""A write beside its callers: shared, waited for a little, and its failure told to who waits."""

from __future__ import annotations

import threading

import pytest

from driver import writer
from overlay import errors, supervisor

LONG_S = 10.0


class Slow:
    """A write that takes until `go_on` is set."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.count = 0
        self.refusal = ""

    def write(self) -> None:
        self.count += 1
        self.began.release()
        assert self.go_on.wait(LONG_S)
        if self.refusal:
            raise errors.KernelError([self.refusal])


@pytest.fixture
def slow() -> Slow:
    return Slow()


def test_a_write_is_waited_for(slow: Slow) -> None:
    slow.go_on.set()
    made = writer.Writer(slow.write, supervisor.Supervisor())
    for count in (1, 2):
        made.wait(made.ask(), LONG_S)
        assert slow.count == count


def test_who_waits_long_enough_goes_on_and_the_write_too(slow: Slow) -> None:
    made = writer.Writer(slow.write, supervisor.Supervisor())
    number = made.ask()
    made.wait(number, 0.01)
    slow.go_on.set()
    made.wait(number, LONG_S)
    assert slow.count == 1


def test_all_that_ask_while_one_is_written_share_the_next(slow: Slow) -> None:
    made = writer.Writer(slow.write, supervisor.Supervisor())
    numbers = [made.ask()]
    assert slow.began.acquire(timeout=LONG_S)
    numbers += [made.ask() for _ in range(20)]
    slow.go_on.set()
    for number in numbers:
        made.wait(number, LONG_S)
    assert slow.count == 2


def test_a_failure_is_told_to_all_that_wait_and_to_nobody_after_them(slow: Slow) -> None:
    made = writer.Writer(slow.write, supervisor.Supervisor())
    slow.refusal = "nft: permission denied"
    first = made.ask()
    assert slow.began.acquire(timeout=LONG_S)
    second, third = made.ask(), made.ask()
    slow.go_on.set()
    for number in (second, third):
        with pytest.raises(errors.KernelError, match="permission denied"):
            made.wait(number, LONG_S)
    slow.refusal = ""
    made.wait(made.ask(), LONG_S)
    made.wait(first, LONG_S)
