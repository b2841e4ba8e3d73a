"""What etcd answers, as values: what `etcd_client` returns and `registry_etcd` reads. Pure."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue:
    """One key as etcd has it; bytes that are not UTF-8 became U+FFFD. `lease_id` is 0 where there is no lease."""

    key: str
    value: str
    mod_revision: int
    lease_id: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All keys under a prefix, in key order, at one revision."""

    revision: int
    items: tuple[KeyValue, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The compare held; `item` is what is there now."""

    item: KeyValue


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The compare failed; `found` is what is there, None where the key is gone."""

    found: KeyValue | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """A lease was renewed for `ttl_s` seconds, by a store that is at `revision`."""

    ttl_s: int
    revision: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """A lease ends in `ttl_s` seconds, -1 where it has ended; `term` counts etcd's elections."""

    ttl_s: int
    term: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """A key was deleted, or its lease ended."""

    key: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one watch response told: events in order, none where it only tells that the stream lives.

    `within_s`: it is the answer to a question whether the stream lives; the next one is due after so many seconds.
    """

    revision: int
    events: tuple[KeyValue | Deleted, ...] = ()
    within_s: float | None = None
