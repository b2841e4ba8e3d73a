"""What a container may send, and the text of the nft table that drops the rest: nobody speaks in another's name.

Pure. `driver.desired` makes a GuardPlan, `reconciler` hands it to the firewall port, `guard_exec` writes it. A table
of family bridge, since what passes between two ports of one bridge is seen nowhere else, and what is dropped there is
not learned either (what is not forwarded would be: see `netstate.BridgeLink`). It looks at nothing but ports whose
name begins with PORT_PREFIX, ours alone; one of them that nobody has declared may send nothing at all.
Source: nft(8); RFC 826, RFC 5227 §2.1.1, RFC 4861 §7, RFC 4862 §5.4.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import itertools
import re
import struct
from collections.abc import Iterable
from typing import NewType

from overlay import netstate

TABLE = "flannelpy"
"""The nft table of family bridge that is ours alone."""

PORT_PREFIX = "fph"

Element = NewType("Element", tuple[str, str])
"""A set of the table, and one element of it as nft lists it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuardedPort:
    """A bridge port and what the container behind it may call itself.

    With `free` it may send whatever it likes: its network's operator said so.
    """

    name: netstate.IfName
    mac: netstate.Mac
    addresses: tuple[netstate.IPAddress, ...]
    free: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuardedBridge:
    """A bridge, whose own link-local address no container may take."""

    name: netstate.IfName
    mac: netstate.Mac


GuardPlan = frozenset[GuardedPort | GuardedBridge]
"""Everything to guard. Empty: there is no table, and nobody is kept from anything."""

_SETS = {
    "free": "type ifname . iface_type",
    "macs": "type ifname . ether_addr",
    "v4": "type ifname . ipv4_addr",
    "v6": "typeof iifname . @th,64,128",
    "local": "typeof meta iiftype . @th,64,128",
}
"""Who may send anything; whose MAC and addresses are whose; and all link-local addresses that are somebody's.

IPv6 addresses are raw numbers: nft 1.0.6 has no other word for the address in a neighbour advertisement. Every key
has two parts: where nft 1.1, the plugin's, has made a set of one, nft 1.0.6, a host's, dies listing it, and firewalld
with it.
"""

_TYPE = "ether"
"""The type of every port's link, ARPHRD_ETHER, number 1. Source: if_arp.h."""

_RULES = f"""\
	chain target {{
		iifname . @th,64,128 @v6 accept
		@th,64,16 & 0xffc0 == 0xfe80 meta iiftype . @th,64,128 != @local accept
		drop
	}}

	chain port {{
		iifname . meta iiftype @free accept
		iifname . ether saddr != @macs drop
		ether type arp iifname . arp saddr ether != @macs drop
		ether type arp iifname . arp saddr ip @v4 accept
		ether type arp arp saddr ip 0.0.0.0 accept
		ether type ip iifname . ip saddr @v4 accept
		ether type != ip6 drop
		icmpv6 type {{ nd-router-advert, nd-redirect }} drop
		icmpv6 type nd-neighbor-advert jump target
		ether type ip6 iifname . @nh,64,128 @v6 accept
		ip6 saddr fe80::/10 meta iiftype . @nh,64,128 != @local accept
		ip6 saddr :: icmpv6 type nd-neighbor-solicit goto target
		ip6 saddr :: icmpv6 type {{ mld-listener-report, nd-router-solicit, mld2-listener-report }} accept
		drop
	}}

	chain prerouting {{
		type filter hook prerouting priority -310; policy accept;
		iifname "{PORT_PREFIX}*" goto port
	}}
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What nft lists of the table: its elements, and `rest`, all other text."""

    rest: str
    elements: frozenset[Element]


_LISTED_SET = re.compile(r"\tset (\w+) \{\n(?:\t\t(?!elements).*\n)*?(\t\telements = \{([^}]*)\}\n)?\t\}\n")


def elements(plan: GuardPlan) -> frozenset[Element]:
    """What stands in the sets for `plan`."""
    return frozenset(itertools.chain.from_iterable(map(_elements, plan)))


def whole_script(plan: GuardPlan) -> str:
    """What `nft -f -` reads to make the table that of `plan`, in one transaction, whatever is there now."""
    name = f"table bridge {TABLE}"
    fresh = f"{name}\ndelete {name}\n"
    if not plan:
        return fresh
    found = _by_set(elements(plan))
    sets = "".join(f"\tset {one} {{\n\t\t{kind}\n{_listed(found.get(one))}\t}}\n\n" for one, kind in _SETS.items())
    return f"{fresh}{name} {{\n{sets}{_RULES}}}\n"


def keys(found: Iterable[Element]) -> dict[str, list[bytes]]:
    """The same elements by their set, as the kernel has them: each part of a key padded to four bytes."""
    return {
        name: [b"".join(map(_part, text.split(" . "))) for text in texts] for name, texts in _by_set(found).items()
    }


def parse_listing(text: str) -> Listing:
    """Read what `nft list table` printed: each version sorts and wraps elements in its own way."""
    found = {
        Element((listed[1], _normal(one)))
        for listed in _LISTED_SET.finditer(text)
        for one in (listed[3] or "").split(",")
        if one.strip()
    }
    rest = _LISTED_SET.sub(lambda listed: listed[0].replace(listed[2] or "\0", ""), text)
    return Listing(rest=rest, elements=frozenset(found))


def is_whole(seen: Listing) -> bool:
    """Whether all sets, chains and verdicts are there; the text differs from ours, as each nft has its own words."""
    return _shape(seen.rest) == _shape(_RULES + "".join(f"\tset {name} {{\n" for name in _SETS))


def link_local(mac: netstate.Mac) -> ipaddress.IPv6Address:
    """The address that a link gives itself. Source: RFC 4291 Appendix A."""
    octets = bytes.fromhex(mac.replace(":", ""))
    made = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + made)


@functools.lru_cache(maxsize=4096)
def _elements(one: GuardedPort | GuardedBridge) -> tuple[Element, ...]:
    """Remembered, as all ports are asked for with each one that comes."""
    own = link_local(one.mac)
    local = Element(("local", f"{_TYPE} . {int(own):#x}"))
    if isinstance(one, GuardedBridge):
        return (local,)
    name = f'"{one.name}"'
    if one.free:
        return (local, Element(("free", f"{name} . {_TYPE}")))
    addresses = (
        Element(("v4", f"{name} . {address}") if address.version == 4 else ("v6", f"{name} . {int(address):#x}"))
        for address in (*one.addresses, own)
    )
    return (local, Element(("macs", f"{name} . {one.mac}")), *addresses)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(
        text.count(word) for word in ("\tset ", "\tchain ", " accept\n", "drop\n", " goto ", " jump ", "hook")
    )


def _by_set(found: Iterable[Element]) -> dict[str, list[str]]:
    sets: dict[str, list[str]] = {}
    for name, text in sorted(found):
        sets.setdefault(name, []).append(text)
    return sets


def _listed(texts: list[str] | None) -> str:
    return f"\t\telements = {{ {', '.join(texts)} }}\n" if texts else ""


def _part(text: str) -> bytes:
    if text.startswith('"'):
        return text.strip('"').encode().ljust(16, b"\0")
    if text == _TYPE:
        return struct.pack("=H2x", 1)
    if text.startswith("0x"):
        return int(text, 16).to_bytes(16, "big")
    if ":" in text:
        return bytes.fromhex(text.replace(":", "")) + bytes(2)
    return ipaddress.IPv4Address(text).packed


def _normal(element: str) -> str:
    """The element with its number as we write it."""
    *names, last = element.split()
    return " ".join((*names, f"{int(last, 16):#x}" if last.startswith("0x") else last))
