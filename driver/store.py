"""Networks and endpoints in the state file: dockerd never tells them twice.

Rows in, values out; no policy. Caller: `driver.rows`, which keeps one lock over reads and writes.
"""

from __future__ import annotations

import ipaddress

from driver import endpoint, errors, names, network, ports
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
        # 1.1: IPv6, all four or none; whether an MTU was chosen could not be told before, so each counts as chosen
        # until Docker was asked (`following.Follower.learn_chosen_mtu`)
        """
        ALTER TABLE networks ADD COLUMN pool_v6 TEXT;
        ALTER TABLE networks ADD COLUMN gateway_v6 TEXT;
        ALTER TABLE networks ADD COLUMN overlay_v6 TEXT;
        ALTER TABLE networks ADD COLUMN device_v6 TEXT;
        ALTER TABLE networks ADD COLUMN chosen_mtu INTEGER;
        UPDATE networks SET chosen_mtu = mtu;
        ALTER TABLE networks ADD COLUMN direct INTEGER NOT NULL DEFAULT 0;
        CREATE UNIQUE INDEX networks_by_pool_v6 ON networks (pool_v6);
        ALTER TABLE endpoints ADD COLUMN address_v6 TEXT;
        ALTER TABLE endpoints ADD COLUMN mtu INTEGER NOT NULL DEFAULT 0;
        UPDATE endpoints SET mtu = (SELECT mtu FROM networks WHERE networks.id = endpoints.network_id)
        """,
        # 1.2
        """
        ALTER TABLE networks ADD COLUMN iface_prefix TEXT NOT NULL DEFAULT 'eth';
        ALTER TABLE networks ADD COLUMN route_level INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE endpoints ADD COLUMN published TEXT NOT NULL DEFAULT '[]';
        ALTER TABLE networks ADD COLUMN icc INTEGER NOT NULL DEFAULT 1;
        ALTER TABLE networks ADD COLUMN spoofing INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE endpoints ADD COLUMN sandbox TEXT NOT NULL DEFAULT ''
        """,
        # 1.3: networks of before are closed to the outside, too
        """
        ALTER TABLE networks ADD COLUMN outside INTEGER NOT NULL DEFAULT 0
        """,
    ),
)

# not OR REPLACE: that deletes the old row first, and with it the network's endpoints
_SAVE_NETWORK = """
    INSERT INTO networks (
        id, bridge, pool, gateway, prefix, overlay, device, mtu, internal, masquerade, gateway_mode,
        pool_v6, gateway_v6, overlay_v6, device_v6, chosen_mtu, direct, iface_prefix, route_level, icc, spoofing,
        outside
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET bridge = excluded.bridge, pool = excluded.pool, gateway = excluded.gateway,
    prefix = excluded.prefix, overlay = excluded.overlay, device = excluded.device, mtu = excluded.mtu,
    internal = excluded.internal, masquerade = excluded.masquerade, gateway_mode = excluded.gateway_mode,
    pool_v6 = excluded.pool_v6, gateway_v6 = excluded.gateway_v6, overlay_v6 = excluded.overlay_v6,
    device_v6 = excluded.device_v6, chosen_mtu = excluded.chosen_mtu, direct = excluded.direct,
    iface_prefix = excluded.iface_prefix, route_level = excluded.route_level, icc = excluded.icc,
    spoofing = excluded.spoofing, outside = excluded.outside
"""
_LOAD_NETWORKS = """
    SELECT id, bridge, pool, gateway, prefix, overlay, device, mtu, internal, masquerade, gateway_mode,
    pool_v6, gateway_v6, overlay_v6, device_v6, chosen_mtu, direct, iface_prefix, route_level, icc, spoofing,
    outside
    FROM networks ORDER BY rowid
"""
_SAVE_ENDPOINT = """
    INSERT INTO endpoints (id, network_id, address, mac, host_end, joined, address_v6, mtu, published, sandbox)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET network_id = excluded.network_id, address = excluded.address, mac = excluded.mac,
    joined = excluded.joined, address_v6 = excluded.address_v6, mtu = excluded.mtu, published = excluded.published,
    sandbox = excluded.sandbox
"""
_LOAD_ENDPOINTS = """
    SELECT id, network_id, address, mac, host_end, joined, address_v6, mtu, published, sandbox
    FROM endpoints ORDER BY rowid
"""


class DriverStore:
    """The driver's rows."""

    def __init__(self, state: statefile.StateFile) -> None:
        self._state = state

    def load(self) -> tuple[list[network.Network], list[endpoint.Endpoint]]:
        """Everything known, networks in the order of their creation."""
        with self._state.read() as tx:
            networks = tx.rows(_LOAD_NETWORKS)
            endpoints = tx.rows(_LOAD_ENDPOINTS)
        return [_network(row) for row in networks], [_endpoint(row) for row in endpoints]

    def save_network(self, net: network.Network) -> None:
        """Insert or replace; raises Conflict where the bridge's name or a pool is another one's."""
        v6 = _texts_v6(net.v6)
        with self._state.write() as tx:
            taken = tx.rows(
                "SELECT id, bridge, pool FROM networks WHERE (bridge = ? OR pool = ? OR pool_v6 = ?) AND id <> ?",
                (net.bridge, str(net.pool), v6[0], net.id),
            )
            if taken:
                other, bridge, pool = taken[0]
                raise errors.Conflict(f"network {other[:12]} has bridge {bridge} and pool {pool} already")
            tx.run(
                _SAVE_NETWORK,
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
                    *v6,
                    net.chosen_mtu,
                    net.direct,
                    net.iface_prefix,
                    net.route_level,
                    net.icc,
                    net.spoofing,
                    net.outside,
                ),
            )

    def delete_network(self, network_id: names.NetworkId) -> None:
        """Delete with its endpoints; gone already is success."""
        with self._state.write() as tx:
            tx.run("DELETE FROM networks WHERE id = ?", (network_id,))

    def save_endpoint(self, end: endpoint.Endpoint) -> None:
        """Insert, or change all but its name; raises Conflict where another endpoint has that."""
        with self._state.write() as tx:
            taken = tx.rows("SELECT id FROM endpoints WHERE host_end = ? AND id <> ?", (end.host_end, end.id))
            if taken:
                raise errors.Conflict(f"endpoint {taken[0][0]} has the interface {end.host_end} already")
            address_v6 = str(end.address_v6) if end.address_v6 is not None else None
            tx.run(
                _SAVE_ENDPOINT,
                (
                    end.id,
                    end.network_id,
                    str(end.address),
                    end.mac,
                    end.host_end,
                    end.joined,
                    address_v6,
                    end.mtu,
                    ports.encode_published(end.published),
                    end.sandbox,
                ),
            )

    def delete_endpoint(self, endpoint_id: names.EndpointId) -> None:
        """Delete; gone already is success."""
        with self._state.write() as tx:
            tx.run("DELETE FROM endpoints WHERE id = ?", (endpoint_id,))


def _texts_v6(v6: network.NetworkV6 | None) -> tuple[str | None, ...]:
    return (None,) * 4 if v6 is None else (str(v6.pool), str(v6.gateway), str(v6.overlay), v6.device)


def _network(row: statefile.Row) -> network.Network:
    network_id, bridge, pool, gateway, prefix, overlay, device, mtu, internal, masquerade, mode, *later = row
    *v6, chosen_mtu, direct, iface_prefix, route_level, icc, spoofing, outside = later
    return network.Network(
        id=names.NetworkId(network_id),
        bridge=netstate.IfName(bridge),
        pool=ipaddress.IPv4Network(pool),
        gateway=ipaddress.IPv4Interface(gateway),
        prefix=prefix,
        overlay=ipaddress.IPv4Network(overlay),
        device=netstate.IfName(device),
        mtu=mtu,
        direct=bool(direct),
        internal=bool(internal),
        masquerade=bool(masquerade),
        gateway_mode=network.GatewayMode(mode),
        chosen_mtu=chosen_mtu,
        iface_prefix=iface_prefix,
        route_level=route_level,
        icc=bool(icc),
        spoofing=bool(spoofing),
        outside=bool(outside),
        v6=_network_v6(*v6) if v6[0] is not None else None,
    )


def _network_v6(pool: str, gateway: str, overlay: str, device: str) -> network.NetworkV6:
    return network.NetworkV6(
        pool=ipaddress.IPv6Network(pool),
        gateway=ipaddress.IPv6Interface(gateway),
        overlay=ipaddress.IPv6Network(overlay),
        device=netstate.IfName(device),
    )


def _endpoint(row: statefile.Row) -> endpoint.Endpoint:
    endpoint_id, network_id, address, mac, host_end, joined, address_v6, mtu, published, sandbox = row
    return endpoint.Endpoint(
        id=names.EndpointId(endpoint_id),
        network_id=names.NetworkId(network_id),
        address=ipaddress.IPv4Interface(address),
        mac=netstate.Mac(mac),
        joined=bool(joined),
        address_v6=ipaddress.IPv6Interface(address_v6) if address_v6 is not None else None,
        mtu=mtu,
        other_name=netstate.IfName(host_end) if host_end != names.host_end(endpoint_id) else None,
        published=ports.decode_published(published),
        sandbox=sandbox,
    )
