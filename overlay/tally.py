"""How often what happened since the start: one counter for each thing that a registry does to a lease.

Passive and thread-safe. `standing` has one for each flannel network, `etcd_client` one for its requests; `plugin`
shows them. Each event has a log line too, which tells the details, and may be said once where the counter goes on.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterable


class Event(enum.StrEnum):
    """What can happen to a node and its registry. The value is the metric's label: never rename one."""

    LEASE_HELD = "lease_held"
    """The registry agreed to our lease: at the start, or after it was claimed again."""
    KEY_HEALED = "key_healed"
    """Our key was rewritten as it was, for peers that missed it."""
    HEAL_FAILED = "heal_failed"
    """It could not be rewritten so; the lease is as it was."""
    KEY_GONE = "key_gone"
    """Our key was deleted or has expired."""
    LEASE_EXPIRED = "lease_expired"
    """The etcd lease behind our key has ended."""
    SUBNET_LOST = "subnet_lost"
    """Another host holds our subnet."""
    SUBNET_REGAINED = "subnet_regained"
    """The other host no longer does, and we hold it again."""
    CLAIM_FAILED = "claim_failed"
    """Our key could not be claimed; it is tried again."""
    KEEPALIVE_FAILED = "keepalive_failed"
    """A keepalive got no answer."""
    REGISTRY_SLOW = "registry_slow"
    """A keepalive was answered late."""
    REGISTRY_LOST = "registry_lost"
    """The watch lost contact."""
    REGISTRY_BACK = "registry_back"
    """Contact is back, and all leases were read anew."""
    STORE_WENT_BACK = "store_went_back"
    """The registry is at a lower revision than before: wiped, or restored from a backup."""
    HISTORY_COMPACTED = "history_compacted"
    """What happened while we were away is no longer told; all leases were read anew."""
    SNAPSHOT_DOUBTED = "snapshot_doubted"
    """Most peers were missing at once; nothing was torn down before a second look."""
    SNAPSHOT_REFUTED = "snapshot_refuted"
    """The second look found most of them."""
    KEY_UNREADABLE = "key_unreadable"
    """A key that is no lease came up."""
    OVERLAPPED = "overlapped"
    """A lease of another host had addresses of ours."""
    UNDERLAY_CHANGED = "underlay_changed"
    """The link below has another address, MTU or route; or another link carries the overlay."""
    CLOCK_JUMPED = "clock_jumped"
    """The wall clock was set; no lease depends on it."""


class Tally:
    """Counters by kind, all of which show from the start."""

    def __init__(self, kinds: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._counts = {str(kind): 0 for kind in kinds}

    def add(self, kind: str, count: int = 1) -> None:
        """It happened once more, or `count` times."""
        with self._lock:
            self._counts[str(kind)] += count

    def read(self) -> dict[str, int]:
        """All counters as they are now."""
        with self._lock:
            return dict(self._counts)
