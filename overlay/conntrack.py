"""UDP flows that the kernel tracks, forgotten so that their next packet is looked at anew.

A flow is redirected, or not, as its first packet was, and a client that goes on sending keeps it alive: one that
spoke to a port before it was published never reaches the container, and one that goes on afterwards sends to an
address that is nobody's, or another's. A TCP client notices and begins anew: such are left alone.
Used by `driver.host_ports_socket`. Acts on the network namespace of the calling thread.
Source: linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import socket
import struct
from collections.abc import Callable, Collection, Mapping

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


def forget_flows(published: Collection[firewall.PublishedPort]) -> int:
    """Forget the UDP flows to ports of this host that are published, or no more; how many. Raises OSError.

    Those that are redirected to the container, and those that this host itself was to answer. All flows are looked at
    once, however many ports there are: that takes the kernel 10 ms even where there are none. It picks out a single
    port itself; before Linux 5.8 it shows all flows.
    """
    by_number = _by_number(published)
    is_local = functools.cache(_is_local)

    def is_wanted(flow: _Flow) -> bool:
        return any(_is_of(port, flow, is_local) for port in by_number.get(flow.target_port, ()))

    only = next(iter(by_number)) if len(by_number) == 1 else 0
    versions = {port.host_ip.version for ports in by_number.values() for port in ports}
    return sum(_forget(version, only, is_wanted) for version in sorted(versions))


def forget_stale_flows(pools: Collection[netstate.IPNetwork], published: Collection[firewall.PublishedPort]) -> int:
    """Forget the UDP flows redirected to an address of these pools by no port that is published; how many.

    What a crash left redirected between the rules that went and the flows that were to follow. Raises OSError.
    """
    by_number = _by_number(published)

    def is_stale(flow: _Flow) -> bool:
        is_redirected = flow.answering != flow.target and any(flow.answering in pool for pool in pools)
        return is_redirected and not any(_redirects(port, flow) for port in by_number.get(flow.target_port, ()))

    return sum(_forget(version, 0, is_stale) for version in {pool.version for pool in pools})


def _by_number(published: Collection[firewall.PublishedPort]) -> dict[int, list[firewall.PublishedPort]]:
    """Those of UDP, by the host's port."""
    found: dict[int, list[firewall.PublishedPort]] = {}
    for port in published:
        if port.protocol is firewall.Protocol.UDP:
            found.setdefault(port.host_port, []).append(port)
    return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Flow:
    """Whom its first packet was for, and who answers."""

    target: netstate.IPAddress
    target_port: int
    answering: netstate.IPAddress


def _forget(version: int, number: int, is_wanted: Callable[[_Flow], bool]) -> int:
    """Forget the flows over UDP of one family that are wanted, looking at those to one port where it is not 0."""
    header = struct.pack(">BBH", _FAMILIES[version], 0, 0)
    with _open_socket() as sock:
        found = []
        for data, at, end in sock.dump(_GET, header + _wanted(number)):
            attributes = rtnl.parse_attributes(data, at + len(header), end)
            flow = _parse_flow(attributes, version)
            if flow is not None and number in (0, flow.target_port) and is_wanted(flow):
                found.append(attributes)
        for attributes in found:
            body = header + _nested(_ORIG, attributes[_ORIG])
            body += rtnl.pack_attribute(_ZONE, attributes[_ZONE]) if _ZONE in attributes else b""
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
    """Flows over UDP whose first packet was for this port; for any where it is 0."""
    what = rtnl.pack_attribute(_NUMBER, bytes([socket.IPPROTO_UDP]))
    by = _BY_NUMBER
    if number:
        what += rtnl.pack_attribute(_TARGET_PORT, _PORT.pack(number))
        by |= _BY_TARGET_PORT
    picked = rtnl.pack_attribute(_FILTER_ORIG, struct.pack("=I", by))
    return _nested(_ORIG, _nested(_PROTO, what)) + _nested(_FILTER, picked)


def _is_of(port: firewall.PublishedPort, flow: _Flow, is_local: Callable[[netstate.IPAddress], bool]) -> bool:
    if not _meets(port, flow):
        return False
    return flow.answering == port.address or (flow.answering == flow.target and is_local(flow.target))


def _redirects(port: firewall.PublishedPort, flow: _Flow) -> bool:
    return _meets(port, flow) and flow.answering == port.address


def _meets(port: firewall.PublishedPort, flow: _Flow) -> bool:
    """Whether the flow's first packet, which was for a port of this number, was for this port of the host."""
    return port.host_ip == flow.target or (
        port.host_ip.is_unspecified and port.host_ip.version == flow.target.version
    )


def _parse_flow(flow: Mapping[int, bytes], version: int) -> _Flow | None:
    """None for what is not UDP."""
    target, protocol, target_port = _parse_tuple(flow.get(_ORIG, b""), version)[1:]
    answering = _parse_tuple(flow.get(_REPLY, b""), version)[0]
    if protocol != socket.IPPROTO_UDP or target is None or answering is None:
        return None
    return _Flow(target=target, target_port=target_port, answering=answering)


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
