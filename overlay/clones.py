"""Whether what a state file says of this host is true of this machine, or of one that the file was copied from.

A virtual machine that is cloned takes the state file along, and its key says word for word what the file says. So it
proves nothing alone: the key is ours if it has our address, or if this may be the machine that wrote it and nobody
renews the key; a live original renews it every two minutes. Pure; `member` asks, `node` keeps what was watched.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable

from overlay import lease, netstate, nodestore, registry

_QUIET_S = 10.0
"""So long a key is watched at least: an original that was cut off from etcd renews it as soon as it is back."""

_SLACK_S = 5.0
"""By so much two looks at the time that is left may differ though nobody renewed: seconds are told whole."""


class Origin(enum.Enum):
    """Whose a key is that says what the state file says."""

    OURS = "ours"
    THEIRS = "theirs"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """This host now. `addresses` are all that its own links have; `machine` names the machine, None: nothing does."""

    attrs: lease.LeaseAttrs
    addresses: frozenset[netstate.IPAddress]
    machine: str | None


def is_copy(saved: nodestore.SavedNode, here: Here) -> bool:
    """Whether the state file was certainly written on another machine."""
    return None not in (saved.machine, here.machine) and saved.machine != here.machine


def is_moved(saved: nodestore.SavedNode, here: Here) -> bool:
    """Whether this host has no longer the address under which it was published."""
    return not here.attrs.is_same_host(saved.attrs) and saved.attrs.public_ip not in here.addresses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """A key as it was at one moment. It was renewed from `renewed_at` to `renewed_by`: etcd may have answered slowly.

    `term`: see `registry.TimeLeft`.
    """

    found: lease.Lease
    at: float
    renewed_at: float
    renewed_by: float
    term: int

    @property
    def names(self) -> tuple[lease.SubnetKey, int]:
        return self.found.key, self.found.lease_id


class Origins:
    """One for each node. Units: seconds of one monotonic clock; `watch_s` is longer than a pause between renewals."""

    def __init__(self, watch_s: float) -> None:
        self.watch_s = watch_s
        """How long nobody may have renewed a key that is to be ours."""
        self.left_s = 0.0
        """How long the last key that was judged must be watched yet, unless somebody renews it."""
        self._quiet_s = min(_QUIET_S, watch_s / 2)
        self._first: _Look | None = None
        self._theirs: tuple[lease.SubnetKey, int] | None = None

    def judge(
        self,
        saved: nodestore.SavedNode,
        found: lease.Lease | None,
        here: Here,
        clock: Callable[[], float],
        time_left: Callable[[lease.Lease], registry.TimeLeft | None],
    ) -> Origin:
        """Whose the key `found` under the saved subnet is. UNKNOWN: ask again in some seconds.

        Where the key says something else it decides for itself, and is not judged here.
        """
        if not is_moved(saved, here):
            return Origin.OURS
        if is_copy(saved, here):
            return Origin.THEIRS
        if found is None or found.attrs != saved.attrs:
            return Origin.OURS
        if saved.lease_id is not None and saved.lease_id != found.lease_id:
            return Origin.THEIRS  # somebody has written it since
        asked_at = clock()
        left = time_left(found)
        if left is None:  # a reservation, which names another host's address
            return Origin.OURS if here.machine is not None and saved.machine == here.machine else Origin.THEIRS
        now, age_s = clock(), registry.SUBNET_TTL_S - left.seconds
        look = _Look(found=found, at=now, renewed_at=asked_at - age_s, renewed_by=now - age_s, term=left.term)
        return self._watch(look)

    def _watch(self, now: _Look) -> Origin:
        first = self._first
        if first is None or first.names != now.names:
            first = now
        rewritten = now.found.mod_revision != first.found.mod_revision
        renewed = now.renewed_at > first.renewed_by + _SLACK_S
        if renewed and not rewritten and now.term != first.term and self._theirs != now.names:
            first = now  # an election does so, too; a live original renews it once more
        elif renewed or rewritten:
            self._theirs = now.names
        self._first = first
        if self._theirs == now.names:
            return Origin.THEIRS
        self.left_s = max(first.at + self._quiet_s, now.renewed_by + self.watch_s) - now.at
        return Origin.UNKNOWN if self.left_s > 0 else Origin.OURS


def explain_watch(saved: nodestore.SavedNode, here: Here, watch_s: float) -> str:
    """Why nothing is claimed yet."""
    return (
        f"lease {saved.key} says {saved.attrs.host}, and this host is {here.attrs.host} now: its state file may be a "
        f"copy of another machine's, so the lease is this host's once nobody has renewed it for {watch_s:g} s"
    )
