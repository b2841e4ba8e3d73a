"""The registry in memory: for tests and for trying things out, one object for all nodes of a flannel network.

Passes the contract suite of the real ones, and lets a test be the other hosts, the clock and the broken cable.
Leases never expire by themselves: `expire` says when, and `let_age` how long ago one was renewed.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator

from overlay import errors, feed, lease, registry


class FakeRegistry:
    """One prefix. Safe to call from any thread."""

    def __init__(self, config: str | None = None) -> None:
        self._lock = threading.Lock()
        self._feed = feed.Feed()
        self._config = config
        self._revision = 1
        self._leases: dict[lease.SubnetKey, lease.Lease] = {}
        self._unreadable: dict[str, registry.Unreadable] = {}
        self._granted: dict[int, float] = {}  # by lease: when it was renewed last
        self._term = 1
        self._next_id = 1000
        self._down: str | None = None
        self.keep_alives = 0
        """How often a lease was renewed with success."""

    def read_config(self) -> str:
        """See `Registry.read_config`."""
        with self._lock:
            self._check()
            if self._config is None:
                raise errors.ConfigMissing("no network config in the registry")
            return self._config

    def create_config(self, text: str) -> bool:
        """See `Registry.create_config`."""
        with self._lock:
            self._check()
            if self._config is not None:
                return False
            self._config = text
            self._revision += 1
            return True

    def read_leases(self) -> registry.Snapshot:
        """See `Registry.read_leases`."""
        with self._lock:
            self._check()
        return self._snapshot()

    def put_lease(self, key: lease.SubnetKey, attrs: lease.LeaseAttrs, over: lease.Lease | None) -> lease.Lease:
        """See `Registry.put_lease`."""
        with self._lock:
            self._check()
            found = self._leases.get(key)
            if over is None:
                same = next((one for one in self._leases.values() if one.key.v4 == key.v4), None)
                if same is not None:
                    raise errors.SubnetTaken(f"subnet {key.v4} is leased by {same.attrs.public_ip}")
                if lease.format_subnet_key(key) in self._unreadable:
                    raise errors.SubnetTaken(f"subnet {key.v4} has a key that is no lease")
                return self._put(key, attrs, self._grant())
            if found is None or found.mod_revision != over.mod_revision or over.key != key:
                holder = "gone" if found is None else f"rewritten by {found.attrs.public_ip}"
                raise errors.LeaseLost(f"the lease of subnet {key.v4} is {holder}")
            if over.lease_id == 0 or over.lease_id in self._granted:
                return dataclasses.replace(self._put(key, attrs, over.lease_id), ttl_s=None)
            return self._put(key, attrs, self._grant())

    def keep_alive(self, held: lease.Lease) -> int:
        """See `Registry.keep_alive`."""
        with self._lock:
            self._check()
            if held.lease_id and held.lease_id not in self._granted:
                raise errors.LeaseLost(f"the lease of subnet {held.key.v4} has expired")
            if held.lease_id:
                self._granted[held.lease_id] = time.monotonic()
            self.keep_alives += 1
            return registry.SUBNET_TTL_S

    def time_left(self, held: lease.Lease) -> registry.TimeLeft | None:
        """See `Registry.time_left`."""
        with self._lock:
            self._check()
            if not held.lease_id:
                return None
            renewed_at = self._granted.get(held.lease_id)
            left_s = 0 if renewed_at is None else round(registry.SUBNET_TTL_S - (time.monotonic() - renewed_at))
            return registry.TimeLeft(seconds=left_s, term=self._term)

    def elect(self) -> None:
        """As etcd does when a member begins to lead: every lease has its whole time again."""
        with self._lock:
            self._term += 1
            self._granted = dict.fromkeys(self._granted, time.monotonic())

    def delete_lease(self, held: lease.Lease) -> None:
        """See `Registry.delete_lease`."""
        with self._lock:
            self._check()
            found = self._leases.get(held.key)
            if found is not None and found.mod_revision == held.mod_revision:
                self._granted.pop(found.lease_id, None)
                self._remove(held.key)

    def watch(self, stop: threading.Event) -> Iterator[registry.Snapshot | registry.Delta | registry.Outage]:
        """See `Registry.watch`."""
        return self._feed.watch(stop, self._snapshot)

    def set_config(self, text: str | None) -> None:
        """The operator writes or deletes the network config."""
        with self._lock:
            self._config = text
            self._revision += 1

    def put_peer(self, key: lease.SubnetKey, attrs: lease.LeaseAttrs, *, reserved: bool = False) -> lease.Lease:
        """Another host takes or overwrites `key` without asking, as flanneld does; `reserved`: without a lease."""
        with self._lock:
            return self._put(key, attrs, 0 if reserved else self._grant())

    def put_garbage(self, key: str, reason: str = "not flannel's") -> None:
        """Somebody writes a key that is no lease."""
        with self._lock:
            self._revision += 1
            self._unreadable[key] = registry.Unreadable(key=key, reason=reason)
            self._feed.publish(self._revision, self._unreadable[key])

    def delete_peer(self, key: lease.SubnetKey) -> None:
        """Somebody deletes `key`, ours or not."""
        with self._lock:
            self._remove(key)

    def expire(self, key: lease.SubnetKey) -> None:
        """The lease of `key` comes to its end; a reservation stays."""
        with self._lock:
            lease_id = self._leases[key].lease_id
            if lease_id:
                self._granted.pop(lease_id, None)
                self._remove(key)

    def let_age(self, key: lease.SubnetKey, seconds: float) -> None:
        """Nobody has renewed the lease of `key` for so much longer."""
        with self._lock:
            self._granted[self._leases[key].lease_id] -= seconds

    def drop_grant(self, key: lease.SubnetKey) -> None:
        """The lease of `key` ends on the server, unseen, as if the delete were still under way."""
        with self._lock:
            self._granted.pop(self._leases[key].lease_id, None)

    def go_down(self, reason: str = "connection refused") -> None:
        """No call is answered any more."""
        with self._lock:
            self._down = reason
            self._feed.break_off(reason)

    def come_back(self) -> None:
        """Calls are answered again."""
        with self._lock:
            self._down = None
            self._feed.resume()

    def compact(self) -> None:
        """Forget the history: watchers that lag behind start over."""
        with self._lock:
            self._feed.forget(self._revision)

    def restore(self, old: registry.Snapshot) -> None:
        """The store goes back in time, to `old`; its lease ids are gone, as after a restore from an old backup."""
        with self._lock:
            self._feed.break_off("the store was restored")
            self._revision = old.revision
            self._leases = dict(old.leases)
            self._unreadable = {bad.key: bad for bad in old.unreadable}
            self._granted.clear()
            self._feed.clear()
            self._feed.resume()

    def _check(self) -> None:
        if self._down is not None:
            raise errors.RegistryUnavailable(f"the registry does not answer: {self._down}")

    def _snapshot(self) -> registry.Snapshot:
        with self._lock:
            return registry.Snapshot(
                revision=self._revision,
                leases=dict(self._leases),
                unreadable=tuple(self._unreadable.values()),
            )

    def _grant(self) -> int:
        self._next_id += 1
        self._granted[self._next_id] = time.monotonic()
        return self._next_id

    def _put(self, key: lease.SubnetKey, attrs: lease.LeaseAttrs, lease_id: int) -> lease.Lease:
        self._revision += 1
        stored = lease.Lease(key=key, attrs=attrs, lease_id=lease_id, mod_revision=self._revision)
        self._leases[key] = stored
        self._feed.publish(self._revision, registry.LeasePut(lease=stored))
        return dataclasses.replace(stored, ttl_s=registry.SUBNET_TTL_S if lease_id else None)

    def _remove(self, key: lease.SubnetKey) -> None:
        if self._leases.pop(key, None) is not None:
            self._revision += 1
            self._feed.publish(self._revision, registry.LeaseGone(key=key))
