"""What a random run did and found, as text. Pure."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from lab import random_hand, random_oracle


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole run. refusals: how often by the name of the rule that allows it; troubles: why it failed.

    settled_s: how long it took at worst after a burst until nothing differed, without faults in it and with.
    """

    outcomes: Sequence[random_hand.Outcome]
    refusals: Mapping[str, int]
    found: Sequence[random_oracle.Difference]
    troubles: Sequence[str]
    looks: int
    settled_s: tuple[float, float]
    took_s: float

    @property
    def passed(self) -> bool:
        """Whether nothing was left different and nothing else went wrong."""
        return not self.found and not self.troubles


def format_report(report: Report) -> str:
    """Everything, for a terminal."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield ""
    yield f"{'operation':20}{'times':>6}{'refused':>9}  median and longest, s"
    for kind, outcomes in sorted(_by_kind(report.outcomes).items()):
        took = sorted(outcome.took_s for outcome in outcomes)
        refused = sum(bool(outcome.refused) for outcome in outcomes)
        yield f"{kind:20}{len(outcomes):6}{refused:9}  {took[len(took) // 2]:.2f} {took[-1]:.2f}"
    count = len(report.outcomes)
    yield f"{'in all':20}{count:6}{sum(report.refusals.values()):9}  {count / report.took_s:.2f} operations a second"
    yield ""
    for name, times in sorted(report.refusals.items()):
        yield f"refused, as it should be: {times} times because {name}"
    quiet_s, broken_s = report.settled_s
    yield f"{report.looks} looks; all agreed within {quiet_s:.1f} s, after kills within {broken_s:.1f} s"
    counted = random_oracle.count(report.found)
    yield ", ".join(f"{sort} {counted[sort]}" for sort in random_oracle.Sort)
    for line in (*map(str, report.found), *report.troubles):
        yield f"FAILED: {line}"
    yield "passed" if report.passed else "not passed"


def _by_kind(outcomes: Sequence[random_hand.Outcome]) -> dict[str, list[random_hand.Outcome]]:
    by_kind = collections.defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.operation.kind].append(outcome)
    return by_kind
