"""Published ports in the text of our nft table: who answers for a port of this host, and the way there and back.

Pure. Used by `firewall_table`. Which port is whose stands in two maps, so that a packet is looked up once however
many there are: `ports` for those of every address of the host, `ports-at` for those of one address. Clients keep
their addresses, but where the answer would not pass this host again: clients on the container's own bridge, itself
among them, and this host's loopback. Only what is for an address of this host is looked up: one that moved to another
host (keepalived) is answered there.

127.0.0.1 needs the kernel parameter route_localnet on the bridge (`driver.desired`), which alone would let containers
reach what listens on the host's loopback: so whatever comes from such a bridge and is for one of its addresses is
dropped (one for a source the kernel drops by itself). IPv6 has no such parameter, and ::1 no way: what is sent
there is left to the socket that reserves the port. It refuses TCP and would keep datagrams: these are refused here.
Source: nft(8), kernel Documentation/networking/ip-sysctl.rst (route_localnet).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

from overlay import firewall, nft_text

LOOPBACK = "127.0.0.0/8"
LOOPBACK_V6 = ipaddress.IPv6Address(1)
_KEY = "meta l4proto . th dport"
_ELEMENT = re.compile(r"(?:([0-9a-f.:]+) \. )?(tcp|udp|6|17) \. (\d+) : ([0-9a-f.:]+) \. (\d+)")
"""Of either map."""

_PROTOCOLS = {
    "tcp": firewall.Protocol.TCP,
    "6": firewall.Protocol.TCP,
    "udp": firewall.Protocol.UDP,
    "17": firewall.Protocol.UDP,
}
"""As nft lists them: by number where there is no /etc/protocols, which a small root file system may lack."""


def parts(domains: Iterable[firewall.Domain], family: firewall.Family) -> Iterator[str]:
    """Maps and chains of the table; nothing where nothing is published."""
    halves = _publishing(domains)
    if not halves:
        return
    ports = [port for half in halves for port in half.published]
    everywhere = {_target(port): _way(port) for port in ports if port.host_ip.is_unspecified}
    somewhere = {f"{port.host_ip} . {_target(port)}": _way(port) for port in ports if not port.host_ip.is_unspecified}
    address = "ipv4_addr" if family is firewall.IPV4 else "ipv6_addr"
    rules = []
    if somewhere:
        yield _map("ports-at", f"{address} . inet_proto . inet_service : {address} . inet_service", somewhere)
        rules.append(f"dnat {family.table} to {family.table} daddr . {_KEY} map @ports-at")
    if everywhere:
        yield _map("ports", f"inet_proto . inet_service : {address} . inet_service", everywhere)
        rules.append(f"dnat {family.table} to {_KEY} map @ports")
    yield nft_text.chain("publish", rules)
    if family is firewall.IPV4:
        bridges = nft_text.names(half.bridge for half in halves)
        forged = [f"iifname {bridges} ip daddr {LOOPBACK} drop"]
        yield nft_text.chain("loopback", forged, "type filter hook prerouting priority raw")
    elif datagrams := _loopback_datagrams(ports):
        refused = f"ip6 daddr {LOOPBACK_V6} udp dport {nft_text.set_of(datagrams)} reject"
        yield nft_text.chain("loopback", [refused], "type filter hook input priority filter")
    here = "fib daddr type local jump publish"
    beyond_loopback = f"{family.table} daddr != {LOOPBACK if family is firewall.IPV4 else LOOPBACK_V6} {here}"
    yield nft_text.chain("prerouting", [beyond_loopback], "type nat hook prerouting priority dstnat")
    from_here = here if family is firewall.IPV4 else beyond_loopback
    yield nft_text.chain("output", [from_here], "type nat hook output priority -100")


def parse_published(listing: str) -> frozenset[firewall.PublishedPort]:
    """What a table's maps publish, as nft lists it. Raises ValueError where that is no list of ours."""
    return frozenset(
        firewall.PublishedPort(
            protocol=_PROTOCOLS[protocol],
            host_ip=ipaddress.ip_address(host_ip or ("::" if ":" in address else "0.0.0.0")),  # noqa: S104
            host_port=int(host_port),
            address=ipaddress.ip_address(address),
            port=int(port),
        )
        for host_ip, protocol, host_port, address, port in _ELEMENT.findall(listing)
    )


def rewrites(domains: Iterable[firewall.Domain], family: firewall.Family) -> Iterator[str]:
    """Sources that must be this host's, or the answer takes a shorter way and its receiver does not know it."""
    halves = _publishing(domains)
    for half in halves:
        neighbours = f"{family.table} saddr {half.subnet}"
        yield f'oifname "{half.bridge}" {neighbours} ct status dnat masquerade fully-random'
    if halves and family is firewall.IPV4:
        bridges = nft_text.names(half.bridge for half in halves)
        yield f"oifname {bridges} ip saddr {LOOPBACK} masquerade fully-random"


def exceptions(domains: Iterable[firewall.Domain]) -> Iterator[str]:
    """What may pass between two flannel networks: a published port is there for whoever reaches the host."""
    if halves := _publishing(domains):
        bridges = nft_text.names(half.bridge for half in halves)
        yield f"oifname {bridges} ct direction original ct status dnat accept"
        yield f"iifname {bridges} ct direction reply ct status dnat accept"


def _publishing(domains: Iterable[firewall.Domain]) -> list[firewall.Half]:
    return [half for domain in domains for half in domain.halves if half.published]


def _loopback_datagrams(ports: Iterable[firewall.PublishedPort]) -> list[str]:
    """The UDP ports that are reserved on ::1, in ranges: a hundred thousand may be published."""
    numbers = {
        port.host_port
        for port in ports
        if port.protocol is firewall.Protocol.UDP and (port.host_ip.is_unspecified or port.host_ip == LOOPBACK_V6)
    }
    firsts = sorted(number for number in numbers if number - 1 not in numbers)
    lasts = sorted(number for number in numbers if number + 1 not in numbers)
    return [f"{first}-{last}" if first < last else f"{first}" for first, last in zip(firsts, lasts, strict=True)]


def _target(port: firewall.PublishedPort) -> str:
    return f"{port.protocol} . {port.host_port}"


def _way(port: firewall.PublishedPort) -> str:
    return f"{port.address} . {port.port}"


def _map(name: str, kind: str, elements: dict[str, str]) -> str:
    """Of two elements with one key the last stays: nft would refuse the whole table."""
    listed = ", ".join(f"{key} : {value}" for key, value in elements.items())
    return f"\tmap {name} {{\n\t\ttype {kind}\n\t\telements = {{ {listed} }}\n\t}}\n"
