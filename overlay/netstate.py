"""Kernel objects as values: what a NetState holds, desired or observed, and one change to it.

Pure. Backends and `driver.desired` make desired states, the kernel port observes and applies, `diff` compares.
`Op`s print as the line an operator would type: logs and tests read like a terminal.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable
from typing import ClassVar, NewType

IfName = NewType("IfName", str)
Mac = NewType("Mac", str)
"""Lower case, colons."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

ROUTE_PROTOCOL = 70
"""rtm_protocol of our routes: how they are recognised after a restart. Unassigned in rtnetlink.h."""

LINK_ALIAS = "flannelpy"
"""ifalias of our links: how they are recognised after a restart, whatever they are called."""


BRIDGE_PREFIX = "fp-"
"""What the names begin with that we give bridges. A bridge of such a name is ours whatever its alias; one of a name
that an operator chose is ours by its alias alone."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sysctl:
    """One kernel parameter, key in dots: `net.ipv4.ip_forward`.

    `optional`: not asked for where the link has no such parameter, as a link without IPv6 has none of its parameters;
    and its refusal is told, but refuses nothing else.
    """

    key: str
    value: str
    optional: bool = False

    @property
    def link(self) -> IfName | None:
        """The link that the parameter is one of; None for one of the whole host.

        Dots and slashes change places in a name: `net.ipv6.conf.eth0/7.disable_ipv6` is of eth0.7.
        """
        parts = self.key.split(".")
        if len(parts) != 5 or parts[:3] not in (["net", "ipv4", "conf"], ["net", "ipv6", "conf"]):
            return None
        return None if parts[3] in {"all", "default"} else IfName(parts[3].replace("/", "."))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VxlanLink:
    """A VTEP device. Units: `mtu` bytes of the overlay. `underlay` is the lower device's name.

    `up` is False only in an observation: what is desired is always up, here and below.
    """

    name: IfName
    vni: int
    port: int
    local: IPAddress
    underlay: IfName
    mac: Mac
    mtu: int
    learning: bool = False
    gbp: bool = False
    tx_checksum: bool = True
    """The kernel's feature tx-checksum-ip-generic: on unless somebody switched it off."""
    up: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BridgeLink:
    """A bridge.

    `learns_reserved`: it learns MACs from frames that it does not forward (LLDP, pause), which no packet filter sees.
    """

    name: IfName
    mac: Mac
    mtu: int
    learns_reserved: bool = False
    up: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VethPair:
    """A veth pair of which both ends are on the host: `name` up in `bridge`, `peer` for Docker to take away.

    `isolated`: as in BridgePort.
    """

    name: IfName
    peer: IfName
    bridge: IfName
    mtu: int
    isolated: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BridgePort:
    """The host's end of a veth whose peer is in a container. Repaired, never created.

    Observed, it also stands for the host's end of a VethPair; its bridge is "" where it is in none. `hairpin`: frames
    may leave through the port that they came in by, so that a container reaches itself through a published port. The
    bridge passes nothing from one `isolated` port to another, only to itself and to others.

    `takes_reserved`: frames to a reserved MAC (01:80:c2:00:00:0e, LLDP, and its neighbours) go to the host's stack
    at the port itself, past the bridge and its packet filter, be they LLDP or a router advertisement. True only in an
    observation.
    """

    name: IfName
    bridge: IfName
    mtu: int
    hairpin: bool = False
    isolated: bool = False
    takes_reserved: bool = False
    up: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address of one of our links."""

    link: IfName
    interface: IPInterface


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A permanent ARP or ND entry."""

    link: IfName
    ip: IPAddress
    mac: Mac


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FdbEntry:
    """A permanent `self` forwarding entry of a VXLAN device: frames to `mac` go to the VTEP at `vtep_ip`."""

    link: IfName
    mac: Mac
    vtep_ip: IPAddress


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route in the main table; what is desired has protocol ROUTE_PROTOCOL, what flanneld left another."""

    destination: IPNetwork
    gateway: IPAddress
    link: IfName
    onlink: bool = True
    protocol: int = ROUTE_PROTOCOL


Link = VxlanLink | BridgeLink | VethPair | BridgePort
KernelObject = Sysctl | Link | Address | Neighbour | FdbEntry | Route
NetState = frozenset[KernelObject]
"""A set of kernel objects, desired or observed, in which no two share a key (see `key_of`)."""

Key = tuple[str | bytes | int, ...]
"""The kind of object first. Addresses are packed: as text they cost five times as much, and peers are many."""

EMPTY: NetState = frozenset()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """Make it so, whatever is there under the same key now."""

    verb: ClassVar[str] = "add"
    obj: KernelObject


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Turn `old` into `new`; both have one key."""

    verb: ClassVar[str] = "change"
    old: KernelObject
    new: KernelObject


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Take it away; gone already is success."""

    verb: ClassVar[str] = "remove"
    obj: KernelObject


Op = Add | Change | Remove


def is_part(part: IPNetwork, whole: IPNetwork) -> bool:
    """Whether `part` lies in `whole`; never where they are of two families, for which `subnet_of` raises."""
    return part.prefixlen >= whole.prefixlen and part.network_address in whole


def key_of(obj: KernelObject) -> Key:
    """What the kernel lets exist once: a later object with the same key replaces the earlier."""
    match obj:
        case Sysctl():
            return ("sysctl", obj.key)
        case VxlanLink() | BridgeLink() | VethPair() | BridgePort():
            return ("link", obj.name)
        case Address():
            return ("address", obj.link, obj.interface.packed, obj.interface.network.prefixlen)
        case Neighbour():
            return ("neighbour", obj.link, obj.ip.packed)
        case FdbEntry():
            return ("fdb", obj.link, obj.mac)
        case Route():
            return ("route", obj.destination.network_address.packed, obj.destination.prefixlen)


def carrier_of(obj: KernelObject) -> IfName | None:
    """The link that the object changes by being there: which it is given to, or whose port it is."""
    match obj:
        case Address(link=link) | Sysctl(link=link):
            return link
        case VethPair(bridge=bridge) | BridgePort(bridge=bridge):
            return bridge
        case _:
            return None


def index(state: Iterable[KernelObject]) -> dict[Key, KernelObject]:
    """The objects by key; of two with one key the last stays."""
    return {key_of(obj): obj for obj in state}
