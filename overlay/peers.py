"""What is known of the other nodes, and how news from the registry changes it.

Pure. `node` keeps the book, saves what changed and hands the leases to the backend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import assert_never

from overlay import errors, lease, registry

Leases = Mapping[lease.SubnetKey, lease.Lease]

UNREADABLE_LIMIT = 1000
"""How many keys that are no lease a book names; more are as little looked at, and not named."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """The peers at one revision: readable leases, and the keys nobody could read. This host is in neither.

    Shape: `unreadable` has reasons by key, UNREADABLE_LIMIT at most.
    """

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


def is_doubtful(book: Book, event: registry.Snapshot) -> bool:
    """Whether so many peers are missing at once that only a second look may confirm it: most of four or more.

    It happens where the store was wiped, and where nobody could renew for a day: most come back within seconds.
    """
    missing = book.leases.keys() - event.leases.keys()
    return len(book.leases) >= 4 and 2 * len(missing) > len(book.leases)


def choose_snapshot(first: registry.Snapshot, second: registry.Snapshot) -> registry.Snapshot:
    """The later of two looks at the same store. The second, unless the store went back in time between them."""
    return second if second.revision >= first.revision else first


def _read_snapshot(book: Book, event: registry.Snapshot, own_key: lease.SubnetKey) -> News:
    leases = {key: one for key, one in event.leases.items() if key != own_key}
    return News(
        book=Book(
            leases=leases,
            unreadable={one.key: one.reason for one in event.unreadable[:UNREADABLE_LIMIT]},
            revision=event.revision,
        ),
        put={key: one for key, one in leases.items() if _differs(book.leases.get(key), one)},
        gone=frozenset(book.leases.keys() - leases.keys()),
        own=event.leases.get(own_key),
        own_told=True,
    )


def _read_delta(book: Book, event: registry.Delta, own_key: lease.SubnetKey) -> News:
    reading = _Reading(leases=dict(book.leases), unreadable=book.unreadable)
    for change in event.changes:
        match change:
            case registry.Unreadable():
                reading.spoil(change, own_key)
            case registry.LeasePut() if change.lease.key == own_key:
                reading.tell_own(own_key, change.lease)
            case registry.LeaseGone() if change.key == own_key:
                reading.tell_own(own_key, None)
            case registry.LeasePut():
                reading.put_peer(change.lease)
            case registry.LeaseGone():
                reading.drop_peer(change.key)
            case _:
                assert_never(change)
    return News(
        book=Book(leases=reading.leases, unreadable=reading.unreadable, revision=event.revision),
        put=reading.put,
        gone=frozenset(reading.gone),
        own=reading.own,
        own_told=reading.own_told,
    )


@dataclasses.dataclass(slots=True, kw_only=True)
class _Reading:
    """A Delta half read: comes to what a Snapshot after it would say."""

    leases: dict[lease.SubnetKey, lease.Lease]
    unreadable: Mapping[str, str]
    """Replaced where it changes, which is rare, and never written."""
    put: dict[lease.SubnetKey, lease.Lease] = dataclasses.field(default_factory=dict)
    gone: set[lease.SubnetKey] = dataclasses.field(default_factory=set)
    own: lease.Lease | None = None
    own_told: bool = False

    def tell_own(self, key: lease.SubnetKey, told: lease.Lease | None) -> None:
        self._clear(key)
        self.own, self.own_told = told, True

    def put_peer(self, told: lease.Lease) -> None:
        self._clear(told.key)
        if _differs(self.leases.get(told.key), told):
            self.put[told.key] = told
        self.gone.discard(told.key)
        self.leases[told.key] = told

    def drop_peer(self, key: lease.SubnetKey) -> None:
        self._clear(key)
        if self.leases.pop(key, None) is not None:
            self.gone.add(key)
        self.put.pop(key, None)

    def spoil(self, bad: registry.Unreadable, own_key: lease.SubnetKey) -> None:
        """Somebody wrote nonsense: over a lease, which is gone then, or beside all of them."""
        key = _key_of(bad.key)
        if key == own_key:
            self.tell_own(own_key, None)
        elif key is not None:
            self.drop_peer(key)
        if bad.key in self.unreadable or len(self.unreadable) < UNREADABLE_LIMIT:
            self.unreadable = {**self.unreadable, bad.key: bad.reason}

    def _clear(self, key: lease.SubnetKey) -> None:
        """By name: reading each of a thousand keys for each event of a burst would take seconds."""
        name = lease.format_subnet_key(key)
        spoilt = {text for text in self.unreadable if text.endswith(name) and text.rpartition("/")[2] == name}
        if spoilt:
            self.unreadable = {text: reason for text, reason in self.unreadable.items() if text not in spoilt}


def _key_of(text: str) -> lease.SubnetKey | None:
    """The subnet whose key this is, with or without a prefix; None for a key that no lease can have."""
    try:
        key = lease.parse_subnet_key(text)
    except errors.CodecError:
        return None
    return key if text.rpartition("/")[2] == lease.format_subnet_key(key) else None


def _differs(known: lease.Lease | None, told: lease.Lease) -> bool:
    """Renewals change revisions only; what a peer publishes is what counts."""
    return known is None or known.attrs != told.attrs
