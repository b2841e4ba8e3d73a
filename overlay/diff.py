"""The difference between the kernel state that is desired and the one observed, as changes in a safe order.

Pure. Called by `reconciler` with a whole host or with one owner's slice of it. `format_op` prints a change the way an
operator would type it; it never decides anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import assert_never

from overlay import netstate


def plan(desired: netstate.NetState, observed: netstate.NetState) -> list[netstate.Op]:
    """The changes that turn `observed` into `desired`, in the order in which they can be applied.

    Order: removals that stand in the way of an addition; sysctls of the host, links, their sysctls, addresses,
    neighbours, forwarding entries, routes; the other removals, backwards. Make before break: a peer that moves is
    never without a way to it.
    What hangs on a link that goes away is not removed one by one; what hangs on one that is made anew is added again.
    A BridgePort that is not observed is left out: its container is gone or not there yet.
    """
    fresh = netstate.index(desired - observed)
    stale = netstate.index(observed - desired)
    lost = _lost_links(fresh, stale)
    if lost.wholly or lost.neighbours:
        fresh |= netstate.index(obj for obj in desired & observed if _is_lost(obj, lost))
        stale = {key: obj for key, obj in stale.items() if not _is_lost(obj, lost)}
    removals = [obj for key, obj in stale.items() if key not in fresh and not isinstance(obj, netstate.Sysctl)]
    first, last = _split_removals(removals, fresh.values())
    ops: list[netstate.Op] = [netstate.Remove(obj=obj) for obj in sorted(first, key=_rank, reverse=True)]
    for obj in sorted(fresh.values(), key=_rank):
        ops.extend(_additions(obj, stale.get(netstate.key_of(obj))))
    ops.extend(netstate.Remove(obj=obj) for obj in sorted(last, key=_rank, reverse=True))
    return ops


def must_recreate(old: netstate.VxlanLink, new: netstate.VxlanLink) -> bool:
    """Whether the kernel can make `new` out of `old` only by deleting the device, and all entries with it."""
    return _identity(old) != _identity(new)


def target_of(op: netstate.Op) -> netstate.KernelObject:
    """The object that a change is about: what it makes, or what it takes away."""
    return op.new if isinstance(op, netstate.Change) else op.obj


def host_end(pair: netstate.VethPair) -> netstate.BridgePort:
    """What the kernel shows of a pair on the host, whether or not Docker took the other end away."""
    return netstate.BridgePort(name=pair.name, bridge=pair.bridge, mtu=pair.mtu, isolated=pair.isolated)


def format_op(op: netstate.Op) -> str:
    """The change as an operator would type it."""
    match op:
        case netstate.Add(obj=obj):
            return _format_add(obj)
        case netstate.Change(old=netstate.VxlanLink() as old, new=netstate.VxlanLink() as new) if must_recreate(
            old, new
        ):
            return f"ip link del {old.name} && {_format_add(new)}"
        case netstate.Change(old=old, new=new) if isinstance(old, netstate.Link) and isinstance(new, netstate.Link):
            return _format_link_change(old, new)
        case netstate.Change(new=new):
            return _format_add(new)
        case netstate.Remove(obj=obj):
            return _format_remove(obj)
        case _:
            assert_never(op)


def _additions(obj: netstate.KernelObject, seen: netstate.KernelObject | None) -> list[netstate.Op]:
    if seen is None:
        return [] if isinstance(obj, netstate.BridgePort) else [netstate.Add(obj=obj)]
    if _as_observed(obj) == _as_observed(seen):
        return []
    return [netstate.Change(old=seen, new=obj)]


def _as_observed(obj: netstate.KernelObject) -> netstate.KernelObject:
    return host_end(obj) if isinstance(obj, netstate.VethPair) else obj


def _identity(obj: netstate.KernelObject) -> tuple[object, ...]:
    """What the kernel fixes when it makes a link."""
    if isinstance(obj, netstate.VxlanLink):
        return (type(obj), obj.vni, obj.port, obj.underlay, obj.learning, obj.gbp, obj.local.version)
    return (type(obj),)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Lost:
    """Links by name: `wholly` take with them all that hangs on them, `neighbours` only lose their neighbours."""

    wholly: frozenset[str]
    neighbours: frozenset[str]


def _lost_links(
    fresh: dict[netstate.Key, netstate.KernelObject], stale: dict[netstate.Key, netstate.KernelObject]
) -> _Lost:
    wholly, neighbours = set(), set()
    for key, old in stale.items():
        if not isinstance(old, netstate.VxlanLink | netstate.BridgeLink):
            continue
        new = fresh.get(key)
        if new is None or _identity(new) != _identity(old):
            wholly.add(old.name)
        elif isinstance(new, netstate.VxlanLink | netstate.BridgeLink) and new.mac != old.mac:
            neighbours.add(old.name)  # the kernel flushes them when the device's own MAC changes
    return _Lost(wholly=frozenset(wholly), neighbours=frozenset(neighbours))


def _is_lost(obj: netstate.KernelObject, lost: _Lost) -> bool:
    match obj:
        case netstate.Neighbour(link=link):
            return link in lost.wholly or link in lost.neighbours
        case (
            netstate.Address(link=link)
            | netstate.FdbEntry(link=link)
            | netstate.Route(link=link)
            | netstate.Sysctl(link=link)
        ):
            return link in lost.wholly
        case _:
            return False


def _split_removals(
    removals: Iterable[netstate.KernelObject], additions: Iterable[netstate.KernelObject]
) -> tuple[list[netstate.KernelObject], list[netstate.KernelObject]]:
    """Removals that must come before the additions, and the others.

    A VXLAN device holds its VNI and port. An address with another of its own subnet behind it takes that one along;
    but the last address of a link takes the link's routes along, so every other address stays until the end.
    """
    subnets = {(obj.link, obj.interface.network) for obj in additions if isinstance(obj, netstate.Address)}
    first: list[netstate.KernelObject] = []
    last: list[netstate.KernelObject] = []
    for obj in removals:
        in_the_way = isinstance(obj, netstate.VxlanLink) or (
            isinstance(obj, netstate.Address) and (obj.link, obj.interface.network) in subnets
        )
        (first if in_the_way else last).append(obj)
    return first, last


def _rank(obj: netstate.KernelObject) -> tuple[int, netstate.Key]:
    match obj:
        case netstate.Sysctl():
            rank = 0 if obj.link is None else 3
        case netstate.VxlanLink() | netstate.BridgeLink():
            rank = 1
        case netstate.VethPair() | netstate.BridgePort():
            rank = 2
        case netstate.Address():
            rank = 4
        case netstate.Neighbour():
            rank = 5
        case netstate.FdbEntry():
            rank = 6
        case netstate.Route():
            rank = 7
        case _:
            assert_never(obj)
    return rank, netstate.key_of(obj)


def _format_add(obj: netstate.KernelObject) -> str:  # noqa: PLR0911 - one line per kind of object
    match obj:
        case netstate.Sysctl(key=key, value=value):
            return f"sysctl -w {key}={value}"
        case netstate.VxlanLink() as link:
            options = ("learning" if link.learning else "nolearning") + (" gbp" if link.gbp else "")
            features = "" if link.tx_checksum else f" && {_format_tx_checksum(link)}"
            return (
                f"ip link add {link.name} up address {link.mac} mtu {link.mtu} type vxlan id {link.vni}"
                f" dev {link.underlay} local {link.local} dstport {link.port} {options}{features}"
            )
        case netstate.BridgeLink(name=name, mac=mac, mtu=mtu):
            return f"ip link add {name} up address {mac} mtu {mtu} type bridge"
        case netstate.VethPair(name=name, peer=peer, bridge=bridge, mtu=mtu):
            made = f"ip link add {name} up mtu {mtu} master {bridge} type veth peer name {peer} mtu {mtu}"
            plain = netstate.BridgePort(name=name, bridge=bridge, mtu=mtu)
            return " && ".join((made, *_format_port(host_end(obj), plain)))
        case netstate.BridgePort(name=name, bridge=bridge, mtu=mtu):
            plain = netstate.BridgePort(name=name, bridge=bridge, mtu=mtu)
            return " && ".join((f"ip link set {name} up master {bridge} mtu {mtu}", *_format_port(obj, plain)))
        case netstate.Address(link=link_name, interface=interface):
            return f"ip addr add {interface} dev {link_name}"
        case netstate.Neighbour(link=link_name, ip=ip, mac=mac):
            return f"ip neigh replace {ip} lladdr {mac} dev {link_name} nud permanent"
        case netstate.FdbEntry(link=link_name, mac=mac, vtep_ip=vtep_ip):
            return f"bridge fdb replace {mac} dev {link_name} dst {vtep_ip} self permanent"
        case netstate.Route():
            return f"ip route replace {_format_route(obj)}"
        case _:
            assert_never(obj)


def _format_link_change(old: netstate.Link, new: netstate.Link) -> str:
    """Only what differs, so that the log shows what somebody had changed."""
    before, after = _as_observed(old), _as_observed(new)
    words = {"up": "up", "bridge": "master {}", "mac": "address {}", "mtu": "mtu {}", "local": "type vxlan local {}"}
    changed = [
        word.format(getattr(after, field))
        for field, word in words.items()
        if hasattr(after, field) and getattr(after, field) != getattr(before, field, None)
    ]
    lines = [" ".join(["ip link set", new.name, *changed])] if changed else []
    if isinstance(old, netstate.VxlanLink) and isinstance(new, netstate.VxlanLink):
        lines += [_format_tx_checksum(new)] if old.tx_checksum != new.tx_checksum else []
    if isinstance(before, netstate.BridgeLink) and isinstance(after, netstate.BridgeLink):
        learning = f"ip link set {after.name} type bridge no_linklocal_learn {int(not after.learns_reserved)}"
        lines += [learning] if before.learns_reserved != after.learns_reserved else []
    if isinstance(before, netstate.BridgePort) and isinstance(after, netstate.BridgePort):
        lines += _format_port(after, before)
    return " && ".join(lines)


def _format_port(port: netstate.BridgePort, before: netstate.BridgePort) -> list[str]:
    """The switches of a port that differ."""
    switches = (("hairpin", port.hairpin, before.hairpin), ("isolated", port.isolated, before.isolated))
    lines = [
        f"bridge link set dev {port.name} {word} {'on' if on else 'off'}" for word, on, was in switches if on != was
    ]
    if port.takes_reserved != before.takes_reserved:
        mask = "0" if port.takes_reserved else "0xfffd"
        lines.append(f"ip link set {port.name} type bridge_slave group_fwd_mask {mask}")
    return lines


def _format_tx_checksum(link: netstate.VxlanLink) -> str:
    return f"ethtool -K {link.name} tx-checksum-ip-generic {'on' if link.tx_checksum else 'off'}"


def _format_remove(obj: netstate.KernelObject) -> str:
    match obj:
        case netstate.Sysctl(key=key):
            return f"sysctl {key}"
        case netstate.VxlanLink() | netstate.BridgeLink() | netstate.VethPair() | netstate.BridgePort():
            return f"ip link del {obj.name}"
        case netstate.Address(link=link, interface=interface):
            return f"ip addr del {interface} dev {link}"
        case netstate.Neighbour(link=link, ip=ip):
            return f"ip neigh del {ip} dev {link}"
        case netstate.FdbEntry(link=link, mac=mac, vtep_ip=vtep_ip):
            return f"bridge fdb del {mac} dev {link} dst {vtep_ip} self"
        case netstate.Route():
            return f"ip route del {_format_route(obj)}"
        case _:
            assert_never(obj)


def _format_route(route: netstate.Route) -> str:
    onlink = " onlink" if route.onlink else ""
    return f"{route.destination} via {route.gateway} dev {route.link}{onlink} proto {route.protocol}"
