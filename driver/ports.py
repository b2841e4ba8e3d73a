"""What the engine asks to publish, and which ports of the host it may become.

Pure. `driver.endpoints` parses what ProgramExternalConnectivity carries, `driver.publishing` chooses.
Source: moby daemon/libnetwork/types/types.go (PortBinding), libnetwork.md §2.1.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import json
from collections.abc import Collection, Iterable, Mapping

from driver import endpoint, errors, network
from overlay import fields, firewall, netstate

PROTOCOLS: Mapping[int, firewall.Protocol] = {6: firewall.Protocol.TCP, 17: firewall.Protocol.UDP}
"""By IP protocol number."""

SCTP = 132
MAX_PORT = 65535
LISTED = 20
ANYWHERE: Mapping[int, netstate.IPAddress] = {4: ipaddress.IPv4Address(0), 6: ipaddress.IPv6Address(0)}
"""All addresses of the host, by family."""
LOOPBACK_V6 = ipaddress.IPv6Address(1)


Target = tuple[firewall.Protocol, int]
"""A port of a container."""

Ends = tuple[tuple[netstate.IPAddress, netstate.IPAddress], ...]
"""For each family the address of the host and that of the container."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One wish: `port` of the container at one port of the host between `first` and `last`; both 0 for any free one.

    `host_ip` None is all addresses of both families.
    """

    protocol: firewall.Protocol
    port: int
    host_ip: netstate.IPAddress | None = None
    first: int = 0
    last: int = 0

    @property
    def choice(self) -> int:
        """How many ports of the host would do."""
        return self.last - self.first + 1 if self.first else MAX_PORT

    def allows(self, host_port: int) -> bool:
        """Whether this port of the host would do."""
        return not self.first or self.first <= host_port <= self.last


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostPort:
    """A port of this host; an unspecified `ip` is all its addresses of that family."""

    protocol: firewall.Protocol
    ip: netstate.IPAddress
    number: int


def parse_bindings(bindings: Iterable[fields.JsonObject]) -> tuple[Binding, ...]:
    """The engine's port map. Raises FieldError, and BadRequest for what cannot be published."""
    return tuple(_parse_binding(one) for one in bindings)


def over_ipv4(bindings: Iterable[Binding]) -> tuple[Binding, ...]:
    """Those that mean an IPv4 address of the host, or any of its addresses."""
    return tuple(one for one in bindings if one.host_ip is None or one.host_ip.version == 4)


def is_publisher(net: network.Network) -> bool:
    """Whether ports of this network's containers are published here, and not by Docker or not at all."""
    return net.gateway_mode is network.GatewayMode.NATIVE and not net.internal


def addresses(binding: Binding, end: endpoint.Endpoint) -> Ends:
    """The addresses in each family that it is published in. Raises BadRequest if in none."""
    own: dict[int, netstate.IPAddress] = {4: end.address.ip}
    if end.address_v6 is not None:
        own[6] = end.address_v6.ip
    if binding.host_ip is None:
        return tuple((ANYWHERE[version], address) for version, address in own.items())
    if binding.host_ip.version not in own:
        raise errors.BadRequest(
            f"HostIP: {binding.host_ip} cannot stand for port {binding.port}/{binding.protocol}: endpoint "
            f"{end.id[:12]} has no IPv6 address; use a network with --ipv6"
        )
    return ((binding.host_ip, own[binding.host_ip.version]),)


def by_target(published: Iterable[firewall.PublishedPort]) -> dict[Target, set[firewall.PublishedPort]]:
    """Ports by what they lead to."""
    found: dict[Target, set[firewall.PublishedPort]] = {}
    for one in published:
        found.setdefault((one.protocol, one.port), set()).add(one)
    return found


def kept(
    binding: Binding, end: endpoint.Endpoint, published: Collection[firewall.PublishedPort]
) -> tuple[firewall.PublishedPort, ...]:
    """Those of an endpoint's ports that serve this binding already, () if not in all families.

    So that a repeated call changes nothing, an ephemeral port least of all. `published`: those that lead to the
    binding's port are enough.
    """
    wanted = addresses(binding, end)
    for number in sorted({one.host_port for one in published if binding.allows(one.host_port)}):
        ports = publish(binding, wanted, number)
        if set(ports) <= set(published):
            return ports
    return ()


def publish(binding: Binding, wanted: Ends, number: int) -> tuple[firewall.PublishedPort, ...]:
    """The binding at one port of the host, in each family."""
    return tuple(
        firewall.PublishedPort(
            protocol=binding.protocol, host_ip=host_ip, host_port=number, address=address, port=binding.port
        )
        for host_ip, address in wanted
    )


def host_port(port: firewall.PublishedPort) -> HostPort:
    """The host's side of a published port."""
    return HostPort(protocol=port.protocol, ip=port.host_ip, number=port.host_port)


def of_endpoint(
    published: Iterable[firewall.PublishedPort], end: endpoint.Endpoint
) -> tuple[firewall.PublishedPort, ...]:
    """Those that lead to an endpoint, in the order of the host's ports."""
    own = {address.ip for address in (end.address, end.address_v6) if address is not None}
    found = (port for port in published if port.address in own)
    return tuple(sorted(found, key=lambda port: (port.host_port, port.protocol, port.host_ip.packed)))


def needs_loopback(published: Iterable[firewall.PublishedPort]) -> bool:
    """Whether any of these is to be reached through 127.0.0.1."""
    return any(
        one.host_ip.version == 4 and (one.host_ip.is_unspecified or one.host_ip.is_loopback) for one in published
    )


def encode_published(published: Iterable[firewall.PublishedPort]) -> str:
    """As the state file has them."""
    return json.dumps(
        [[one.protocol, str(one.host_ip), one.host_port, str(one.address), one.port] for one in published]
    )


def decode_published(text: str) -> tuple[firewall.PublishedPort, ...]:
    """What `encode_published` wrote."""
    return tuple(
        firewall.PublishedPort(
            protocol=firewall.Protocol(protocol),
            host_ip=ipaddress.ip_address(host_ip),
            host_port=number,
            address=ipaddress.ip_address(address),
            port=port,
        )
        for protocol, host_ip, number, address, port in json.loads(text)
    )


def format_published(port: firewall.PublishedPort) -> str:
    """As `docker ps` shows it: `0.0.0.0:8080->80/tcp`."""
    return f"{format_host(port.host_ip)}:{port.host_port}->{port.port}/{port.protocol}"


def format_all(published: Collection[firewall.PublishedPort]) -> str:
    """For a line of the log: those of a range of thousands are not all in it."""
    listed = ",".join(format_published(port) for port in itertools.islice(published, LISTED))
    return f"{listed},… ({len(published)} ports)" if len(published) > LISTED else listed or "none"


def format_host(ip: netstate.IPAddress) -> str:
    """An address before a colon."""
    return f"[{ip}]" if ip.version == 6 else str(ip)


def explain_taken(binding: Binding, host_ip: netstate.IPAddress) -> str:
    """Docker's own words. Source: moby daemon/libnetwork/portallocator."""
    asked = f"{binding.first}-{binding.last}" if binding.first < binding.last else f"{binding.first}"
    return f"Bind for {format_host(host_ip)}:{asked} failed: port is already allocated"


def _parse_binding(raw: fields.JsonObject) -> Binding:
    port = fields.number(raw, "Port", least=1, most=MAX_PORT)
    number = fields.number(raw, "Proto", least=0, most=255)
    protocol = PROTOCOLS.get(number)
    if protocol is None:
        name = "sctp" if number == SCTP else f"protocol {number}"
        raise errors.BadRequest(
            f"port {port}/{name} cannot be published: {network.OPTION_GATEWAY}=native publishes tcp and udp; "
            f"use a network with {network.OPTION_GATEWAY}=auto, where Docker publishes"
        )
    first = fields.number(raw, "HostPort", least=0, most=MAX_PORT, default=0)
    last = fields.number(raw, "HostPortEnd", least=0, most=MAX_PORT, default=0) or first
    if last < first or (last and not first):
        raise errors.BadRequest(f"HostPortEnd: expected a port from HostPort {first} up, got {last}")
    host_ip = fields.text(raw, "HostIP", "")
    return Binding(
        protocol=protocol, port=port, host_ip=_host_ip(host_ip) if host_ip else None, first=first, last=last
    )


def _host_ip(text: str) -> netstate.IPAddress:
    ip = fields.address(text[:80], "HostIP")
    if isinstance(ip, ipaddress.IPv6Address) and (ip.scope_id is not None or ip.ipv4_mapped is not None):
        what = "mapped one" if ip.ipv4_mapped is not None else "one of a single link"
        raise errors.BadRequest(f"HostIP: expected an address that is no {what}, got {text[:80]!r}")
    return ip
