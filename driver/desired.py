"""Which kernel objects a network and an endpoint are.

Pure. `driver.service` hands the results to the reconciler as slices, one owner each.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable

from driver import endpoint, names, network
from overlay import firewall, guard, netstate

FORWARDING: netstate.NetState = frozenset({netstate.Sysctl(key="net.ipv4.ip_forward", value="1")})
"""Without it the host routes nothing between bridge, overlay and underlay."""

FORWARDING_V6: netstate.NetState = frozenset({netstate.Sysctl(key="net.ipv6.conf.all.forwarding", value="1")})
"""The same for IPv6; only with a network that has IPv6, since it changes how the host takes router advertisements."""

BRIDGE_SYSCTLS_V6 = {
    "disable_ipv6": "0",  # operators and images switch IPv6 off for new links
    "accept_dad": "0",  # or the gateway's address is not usable before a first container has joined, and one second
}
"""What IPv6 on a bridge needs. Source: kernel Documentation/networking/ip-sysctl.rst."""


OWNERS = ("network:", "endpoint:")
"""How the names of the driver's slices begin."""


def network_owner(network_id: names.NetworkId) -> str:
    """The name of a network's slice of the desired state."""
    return f"network:{network_id}"


def endpoint_owner(endpoint_id: names.EndpointId) -> str:
    """The name of an endpoint's slice of the desired state."""
    return f"endpoint:{endpoint_id}"


def forwarding(networks: Iterable[network.Network]) -> netstate.NetState:
    """What lets the host route for these networks."""
    return FORWARDING | FORWARDING_V6 if any(net.v6 is not None for net in networks) else FORWARDING


def loopback_owner(network_id: names.NetworkId) -> str:
    """The name of the slice that opens a network's bridge to the host's loopback."""
    return f"loopback:{network_id}"


def loopback(net: network.Network, *, on: bool) -> netstate.NetState:
    """Whether packets between the bridge and 127.0.0.1 are routed.

    The rules that keep containers off the host's loopback (`overlay.firewall_ports`) must stand while it is on.
    Source: kernel Documentation/networking/ip-sysctl.rst, route_localnet.
    """
    key = f"net.ipv4.conf.{net.bridge.replace('.', '/')}.route_localnet"
    return frozenset({netstate.Sysctl(key=key, value="1" if on else "0")})


def network_state(net: network.Network) -> netstate.NetState:
    """The bridge with the gateway's addresses; its MAC follows the address as a container's does.

    A container is no router of the host's, whatever families its network has: the host would take its advertisements.
    """
    bridge = netstate.BridgeLink(name=net.bridge, mac=names.mac_of(net.gateway.ip), mtu=net.mtu)
    conf = f"net.ipv6.conf.{net.bridge.replace('.', '/')}"
    accept_ra = netstate.Sysctl(key=f"{conf}.accept_ra", value="0", optional=True)
    v4: netstate.NetState = frozenset({bridge, accept_ra, netstate.Address(link=net.bridge, interface=net.gateway)})
    if net.v6 is None:
        return v4
    parameters = (netstate.Sysctl(key=f"{conf}.{name}", value=value) for name, value in BRIDGE_SYSCTLS_V6.items())
    return v4.union(parameters, [netstate.Address(link=net.bridge, interface=net.v6.gateway)])


def endpoint_state(net: network.Network, end: endpoint.Endpoint) -> netstate.NetState:
    """Before Join both ends of the veth pair are ours to keep; after it only the host's end is.

    The host's end never has less than the container's: a veth drops what is larger than the other end's MTU, and path
    MTU discovery hears nothing. Where the overlay has room for less, the kernel says so when it routes.
    """
    name, mtu = end.host_end, max(net.mtu, end.mtu)
    if end.joined:
        hairpin = bool(end.published)  # bridges that are filtered redirect to a port that the packet may have come by
        port = netstate.BridgePort(name=name, bridge=net.bridge, mtu=mtu, hairpin=hairpin, isolated=not net.icc)
        return frozenset({port})
    pair = netstate.VethPair(name=name, peer=end.container_end, bridge=net.bridge, mtu=mtu, isolated=not net.icc)
    return frozenset({pair})


def firewall_plan(
    networks: Iterable[network.Network], endpoints: Iterable[endpoint.Endpoint] = ()
) -> firewall.FirewallPlan:
    """What the packet filter must do for all networks and endpoints of this host."""
    published: dict[names.NetworkId, list[firewall.PublishedPort]] = {}
    for end in endpoints:
        if end.published:
            published.setdefault(end.network_id, []).extend(end.published)
    return frozenset(
        firewall.BridgeRules(
            bridge=net.bridge,
            subnet=net.pool,
            overlay=net.overlay,
            device=net.device,
            direct=net.direct,
            internal=net.internal,
            masquerade=net.masquerade,
            icc=net.icc,
            outside=net.outside,
            prefix=net.prefix,
            published=frozenset(published.get(net.id, ())),
            v6=_firewall_rules_v6(net.v6, direct=net.direct) if net.v6 is not None else None,
        )
        for net in networks
    )


def guard_plan(networks: Iterable[network.Network], endpoints: Iterable[endpoint.Endpoint]) -> guard.GuardPlan:
    """What the containers of this host may send.

    One that is on several networks answers from the address that it was asked at, through whichever network its
    default route leads to: so each of its ports may have all of its addresses.
    """
    endpoints = list(endpoints)
    of_container = collections.defaultdict(list)
    for end in endpoints:
        of_container[end.sandbox or end.id].append(end)
    by_id = {net.id: net for net in networks}
    bridges = (guard.GuardedBridge(name=net.bridge, mac=names.mac_of(net.gateway.ip)) for net in by_id.values())
    ports = (
        guard.GuardedPort(
            name=end.host_end,
            mac=end.mac,
            addresses=tuple(ip for one in of_container[end.sandbox or end.id] for ip in _addresses(one)),
            free=by_id[end.network_id].spoofing,
        )
        for end in endpoints
        if end.network_id in by_id
    )
    return frozenset((*bridges, *ports))


def _addresses(end: endpoint.Endpoint) -> tuple[netstate.IPAddress, ...]:
    return (end.address.ip,) if end.address_v6 is None else (end.address.ip, end.address_v6.ip)


def _firewall_rules_v6(v6: network.NetworkV6, *, direct: bool) -> firewall.BridgeRulesV6:
    return firewall.BridgeRulesV6(subnet=v6.pool, overlay=v6.overlay, device=v6.device, direct=direct)
