"""What a notice of the kernel says of an entry or a route: that it came to be, or is no more what it was.

Pure. Used by `kernel_events`. Source: rtnetlink(7); linux/neighbour.h; drivers/net/vxlan/vxlan_core.c.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from overlay import netstate, rtnl

_NOWHERE = ipaddress.IPv4Address(0)
_NOBODY = netstate.Mac("00:00:00:00:00:00")


def parse_neighbour_notice(data: bytes, kind: int, at: int, end: int, link: netstate.IfName) -> netstate.Op | None:
    """About a neighbour or a forwarding entry of `link`, a VXLAN device; None where it is neither.

    Remove for one that went, and for one that is there but not permanent, as an entry is that is being deleted.
    """
    row = rtnl.parse_neighbour_row(data, at, end)
    there = kind == rtnl.RTM_NEWNEIGH and bool(row.state & rtnl.NUD_PERMANENT)
    obj: netstate.KernelObject
    if row.family == rtnl.AF_BRIDGE:
        if row.mac is None or not row.flags & rtnl.NTF_SELF:
            return None
        obj = netstate.FdbEntry(link=link, mac=row.mac, vtep_ip=row.ip or _NOWHERE)
    else:
        if row.ip is None:
            return None
        obj = netstate.Neighbour(link=link, ip=row.ip, mac=row.mac or _NOBODY)
    return netstate.Add(obj=obj) if there else netstate.Remove(obj=obj)


def parse_route_notice(
    data: bytes, kind: int, at: int, end: int, names: Mapping[int, netstate.IfName]
) -> netstate.Op | None:
    """About a route of ours in the main table, where it can be told; None for any other route."""
    row = rtnl.parse_route(data, at, end)
    if row.protocol != netstate.ROUTE_PROTOCOL or row.gateway is None or row.index not in names:
        return None
    route = netstate.Route(destination=row.destination, gateway=row.gateway, link=names[row.index], onlink=row.onlink)
    return netstate.Add(obj=route) if kind == rtnl.RTM_NEWROUTE else netstate.Remove(obj=route)
