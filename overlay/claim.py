"""What to do about this host's own lease, decided from one look at the registry.

Pure. `node` carries the decisions out. Rules: the subnet never changes while something uses it; a key that is not
ours is never written (flannel.md §9.1 M13); one wish per look, so that a lost race is simply looked at again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from overlay import errors, lease, netconfig, registry, subnets


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What this host wrote last, from the state file or from this run.

    `attrs` None: this host had the subnet, but did not write its key; a flanneld did.
    """

    key: lease.SubnetKey
    attrs: lease.LeaseAttrs | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Nobody has the subnet: create its key."""

    key: lease.SubnetKey


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """The key is ours: rewrite it with what we publish now."""

    over: lease.Lease


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """The key is ours and says what we publish."""

    lease: lease.Lease


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Another host holds the subnet that our containers use. Nothing may be written."""

    by: lease.Lease


Claim = Create | Rewrite | Keep | Taken


def claim_subnet(
    config: netconfig.NetworkConfig,
    snapshot: registry.Snapshot,
    attrs: lease.LeaseAttrs,
    last: Published | None,
    *,
    in_use: bool,
    pick: Callable[[int], int],
) -> Claim:
    """The wish of a host that starts. `in_use`: pools were given out of `last.key`.

    Raises OutOfSubnets, and ConfigInvalid where a changed config has no place for the subnet in use.
    """
    if last is not None and in_use:
        if not subnets.still_fits(config, last.key):
            raise errors.ConfigInvalid(
                f"the network config has changed and has no subnet {last.key}, which this host's containers use: "
                "remove this host's flannelpy networks, or put the old config back"
            )
        return reclaim(last, snapshot, attrs)
    before = None if last is None else snapshot.leases.get(last.key)
    if last is not None and before is not None and before.attrs == last.attrs and subnets.fits(config, last.key):
        return judge(before, attrs, last)  # word for word ours, even if this host has another address by now
    choice = subnets.choose_subnet(config, snapshot, attrs, last.key if last else None, pick)
    match choice:
        case subnets.Reuse() if choice.lease.attrs == attrs:
            return Keep(lease=choice.lease)  # a flanneld's, or ours: no other host hears of the change
        case subnets.Reuse():
            return Rewrite(over=choice.lease)
        case subnets.Fresh():
            return Create(key=choice.key)


def reclaim(last: Published, snapshot: registry.Snapshot, attrs: lease.LeaseAttrs) -> Claim:
    """The wish of a host whose containers use `last.key` already."""
    holder = snapshot.leases.get(last.key)
    if holder is not None:
        return judge(holder, attrs, last)
    other = next((one for one in snapshot.leases.values() if one.key.overlaps(last.key)), None)
    return Taken(by=other) if other is not None else Create(key=last.key)


def judge(holder: lease.Lease, attrs: lease.LeaseAttrs, last: Published) -> Keep | Rewrite | Taken:
    """What the lease under our key means, from whoever wrote it last.

    Ours is what has our address, and what says word for word what we published before our address changed.
    """
    if not attrs.is_same_host(holder.attrs) and holder.attrs != last.attrs:
        return Taken(by=holder)
    return Keep(lease=holder) if holder.attrs == attrs else Rewrite(over=holder)


def find_rival(ours: lease.Lease, snapshot: registry.Snapshot) -> lease.Lease | None:
    """An older lease under another key that overlaps ours: created between our look and our own creation.

    etcd's compare knows keys, not addresses, so that it cannot refuse a subnet of another length, nor an IPv6 one
    beside another IPv4 one.
    """
    rivals = (one for one in snapshot.leases.values() if one.key != ours.key and one.key.overlaps(ours.key))
    return next((one for one in rivals if one.mod_revision < ours.mod_revision), None)


def explain_overlap(key: lease.SubnetKey, rival: lease.Lease) -> str:
    """The status line and error of a host whose subnet another host has too, in part or in one family."""
    return (
        f"lease {rival.key} of {rival.attrs.host} overlaps this host's {key}, and other hosts reach one of the two: "
        "give all hosts one network config; on one of these two remove its flannelpy networks, then delete its key "
        f"{lease.format_subnet_key(key)} or {lease.format_subnet_key(rival.key)}"
    )


def explain_taken(key: lease.SubnetKey, by: lease.Lease, ours: lease.LeaseAttrs, *, copied: bool = False) -> str:
    """The status line and error of a host that lost its subnet, or never had it: its state file was copied."""
    if copied:
        return (
            f"subnet {by.key} is leased by {by.attrs.host}, and the state file of this host ({ours.host}) was copied "
            "from that machine: containers here keep their addresses and are cut off; remove this host's flannelpy "
            "networks, and it takes a subnet of its own"
        )
    return (
        f"subnet {by.key} is leased by {by.attrs.host}, but containers of this host ({ours.host}) use {key}: "
        "they keep their addresses and are cut off; remove this host's flannelpy networks, or free the other lease"
    )
