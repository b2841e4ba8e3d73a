"""What Docker, the rows and this process say of pools and addresses, compared.

Pure. Caller: `plugin.audit`, which hands in what it has just read. A released address that rests is free: no leak.
What is mended is `ipam.reconcile`'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from ipam import pool, reconcile, requests
from overlay import difference, netstate

Kind = difference.Kind


def with_docker(rows: requests.KnownRows, known: Iterable[requests.KnownPool]) -> Iterator[difference.Difference]:
    """The rows against what Docker told. Docker's word counts."""
    told = {reconcile.pool_id(item.cidr): item for item in known}
    for pool_id, cidr in sorted(rows.pools.items()):
        if pool_id not in told:
            held = len(rows.addresses.get(pool_id, {}))
            yield difference.Difference(
                kind=Kind.POOL_STALE,
                thing=str(cidr),
                says=difference.Says(docker=difference.ABSENT, state=f"{held} addresses in use"),
                repair="release it, once it is old enough: Docker has no network on it",
                mark=_newest(rows.addresses.get(pool_id, {}).values()),
            )
    for pool_id, item in sorted(told.items()):
        if pool_id in rows.pools:
            yield from _addresses(item, rows.addresses.get(pool_id, {}))
        else:
            yield difference.Difference(
                kind=Kind.POOL_MISSING,
                thing=str(item.cidr),
                says=difference.Says(docker=f"a pool of {item.prefix}", state=difference.ABSENT),
                repair="adopt it from Docker",
            )


def within(rows: requests.KnownRows) -> Iterator[difference.Difference]:
    """Pools of one host that overlap: an address would be given out twice."""
    for one, other in itertools.combinations(sorted(rows.pools.values(), key=str), 2):
        if one.version == other.version and one.overlaps(other):
            yield difference.Difference(
                kind=Kind.POOL_DOUBLED, thing=str(one), says=difference.Says(state=f"{one} overlaps {other}")
            )


def with_endpoints(
    rows: requests.KnownRows, endpoints: Mapping[str, tuple[netstate.IPAddress, ...]]
) -> Iterator[difference.Difference]:
    """Addresses of the driver's own endpoints that are free here, and so would be given out again."""
    for endpoint_id, addresses in sorted(endpoints.items()):
        for ip in addresses:
            around = [pool_id for pool_id, cidr in rows.pools.items() if ip in cidr]
            if not any(ip in rows.addresses.get(pool_id, {}) for pool_id in around):
                yield difference.Difference(
                    kind=Kind.ADDRESS_MISSING,
                    thing=str(ip),
                    says=difference.Says(state=f"free, and endpoint {endpoint_id[:12]} has it"),
                    repair="take it out of the pool again, once Docker has confirmed the endpoint",
                    mark=endpoint_id,
                )


def with_memory(file: requests.KnownRows, memory: requests.KnownRows) -> Iterator[difference.Difference]:
    """The rows against what this process goes by. The file's word counts."""
    for pool_id in sorted(file.pools.keys() | memory.pools.keys()):
        if file.pools.get(pool_id) != memory.pools.get(pool_id):
            yield _row_changed(f"pool {pool_id}", file.pools.get(pool_id), memory.pools.get(pool_id))
            continue
        rows, objects = file.addresses.get(pool_id, {}), memory.addresses.get(pool_id, {})
        for ip in sorted(rows.keys() | objects.keys(), key=int):
            if rows.get(ip) != objects.get(ip):
                yield _row_changed(f"address {ip}", rows.get(ip), objects.get(ip))


def _addresses(
    item: requests.KnownPool, rows: Mapping[netstate.IPAddress, requests.RowInUse]
) -> Iterator[difference.Difference]:
    """A gateway that Docker does not show stays as long as its pool: `reconcile` has it so."""
    told = reconcile.kinds_of(item)
    for ip, used in sorted(rows.items(), key=lambda row: int(row[0])):
        if ip not in told and used.kind is not pool.Kind.GATEWAY and item.endpoints is not None:
            yield difference.Difference(
                kind=Kind.ADDRESS_STALE,
                thing=str(ip),
                says=difference.Says(docker=difference.ABSENT, state=f"in use ({used.kind})"),
                repair="release it, once it is old enough: Docker has no endpoint with it",
                mark=str(used.since),
            )
    for ip, kind in sorted(told.items(), key=lambda row: int(row[0])):
        row = rows.get(ip)
        if row is None:
            yield difference.Difference(
                kind=Kind.ADDRESS_MISSING,
                thing=str(ip),
                says=difference.Says(docker=f"in use ({kind})", state="free"),
                repair="take it out of the pool: Docker uses it",
            )
        elif row.kind is not kind and row.kind is not pool.Kind.EXPLICIT:
            yield difference.Difference(
                kind=Kind.ADDRESS_CHANGED,
                thing=str(ip),
                says=difference.Says(docker=f"in use ({kind})", state=f"in use ({row.kind})"),
            )


def _row_changed(what: str, file: object, memory: object) -> difference.Difference:
    return difference.Difference(
        kind=Kind.ROW_CHANGED,
        thing=what,
        says=difference.Says(state=_text(file), memory=_text(memory)),
        repair="as Docker has it; free where Docker does not know it",
    )


def _text(one: object) -> str:
    match one:
        case None:
            return difference.ABSENT
        case requests.RowInUse(kind=kind, since=since):
            return f"in use ({kind}) since {since:.3f}"
        case _:
            return str(one)


def _newest(rows: Iterable[requests.RowInUse]) -> str:
    return str(max((used.since for used in rows), default=0.0))
