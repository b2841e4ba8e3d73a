"""The driver's way to the kernel: its slices of the desired state, and the firewall's plan.

Owned by `driver.service`. What must work before the engine is answered raises KernelError; what is declared `again`,
at a start or since a lease changed, is left to the reconciler's passes where the kernel refuses it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from driver import desired, endpoint, network, writer
from overlay import errors, firewall, guard, netstate

log = logging.getLogger(__name__)

GUARD_WAIT_S = 0.03
"""What an endpoint waits for its guard: for a run of nft, and not for the queue of a hundred starts."""


class Plumbing(Protocol):
    """What the driver needs of `overlay.reconciler.Reconciler`."""

    def set(self, owner: str, state: netstate.NetState) -> None: ...

    def forget(self, owner: str) -> None: ...

    def remove(self, owner: str) -> None: ...

    def declare_firewall(self, plan: firewall.FirewallPlan) -> None: ...

    def write_firewall(self) -> None: ...

    def declare_guard(self, plan: guard.GuardPlan) -> None: ...

    def write_guard(self) -> None: ...


class Plumber:
    """See the module. `networks` and `endpoints` tell those of the moment. Safe to call from any thread."""

    def __init__(
        self,
        inner: Plumbing,
        networks: Callable[[], Iterable[network.Network]],
        endpoints: Callable[[], Iterable[endpoint.Endpoint]],
        guard_wait_s: float = GUARD_WAIT_S,
    ) -> None:
        self._inner = inner
        self._networks = networks
        self._endpoints = endpoints
        self._order = threading.Lock()  # plans are declared as they were made; never held while one is written
        self._guard = writer.Writer(self.write_guard)
        self._guard_wait_s = guard_wait_s
        self.set = inner.set
        self.forget = inner.forget
        self.remove = inner.remove

    def set_again(self, owner: str, state: netstate.NetState) -> None:
        """Declare a slice."""
        try:
            self._inner.set(owner, state)
        except errors.KernelError as exc:
            log.warning("not plumbed yet, retrying in the background owner=%s reason=%s", owner, exc)

    def write_firewall(self) -> None:
        """Write the rules of all networks. Raises KernelError."""
        with self._order:
            self._inner.declare_firewall(desired.firewall_plan(self._networks(), self._endpoints()))
        self._inner.write_firewall()

    def declare_guard(self) -> None:
        """Declare what all containers may send; the next look at the packet filter writes it."""
        with self._order:
            self._inner.declare_guard(desired.guard_plan(self._networks(), self._endpoints()))

    def write_guard(self) -> None:
        """Write what all containers may send: from now on no other gets through. Raises KernelError."""
        self.declare_guard()
        self._inner.write_guard()

    def begin_guard(self) -> int:
        """Have that written beside the caller; the number to wait for. Never waits."""
        return self._guard.ask()

    def await_guard(self, number: int) -> None:
        """Wait for it, but no longer than a handler may: nobody can send anything before. Raises KernelError."""
        self._guard.wait(number, self._guard_wait_s)

    def write_firewall_again(self) -> None:
        """Write the rules of all networks."""
        _again(self.write_firewall)

    def write_guard_again(self) -> None:
        """Write what all containers may send."""
        _again(self.write_guard)


def _again(write: Callable[[], None]) -> None:
    try:
        write()
    except errors.KernelError as exc:
        log.warning("packet filter not written yet, retrying in the background: %s", exc)
