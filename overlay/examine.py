"""The peers of a flannel network as this host sees them, and the few packets that tell what is between.

Called on request, by `plugin`, through `node`; keeps nothing and changes nothing. What the answers mean is decided in
`diagnosis`. Acts in the network namespace of the calling thread.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Mapping, Sequence

from overlay import backend_vxlan, diagnosis, lease, member, netstate, offload, peers, ping, probe

PING_S = 1.0
"""How long an answer may take."""

SMALL = 84
"""Bytes of a small ping, headers included."""

AT_ONCE = 8
"""Peers that are asked at the same time."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """A peer, for /peers. `problem` is why it gets no kernel objects. Units: `age_s` since it last changed."""

    subnet: str
    public_ip: str
    backend_type: str
    age_s: float
    problem: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """The addresses to use between this host and a peer: the first family that both have."""

    source: netstate.IPAddress | None
    inside: netstate.IPAddress
    public: netstate.IPAddress


def list_peers(
    known: member.Membership, book: peers.Book, changed_at: Mapping[lease.SubnetKey, float], now: float
) -> list[PeerView]:
    """All peers in order of their subnets. `changed_at` and `now` are monotonic."""
    _, skipped = known.backend.desired(known.own, book.leases)
    problems = {one.key: one.reason for one in skipped}
    return [
        PeerView(
            subnet=str(key),
            public_ip=held.attrs.host,
            backend_type=held.attrs.backend_type,
            age_s=round(now - changed_at.get(key, now), 1),
            problem=problems.get(key),
        )
        for key, held in sorted(book.leases.items(), key=lambda item: (item[0].v4, str(item[0].v6)))
    ]


def examine(known: member.Membership, leases: Sequence[lease.Lease]) -> list[str]:
    """A sentence for each of these peers, in order. Takes up to five seconds for each AT_ONCE of them.

    Raises PermissionError where this process may not send such packets.
    """
    with concurrent.futures.ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="examine") as pool:
        return list(pool.map(lambda held: _examine_one(known, held), leases))


def _examine_one(known: member.Membership, peer: lease.Lease) -> str:
    way = choose_way(known, peer)
    if way is None:
        return "no address of a family that both hosts have"
    mtu = known.backend.overlay_mtu(known.own)
    small = ping.ask(way.inside, way.source, size=SMALL, timeout_s=PING_S)
    evidence = diagnosis.Evidence(
        underlay=small or ping.ask(way.public, None, size=SMALL, timeout_s=PING_S),
        tunnel=small,
        full=small and ping.ask(way.inside, way.source, size=mtu, timeout_s=PING_S),
        tcp=small and _tcp(way),
    )
    path = diagnosis.Path(public_ip=str(way.public), link=known.own.underlay.name, mtu=mtu, udp_port=_udp_port(known))
    return diagnosis.conclude(evidence, path)


def choose_way(known: member.Membership, peer: lease.Lease) -> _Way | None:
    """Pure. A tunnel device has the first address of its subnet; without one the bridge's, the next, is asked."""
    own, offset = known.own, 0 if known.backend.device else 1
    if not (own.underlay.ip.is_unspecified or peer.attrs.public_ip.is_unspecified):
        source = None if offset else own.key.v4.network_address
        return _Way(source=source, inside=peer.key.v4.network_address + offset, public=peer.attrs.public_ip)
    if own.key.v6 is None or peer.key.v6 is None or peer.attrs.public_ipv6 is None:
        return None
    return _Way(
        source=None if offset else own.key.v6.network_address,
        inside=peer.key.v6.network_address + offset,
        public=peer.attrs.public_ipv6,
    )


def _udp_port(known: member.Membership) -> int | None:
    match known.backend:
        case backend_vxlan.VxlanBackend(port=port):
            return port
        case _:
            return None


def _tcp(way: _Way) -> bool:
    """Only a tunnel spoils checksums: without one TCP is as good as the underlay's."""
    if way.source is None:
        return True
    return probe.Probe().ask(offload.Tunnel(own=way.source, peer=way.inside)).kernel
