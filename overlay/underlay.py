"""Which link of this host carries the overlay, and under which address.

Pure: chooses among the links that the kernel port listed. Called by the node at start and when links change.
Source: flannel main.go:304-370, pkg/ipmatch/match.go.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterable, Sequence

from overlay import errors, kernel, netstate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnderlayV6:
    """The IPv6 side of the chosen link. `ip` is on it; `public_ip` is what peers send to."""

    ip: ipaddress.IPv6Address
    public_ip: ipaddress.IPv6Address


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Underlay:
    """The chosen link. `ip` is on it; `public_ip` is what peers send to, which a NAT may own. Units: `mtu` bytes.

    `prefixes` are the networks on the link itself: peers inside them are reached without a router. A link of IPv6
    alone has 0.0.0.0 for both addresses, as flannel writes it into a lease. `v6` None: no IPv6 asked for.
    """

    name: netstate.IfName
    ip: ipaddress.IPv4Address
    mtu: int
    public_ip: ipaddress.IPv4Address
    prefixes: tuple[ipaddress.IPv4Network, ...] = ()
    v6: UnderlayV6 | None = None


def choose_underlay(
    links: Sequence[kernel.UnderlayLink], iface: str, public_ip: ipaddress.IPv4Address | None
) -> Underlay:
    """The link named by `iface`: an address, a name, or a regular expression for either.

    With `iface` "" it is the owner of `public_ip` if there is one, else the link of the default route. A regular
    expression is tried on all addresses first, then on the names, unanchored, as flannel does.
    Raises UnderlayError, which names the candidates.
    """
    link, ip = _match(links, iface) if iface else _default(links, public_ip)
    if link.mtu <= 0:
        raise errors.UnderlayError(f"interface {link.name} has no MTU; set IFACE to another of: {_candidates(links)}")
    prefixes = tuple(dict.fromkeys(address.network for address in link.addresses if address.network.prefixlen < 32))
    return Underlay(name=link.name, ip=ip, mtu=link.mtu, public_ip=public_ip or ip, prefixes=prefixes)


def _match(links: Sequence[kernel.UnderlayLink], iface: str) -> tuple[kernel.UnderlayLink, ipaddress.IPv4Address]:
    for link, ip in _addresses(links):
        if str(ip) == iface:
            return link, ip
    for link in links:
        if link.name == iface:
            return link, _first_address(link, links)
    try:
        pattern = re.compile(iface)
    except re.error as exc:
        raise errors.UnderlayError(
            f"IFACE={iface!r} is no interface and no regular expression ({exc}); there are: {_candidates(links)}"
        ) from exc
    for link, ip in _addresses(links):
        if pattern.search(str(ip)):
            return link, ip
    for link in links:
        if pattern.search(link.name):
            return link, _first_address(link, links)
    raise errors.UnderlayError(f"IFACE={iface!r} matches no interface; there are: {_candidates(links)}")


def _default(
    links: Sequence[kernel.UnderlayLink], public_ip: ipaddress.IPv4Address | None
) -> tuple[kernel.UnderlayLink, ipaddress.IPv4Address]:
    for link, ip in _addresses(links):
        if ip == public_ip:
            return link, ip
    for link in links:
        if link.has_default_route:
            return link, _first_address(link, links)
    raise errors.UnderlayError(f"no default route on this host; set IFACE to one of: {_candidates(links)}")


def _addresses(
    links: Iterable[kernel.UnderlayLink],
) -> Iterable[tuple[kernel.UnderlayLink, ipaddress.IPv4Address]]:
    return ((link, address.ip) for link in links for address in link.addresses)


def _first_address(link: kernel.UnderlayLink, links: Sequence[kernel.UnderlayLink]) -> ipaddress.IPv4Address:
    if not link.addresses:
        raise errors.UnderlayError(
            f"interface {link.name} has no IPv4 address; set IFACE to another of: {_candidates(links)}"
        )
    return link.addresses[0].ip


def _candidates(links: Sequence[kernel.UnderlayLink]) -> str:
    """`eth0 (192.0.2.1, default route), eth1 (no address)`."""
    texts = []
    for link in links:
        notes = [str(address.ip) for address in link.addresses] or ["no address"]
        notes += ["default route"] * link.has_default_route + ["down"] * (not link.up)
        texts.append(f"{link.name} ({', '.join(notes)})")
    return ", ".join(texts) or "none at all"
