"""rtnetlink messages that make and change links and addresses, as bytes.

Pure; pyroute2's codec writes them, and this is the only module that imports pyroute2. Its sockets are not used: they
open one more descriptor for every thread that touches them, and cannot send two messages in one system call, without
which a crash could leave a link behind that does not carry our alias (the kernel takes no alias at creation).
Source: linux/if_link.h, flannel pkg/backend/vxlan/device.go.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from pyroute2.netlink.rtnl import ifaddrmsg, ifinfmsg

from overlay import netstate, rtnl

Attributes = list[list[Any]]  # pyroute2's own shape: names and values of any type


def make_vxlan(link: netstate.VxlanLink, underlay: int, sequence: int) -> bytes:
    """A VXLAN device, down, as flannel makes it.

    The port is always told. No queue length: flannel's 0 is an accident of its library, and VXLAN devices have no
    queue anyway.
    """
    local = "IFLA_VXLAN_LOCAL" if link.local.version == 4 else "IFLA_VXLAN_LOCAL6"
    options: Attributes = [
        ["IFLA_VXLAN_ID", link.vni],
        ["IFLA_VXLAN_LINK", underlay],
        [local, str(link.local)],
        ["IFLA_VXLAN_PORT", link.port],
        ["IFLA_VXLAN_LEARNING", int(link.learning)],
    ]
    if link.gbp:
        options.append(["IFLA_VXLAN_GBP", True])
    return _new_link(
        link.name, [["IFLA_ADDRESS", link.mac], ["IFLA_MTU", link.mtu]], _info("vxlan", options), sequence
    )


def make_bridge(link: netstate.BridgeLink, sequence: int) -> bytes:
    """A bridge, down, with another MTU than the one wanted.

    Only an MTU that is *changed* later is one that ports do not change any more. Source: net/bridge/br_device.c.
    """
    options: Attributes = [["IFLA_BR_STP_STATE", 0], ["IFLA_BR_FORWARD_DELAY", 0]]
    attributes: Attributes = [["IFLA_ADDRESS", link.mac], ["IFLA_MTU", link.mtu - 1]]
    return _new_link(link.name, attributes, _info("bridge", options), sequence)


def set_reserved_learning(name: netstate.IfName, on: bool, sequence: int) -> bytes:
    """Whether a bridge learns from frames that it does not forward: see `netstate.BridgeLink`.

    By hand, since pyroute2 does not know the attribute; kernels before 5.0 do not either, and leave it aside.
    """
    flag = rtnl.BR_NO_LINK_LOCAL_LEARN
    options = rtnl.pack_attribute(rtnl.IFLA_BR_MULTI_BOOLOPT, struct.pack("=II", 0 if on else flag, flag))
    kind = rtnl.pack_attribute(rtnl.IFLA_INFO_KIND, b"bridge\0")
    return _change_info(name, kind + rtnl.pack_attribute(rtnl.IFLA_INFO_DATA, options), sequence)


def set_port(name: netstate.IfName, sequence: int, *, isolated: bool) -> bytes:
    """What a port of ours has from the start, and our alias. It must be in the bridge already.

    It takes no reserved frames in (see `netstate.BridgePort`): the bridge forwards them like others, past the guard.
    By hand, since each container comes by here.
    """
    kind = rtnl.pack_attribute(rtnl.IFLA_INFO_SLAVE_KIND, b"bridge\0")
    options = rtnl.pack_attribute(rtnl.IFLA_BRPORT_ISOLATED, bytes([isolated]))
    options += rtnl.pack_attribute(rtnl.IFLA_BRPORT_GROUP_FWD_MASK, struct.pack("=H", rtnl.RESERVED_FORWARDED))
    info = kind + rtnl.pack_attribute(rtnl.IFLA_INFO_SLAVE_DATA, options)
    return _change_info(name, info, sequence, alias=netstate.LINK_ALIAS)


def make_pair(pair: netstate.VethPair, bridge: int, sequence: int) -> bytes:
    """Both ends of a veth, the host's up in the bridge, the container's down."""
    peer: Attributes = [["IFLA_IFNAME", pair.peer], ["IFLA_MTU", pair.mtu]]
    attributes: Attributes = [["IFLA_MTU", pair.mtu], ["IFLA_MASTER", bridge]]
    info = _info("veth", [["VETH_INFO_PEER", {"attrs": peer}]])
    return _new_link(pair.name, attributes, info, sequence, up=True)


def change_link(attributes: Sequence[tuple[str, Any]], sequence: int, *, index: int = 0, up: bool = False) -> bytes:
    """Set attributes of the link `index`, or of the one that IFLA_IFNAME names, and set it up where asked."""
    message = ifinfmsg.ifinfmsg()
    message["index"] = index
    message["flags"] = message["change"] = rtnl.IFF_UP if up else 0
    message["attrs"] = [list(attribute) for attribute in attributes]
    return _encode(message, rtnl.RTM_NEWLINK, rtnl.NLM_F_REQUEST, sequence)


def move_vxlan(link: netstate.VxlanLink, index: int, sequence: int) -> bytes:
    """Another local address for a VXLAN device."""
    local = "IFLA_VXLAN_LOCAL" if link.local.version == 4 else "IFLA_VXLAN_LOCAL6"
    info = _info("vxlan", [["IFLA_VXLAN_ID", link.vni], [local, str(link.local)]])
    return change_link([("IFLA_LINKINFO", info)], sequence, index=index)


def change_port(index: int, sequence: int, *, hairpin: bool) -> bytes:
    """Set what a bridge keeps of its port; the link must be one."""
    port: Attributes = [["IFLA_BRPORT_MODE", int(hairpin)]]
    info = {"attrs": [["IFLA_INFO_SLAVE_KIND", "bridge"], ["IFLA_INFO_SLAVE_DATA", {"attrs": port}]]}
    return change_link([("IFLA_LINKINFO", info)], sequence, index=index)


def pack_address(address: netstate.Address, index: int, sequence: int, *, remove: bool = False) -> bytes:
    """The message that makes an address be there, or takes it away.

    An IPv6 one is usable at once: it lies in our own subnet, which the lease keeps others from, and on a tunnel
    device nobody would answer the question whether it is taken.
    """
    ip, message = address.interface, ifaddrmsg.ifaddrmsg()
    message["family"] = rtnl.AF_INET if ip.version == 4 else rtnl.AF_INET6
    message["prefixlen"] = ip.network.prefixlen
    message["index"] = index
    message["attrs"] = [["IFA_LOCAL", str(ip.ip)], ["IFA_ADDRESS", str(ip.ip)]]
    if ip.version == 6:
        message["flags"] = rtnl.IFA_F_NODAD
    if remove:
        return _encode(message, rtnl.RTM_DELADDR, rtnl.NLM_F_REQUEST, sequence)
    flags = rtnl.NLM_F_REQUEST | rtnl.NLM_F_CREATE | rtnl.NLM_F_REPLACE
    return _encode(message, rtnl.RTM_NEWADDR, flags, sequence)


def _change_info(name: netstate.IfName, info: bytes, sequence: int, *, alias: str = "") -> bytes:
    body = bytes(16) + rtnl.pack_attribute(rtnl.IFLA_IFNAME, name.encode() + b"\0")
    if alias:
        body += rtnl.pack_attribute(rtnl.IFLA_IFALIAS, alias.encode())
    body += rtnl.pack_attribute(rtnl.IFLA_LINKINFO, info)
    return rtnl.pack_message(rtnl.RTM_NEWLINK, rtnl.NLM_F_REQUEST, sequence, body)


def _info(kind: str, options: Attributes) -> dict[str, Attributes]:
    return {"attrs": [["IFLA_INFO_KIND", kind], ["IFLA_INFO_DATA", {"attrs": options}]]}


def _new_link(
    name: netstate.IfName, attributes: Attributes, info: dict[str, Attributes], sequence: int, *, up: bool = False
) -> bytes:
    message = ifinfmsg.ifinfmsg()
    message["flags"] = message["change"] = rtnl.IFF_UP if up else 0
    message["attrs"] = [["IFLA_IFNAME", name], *attributes, ["IFLA_LINKINFO", info]]
    flags = rtnl.NLM_F_REQUEST | rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL
    return _encode(message, rtnl.RTM_NEWLINK, flags, sequence)


def _encode(message: Any, kind: int, flags: int, sequence: int) -> bytes:
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message["header"]["sequence_number"] = sequence
    message.encode()
    return bytes(message.data)
