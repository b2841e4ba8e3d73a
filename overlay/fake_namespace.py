"""What one network namespace of the fake kernel holds, and how its objects depend on each other.

Used by `kernel_fake` alone, which locks around every call. It forgets what the kernel forgets: a link that goes takes
along what hangs on it, a link that goes down its routes and neighbours, a new MAC the neighbours.
"""

from __future__ import annotations

import dataclasses
from typing import assert_never

from overlay import diff, netstate

RTPROT_BOOT = 3
NOT_OURS = "that is not ours"
NO_BRIDGE = netstate.IfName("")


@dataclasses.dataclass(slots=True, kw_only=True)
class FakeLink:
    """A link in the fake kernel. `made_as` is what it was created from; None for a link that is not ours."""

    kind: str
    mac: netstate.Mac
    mtu: int
    up: bool = True
    tx_checksum: bool = True
    learns_reserved: bool = True
    isolated: bool = False
    takes_reserved: bool = False
    bridge: netstate.IfName = NO_BRIDGE
    hairpin: bool = False
    peer: netstate.IfName | None = None
    made_as: netstate.Link | None = None


class FakeNamespace:
    """Links and what hangs on them. Not safe between threads."""

    def __init__(self) -> None:
        self.links: dict[netstate.IfName, FakeLink] = {}
        self.objects: dict[netstate.Key, netstate.KernelObject] = {}
        """Addresses, neighbours, forwarding entries and sysctls; and routes of ours."""
        self.foreign_routes: dict[netstate.Key, netstate.Route] = {}

    def observe(self, desired: netstate.NetState) -> netstate.NetState:
        """What is ours, as the port's `observe` has it."""
        named = {obj.name for obj in desired if isinstance(obj, netstate.Link)}
        sysctls = {netstate.key_of(obj) for obj in desired if isinstance(obj, netstate.Sysctl)}
        links = {
            name: seen
            for name, link in self.links.items()
            if (seen := _show(name, link)) is not None
            and (link.made_as is not None or (name in named and not _is_strange(name, link)))
        }
        left = [route for route in self.foreign_routes.values() if _is_flannelds(route, links.get(route.link))]
        ours = (obj for obj in self.objects.values() if _is_ours(obj, links, sysctls))
        return frozenset([*links.values(), *left, *ours])

    def apply(self, op: netstate.Op) -> str:
        """Make one change; returns why not, or ""."""
        match op:
            case netstate.Add(obj=obj) | netstate.Change(new=obj):
                return self.ensure(obj)
            case netstate.Remove(obj=obj):
                return self.remove(obj)
            case _:
                assert_never(op)

    def ensure(self, obj: netstate.KernelObject) -> str:  # noqa: C901, PLR0911 - one for each kind
        """Make the object be there; returns why not, or ""."""
        match obj:
            case _ if (carrier := netstate.carrier_of(obj)) in self.links and _is_strange(
                carrier, self.links[carrier]
            ):
                return f"{carrier} is a bridge {NOT_OURS}"
            case netstate.VxlanLink():
                return self._ensure_vxlan(obj)
            case netstate.BridgeLink():
                return self._ensure_bridge(obj)
            case netstate.VethPair() | netstate.BridgePort():
                return self._ensure_port(obj)
            case netstate.Sysctl(link=link) if link is not None and link not in self.links:
                return "No such file or directory"
            case netstate.Sysctl():
                pass
            case netstate.Address(link=link) | netstate.Neighbour(link=link) | netstate.FdbEntry(link=link):
                if link not in self.links:
                    return f"there is no {link}"
            case netstate.Route(link=link):
                if link not in self.links or not self.links[link].up:
                    return f"{link} is down or missing"
                other = self.foreign_routes.get(netstate.key_of(obj))
                if other is not None and not _may_go(other, obj):
                    return (
                        f"there is a route that is not ours: {other.destination} via {other.gateway} dev {other.link}"
                    )
                self.foreign_routes.pop(netstate.key_of(obj), None)
            case _:
                assert_never(obj)
        self.objects[netstate.key_of(obj)] = obj
        return ""

    def _ensure_vxlan(self, new: netstate.VxlanLink) -> str:
        old = self.links.get(new.name)
        if new.underlay not in self.links:
            return f"there is no {new.underlay}"
        for name, other in self.links.items():
            made = other.made_as
            if (
                name != new.name
                and isinstance(made, netstate.VxlanLink)
                and (made.vni, made.port, made.local.version) == (new.vni, new.port, new.local.version)
            ):
                return "a VXLAN device with the specified VNI already exists"
        if old is not None and old.kind != "vxlan":
            return f"{new.name} is a {old.kind} {NOT_OURS}"
        if old is not None and isinstance(old.made_as, netstate.VxlanLink) and diff.must_recreate(old.made_as, new):
            self.delete_link(new.name)
        return self._make_or_change(new, "vxlan")

    def _ensure_bridge(self, new: netstate.BridgeLink) -> str:
        old = self.links.get(new.name)
        if old is not None and (old.kind != "bridge" or _is_strange(new.name, old)):
            return f"{new.name} is a {old.kind} {NOT_OURS}"
        return self._make_or_change(new, "bridge")

    def _make_or_change(self, new: netstate.VxlanLink | netstate.BridgeLink, kind: str) -> str:
        link = self.links.setdefault(new.name, FakeLink(kind=kind, mac=new.mac, mtu=new.mtu))
        if link.mac != new.mac:
            self.set_mac(new.name, new.mac)
        link.mtu, link.up, link.made_as = new.mtu, True, new
        if isinstance(new, netstate.VxlanLink):
            link.tx_checksum = new.tx_checksum
        else:
            link.learns_reserved = new.learns_reserved
        return ""

    def _ensure_port(self, new: netstate.VethPair | netstate.BridgePort) -> str:
        bridge = self.links.get(new.bridge)
        if bridge is None or bridge.kind != "bridge":
            return f"there is no bridge {new.bridge}"
        link = self.links.get(new.name)
        if link is None and isinstance(new, netstate.BridgePort):
            return f"there is no {new.name}"
        if link is None and isinstance(new, netstate.VethPair):
            mac = netstate.Mac("02:00:00:00:00:03")
            link = self.links[new.name] = FakeLink(kind="veth", mac=mac, mtu=new.mtu, peer=new.peer)
            self.links[new.peer] = FakeLink(kind="veth", mac=mac, mtu=new.mtu, up=False, peer=new.name)
        if link is None or link.kind != "veth":
            return f"{new.name} is no veth"
        link.bridge, link.mtu, link.up, link.made_as = new.bridge, new.mtu, True, new
        link.hairpin = isinstance(new, netstate.BridgePort) and new.hairpin
        link.isolated = new.isolated
        link.takes_reserved = False
        return ""

    def remove(self, obj: netstate.KernelObject) -> str:
        """Take the object away, and what hangs on it; returns ""."""
        match obj:
            case netstate.VxlanLink() | netstate.BridgeLink() | netstate.VethPair() | netstate.BridgePort():
                if obj.name not in self.links or not _is_strange(obj.name, self.links[obj.name]):
                    self.delete_link(obj.name)
            case netstate.Sysctl():
                pass
            case netstate.Address(link=link):
                found = self.objects.pop(netstate.key_of(obj), None)
                left = any(
                    isinstance(other, netstate.Address) and other.link == link for other in self.objects.values()
                )
                if found is not None and not left:
                    self.drop(link, netstate.Route)  # the link no longer speaks IP
            case netstate.Route() if obj.protocol != netstate.ROUTE_PROTOCOL:
                if self.foreign_routes.get(netstate.key_of(obj)) == obj:
                    del self.foreign_routes[netstate.key_of(obj)]
            case netstate.Neighbour() | netstate.FdbEntry() | netstate.Route():
                self.objects.pop(netstate.key_of(obj), None)
            case _:
                assert_never(obj)
        return ""

    def delete_link(self, name: netstate.IfName) -> None:
        """Take a link away with what hangs on it, and the tunnel devices above it."""
        link = self.links.pop(name, None)
        if link is None:
            return
        if link.peer is not None:
            self.links.pop(link.peer, None)
        self.drop(name, netstate.Address, netstate.Neighbour, netstate.FdbEntry, netstate.Route, netstate.Sysctl)
        for above, other in list(self.links.items()):
            if other.bridge == name:
                other.bridge, other.hairpin, other.isolated, other.takes_reserved = NO_BRIDGE, False, False, False
            if isinstance(other.made_as, netstate.VxlanLink) and other.made_as.underlay == name:
                self.delete_link(above)

    def set_mac(self, name: netstate.IfName, mac: netstate.Mac) -> None:
        """Give a link another MAC."""
        self.links[name].mac = mac
        self.drop(name, netstate.Neighbour)

    def drop(self, name: netstate.IfName, *kinds: type[netstate.KernelObject]) -> None:
        """Forget the objects of these kinds that hang on a link."""
        for key, obj in list(self.objects.items()):
            if isinstance(obj, kinds) and getattr(obj, "link", None) == name:
                del self.objects[key]
        if netstate.Route in kinds:
            self.foreign_routes = {key: obj for key, obj in self.foreign_routes.items() if obj.link != name}


def _is_strange(name: netstate.IfName, link: FakeLink) -> bool:
    """See `rtnl_links.may_take`."""
    return link.kind == "bridge" and link.made_as is None and not name.startswith(netstate.BRIDGE_PREFIX)


def _show(name: netstate.IfName, link: FakeLink) -> netstate.Link | None:
    made = link.made_as
    match link.kind:
        case "vxlan" if isinstance(made, netstate.VxlanLink):
            return dataclasses.replace(made, mac=link.mac, mtu=link.mtu, up=link.up, tx_checksum=link.tx_checksum)
        case "bridge":
            return netstate.BridgeLink(
                name=name, mac=link.mac, mtu=link.mtu, learns_reserved=link.learns_reserved, up=link.up
            )
        case "veth":
            return netstate.BridgePort(
                name=name,
                bridge=link.bridge,
                mtu=link.mtu,
                hairpin=link.hairpin,
                isolated=link.isolated,
                takes_reserved=link.takes_reserved,
                up=link.up,
            )
        case _:
            return None


def _is_flannelds(route: netstate.Route, link: netstate.Link | None) -> bool:
    shape = route.onlink and route.gateway == route.destination.network_address
    return isinstance(link, netstate.VxlanLink) and shape and route.protocol == RTPROT_BOOT


def _may_go(other: netstate.Route, route: netstate.Route) -> bool:
    """See `standing_routes`."""
    return other.link == route.link and (route.onlink or other.gateway == route.gateway)


def _is_ours(
    obj: netstate.KernelObject, links: dict[netstate.IfName, netstate.Link], sysctls: set[netstate.Key]
) -> bool:
    match obj:
        case netstate.Sysctl():
            return netstate.key_of(obj) in sysctls
        case netstate.Address(link=link):
            return link in links
        case netstate.Neighbour(link=link) | netstate.FdbEntry(link=link):
            return isinstance(links.get(link), netstate.VxlanLink)
        case _:
            return isinstance(obj, netstate.Route)
