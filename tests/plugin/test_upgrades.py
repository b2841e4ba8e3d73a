"""State files of every version so far: today's plugin takes each, looks at Docker and repairs, and loses nothing.

The files are data (`data/states`), each written by the code of its version, never by today's.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import pathlib
import sqlite3
from collections.abc import Mapping

import pytest

from driver import engine, names, ports
from plugin import engine_watch
from tests.plugin import memory_plugin

STATES = pathlib.Path(__file__).parent / "data/states"
VERSIONS = ("1.0", "1.1", "1.2", "1.0-1.1-1.2")
PLAIN, CHOSEN, DUAL, NATIVE = (names.NetworkId(digit * 64) for digit in "abcd")
V4 = ipaddress.IPv4Interface


def end(digit: str, address: str, address_v6: str = "") -> engine.EngineEndpoint:
    v6 = ipaddress.IPv6Interface(address_v6) if address_v6 else None
    return engine.EngineEndpoint(id=names.EndpointId(digit * 64), address=V4(address), mac=None, address_v6=v6)


def pool(cidr: str, gateway: str = "") -> engine.EnginePool:
    """As engines before 29 show it: without a gateway, unless the user asked for one."""
    return engine.EnginePool(
        cidr=ipaddress.ip_network(cidr), gateway=ipaddress.ip_address(gateway) if gateway else None
    )


ANY = engine.EngineNetwork(id=PLAIN, name="", ours=True, ipam_ours=True)
DOCKER = (
    dataclasses.replace(
        ANY, name="plain", pools=(pool("10.2.1.0/26"),), endpoints=(end("1", "10.2.1.2/26"), end("2", "10.2.1.3/26"))
    ),
    dataclasses.replace(
        ANY,
        id=CHOSEN,
        name="chosen",
        internal=True,
        pools=(pool("10.2.1.64/26", "10.2.1.70"),),
        options={"com.docker.network.driver.mtu": "1400"},
        endpoints=(end("3", "10.2.1.65/26"),),
    ),
    dataclasses.replace(
        ANY,
        id=DUAL,
        name="dual",
        pools=(pool("10.2.1.128/26"), pool("fd00:2:0:1::/80")),
        options={"flannelpy.gateway": "docker"},
        endpoints=(end("4", "10.2.1.130/26", "fd00:2:0:1::2/80"),),
    ),
    dataclasses.replace(
        ANY,
        id=NATIVE,
        name="native",
        pools=(pool("10.2.1.192/26"),),
        options={
            "flannelpy.gateway": "native",
            "flannelpy.spoofing": "allow",
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.name": "br-mine",
            "com.docker.network.container_iface_prefix": "net",
        },
        endpoints=(end("5", "10.2.1.194/26"),),
    ),
)
"""The Docker that those files were written beside, as far as each goes."""

MTUS = {PLAIN: None, CHOSEN: 1400, DUAL: None, NATIVE: None}
"""What the user chose."""

Rows = Mapping[str, list[tuple[object, ...]]]


def rows_of(connection: sqlite3.Connection) -> Rows:
    """What a version knew of networks, endpoints, addresses, its lease and its peers, and must not lose."""
    queries = {
        "networks": "SELECT id, bridge, pool, gateway, prefix, overlay, device, internal, masquerade, gateway_mode"
        " FROM networks ORDER BY id",
        "endpoints": "SELECT id, network_id, address, mac, host_end, joined FROM endpoints ORDER BY id",
        "addresses": "SELECT pool_id, ip, kind, rest_order FROM ipam_addresses ORDER BY pool_id, ip",
        "pools": "SELECT pool_id, prefix, lease, cidr, subpool, since FROM ipam_pools ORDER BY pool_id",
        "nodes": "SELECT prefix, config, subnet, attrs, mac FROM nodes",
        "peers": "SELECT * FROM peers",
    }
    return {what: connection.execute(sql).fetchall() for what, sql in queries.items()}


@pytest.fixture(params=VERSIONS)
def before(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Rows:
    """The version's file, in place, and what it says."""
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.executescript((STATES / f"{request.param}.sql").read_text())
    told = rows_of(connection)
    connection.close()
    return told


def test_a_file_of_any_version_is_taken_over_whole(
    before: Rows, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    networks = {row[0] for row in before["networks"]}
    plugin = memory_plugin.MemoryPlugin(tmp_path, dual=DUAL in networks)
    plugin.engine.networks = [net for net in DOCKER if net.id in networks]
    completed: list[None] = []
    watch = plugin.make_watch(engine_watch.Timing(grace_s=0.0), complete=lambda: completed.append(None))
    refused = []
    for _ in range(4):
        watch.look()
        refused.append(watch.status()["refused"])
    answer = plugin.audit(0.0, repair=True)
    watch.look()
    known = {net.id: net.chosen_mtu for net in plugin.driver.networks()}
    published = [ports.format_published(port) for end in plugin.driver.endpoints() for port in end.published]
    plugin.close()

    connection = sqlite3.connect(tmp_path / "state.db")
    assert rows_of(connection) == before
    connection.close()
    assert known == {network_id: MTUS[network_id] for network_id in networks}
    assert published == (["0.0.0.0:8080->80/tcp"] if NATIVE in networks else [])
    assert (watch.status()["error"], watch.status()["refused"], completed) == (None, {}, [None])
    assert refused == [{}] * 4, "nor by any look before"
    assert answer["troubles"] == {}
    about = ("network", "endpoint", "address", "pool", "row", "published")
    assert [one for one in answer["differences"] if one["kind"].startswith(about)] == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_every_version_has_its_file() -> None:
    assert sorted(path.stem for path in STATES.glob("*.sql")) == sorted(VERSIONS)
