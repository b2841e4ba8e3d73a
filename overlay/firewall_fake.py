"""The firewall port in memory: for tests and for trying things out without a kernel.

Passes tests/overlay/test_firewall_contract.py as `firewall_exec` does.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator

from overlay import errors, firewall, firewall_port, guard, tunnel_guard

GuardPlan = guard.GuardPlan
TunnelPlan = tunnel_guard.TunnelPlan
Plan = firewall.FirewallPlan | GuardPlan | TunnelPlan


class FirewallFake:
    """Holds the last plan; flushing is the operator's hand. While `refusal` is set, every ensure fails with it."""

    def __init__(self, places: tuple[str, ...] = ("nft",)) -> None:
        self.plan: firewall.FirewallPlan = frozenset()
        self.guarded: guard.GuardPlan = frozenset()
        self.tunnelled: TunnelPlan = frozenset()
        self.refusal: str | None = None
        self._places = places
        self._changes = 0
        self._changed = threading.Condition()

    def ensure(self, plan: firewall.FirewallPlan) -> tuple[str, ...]:
        """Record the plan; names every place if it was another one. Raises KernelError while told to."""
        with self._changed:
            if self.refusal is not None:
                raise errors.KernelError([self.refusal])
            if plan == self.plan:
                return ()
            self._change(plan)
            return self._places

    def guard(self, plan: guard.GuardPlan) -> tuple[str, ...]:
        """Record the plan; nobody is told, since it is our own. Raises KernelError while told to."""
        with self._changed:
            if self.refusal is not None:
                raise errors.KernelError([self.refusal])
            if plan == self.guarded:
                return ()
            self.guarded = plan
            return ("nft-bridge",)

    def list_published(self) -> frozenset[firewall.PublishedPort]:
        """See `firewall_port.Firewall.list_published`."""
        return frozenset(port for rules in self.plan for port in rules.published)

    def tunnels(self, plan: TunnelPlan) -> tuple[str, ...]:
        """Record the plan. Raises KernelError while told to."""
        with self._changed:
            if self.refusal is not None:
                raise errors.KernelError([self.refusal])
            if plan == self.tunnelled:
                return ()
            self.tunnelled = plan
            return ("nft-inet",)

    def limits(self) -> tuple[str, ...]:
        """See `firewall_port.Firewall.limits`."""
        return ()

    def look(
        self,
        plan: firewall.FirewallPlan,
        guarded: GuardPlan | None = None,
        tunnels: TunnelPlan | None = None,
    ) -> tuple[firewall_port.Finding, ...]:
        """See `firewall_port.Inspector.look`."""
        with self._changed:
            if self.refusal is not None:
                raise errors.KernelError([self.refusal])
            found = [*self._look_at(self._places, plan, self.plan)]
            if guarded is not None:
                found += self._look_at(("nft-bridge",), guarded, self.guarded)
            if tunnels is not None:
                found += self._look_at(("nft-inet",), tunnels, self.tunnelled)
            return tuple(found)

    @staticmethod
    def _look_at(places: tuple[str, ...], plan: Plan, seen: Plan) -> tuple[firewall_port.Finding, ...]:
        if plan == seen:
            return ()
        how = firewall_port.How.CHANGED if plan and seen else firewall_port.How.MISSING
        how = how if plan else firewall_port.How.STALE
        shown = [" ".join(sorted(_name(one) for one in each)) for each in (plan, seen)]
        return tuple(firewall_port.Finding(place=place, how=how, wanted=shown[0], seen=shown[1]) for place in places)

    def events(self, stop: threading.Event) -> Iterator[None]:
        """See `firewall_port.Firewall.events`."""
        with self._changed:
            seen = self._changes
        yield
        while not stop.is_set():
            with self._changed:
                self._changed.wait_for(functools.partial(self._differs_from, seen), timeout=0.2)
                before, seen = seen, self._changes
            if seen != before:
                yield

    def flush(self) -> None:
        """All rules are gone, as after `nft flush ruleset`."""
        with self._changed:
            self.guarded, self.tunnelled = frozenset(), frozenset()
            self._change(frozenset())

    def flush_unheard(self) -> None:
        """All rules are gone and no event tells, as after `iptables-legacy -F`."""
        with self._changed:
            self.plan, self.guarded, self.tunnelled = frozenset(), frozenset(), frozenset()

    def _differs_from(self, seen: int) -> bool:
        return self._changes != seen

    def _change(self, plan: firewall.FirewallPlan) -> None:
        self.plan = plan
        self._changes += 1
        self._changed.notify_all()


def _name(one: object) -> str:
    return one.bridge if isinstance(one, firewall.BridgeRules) else str(getattr(one, "name", one))
