"""Networks and endpoints in the state file: dockerd never tells them twice.

Rows in, values out; no policy. Caller: `driver.service`, which keeps one lock over reads and writes.
"""

from __future__ import annotations

import ipaddress

from driver import endpoint, errors, names, network
from overlay import netstate, statefile

SCHEMA = statefile.Schema(
    room="driver",
    steps=(
        """
        CREATE TABLE networks (
            id TEXT PRIMARY KEY,
            bridge TEXT NOT NULL UNIQUE,
            pool TEXT NOT NULL UNIQUE,
            gateway TEXT NOT NULL,
            prefix TEXT NOT NULL,
            overlay TEXT NOT NULL,
            device TEXT NOT NULL,
            mtu INTEGER NOT NULL,
            internal INTEGER NOT NULL,
            masquerade INTEGER NOT NULL,
            gateway_mode TEXT NOT NULL
        );
        CREATE TABLE endpoints (
            id TEXT PRIMARY KEY,
            network_id TEXT NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
            address TEXT NOT NULL,
            mac TEXT NOT NULL,
            host_end TEXT NOT NULL UNIQUE,
            joined INTEGER NOT NULL
        );
        CREATE INDEX endpoints_by_network ON endpoints (network_id)
        """,
    ),
)


class DriverStore:
    """The driver's rows."""

    def __init__(self, state: statefile.StateFile) -> None:
        self._state = state

    def load(self) -> tuple[list[network.Network], list[endpoint.Endpoint]]:
        """Everything known, networks in the order of their creation."""
        with self._state.read() as tx:
            networks = tx.rows(
                "SELECT id, bridge, pool, gateway, prefix, overlay, device, mtu, internal, masquerade, gateway_mode "
                "FROM networks ORDER BY rowid"
            )
            endpoints = tx.rows("SELECT id, network_id, address, mac, joined FROM endpoints ORDER BY rowid")
        return [_network(row) for row in networks], [_endpoint(row) for row in endpoints]

    def save_network(self, net: network.Network) -> None:
        """Insert, once; raises Conflict where the bridge's name or the pool is another network's."""
        with self._state.write() as tx:
            taken = tx.rows(
                "SELECT id, bridge, pool FROM networks WHERE (bridge = ? OR pool = ?) AND id <> ?",
                (net.bridge, str(net.pool), net.id),
            )
            if taken:
                other, bridge, pool = taken[0]
                raise errors.Conflict(f"network {other[:12]} has bridge {bridge} and pool {pool} already")
            tx.run(
                # not OR REPLACE: that deletes the old row first, and with it the network's endpoints
                "INSERT INTO networks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                (
                    net.id,
                    net.bridge,
                    str(net.pool),
                    str(net.gateway),
                    net.prefix,
                    str(net.overlay),
                    net.device,
                    net.mtu,
                    net.internal,
                    net.masquerade,
                    net.gateway_mode,
                ),
            )

    def delete_network(self, network_id: names.NetworkId) -> None:
        """Delete with its endpoints; gone already is success."""
        with self._state.write() as tx:
            tx.run("DELETE FROM networks WHERE id = ?", (network_id,))

    def save_endpoint(self, end: endpoint.Endpoint) -> None:
        """Insert or replace; raises Conflict where another endpoint has the same short id."""
        host_end = names.host_end(end.id)
        with self._state.write() as tx:
            taken = tx.rows("SELECT id FROM endpoints WHERE host_end = ? AND id <> ?", (host_end, end.id))
            if taken:
                raise errors.Conflict(f"endpoint {taken[0][0]} has the interface {host_end} already")
            tx.run(
                "INSERT INTO endpoints VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                "network_id = excluded.network_id, address = excluded.address, mac = excluded.mac, "
                "joined = excluded.joined",
                (end.id, end.network_id, str(end.address), end.mac, host_end, end.joined),
            )

    def delete_endpoint(self, endpoint_id: names.EndpointId) -> None:
        """Delete; gone already is success."""
        with self._state.write() as tx:
            tx.run("DELETE FROM endpoints WHERE id = ?", (endpoint_id,))


def _network(row: statefile.Row) -> network.Network:
    network_id, bridge, pool, gateway, prefix, overlay, device, mtu, internal, masquerade, mode = row
    return network.Network(
        id=names.NetworkId(network_id),
        bridge=netstate.IfName(bridge),
        pool=ipaddress.IPv4Network(pool),
        gateway=ipaddress.IPv4Interface(gateway),
        prefix=prefix,
        overlay=ipaddress.IPv4Network(overlay),
        device=netstate.IfName(device),
        mtu=mtu,
        internal=bool(internal),
        masquerade=bool(masquerade),
        gateway_mode=network.GatewayMode(mode),
    )


def _endpoint(row: statefile.Row) -> endpoint.Endpoint:
    endpoint_id, network_id, address, mac, joined = row
    return endpoint.Endpoint(
        id=names.EndpointId(endpoint_id),
        network_id=names.NetworkId(network_id),
        address=ipaddress.IPv4Interface(address),
        mac=netstate.Mac(mac),
        joined=bool(joined),
    )
