"""A watch that answers no longer whether it lives is cancelled; one that never answered is left alone."""

from __future__ import annotations

import dataclasses
import threading
import time

from overlay import etcd_channel
from tests.overlay import node_host


@dataclasses.dataclass
class Stream:
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.cancelled.set()


def look_after(pulse: etcd_channel._Pulse) -> tuple[Stream, list[None], threading.Event]:
    stream, asked, over = Stream(), list[None](), threading.Event()
    args = (stream, threading.Event(), over, pulse, lambda: asked.append(None))
    threading.Thread(target=etcd_channel._look_after, args=args, daemon=True).start()
    return stream, asked, over


def test_a_watch_that_stops_answering_is_cancelled() -> None:
    pulse = etcd_channel._Pulse(0.05)
    with pulse.told(is_answer=True):
        pass
    stream, asked, _ = look_after(pulse)
    assert stream.cancelled.wait(5)
    assert pulse.is_lost()
    assert asked == []  # three answers are overdue at the first look


def test_a_watch_is_asked_and_left_alone_where_it_never_answers() -> None:
    """It may not be allowed to ask."""
    pulse = etcd_channel._Pulse(0.01)
    with pulse.told(is_answer=False):
        pass
    stream, asked, over = look_after(pulse)
    node_host.until(lambda: len(asked) >= 2)
    assert not stream.cancelled.is_set()
    over.set()
    assert stream.cancelled.wait(5)


def test_a_watch_that_has_much_to_tell_is_asked_all_the_same() -> None:
    """What it tells may be for nobody: etcd's own notices, or keys that are no lease."""
    pulse = etcd_channel._Pulse(0.05)
    _, asked, over = look_after(pulse)
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        with pulse.told(is_answer=False):
            pass
        threading.Event().wait(0.01)
    over.set()
    assert asked


def test_a_watch_is_not_lost_while_its_news_is_worked_on() -> None:
    pulse = etcd_channel._Pulse(0.0)
    with pulse.told(is_answer=True):
        assert not pulse.is_lost()
    assert pulse.is_lost()
