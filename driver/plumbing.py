"""The driver's way to the kernel: its slices of the desired state, and the firewall's plan.

Owned by `driver.service`. What must work before the engine is answered raises KernelError; what is declared `again`,
at a start or since a lease changed, is left to the reconciler's passes where the kernel refuses it. Used by
`driver.following` and `driver.publishing`, too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from driver import desired, endpoint, network, rows, writer
from overlay import errors, firewall, guard, netstate, supervisor

log = logging.getLogger(__name__)

GUARD_WAIT_S = 0.03
"""What an endpoint waits for its guard: for its own write, and not for the queue of a hundred starts."""


class Plumbing(Protocol):
    """What the driver needs of `overlay.reconciler.Reconciler`."""

    def set(self, owner: str, state: netstate.NetState) -> None: ...

    def forget(self, owner: str) -> None: ...

    def remove(self, owner: str) -> None: ...

    def declare_firewall(self, plan: firewall.FirewallPlan) -> None: ...

    def write_firewall(self) -> None: ...

    def declare_guard(self, plan: guard.GuardPlan) -> None: ...

    def write_guard(self) -> None: ...

    def list_published(self) -> frozenset[firewall.PublishedPort]: ...


class Plumber:
    """See the module. Safe to call from any thread."""

    def __init__(
        self,
        inner: Plumbing,
        known: rows.Rows,
        supervisor_: supervisor.Supervisor,
        guard_wait_s: float = GUARD_WAIT_S,
    ) -> None:
        self._inner = inner
        self._rows = known
        self._order = threading.Lock()  # plans are declared as they were made; never held while one is written
        self._guard = writer.Writer(self.write_guard, supervisor_)
        self._guard_wait_s = guard_wait_s
        self.set = inner.set
        self.forget = inner.forget
        self.remove = inner.remove
        self.list_published = inner.list_published

    def set_again(self, owner: str, state: netstate.NetState) -> None:
        """Declare a slice."""
        try:
            self._inner.set(owner, state)
        except errors.KernelError as exc:
            _log_not_yet(owner, exc)

    def plumb_endpoint(self, net: network.Network, end: endpoint.Endpoint) -> None:
        """Declare an endpoint's slice, unless it is deleted meanwhile: the slice would stay for ever then.

        Raises KernelError.
        """
        owner = desired.endpoint_owner(end.id)
        try:
            self.set(owner, desired.endpoint_state(net, end))
        finally:
            if self._rows.find_endpoint(end.id) is None:
                self.forget(owner)

    def plumb_endpoint_again(self, net: network.Network, end: endpoint.Endpoint) -> None:
        """Declare an endpoint's slice, unless it is deleted meanwhile."""
        try:
            self.plumb_endpoint(net, end)
        except errors.KernelError as exc:
            _log_not_yet(desired.endpoint_owner(end.id), exc)

    def write_firewall(self) -> None:
        """Write the rules of all networks. Raises KernelError."""
        with self._order:
            self._inner.declare_firewall(desired.firewall_plan(self._rows.networks(), self._rows.endpoints()))
        self._inner.write_firewall()

    def declare_guard(self) -> None:
        """Declare what all containers may send; the next look at the packet filter writes it."""
        with self._order:
            self._inner.declare_guard(desired.guard_plan(self._rows.networks(), self._rows.endpoints()))

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


def _log_not_yet(owner: str, exc: errors.KernelError) -> None:
    log.warning("not plumbed yet, retrying in the background owner=%s reason=%s", owner, exc)


def _again(write: Callable[[], None]) -> None:
    try:
        write()
    except errors.KernelError as exc:
        log.warning("packet filter not written yet, retrying in the background: %s", exc)
