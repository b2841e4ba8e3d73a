"""A watch that answers no longer whether it lives is cancelled; one that never answered is left alone."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Sequence

from overlay import etcd_channel
from tests.overlay import node_host


@dataclasses.dataclass
class Response:
    watch_id: int
    events: Sequence[object] = ()


@dataclasses.dataclass
class Stream:
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.cancelled.set()


def look_after(pulse: etcd_channel._Pulse) -> tuple[Stream, queue.SimpleQueue[object], threading.Event]:
    stream, asked, over = Stream(), queue.SimpleQueue[object](), threading.Event()
    args = (stream, threading.Event(), over, pulse, asked)
    threading.Thread(target=etcd_channel._look_after, args=args, daemon=True).start()
    return stream, asked, over


def test_a_watch_that_stops_answering_is_cancelled() -> None:
    pulse = etcd_channel._Pulse(0.05)
    with pulse.told(Response(watch_id=-1)):
        pass
    stream, asked, _ = look_after(pulse)
    assert stream.cancelled.wait(5)
    assert pulse.is_lost()
    assert asked.empty()  # three answers are overdue at the first look


def test_a_watch_is_asked_and_left_alone_where_it_never_answers() -> None:
    """etcd 3.3 does not know the question."""
    pulse = etcd_channel._Pulse(0.01)
    with pulse.told(Response(watch_id=0, events=("put",))):
        pass
    stream, asked, over = look_after(pulse)
    node_host.until(lambda: asked.qsize() >= 2)
    assert not stream.cancelled.is_set()
    over.set()
    assert stream.cancelled.wait(5)


def test_a_watch_is_not_lost_while_its_news_is_worked_on() -> None:
    pulse = etcd_channel._Pulse(0.0)
    with pulse.told(Response(watch_id=-1)):
        assert not pulse.is_lost()
    assert pulse.is_lost()
