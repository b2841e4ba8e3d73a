"""The kernel port: observe and apply.

Adapters: `kernel_netlink` (rtnetlink and /proc/sys of the network namespace we run in) and `kernel_fake`;
both pass tests/overlay/test_kernel_contract.py. Callers: `reconciler` for everything that is repaired later,
`underlay` for reads. Safe to call from any thread.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from overlay import netstate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One change that the kernel refused. `reason` is the kernel's own text where it gives one.

    `name_taken`: a link that is not ours has the name.
    """

    op: netstate.Op
    reason: str
    name_taken: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnderlayLink:
    """A link of the host as the choice of the underlay interface sees it. Units: `mtu` bytes."""

    name: netstate.IfName
    index: int
    mtu: int
    up: bool
    addresses: tuple[ipaddress.IPv4Interface, ...]
    """Best first: global before link-local, permanent before dynamic, lasting before temporary."""
    has_default_route: bool
    addresses_v6: tuple[ipaddress.IPv6Interface, ...] = ()
    """As `addresses`; link-local ones are left out: no other host could send to them."""
    has_default_route_v6: bool = False

    @property
    def all_addresses(self) -> tuple[netstate.IPInterface, ...]:
        """Those of both families, IPv4 first."""
        return (*self.addresses, *self.addresses_v6)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnderlayRoute:
    """A route of the main table that is not ours. `gateway` None: the destination is on the link itself."""

    destination: netstate.IPNetwork
    gateway: netstate.IPAddress | None
    link: netstate.IfName


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostRange:
    """A range that a link of this host, which is not ours, has inside the flannel network."""

    network: netstate.IPNetwork
    link: netstate.IfName


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostLink:
    """Any link of the host, as the audit sees it. `kind` is "" for hardware; `ours`: it has our alias."""

    name: netstate.IfName
    kind: str
    ours: bool


class Kernel(Protocol):
    """What this host does with links, addresses, neighbours, forwarding entries, routes and sysctls."""

    def observe(self, desired: netstate.NetState) -> netstate.NetState:
        """What is there of ours now: links of `desired` by name or with our ifalias, what hangs on them, our routes.

        Also the routes that flanneld left on a VXLAN device of those, under their own protocol.
        Of sysctls, those that `desired` names. Raises KernelError where the kernel's tables could not be read whole.
        """
        ...

    def apply(self, ops: Sequence[netstate.Op]) -> list[Failure]:
        """Apply in order, try all, return what was refused.

        Twice is safe: adding what is there and removing what is gone succeed. A link that exists under the name but
        cannot be changed in place (other VNI, port, local address, lower device) is deleted and made anew.
        """
        ...

    def list_underlays(self) -> list[UnderlayLink]:
        """The host's links that could carry the overlay, in the kernel's order; ours and loopback left out."""
        ...

    def list_routes(self) -> list[UnderlayRoute]:
        """The unicast routes of the main table, both families, over the links of `list_underlays`; none of ours.

        Of a route over several links the first is listed. Raises KernelError.
        """
        ...

    def list_links(self) -> list[HostLink]:
        """All links of the host, whosoever they are. Raises KernelError."""
        ...

    def vtep_mac(self, name: netstate.IfName) -> netstate.Mac | None:
        """The MAC of the VXLAN device `name`, None where there is no such device."""
        ...

    def tx_checksum(self, name: netstate.IfName) -> bool | None:
        """Whether the device of this name leaves checksums to the hardware; None where there is none."""
        ...

    def observe_silent(self, desired: netstate.NetState) -> netstate.NetState:
        """What is there now of those objects of `desired` that may change without an event: the sysctls. Cheap."""
        ...

    def events(
        self, stop: threading.Event, is_wanted: Callable[[netstate.Op], bool] = lambda _op: False
    ) -> Iterator[None]:
        """Yields whenever links, addresses, neighbours or routes may have changed; ends within a second of `stop`.

        What `is_wanted` says of an entry or a route of ours is not yielded: that it came to be (Add), or is no more
        what it was (Remove, of which the key alone counts). So a caller need not hear of what it does itself.
        The first comes at once: from then on nothing is missed. Many events may come as one. Losing events (a full
        socket buffer) yields too: the caller looks at everything.
        """
        ...
