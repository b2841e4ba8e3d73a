"""Names and MACs made from Docker's ids and addresses.

Pure. An interface name has at most 15 characters (IFNAMSIZ 16, netdevice(7)); three say what it is, twelve are the
short id that `docker network ls` shows. Two ids with one short id would share a name: `driver.store` refuses the
second.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NewType

from driver import errors
from overlay import netstate

NetworkId = NewType("NetworkId", str)
EndpointId = NewType("EndpointId", str)

BRIDGE_PREFIX = "fp-"
HOST_END_PREFIX = "fph"
CONTAINER_END_PREFIX = "fpc"

_ID = re.compile(r"[0-9a-zA-Z]{12,64}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def parse_id(text: str, field: str) -> str:
    """A Docker id: 64 hex digits, or 25 letters and digits from swarm. Raises BadRequest, so no path gets through."""
    if not _ID.fullmatch(text):
        raise errors.BadRequest(f"{field}: expected a Docker id of 12 to 64 letters and digits, got {text[:80]!r}")
    return text


def parse_mac(text: str, field: str) -> netstate.Mac:
    """A unicast MAC. Raises BadRequest."""
    mac = text.lower()
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise errors.BadRequest(f"{field}: expected a unicast MAC such as 02:42:0a:02:14:05, got {text[:80]!r}")
    return netstate.Mac(mac)


def bridge_name(network_id: NetworkId) -> netstate.IfName:
    """The bridge of a network."""
    return netstate.IfName(BRIDGE_PREFIX + network_id[:12])


def host_end(endpoint_id: EndpointId) -> netstate.IfName:
    """The end of an endpoint's veth pair that stays on the host."""
    return netstate.IfName(HOST_END_PREFIX + endpoint_id[:12])


def container_end(endpoint_id: EndpointId) -> netstate.IfName:
    """The end that Docker moves into the container and renames to eth0."""
    return netstate.IfName(CONTAINER_END_PREFIX + endpoint_id[:12])


def mac_of(ip: ipaddress.IPv4Address) -> netstate.Mac:
    """02:42 and the address: who gets an address again gets its MAC, so that neighbours' ARP caches stay right."""
    return netstate.Mac(":".join(f"{octet:02x}" for octet in (0x02, 0x42, *ip.packed)))
