"""The host-gw backend: no tunnel; a peer's subnet is routed to the peer, which must be on a network of this host.

Pure. Made by `backend.choose_backend`. Source: flannel pkg/backend/hostgw/hostgw.go, pkg/backend/route_network.go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from overlay import backend, errors, halves, lease, netstate, underlay

TYPE = "host-gw"
NO_DEVICE = netstate.IfName("")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostGwBackend:
    """It has no options."""

    @property
    def device(self) -> netstate.IfName:
        """Packets cross the underlay as they are."""
        return NO_DEVICE

    @property
    def device_v6(self) -> netstate.IfName:
        """As `device`."""
        return NO_DEVICE

    @property
    def needs_routes(self) -> bool:
        """A peer with a router before it cannot be reached."""
        return True

    @property
    def warnings(self) -> tuple[str, ...]:
        """Nothing to know."""
        return ()

    def overlay_mtu(self, own: backend.Own) -> int:
        """All that the link carries."""
        return own.underlay.mtu

    def check_underlay(self, own: backend.Own) -> None:
        """Raises ConfigInvalid behind a NAT: peers would route to an address that is not this host's."""
        for half in halves.own_halves(own).values():
            if half.public_ip != half.ip:
                name = "PUBLIC_IPV6" if half.ip.version == halves.V6 else "PUBLIC_IP"
                raise errors.ConfigInvalid(
                    f"{name} {half.public_ip} differs from {half.ip} on interface {own.underlay.name}, as behind a "
                    f"NAT, which host-gw does not support; leave {name} out, or give the network config the Backend "
                    '{"Type": "vxlan"}'
                )

    def attrs(self, own: backend.Own) -> lease.LeaseAttrs:
        """The addresses to route to."""
        v6 = None if own.key.v6 is None else own.underlay.v6
        return lease.LeaseAttrs(
            public_ip=own.underlay.public_ip,
            public_ipv6=None if v6 is None else v6.public_ip,
            backend_type=TYPE,
        )

    def desired(
        self, own: backend.Own, peers: Mapping[lease.SubnetKey, lease.Lease]
    ) -> tuple[netstate.NetState, tuple[backend.Skipped, ...]]:
        """A route for each family of every peer that no router is before."""
        everybody = halves.sort_peers(own, peers)
        ours, skipped = halves.split_by_type(everybody, TYPE)
        own_halves = halves.own_halves(own)
        skipped += halves.find_strangers(ours, own_halves)
        ways = underlay.RouteTable(own.underlay.routes)
        objects: list[netstate.KernelObject] = []
        for version, half in own_halves.items():
            sieve = halves.Sieve(half, everybody)
            for held in ours:
                if not halves.has_half(held, version):
                    continue
                try:
                    subnet, public_ip = halves.subnet_and_ip(held, version)
                    peer = halves.PeerHalf(key=held.key, subnet=subnet, public_ip=public_ip, mac=None)
                    sieve.check_range(peer)
                    sieve.check(peer)
                    link = _find_link(ways, public_ip)
                except errors.CodecError as exc:
                    skipped.append(halves.skip(held.key, version, exc))
                else:
                    objects.append(netstate.Route(destination=subnet, gateway=public_ip, link=link, onlink=False))
        return frozenset(objects), halves.sort_skipped(skipped)


def _find_link(ways: underlay.RouteTable, public_ip: netstate.IPAddress) -> netstate.IfName:
    """The link on which the peer is. Raises CodecError where it is on none."""
    way = ways.find(public_ip)
    if way is None:
        raise errors.CodecError(f"there is no route to {public_ip}, and host-gw needs all hosts on one network")
    if way.gateway is not None:
        raise errors.CodecError(
            f"{public_ip} is behind the router {way.gateway}, and host-gw needs all hosts on one network"
        )
    return way.link
