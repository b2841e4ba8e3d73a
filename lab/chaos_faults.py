"""A fault of the schedule, done and undone: which room of `chaos_…` knows how."""

from __future__ import annotations

from typing import Final

from lab import chaos_etcd, chaos_hosts, chaos_kernel, chaos_plan, chaos_watch, lab

_KERNEL: Final = frozenset(kind.name for kind in chaos_plan.KERNEL_KINDS)
_ETCD: Final = frozenset(kind.name for kind in chaos_plan.ETCD_KINDS)


class Faults:
    """All of them, on one lab."""

    def __init__(self, built: lab.Lab, image: str, watch: chaos_watch.Watch) -> None:
        self._lab = built
        self.etcd = chaos_etcd.EtcdFaults(built)
        self.hosts = chaos_hosts.HostFaults(built, image, watch)

    def begin(self, fault: chaos_plan.Fault) -> str:
        """Break it; tells how, where the fault's name does not. Raises LabError."""
        name, target = fault.kind.name, fault.target
        if name in _KERNEL:
            return chaos_kernel.break_one(self._lab.hosts[target], name, fault.draw)
        if name in _ETCD:
            return self.etcd.begin(name, target, fault.draw)
        self.hosts.begin(name, target)
        return self.etcd.revoke_of(target) if name == "left-for-good" else ""

    def end(self, fault: chaos_plan.Fault) -> None:
        """Put it right where the plugins cannot. Raises LabError."""
        if fault.kind.name in _ETCD:
            self.etcd.end(fault.kind.name, fault.target, fault.draw)
        elif fault.kind.name not in _KERNEL:
            self.hosts.end(fault.kind.name, fault.target)
