"""Routes that stand where one of ours is to be: replaced where they are ours or flanneld's, and never another's.

Used by `kernel_netlink` alone: for what the kernel refused, since with nothing in the way no route need be looked at,
and before many are written, most of which may be there already. Else docker0's own route could be gone for good.
Source: net/ipv4/fib_trie.c (fib_table_insert), net/ipv6/ip6_fib.c, net/ipv6/route.c (ip6_route_check_nh_onlink).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Mapping, Sequence

from overlay import diff, faults, link_writer, netstate, rtnl, rtnl_socket

Found = Mapping[netstate.IPNetwork, list[rtnl.RouteRow]]


MANY = 64
"""Routes to be written at once, from which on one look before costs less than refusals."""


class Standing(OSError):
    """A route that is not ours stands in the place of one that is to be."""


def may_stand(op: netstate.Op, refusal: OSError) -> bool:
    """Whether the kernel refused a route because of another one.

    It refuses an IPv6 gateway that it finds on another link, too, be it by the very route that is to be replaced.
    """
    route = diff.target_of(op)
    if isinstance(op, netstate.Remove) or not isinstance(route, netstate.Route):
        return False
    return refusal.errno == errno.EEXIST or (
        refusal.errno == errno.EINVAL and route.destination.version == 6 and route.onlink
    )


def find_standing(sock: rtnl_socket.RtnlSocket, ops: Sequence[netstate.Op]) -> dict[netstate.Op, OSError]:
    """Those of these changes in whose place somebody else's route stands, and which. Raises OSError."""
    foreign = _read_foreign(sock)
    found: dict[netstate.Op, OSError] = {}
    for op in ops:
        route = diff.target_of(op)
        if isinstance(route, netstate.Route) and not isinstance(op, netstate.Remove):
            other = _find_other(foreign, route)
            if other is not None:
                found[op] = _explain(other)
    return found


def replace(sock: rtnl_socket.RtnlSocket, stopped: Sequence[netstate.Op]) -> dict[netstate.Op, OSError]:
    """Put those routes in the place of others that may go; what is refused then. Raises OSError."""
    if not stopped:
        return {}
    refused = find_standing(sock, stopped)
    sent: dict[int, netstate.Op] = {}
    messages = []
    for op in stopped:
        if op not in refused:
            route, sequence = _route_of(op), sock.next_sequence()
            sent[sequence] = op
            messages.append(rtnl.pack_entry(route, link_writer.index_of(route.link), sequence, replace=True))
    faults.reached("kernel.entries.before")
    refusals = sock.transact(messages)
    faults.reached("kernel.entries.after")
    for sequence, refusal in refusals.items():
        left = _make_way(sock, _route_of(sent[sequence]), refusal)
        if left is not None:
            refused[sent[sequence]] = left
    return refused


def _make_way(sock: rtnl_socket.RtnlSocket, route: netstate.Route, refusal: OSError) -> OSError | None:
    """Take away the IPv6 route over another link, and set ours again; what is refused then."""
    if refusal.errno != errno.EINVAL or not isinstance(route.destination, ipaddress.IPv6Network) or not route.onlink:
        return refusal
    index = link_writer.index_of(route.link)
    faults.reached("kernel.entries.before")
    sock.transact([rtnl.pack_way_removal(route.destination, sock.next_sequence())])
    refusals = sock.transact([rtnl.pack_entry(route, index, sock.next_sequence(), replace=True)])
    faults.reached("kernel.entries.after")
    return next(iter(refusals.values()), None)


def _read_foreign(sock: rtnl_socket.RtnlSocket) -> Found:
    """The routes of the main table that are not of our protocol and could be replaced, by destination."""
    found: dict[netstate.IPNetwork, list[rtnl.RouteRow]] = {}
    for family in (rtnl.AF_INET, rtnl.AF_INET6):
        for data, at, end in sock.dump(rtnl.RTM_GETROUTE, rtnl.route_request(family, 0)):
            if not rtnl.is_our_route(data, at):
                row = rtnl.parse_route(data, at, end)
                if row.metric == rtnl.METRIC[family]:  # another metric is another place
                    found.setdefault(row.destination, []).append(row)
    return found


def _find_other(foreign: Found, route: netstate.Route) -> rtnl.RouteRow | None:
    """A route in the place of ours that is not as flanneld writes it: on a device of ours, or just like ours."""
    for row in foreign.get(route.destination, ()):
        like_ours = row.gateway is not None and (route.onlink or row.gateway == route.gateway)
        if not like_ours or row.index != link_writer.index_of(route.link):
            return row
    return None


def _explain(row: rtnl.RouteRow) -> Standing:
    try:
        link = socket.if_indextoname(row.index)
    except OSError:
        link = f"link {row.index}"
    via = "" if row.gateway is None else f" via {row.gateway}"
    return Standing(
        errno.EEXIST,
        f"there is a route that is not ours: {row.destination}{via} dev {link}; take away one of the two",
    )


def _route_of(op: netstate.Op) -> netstate.Route:
    route = diff.target_of(op)
    assert isinstance(route, netstate.Route)  # noqa: S101 - `may_stand` has looked
    return route
