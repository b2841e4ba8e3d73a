"""What people are shown of a pool: its use, and why it has nothing left.

Pure. Used by `ipam.service`; whether a pool is short, `ipam.shortage` knows.
"""

from __future__ import annotations

from ipam import pool, requests, store


def usage_of(entry: store.PoolEntry) -> requests.PoolUsage:
    """How much of a pool is used; whether it is short is not known here."""
    gateways = (ip for ip, used in entry.addresses.in_use() if used.kind is pool.Kind.GATEWAY)
    return requests.PoolUsage(
        id=entry.id,
        prefix=entry.prefix,
        lease=entry.lease,
        cidr=entry.addresses.cidr,
        subpool=entry.addresses.subpool,
        gateway=next(gateways, None),
        used=entry.addresses.used,
        total=entry.addresses.total,
        short=False,
    )


def explain_full(entry: store.PoolEntry, network: str) -> str:
    """Why no address is left, and what to do. `network`: what Docker calls it; empty where nobody knows."""
    addresses = entry.addresses
    of = f"network {network}: " if network else ""
    within = f", --ip-range {addresses.subpool}," if addresses.subpool else ""
    return (
        f"{of}pool {addresses.cidr}{within} of lease {entry.lease} ({entry.prefix}) is full: {addresses.used} of "
        f"{addresses.total} addresses used; remove containers of this network, or use another network or host"
    )
