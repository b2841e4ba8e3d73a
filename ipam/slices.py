"""Which part of a lease a Docker network gets.

Pure. Caller: `ipam.service`. The first network that asks for no subnet takes the whole lease; with subnets, each
takes a slice that no other has.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from ipam import errors

SHOWN = 6
"""How many slices a message lists before it counts the rest."""


def plan(
    lease: ipaddress.IPv4Network,
    taken: Iterable[ipaddress.IPv4Network],
    wanted: ipaddress.IPv4Network | None,
) -> ipaddress.IPv4Network:
    """The part of `lease` to grant: `wanted`, or all of it. Raises PoolOutsideLease and PoolTaken."""
    taken = sorted(pool for pool in taken if pool.overlaps(lease))
    if wanted is None:
        if taken:
            raise errors.PoolTaken(_explain_shared(lease, taken))
        return lease
    if not wanted.subnet_of(lease):
        raise errors.PoolOutsideLease(
            f"subnet {wanted} is not part of this host's lease {lease}; leave --subnet away or take a slice of the "
            "lease"
        )
    overlapping = [pool for pool in taken if pool.overlaps(wanted)]
    if overlapping:
        raise errors.PoolTaken(_explain_overlap(lease, taken, wanted, overlapping))
    return wanted


def free(lease: ipaddress.IPv4Network, taken: Iterable[ipaddress.IPv4Network]) -> list[ipaddress.IPv4Network]:
    """What of `lease` nobody has, as the largest slices possible, in order of address."""
    rest = [lease]
    for pool in taken:
        rest = [part for whole in rest for part in _without(whole, pool)]
    return sorted(rest)


def _without(whole: ipaddress.IPv4Network, pool: ipaddress.IPv4Network) -> list[ipaddress.IPv4Network]:
    if whole.subnet_of(pool):
        return []
    if pool.subnet_of(whole):
        return list(whole.address_exclude(pool))
    return [whole]


def _explain_shared(lease: ipaddress.IPv4Network, taken: Sequence[ipaddress.IPv4Network]) -> str:
    if any(lease.subnet_of(pool) for pool in taken):
        return f"lease {lease} of this host is taken whole by {_pools(taken)}; {_advise_split(lease)}"
    return f"lease {lease} of this host is taken in part by {_pools(taken)}; {_advise_free(lease, taken)}"


def _explain_overlap(
    lease: ipaddress.IPv4Network,
    taken: Sequence[ipaddress.IPv4Network],
    wanted: ipaddress.IPv4Network,
    overlapping: Sequence[ipaddress.IPv4Network],
) -> str:
    if any(lease.subnet_of(pool) for pool in overlapping):
        return f"subnet {wanted}: {_explain_shared(lease, overlapping)}"
    return (
        f"subnet {wanted} overlaps {_pools(overlapping)} of this host's lease {lease}; {_advise_free(lease, taken)}"
    )


def _advise_split(lease: ipaddress.IPv4Network) -> str:
    if lease.prefixlen > 29:
        return "remove that network first"
    slices = " and ".join(str(half) for half in lease.subnets())
    return f"remove that network, or re-create both with --subnet, for example {slices}"


def _advise_free(lease: ipaddress.IPv4Network, taken: Iterable[ipaddress.IPv4Network]) -> str:
    slices = [str(part) for part in free(lease, taken)]
    if not slices:
        return "no slice is free: remove a network first"
    return f"take a free slice with --subnet: {_shorten(slices)}"


def _pools(pools: Sequence[ipaddress.IPv4Network]) -> str:
    return ("pool " if len(pools) == 1 else "pools ") + _shorten([str(pool) for pool in pools])


def _shorten(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
