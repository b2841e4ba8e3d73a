"""The single writer of this host's kernel state: makes what is there what is desired, and keeps it so.

Owners (`node`, `driver.service`) declare slices of the desired state, which are applied at once in their own thread;
`run` looks at the whole host at the start, after kernel events, after failures and every minute, and repairs. What
may change without an event it glances at every eight seconds: kernel parameters and the packet filter, at which it
also looks, and at that alone, when it hears of a change there.
Level-triggered: a slice may be set twice, anything deleted by hand comes back. What it does not do: decide what is
desired. No lock is held while the kernel is called, but for one per owner; none at all while tools of the packet
filter run.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from overlay import (
    diff,
    errors,
    firewall,
    firewall_keeper,
    firewall_port,
    guard,
    kernel,
    netstate,
    pace,
    passes,
    slices,
    supervisor,
    tunnel_guard,
    turns,
)

log = logging.getLogger(__name__)


Timing = pace.Timing


class Reconciler:
    """See the module. Safe to call from any thread."""

    def __init__(
        self,
        host: kernel.Kernel,
        filters: firewall_port.Firewall,
        *,
        timing: Timing | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        supervisor_: supervisor.Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor_ or supervisor.Supervisor()
        self._kernel = host
        self._timing = timing or Timing()
        self._monotonic = monotonic
        self._lock = threading.Lock()  # over the fields below; never held across a call of the kernel
        self._slices = slices.Slices()
        self._turns = turns.Turns()
        self._bulk = pace.Bulk()
        self._gate_open = False
        self._settled = False
        self._record = passes.Record()
        self._pass_lock = threading.Lock()
        self._wake = threading.Event()
        self._keeper = firewall_keeper.FirewallKeeper(filters, self._wake.set)
        self._tunnels: tunnel_guard.TunnelPlan = frozenset()
        self._listeners: list[Callable[[], None]] = []

    # -- owners -----------------------------------------------------------------------------------------------------

    def set(self, owner: str, state: netstate.NetState) -> None:
        """Declare an owner's slice and apply what changed in it. Raises KernelError; it is retried all the same."""
        with self._turns.of(owner):
            with self._lock:
                applied = self._slices.put(owner, state)
                is_guarded = not self._declare_tunnels()
            self._apply_slice(owner, state, applied)
        if not is_guarded:
            self._write_tunnels()

    def remove(self, owner: str) -> None:
        """Drop an owner's slice and take its objects away. Raises KernelError; it is retried all the same."""
        with self._turns.of(owner):
            with self._lock:
                applied = self._slices.drop(owner)
                self._declare_tunnels()
            self._apply_slice(owner, netstate.EMPTY, applied)

    def forget(self, owner: str) -> None:
        """Drop an owner's slice; a full pass takes its objects away soon. Never waits for the kernel."""
        with self._lock:
            self._slices.drop(owner)
            self._declare_tunnels()
        self._wake.set()

    def set_firewall(self, plan: firewall.FirewallPlan) -> None:
        """Declare the packet filter's rules and write them. Raises KernelError; it is retried all the same."""
        self.declare_firewall(plan)
        self.write_firewall()

    def declare_firewall(self, plan: firewall.FirewallPlan) -> None:
        """Declare the packet filter's rules for `write_firewall`, or the next look at it, to write. Never waits."""
        self._keeper.rules.declare(plan)

    def write_firewall(self) -> None:
        """Have the rules written that are declared; callers at the same time share a write.

        Raises KernelError, within twenty seconds; it is retried all the same.
        """
        self._keeper.write(self._keeper.rules)

    def declare_guard(self, plan: guard.GuardPlan) -> None:
        """Declare what containers may send, for `write_guard`, or the next look, to write. Never waits."""
        self._keeper.guard.declare(plan)

    def write_guard(self) -> None:
        """As `write_firewall`, for the guard."""
        self._keeper.write(self._keeper.guard)

    def list_published(self) -> frozenset[firewall.PublishedPort]:
        """What the host's rules publish now, an earlier life's too. Raises KernelError."""
        return self._keeper.list_published()

    def limits(self) -> tuple[str, ...]:
        """What this host's packet filter cannot do, a line each."""
        return self._keeper.limits()

    def open_gate(self) -> None:
        """All owners have declared what they had before the restart: from now on passes remove what nobody wants."""
        with self._lock:
            if self._gate_open:
                return
            self._gate_open = True
            self._settled = False
        self._wake.set()

    @property
    def gate_is_open(self) -> bool:
        """Whether it is known what of an earlier life is in use."""
        with self._lock:
            return self._gate_open

    def has_container_links(self) -> bool:
        """Whether a container's link is on the host, an earlier life's too. Raises KernelError."""
        return any(isinstance(obj, netstate.BridgePort) for obj in self._kernel.observe(netstate.EMPTY))

    def on_events(self, tell: Callable[[], None]) -> None:
        """Call `tell` whenever the kernel reports a change. Before `run`; must return at once."""
        self._listeners.append(tell)

    # -- what it has seen -------------------------------------------------------------------------------------------

    def owners(self) -> dict[str, int]:
        """Whose slices there are, and how many objects each wants."""
        with self._lock:
            return self._slices.owners()

    @property
    def repairs(self) -> Mapping[str, int]:
        """Changes by kind that somebody else made necessary: `{"route": 2, "firewall:iptables-nft": 1}`."""
        with self._lock:
            return dict(self._record.repairs)

    @property
    def last_errors(self) -> tuple[str, ...]:
        """What the last full pass could not do, a line each."""
        with self._lock:
            return self._record.last_errors

    @property
    def last_pass(self) -> passes.PassStats | None:
        """The last full pass, None before the first."""
        with self._lock:
            return self._record.last_pass

    # -- full passes ------------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Make full passes until `stop`, which is noticed within a second."""
        listeners = [
            self._supervisor.start("kernel-events", functools.partial(self._listen, stop), stop),
            self._supervisor.start("firewall-events", functools.partial(self._listen_to_firewall, stop), stop),
        ]
        looked_at = -math.inf
        while not stop.is_set():
            self._bulk.wait()
            woken = self._wake.is_set()
            self._wake.clear()
            started = self._monotonic()
            try:
                if woken or self.last_errors or started - looked_at >= self._timing.whole_s:
                    self.run_pass()
                    looked_at = started
                else:
                    self.glance()
            except Exception as exc:  # noqa: BLE001 - the host must not stay unrepaired because of one bug
                self._supervisor.note("reconciler", exc)
                looked_at = -math.inf  # the next look is a whole one
            else:
                self._supervisor.well("reconciler")
            pace.rest(self._timing, stop, self._wake, self._monotonic, self._monotonic() - started)
        for listener in listeners:
            listener.join(timeout=2)

    def glance(self) -> None:
        """Look at what may change without an event. The packet filter is repaired here, the rest by the next pass."""
        self._look_at_firewall()
        with self._lock:
            wanted = self._slices.sysctls()
        if self._kernel.observe_silent(wanted) != wanted:
            self._wake.set()

    def run_pass(self) -> passes.PassStats:
        """Observe, plan and apply until nothing is left to do, at most `Timing.rounds` times.

        What fails is in `last_errors`, and the next pass tries it again. Desired is read after observing, and each
        change is checked against it again just before it is applied: what an owner did meanwhile is not undone.
        """
        started = self._monotonic()
        with self._pass_lock:
            with self._lock:
                touched = self._slices.take_touched()
                work = passes.Pass(touched=touched, gate_open=self._gate_open, repairing=self._settled)
                self._settled = True
            try:
                self._rounds(work)
            except errors.KernelError as exc:
                work.blind = True
                work.troubles.append(f"observe: {exc}")
        self._ensure_firewall(work)  # runs tools: nobody may wait for that
        return self._finish(work, self._monotonic() - started)

    def _rounds(self, work: passes.Pass) -> None:
        for _ in range(self._timing.rounds):
            with self._lock:
                asked = self._slices.whole()
            observed = self._kernel.observe(asked)
            work.objects = max(work.objects, len(observed))
            with self._lock:
                desired = self._slices.whole()
            ops = [op for op in diff.plan(desired, observed) if work.may(op)]
            if not ops:
                return
            for chunk in passes.chunks(ops):
                self._apply_chunk(work, chunk)

    def _apply_chunk(self, work: passes.Pass, chunk: Sequence[netstate.Op]) -> None:
        with self._lock:
            asked = [op for op in chunk if self._slices.still_asks_for(op)]
            current = [op for op in asked if not self._slices.is_being_written(op)]
        if len(current) < len(asked):
            self._wake.set()  # to see what its owner made of it
        if not current:
            return
        failures = {failure.op: failure for failure in self._kernel.apply(current)}
        work.failures.update(failures)
        work.done.extend(op for op in current if op not in failures)

    def _ensure_firewall(self, work: passes.Pass) -> None:
        found = self._keeper.check(gate_open=work.gate_open)
        work.troubles.extend(found.troubles)
        work.firewall_repairs = found.repaired

    def _finish(self, work: passes.Pass, duration_s: float) -> passes.PassStats:
        passes.log_ops(log, "repaired" if work.repairing else "programmed", work.done)
        troubles = work.error_lines()
        with self._lock:
            known = self._record.last_errors
            stats = self._record.add(work, troubles, self._slices, duration_s)
        passes.log_lines(log, logging.WARNING, "kernel refused, retrying", sorted(set(troubles) - set(known)))
        if known and not troubles:
            log.info("kernel state complete again")
        return stats

    # -- inside -----------------------------------------------------------------------------------------------------

    def _apply_slice(self, owner: str, state: netstate.NetState, applied: netstate.NetState) -> None:
        planned = diff.plan(state, applied)
        with self._lock:
            ops = [op for op in planned if self._slices.still_asks_for(op)]
        if len(ops) < len(planned):
            self._wake.set()  # another owner has a say in these; a full pass sees both
        with self._bulk.write(len(ops)):
            failures = self._kernel.apply(ops) if ops else []
        refused = {diff.target_of(failure.op) for failure in failures}
        left = {obj for obj in refused if obj not in state}
        with self._lock:
            written = [netstate.key_of(diff.target_of(op)) for op in ops if diff.target_of(op) not in refused]
            self._slices.settle(owner, (state - refused) | left, written)
            self._slices.touch(netstate.key_of(obj) for obj in refused)
        passes.log_ops(log, "applied", [op for op in ops if diff.target_of(op) not in refused])
        if failures:
            self._wake.set()
        failures = [failure for failure in failures if not _is_optional(failure.op)]
        if failures:
            kind = errors.NameTaken if any(failure.name_taken for failure in failures) else errors.KernelError
            raise kind([f"{diff.format_op(failure.op)}: {failure.reason}" for failure in failures])

    def _declare_tunnels(self) -> bool:
        """Under the lock: whether containers must be kept from other ports than before."""
        links = self._slices.take_tunnels()
        plan = self._tunnels if links is None else tunnel_guard.plan(links)
        if plan == self._tunnels:
            return False
        self._tunnels = plan
        self._keeper.tunnels.declare(plan)
        return True

    def _write_tunnels(self) -> None:
        """What is refused is no reason to have no tunnel: the next look at the packet filter tries again."""
        try:
            self._keeper.write(self._keeper.tunnels)
        except errors.KernelError as exc:
            log.warning("containers are not kept from the tunnels' ports yet, retrying in the background: %s", exc)

    def _listen(self, stop: threading.Event) -> None:
        for _ in pace.heard(log, stop, "kernel", lambda until: self._kernel.events(until, self._is_wanted)):
            self._wake.set()
            for tell in self._listeners:
                tell()

    def _is_wanted(self, op: netstate.Op) -> bool:
        self._bulk.wait()
        with self._lock:
            return self._slices.still_asks_for(op)

    def _listen_to_firewall(self, stop: threading.Event) -> None:
        self._keeper.listen(stop, self._look_at_firewall, self._timing, self._monotonic)

    def _look_at_firewall(self) -> None:
        with self._lock:
            gate_open, repairing, known = self._gate_open, self._settled, set(self._record.last_errors)
        found = self._keeper.check(gate_open=gate_open)
        if set(found.troubles) - known:
            self._wake.set()  # a full pass tries again and tells
        if repairing:
            with self._lock:
                self._record.count_firewall(found.repaired)


def _is_optional(op: netstate.Op) -> bool:
    """What the owner's object works without; the next pass tells of it, and tries again."""
    obj = diff.target_of(op)
    return isinstance(obj, netstate.Sysctl) and obj.optional
