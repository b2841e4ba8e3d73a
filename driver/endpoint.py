"""An endpoint as a value, and what its container is told about the way out.

Pure. Source: moby daemon/libnetwork/drivers/remote/driver.go (Join), daemon/libnetwork/default_gateway.go.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

from driver import errors, names, network
from overlay import netstate

NEXTHOP = 0
"""RouteType of a StaticRoute through a next hop. Source: moby daemon/libnetwork/types/types.go."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One container's connection to one network. `joined`: Docker has been told to take the container's end."""

    id: names.EndpointId
    network_id: names.NetworkId
    address: ipaddress.IPv4Interface
    mac: netstate.Mac
    joined: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NativeExit:
    """One NIC: the bridge is the default gateway, the plugin masquerades."""

    gateway: ipaddress.IPv4Address


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DockerExit:
    """Docker adds a NIC on docker_gwbridge, publishes there; only the overlay is routed through the bridge."""

    overlay: ipaddress.IPv4Network
    next_hop: ipaddress.IPv4Address


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NoExit:
    """An internal network: the overlay and nothing else."""

    overlay: ipaddress.IPv4Network
    next_hop: ipaddress.IPv4Address


Exit = NativeExit | DockerExit | NoExit


def choose_exit(net: network.Network, *, publishes: bool) -> Exit:
    """The way out for one endpoint.

    dockerd shows and serves published ports only where it attaches docker_gwbridge itself, which costs a second NIC
    and about 145 ms; so only an endpoint with port mappings pays. Raises BadRequest for a published port where the
    operator forbade docker_gwbridge.
    """
    if net.internal:
        return NoExit(overlay=net.overlay, next_hop=net.gateway.ip)
    if net.gateway_mode is network.GatewayMode.NATIVE and publishes:
        raise errors.BadRequest(
            f"{network.OPTION_GATEWAY}=native publishes no ports; "
            f"use a network with {network.OPTION_GATEWAY}=auto for -p"
        )
    if publishes or net.gateway_mode is network.GatewayMode.DOCKER:
        return DockerExit(overlay=net.overlay, next_hop=net.gateway.ip)
    return NativeExit(gateway=net.gateway.ip)


def format_join(endpoint_id: names.EndpointId, way: Exit) -> dict[str, Any]:
    """Join's answer. The interface's final name is Docker's: eth and the lowest free number."""
    answer: dict[str, Any] = {
        "InterfaceName": {"SrcName": names.container_end(endpoint_id), "DstPrefix": "eth"},
        "StaticRoutes": [],
    }
    match way:
        case NativeExit():
            return answer | {"Gateway": str(way.gateway), "DisableGatewayService": True}
        case DockerExit():
            return answer | {"StaticRoutes": [_route(way.overlay, way.next_hop)]}
        case NoExit():
            return answer | {"StaticRoutes": [_route(way.overlay, way.next_hop)], "DisableGatewayService": True}


def _route(overlay: ipaddress.IPv4Network, next_hop: ipaddress.IPv4Address) -> dict[str, Any]:
    return {"Destination": str(overlay), "RouteType": NEXTHOP, "NextHop": str(next_hop)}
