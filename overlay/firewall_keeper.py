"""The packet filter's part of the single writer: the plan last declared, and what others made it write again.

Used by `reconciler` alone. Safe to call from any thread: one lock, held while the firewall is looked at.
"""

from __future__ import annotations

import dataclasses
import logging
import threading

from overlay import errors, firewall, firewall_port

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a look at the firewall found. `repaired`: the places that somebody else had changed."""

    repaired: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()


class FirewallKeeper:
    """See the module."""

    def __init__(self, filters: firewall_port.Firewall) -> None:
        self._firewall = filters
        self._lock = threading.Lock()
        self._plan: firewall.FirewallPlan | None = None
        self._touched = False

    def set(self, plan: firewall.FirewallPlan) -> None:
        """Declare the plan and write it. Raises KernelError; the next check tries it again."""
        with self._lock:
            self._plan = plan
            self._touched = True
            self._firewall.ensure(plan)
            self._touched = False

    def check(self, *, gate_open: bool) -> Check:
        """Write what is missing. Rules of an earlier life stay until the gate is open or a plan is declared."""
        with self._lock:
            plan, touched = self._plan, self._touched
            if plan is None and not gate_open:
                return Check()
            try:
                places = self._firewall.ensure(plan or frozenset())
            except errors.KernelError as exc:
                self._touched = True  # when it works at last, it is no repair
                return Check(troubles=tuple(exc.failures))
            self._touched = False
        if places:
            log.info("firewall written places=%s", ",".join(places))
        return Check(repaired=() if touched else places)
