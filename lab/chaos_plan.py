"""What a soak breaks and when: a seed in, a schedule out. Pure: the same seed gives the same schedule.

Called by `chaos`; how a fault is done is `chaos_faults`' business. Faults overlap freely, but where two need the same
thing: a resource is held from a fault's begin until it has ended and its healing time is over. "traffic" is held by
those that cut containers off until somebody repairs it: two in a row would be one long loss, of which nobody could
say whether either was repaired in time. "etcd" keeps a majority of its members whole, but for the faults that say so.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence
from typing import Final, Literal

Where = Literal["host", "member", "cluster"]
"""What a kind is aimed at: one host, one etcd member, or the etcd as a whole."""

SETTLE_S: Final = 10.0
"""How long after its end a fault that cuts a host off still excuses its losses."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One way to break things. Units: seconds.

    needs: resources held meanwhile; the host, where there is one, is held too. heals_s: what repair may take after
    the end. cuts: whether the host's own link goes, or its container: its losses are then nobody's fault.
    """

    name: str
    where: Where
    weight: int
    lasts_s: tuple[float, float] = (0.0, 0.0)
    heals_s: float = 3.0
    needs: frozenset[str] = frozenset()
    cuts: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of a schedule. Units: seconds since the begin. draw: 0 to 1, picks among what is there to break."""

    number: int
    kind: Kind
    target: str
    at_s: float
    lasts_s: float
    draw: float

    @property
    def resources(self) -> frozenset[str]:
        """What no other fault may touch meanwhile."""
        return _resources(self.kind, self.target)

    @property
    def free_s(self) -> float:
        """When its resources may be broken again."""
        return self.at_s + self.lasts_s + self.kind.heals_s

    @property
    def excused(self) -> str | None:
        """The host whose losses it excuses."""
        return self.target if self.kind.cuts else None


_TRAFFIC: Final = frozenset({"traffic"})
_ETCD: Final = frozenset({"etcd"})
_WORDS: Final = frozenset({"words"})
_DOCKER: Final = frozenset({"docker"})
_QUICK: Final = 4.0  # the kernel tells of it
_SLOW: Final = 11.0  # found by the look every ten seconds


def _kernel(name: str, weight: int = 2, heals_s: float = _QUICK) -> Kind:
    return Kind(name=name, where="host", weight=weight, heals_s=heals_s, needs=_TRAFFIC)


KERNEL_KINDS: Final = (
    *(_kernel(f"{what}-deleted", 3) for what in ("route", "neighbour", "fdb")),
    *(_kernel(f"{what}-changed") for what in ("route", "neighbour", "fdb")),
    *(_kernel(f"vxlan-{what}") for what in ("down", "bounced", "mac", "mtu", "deleted", "address-deleted")),
    *(_kernel(f"bridge-{what}") for what in ("down", "address-deleted", "mtu")),
    *(_kernel(f"port-{what}") for what in ("removed", "down")),
    *(_kernel(name, 2, _SLOW) for name in ("ruleset-flushed", "forward-flushed", "filter-flushed")),
    *(_kernel(name, 2, _SLOW) for name in ("table-deleted", "jump-deleted", "forwarding-off")),
)

ETCD_KINDS: Final = (
    Kind(name="member-killed", where="member", weight=6, lasts_s=(1, 15), needs=_ETCD),
    Kind(name="member-frozen", where="member", weight=6, lasts_s=(1, 20), needs=_ETCD),
    Kind(name="member-replaced", where="member", weight=2, lasts_s=(1, 5), heals_s=6, needs=_ETCD),
    Kind(name="compacted-without-member", where="member", weight=3, lasts_s=(2, 8), needs=_ETCD),
    Kind(name="quorum-frozen", where="member", weight=3, lasts_s=(5, 20), heals_s=8, needs=_ETCD),
    Kind(name="all-killed", where="cluster", weight=3, lasts_s=(3, 20), heals_s=8, needs=_ETCD),
    Kind(name="all-frozen", where="cluster", weight=3, lasts_s=(3, 20), heals_s=8, needs=_ETCD),
    Kind(name="compacted", where="cluster", weight=3, needs=_WORDS),
    Kind(name="garbage-key", where="cluster", weight=3, lasts_s=(1, 8), needs=_WORDS),
    Kind(name="foreign-lease", where="cluster", weight=4, lasts_s=(2, 8), needs=_WORDS),
    Kind(name="foreign-expires", where="cluster", weight=3, lasts_s=(5, 6), needs=_WORDS),
    Kind(name="key-deleted", where="host", weight=5, heals_s=5, needs=_ETCD | _TRAFFIC),
    Kind(name="lease-expired", where="host", weight=5, heals_s=5, needs=_ETCD | _TRAFFIC),
    # The host's watch may hang at the frozen member, and its peers' at others
    Kind(name="key-deleted-unheard", where="host", weight=5, lasts_s=(10, 15), heals_s=5, needs=_ETCD | _TRAFFIC),
)

HOST_KINDS: Final = (
    Kind(name="worker-killed", where="host", weight=5, heals_s=8),
    Kind(name="master-killed", where="host", weight=5, heals_s=8),
    Kind(name="plugin-disabled", where="host", weight=4, lasts_s=(0.5, 6), heals_s=8, needs=_DOCKER),
    Kind(name="dockerd-restarted", where="host", weight=3, heals_s=8, needs=_DOCKER),
    Kind(name="dockerd-killed", where="host", weight=3, lasts_s=(0.5, 3), heals_s=8, needs=_DOCKER),
    Kind(name="cable-pulled", where="host", weight=4, lasts_s=(1, 15), heals_s=SETTLE_S, needs=_DOCKER, cuts=True),
    Kind(name="nic-bounced", where="host", weight=3, lasts_s=(0.2, 3), heals_s=SETTLE_S, needs=_DOCKER, cuts=True),
    Kind(name="left-and-joined", where="host", weight=3, lasts_s=(1, 8), heals_s=SETTLE_S, needs=_DOCKER, cuts=True),
    Kind(name="left-for-good", where="host", weight=2, lasts_s=(2, 8), heals_s=SETTLE_S, needs=_DOCKER, cuts=True),
    Kind(name="rebooted", where="host", weight=3, lasts_s=(0.5, 8), heals_s=SETTLE_S, needs=_DOCKER, cuts=True),
)

_MEMBERS: Final = tuple(kind for kind in ETCD_KINDS if kind.needs == _ETCD)
_WORD_KINDS: Final = tuple(kind for kind in ETCD_KINDS if kind.needs == _WORDS)
_KEYS: Final = tuple(kind for kind in ETCD_KINDS if kind.where == "host")
LANES: Final = (
    (KERNEL_KINDS, (0.0, 2.0)),
    (_KEYS, (10.0, 30.0)),
    (_MEMBERS, (1.0, 6.0)),
    (_WORD_KINDS, (6.0, 14.0)),
    (HOST_KINDS, (0.0, 4.0)),
)
"""Each has one fault in mind and does it as soon as it may, so that kinds that need much come about too; and then
rests for a time between the two given."""
KINDS: Final = (*KERNEL_KINDS, *ETCD_KINDS, *HOST_KINDS)

_FIRST_S: Final = 2.0
_PAUSE_S: Final = (0.5, 3.0)
_WAITED_S: Final = 10.0
"""A lane that has waited for so long has the right of way."""


@dataclasses.dataclass(slots=True, kw_only=True)
class _Wish:
    """What a lane does next, and from when it wants to."""

    kind: Kind
    target: str
    since_s: float

    @property
    def resources(self) -> frozenset[str]:
        return _resources(self.kind, self.target)


def plan(seed: int, seconds: float, hosts: Sequence[str], members: Sequence[str]) -> tuple[Fault, ...]:
    """Make a schedule whose faults have all begun before `seconds`, in the order of their begin."""
    rng = random.Random(seed)  # noqa: S311  a schedule, not a secret
    targets = {"host": hosts, "member": members, "cluster": ("etcd",)}
    made: list[Fault] = []
    held_s: dict[str, float] = {}
    now = _FIRST_S

    def draw(kinds: Sequence[Kind], rest_s: tuple[float, float]) -> _Wish:
        kind = rng.choices(kinds, [kind.weight for kind in kinds])[0]
        return _Wish(kind=kind, target=rng.choice(targets[kind.where]), since_s=now + rng.uniform(*rest_s))

    wishes = [draw(*lane) for lane in LANES]
    while now < seconds:
        wish = _next(wishes, (name for name, free_s in held_s.items() if free_s > now), now)
        if wish is not None:
            made.append(
                Fault(
                    number=len(made) + 1,
                    kind=wish.kind,
                    target=wish.target,
                    at_s=now,
                    lasts_s=round(rng.uniform(*wish.kind.lasts_s), 2),
                    draw=rng.random(),
                )
            )
            held_s.update(dict.fromkeys(made[-1].resources, made[-1].free_s))
            index = wishes.index(wish)
            wishes[index] = draw(*LANES[index])
        now = round(now + rng.uniform(*_PAUSE_S), 2)
    return tuple(made)


def _next(wishes: Sequence[_Wish], held: Iterable[str], now: float) -> _Wish | None:
    """The wish that has waited longest of those that may be done; none takes what one with right of way waits for."""
    taken = set(held)
    for wish in sorted((wish for wish in wishes if wish.since_s <= now), key=lambda wish: wish.since_s):
        if not wish.resources & taken:
            return wish
        if now - wish.since_s > _WAITED_S:
            taken |= wish.resources
    return None


def _resources(kind: Kind, target: str) -> frozenset[str]:
    return kind.needs | {target} if kind.where == "host" else kind.needs
