"""What the host's packet filter must let through, rewrite and keep apart, as values.

Pure. `driver.desired` makes a FirewallPlan, `reconciler` hands it to the firewall port (`firewall_port`). Two places,
since a verdict "accept" in one table never overrides a drop in another: masquerade, published ports and isolation are
an nft table of our own (`firewall_table`, `firewall_ports`); permission to forward is a chain of our own in the
iptables flavour(s) where the engine put its DROP (`firewall_chain`). So the table only drops and the chain only
accepts: what the chain lets through too broadly, the table still keeps apart. All of it once for each IP family;
`domains` shows a plan as one family sees it.
Source: nft(8), iptables(8), moby daemon/libnetwork/iptables, flannel pkg/trafficmngr/iptables/iptables.go.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
from collections.abc import Iterable

from overlay import netstate


class Protocol(enum.StrEnum):
    """What ports can be published of."""

    TCP = "tcp"
    UDP = "udp"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    """A port of this host that stands for one of a container.

    Shape: `host_ip` and `address` are of one family; an unspecified `host_ip` (0.0.0.0, ::) is every address that the
    host has of it.
    """

    protocol: Protocol
    host_ip: netstate.IPAddress
    host_port: int
    address: netstate.IPAddress
    port: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BridgeRulesV6:
    """The IPv6 half of a bridge's rules: `subnet`, `overlay`, `device`, `direct` as in BridgeRules."""

    subnet: ipaddress.IPv6Network
    overlay: ipaddress.IPv6Network
    device: netstate.IfName
    direct: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BridgeRules:
    """One Docker network's bridge: what may pass between it, the other links of its flannel network, and the rest.

    `overlay` is the whole flannel network (10.2.0.0/16), `subnet` the bridge's part of it, `device` its VTEP device,
    "" where it has none. `device` carries nothing but its flannel network: never the underlay's interface, which the
    host and all flannel networks share. `direct`: packets of the flannel network cross the underlay as they are
    (host-gw, DirectRouting) and are known by their addresses alone; where there is no device it goes without saying.
    `internal`: nothing passes between the bridge and anything outside its flannel network.
    """

    bridge: netstate.IfName
    subnet: ipaddress.IPv4Network
    overlay: ipaddress.IPv4Network
    device: netstate.IfName
    internal: bool = False
    masquerade: bool = True
    prefix: str = ""
    """The flannel network's registry prefix: bridges with one prefix are one trust domain, and two domains never
    reach each other. Where it is "", the device takes its place."""
    direct: bool = False
    v6: BridgeRulesV6 | None = None
    published: frozenset[PublishedPort] = frozenset()
    """Of containers of this bridge, in both families; an internal bridge publishes none."""
    icc: bool = True
    """Whether its containers reach others of the flannel network; its own ports are isolated (netstate) if not."""
    outside: bool = False
    """Whether its containers are reached by whoever is routed here, past published ports; an internal bridge's are
    not."""


FirewallPlan = frozenset[BridgeRules]


TABLE = "flannelpy"
"""The nft table of family ip, and the one of family ip6, that are ours alone."""

CHAIN = "FLANNELPY-FORWARD"
"""The chain in the filter table of iptables, and in that of ip6tables, that is ours alone."""


GATEWAY_BRIDGE = "docker_gwbridge"
"""Docker's own, to which it connects containers that have no other way out, or publish ports there."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """An IP version, and what the tools call it.

    A table for each, not one of family inet: that takes NAT only since Linux 5.2, and engines run on older ones; and
    where no bridge has IPv6, nothing of IPv6 is written. Both have the same text but for addresses.
    """

    version: int
    table: str
    iptables: str
    multicast: netstate.IPNetwork
    own: tuple[netstate.IPNetwork, ...] = ()
    """Addresses of neighbours on one link, which never are rewritten: neighbour discovery must not be harmed."""


IPV4 = Family(version=4, table="ip", iptables="iptables", multicast=ipaddress.IPv4Network("224.0.0.0/4"))
IPV6 = Family(
    version=6,
    table="ip6",
    iptables="ip6tables",
    multicast=ipaddress.IPv6Network("ff00::/8"),
    own=(ipaddress.IPv6Network("fe80::/10"),),
)
FAMILIES = (IPV4, IPV6)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """A bridge in one family."""

    bridge: netstate.IfName
    subnet: netstate.IPNetwork
    overlay: netstate.IPNetwork
    device: netstate.IfName
    direct: bool
    internal: bool
    masquerade: bool
    published: tuple[PublishedPort, ...] = ()
    outside: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One flannel network on this host in one family.

    `links` are its bridges and devices of both families, since what keeps two domains apart by name holds for
    whatever runs through a link; `internal` those of its bridges that are internal, `closed` those without icc;
    `halves` its bridges that have this family.
    """

    links: tuple[netstate.IfName, ...]
    internal: tuple[netstate.IfName, ...]
    halves: tuple[Half, ...]
    closed: tuple[netstate.IfName, ...] = ()

    @property
    def devices(self) -> tuple[netstate.IfName, ...]:
        """The devices of this family that carry the flannel network and nothing else."""
        return tuple(sorted({half.device for half in self.halves if half.device}))

    @property
    def overlays(self) -> tuple[netstate.IPNetwork, ...]:
        """More than one only while the network's config changes."""
        return collapse(half.overlay for half in self.halves)

    @property
    def direct_overlays(self) -> tuple[netstate.IPNetwork, ...]:
        """The overlays whose packets are met on the underlay too, known by their addresses alone."""
        return collapse(half.overlay for half in self.halves if half.direct)

    @property
    def outside(self) -> tuple[netstate.IfName, ...]:
        """Those of its bridges whose containers are reached by whoever is routed here."""
        return tuple(half.bridge for half in self.halves if half.outside)


def domains(plan: FirewallPlan, family: Family) -> list[Domain]:
    """The plan by flannel network, in an order that does not depend on the set's; none if no bridge has `family`."""
    found: dict[str, list[BridgeRules]] = {}
    for rules in sorted(plan, key=lambda rules: (_domain_key(rules), rules.bridge)):
        found.setdefault(_domain_key(rules), []).append(rules)
    shown = [_domain(bridges, family) for bridges in found.values()]
    return shown if any(domain.halves for domain in shown) else []


def collapse(networks: Iterable[netstate.IPNetwork]) -> tuple[netstate.IPNetwork, ...]:
    """Networks of one family without overlap, which nft would refuse in a set."""
    every = set(networks)
    v4 = ipaddress.collapse_addresses(one for one in every if isinstance(one, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(one for one in every if isinstance(one, ipaddress.IPv6Network))
    return (*v4, *v6)


def _domain_key(rules: BridgeRules) -> str:
    return rules.prefix or rules.device


def _domain(bridges: list[BridgeRules], family: Family) -> Domain:
    devices = {rules.device for rules in bridges} | {rules.v6.device for rules in bridges if rules.v6}
    return Domain(
        links=(*sorted(devices - {""}), *(rules.bridge for rules in bridges)),
        internal=tuple(rules.bridge for rules in bridges if rules.internal),
        halves=tuple(half for rules in bridges if (half := _half(rules, family))),
        closed=tuple(rules.bridge for rules in bridges if not rules.icc),
    )


def _half(rules: BridgeRules, family: Family) -> Half | None:
    part = rules if family is IPV4 else rules.v6
    if part is None:
        return None
    return Half(
        bridge=rules.bridge,
        subnet=part.subnet,
        overlay=part.overlay,
        device=part.device,
        direct=part.direct or not part.device,
        internal=rules.internal,
        masquerade=rules.masquerade,
        published=() if rules.internal else _published(rules, family),
        outside=rules.outside and not rules.internal,
    )


def _published(rules: BridgeRules, family: Family) -> tuple[PublishedPort, ...]:
    found = (port for port in rules.published if port.address.version == family.version)
    return tuple(sorted(found, key=lambda port: (port.host_ip.packed, port.protocol, port.host_port)))
