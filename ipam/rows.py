"""The `ipam` tables of the state file, and pools and addresses as their rows.

Used by `ipam.store`, which keeps memory the same and looks at how many rows were changed, and by `plugin.sight`,
which reads past everything that is kept in memory.
"""

from __future__ import annotations

import dataclasses
import ipaddress

from ipam import pool, requests
from overlay import netstate, statefile

SCHEMA = statefile.Schema(
    room="ipam",
    steps=(
        # of kind and rest_order one is NULL: an address is in use, or it rests
        """
        CREATE TABLE ipam_pools (
            pool_id TEXT PRIMARY KEY,
            prefix TEXT NOT NULL,
            lease TEXT NOT NULL,
            cidr TEXT NOT NULL UNIQUE,
            subpool TEXT,
            since REAL NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE ipam_addresses (
            pool_id TEXT NOT NULL REFERENCES ipam_pools (pool_id) ON DELETE CASCADE,
            ip TEXT NOT NULL,
            kind TEXT,
            since REAL NOT NULL,
            rest_order INTEGER,
            PRIMARY KEY (pool_id, ip),
            CHECK ((kind IS NULL) <> (rest_order IS NULL))
        ) WITHOUT ROWID
        """,
        # 1.2: who has it, or had it last; NULL where the engine did not say
        """
        ALTER TABLE ipam_addresses ADD COLUMN holder_name TEXT;
        ALTER TABLE ipam_addresses ADD COLUMN holder_mac TEXT
        """,
    ),
)

_TAKE = """
    INSERT INTO ipam_addresses (pool_id, ip, kind, since, holder_name, holder_mac) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (pool_id, ip) DO UPDATE SET kind = excluded.kind, since = excluded.since, rest_order = NULL,
        holder_name = excluded.holder_name, holder_mac = excluded.holder_mac
    WHERE rest_order IS NOT NULL
"""
_RENAME = "UPDATE ipam_addresses SET kind = ? WHERE pool_id = ? AND ip = ? AND kind IS NOT NULL"
_RELEASE = """
    UPDATE ipam_addresses SET kind = NULL, rest_order = ?, since = ? WHERE pool_id = ? AND ip = ? AND kind IS NOT NULL
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoolEntry:
    """A granted pool. `lease`: what it was cut from. Units: `since` and `stamp` as in `pool.Used`."""

    id: str
    prefix: str
    lease: netstate.IPNetwork
    since: float
    stamp: float
    addresses: pool.Pool


def load(state: statefile.StateFile, stamp: float) -> dict[str, PoolEntry]:
    """All pools with their addresses, as if granted and released at `stamp`."""
    with state.read() as tx:
        pools = tx.rows("SELECT pool_id, prefix, lease, cidr, subpool, since FROM ipam_pools")
        addresses = tx.rows(
            "SELECT pool_id, ip, kind, since, rest_order, holder_name, holder_mac FROM ipam_addresses"
        )
    entries = {
        pool_id: PoolEntry(
            id=pool_id,
            prefix=prefix,
            lease=ipaddress.ip_network(lease),
            since=since,
            stamp=stamp,
            addresses=pool.Pool(
                ipaddress.ip_network(cidr), ipaddress.ip_network(subpool) if subpool is not None else None
            ),
        )
        for pool_id, prefix, lease, cidr, subpool, since in pools
    }
    for pool_id, ip, kind, since, order, name, mac in addresses:
        holder = pool.Holder(name=name or "", mac=mac or "")
        entries[pool_id].addresses.put(
            ipaddress.ip_address(ip),
            pool.Rested(order=order, stamp=stamp, holder=holder)  # from now on: no clock outlives a boot
            if kind is None
            else pool.Used(kind=pool.Kind(kind), since=since, stamp=stamp, holder=holder),
        )
    return entries


def insert_pool(tx: statefile.Transaction, entry: PoolEntry) -> None:
    """Add a pool; its addresses are not looked at."""
    subpool = entry.addresses.subpool
    tx.run(
        "INSERT INTO ipam_pools (pool_id, prefix, lease, cidr, subpool, since) VALUES (?, ?, ?, ?, ?, ?)",
        (
            entry.id,
            entry.prefix,
            str(entry.lease),
            str(entry.addresses.cidr),
            str(subpool) if subpool else None,
            entry.since,
        ),
    )


def delete_pool(tx: statefile.Transaction, pool_id: str) -> int:
    """Delete a pool with all its addresses; how many pools that were."""
    return tx.run("DELETE FROM ipam_pools WHERE pool_id = ?", (pool_id,))


def take(tx: statefile.Transaction, pool_id: str, ip: netstate.IPAddress, used: pool.Used) -> int:
    """Put an address into use, unless it is; how many rows that changed."""
    holder = (used.holder.name or None, used.holder.mac or None)
    return tx.run(_TAKE, (pool_id, str(ip), used.kind.value, used.since, *holder))


def rename(tx: statefile.Transaction, pool_id: str, ip: netstate.IPAddress, kind: pool.Kind) -> int:
    """Change what an address in use is in use for; how many rows that changed."""
    return tx.run(_RENAME, (kind.value, pool_id, str(ip)))


def release(tx: statefile.Transaction, pool_id: str, ip: netstate.IPAddress, order: int, since: float) -> int:
    """Let an address in use rest; how many rows that changed. Units: `order` as in `pool.Rested`."""
    return tx.run(_RELEASE, (order, since, pool_id, str(ip)))


def delete_address(tx: statefile.Transaction, pool_id: str, ip: netstate.IPAddress) -> None:
    """Delete an address, in use or resting."""
    tx.run("DELETE FROM ipam_addresses WHERE pool_id = ? AND ip = ?", (pool_id, str(ip)))


def delete_addresses(tx: statefile.Transaction, pool_id: str) -> None:
    """Delete all addresses of a pool, which need not be there."""
    tx.run("DELETE FROM ipam_addresses WHERE pool_id = ?", (pool_id,))


def read_file(state: statefile.StateFile) -> requests.KnownRows:
    """Pools, and their addresses in use, as the audit compares them."""
    with state.read() as tx:
        return read(tx)


def read(tx: statefile.Transaction) -> requests.KnownRows:
    """The same in a transaction that is open."""
    pools = tx.rows("SELECT pool_id, cidr FROM ipam_pools")
    addresses = tx.rows("SELECT pool_id, ip, kind, since FROM ipam_addresses WHERE kind IS NOT NULL")
    found: dict[str, dict[netstate.IPAddress, requests.RowInUse]] = {}
    for pool_id, ip, kind, since in addresses:
        row = requests.RowInUse(kind=pool.Kind(kind), since=since)
        found.setdefault(pool_id, {})[ipaddress.ip_address(ip)] = row
    return requests.KnownRows(pools={pool_id: ipaddress.ip_network(cidr) for pool_id, cidr in pools}, addresses=found)
