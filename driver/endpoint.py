"""An endpoint as a value, and what its container is told about the way out.

Pure. Source: moby daemon/libnetwork/drivers/remote/driver.go (Join), daemon/libnetwork/default_gateway.go.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable
from typing import Any

from driver import errors, names, network, routes
from overlay import fields, firewall, netstate

NEXTHOP = 0
"""RouteType of a StaticRoute through a next hop. Source: moby daemon/libnetwork/types/types.go."""

OPTION_IFNAME = "com.docker.network.endpoint.ifname"
"""Asks for an interface's name; what Join may answer has a field for it, which engines do not read (DstName)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One container's connection to one network. `joined`: Docker has been told to take the container's end.

    `mtu` is what the pair was made with, and so what the container's end has, which is out of our reach; 0 where
    that is not known. `other_name` is the host's end where the name made from the id alone was another endpoint's.
    `published` are the host's ports that this plugin redirects to the container. `sandbox` is the engine's name of
    the network namespace that the container's end is in; "" where it is in none, or not known. Units: bytes.
    """

    id: names.EndpointId
    network_id: names.NetworkId
    address: ipaddress.IPv4Interface
    mac: netstate.Mac
    joined: bool = False
    address_v6: ipaddress.IPv6Interface | None = None
    mtu: int = 0
    other_name: netstate.IfName | None = None
    published: tuple[firewall.PublishedPort, ...] = ()
    sandbox: str = ""

    @property
    def host_end(self) -> netstate.IfName:
        """The end of the veth pair that stays on the host."""
        return self.other_name or names.host_end(self.id)

    @property
    def container_end(self) -> netstate.IfName:
        """The end that Docker takes."""
        return names.container_end(self.host_end)

    def is_same(self, other: Endpoint) -> bool:
        """Whether both are the same connection, however far it has got and whatever its ends are called."""
        return self == dataclasses.replace(
            other,
            joined=self.joined,
            mtu=self.mtu,
            other_name=self.other_name,
            published=self.published,
            sandbox=self.sandbox,
        )

    def moved_to(self, other: Endpoint) -> Endpoint:
        """The same endpoint at the other's addresses, its published ports too."""
        own = {ip.version: ip.ip for ip in (other.address, other.address_v6) if ip is not None}
        published = tuple(
            dataclasses.replace(port, address=own.get(port.address.version, port.address)) for port in self.published
        )
        return dataclasses.replace(
            self, address=other.address, mac=other.mac, address_v6=other.address_v6, published=published
        )

    def named_beside(self, others: Iterable[Endpoint]) -> Endpoint:
        """The same endpoint under a name that none of the others has."""
        free = names.host_end(self.id, {other.host_end for other in others})
        return dataclasses.replace(self, other_name=free if free != names.host_end(self.id) else None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NativeExit:
    """One NIC: the bridge is the default gateway, the plugin masquerades.

    Unless another network of the container's is the gateway, which no driver is told: so the flannel network has its
    routes in any case.
    """

    routes: tuple[routes.Route, ...]
    gateway: ipaddress.IPv4Address
    gateway_v6: ipaddress.IPv6Address | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DockerExit:
    """Docker adds a NIC on docker_gwbridge, publishes there; only the overlay is routed through the bridge.

    docker_gwbridge has no IPv6, and an IPv6 gateway of ours would keep newer engines from attaching it at all: so
    the container's IPv6 reaches the flannel network and nothing else.
    """

    routes: tuple[routes.Route, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NoExit:
    """An internal network: the overlay and nothing else."""

    routes: tuple[routes.Route, ...]


Exit = NativeExit | DockerExit | NoExit


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What Docker is told at Join: which link it takes, what it calls it, and the way out."""

    container_end: netstate.IfName
    way: Exit
    iface_prefix: str = network.IFACE_PREFIX


def refuse_options(options: fields.JsonObject) -> None:
    """Raise BadRequest for what a --driver-opt of one connection asks for and cannot have.

    All else is let by: engines put words of their own among them, and newer ones others.
    """
    name = fields.text(options, OPTION_IFNAME, "")
    if name:
        raise errors.BadRequest(
            f"{OPTION_IFNAME}={name[:80]}: engines let no network plugin name an interface; leave it away, or create "
            f"the network with -o {network.OPTION_IFACE_PREFIX}=PREFIX"
        )
    for key in sorted(set(options) & set(network.OPTIONS)):
        raise errors.BadRequest(
            f"{key} is an option of a network and not of one container; use docker network create -o {key}=VALUE"
        )


def require_address(net: network.Network, end: Endpoint) -> None:
    """Raise BadRequest unless the endpoint's addresses are a container's in this network."""
    if not _is_containers(end.address.ip, net.pool, net.gateway.ip):
        raise errors.BadRequest(
            f"Interface.Address: {end.address} is not a container's address in network {net.id[:12]} ({net.pool})"
        )
    if end.address_v6 is None:
        return
    if net.v6 is None:
        raise errors.BadRequest(f"Interface.AddressIPv6: network {net.id[:12]} has no IPv6, got {end.address_v6}")
    if not _is_containers(end.address_v6.ip, net.v6.pool, net.v6.gateway.ip):
        raise errors.BadRequest(
            f"Interface.AddressIPv6: {end.address_v6} is not a container's address in network {net.id[:12]} "
            f"({net.v6.pool})"
        )


def _is_containers(ip: netstate.IPAddress, pool: netstate.IPNetwork, gateway: netstate.IPAddress) -> bool:
    spared = {gateway, pool.network_address} | ({pool.broadcast_address} if pool.version == 4 else set())
    return ip in pool and ip not in spared


def choose_exit(net: network.Network, leases: Iterable[netstate.IPNetwork], *, publishes: bool) -> Exit:
    """The way out for one endpoint. leases: as in `routes.plan`.

    dockerd shows and serves published ports only where it attaches docker_gwbridge itself, which costs a second NIC
    and about 145 ms; so only an endpoint with port mappings pays. Where the operator forbade docker_gwbridge, ports
    are published by us (`driver.publishing`), and Docker cannot show them.
    """
    static = routes.plan(net, leases)
    if net.internal:
        return NoExit(routes=static)
    auto = net.gateway_mode is network.GatewayMode.AUTO
    if (publishes and auto) or net.gateway_mode is network.GatewayMode.DOCKER:
        return DockerExit(routes=static)
    gateway_v6 = net.v6.gateway.ip if net.v6 is not None else None
    return NativeExit(routes=static, gateway=net.gateway.ip, gateway_v6=gateway_v6)


def format_join(joined: Joined) -> dict[str, Any]:
    """Join's answer. The interface's final name is Docker's: the prefix and the lowest free number."""
    answer: dict[str, Any] = {
        "InterfaceName": {"SrcName": joined.container_end, "DstPrefix": joined.iface_prefix},
        "StaticRoutes": [_format_route(route) for route in joined.way.routes],
    }
    match joined.way:
        case NativeExit(gateway=gateway, gateway_v6=gateway_v6):
            ways = {"Gateway": str(gateway)} | ({"GatewayIPv6": str(gateway_v6)} if gateway_v6 else {})
            return answer | ways | {"DisableGatewayService": True}
        case DockerExit():
            return answer
        case NoExit():
            return answer | {"DisableGatewayService": True}


def _format_route(route: routes.Route) -> dict[str, Any]:
    return {"Destination": str(route.target), "RouteType": NEXTHOP, "NextHop": str(route.next_hop)}
