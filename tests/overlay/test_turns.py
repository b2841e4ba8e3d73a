"""One lock per owner."""

import threading

from overlay import turns


def test_two_of_one_owner_wait_for_each_other_and_two_owners_do_not() -> None:
    made = turns.Turns()
    entered = threading.Event()

    def enter(owner: str) -> None:
        with made.of(owner):
            entered.set()

    with made.of("node"):
        other = threading.Thread(target=enter, args=("network",))
        other.start()
        assert entered.wait(5)
        other.join(5)
        entered.clear()
        same = threading.Thread(target=enter, args=("node",))
        same.start()
        assert not entered.wait(0.2)
    assert entered.wait(5)
    same.join(5)


def test_nothing_stays_of_an_owner_that_is_done() -> None:
    made = turns.Turns()
    with made.of("node"):
        assert len(made) == 1
    assert len(made) == 0
