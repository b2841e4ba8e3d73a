"""The packet filter's part of the single writer: the plans last declared, what others made it write, and its events.

Used by `reconciler` alone. Safe to call from any thread: one caller at a time writes, for all who wait, and no lock
is held meanwhile (`group_commit`).
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from overlay import errors, firewall, firewall_port, group_commit, pace

log = logging.getLogger(__name__)

WAIT_S = 20.0
"""Two looks at the firewall, the one under way and the one after it, each of which ends by itself in half of that."""

BUSY = f"packet filter: not written, others were at it for {WAIT_S:g} s"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a look at the firewall found. `repaired`: the places that somebody else had changed."""

    repaired: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()


class PlanKeeper(Generic[T]):
    """One kind of plan, of which `ensure` makes rules. An empty one wants nothing of ours to be there."""

    def __init__(self, ensure: Callable[[frozenset[T]], tuple[str, ...]]) -> None:
        self._write_plan = ensure
        self._lock = threading.Lock()  # over the two below; never held while anything is waited for
        self._plan: frozenset[T] | None = None
        self._touched = False
        self._commit = group_commit.GroupCommit(self._ensure)

    def declare(self, plan: frozenset[T]) -> None:
        """From now on whoever writes, writes this plan. Never waits."""
        with self._lock:
            self._plan = plan
            self._touched = True

    def write(self) -> None:
        """Have what was declared written. Raises KernelError; the next check tries it again."""
        done = self._commit.run(WAIT_S)
        if done is None:
            raise errors.KernelError([BUSY])
        if done.outcome.troubles:
            raise errors.KernelError(list(done.outcome.troubles))

    def check(self, *, gate_open: bool) -> Check:
        """Write what is missing. Rules of an earlier life stay until the gate is open or a plan is declared."""
        with self._lock:
            if self._plan is None and not gate_open:
                return Check()
        done = self._commit.run(WAIT_S)
        if done is None:
            return Check(troubles=(BUSY,))
        return done.outcome if done.own else dataclasses.replace(done.outcome, repaired=())  # counted once

    def _ensure(self) -> Check:
        with self._lock:
            plan, touched = self._plan, self._touched
            self._touched = False
        try:
            places = self._write_plan(plan or frozenset())
        except errors.KernelError as exc:
            with self._lock:
                self._touched = True  # when it works at last, it is no repair
            return Check(troubles=tuple(exc.failures))
        return Check(repaired=() if touched else places)


class FirewallKeeper:
    """All plans of one packet filter: `rules` change with networks, the `guard` with every container, `tunnels` with
    leases."""

    def __init__(self, filters: firewall_port.Firewall, failed: Callable[[], None]) -> None:
        """`failed` is told when a write was not possible; it must return at once."""
        self._filters = filters
        self._failed = failed
        self.rules = PlanKeeper(filters.ensure)
        self.guard = PlanKeeper(filters.guard)
        self.tunnels = PlanKeeper(filters.tunnels)

    def list_published(self) -> frozenset[firewall.PublishedPort]:
        """What the host's rules publish now. Raises KernelError."""
        return self._filters.list_published()

    def limits(self) -> tuple[str, ...]:
        """What this host's packet filter cannot do, a line each."""
        return self._filters.limits()

    def write(self, keeper: PlanKeeper[Any]) -> None:
        """Have what one of them was told written. Raises KernelError."""
        try:
            keeper.write()
        except errors.KernelError:
            self._failed()
            raise

    def check(self, *, gate_open: bool) -> Check:
        """Write what is missing of any; the rules first, in which the engine's bridges are read."""
        found = [one.check(gate_open=gate_open) for one in (self.rules, self.guard, self.tunnels)]
        return Check(
            repaired=tuple(place for one in found for place in one.repaired),
            troubles=tuple(dict.fromkeys(line for one in found for line in one.troubles)),
        )

    def listen(
        self, stop: threading.Event, look: Callable[[], None], timing: pace.Timing, monotonic: Callable[[], float]
    ) -> None:
        """Call `look` whenever the packet filter changed, until `stop`.

        No full pass: that looks at thousands of entries, and somebody's script may change the filter for hours.
        """
        for _ in pace.heard(log, stop, "firewall", self._filters.events):
            started = monotonic()
            look()
            stop.wait(timing.rest_s(monotonic() - started))
