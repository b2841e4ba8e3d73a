"""What a node must remember: its subnet and MAC, the config and the peers, so that it works without the registry.

Rows in, values out; no policy. Keys and values are kept as flannel's own texts, so an upgrade that reads more of
them finds all of them. Caller: `node`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping

from overlay import errors, lease, netstate, statefile

SCHEMA = statefile.Schema(
    room="overlay",
    steps=(
        """
        CREATE TABLE nodes (
            prefix TEXT PRIMARY KEY,
            config TEXT NOT NULL,
            subnet TEXT NOT NULL,
            attrs TEXT NOT NULL,
            mac TEXT NOT NULL
        );
        CREATE TABLE peers (
            prefix TEXT NOT NULL REFERENCES nodes (prefix) ON DELETE CASCADE,
            subnet TEXT NOT NULL,
            attrs TEXT NOT NULL,
            PRIMARY KEY (prefix, subnet)
        ) WITHOUT ROWID
        """,
        "ALTER TABLE nodes ADD COLUMN mac_v6 TEXT",
        "ALTER TABLE nodes ADD COLUMN machine TEXT; ALTER TABLE nodes ADD COLUMN lease_id INTEGER",
    ),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SavedNode:
    """What the state file knows of this host in one flannel network. `config` is the config's JSON text.

    `machine` names the machine that wrote it, see `machine`; `lease_id` is the etcd lease behind the key. Both are
    None in a file of an older version.
    """

    prefix: str
    config: str
    key: lease.SubnetKey
    attrs: lease.LeaseAttrs
    mac: netstate.Mac
    mac_v6: netstate.Mac | None = None
    machine: str | None = None
    lease_id: int | None = None


class NodeStore:
    """The nodes' rows."""

    def __init__(self, state: statefile.StateFile) -> None:
        self._state = state

    def prefixes(self) -> list[str]:
        """The flannel networks this host was in when the plugin stopped."""
        with self._state.read() as tx:
            return [prefix for (prefix,) in tx.rows("SELECT prefix FROM nodes ORDER BY rowid")]

    def load(self, prefix: str) -> SavedNode | None:
        """What was known; None for a new prefix."""
        with self._state.read() as tx:
            rows = tx.rows(
                "SELECT config, subnet, attrs, mac, mac_v6, machine, lease_id FROM nodes WHERE prefix = ?", (prefix,)
            )
        if not rows:
            return None
        config, subnet, attrs, mac, mac_v6, machine, lease_id = rows[0]
        return SavedNode(
            prefix=prefix,
            config=config,
            key=lease.parse_subnet_key(subnet),
            attrs=lease.parse_attrs(attrs),
            mac=netstate.Mac(mac),
            mac_v6=None if mac_v6 is None else netstate.Mac(mac_v6),
            machine=machine,
            lease_id=lease_id,
        )

    def save(self, node: SavedNode) -> None:
        """Insert or replace what is known of this host; what is there already is not written, as on a full disk."""
        values = (
            node.config,
            lease.format_subnet_key(node.key),
            lease.format_attrs(node.attrs),
            node.mac,
            node.mac_v6,
            node.machine,
            node.lease_id,
            node.prefix,
        )
        columns = "config, subnet, attrs, mac, mac_v6, machine, lease_id, prefix"
        with self._state.read() as tx:
            if tx.rows(f"SELECT {columns} FROM nodes WHERE prefix = ?", (node.prefix,)) == [values]:  # noqa: S608
                return
        with self._state.write() as tx:
            changed = tx.run(
                "UPDATE nodes SET config = ?, subnet = ?, attrs = ?, mac = ?, mac_v6 = ?, machine = ?, lease_id = ? "
                "WHERE prefix = ?",
                values,
            )
            if not changed:
                tx.run(
                    "INSERT INTO nodes (config, subnet, attrs, mac, mac_v6, machine, lease_id, prefix) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    values,
                )

    def forget(self, prefix: str) -> None:
        """Delete a node with its peers; gone already is success."""
        with self._state.write() as tx:
            tx.run("DELETE FROM nodes WHERE prefix = ?", (prefix,))

    def load_peers(self, prefix: str) -> dict[lease.SubnetKey, lease.Lease]:
        """The peers last seen. A row that cannot be read any more is left out: the registry will say it again."""
        with self._state.read() as tx:
            rows = tx.rows("SELECT subnet, attrs FROM peers WHERE prefix = ?", (prefix,))
        peers = {}
        for subnet, attrs in rows:
            with contextlib.suppress(errors.CodecError):
                key = lease.parse_subnet_key(subnet)
                peers[key] = lease.Lease(key=key, attrs=lease.parse_attrs(attrs))
        return peers

    def save_peers(
        self, prefix: str, put: Mapping[lease.SubnetKey, lease.Lease], gone: Iterable[lease.SubnetKey]
    ) -> None:
        """Write the changed peers and delete those that left, in one transaction. Needs the node's own row."""
        changed = [
            (prefix, lease.format_subnet_key(key), lease.format_attrs(peer.attrs)) for key, peer in put.items()
        ]
        left = [(prefix, lease.format_subnet_key(key)) for key in gone]
        if not changed and not left:
            return
        with self._state.write() as tx:
            tx.run_many("INSERT OR REPLACE INTO peers VALUES (?, ?, ?)", changed)
            tx.run_many("DELETE FROM peers WHERE prefix = ? AND subnet = ?", left)
