"""Which hosts lose power when, and what etcd does meanwhile: a seed in, a schedule out.

Called by `reboots`. The same seed gives the same schedule, and a longer one begins like a shorter one.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Final, Literal

HOSTS: Final = ("h1", "h2")

Etcd = Literal["up", "down", "late"]
"""up: all the time. down: from before the power cut until all containers are back. late: a fixed time longer."""

Cut = Literal["idle", "starting", "run", "rm", "network"]
"""What goes on when the power is cut: nothing; the containers' start at boot; docker run, rm, network create, rm."""

LATE_S: Final = 75.0
_CUTS: Final[tuple[Cut, ...]] = ("idle", "starting", "run", "rm", "network")
_ETCDS: Final[tuple[Etcd, ...]] = (*("up",) * 5, *("down",) * 4, "late")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One reboot. Units: seconds. `after_s` from the begin of what is interrupted; `off_s` without power."""

    number: int
    hosts: tuple[str, ...]
    etcd: Etcd
    cut: Cut
    after_s: float
    off_s: float


def plan(seed: int, count: int) -> tuple[Round, ...]:
    """Make a schedule. In five rounds there is one of each kind of cut, and in ten one with a late etcd."""
    rng = random.Random(seed)  # noqa: S311  a schedule, not a secret
    made: list[Round] = []
    cuts: list[Cut] = []
    etcds: list[Etcd] = []
    for number in range(1, count + 1):
        if not cuts:
            cuts = [*_CUTS]
            rng.shuffle(cuts)
        if not etcds:
            etcds = [*_ETCDS]
            rng.shuffle(etcds)
        cut = cuts.pop()
        made.append(
            Round(
                number=number,
                hosts=rng.choice((HOSTS[:1], HOSTS[1:], HOSTS)),
                etcd=etcds.pop(),
                cut=cut,
                after_s=0.0 if cut == "idle" else round(rng.uniform(0.1, 6.0 if cut == "starting" else 1.2), 2),
                off_s=round(rng.uniform(0.0, 2.0), 2),
            )
        )
    return tuple(made)
