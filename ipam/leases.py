"""Which lease a pool is cut from, and what to say where it cannot be.

Pure. Caller: `ipam.service`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from ipam import errors, requests
from overlay import lease, netstate


def of_family(held: lease.HeldSubnet, version: int) -> netstate.IPNetwork:
    """The subnet of one family. Raises BadRequest where the lease has none of it."""
    for leased in held.subnets:
        if leased.version == version:
            return leased
    raise errors.BadRequest(
        f"--ipv6: the flannel network {held.prefix} has no IPv6; leave --ipv6 and IPv6 --subnet away, or add "
        "EnableIPv6 and IPv6Network to its network config (docs/operations.md, Dual stack)"
    )


def refuse_overlap(held: lease.HeldSubnet, others: Iterable[lease.HeldSubnet]) -> None:
    """Raise LeasesOverlap where this host's leases of two flannel networks have addresses in common."""
    for other in others:
        for leased, theirs in itertools.product(held.subnets, other.subnets):
            if leased.overlaps(theirs):
                raise errors.LeasesOverlap(
                    f"lease {leased} of {held.prefix} overlaps lease {theirs} of {other.prefix}: this host can be in "
                    "only one of the two; give one of them another Network in its config"
                )


def hint_other_prefix(
    request: requests.PoolRequest, held: lease.HeldSubnet, others: Iterable[lease.HeldSubnet]
) -> None:
    """Raise PoolOutsideLease where the subnet asked for is part of another flannel network's lease."""
    wanted = request.cidr
    if wanted is None or any(netstate.is_part(wanted, leased) for leased in held.subnets):
        return
    for other in others:
        for theirs in other.subnets:
            if netstate.is_part(wanted, theirs):
                raise errors.PoolOutsideLease(
                    f"subnet {wanted} is part of this host's lease {theirs} of {other.prefix}, not of "
                    f"{' and '.join(map(str, held.subnets))} of {held.prefix}; add --ipam-opt "
                    f"flannelpy.prefix={other.prefix}"
                )
