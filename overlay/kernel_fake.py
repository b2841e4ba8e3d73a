"""The kernel port in memory: for tests, and for trying things out without root.

Passes tests/overlay/test_kernel_contract.py as `kernel_netlink` does, over the world in `fake_namespace`.
Methods after `events` are the operator's hand, which the reconciler must notice and repair.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence

from overlay import diff, errors, fake_namespace, kernel, netstate

UNDERLAY_MAC = netstate.Mac("02:00:00:00:00:01")
FOREIGN_MAC = netstate.Mac("02:00:00:00:00:02")


class KernelFake:
    """One network namespace in memory. `refuse` and `break_observe` make it fail."""

    def __init__(
        self, underlays: Sequence[kernel.UnderlayLink] = (), routes: Sequence[kernel.UnderlayRoute] = ()
    ) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._told: list[netstate.Op | None] = []
        self._space = fake_namespace.FakeNamespace()
        self._underlays: list[kernel.UnderlayLink] = []
        self._routes = list(routes)
        self.set_underlays(underlays)
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
                taken = reason.endswith(fake_namespace.NOT_OURS)
                failures.append(kernel.Failure(op=op, reason=reason, name_taken=taken))
        failed = {failure.op for failure in failures}
        told = [_notice_of(op) for op in ops if op not in failed and not _is_silent(op)]
        if told:
            self._notify(*told)
        return failures

    def list_underlays(self) -> list[kernel.UnderlayLink]:
        """The links given last that are still there, with the MTU they have now."""
        with self._lock:
            return [
                dataclasses.replace(link, mtu=found.mtu, up=found.up)
                for link in self._underlays
                if (found := self._space.links.get(link.name)) is not None
            ]

    def list_routes(self) -> list[kernel.UnderlayRoute]:
        """Those given last, and foreign ones made by hand, over links that `list_underlays` lists."""
        with self._lock:
            names = {link.name for link in self.list_underlays()}
            by_hand = (
                kernel.UnderlayRoute(destination=route.destination, gateway=route.gateway, link=route.link)
                for route in self._space.foreign_routes.values()
            )
            return [route for route in (*self._routes, *by_hand) if route.link in names]

    def list_links(self) -> list[kernel.HostLink]:
        """See `kernel.Kernel.list_links`."""
        with self._lock:
            if self._observe_error is not None:
                raise errors.KernelError([self._observe_error])
            return [
                kernel.HostLink(name=name, kind=link.kind, ours=link.made_as is not None)
                for name, link in self._space.links.items()
            ]

    def vtep_mac(self, name: netstate.IfName) -> netstate.Mac | None:
        """See `kernel.Kernel.vtep_mac`."""
        with self._lock:
            link = self._space.links.get(name)
            return link.mac if link is not None and link.kind == "vxlan" else None

    def tx_checksum(self, name: netstate.IfName) -> bool | None:
        """See `kernel.Kernel.tx_checksum`."""
        with self._lock:
            link = self._space.links.get(name)
            return link.tx_checksum if link is not None else None

    def observe_silent(self, desired: netstate.NetState) -> netstate.NetState:
        """See `kernel.Kernel.observe_silent`."""
        with self._lock:
            return frozenset(obj for obj in self._space.observe(desired) if isinstance(obj, netstate.Sysctl))

    def events(
        self, stop: threading.Event, is_wanted: Callable[[netstate.Op], bool] = lambda _op: False
    ) -> Iterator[None]:
        """See `kernel.Kernel.events`."""
        with self._lock:
            seen = len(self._told)
        yield
        while not stop.is_set():
            with self._changed:
                if len(self._told) == seen:
                    self._changed.wait(timeout=0.2)
                news, seen = self._told[seen:], len(self._told)
            if any(op is None or not is_wanted(op) for op in news):
                yield

    # -- the operator's hand ----------------------------------------------------------------------------------------

    def set_underlays(
        self, underlays: Sequence[kernel.UnderlayLink], routes: Sequence[kernel.UnderlayRoute] | None = None
    ) -> None:
        """Give the host other links below the overlay, or the same ones other addresses; routes stay unless given."""
        with self._lock:
            for link in self._underlays:
                if link.name not in {new.name for new in underlays}:
                    self._space.delete_link(link.name)
            for link in underlays:
                known = self._space.links.setdefault(
                    link.name, fake_namespace.FakeLink(kind="underlay", mac=UNDERLAY_MAC, mtu=link.mtu, up=link.up)
                )
                known.mtu, known.up = link.mtu, link.up
            self._underlays = list(underlays)
            self._routes = self._routes if routes is None else list(routes)
        self._notify()

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

    def delete(self, obj: netstate.KernelObject) -> None:
        """Take an object away behind everybody's back."""
        with self._lock:
            self._space.remove(obj)
        self._notify(_notice_of(netstate.Remove(obj=obj)))

    def add_foreign_link(self, name: netstate.IfName, kind: str = "bridge") -> None:
        """A link that somebody else made, without our alias."""
        with self._lock:
            self._space.links[name] = fake_namespace.FakeLink(kind=kind, mac=FOREIGN_MAC, mtu=1500)
        self._notify()

    def add_foreign(self, obj: netstate.Address | netstate.Neighbour | netstate.Route) -> None:
        """An object that somebody else made; a route takes the place of ours, and has proto boot unless it says."""
        with self._lock:
            if isinstance(obj, netstate.Route):
                self._space.objects.pop(netstate.key_of(obj), None)
                self._space.foreign_routes[netstate.key_of(obj)] = _foreign(obj)
            else:
                self._space.objects[netstate.key_of(obj)] = obj
        self._notify(_notice_of(netstate.Add(obj=obj)) if isinstance(obj, netstate.Neighbour) else None)

    def has_foreign(self, obj: netstate.Address | netstate.Neighbour | netstate.Route) -> bool:
        """Whether what `add_foreign` made is still there."""
        with self._lock:
            if isinstance(obj, netstate.Route):
                return self._space.foreign_routes.get(netstate.key_of(obj)) == _foreign(obj)
            return self._space.objects.get(netstate.key_of(obj)) == obj

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

    def take_reserved(self, name: netstate.IfName) -> None:
        """`ip link set NAME type bridge_slave group_fwd_mask 0`."""
        with self._lock:
            self._space.links[name].takes_reserved = True
        self._notify()

    def take_away(self, peer: netstate.IfName) -> None:
        """Move the far end of a pair into a container."""
        with self._lock:
            del self._space.links[peer]
        self._notify()

    def bring_back(self, peer: netstate.IfName) -> None:
        """Move the far end of a pair out of a container again."""
        with self._lock:
            near, link = next((name, link) for name, link in self._space.links.items() if link.peer == peer)
            far = fake_namespace.FakeLink(kind="veth", mac=link.mac, mtu=link.mtu, up=False, peer=near)
            self._space.links[peer] = far
        self._notify()

    def _notify(self, *told: netstate.Op | None) -> None:
        """Tell of entries what became of them, of anything else (None, and that by default) only that it changed."""
        with self._changed:
            self._told += told or (None,)
            self._changed.notify_all()


def _foreign(route: netstate.Route) -> netstate.Route:
    ours = route.protocol == netstate.ROUTE_PROTOCOL
    return dataclasses.replace(route, protocol=fake_namespace.RTPROT_BOOT) if ours else route


def _is_silent(op: netstate.Op) -> bool:
    return isinstance(diff.target_of(op), netstate.Sysctl)


def _notice_of(op: netstate.Op) -> netstate.Op | None:
    """What the kernel says after a change of an entry; None for a link or an address."""
    obj = diff.target_of(op)
    if not isinstance(obj, netstate.Neighbour | netstate.FdbEntry | netstate.Route):
        return None
    return op if isinstance(op, netstate.Remove) else netstate.Add(obj=obj)
