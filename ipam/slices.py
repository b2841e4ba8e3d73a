"""Which part of a lease a Docker network gets.

Pure. Caller: `ipam.service`. The first network that asks for no subnet takes the whole lease; with subnets, each
takes a slice that no other has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ipam import errors
from overlay import netstate

SHOWN = 6
"""How many slices a message lists before it counts the rest."""


def plan(
    lease: netstate.IPNetwork,
    taken: Iterable[netstate.IPNetwork],
    wanted: netstate.IPNetwork | None,
) -> netstate.IPNetwork:
    """The part of `lease` to grant: `wanted`, or all of it. Raises PoolOutsideLease and PoolTaken."""
    taken = sorted((pool for pool in taken if pool.overlaps(lease)), key=order_of)
    if wanted is None:
        if taken:
            raise errors.PoolTaken(_explain_shared(lease, taken))
        return lease
    if not netstate.is_part(wanted, lease):
        raise errors.PoolOutsideLease(
            f"subnet {wanted} is not part of this host's lease {lease}; leave --subnet away or take a slice of the "
            "lease"
        )
    overlapping = [pool for pool in taken if pool.overlaps(wanted)]
    if overlapping:
        raise errors.PoolTaken(_explain_overlap(lease, taken, wanted, overlapping))
    return wanted


def free(lease: netstate.IPNetwork, taken: Iterable[netstate.IPNetwork]) -> list[netstate.IPNetwork]:
    """What of `lease` nobody has, as the largest slices possible, in order of address."""
    rest = [lease]
    for pool in taken:
        rest = [part for whole in rest for part in _without(whole, pool)]
    return sorted(rest, key=order_of)


def order_of(pool: netstate.IPNetwork) -> tuple[int, int, int]:
    """Sorts pools by family, address and size: those of two families do not compare by themselves."""
    return pool.version, int(pool.network_address), pool.prefixlen


def _without(whole: netstate.IPNetwork, pool: netstate.IPNetwork) -> list[netstate.IPNetwork]:
    if netstate.is_part(whole, pool):
        return []
    if not netstate.is_part(pool, whole):
        return [whole]
    return [part for half in whole.subnets() for part in _without(half, pool)]


def _explain_shared(lease: netstate.IPNetwork, taken: Sequence[netstate.IPNetwork]) -> str:
    if any(netstate.is_part(lease, pool) for pool in taken):
        return f"lease {lease} of this host is taken whole by {_pools(taken)}; {_advise_split(lease)}"
    return f"lease {lease} of this host is taken in part by {_pools(taken)}; {_advise_free(lease, taken)}"


def _explain_overlap(
    lease: netstate.IPNetwork,
    taken: Sequence[netstate.IPNetwork],
    wanted: netstate.IPNetwork,
    overlapping: Sequence[netstate.IPNetwork],
) -> str:
    if any(netstate.is_part(lease, pool) for pool in overlapping):
        return f"subnet {wanted}: {_explain_shared(lease, overlapping)}"
    return (
        f"subnet {wanted} overlaps {_pools(overlapping)} of this host's lease {lease}; {_advise_free(lease, taken)}"
    )


def _advise_split(lease: netstate.IPNetwork) -> str:
    if lease.max_prefixlen - lease.prefixlen < 3:
        return "remove that network first"
    slices = " and ".join(str(half) for half in lease.subnets())
    return f"remove that network, or re-create both with --subnet, for example {slices}"


def _advise_free(lease: netstate.IPNetwork, taken: Iterable[netstate.IPNetwork]) -> str:
    slices = [str(part) for part in free(lease, taken)]
    if not slices:
        return "no slice is free: remove a network first"
    return f"take a free slice with --subnet: {_shorten(slices)}"


def _pools(pools: Sequence[netstate.IPNetwork]) -> str:
    return ("pool " if len(pools) == 1 else "pools ") + _shorten([str(pool) for pool in pools])


def _shorten(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
