"""Which kernel objects a network and an endpoint are.

Pure. `driver.service` hands the results to the reconciler as slices, one owner each.
"""

from __future__ import annotations

from collections.abc import Iterable

from driver import endpoint, names, network
from overlay import firewall, netstate

FORWARDING: netstate.NetState = frozenset({netstate.Sysctl(key="net.ipv4.ip_forward", value="1")})
"""Without it the host routes nothing between bridge, overlay and underlay."""


def network_owner(network_id: names.NetworkId) -> str:
    """The name of a network's slice of the desired state."""
    return f"network:{network_id}"


def endpoint_owner(endpoint_id: names.EndpointId) -> str:
    """The name of an endpoint's slice of the desired state."""
    return f"endpoint:{endpoint_id}"


def network_state(net: network.Network) -> netstate.NetState:
    """The bridge with the gateway's address; its MAC follows the address as a container's does."""
    bridge = netstate.BridgeLink(name=net.bridge, mac=names.mac_of(net.gateway.ip), mtu=net.mtu)
    return frozenset({bridge, netstate.Address(link=net.bridge, interface=net.gateway)})


def endpoint_state(net: network.Network, end: endpoint.Endpoint) -> netstate.NetState:
    """Before Join both ends of the veth pair are ours to keep; after it only the host's end is."""
    name = names.host_end(end.id)
    if end.joined:
        return frozenset({netstate.BridgePort(name=name, bridge=net.bridge, mtu=net.mtu)})
    pair = netstate.VethPair(name=name, peer=names.container_end(end.id), bridge=net.bridge, mtu=net.mtu)
    return frozenset({pair})


def firewall_plan(networks: Iterable[network.Network]) -> firewall.FirewallPlan:
    """What the packet filter must do for all networks of this host."""
    return frozenset(
        firewall.BridgeRules(
            bridge=net.bridge,
            subnet=net.pool,
            overlay=net.overlay,
            device=net.device,
            internal=net.internal,
            masquerade=net.masquerade,
        )
        for net in networks
    )
