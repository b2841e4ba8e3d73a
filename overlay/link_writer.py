"""Makes, adopts, changes and deletes links: the part of the kernel adapter that holds more than one message.

Used by `kernel_netlink` alone, one writer per operation. Raises OSError with the kernel's own words, or ours.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Sequence
from typing import Any, assert_never

from overlay import diff, ethtool, faults, link_messages, netstate, rtnl, rtnl_links, rtnl_socket, sysctls

ALIAS = ("IFLA_IFALIAS", netstate.LINK_ALIAS)


class NameTaken(rtnl_socket.Refusal):
    """A link that is not ours has the name."""


class LinkWriter:
    """Links of the namespace that the socket was opened in."""

    def __init__(self, sock: rtnl_socket.RtnlSocket, parameters: sysctls.Sysctls) -> None:
        self._socket = sock
        self._sysctls = parameters

    def find(self, name: netstate.IfName) -> rtnl_links.LinkRow | None:
        """The link of this name."""
        try:
            return rtnl_links.parse_link(*self._socket.get(rtnl.RTM_GETLINK, rtnl.link_request(name)))
        except rtnl_socket.Refusal as exc:
            if exc.errno == errno.ENODEV:
                return None
            raise

    def find_routerless(self) -> frozenset[str]:
        """The links on which no router of the host's can be: ours, and ports of any bridge."""
        dump = self._socket.dump(rtnl.RTM_GETLINK, rtnl.link_request())
        rows = [rtnl_links.parse_link(*message) for message in dump]
        return frozenset(row.name for row in rows if row.is_ours or row.in_bridge)

    def refuse_strange(self, name: netstate.IfName) -> None:
        """Raise NameTaken where the link of this name is a bridge of somebody else's.

        For a moment one of ours looks so: the kernel takes no alias for a link that it makes.
        """
        for pause_s in (0.001, 0.01, 0.1):
            row = self.find(name)
            if row is None or rtnl_links.may_take(row):
                return
            time.sleep(pause_s)
        raise NameTaken(errno.EEXIST, f"{name} is a bridge that is not ours")

    def ensure(self, new: netstate.Link) -> None:
        """Make the link be there as it should: made, adopted, changed in place, or deleted and made anew."""
        try:
            self._ensure(new)
        except rtnl_socket.Refusal as exc:
            if exc.errno != errno.EEXIST or not index_of(new.name):
                raise
            self._ensure(new)  # somebody made it since we looked: see whether it is right

    def _ensure(self, new: netstate.Link) -> None:
        match new:
            case netstate.VxlanLink():
                self._ensure_vxlan(new)
            case netstate.BridgeLink():
                self.refuse_strange(new.name)
                row = self._find_kind(new.name, "bridge")
                if row is None:
                    self._make_bridge(new)
                else:
                    self._hear_no_routers(new.name)
                    self._change(row, mac=new.mac, mtu=new.mtu)
                    if rtnl_links.learns_reserved(row) != new.learns_reserved:
                        self._send([self._learning(new)])
            case netstate.VethPair() if not index_of(new.name):
                self._make_pair(new)
            case netstate.VethPair() | netstate.BridgePort():
                self._ensure_port(new)
            case _:
                assert_never(new)

    def remove(self, old: netstate.Link) -> None:
        """Delete the link and, of a pair, both ends. Another's link under the name is left alone."""
        match old:
            case netstate.VxlanLink():
                kind = "vxlan"
            case netstate.BridgeLink():
                kind = "bridge"
            case netstate.VethPair() | netstate.BridgePort():
                kind = "veth"
            case _:
                assert_never(old)
        row = self.find(old.name)
        if row is not None and row.kind == kind and rtnl_links.may_take(row):
            self._delete(row)

    def _ensure_vxlan(self, new: netstate.VxlanLink) -> None:
        underlay = _require_index(new.underlay)
        row = self._find_kind(new.name, "vxlan")
        seen = None if row is None else rtnl_links.show_link(row, {underlay: new.underlay})
        if row is not None and isinstance(seen, netstate.VxlanLink) and diff.must_recreate(seen, new):
            self._delete(row)
            row = None
        if row is None or not isinstance(seen, netstate.VxlanLink):
            self._make_vxlan(new, underlay)
            return
        if seen.local != new.local:
            self._send([link_messages.move_vxlan(new, row.index, self._socket.next_sequence())])
        self._hear_no_routers(new.name)  # whoever made it may have been killed before it came to that
        self._change(row, mac=new.mac, mtu=new.mtu)
        _ensure_features(new)

    def _make_vxlan(self, new: netstate.VxlanLink, underlay: int) -> None:
        make = link_messages.make_vxlan(new, underlay, self._socket.next_sequence())
        self._send([make, self._change_named(new.name, [ALIAS])])
        self._hear_no_routers(new.name)
        _ensure_features(new)  # before it is up: no packet leaves with a checksum that nobody finishes
        self._send([self._change_named(new.name, [], up=True)])
        row = self.find(new.name)
        if row is not None:  # systemd's MACAddressPolicy may have had its own idea
            self._change(row, mac=new.mac, mtu=new.mtu)

    def _hear_no_routers(self, name: netstate.IfName, *, fresh: bool = False) -> None:
        """A container is no router of the host's, be it on this host or on another.

        Nor at its port, for when somebody deletes the bridge. Not all of IPv6 is switched off there: that takes the
        lock of all links, by trying again and again, and a hundred containers at once would start three times slower.
        """
        key = f"net.ipv6.conf.{name.replace('.', '/')}.accept_ra"
        if fresh or self._sysctls.read(key) not in (None, "0"):
            with contextlib.suppress(OSError):  # a kernel without IPv6 has none
                self._sysctls.write(key, "0")

    def _make_bridge(self, new: netstate.BridgeLink) -> None:
        make = link_messages.make_bridge(new, self._socket.next_sequence())
        self._send([make, self._change_named(new.name, [ALIAS, ("IFLA_MTU", new.mtu)]), self._learning(new)])
        self._hear_no_routers(new.name)
        self._send([self._change_named(new.name, [], up=True)])

    def _learning(self, new: netstate.BridgeLink) -> bytes:
        return link_messages.set_reserved_learning(new.name, new.learns_reserved, self._socket.next_sequence())

    def _make_pair(self, new: netstate.VethPair) -> None:
        make = link_messages.make_pair(new, _require_index(new.bridge), self._socket.next_sequence())
        self._send([make, self._port_switches(new)])
        self._hear_no_routers(new.name, fresh=True)

    def _ensure_port(self, new: netstate.VethPair | netstate.BridgePort) -> None:
        row = self._find_kind(new.name, "veth")
        if row is None:
            raise rtnl_socket.Refusal(errno.ENODEV, f"there is no {new.name}")
        bridge, hairpin = _require_index(new.bridge), isinstance(new, netstate.BridgePort) and new.hairpin
        self._hear_no_routers(new.name)
        self._change(row, bridge=bridge, mtu=new.mtu)
        if hairpin != (row.hairpin and row.master == bridge):
            self._send([link_messages.change_port(row.index, self._socket.next_sequence(), hairpin=hairpin)])
        if row.master != bridge or row.takes_reserved or row.isolated != new.isolated:
            self._send([self._port_switches(new)])

    def _port_switches(self, new: netstate.VethPair | netstate.BridgePort) -> bytes:
        return link_messages.set_port(new.name, self._socket.next_sequence(), isolated=new.isolated)

    def _change(
        self, row: rtnl_links.LinkRow, *, mtu: int, mac: netstate.Mac | None = None, bridge: int | None = None
    ) -> None:
        attributes: list[tuple[str, Any]] = []
        if not row.is_ours:
            attributes.append(ALIAS)
        if mac is not None and mac != row.mac:
            attributes.append(("IFLA_ADDRESS", mac))
        if mtu != row.mtu:
            attributes.append(("IFLA_MTU", mtu))
        if bridge is not None and bridge != row.master:
            attributes.append(("IFLA_MASTER", bridge))
        if attributes or not row.up:
            sequence = self._socket.next_sequence()
            self._send([link_messages.change_link(attributes, sequence, index=row.index, up=True)])

    def _change_named(
        self, name: netstate.IfName, attributes: Sequence[tuple[str, Any]], *, up: bool = False
    ) -> bytes:
        """For a link whose index is not known yet."""
        named = [("IFLA_IFNAME", name), *attributes]
        return link_messages.change_link(named, self._socket.next_sequence(), up=up)

    def _find_kind(self, name: netstate.IfName, kind: str) -> rtnl_links.LinkRow | None:
        """The link of this name and kind; one of ours of another kind makes room, a foreign one is refused."""
        row = self.find(name)
        if row is None or row.kind == kind:
            return row
        if not row.is_ours:
            raise NameTaken(errno.EEXIST, f"{name} is a {row.kind or 'device'} that is not ours")
        self._delete(row)
        return None

    def _delete(self, row: rtnl_links.LinkRow) -> None:
        sequence = self._socket.next_sequence()
        body = rtnl.link_removal(row.index)
        try:
            self._send([rtnl.pack_message(rtnl.RTM_DELLINK, rtnl.NLM_F_REQUEST, sequence, body)])
        except rtnl_socket.Refusal as exc:
            if exc.errno != errno.ENODEV:
                raise

    def _send(self, messages: Sequence[bytes]) -> None:
        """In one system call. Raises the first refusal."""
        faults.reached("kernel.link.before")
        refusals = self._socket.transact(messages)
        faults.reached("kernel.link.after")
        for refusal in refusals.values():
            raise refusal


def _ensure_features(new: netstate.VxlanLink) -> None:
    if ethtool.read_tx_checksum(new.name) != new.tx_checksum:
        faults.reached("kernel.feature.before")
        ethtool.write_tx_checksum(new.name, new.tx_checksum)
        faults.reached("kernel.feature.after")


def index_of(name: netstate.IfName) -> int:
    """The number of the link of this name in the calling thread's namespace, 0 if there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _require_index(name: netstate.IfName) -> int:
    index = index_of(name)
    if not index:
        raise rtnl_socket.Refusal(errno.ENODEV, f"there is no {name}")
    return index
