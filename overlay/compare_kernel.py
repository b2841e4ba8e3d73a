"""What the kernel and the packet filter have, against what the rows and the leases come to.

Pure. Caller: `plugin.audit`, which hands in what it has just read: nothing here asks what the reconciler thinks it
has done. The kernel only ever follows, so a full pass mends what it can see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from overlay import diff, difference, firewall_port, kernel, netstate

Kind = difference.Kind
Difference = difference.Difference

OUR_NAMES = ("fp-", "fph", "fpc")
"""How names of our links begin, which may have lost their mark. A `flannel.9` may be a flanneld's."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look: `observed` as the reconciler's, `links` all of the host."""

    observed: netstate.NetState
    links: tuple[kernel.HostLink, ...]


def with_desired(desired: netstate.NetState, seen: Seen) -> Iterator[Difference]:
    """The kernel's objects against those desired."""
    for op in diff.plan(desired, seen.observed):
        if not (isinstance(op, netstate.Remove) and isinstance(op.obj, netstate.Link)):
            yield _of_op(op)
    yield from with_links(desired, seen.links)


def with_links(desired: netstate.NetState, links: Iterable[kernel.HostLink]) -> Iterator[Difference]:
    """Links by their names alone: what is lost for good, and what nobody wants."""
    links = list(links)
    yield from _lost_ports(desired, {link.name for link in links})
    wanted = {obj.name for obj in desired if isinstance(obj, netstate.Link)}
    wanted |= {obj.peer for obj in desired if isinstance(obj, netstate.VethPair)}
    for link in links:
        if link.name not in wanted and (link.ours or link.name.startswith(OUR_NAMES)):
            yield _left_link(link)


def with_firewall(found: Iterable[firewall_port.Finding]) -> Iterator[Difference]:
    """The packet filter's findings, all of which the next write mends."""
    for one in found:
        yield Difference(
            kind=Kind(f"firewall:{one.how.value}"),
            thing=one.place,
            says=difference.Says(state=one.wanted or difference.ABSENT, kernel=one.seen or difference.ABSENT),
            repair="write the rules again",
        )


def name_of(obj: netstate.KernelObject) -> str:
    """The object without its properties, as an operator would name it."""
    match obj:
        case netstate.Sysctl(key=key):
            return f"sysctl {key}"
        case netstate.Address(link=link, interface=interface):
            return f"address {interface} dev {link}"
        case netstate.Neighbour(link=link, ip=ip):
            return f"neighbour {ip} dev {link}"
        case netstate.FdbEntry(link=link, mac=mac):
            return f"fdb {mac} dev {link}"
        case netstate.Route(destination=destination):
            return f"route {destination}"
        case _:
            return f"link {obj.name}"


def _of_op(op: netstate.Op) -> Difference:
    repair = diff.format_op(op)
    match op:
        case netstate.Add(obj=obj):
            says = difference.Says(state=_text(obj), kernel=difference.ABSENT)
            return Difference(kind=Kind.KERNEL_MISSING, thing=name_of(obj), says=says, repair=repair)
        case netstate.Change(old=old, new=new):
            says = difference.Says(state=_text(new), kernel=_text(old))
            return Difference(kind=Kind.KERNEL_CHANGED, thing=name_of(new), says=says, repair=repair)
        case netstate.Remove(obj=obj):
            says = difference.Says(state=difference.ABSENT, kernel=_text(obj))
            return Difference(kind=Kind.KERNEL_STALE, thing=name_of(obj), says=says, repair=repair)


def _lost_ports(desired: netstate.NetState, there: AbstractSet[netstate.IfName]) -> Iterator[Difference]:
    """A container's link cannot be made anew from outside: only its next start does."""
    lost = (obj for obj in desired if isinstance(obj, netstate.BridgePort) and obj.name not in there)
    for port in sorted(lost, key=lambda port: port.name):
        yield Difference(
            kind=Kind.PORT_LOST,
            thing=f"link {port.name}",
            says=difference.Says(state=_text(port), kernel=difference.ABSENT),
        )


def _left_link(link: kernel.HostLink) -> Difference:
    """A link with our mark is the next pass's to remove; one that has no more than a name like ours is nobody's."""
    return Difference(
        kind=Kind.KERNEL_STALE if link.ours else Kind.LINK_LEFT,
        thing=f"link {link.name}",
        says=difference.Says(state=difference.ABSENT, kernel=f"{link.kind or 'device'} {link.name}"),
        repair=f"ip link del {link.name}" if link.ours else "",
    )


def _text(obj: netstate.KernelObject) -> str:
    """All of its properties, in the words that make it."""
    shown = diff.host_end(obj) if isinstance(obj, netstate.VethPair) else obj
    up = getattr(shown, "up", True)
    return diff.format_op(netstate.Add(obj=shown)) + ("" if up else " && ip link set down")
