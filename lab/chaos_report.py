"""What a soak has seen, as text: the worst losses, what each kind of fault cost, and why it failed. Pure."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from lab import chaos_plan, chaos_verdict

_SHOWN: Final = 10
_NEAR_S: Final = 12.0
"""A fault that ended longer than this before a loss has nothing to do with it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A fault that was done, and when: by the monotonic clock."""

    fault: chaos_plan.Fault
    begin_s: float
    end_s: float

    def is_near(self, piece: chaos_verdict.Piece) -> bool:
        """Whether it may have to do with a loss."""
        return self.begin_s <= piece.end_s and piece.begin_s <= self.end_s + _NEAR_S


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole run. pieces: the losses that nothing excuses, the longest first; zero_s: when the log's time began."""

    done: Sequence[Done]
    pieces: Sequence[chaos_verdict.Piece]
    troubles: Sequence[str]
    zero_s: float
    worst_pause_s: float
    sent: int
    answered: int

    @property
    def passed(self) -> bool:
        """Whether no loss was too long and nothing else went wrong."""
        return not self.troubles and not chaos_verdict.failures(self.pieces)


def format_report(report: Report) -> str:
    """Everything, for a terminal."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield ""
    yield f"{'fault':26}{'times':>6}  worst loss nearby, s"
    for name, times, worst_s in _by_kind(report):
        yield f"{name:26}{times:6}  {worst_s:.1f}"
    yield ""
    yield f"probes sent {report.sent}, answered {report.answered}"
    yield f"the watcher itself waited {report.worst_pause_s:.1f} s for a processor at worst"
    yield f"the longest losses that nothing excuses (at most {chaos_verdict.LIMIT_S:g} s are allowed):"
    for piece in report.pieces[:_SHOWN]:
        yield f"  {_format_piece(piece, report.zero_s)}"
    if not report.pieces:
        yield "  none"
    for piece in chaos_verdict.failures(report.pieces):
        yield f"FAILED: {_format_piece(piece, report.zero_s)}; near it:"
        for done in report.done:
            if done.is_near(piece):
                when = f"{done.begin_s - report.zero_s:.1f} to {done.end_s - report.zero_s:.1f}"
                yield f"    {done.fault.kind.name} {done.fault.target}, {when}"
    for trouble in report.troubles:
        yield f"FAILED: {trouble}"
    yield "passed" if report.passed else "not passed"


def _format_piece(piece: chaos_verdict.Piece, zero_s: float) -> str:
    loss = piece.loss
    return f"{piece.length_s:5.1f} s  {loss.source} > {loss.target}  from {piece.begin_s - zero_s:.1f}"


def _by_kind(report: Report) -> Iterable[tuple[str, int, float]]:
    """Each kind, how often it was done, and the longest loss near one of them; several may be near one loss."""
    times: collections.Counter[str] = collections.Counter()
    worst: dict[str, float] = {}
    for done in report.done:
        name = done.fault.kind.name
        times[name] += 1
        near = (piece.length_s for piece in report.pieces if done.is_near(piece))
        worst[name] = max(worst.get(name, 0.0), max(near, default=0.0))
    return [(name, times[name], worst[name]) for name in sorted(times)]
