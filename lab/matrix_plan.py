"""What `make matrix` runs: every scenario on every engine, firewall and live-restore that it has. Pure.

Called by `matrix`, which runs the cells.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from lab import config

SEEDS: Final[Mapping[int, bool]] = {7: False, 8: True}
"""Of the random operations; whether with live-restore."""
REBOOTS: Final = 17
"""On each engine."""
_PYTEST: Final = ("-m", "pytest", "-q", "--timeout", "600")
_LAB: Final = ("-m", "lab")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run. words: what follows `python`; alone: it measures, so nothing runs beside it."""

    scenario: str
    engine: str = ""
    firewall: str = ""
    live_restore: bool = False
    words: Sequence[str]
    alone: bool = False

    @property
    def name(self) -> str:
        """The cell for a file's name and for ONLY: `suite_28.5_nftables_live`."""
        parts = (self.scenario, self.engine, self.firewall, "live" if self.live_restore else "")
        return "_".join(part for part in parts if part)


def cells() -> tuple[Cell, ...]:
    """All of them; the long ones first, so that none runs alone in the end."""
    return (*_chaos(), *_suites(), *_reboots(), *_randoms(), *_crowds())


def choose(among: Iterable[Cell], only: str) -> list[Cell]:
    """Those whose name fits one of the patterns (with commas); all of them for an empty one."""
    patterns = [pattern.strip() for pattern in only.split(",") if pattern.strip()]
    return [cell for cell in among if not patterns or any(fnmatch.fnmatch(cell.name, each) for each in patterns)]


def _suites() -> Iterator[Cell]:
    for engine in config.ENGINES:
        for firewall in config.KNOWN[engine].firewalls:
            for live in (False,) if firewall == "iptables-legacy" else (False, True):
                words = (*_PYTEST, "tests/system", "--engine", engine, "--firewall", firewall)
                yield Cell(
                    scenario="suite",
                    engine=engine,
                    firewall=firewall,
                    live_restore=live,
                    words=(*words, "--live-restore") if live else words,
                )


def _randoms() -> Iterator[Cell]:
    for engine in config.ENGINES:
        for seed, live in SEEDS.items():
            words = (*_LAB, "random", "--ops", "1000", "--seed", str(seed), "--engine", engine)
            yield Cell(
                scenario=f"random{seed}",
                engine=engine,
                firewall="iptables-nft",
                live_restore=live,
                words=(*words, "--live-restore") if live else words,
            )


def _reboots() -> Iterator[Cell]:
    for engine in config.ENGINES:
        words = (*_LAB, "reboots", "--count", str(REBOOTS), "--seed", "7", "--engine", engine)
        yield Cell(scenario="reboots", engine=engine, firewall="iptables-nft", words=words)


def _crowds() -> Iterator[Cell]:
    for engine in config.ENGINES:
        for hosts, containers in ((1, 100), (10, 20)):
            words = (*_LAB, "crowd", "--hosts", str(hosts), "--containers", str(containers), "--engine", engine)
            name = f"crowd{hosts}x{containers}"
            yield Cell(scenario=name, engine=engine, firewall="iptables-nft", words=words, alone=True)


def _chaos() -> Iterator[Cell]:
    words = (*_LAB, "chaos", "--seconds", "1800", "--seed", "3")
    yield Cell(scenario="chaos", engine="28.5", firewall="iptables-nft", live_restore=True, words=words)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a cell came to. commit: of what; said: its last line; at: when it ended, ISO 8601."""

    cell: str
    commit: str
    code: int
    took_s: float
    said: str
    at: str

    @property
    def passed(self) -> bool:
        """Whether it ended well."""
        return self.code == 0


def left_over(wanted: Iterable[Cell], results: Iterable[Result], commit: str) -> list[Cell]:
    """What has not passed yet on this commit."""
    done = {result.cell for result in results if result.passed and result.commit == commit}
    return [cell for cell in wanted if cell.name not in done]


def format_table(wanted: Sequence[Cell], results: Iterable[Result], commit: str) -> str:
    """One line for each cell with its last result on this commit."""
    last = {result.cell: result for result in results if result.commit == commit}
    head = f"{'scenario':12}{'engine':8}{'firewall':17}{'live-restore':14}{'result':9}{'minutes':>8}  said"
    lines = [head, *(_row(cell, last.get(cell.name)) for cell in wanted)]
    passed = sum(1 for cell in wanted if cell.name in last and last[cell.name].passed)
    return "\n".join([*lines, f"{passed} of {len(wanted)} passed, commit {commit}"])


def _row(cell: Cell, result: Result | None) -> str:
    shown = (
        f"{cell.scenario:12}{cell.engine or '-':8}{cell.firewall or '-':17}{'on' if cell.live_restore else 'off':14}"
    )
    if result is None:
        return f"{shown}not run"
    word = "passed" if result.passed else f"code {result.code}"
    return f"{shown}{word:9}{result.took_s / 60:8.1f}  {result.said}"
