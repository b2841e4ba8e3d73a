"""One family of a node: this host's half and those of its peers, and which of them can stand side by side.

Pure. Used by the backends, which all meet the same bad peers. IPv4 and IPv6 share one path, and what is wrong with
one half of a peer never costs it the other.
"""

from __future__ import annotations

import bisect
import dataclasses
import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from overlay import backend, errors, kernel, lease, netstate

V4, V6 = 4, 6
Leases = Mapping[lease.SubnetKey, lease.Lease]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OwnHalf:
    """This host in one family. `ip` is on the link below, `public_ip` is what peers send to."""

    subnet: netstate.IPNetwork
    ip: netstate.IPAddress
    public_ip: netstate.IPAddress
    network: netstate.IPNetwork | None = None
    host_ranges: tuple[kernel.HostRange, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PeerHalf:
    """A peer in one family. `mac` is that of its tunnel device, None where the backend has none."""

    key: lease.SubnetKey
    subnet: netstate.IPNetwork
    public_ip: netstate.IPAddress
    mac: netstate.Mac | None

    @property
    def gateway(self) -> netstate.IPAddress:
        """The address of the peer's tunnel device: the first of its subnet."""
        return self.subnet.network_address


def own_halves(own: backend.Own) -> dict[int, OwnHalf]:
    """This host's halves by version of IP: a family counts where lease and underlay both have it."""
    halves: dict[int, OwnHalf] = {}
    if not own.underlay.ip.is_unspecified:
        halves[V4] = OwnHalf(subnet=own.key.v4, ip=own.underlay.ip, public_ip=own.underlay.public_ip)
    if own.key.v6 is not None and own.underlay.v6 is not None:
        halves[V6] = OwnHalf(subnet=own.key.v6, ip=own.underlay.v6.ip, public_ip=own.underlay.v6.public_ip)
    return {version: _with_ranges(half, own) for version, half in halves.items()}


def _with_ranges(half: OwnHalf, own: backend.Own) -> OwnHalf:
    version = half.subnet.version
    return dataclasses.replace(
        half,
        network=next((network for network in own.networks if network.version == version), None),
        host_ranges=tuple(one for one in own.host_ranges if one.network.version == version),
    )


def sort_peers(own: backend.Own, peers: Leases) -> list[lease.Lease]:
    """The other nodes' leases, the latest written first: of two that claim one thing it is the one that counts."""
    others = (held for held in peers.values() if held.key != own.key)
    return sorted(others, key=lambda held: (-held.mod_revision, held.key.v4, str(held.key.v6)))


def split_by_type(peers: Iterable[lease.Lease], backend_type: str) -> tuple[list[lease.Lease], list[backend.Skipped]]:
    """Those that speak our backend, and the others."""
    ours, skipped = [], []
    for held in peers:
        spoken = held.attrs.backend_type
        if spoken == backend_type:
            ours.append(held)
        else:
            reason = f"backend type is {spoken or 'udp or alloc'}, ours is {backend_type}"
            skipped.append(backend.Skipped(key=held.key, reason=reason))
    return ours, skipped


def has_half(held: lease.Lease, version: int) -> bool:
    """Whether the peer is a node in this family, well or badly described.

    A host of IPv6 alone has an IPv4 subnet in its key all the same, and 0.0.0.0 for its address.
    """
    if version == V6:
        return held.key.v6 is not None
    v6_alone = held.attrs.public_ip.is_unspecified and held.attrs.public_ipv6 is not None and held.key.v6 is not None
    return not v6_alone


def find_strangers(peers: Iterable[lease.Lease], own: Mapping[int, OwnHalf]) -> Iterator[backend.Skipped]:
    """Peers that have no family in common with this host."""
    names = {V4: "IPv4", V6: "IPv6"}
    for held in peers:
        theirs = [version for version in names if has_half(held, version)]
        if not own.keys() & theirs:
            reason = f"its underlay has {names[theirs[0]]} alone, and this host has no {names[theirs[0]]}"
            yield backend.Skipped(key=held.key, reason=reason)


def subnet_and_ip(held: lease.Lease, version: int) -> tuple[netstate.IPNetwork, netstate.IPAddress]:
    """The half that `has_half` told of. Raises CodecError."""
    if version == V4:
        return held.key.v4, held.attrs.public_ip
    if held.key.v6 is None or held.attrs.public_ipv6 is None:
        raise errors.CodecError("PublicIPv6 is missing")
    return held.key.v6, held.attrs.public_ipv6


class Sieve:
    """Lets through, one after the other, the peers of one family that harm nobody; the first of twins passes."""

    def __init__(self, own: OwnHalf, everybody: Iterable[lease.Lease], mac: netstate.Mac | None = None) -> None:
        """`everybody`: whose addresses no peer's subnet may cover. `mac` is that of our own tunnel device."""
        self._own = own
        self._mac = mac
        version = own.ip.version
        self._ranges: dict[int, dict[int, kernel.HostRange]] = {}  # by the length and number of their prefixes
        for one in own.host_ranges:
            shift = one.network.max_prefixlen - one.network.prefixlen
            self._ranges.setdefault(shift, {})[int(one.network.network_address) >> shift] = one
        ends = (held.attrs.public_ip if version == V4 else held.attrs.public_ipv6 for held in everybody)
        by_number = {int(end): end for end in (own.ip, *ends) if end is not None}
        self._end_numbers = sorted(by_number)
        self._ends = [by_number[number] for number in self._end_numbers]
        self._by_mac: dict[netstate.Mac, PeerHalf] = {}
        self._by_gateway: dict[int, PeerHalf] = {}  # by number: hashing an address costs ten times as much

    def check_range(self, peer: PeerHalf) -> None:
        """Raises CodecError where the peer's subnet is no part of the network, or one that this host has.

        A lease may have any range for its key, docker0's as well. It depends on nothing but this host and the peer:
        once is enough for both.
        """
        first, network = int(peer.subnet.network_address), self._own.network
        if network is not None and (
            peer.subnet.prefixlen < network.prefixlen
            or (first ^ int(network.network_address)) >> (network.max_prefixlen - network.prefixlen)
        ):
            raise errors.CodecError(f"its subnet is not inside the flannel network {network}")
        for shift, ranges in self._ranges.items():
            taken = ranges.get(first >> shift)
            if taken is not None and peer.subnet.prefixlen >= taken.network.prefixlen:
                raise errors.CodecError(f"its subnet lies in {taken.network}, which {taken.link} of this host has")

    def check(self, peer: PeerHalf) -> None:
        """Raises CodecError where the peer's entries would harm us, another peer, or the way to any of them."""
        self._check_harm(peer)
        self._check_twins(peer)
        self._by_gateway[int(peer.gateway)] = peer
        if peer.mac is not None:
            self._by_mac[peer.mac] = peer

    def _check_harm(self, peer: PeerHalf) -> None:
        own = self._own
        if _overlap(peer.subnet, own.subnet):
            raise errors.CodecError(f"its subnet overlaps ours, {own.subnet}")
        if peer.public_ip in (own.public_ip, own.ip):  # a set would hash three addresses
            raise errors.CodecError(f"{_name(peer)} {peer.public_ip} is our own")
        if not is_usable(peer.public_ip):
            raise errors.CodecError(f"{_name(peer)} {peer.public_ip} is no host's address")
        if peer.mac is not None and peer.mac == self._mac:
            raise errors.CodecError(f"VTEP MAC {peer.mac} is our own")
        at = bisect.bisect_left(self._end_numbers, int(peer.subnet.network_address))
        if at < len(self._ends) and self._end_numbers[at] <= int(peer.subnet.broadcast_address):
            raise errors.CodecError(
                f"its subnet covers {self._ends[at]}: packets to that host would be taken for its containers'"
            )

    def _check_twins(self, peer: PeerHalf) -> None:
        """The kernel could hold the entries of only one of two."""
        same_mac = None if peer.mac is None else self._by_mac.get(peer.mac)
        if same_mac is not None and same_mac.public_ip != peer.public_ip:
            raise errors.CodecError(f"VTEP MAC {peer.mac} is that of {same_mac.subnet} at {same_mac.public_ip} too")
        same_gateway = self._by_gateway.get(int(peer.gateway))
        if same_gateway is not None:
            raise errors.CodecError(f"its subnet begins where {same_gateway.subnet} of {same_gateway.public_ip} does")


def skip(key: lease.SubnetKey, version: int, reason: object) -> backend.Skipped:
    """One half left out."""
    return backend.Skipped(key=key, reason=f"IPv6: {reason}" if version == V6 else str(reason))


def sort_skipped(skipped: Iterable[backend.Skipped]) -> tuple[backend.Skipped, ...]:
    """By subnet."""
    return tuple(sorted(skipped, key=lambda one: (one.key.v4, str(one.key.v6), one.reason)))


def is_usable(address: netstate.IPAddress) -> bool:
    """Whether a peer can be at this address: a unicast one of a host, which needs no link to go with it."""
    if isinstance(address, ipaddress.IPv4Address):  # by number: it is asked for each peer at each change
        return 0 < int(address) < 0xE0000000 and int(address) >> 24 != 127
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        return False
    return not address.is_link_local and address.ipv4_mapped is None


def _overlap(one: netstate.IPNetwork, other: netstate.IPNetwork) -> bool:
    """Both are of one family, which the type cannot say."""
    return int(one.network_address) <= int(other.broadcast_address) and int(other.network_address) <= int(
        one.broadcast_address
    )


def _name(peer: PeerHalf) -> str:
    return "PublicIPv6" if peer.public_ip.version == V6 else "PublicIP"
