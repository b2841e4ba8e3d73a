"""Which link of this host carries the overlay, and under which address.

Pure: chooses among the links that the kernel port listed. Called by the node at start and when links change.
Source: flannel main.go:304-370, pkg/ipmatch/match.go.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Collection, Iterable, Sequence

from overlay import errors, kernel, netstate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnderlayV6:
    """The IPv6 side of the chosen link. `ip` is on it; `public_ip` is what peers send to."""

    ip: ipaddress.IPv6Address
    public_ip: ipaddress.IPv6Address


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Underlay:
    """The chosen link. `ip` is on it; `public_ip` is what peers send to, which a NAT may own. Units: `mtu` bytes.

    `routes` are this host's own ways, filled where the backend asks for them (`Backend.needs_routes`). A link of IPv6
    alone has 0.0.0.0 for both addresses, as flannel writes it into a lease. `v6` None: no IPv6 asked for.
    """

    name: netstate.IfName
    ip: ipaddress.IPv4Address
    mtu: int
    public_ip: ipaddress.IPv4Address
    routes: tuple[kernel.UnderlayRoute, ...] = ()
    v6: UnderlayV6 | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the settings say of the underlay.

    `iface` is an address, a name, a regular expression for either, or "". `want_v6`: the network config has IPv6.
    """

    iface: str = ""
    public_ip: ipaddress.IPv4Address | None = None
    public_ipv6: ipaddress.IPv6Address | None = None
    want_v6: bool = False


def choose_underlay(
    links: Sequence[kernel.UnderlayLink], wish: Wish, routes: Sequence[kernel.UnderlayRoute] = ()
) -> Underlay:
    """The link named by `wish.iface`, and the addresses on it that tunnels use.

    With no IFACE it is the owner of a public address if there is one, else the link of the default route, on which
    the families must agree. A regular expression is tried on all addresses first, then on the names, unanchored, as
    flannel does; one match chooses the link, and so the other family's address too. `routes` are kept.
    Raises UnderlayError, which names the candidates.
    """
    choice = _match(links, wish) if wish.iface else _default(links, wish)
    link = choice.link
    if link.mtu <= 0:
        raise errors.UnderlayError(f"interface {link.name} has no MTU; {_other(links)}")
    v6 = None
    if wish.want_v6:
        own_v6 = _address_v6(choice, links)
        v6 = UnderlayV6(ip=own_v6, public_ip=wish.public_ipv6 or own_v6)
    own = _address_v4(choice, links, wish)
    public_ip = own if own.is_unspecified else wish.public_ip or own
    return Underlay(name=link.name, ip=own, mtu=link.mtu, public_ip=public_ip, routes=tuple(routes), v6=v6)


def stay(links: Sequence[kernel.UnderlayLink], chosen: Underlay, keep: Underlay | None) -> Underlay:
    """`chosen`, but with the addresses of the choice so far that are still on the link: floating ones come and go."""
    if keep is None or keep.name != chosen.name:
        return chosen
    there = {one.ip for link in links if link.name == chosen.name for one in link.all_addresses}
    if keep.ip in there:
        chosen = dataclasses.replace(chosen, ip=keep.ip, public_ip=keep.public_ip)
    if chosen.v6 is not None and keep.v6 is not None and keep.v6.ip in there:
        chosen = dataclasses.replace(chosen, v6=keep.v6)
    return chosen


def find_host_ranges(
    links: Iterable[kernel.UnderlayLink], networks: Sequence[netstate.IPNetwork], devices: Collection[netstate.IfName]
) -> tuple[kernel.HostRange, ...]:
    """What links other than the tunnel `devices` have inside `networks`, each once.

    A range as wide as a whole network, or wider, is no range inside: hosts have such (10.0.0.0/8), and the routes of
    peers are a part of it on purpose.
    """
    found = {
        (address.network, link.name): kernel.HostRange(network=address.network, link=link.name)
        for link in links
        if link.name not in devices
        for address in link.all_addresses
        if any(_is_inside(address.network, whole) for whole in networks)
    }
    return tuple(found.values())


class RouteTable:
    """Routes by destination, for many questions of the same host. Of two to one destination the first counts."""

    def __init__(self, routes: Iterable[kernel.UnderlayRoute]) -> None:
        self._by_length: dict[tuple[int, int], dict[int, kernel.UnderlayRoute]] = {}
        for route in routes:
            network = route.destination
            level = self._by_length.setdefault((network.version, network.prefixlen), {})
            level.setdefault(int(network.network_address) >> (network.max_prefixlen - network.prefixlen), route)
        self._longest_first = sorted(self._by_length, reverse=True)

    def find(self, ip: netstate.IPAddress) -> kernel.UnderlayRoute | None:
        """The route that packets to `ip` take: the one with the longest prefix."""
        for version, length in self._longest_first:
            if version == ip.version:
                found = self._by_length[version, length].get(int(ip) >> (ip.max_prefixlen - length))
                if found is not None:
                    return found
        return None

    def find_direct(self, ip: netstate.IPAddress) -> kernel.UnderlayRoute | None:
        """The route to `ip` if no router is on the way, else None."""
        found = self.find(ip)
        return found if found is not None and found.gateway is None else None


def _is_inside(part: netstate.IPNetwork, whole: netstate.IPNetwork) -> bool:
    return part.version == whole.version and part.prefixlen > whole.prefixlen and part.overlaps(whole)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """A link, and the address on it by which it was chosen, if it was by one."""

    link: kernel.UnderlayLink
    ip: netstate.IPAddress | None = None


def _match(links: Sequence[kernel.UnderlayLink], wish: Wish) -> _Choice:
    iface, addresses = wish.iface, _addresses(links, wish)
    named = _parse_ip(iface)
    for choice in addresses:
        if choice.ip == named:
            return choice
    for link in links:
        if link.name == iface:
            return _Choice(link=link)
    try:
        pattern = re.compile(iface)
    except re.error as exc:
        raise errors.UnderlayError(
            f"IFACE={iface!r} is no interface and no regular expression ({exc}); there are: {_candidates(links)}"
        ) from exc
    for choice in addresses:
        if pattern.search(str(choice.ip)):
            return choice
    for link in links:
        if pattern.search(link.name):
            return _Choice(link=link)
    raise errors.UnderlayError(f"IFACE={iface!r} matches no interface; there are: {_candidates(links)}")


def _default(links: Sequence[kernel.UnderlayLink], wish: Wish) -> _Choice:
    owned = {choice.ip: choice for choice in reversed(_addresses(links, wish))}  # of two owners the first counts
    for public in (wish.public_ip, wish.public_ipv6):
        if public in owned:
            return owned[public]
    v4 = next((link for link in links if link.has_default_route), None)
    v6 = next((link for link in links if link.has_default_route_v6), None) if wish.want_v6 else None
    if v4 is not None and v6 is not None and v4.name != v6.name:
        raise errors.UnderlayError(
            f"the default route is over {v4.name} for IPv4 and over {v6.name} for IPv6, and one interface must carry "
            f"both; set IFACE to one of: {_candidates(links)}"
        )
    link = v4 or v6
    if link is None:
        raise errors.UnderlayError(f"no default route on this host; set IFACE to one of: {_candidates(links)}")
    return _Choice(link=link)


def _parse_ip(text: str) -> netstate.IPAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _addresses(links: Iterable[kernel.UnderlayLink], wish: Wish) -> list[_Choice]:
    """All addresses of the families in use."""
    return [
        _Choice(link=link, ip=address.ip)
        for link in links
        for address in link.all_addresses
        if wish.want_v6 or address.version == 4
    ]


def _address_v4(choice: _Choice, links: Sequence[kernel.UnderlayLink], wish: Wish) -> ipaddress.IPv4Address:
    if isinstance(choice.ip, ipaddress.IPv4Address):
        return choice.ip
    if choice.link.addresses:
        return choice.link.addresses[0].ip
    if wish.want_v6:
        return ipaddress.IPv4Address(0)  # a host of IPv6 alone is a node all the same
    raise errors.UnderlayError(f"interface {choice.link.name} has no IPv4 address; {_other(links)}")


def _address_v6(choice: _Choice, links: Sequence[kernel.UnderlayLink]) -> ipaddress.IPv6Address:
    if isinstance(choice.ip, ipaddress.IPv6Address):
        return choice.ip
    if choice.link.addresses_v6:
        return choice.link.addresses_v6[0].ip
    raise errors.UnderlayError(
        f"interface {choice.link.name} has no IPv6 address that other hosts could send to, and the network config "
        f"has EnableIPv6; give it one, or {_other(links)}"
    )


def _other(links: Sequence[kernel.UnderlayLink]) -> str:
    return f"set IFACE to another of: {_candidates(links)}"


def _candidates(links: Sequence[kernel.UnderlayLink]) -> str:
    """`eth0 (192.0.2.1, default route), eth1 (no address)`."""
    texts = []
    for link in links:
        notes = [str(address.ip) for address in link.all_addresses] or ["no address"]
        notes += ["default route"] * link.has_default_route + ["IPv6 default route"] * link.has_default_route_v6
        notes += ["down"] * (not link.up)
        texts.append(f"{link.name} ({', '.join(notes)})")
    return ", ".join(texts) or "none at all"
