"""The registry of a host on its own: leases in the state file, no etcd.

Called by `node` where no etcd endpoint is configured. Nothing expires, since nobody else waits for a subnet. `watch`
sees what passes through the same object, so there is one for each prefix in the process.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator

from overlay import errors, feed, lease, registry, statefile

SCHEMA = statefile.Schema(
    room="registry",
    steps=(
        """
        CREATE TABLE registry (prefix TEXT PRIMARY KEY, revision INTEGER NOT NULL, config TEXT) WITHOUT ROWID;
        CREATE TABLE registry_lease (
            prefix TEXT NOT NULL, name TEXT NOT NULL, attrs TEXT NOT NULL,
            lease_id INTEGER NOT NULL, mod_revision INTEGER NOT NULL, PRIMARY KEY (prefix, name)
        ) WITHOUT ROWID
        """,
    ),
)


class StandaloneRegistry:
    """One prefix of the state file, which was opened with SCHEMA. Safe to call from any thread.

    `config` is the operator's network config, which outranks a stored one: it can be changed by a setting.
    """

    def __init__(self, file: statefile.StateFile, prefix: str, config: str = "") -> None:
        self._file = file
        self._prefix = prefix
        self._config = config
        self._lock = threading.Lock()  # so that changes are published in the order in which they were committed
        self._feed = feed.Feed()

    def read_config(self) -> str:
        """See `Registry.read_config`."""
        if self._config:
            return self._config
        with self._file.read() as tx:
            rows = tx.rows("SELECT config FROM registry WHERE prefix = ? AND config IS NOT NULL", (self._prefix,))
        if not rows:
            raise errors.ConfigMissing(
                f"no network config for {self._prefix}: without ETCD_ENDPOINTS there is the default one only"
            )
        text: str = rows[0][0]
        return text

    def create_config(self, text: str) -> bool:
        """See `Registry.create_config`."""
        if self._config:
            return False
        with self._lock, self._file.write() as tx:
            if tx.rows("SELECT 1 FROM registry WHERE prefix = ? AND config IS NOT NULL", (self._prefix,)):
                return False
            self._advance(tx)
            tx.run("UPDATE registry SET config = ? WHERE prefix = ?", (text, self._prefix))
            return True

    def read_leases(self) -> registry.Snapshot:
        """See `Registry.read_leases`."""
        with self._file.read() as tx:
            revisions = tx.rows("SELECT revision FROM registry WHERE prefix = ?", (self._prefix,))
            leases = self._rows(tx)
        return registry.Snapshot(
            revision=revisions[0][0] if revisions else 0, leases={held.key: held for held in leases}
        )

    def put_lease(self, key: lease.SubnetKey, attrs: lease.LeaseAttrs, over: lease.Lease | None) -> lease.Lease:
        """See `Registry.put_lease`."""
        with self._lock:
            with self._file.write() as tx:
                found = self._find(tx, key)
                same = next((one for one in self._rows(tx) if one.key.v4 == key.v4), None)
                if over is None and same is not None:
                    raise errors.SubnetTaken(f"subnet {key.v4} is leased by {same.attrs.public_ip}")
                if over is not None and (found is None or found.mod_revision != over.mod_revision):
                    raise errors.LeaseLost(f"the lease of subnet {key.v4} was deleted or rewritten")
                revision = self._advance(tx)
                lease_id = over.lease_id if over else revision
                stored = lease.Lease(key=key, attrs=attrs, lease_id=lease_id, mod_revision=revision)
                tx.run(
                    "INSERT OR REPLACE INTO registry_lease VALUES (?, ?, ?, ?, ?)",
                    (self._prefix, lease.format_subnet_key(key), lease.format_attrs(attrs), lease_id, revision),
                )
            self._feed.publish(revision, registry.LeasePut(lease=stored))
        return dataclasses.replace(stored, ttl_s=registry.SUBNET_TTL_S if lease_id else None)

    def keep_alive(self, held: lease.Lease) -> int:
        """See `Registry.keep_alive`."""
        with self._file.read() as tx:
            found = self._find(tx, held.key)
        if held.lease_id and (found is None or found.lease_id != held.lease_id):
            raise errors.LeaseLost(f"the lease of subnet {held.key.v4} is gone")
        return registry.SUBNET_TTL_S

    def time_left(self, held: lease.Lease) -> registry.TimeLeft | None:
        """See `Registry.time_left`: nothing ends here."""
        return registry.TimeLeft(seconds=registry.SUBNET_TTL_S) if held.lease_id else None

    def delete_lease(self, held: lease.Lease) -> None:
        """See `Registry.delete_lease`."""
        with self._lock:
            with self._file.write() as tx:
                found = self._find(tx, held.key)
                if found is None or found.mod_revision != held.mod_revision:
                    return
                tx.run(
                    "DELETE FROM registry_lease WHERE prefix = ? AND name = ?",
                    (self._prefix, lease.format_subnet_key(held.key)),
                )
                revision = self._advance(tx)
            self._feed.publish(revision, registry.LeaseGone(key=held.key))

    def watch(self, stop: threading.Event) -> Iterator[registry.Snapshot | registry.Delta | registry.Outage]:
        """See `Registry.watch`. There are no outages."""
        return self._feed.watch(stop, self.read_leases)

    def _advance(self, tx: statefile.Transaction) -> int:
        tx.run(
            "INSERT INTO registry VALUES (?, 1, NULL) ON CONFLICT (prefix) DO UPDATE SET revision = revision + 1",
            (self._prefix,),
        )
        revision: int = tx.rows("SELECT revision FROM registry WHERE prefix = ?", (self._prefix,))[0][0]
        return revision

    def _rows(self, tx: statefile.Transaction) -> list[lease.Lease]:
        rows = tx.rows(
            "SELECT name, attrs, lease_id, mod_revision FROM registry_lease WHERE prefix = ?", (self._prefix,)
        )
        return [_read_row(row) for row in rows]

    def _find(self, tx: statefile.Transaction, key: lease.SubnetKey) -> lease.Lease | None:
        rows = tx.rows(
            "SELECT name, attrs, lease_id, mod_revision FROM registry_lease WHERE prefix = ? AND name = ?",
            (self._prefix, lease.format_subnet_key(key)),
        )
        return _read_row(rows[0]) if rows else None


def _read_row(row: statefile.Row) -> lease.Lease:
    name, attrs, lease_id, mod_revision = row
    return lease.Lease(
        key=lease.parse_subnet_key(name),
        attrs=lease.parse_attrs(attrs),
        lease_id=lease_id,
        mod_revision=mod_revision,
    )
