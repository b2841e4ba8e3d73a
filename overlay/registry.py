"""The registry port: where the nodes of one flannel network agree on subnets.

One object serves one prefix. Adapters: `registry_etcd`, `registry_standalone`, `registry_fake`; all pass
tests/overlay/test_registry_contract.py. Callers: `node` and nothing else. Every call ends within the
adapter's own deadline; what it raises comes from `errors`, never from the client underneath.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from typing import Protocol

from overlay import lease

SUBNET_TTL_S = 86_400
"""Seconds a lease lives without keepalive. Source: flannel pkg/subnet/etcd/local_manager.go, subnetTTL."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A key under `<prefix>/subnets` that is no lease of flannel's. One is skipped, and harms no other."""

    key: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All leases at one revision. An empty `leases` means that there are none, never that nothing is known.

    `compacted`: a watch reads all anew because what happened since its last word is not kept any more.
    """

    revision: int
    leases: Mapping[lease.SubnetKey, lease.Lease]
    unreadable: tuple[Unreadable, ...] = ()
    compacted: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LeasePut:
    """A lease was created or rewritten."""

    lease: lease.Lease


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGone:
    """A lease was deleted or expired."""

    key: lease.SubnetKey


Change = LeasePut | LeaseGone | Unreadable


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What changed up to `revision`, in order. Never empty."""

    revision: int
    changes: tuple[Change, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """The registry stopped answering; what was known stays true. A Snapshot or a Delta ends the outage."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The watch lives and has nothing more to tell. Another word comes within `within_s` seconds, or it is broken."""

    within_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TimeLeft:
    """Until a lease ends, 0 where it has ended. Units: seconds.

    `term` is another number where the registry may have given all leases their whole time again, as etcd does after
    an election: then more time than before is no sign that somebody has renewed this one.
    """

    seconds: int
    term: int = 0


WatchEvent = Snapshot | Delta | Progress | Outage


class Registry(Protocol):
    """What a node needs of the place where leases are kept."""

    def read_config(self) -> str:
        """The network config's JSON text. Raises ConfigMissing, RegistryUnavailable, RegistryDenied."""
        ...

    def create_config(self, text: str) -> bool:
        """Store the network config unless there is one; tells whether it was stored."""
        ...

    def read_leases(self) -> Snapshot:
        """All leases, by one linearizable range read."""
        ...

    def put_lease(self, key: lease.SubnetKey, attrs: lease.LeaseAttrs, over: lease.Lease | None) -> lease.Lease:
        """Create the key (`over` None), or rewrite the lease `over` that we read, by compare-and-set.

        A key is not created where the same IPv4 subnet has another one, with another IPv6 part or none.

        A rewrite keeps the etcd lease of `over` while that lives, keeps a reservation (`lease_id` 0) without one,
        and grants a new one otherwise. Raises SubnetTaken (create), LeaseLost (rewrite).
        """
        ...

    def keep_alive(self, held: lease.Lease) -> int:
        """Renew; seconds granted. A reservation needs none: SUBNET_TTL_S. Raises LeaseLost when it has expired."""
        ...

    def delete_lease(self, held: lease.Lease) -> None:
        """Give the subnet back, by compare-and-set. Deleting what is gone or not ours any more is harmless."""
        ...

    def time_left(self, held: lease.Lease) -> TimeLeft | None:
        """When somebody's lease ends unless it is renewed; None for a reservation.

        One request for one lease: never for all.
        """
        ...

    def watch(self, stop: threading.Event) -> Iterator[WatchEvent]:
        """A Snapshot first, then every change once and in order, until `stop` is set.

        Reconnects by itself with a capped backoff and starts over with a Snapshot where the history was compacted
        or the store went back in time. Yields one Outage for each loss of contact, and a Progress now and then where
        the registry can tell. Returns within a second of `stop`.
        """
        ...
