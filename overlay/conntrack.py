"""UDP flows that the kernel tracks, forgotten so that their next packet is looked at anew.

A flow is redirected, or not, as its first packet was, and a client that goes on sending keeps it alive: one that
spoke to a port before it was published never reaches the container, and one that goes on afterwards sends to an
address that is nobody's, or another's. A TCP client notices and begins anew: such are left alone.
Used by `driver.host_ports_socket`. Acts on the network namespace of the calling thread.
Source: linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import struct
from collections.abc import Callable, Mapping

from overlay import faults, firewall, netstate, rtnl, rtnl_socket

_NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # of NFNL_SUBSYS_CTNETLINK
_NESTED = 0x8000
_ORIG, _REPLY, _ZONE, _FILTER = 1, 2, 18, 25
_IP, _PROTO = 1, 2
_IP_PLACES = {4: (1, 2), 6: (3, 4)}
"""Source and destination, by family."""

_NUMBER, _SOURCE_PORT, _TARGET_PORT = 1, 2, 3
_FILTER_ORIG = 1
_BY_NUMBER, _BY_TARGET_PORT = 1 << 3, 1 << 5
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_PORT = struct.Struct(">H")


def forget_flows(port: firewall.PublishedPort) -> int:
    """Forget the UDP flows to a port of this host that is published, or no more; how many. Raises OSError.

    Those that are redirected to the container, and those that this host itself was to answer. The kernel picks out
    the port; before Linux 5.8 it shows all flows.
    """
    if port.protocol is not firewall.Protocol.UDP:
        return 0
    family = _FAMILIES[port.host_ip.version]
    header = struct.pack(">BBH", family, 0, 0)
    is_local = functools.cache(_is_local)
    with _open_socket() as sock:
        found = []
        for data, at, end in sock.dump(_GET, header + _wanted(port.host_port)):
            flow = rtnl.parse_attributes(data, at + len(header), end)
            if _is_of(port, flow, is_local):
                found.append(flow)
        for flow in found:
            body = header + _nested(_ORIG, flow[_ORIG])
            body += rtnl.pack_attribute(_ZONE, flow[_ZONE]) if _ZONE in flow else b""
            message = rtnl.pack_message(_DELETE, rtnl.NLM_F_REQUEST, sock.next_sequence(), body)
            faults.reached("kernel.flow.before")
            sock.transact([message])  # gone already is as good
            faults.reached("kernel.flow.after")
    return len(found)


def _open_socket() -> rtnl_socket.RtnlSocket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        sock.bind((0, 0))
    except OSError:
        sock.close()
        raise
    return rtnl_socket.RtnlSocket(sock)


def _wanted(number: int) -> bytes:
    """Flows over UDP whose first packet was for this port."""
    what = rtnl.pack_attribute(_NUMBER, bytes([socket.IPPROTO_UDP]))
    what += rtnl.pack_attribute(_TARGET_PORT, _PORT.pack(number))
    by = rtnl.pack_attribute(_FILTER_ORIG, struct.pack("=I", _BY_NUMBER | _BY_TARGET_PORT))
    return _nested(_ORIG, _nested(_PROTO, what)) + _nested(_FILTER, by)


def _is_of(
    port: firewall.PublishedPort, flow: Mapping[int, bytes], is_local: Callable[[netstate.IPAddress], bool]
) -> bool:
    version = port.host_ip.version
    _, target, protocol, target_port = _parse_tuple(flow.get(_ORIG, b""), version)
    answering = _parse_tuple(flow.get(_REPLY, b""), version)[0]
    if protocol != socket.IPPROTO_UDP or target_port != port.host_port or target is None:
        return False
    if port.host_ip not in (target, ipaddress.ip_address(bytes(len(target.packed)))):
        return False
    return answering == port.address or (answering == target and is_local(target))


def _parse_tuple(data: bytes, version: int) -> tuple[netstate.IPAddress | None, netstate.IPAddress | None, int, int]:
    """(source, target, protocol, target's port)."""
    found = rtnl.parse_attributes(data, 0, len(data))
    ips = rtnl.parse_attributes(nested := found.get(_IP, b""), 0, len(nested))
    ends = [ipaddress.ip_address(ips[place]) if place in ips else None for place in _IP_PLACES[version]]
    protocol = rtnl.parse_attributes(nested := found.get(_PROTO, b""), 0, len(nested))
    number = int.from_bytes(protocol.get(_NUMBER, b""), "big")
    return ends[0], ends[1], number, int.from_bytes(protocol.get(_TARGET_PORT, b""), "big")


def _nested(kind: int, value: bytes) -> bytes:
    return rtnl.pack_attribute(kind | _NESTED, value)


def _is_local(ip: netstate.IPAddress) -> bool:
    """Whether this host has the address."""
    with socket.socket(_FAMILIES[ip.version], socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(ip), 0))
        except OSError:
            return False
    return True
