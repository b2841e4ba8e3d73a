"""The links and routes that are this host's own, as the choice of the underlay needs them.

Used by `kernel_netlink` alone, over one socket. Routes are asked for link by link: the kernel then leaves out those
over our tunnel devices, of which there may be ten thousand (0.3 ms a link, where reading all of them takes 45 ms).
Source: rtnetlink(7), net/ipv4/fib_trie.c (fib_table_dump), flannel pkg/ip/iface.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from overlay import kernel, rtnl, rtnl_links, rtnl_socket

FAMILIES = (rtnl.AF_INET, rtnl.AF_INET6)


def list_links(sock: rtnl_socket.RtnlSocket) -> list[kernel.UnderlayLink]:
    """See `kernel.Kernel.list_underlays`. Raises OSError."""
    addresses = _read_addresses(sock)
    rows = _read_candidates(sock, addresses.keys())
    default_v4, default_v6 = (_default_index(_read_routes(sock, rows, family)) for family in FAMILIES)
    links = []
    for row in rows:
        own = [one.interface for one in addresses.get(row.index, ())]
        v6 = [one for one in own if isinstance(one, ipaddress.IPv6Interface)]
        links.append(
            kernel.UnderlayLink(
                name=row.name,
                index=row.index,
                mtu=row.mtu,
                up=row.up,
                addresses=tuple(one for one in own if isinstance(one, ipaddress.IPv4Interface)),
                has_default_route=row.index == default_v4,
                addresses_v6=tuple(v6),
                has_default_route_v6=row.index == default_v6,
            )
        )
    return links


def list_routes(sock: rtnl_socket.RtnlSocket) -> list[kernel.UnderlayRoute]:
    """See `kernel.Kernel.list_routes`. Raises OSError."""
    rows = _read_candidates(sock, _read_addresses(sock).keys())
    names = {row.index: row.name for row in rows}
    return [
        kernel.UnderlayRoute(destination=route.destination, gateway=route.gateway, link=names[route.index])
        for family in FAMILIES
        for route in _read_routes(sock, rows, family)
        if route.index in names and not (route.destination.version == 6 and route.destination.is_link_local)
    ]


def _read_addresses(sock: rtnl_socket.RtnlSocket) -> dict[int, list[rtnl.LinkAddress]]:
    """The addresses of each link that peers could send to, best first."""
    found: dict[int, list[rtnl.LinkAddress]] = {}
    for family in FAMILIES:
        for message in sock.dump(rtnl.RTM_GETADDR, rtnl.address_request(family)):
            address = rtnl.parse_address(*message)
            if address is not None and _is_underlay_address(address):
                found.setdefault(address.index, []).append(address)
    return {index: sorted(addresses, key=_rank_address) for index, addresses in found.items()}


def _read_candidates(sock: rtnl_socket.RtnlSocket, addressed: Iterable[int]) -> list[rtnl_links.LinkRow]:
    """Links that may carry the overlay: none of ours, and no port without addresses of its own."""
    usable = frozenset(addressed)
    rows = (rtnl_links.parse_link(*message) for message in sock.dump(rtnl.RTM_GETLINK, rtnl.link_request()))
    return [
        row
        for row in rows
        if not row.is_ours and not row.flags & rtnl.IFF_LOOPBACK and not (row.master and row.index not in usable)
    ]


def _read_routes(
    sock: rtnl_socket.RtnlSocket, rows: Sequence[rtnl_links.LinkRow], family: int
) -> list[rtnl.RouteRow]:
    """Foreign routes, those over one link in the order in which the kernel prefers them."""
    found: dict[rtnl.RouteRow, None] = {}  # one over several links is told for each of them
    for row in rows:
        for data, at, end in sock.dump(rtnl.RTM_GETROUTE, rtnl.route_request(family, 0, row.index)):
            if not rtnl.is_our_route(data, at):
                found[rtnl.parse_route(data, at, end)] = None
    return sorted(found, key=lambda route: route.metric)


def _default_index(routes: Iterable[rtnl.RouteRow]) -> int:
    return next((route.index for route in routes if route.destination.prefixlen == 0), 0)


def _rank_address(address: rtnl.LinkAddress) -> tuple[bool, bool, bool]:
    """Sorts addresses best first, as flannel does: global, permanent, lasting ones before others."""
    return (
        address.interface.is_link_local,
        not address.flags & rtnl.IFA_F_PERMANENT,
        bool(address.flags & rtnl.IFA_F_TEMPORARY),
    )


def _is_underlay_address(address: rtnl.LinkAddress) -> bool:
    """Whether peers could send to it. An IPv6 link-local one is no choice: it needs a link to go with it."""
    ip = address.interface.ip
    unfit = ip.is_loopback or ip.is_multicast or bool(address.flags & (rtnl.IFA_F_DEPRECATED | rtnl.IFA_F_DADFAILED))
    return not unfit and not (ip.version == 6 and ip.is_link_local)
