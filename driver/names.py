"""Names and MACs made from Docker's ids and addresses.

Pure. An interface name has at most 15 characters (IFNAMSIZ 16, netdevice(7)); three say what it is, twelve are the
short id that `docker network ls` shows. Where another's id begins with the same twelve, they are a hash of the whole
id instead: so a name follows from an id and from the names in use, and is kept in the state file.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import re
from collections.abc import Collection, Iterator
from typing import NewType

from driver import errors
from overlay import netstate

NetworkId = NewType("NetworkId", str)
EndpointId = NewType("EndpointId", str)

BRIDGE_PREFIX = netstate.BRIDGE_PREFIX
HOST_END_PREFIX = "fph"
CONTAINER_END_PREFIX = "fpc"

STEM_LENGTH = 12

_ID = re.compile(r"[0-9a-z]{12,64}")
_LINK = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,14}")
_RESERVED = re.compile(r"all|default|lo|docker0|docker_gwbridge|br-[0-9a-f]{12}|(fp-|fph|fpc|flannel[.-]).*")
"""Names that the kernel's parameters give a meaning, that Docker's own bridges have or will have, and our own."""
_IFACE_PREFIX = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,12}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def parse_id(text: str, field: str) -> str:
    """A Docker id: 64 hex digits, or 25 letters and digits from swarm. Raises BadRequest, so no path gets through.

    Lower case only, as Docker's are: no two ids are then one to anything that does not tell a from A.
    """
    if not _ID.fullmatch(text):
        raise errors.BadRequest(
            f"{field}: expected a Docker id of 12 to 64 digits and lower-case letters, got {text[:80]!r}"
        )
    return text


def parse_mac(text: str, field: str) -> netstate.Mac:
    """A unicast MAC. Raises BadRequest."""
    mac = text.lower()
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise errors.BadRequest(f"{field}: expected a unicast MAC such as 02:42:0a:02:14:05, got {text[:80]!r}")
    return netstate.Mac(mac)


def parse_bridge(text: str, field: str) -> netstate.IfName:
    """The name that an operator chose for a bridge.

    Fewer characters than the kernel allows: the name stands in the rules of the packet filter, where some have a
    meaning. Raises BadRequest.
    """
    if not _LINK.fullmatch(text):
        raise errors.BadRequest(f"{field}: expected 1 to 15 letters, digits, '_', '.' or '-', got {text[:80]!r}")
    if _RESERVED.fullmatch(text):
        raise errors.BadRequest(
            f"{field}: {text} is a name that Docker, flannelpy or the kernel uses; choose another"
        )
    return netstate.IfName(text)


def parse_iface_prefix(text: str, field: str) -> str:
    """What the names of a container's interfaces begin with; Docker adds a number. Raises BadRequest."""
    if not _IFACE_PREFIX.fullmatch(text):
        raise errors.BadRequest(f"{field}: expected 1 to 13 letters, digits, '_', '.' or '-', got {text[:80]!r}")
    return text


def sandbox_of(key: str) -> str:
    """A container's sandbox by the path that the engine gives for it, for no more than to tell two apart."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:16] if key else ""


def bridge_name(network_id: NetworkId, taken: Collection[netstate.IfName] = ()) -> netstate.IfName:
    """The bridge of a network, other than those `taken`."""
    return _first_free(BRIDGE_PREFIX, network_id, taken)


def host_end(endpoint_id: EndpointId, taken: Collection[netstate.IfName] = ()) -> netstate.IfName:
    """The end of an endpoint's veth pair that stays on the host, other than those `taken`."""
    return _first_free(HOST_END_PREFIX, endpoint_id, taken)


def container_end(host_end_: netstate.IfName) -> netstate.IfName:
    """The end that Docker moves into the container and renames to eth0: free where the host's end is."""
    return netstate.IfName(CONTAINER_END_PREFIX + host_end_.removeprefix(HOST_END_PREFIX))


def _first_free(prefix: str, id_: str, taken: Collection[netstate.IfName]) -> netstate.IfName:
    made = (netstate.IfName(prefix + stem) for stem in _stems(id_))
    return next(name for name in made if name not in taken)


def _stems(id_: str) -> Iterator[str]:
    """What an id may be called by. No end: among more than are taken one is free."""
    yield id_[:STEM_LENGTH]
    for attempt in itertools.count():
        yield hashlib.sha256(f"{id_} {attempt}".encode()).hexdigest()[:STEM_LENGTH]


def mac_of(ip: ipaddress.IPv4Address) -> netstate.Mac:
    """02:42 and the address: who gets an address again gets its MAC, so that neighbours' ARP caches stay right."""
    return netstate.Mac(":".join(f"{octet:02x}" for octet in (0x02, 0x42, *ip.packed)))
