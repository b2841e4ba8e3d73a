"""The figures: what was measured becomes one number with its spread, one row of a table, one file. Pure.

Called by everything in `bench`. A figure's name is one of issue 2's or issue 3's tables, or an extra one beside it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from lab import quantiles

LIMITS: Final[Mapping[str, float]] = {
    "start_vs_bridge": 1.10,
    "handlers_start_p50_ms": 15,
    "handlers_start_p99_ms": 40,
    "request_address_p99_ms": 5,
    "converge_1000_s": 2.0,
    "plugin_pss_mb_1000": 100,
    "listen_s": 1.0,
    "converge_5000_s": 1.5,
    "converge_10000_s": 4,
    "noop_check_5000_cpu_s": 0.3,
    "plugin_pss_mb_5000": 120,
    "delta_p99_ms": 100,
    "idle_cpu_percent_1000": 0.5,
}
"""What must be reached, at most; every other figure is reported."""

EQUAL: Final = frozenset({"etcd_requests_start"})
"""Figures of two measurements that must come out the same: see `pair`."""

_DIGITS: Final = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number. `rounds`: how often it was measured; `spread`: see the function that made it."""

    name: str
    value: float
    unit: str
    rounds: int
    spread: tuple[float, float]

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or nothing where nothing is promised."""
        if self.name in EQUAL:
            return "met" if self.spread[0] == self.spread[1] else "missed"
        limit = LIMITS.get(self.name)
        if limit is None:
            return ""
        return "met" if self.value <= limit else "missed"

    @property
    def target(self) -> str:
        """What must be reached, as a table says it."""
        if self.name in EQUAL:
            return "equal"
        limit = LIMITS.get(self.name)
        return "" if limit is None else f"<= {limit:g}"


def median(name: str, unit: str, values: Sequence[float]) -> Figure:
    """The median; spread: the quartiles."""
    return Figure(
        name=name,
        value=_round(statistics.median(values)),
        unit=unit,
        rounds=len(values),
        spread=(_round(quantiles.quantile(values, 0.25)), _round(quantiles.quantile(values, 0.75))),
    )


def tail(name: str, unit: str, values: Sequence[float], share: float = 0.99) -> Figure:
    """A high quantile; spread: the lowest and highest one of the four quarters, in the order of measuring."""
    size = math.ceil(len(values) / 4)
    quarters = [quantiles.quantile(values[at : at + size], share) for at in range(0, len(values), size)]
    return Figure(
        name=name,
        value=_round(quantiles.quantile(values, share)),
        unit=unit,
        rounds=len(values),
        spread=(_round(min(quarters)), _round(max(quarters))),
    )


def usual_tail(name: str, unit: str, batches: Sequence[Sequence[float]], share: float = 0.99) -> Figure:
    """A high quantile as it usually is: the median of the batches'; spread: the lowest and highest of them.

    For calls of a few milliseconds: one neighbour that has the processor for a moment is the whole tail of a batch.
    """
    tails = [quantiles.quantile(batch, share) for batch in batches]
    return Figure(
        name=name,
        value=_round(statistics.median(tails)),
        unit=unit,
        rounds=sum(map(len, batches)),
        spread=(_round(min(tails)), _round(max(tails))),
    )


def single(name: str, unit: str, value: float) -> Figure:
    """What was measured once; no spread."""
    return Figure(name=name, value=_round(value), unit=unit, rounds=1, spread=(_round(value), _round(value)))


def pair(name: str, unit: str, first: float, second: float) -> Figure:
    """Two measurements, side by side in `spread`; the value is the second."""
    return Figure(name=name, value=second, unit=unit, rounds=2, spread=(first, second))


def format_results(machine: str, date: str, figures: Iterable[Figure]) -> str:
    """The text of bench/results.json."""
    rows = [dataclasses.asdict(figure) for figure in figures]
    return json.dumps({"machine": machine, "date": date, "figures": rows}, indent=1, ensure_ascii=False) + "\n"


def format_table(figures: Iterable[Figure]) -> str:
    """Figures with targets and verdicts, one a line."""
    head = ("figure", "value", "spread", "rounds", "target", "")
    rows = [head, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _row(figure: Figure) -> tuple[str, ...]:
    return (
        figure.name,
        f"{figure.value:g} {figure.unit}".rstrip(),
        f"{figure.spread[0]:g} .. {figure.spread[1]:g}",
        str(figure.rounds),
        figure.target,
        figure.verdict,
    )


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
