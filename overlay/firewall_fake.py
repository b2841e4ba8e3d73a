"""The firewall port in memory: for tests and for trying things out without a kernel.

Passes tests/overlay/test_firewall_contract.py as `firewall_exec` does.
"""

from __future__ import annotations

import threading

from overlay import errors, firewall


class FirewallFake:
    """Holds the last plan. `flush` is the operator's hand; while `refusal` is set, every ensure fails with it."""

    def __init__(self, places: tuple[str, ...] = ("nft",)) -> None:
        self.plan: firewall.FirewallPlan = frozenset()
        self.refusal: str | None = None
        self._places = places
        self._lock = threading.Lock()

    def ensure(self, plan: firewall.FirewallPlan) -> tuple[str, ...]:
        """Record the plan; names every place if it was another one. Raises KernelError while told to."""
        with self._lock:
            if self.refusal is not None:
                raise errors.KernelError([self.refusal])
            if plan == self.plan:
                return ()
            self.plan = plan
            return self._places

    def flush(self) -> None:
        """All rules are gone, as after `nft flush ruleset`."""
        with self._lock:
            self.plan = frozenset()
