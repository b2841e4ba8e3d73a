"""Making the rows agree with what Docker knows: after a crash no address stays that it does not, none is missing.

Work for `ipam.store`, run by `ipam.service`: decides from values and changes through `store.Change`.
Docker's look at its networks is some seconds old when it gets here, so that what was granted or freed around it is
left alone until the next look: an address is ours before it is Docker's, and Docker's for a moment after.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

from ipam import errors, pool, requests, store
from overlay import netstate

ID_PREFIX = "flannelpy/"

Freed = Mapping[tuple[str, netstate.IPAddress | None], float]
"""When an address, or with None its whole pool, was last released, by the monotonic clock."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What Docker showed. Nothing granted or freed after `settled` (monotonic seconds) is judged by it."""

    known: tuple[requests.KnownPool, ...]
    settled: float


def pool_id(cidr: netstate.IPNetwork) -> str:
    """A pool's id. The same after a restart, since the engine keeps it; readable, since it shows in errors."""
    return f"{ID_PREFIX}{cidr}"


def release_unknown(change: store.Change, look: Look, since: float, stamp: float) -> list[str]:
    """Drop the pools and release the addresses that Docker does not know; a line for each.

    Units: `since` and `stamp`, the time that what is released gets, as in `pool.Used`.
    """
    known = {pool_id(item.cidr): item for item in look.known}
    lines = []
    for entry in list(change.pools.values()):
        if entry.id not in known:
            if entry.stamp <= look.settled and _newest(entry) <= look.settled:
                change.drop_pool(entry.id)
                lines.append(f"pool {entry.id} released: Docker has no network on it")
            continue
        for ip in _stale(entry, known[entry.id], look.settled):
            change.release(entry, ip, since, stamp)
            lines.append(f"address {ip} of pool {entry.id} released: Docker has no endpoint with it")
    return lines


def rows_of(pools: store.Pools) -> requests.KnownRows:
    """What is kept in memory, as the audit compares it with the state file."""
    found = {
        entry.id: {ip: requests.RowInUse(kind=used.kind, since=used.since) for ip, used in entry.addresses.in_use()}
        for entry in pools.values()
    }
    return requests.KnownRows(pools={entry.id: entry.addresses.cidr for entry in pools.values()}, addresses=found)


def settle_rows(change: store.Change, look: Look, now: float) -> list[str]:
    """Make file and memory say the same again, where somebody else wrote into the file; a line for each.

    What Docker knows is in use in both; what it does not is free in both. A pool that one of the two alone has is
    forgotten: `adopt` takes it anew from Docker, at once and in the same way as after the loss of the file.
    """
    file, told = change.rows(), {pool_id(item.cidr): kinds_of(item) for item in look.known}
    lines = []
    for entry_id in sorted(file.pools.keys() ^ change.pools.keys()):
        if entry_id in change.pools:
            change.forget(entry_id)
        else:
            change.delete_row(entry_id)
        lines.append(f"pool {entry_id}: state file and memory disagreed")
    for entry in change.pools.values():
        rows, ours = file.addresses.get(entry.id, {}), rows_of(change.pools).addresses.get(entry.id, {})
        for ip in sorted(rows.keys() | ours.keys(), key=int):
            if rows.get(ip) != ours.get(ip):
                kind = told.get(entry.id, {}).get(ip)
                used = None if kind is None else pool.Used(kind=kind, since=now, stamp=look.settled)
                change.overwrite(entry, ip, used)
                lines.append(f"address {ip} of pool {entry.id}: state file and memory disagreed")
    return lines


def adopt(
    change: store.Change,
    look: Look,
    freed: Freed,
    make: Callable[[requests.KnownPool], store.PoolEntry],
) -> list[str]:
    """Add the pools and addresses that Docker knows and the rows lack; a line for each, and for what cannot be."""
    lines = []
    for item in look.known:
        entry = change.pools.get(pool_id(item.cidr))
        if entry is None:
            if freed.get((pool_id(item.cidr), None), look.settled) > look.settled:
                continue
            try:
                entry = _adopt_pool(change, item, make)
            except errors.IpamError as exc:
                lines.append(f"pool {item.cidr} of Docker cannot be adopted: {exc}")
                continue
            lines.append(f"pool {entry.id} adopted from Docker")
        lines += _adopt_addresses(change, entry, item, look, freed)
    return lines


def _adopt_pool(
    change: store.Change, item: requests.KnownPool, make: Callable[[requests.KnownPool], store.PoolEntry]
) -> store.PoolEntry:
    for other in change.pools.values():
        if other.addresses.cidr.overlaps(item.cidr):
            raise errors.PoolTaken(f"it overlaps pool {other.id}; remove one of the two networks")
    entry = make(item)
    change.add_pool(entry)
    return entry


def _adopt_addresses(
    change: store.Change, entry: store.PoolEntry, item: requests.KnownPool, look: Look, freed: Freed
) -> list[str]:
    kinds = kinds_of(item)
    if item.gateway is None and not any(used.kind is pool.Kind.GATEWAY for _ip, used in entry.addresses.in_use()):
        # engines before 29 tell no gateway of a pool of the user's own: it is what we gave when the network was made
        kinds.setdefault(entry.addresses.first, pool.Kind.GATEWAY)
    lines = []
    for ip, kind in sorted(kinds.items(), key=lambda row: int(row[0])):
        if ip not in item.cidr:
            lines.append(f"address {ip} of Docker cannot be adopted: it is not in pool {entry.id}")
            continue
        state = entry.addresses.state(ip)
        if isinstance(state, pool.Used):
            if state.kind is pool.Kind.EXPLICIT:
                change.rename(entry, ip, dataclasses.replace(state, kind=kind))
        elif freed.get((entry.id, ip), look.settled) <= look.settled:
            change.take(entry, ip, pool.Used(kind=kind, since=entry.since, stamp=look.settled))
            lines.append(f"address {ip} of pool {entry.id} adopted from Docker ({kind})")
    return lines


def kinds_of(item: requests.KnownPool) -> dict[netstate.IPAddress, pool.Kind]:
    """The addresses of a pool that Docker uses, and what for."""
    kinds = dict.fromkeys(item.endpoints or (), pool.Kind.ENDPOINT)
    kinds |= dict.fromkeys(item.aux, pool.Kind.AUX)
    if item.gateway is not None:
        kinds[item.gateway] = pool.Kind.GATEWAY
    return kinds


def _stale(entry: store.PoolEntry, item: requests.KnownPool, settled: float) -> list[netstate.IPAddress]:
    if item.endpoints is None:
        return []
    known = kinds_of(item)
    stale = (
        ip
        for ip, used in entry.addresses.in_use()
        if ip not in known and used.kind is not pool.Kind.GATEWAY and used.stamp <= settled
    )
    return sorted(stale, key=int)


def _newest(entry: store.PoolEntry) -> float:
    return max(_stamps(entry.addresses.in_use()), default=entry.stamp)


def _stamps(in_use: Iterable[tuple[netstate.IPAddress, pool.Used]]) -> Iterator[float]:
    return (used.stamp for _ip, used in in_use)
