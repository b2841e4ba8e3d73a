"""The kernel port in memory: for tests, and for trying things out without root.

Passes tests/overlay/test_kernel_contract.py as `kernel_netlink` does, over the world in `fake_namespace`.
Methods after `events` are the operator's hand, which the reconciler must notice and repair.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from overlay import diff, errors, fake_namespace, kernel, netstate

UNDERLAY_MAC = netstate.Mac("02:00:00:00:00:01")
FOREIGN_MAC = netstate.Mac("02:00:00:00:00:02")


class KernelFake:
    """One network namespace in memory. `refuse` and `break_observe` make it fail."""

    def __init__(self, underlays: Sequence[kernel.UnderlayLink] = ()) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._version = 0
        self._underlays = list(underlays)
        self._space = fake_namespace.FakeNamespace()
        for link in underlays:
            self._space.links[link.name] = fake_namespace.FakeLink(kind="underlay", mac=UNDERLAY_MAC, mtu=link.mtu)
        self._refusals: dict[netstate.Key, str] = {}
        self._observe_error: str | None = None

    # -- the port ---------------------------------------------------------------------------------------------------

    def observe(self, desired: netstate.NetState) -> netstate.NetState:
        """See `kernel.Kernel.observe`."""
        with self._lock:
            if self._observe_error is not None:
                raise errors.KernelError([self._observe_error])
            return self._space.observe(desired)

    def apply(self, ops: Sequence[netstate.Op]) -> list[kernel.Failure]:
        """See `kernel.Kernel.apply`."""
        failures = []
        for op in ops:
            with self._lock:
                reason = self._refusals.get(netstate.key_of(diff.target_of(op))) or self._space.apply(op)
            if reason:
                failures.append(kernel.Failure(op=op, reason=reason))
        if ops:
            self._notify()
        return failures

    def list_underlays(self) -> list[kernel.UnderlayLink]:
        """The links given at construction that are still there."""
        with self._lock:
            return [link for link in self._underlays if link.name in self._space.links]

    def vtep_mac(self, name: netstate.IfName) -> netstate.Mac | None:
        """See `kernel.Kernel.vtep_mac`."""
        with self._lock:
            link = self._space.links.get(name)
            return link.mac if link is not None and link.kind == "vxlan" else None

    def events(self, stop: threading.Event) -> Iterator[None]:
        """See `kernel.Kernel.events`."""
        with self._lock:
            seen = self._version
        yield
        while not stop.is_set():
            with self._changed:
                if self._version == seen:
                    self._changed.wait(timeout=0.2)
                before, seen = seen, self._version
            if seen != before:
                yield

    # -- the operator's hand ----------------------------------------------------------------------------------------

    def refuse(self, obj: netstate.KernelObject, reason: str | None = "operation not permitted") -> None:
        """Refuse changes of whatever has this object's key; None lets them through again."""
        with self._lock:
            self._refusals.pop(netstate.key_of(obj), None)
            if reason is not None:
                self._refusals[netstate.key_of(obj)] = reason

    def break_observe(self, reason: str | None) -> None:
        """Fail every observation with `reason`; None mends it."""
        with self._lock:
            self._observe_error = reason

    def set_underlays(self, underlays: Sequence[kernel.UnderlayLink]) -> None:
        """The host's own links are these now; one that is gone takes along what hangs on it."""
        with self._lock:
            gone = {link.name for link in self._underlays} - {link.name for link in underlays}
            self._underlays = list(underlays)
            for name in gone:
                self._space.lose_underlay(name)
            for link in underlays:
                made = fake_namespace.FakeLink(kind="underlay", mac=UNDERLAY_MAC, mtu=link.mtu)
                self._space.links[link.name] = made
        self._notify()

    def delete(self, obj: netstate.KernelObject) -> None:
        """Take an object away behind everybody's back."""
        with self._lock:
            self._space.remove(obj)
        self._notify()

    def add_foreign_link(self, name: netstate.IfName, kind: str = "bridge") -> None:
        """A link that somebody else made, without our alias."""
        with self._lock:
            self._space.links[name] = fake_namespace.FakeLink(kind=kind, mac=FOREIGN_MAC, mtu=1500)
        self._notify()

    def add_foreign(self, obj: netstate.Address | netstate.Neighbour | netstate.Route) -> None:
        """An object that somebody else made; a route gets protocol static and takes the place of ours."""
        with self._lock:
            if isinstance(obj, netstate.Route):
                self._space.objects.pop(netstate.key_of(obj), None)
                self._space.foreign_routes[netstate.key_of(obj)] = obj
            else:
                self._space.objects[netstate.key_of(obj)] = obj
        self._notify()

    def has_foreign(self, obj: netstate.Address | netstate.Neighbour | netstate.Route) -> bool:
        """Whether what `add_foreign` made is still there."""
        with self._lock:
            held = self._space.foreign_routes if isinstance(obj, netstate.Route) else self._space.objects
            return held.get(netstate.key_of(obj)) == obj

    def has_link(self, name: netstate.IfName) -> bool:
        """Whether a link of this name is there, whosoever it is."""
        with self._lock:
            return name in self._space.links

    def set_link(
        self,
        name: netstate.IfName,
        *,
        up: bool | None = None,
        mac: netstate.Mac | None = None,
        mtu: int | None = None,
    ) -> None:
        """`ip link set`."""
        with self._lock:
            link = self._space.links[name]
            if mac is not None and mac != link.mac:
                self._space.set_mac(name, mac)
            link.mtu = link.mtu if mtu is None else mtu
            if up is False:
                self._space.drop(name, netstate.Route, netstate.Neighbour)
            link.up = link.up if up is None else up
        self._notify()

    def set_tx_checksum(self, name: netstate.IfName, *, on: bool) -> None:
        """`ethtool -K NAME tx-checksum-ip-generic on|off`."""
        with self._lock:
            self._space.links[name].tx_checksum = on
        self._notify()

    def take_away(self, peer: netstate.IfName) -> None:
        """Move the far end of a pair into a container."""
        with self._lock:
            del self._space.links[peer]
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._version += 1
            self._changed.notify_all()
