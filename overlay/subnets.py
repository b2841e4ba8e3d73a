"""Which subnet this host takes: its own lease again, else the one it had before, else one of the free ones.

Pure. Called by `node` with a fresh snapshot before every attempt to take a lease.
Source: flannel pkg/subnet/etcd/local_manager.go, tryAcquireLease and allocateSubnet.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping

from overlay import errors, lease, netconfig, registry

Pick = Callable[[int], int]
"""A number from 0 to below its argument; random.randrange outside of tests."""

_CANDIDATES = 100
"""flannel picks among the first hundred free subnets, which keeps a network's leases near its beginning."""

_SHOWN = 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """This host has a lease that fits: rewrite it."""

    lease: lease.Lease


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """No lease of ours fits: create this key."""

    key: lease.SubnetKey


Choice = Reuse | Fresh


def choose_subnet(
    config: netconfig.NetworkConfig,
    snapshot: registry.Snapshot,
    attrs: lease.LeaseAttrs,
    saved: lease.SubnetKey | None,
    pick: Pick,
) -> Choice:
    """The lease to take over or the key to create, in flannel's order (M7): own PublicIP, saved subnet, random.

    A new IPv6 subnet has the number of the IPv4 one where that is free. The keys of two hosts that join at once
    differ by their IPv4 subnets, so that etcd lets both have one IPv6 subnet, as happens to flannelds by chance.

    Of several leases with our PublicIP that fit, the saved one counts first, since containers have its addresses;
    then the first in key order, as in flannel.

    A lease with our PublicIP that no longer fits the config is neither taken nor touched. flannel deletes it on the
    spot (§2.4); that would take the route to running containers away (M12), and a PublicIP alone is weak proof that
    the key is ours (M13). It still blocks its subnet, so that two keys never claim one; see `list_outgrown`.

    Raises OutOfSubnets, and ConfigInvalid for a network without IPv4.
    """
    v4 = config.require_v4()
    fitting = [held for held in _own(snapshot, attrs) if fits(config, held.key)]
    if fitting:
        return Reuse(lease=next((held for held in fitting if held.key == saved), fitting[0]))
    taken = list(snapshot.leases.values())
    try:
        chosen_v4 = _choose(v4, [held.key.v4 for held in taken], [saved.v4] if saved else [], pick)
        chosen_v6 = None
        if config.v6 is not None:
            wishes = [saved.v6] if saved and saved.v6 and saved.v4 == chosen_v4 else []
            wishes.append(config.v6.at(v4.position(chosen_v4)))
            chosen_v6 = _choose(config.v6, [held.key.v6 for held in taken if held.key.v6], wishes, pick)
    except errors.OutOfSubnets as exc:
        raise errors.OutOfSubnets(exc.reason, describe_holders(snapshot, {})) from None
    return Fresh(key=lease.SubnetKey(v4=chosen_v4, v6=chosen_v6))


def fits(config: netconfig.NetworkConfig, key: lease.SubnetKey) -> bool:
    """Whether the config could have led to `key`: its range, its length, and an IPv6 part exactly where asked for."""
    if not config.require_v4().holds(key.v4):
        return False
    if config.v6 is None or key.v6 is None:
        return config.v6 is None and key.v6 is None
    return config.v6.holds(key.v6)


def still_fits(config: netconfig.NetworkConfig, key: lease.SubnetKey) -> bool:
    """Whether a subnet in use may stay: as `fits`, but one of IPv4 alone stays where IPv6 was switched on since."""
    return fits(config, key) or (key.v6 is None and config.require_v4().holds(key.v4))


def list_outgrown(
    config: netconfig.NetworkConfig, snapshot: registry.Snapshot, attrs: lease.LeaseAttrs
) -> list[lease.Lease]:
    """Leases with our PublicIP that the config no longer allows.

    The node may give them back once nothing uses them; otherwise they lapse by themselves, for nobody renews them.
    Reservations are not among them: an operator made those.
    """
    return [held for held in _own(snapshot, attrs) if held.lease_id and not fits(config, held.key)]


def _own(snapshot: registry.Snapshot, attrs: lease.LeaseAttrs) -> list[lease.Lease]:
    own = [held for held in snapshot.leases.values() if attrs.is_same_host(held.attrs)]
    return sorted(own, key=lambda held: lease.format_subnet_key(held.key))


def _choose(
    wanted: netconfig.SubnetRange[netconfig.N],
    taken: Iterable[netconfig.N],
    wishes: Iterable[netconfig.N],
    pick: Pick,
) -> netconfig.N:
    blocks = _merge_blocks((wanted.position(network), wanted.end_position(network)) for network in taken)
    for wish in wishes:
        if wanted.holds(wish) and not _covers(blocks, wanted.position(wish)):
            return wish
    free = [position for position, _ in zip(_iter_free(blocks, wanted.count), range(_CANDIDATES), strict=False)]
    if not free:
        raise errors.OutOfSubnets(
            f"out of subnets in {wanted.network}: none of the {wanted.count} subnets of /{wanted.subnet_len} "
            f"from {wanted.first} to {wanted.last} is free"
        )
    return wanted.at(free[pick(len(free))])


def _merge_blocks(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Positions that leases cover, as disjoint spans in order: one sort instead of candidates × leases."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _covers(blocks: list[tuple[int, int]], position: int) -> bool:
    return any(start <= position <= end for start, end in blocks)


def _iter_free(blocks: list[tuple[int, int]], count: int) -> Iterator[int]:
    position = 0
    for start, end in blocks:
        yield from range(position, min(start, count))
        position = max(position, end + 1)
    yield from range(position, count)


def list_shown(snapshot: registry.Snapshot) -> list[lease.Lease]:
    """The leases that `describe_holders` names, at most five."""
    return sorted(snapshot.leases.values(), key=lambda held: held.key.v4)[:_SHOWN]


def describe_holders(snapshot: registry.Snapshot, ends: Mapping[lease.SubnetKey, datetime.datetime]) -> str:
    """Who holds what, and until when where `ends` has it (UTC): for the error of a network that is full."""
    if not snapshot.leases:
        return "SubnetMax lies before SubnetMin in the network config"
    more = len(snapshot.leases) - _SHOWN
    return (
        f"{len(snapshot.leases)} leases: "
        + ", ".join(_describe_lease(held, ends.get(held.key)) for held in list_shown(snapshot))
        + (f" and {more} more" if more > 0 else "")
        + "; a lease that nobody renews ends by itself, a reservation must be deleted, "
        "or the network config can be given a larger range"
    )


def _describe_lease(held: lease.Lease, end: datetime.datetime | None) -> str:
    if held.lease_id == 0:
        return f"{held.key.v4} reserved for {held.attrs.public_ip}"
    until = "" if end is None else f" until {end:%Y-%m-%d %H:%M} UTC"
    return f"{held.key.v4} by {held.attrs.public_ip}{until}"
