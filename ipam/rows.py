"""The rows of the state file as the audit compares them, past everything that is kept in memory.

Used by `ipam.store` inside a transaction, and by `plugin.sight`.
"""

from __future__ import annotations

import ipaddress

from ipam import pool, requests
from overlay import netstate, statefile


def read_file(state: statefile.StateFile) -> requests.KnownRows:
    """Pools, and their addresses in use."""
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
