"""What is known of the other nodes, and how news from the registry changes it.

Pure. `node` keeps the book, saves what changed and hands the leases to the backend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import assert_never

from overlay import lease, registry

Leases = Mapping[lease.SubnetKey, lease.Lease]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """The peers at one revision: readable leases, and the keys nobody could read. This host is in neither."""

    leases: Leases = dataclasses.field(default_factory=dict)
    unreadable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    revision: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """The book after an event, what changed in it, and what the event said about our own key.

    `own` is the lease under our key, None when the event said that it is gone; `own_told` whether it said anything.
    """

    book: Book
    put: Leases
    gone: frozenset[lease.SubnetKey]
    own: lease.Lease | None
    own_told: bool


def read_event(book: Book, event: registry.Snapshot | registry.Delta, own_key: lease.SubnetKey) -> News:
    """Apply one event."""
    match event:
        case registry.Snapshot():
            return _read_snapshot(book, event, own_key)
        case registry.Delta():
            return _read_delta(book, event, own_key)
        case _:
            assert_never(event)


def _read_snapshot(book: Book, event: registry.Snapshot, own_key: lease.SubnetKey) -> News:
    leases = {key: one for key, one in event.leases.items() if key != own_key}
    return News(
        book=Book(
            leases=leases,
            unreadable={one.key: one.reason for one in event.unreadable},
            revision=event.revision,
        ),
        put={key: one for key, one in leases.items() if _differs(book.leases.get(key), one)},
        gone=frozenset(book.leases.keys() - leases.keys()),
        own=event.leases.get(own_key),
        own_told=True,
    )


def _read_delta(book: Book, event: registry.Delta, own_key: lease.SubnetKey) -> News:
    leases, unreadable = dict(book.leases), dict(book.unreadable)
    put: dict[lease.SubnetKey, lease.Lease] = {}
    gone: set[lease.SubnetKey] = set()
    own, own_told = None, False
    for change in event.changes:
        match change:
            case registry.Unreadable():
                unreadable[change.key] = change.reason
            case registry.LeasePut() if change.lease.key == own_key:
                own, own_told = change.lease, True
            case registry.LeaseGone() if change.key == own_key:
                own, own_told = None, True
            case registry.LeasePut():
                key = change.lease.key
                if _differs(leases.get(key), change.lease):
                    put[key] = change.lease
                gone.discard(key)
                leases[key] = change.lease
            case registry.LeaseGone():
                if leases.pop(change.key, None) is not None:
                    gone.add(change.key)
                put.pop(change.key, None)
            case _:
                assert_never(change)
    return News(
        book=Book(leases=leases, unreadable=unreadable, revision=event.revision),
        put=put,
        gone=frozenset(gone),
        own=own,
        own_told=own_told,
    )


def _differs(known: lease.Lease | None, told: lease.Lease) -> bool:
    """Renewals change revisions only; what a peer publishes is what counts."""
    return known is None or known.attrs != told.attrs
