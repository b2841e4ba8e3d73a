"""Which probes were lost, for how long, and whose fault that was. Pure: every time is given.

`chaos_watch` tells a Pair of its probes, `chaos` of the windows in which a host was cut off on purpose. A loss begins
with the sending of the first probe that was not answered and ends with that of the next one that was: a watcher that
had to wait for a processor sends late, which is no loss.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final

PATIENCE_S: Final = 2.0
"""An answer that comes later than this is none."""

LIMIT_S: Final = 10.0
"""The longest loss that is not a failure."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Nothing came back from `target` to `source` between these times; `end_s` None: it still does not."""

    source: str
    target: str
    begin_s: float
    end_s: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """From `begin_s` to `end_s` losses from and to `host` are its own."""

    host: str
    begin_s: float
    end_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What of a loss nothing excuses."""

    loss: Loss
    begin_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """How long it is."""
        return self.end_s - self.begin_s


class Pair:
    """The probes from one container to another, each decided in the order in which it was sent."""

    def __init__(self, source: str, target: str) -> None:
        self.source = source
        self.target = target
        self.sent = 0
        self.answered = 0
        self.heard_s = float("-inf")
        """When the last probe was sent that was answered."""
        self._open: collections.deque[_Probe] = collections.deque()
        self._lost_since: float | None = None
        self._losses: list[Loss] = []

    def send(self, now: float, *, failed: bool = False) -> int:
        """Note a probe; give its number. failed: it could not even be sent."""
        self.sent += 1
        self._open.append(_Probe(number=self.sent, sent_s=now, answered=False if failed else None))
        return self.sent

    def answer(self, number: int, now: float) -> None:
        """Note an answer; one that is late, or comes twice, changes nothing."""
        for probe in self._open:
            if probe.number == number and probe.answered is None and now - probe.sent_s <= PATIENCE_S:
                probe.answered = True
                self.heard_s = max(self.heard_s, probe.sent_s)
        self.decide(now)

    def decide(self, now: float) -> None:
        """Give up probes that have waited long enough."""
        while self._open:
            first = self._open[0]
            if first.answered is None and now - first.sent_s <= PATIENCE_S:
                return
            self._open.popleft()
            if first.answered:
                self.answered += 1
                self._end_loss(first.sent_s)
            elif self._lost_since is None:
                self._lost_since = first.sent_s

    def losses(self) -> list[Loss]:
        """All losses so far, the one that goes on too."""
        now = [] if self._lost_since is None else [self._loss(self._lost_since, None)]
        return self._losses + now

    def _end_loss(self, now: float) -> None:
        if self._lost_since is not None:
            self._losses.append(self._loss(self._lost_since, now))
            self._lost_since = None

    def _loss(self, begin_s: float, end_s: float | None) -> Loss:
        return Loss(source=self.source, target=self.target, begin_s=begin_s, end_s=end_s)


@dataclasses.dataclass(slots=True, kw_only=True)
class _Probe:
    number: int
    sent_s: float
    answered: bool | None


def unexcused(loss: Loss, windows: Iterable[Window], now: float) -> list[Piece]:
    """Cut the windows of both ends out of a loss; what is left, in order. `now` is the end of one that goes on."""
    at, end = loss.begin_s, now if loss.end_s is None else loss.end_s
    left = []
    mine = [window for window in windows if window.host in (loss.source, loss.target)]
    for window in sorted(mine, key=lambda window: window.begin_s):
        if at < min(window.begin_s, end):
            left.append(Piece(loss=loss, begin_s=at, end_s=min(window.begin_s, end)))
        at = max(at, window.end_s)
    if at < end:
        left.append(Piece(loss=loss, begin_s=at, end_s=end))
    return left


def judge(losses: Iterable[Loss], windows: Sequence[Window], now: float) -> list[Piece]:
    """Everything that nothing excuses, the longest first."""
    pieces = [piece for loss in losses for piece in unexcused(loss, windows, now)]
    return sorted(pieces, key=lambda piece: (-piece.length_s, piece.begin_s, piece.loss.source, piece.loss.target))


def failures(pieces: Iterable[Piece]) -> list[Piece]:
    """Those too long."""
    return [piece for piece in pieces if piece.length_s > LIMIT_S]
