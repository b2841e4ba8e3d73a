"""Full passes of the reconciler: what one saw and did, in which portions it applies changes, what all came to.

Pure but for the log. Used by `reconciler` alone.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence

from overlay import diff, kernel, netstate, slices

LOG_LINES = 20
CHUNK = 500
"""Entries applied between two looks at the desired state; links one by one, since deleting one may take 25 ms."""

_BULK = (netstate.Address, netstate.Neighbour, netstate.FdbEntry, netstate.Route)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PassStats:
    """The last full pass, the `number`th since the start.

    `ops` counts the changes it made; `objects` what was observed before them.
    """

    number: int
    duration_s: float
    objects: int
    ops: int
    failures: int


@dataclasses.dataclass(slots=True, kw_only=True)
class Pass:
    """What one full pass found and did."""

    touched: set[netstate.Key]
    gate_open: bool
    repairing: bool
    """There was a pass before: what this one does and no owner asked for, somebody else made necessary."""
    objects: int = 0
    done: list[netstate.Op] = dataclasses.field(default_factory=list)
    failures: dict[netstate.Op, kernel.Failure] = dataclasses.field(default_factory=dict)
    troubles: list[str] = dataclasses.field(default_factory=list)
    firewall_repairs: tuple[str, ...] = ()
    blind: bool = False
    """The kernel could not be observed."""

    def error_lines(self) -> tuple[str, ...]:
        """What could not be done, a line each."""
        refused = {f"{diff.format_op(op)}: {failure.reason}" for op, failure in self.failures.items()}
        return tuple(sorted({*refused, *self.troubles}))

    def may(self, op: netstate.Op) -> bool:
        """Not twice in one pass what was refused, and no removals before the gate is open."""
        return op not in self.failures and (self.gate_open or not isinstance(op, netstate.Remove))


class Record:
    """What passes, and looks at the packet filter, came to so far. Not for two threads at once."""

    def __init__(self) -> None:
        self.repairs: collections.Counter[str] = collections.Counter()
        self.last_errors: tuple[str, ...] = ()
        self.last_pass: PassStats | None = None

    def add(self, work: Pass, troubles: tuple[str, ...], slices_: slices.Slices, duration_s: float) -> PassStats:
        """A pass has ended with these `troubles`. What it could not do becomes touched: no repair next time."""
        stats = PassStats(
            number=1 if self.last_pass is None else self.last_pass.number + 1,
            duration_s=duration_s,
            objects=work.objects,
            ops=len(work.done),
            failures=len(troubles),
        )
        slices_.touch(netstate.key_of(diff.target_of(op)) for op in work.failures)
        if work.blind:
            slices_.touch(work.touched)  # they are still to come
        if work.repairing:
            self._count_repairs(work, slices_)
        self.last_errors = troubles
        self.last_pass = stats
        return stats

    def count_firewall(self, places: Iterable[str]) -> None:
        """These places of the packet filter somebody else had changed."""
        self.repairs.update(f"firewall:{place}" for place in places)

    def _count_repairs(self, work: Pass, slices_: slices.Slices) -> None:
        """Only what no caller had touched since the pass before this one: the rest was asked for."""
        for op in work.done:
            key = netstate.key_of(diff.target_of(op))
            if key not in work.touched and not slices_.was_touched(key):
                self.repairs[str(key[0])] += 1
        self.count_firewall(work.firewall_repairs)


def chunks(ops: Iterable[netstate.Op]) -> Iterator[list[netstate.Op]]:
    """The changes in order, in portions between which the desired state is looked at again."""
    chunk: list[netstate.Op] = []
    for op in ops:
        bulk = isinstance(diff.target_of(op), _BULK)
        if chunk and (not bulk or len(chunk) == CHUNK):
            yield chunk
            chunk = []
        chunk.append(op)
        if not bulk:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def log_lines(log: logging.Logger, level: int, verb: str, lines: Sequence[str]) -> None:
    """A line each, up to LOG_LINES of them."""
    for line in lines[:LOG_LINES]:
        log.log(level, "%s: %s", verb, line)
    if len(lines) > LOG_LINES:
        log.log(level, "%s: and %d more", verb, len(lines) - LOG_LINES)


def log_ops(log: logging.Logger, verb: str, ops: Sequence[netstate.Op]) -> None:
    """The changes as an operator would type them, up to LOG_LINES of them."""
    for op in ops[:LOG_LINES]:
        log.info("%s: %s", verb, diff.format_op(op))
    if len(ops) > LOG_LINES:
        log.info("%s: and %d more", verb, len(ops) - LOG_LINES)
