"""One full pass of the reconciler: what it saw and did, and in which portions it applies changes.

Pure but for the log. Used by `reconciler` alone.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence

from overlay import diff, kernel, netstate

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
