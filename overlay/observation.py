"""What is ours in the kernel, read table by table: what `kernel_netlink` shows of a namespace.

Used by `kernel_netlink` alone, over one socket. Ours are links with our alias or a desired name, what hangs on them,
and routes of our protocol. Of the routes on a VXLAN device that is ours those are shown too that flanneld left there,
with their own protocol: ours take their place, and those of peers that are gone are taken away.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

from overlay import ethtool, kernel_events, netstate, rtnl, rtnl_links, rtnl_socket


class Observation:
    """What is ours, read table by table over one socket."""

    def __init__(self, sock: rtnl_socket.RtnlSocket, desired: netstate.NetState) -> None:
        self._socket = sock
        self.objects: list[netstate.KernelObject] = []
        rows = [rtnl_links.parse_link(*message) for message in sock.dump(rtnl.RTM_GETLINK, rtnl.link_request())]
        names = {row.index: row.name for row in rows}
        named = {obj.name for obj in desired if isinstance(obj, netstate.Link)}
        shown = {
            row.index: _with_features(link)
            for row in rows
            if (row.is_ours or (row.name in named and rtnl_links.may_take(row)))
            and (link := rtnl_links.show_link(row, names)) is not None
        }
        self.objects += shown.values()
        vxlan = {index: link.name for index, link in shown.items() if isinstance(link, netstate.VxlanLink)}
        self.links = kernel_events.Links(names=names, vxlan=vxlan)
        self._read_addresses(shown, desired)
        for index, name in vxlan.items():
            self._read_entries(index, name)
        self._read_routes(self.links)

    def _read_addresses(self, shown: Mapping[int, netstate.Link], desired: netstate.NetState) -> None:
        """The kernel gives every link an address of its own making; that one is shown only where it is desired."""
        for family in (rtnl.AF_INET, rtnl.AF_INET6):
            for message in self._socket.dump(rtnl.RTM_GETADDR, rtnl.address_request(family)):
                row = rtnl.parse_address(*message)
                link = None if row is None else shown.get(row.index)
                if row is None or not isinstance(link, netstate.VxlanLink | netstate.BridgeLink):
                    continue
                address = netstate.Address(link=link.name, interface=row.interface)
                made_by_kernel = row.interface.version == 6 and row.scope == rtnl.SCOPE_LINK
                if not made_by_kernel or address in desired:
                    self.objects.append(address)

    def _read_entries(self, index: int, name: netstate.IfName) -> None:
        for data, at, end in self._socket.dump(rtnl.RTM_GETNEIGH, rtnl.neighbour_request(index)):
            neighbour = rtnl.parse_neighbour(data, at, end, name)
            if neighbour is not None:
                self.objects.append(neighbour)
        for data, at, end in self._socket.dump(rtnl.RTM_GETNEIGH, rtnl.fdb_request(index)):
            entry = rtnl.parse_fdb_entry(data, at, end, name)
            if entry is not None:
                self.objects.append(entry)

    def _read_routes(self, links: kernel_events.Links) -> None:
        for family in (rtnl.AF_INET, rtnl.AF_INET6):
            for row in self._dump_routes(rtnl.route_request(family, netstate.ROUTE_PROTOCOL)):
                if row.gateway is not None and row.index in links.names:
                    self.objects.append(_show_route(row, row.gateway, links.names[row.index]))
        own = {obj.destination for obj in self.objects if isinstance(obj, netstate.Route)}
        for index, name in links.vxlan.items():
            for family in (rtnl.AF_INET, rtnl.AF_INET6):
                for row in self._dump_routes(rtnl.route_request(family, rtnl.RTPROT_BOOT, index)):
                    if row.gateway is not None and _is_flannelds(row) and row.destination not in own:
                        self.objects.append(_show_route(row, row.gateway, name))

    def _dump_routes(self, request: bytes) -> Iterator[rtnl.RouteRow]:
        return (rtnl.parse_route(*message) for message in self._socket.dump(rtnl.RTM_GETROUTE, request))


def _show_route(row: rtnl.RouteRow, gateway: netstate.IPAddress, link: netstate.IfName) -> netstate.Route:
    return netstate.Route(
        destination=row.destination, gateway=gateway, link=link, onlink=row.onlink, protocol=row.protocol
    )


def _is_flannelds(row: rtnl.RouteRow) -> bool:
    """Whether the route is as flanneld writes it: `10.2.21.0/24 via 10.2.21.0 dev flannel.1 onlink`, proto boot."""
    return row.onlink and row.gateway == row.destination.network_address and row.protocol == rtnl.RTPROT_BOOT


def _with_features(link: netstate.Link) -> netstate.Link:
    """The link with what rtnetlink does not tell of it. Gone since it was listed: whatever it was."""
    if isinstance(link, netstate.VxlanLink):
        with contextlib.suppress(OSError):
            return dataclasses.replace(link, tx_checksum=ethtool.read_tx_checksum(link.name))
    return link
