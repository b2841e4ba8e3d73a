"""Names over HTTP, in the words of engines from 29 on (recorded: libnetwork.md A.1)."""

from __future__ import annotations

import json
from typing import Any

from tests.plugin import memory_plugin

Plugin = memory_plugin.MemoryPlugin
NETWORK_ID = memory_plugin.NETWORK_ID
POOL = {"PoolID": "flannelpy/10.2.1.0/24"}
NAME, MAC = "com.docker.network.endpoint.name", "com.docker.network.endpoint.macaddress"
GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}


def post(plugin: Plugin, method: str, **body: Any) -> Any:
    response = plugin.client().post(f"/{method}", data=json.dumps(body) + "\n")
    assert response.status_code == 200, response.data
    return json.loads(response.data)


def create_network(plugin: Plugin) -> None:
    plugin.client().post("/IpamDriver.GetDefaultAddressSpaces")
    request = {"AddressSpace": "flannelpy", "Pool": "", "SubPool": "", "Options": {"x": "y"}, "V6": False}
    assert post(plugin, "IpamDriver.RequestPool", **request) == {**POOL, "Pool": "10.2.1.0/24", "Data": {}}
    gateway = post(plugin, "IpamDriver.RequestAddress", **POOL, Address="", Options=GATEWAY)["Address"]
    post(
        plugin,
        "NetworkDriver.CreateNetwork",
        NetworkID=NETWORK_ID,
        Options={
            "com.docker.network.enable_ipv4": True,
            "com.docker.network.enable_ipv6": False,
            "com.docker.network.generic": {},
        },
        IPv4Data=[{"AddressSpace": "flannelpy", "Gateway": gateway, "Pool": "10.2.1.0/24"}],
        IPv6Data=[],
    )


def start(plugin: Plugin, name: str, number: int) -> str:
    """`docker run --name NAME`: the container's address."""
    asked = {NAME: name, MAC: f"d6:d7:a4:05:c9:{number:02x}"}
    address: str = post(plugin, "IpamDriver.RequestAddress", **POOL, Address="", Options=asked)["Address"]
    ids = {"NetworkID": NETWORK_ID, "EndpointID": f"{number:064x}"}
    interface = {"Address": address, "AddressIPv6": "", "MacAddress": asked[MAC]}
    options = {"com.docker.network.endpoint.exposedports": [], "com.docker.network.portmap": []}
    post(plugin, "NetworkDriver.CreateEndpoint", **ids, Interface=interface, Options=options)
    post(plugin, "NetworkDriver.Join", **ids, SandboxKey="/var/run/docker/netns/b8be5b63044e", Options=options)
    return address


def remove(plugin: Plugin, address: str, number: int) -> None:
    """`docker rm -f`."""
    ids = {"NetworkID": NETWORK_ID, "EndpointID": f"{number:064x}"}
    for method in ("RevokeExternalConnectivity", "Leave", "DeleteEndpoint"):
        post(plugin, f"NetworkDriver.{method}", **ids)
    post(plugin, "IpamDriver.ReleaseAddress", **POOL, Address=address.removesuffix("/24"))


def test_a_container_made_again_under_its_name_gets_its_address_back(plugin: Plugin) -> None:
    create_network(plugin)
    c1, c2 = start(plugin, "c1", 1), start(plugin, "c2", 2)
    for address, number in ((c1, 1), (c2, 2)):
        remove(plugin, address, number)
    assert start(plugin, "c3", 3) not in (c1, c2)
    assert (start(plugin, "c2", 4), start(plugin, "c1", 5)) == (c2, c1)
