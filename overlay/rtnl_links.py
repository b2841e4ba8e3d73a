"""Links as rtnetlink shows them, and what they come to as kernel objects.

Pure. Used by `kernel_netlink`. Source: linux/if_link.h, drivers/net/vxlan/vxlan_core.c (vxlan_fill_info).
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping

from overlay import netstate, rtnl

_IFLA_ADDRESS, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 4, 5, 10
_BRPORT_MODE = 4
_VXLAN_ID, _VXLAN_LINK, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT = 1, 3, 4, 7, 15
_VXLAN_LOCAL6, _VXLAN_GBP = 17, 23

NOWHERE = netstate.IfName("")
"""The name of no link: a port outside any bridge, a VXLAN device whose lower link is none of this namespace."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinkRow:
    """A link as the kernel lists it. `kind` is "" for hardware; `data` holds the kind's own attributes."""

    index: int
    name: netstate.IfName
    kind: str
    mac: netstate.Mac
    mtu: int
    flags: int
    alias: str
    master: int
    data: Mapping[int, bytes]
    hairpin: bool
    isolated: bool
    in_bridge: bool
    takes_reserved: bool

    @property
    def up(self) -> bool:
        """Set up by its administrator, whether or not it has a carrier."""
        return bool(self.flags & rtnl.IFF_UP)

    @property
    def is_ours(self) -> bool:
        """Whether we made it."""
        return self.alias == netstate.LINK_ALIAS


def parse_link(data: bytes, at: int, end: int) -> LinkRow:
    """One link."""
    _, index, flags = struct.unpack_from("=Bxxxii", data, at)
    found = rtnl.parse_attributes(data, at + 16, end)
    info = rtnl.parse_attributes(nested := found.get(rtnl.IFLA_LINKINFO, b""), 0, len(nested))
    own = rtnl.parse_attributes(nested := info.get(rtnl.IFLA_INFO_DATA, b""), 0, len(nested))
    in_bridge = _text(info.get(rtnl.IFLA_INFO_SLAVE_KIND)) == "bridge"
    port = rtnl.parse_attributes(nested := info.get(rtnl.IFLA_INFO_SLAVE_DATA, b""), 0, len(nested))
    return LinkRow(
        index=index,
        name=netstate.IfName(_text(found.get(rtnl.IFLA_IFNAME))),
        kind=_text(info.get(rtnl.IFLA_INFO_KIND)),
        mac=rtnl.parse_mac(found.get(_IFLA_ADDRESS, b"")),
        mtu=_number(found.get(_IFLA_MTU)),
        flags=flags,
        alias=_text(found.get(rtnl.IFLA_IFALIAS)),
        master=_number(found.get(_IFLA_MASTER)),
        data=own,
        hairpin=bool(_number(port.get(_BRPORT_MODE))),
        isolated=bool(_number(port.get(rtnl.IFLA_BRPORT_ISOLATED))),
        in_bridge=in_bridge,
        takes_reserved=in_bridge and _number(port.get(rtnl.IFLA_BRPORT_GROUP_FWD_MASK)) != rtnl.RESERVED_FORWARDED,
    )


def may_take(row: LinkRow) -> bool:
    """Whether a link of the kind that is desired under its name may be taken for ours: see `netstate.BRIDGE_PREFIX`.

    A flanneld's device has no alias of ours and is to be taken over.
    """
    return row.is_ours or row.kind != "bridge" or row.name.startswith(netstate.BRIDGE_PREFIX)


def show_link(row: LinkRow, names: Mapping[int, netstate.IfName]) -> netstate.Link | None:
    """The link as a kernel object, None for a kind that we never make. `names` are those of all links by index."""
    match row.kind:
        case "vxlan":
            return netstate.VxlanLink(
                name=row.name,
                vni=_number(row.data.get(_VXLAN_ID)),
                port=int.from_bytes(row.data.get(_VXLAN_PORT, b""), "big"),
                local=rtnl.parse_ip(row.data.get(_VXLAN_LOCAL) or row.data.get(_VXLAN_LOCAL6) or bytes(4)),
                underlay=names.get(_number(row.data.get(_VXLAN_LINK)), NOWHERE),
                mac=row.mac,
                mtu=row.mtu,
                learning=bool(_number(row.data.get(_VXLAN_LEARNING))),
                gbp=_VXLAN_GBP in row.data,
                up=row.up,
            )
        case "bridge":
            return netstate.BridgeLink(
                name=row.name, mac=row.mac, mtu=row.mtu, learns_reserved=learns_reserved(row), up=row.up
            )
        case "veth":
            bridge = names.get(row.master, NOWHERE)
            return netstate.BridgePort(
                name=row.name,
                bridge=bridge,
                mtu=row.mtu,
                hairpin=row.hairpin,
                isolated=row.isolated,
                takes_reserved=row.takes_reserved,
                up=row.up,
            )
        case _:
            return None


def learns_reserved(row: LinkRow) -> bool:
    """See `netstate.BridgeLink`. A kernel before 5.0 has no switch for it: as wanted, since nothing can be done."""
    raw = row.data.get(rtnl.IFLA_BR_MULTI_BOOLOPT)
    return raw is not None and not struct.unpack_from("=I", raw)[0] & rtnl.BR_NO_LINK_LOCAL_LEARN


def _text(raw: bytes | None) -> str:
    return (raw or b"").rstrip(b"\0").decode(errors="replace")


def _number(raw: bytes | None) -> int:
    return int.from_bytes(raw or b"", "little" if struct.pack("=H", 1) == b"\1\0" else "big")
