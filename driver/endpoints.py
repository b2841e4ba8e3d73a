"""`NetworkDriver.*`: the engine's words in and out.

Decodes strictly, since nothing but dockerd should call, and tolerantly of null and of fields newer engines add.
`plugin.http` reads the bodies and turns errors into statuses. Every method is idempotent; what ends something
answers success for what is unknown, since the engine forgets it whatever we say.
Source: moby daemon/libnetwork/drivers/remote/api/api.go, daemon/libnetwork/docs/remote.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from driver import creation, endpoint, errors, names, network, service
from overlay import fields, netstate

Answer = dict[str, Any]
Method = Callable[[fields.JsonObject], Answer]

OPTION_INTERNAL = "com.docker.network.internal"
OPTION_GENERIC = "com.docker.network.generic"
OPTION_PORTMAP = "com.docker.network.portmap"
OPTION_IPV4_ALONE = "com.docker.network.driver.private.no_proxy_6to4"
"""Says that another network is the container's IPv6 gateway, and publishes there; engines from 29.4.1 on."""

CONSTANT: Mapping[str, Answer] = {
    # global connectivity: swarm then resolves names of this driver's networks across nodes
    "NetworkDriver.GetCapabilities": {"Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": False},
    # an error, also to the engine's repeat without a body, makes engines before 28 fail the container's start
    "NetworkDriver.EndpointOperInfo": {"Value": {}},
    "NetworkDriver.DiscoverNew": {},
    "NetworkDriver.DiscoverDelete": {},
}
"""Answered without a look at the body, before anything else of the plugin is up."""


def methods(driver: service.Driver) -> Mapping[str, Method]:
    """The driver's methods by their name on the wire."""
    return {
        "NetworkDriver.GwAllocCheck": _gw_alloc_check,
        "NetworkDriver.AllocateNetwork": _allocate_network,
        "NetworkDriver.FreeNetwork": _nothing,
        "NetworkDriver.CreateNetwork": lambda body: _create_network(driver, body),
        "NetworkDriver.DeleteNetwork": lambda body: _delete_network(driver, body),
        "NetworkDriver.CreateEndpoint": lambda body: _create_endpoint(driver, body),
        "NetworkDriver.DeleteEndpoint": lambda body: _delete_endpoint(driver, body),
        "NetworkDriver.Join": lambda body: _join(driver, body),
        "NetworkDriver.Leave": lambda body: _leave(driver, body),
        "NetworkDriver.ProgramExternalConnectivity": lambda body: _program(driver, body),
        "NetworkDriver.RevokeExternalConnectivity": lambda body: _revoke(driver, body),
    }


def _create_network(driver: service.Driver, body: fields.JsonObject) -> Answer:
    options = fields.mapping(body, "Options")
    generic = fields.mapping(options, OPTION_GENERIC)
    ipv4 = fields.flag(options, network.OPTION_IPV4, default=True)
    ipv6 = fields.flag(options, network.OPTION_IPV6, default=False)
    if not ipv4:
        raise errors.BadRequest("a flannelpy network needs IPv4; leave --ipv4=false away")
    network.require_agreed(generic, ipv4=ipv4, ipv6=ipv6)
    if network.OPTION_IPV4 not in options:
        network.require_heeded(generic)
    driver.create_network(
        creation.Request(
            id=_network_id(body),
            v4=tuple(_pool_data_v4(data) for data in fields.objects(body, "IPv4Data")),
            v6=tuple(_pool_data_v6(data) for data in fields.objects(body, "IPv6Data")),
            ipv6=ipv6,
            options=network.parse_options(generic),
            internal=fields.flag(options, OPTION_INTERNAL, default=False),
        )
    )
    return {}


def _delete_network(driver: service.Driver, body: fields.JsonObject) -> Answer:
    driver.delete_network(_network_id(body))
    return {}


def _create_endpoint(driver: service.Driver, body: fields.JsonObject) -> Answer:
    endpoint.refuse_options(fields.mapping(body, "Options"))
    interface = fields.mapping(body, "Interface")
    address_v6 = fields.text(interface, "AddressIPv6", "")
    address = fields.ipv4_interface(fields.text(interface, "Address", ""), "Interface.Address")
    given_mac = fields.text(interface, "MacAddress", "")
    mac = names.parse_mac(given_mac, "Interface.MacAddress") if given_mac else names.mac_of(address.ip)
    driver.create_endpoint(
        endpoint.Endpoint(
            id=_endpoint_id(body),
            network_id=_network_id(body),
            address=address,
            mac=netstate.Mac(mac),
            address_v6=fields.ipv6_interface(address_v6, "Interface.AddressIPv6") if address_v6 else None,
        )
    )
    # Only what the engine left open may be answered: a field it gave counts as modified even if it is the same.
    return {"Interface": {} if given_mac else {"MacAddress": mac}}


def _join(driver: service.Driver, body: fields.JsonObject) -> Answer:
    options = fields.mapping(body, "Options")
    publishes = bool(fields.objects(options, OPTION_PORTMAP))
    sandbox = names.sandbox_of(fields.text(body, "SandboxKey", ""))
    return endpoint.format_join(
        driver.join(_network_id(body), _endpoint_id(body), publishes=publishes, sandbox=sandbox)
    )


def _leave(driver: service.Driver, body: fields.JsonObject) -> Answer:
    driver.leave(_endpoint_id(body))
    return {}


def _delete_endpoint(driver: service.Driver, body: fields.JsonObject) -> Answer:
    driver.delete_endpoint(_endpoint_id(body))
    return {}


def _gw_alloc_check(body: fields.JsonObject) -> Answer:
    """The bridge always takes the gateway's address out of the pool, so Docker must ask for one."""
    fields.mapping(body, "Options")
    return {"SkipIPv4": False, "SkipIPv6": False}


def _allocate_network(body: fields.JsonObject) -> Answer:
    """Swarm managers ask drivers of global scope only; this driver's networks are a node's own."""
    del body
    raise errors.BadRequest(
        "flannelpy networks are local to a node; in swarm use --config-only and --config-from (docs/operations.md)"
    )


def _program(driver: service.Driver, body: fields.JsonObject) -> Answer:
    """Only where ports are ours to publish: elsewhere the engine does so itself (see `endpoint.choose_exit`)."""
    options = fields.mapping(body, "Options")
    wanted = fields.objects(options, OPTION_PORTMAP)
    ipv4_alone = fields.flag(options, OPTION_IPV4_ALONE, default=False)
    driver.publisher.publish(_network_id(body), _endpoint_id(body), wanted, ipv4_alone=ipv4_alone)
    return {}


def _revoke(driver: service.Driver, body: fields.JsonObject) -> Answer:
    _network_id(body)
    driver.publisher.withdraw(_endpoint_id(body))
    return {}


def _nothing(body: fields.JsonObject) -> Answer:
    """Accepted: for managers of a swarm, and nothing is kept of it."""
    _network_id(body)
    return {}


def _network_id(body: fields.JsonObject) -> names.NetworkId:
    return names.NetworkId(names.parse_id(fields.text(body, "NetworkID"), "NetworkID"))


def _endpoint_id(body: fields.JsonObject) -> names.EndpointId:
    return names.EndpointId(names.parse_id(fields.text(body, "EndpointID"), "EndpointID"))


def _pool_data_v4(data: fields.JsonObject) -> creation.PoolDataV4:
    pool = fields.ipv4_network(fields.text(data, "Pool"), "IPv4Data.Pool")
    gateway = fields.text(data, "Gateway", "") or _first_host(pool, "IPv4Data.Pool")
    return creation.PoolData(
        address_space=fields.text(data, "AddressSpace", ""),
        pool=pool,
        gateway=fields.ipv4_interface(gateway, "IPv4Data.Gateway"),
    )


def _pool_data_v6(data: fields.JsonObject) -> creation.PoolDataV6:
    pool = fields.ipv6_network(fields.text(data, "Pool"), "IPv6Data.Pool")
    gateway = fields.text(data, "Gateway", "") or _first_host(pool, "IPv6Data.Pool")
    return creation.PoolData(
        address_space=fields.text(data, "AddressSpace", ""),
        pool=pool,
        gateway=fields.ipv6_interface(gateway, "IPv6Data.Gateway"),
    )


def _first_host(pool: netstate.IPNetwork, field: str) -> str:
    """The gateway's address where the engine names none, with its prefix length."""
    if pool.max_prefixlen - pool.prefixlen < 2:
        smallest = pool.max_prefixlen - 2
        raise errors.BadRequest(f"{field}: {pool} has no address for a gateway; expected a /{smallest} or larger")
    return f"{pool.network_address + 1}/{pool.prefixlen}"
