"""Whole lives of a network and a container, in calls that are right and in an engine's order.

In one session Docker publishes the ports, in the other this plugin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

NETWORK_ID = "4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e"
SWARM_ID = "mlddrf5etdgqpmi68bi6qqn6i"
ENDPOINT_ID = "1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809"
POOL_ID = "flannelpy/10.2.1.0/24"
POOL_ID_V6 = "flannelpy/fd00:2:0:1::/64"
IDS = {"NetworkID": NETWORK_ID, "EndpointID": ENDPOINT_ID}
GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}
CHOSEN = ("com.docker.network.bridge.name", "com.docker.network.container_iface_prefix")
"""Names of links that an operator chooses: letters and digits are rightly taken."""
EXPOSED = "com.docker.network.endpoint.exposedports"
PORTMAP = "com.docker.network.portmap"


def port(proto: int, number: int, host_ip: str, first: int, last: int) -> dict[str, object]:
    """`-p HOST_IP:FIRST-LAST:NUMBER`."""
    return {"Proto": proto, "IP": "", "Port": number, "HostIP": host_ip, "HostPort": first, "HostPortEnd": last}


PORTS = {EXPOSED: [{"Proto": 6, "Port": 80}], PORTMAP: [port(6, 80, "", 8080, 8080)]}
NATIVE_PORTS = {
    EXPOSED: [{"Proto": 6, "Port": 80}, {"Proto": 17, "Port": 53}],
    PORTMAP: [
        port(6, 80, "", 8080, 8080),
        port(17, 53, "192.0.2.1", 5300, 5309),
        port(6, 443, "2001:db8::1", 8443, 8443),
        port(17, 53, "::", 0, 0),
    ],
}
GENERIC = {
    "flannelpy.gateway": "auto",
    "com.docker.network.driver.mtu": "1400",
    "com.docker.network.bridge.enable_ip_masquerade": "true",
}
NATIVE_GENERIC = {
    "flannelpy.gateway": "native",
    "flannelpy.spoofing": "drop",
    "flannelpy.outside": "allow",
    "com.docker.network.bridge.name": "blue0",
    "com.docker.network.container_iface_prefix": "net",
    "com.docker.network.bridge.enable_icc": "false",
}
OPTIONS = {
    "com.docker.network.enable_ipv4": True,
    "com.docker.network.enable_ipv6": True,
    "com.docker.network.internal": False,
}
CREATE_NETWORK = {
    "NetworkID": NETWORK_ID,
    "IPv4Data": [
        {
            "AddressSpace": "flannelpy",
            "Pool": "10.2.1.0/24",
            "Gateway": "10.2.1.1/24",
            "AuxAddresses": {"r1": "10.2.1.130/24"},
        }
    ],
    "IPv6Data": [
        {
            "AddressSpace": "flannelpy",
            "Pool": "fd00:2:0:1::/64",
            "Gateway": "fd00:2:0:1::1/64",
            "AuxAddresses": {"r1": "fd00:2:0:1::130/64"},
        }
    ],
}
INTERFACE = {
    "Address": "10.2.1.2/24",
    "AddressIPv6": "fd00:2:0:1::2/64",
    "MacAddress": "02:42:0a:02:01:02",
}
NAMED = {"com.docker.network.endpoint.name": "c1", "com.docker.network.endpoint.macaddress": "02:42:0a:02:01:02"}
SPACE = {"AddressSpace": "flannelpy"}
DISCOVERED = {"DiscoveryType": 1, "DiscoveryData": {"Address": "192.0.2.1", "Self": True}}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the engine."""

    method: str
    body: Mapping[str, Any]


def _call(method: str, **body: object) -> Call:
    return Call(method=method, body=body)


POOLS = (
    _call("IpamDriver.RequestPool", **SPACE, Pool="10.2.1.0/24", SubPool="10.2.1.0/25", Options={"x": "y"}, V6=False),
    _call("IpamDriver.RequestAddress", PoolID=POOL_ID, Address="10.2.1.1", Options=GATEWAY),
    _call("IpamDriver.RequestPool", **SPACE, Pool="fd00:2:0:1::/64", SubPool="", Options={}, V6=True),
    _call("IpamDriver.RequestAddress", PoolID=POOL_ID_V6, Address="", Options=GATEWAY),
)
ADDRESSES = (
    _call("IpamDriver.RequestAddress", PoolID=POOL_ID, Address="10.2.1.2", Options=NAMED),
    _call("IpamDriver.RequestAddress", PoolID=POOL_ID_V6, Address="", Options=NAMED),
)
BESIDE = (
    _call("NetworkDriver.DiscoverNew", **DISCOVERED),
    _call("NetworkDriver.DiscoverDelete", **DISCOVERED),
    _call("NetworkDriver.AllocateNetwork", NetworkID=SWARM_ID, Options={}, IPv4Data=[], IPv6Data=None),
)
END = (
    _call("NetworkDriver.RevokeExternalConnectivity", **IDS),
    _call("NetworkDriver.Leave", **IDS),
    _call("NetworkDriver.DeleteEndpoint", **IDS),
    _call("IpamDriver.ReleaseAddress", PoolID=POOL_ID, Address="10.2.1.2"),
    _call("IpamDriver.ReleaseAddress", PoolID=POOL_ID_V6, Address="fd00:2:0:1::2"),
    _call("NetworkDriver.FreeNetwork", NetworkID=NETWORK_ID),
    _call("NetworkDriver.DeleteNetwork", NetworkID=NETWORK_ID),
    _call("IpamDriver.ReleasePool", PoolID=POOL_ID),
    _call("IpamDriver.ReleasePool", PoolID=POOL_ID_V6),
)
WITHOUT_BODY = (
    _call("IpamDriver.GetDefaultAddressSpaces"),
    _call("IpamDriver.GetCapabilities"),
    _call("NetworkDriver.GetCapabilities"),
    _call("Plugin.Activate"),
)
"""Last, since hypothesis likes the first of a list best."""


def _session(generic: Mapping[str, str], ports: Mapping[str, object]) -> tuple[Call, ...]:
    options = {**OPTIONS, "com.docker.network.generic": generic}
    return (
        _call("NetworkDriver.GwAllocCheck", Options=options),
        *POOLS,
        Call(method="NetworkDriver.CreateNetwork", body={**CREATE_NETWORK, "Options": options}),
        *ADDRESSES,
        _call("NetworkDriver.CreateEndpoint", **IDS, Interface=INTERFACE, Options={**ports, "k": "v"}),
        _call("NetworkDriver.Join", **IDS, SandboxKey="/var/run/docker/netns/b6f0529d4689", Options=ports),
        _call("NetworkDriver.ProgramExternalConnectivity", **IDS, Options=ports),
        _call("NetworkDriver.EndpointOperInfo", **IDS),
        *BESIDE,
        *END,
        *WITHOUT_BODY,
    )


SESSIONS = {"auto": _session(GENERIC, PORTS), "native": _session(NATIVE_GENERIC, NATIVE_PORTS)}
OWN = {"NetworkDriver.CreateNetwork", "NetworkDriver.ProgramExternalConnectivity"}
"""The calls whose texts get further where this plugin publishes."""

CALLS = [*SESSIONS["auto"], *(call for call in SESSIONS["native"] if call not in SESSIONS["auto"])]


def up_to(session: str, method: str) -> tuple[Call, ...]:
    """The calls of a session until this one was made."""
    methods = [call.method for call in SESSIONS[session]]
    return SESSIONS[session][: methods.index(method) + 1]
