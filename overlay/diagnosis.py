"""What keeps this host and a peer apart, concluded from a handful of packets.

Pure. `plugin` collects the Evidence on request with the packets of `overlay.probe` and shows the conclusion.
Source: flannel.md §8 (rows 1, 15, 19): the faults that flannel's users meet and cannot tell from one another.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Which of our packets a peer answered.

    `underlay`: a ping to its public address; `tunnel`: a small ping through the tunnel; `full`: one of the whole
    overlay MTU that may not be fragmented; `tcp`: a connection attempt through the tunnel, refused or not.
    """

    underlay: bool
    tunnel: bool
    full: bool
    tcp: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """How packets get to the peer, for the words of a conclusion. Units: `mtu` bytes of the overlay.

    `udp_port` None: no tunnel, the underlay routes them (host-gw, DirectRouting).
    """

    public_ip: str
    link: str
    mtu: int
    udp_port: int | None


def conclude(seen: Evidence, path: Path) -> str:
    """One sentence: that all is well, or what is broken and where to look."""
    if not seen.tunnel:
        return _no_way(seen, path)
    if not seen.full:
        return (
            f"small packets arrive, packets of {path.mtu} bytes do not: a link on the way to {path.public_ip} "
            "carries less than this host's; give all hosts one MTU, or set MTU in the network config's Backend"
        )
    if not seen.tcp:
        return (
            "ping arrives, TCP does not: a network card that spoils checksums (set TX_CHECKSUM=off), or a firewall "
            f"at {path.public_ip} that drops TCP to the host"
        )
    return "reachable"


def _no_way(seen: Evidence, path: Path) -> str:
    if not seen.underlay:
        return f"{path.public_ip} does not answer a ping over {path.link}: the host is down, or not routed to"
    if path.udp_port is None:
        return (
            f"{path.public_ip} answers, its overlay address does not: it does not forward, or has no such subnet "
            "any more, or a router between drops packets of the overlay"
        )
    return (
        f"{path.public_ip} answers, its tunnel does not: UDP port {path.udp_port} is filtered between the hosts, or "
        "no flannel node runs there, or its VTEP MAC is not what its lease says"
    )
