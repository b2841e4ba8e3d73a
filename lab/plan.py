"""Names and addresses of a lab, all derived from its configuration. Pure.

    outside 203.0.113.10 ── router 203.0.113.1 | 198.51.100.1 ── bridge br0
                                                                 ├── etcd1..3   .2 .3 .4
                                                                 ├── registry   .5
                                                                 ├── client     .6   no docker
                                                                 └── h1..hN     .11 ...

Every lab has the same addresses (RFC 5737): they live in namespaces that cannot see each other. Each machine also has
an IPv6 address (RFC 3849) of the same last number: 2001:db8:51::11 beside 198.51.100.11, 2001:db8:113::10 outside.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from typing import Final

from lab import config as cfg

UNDERLAY: Final = ipaddress.IPv4Network("198.51.100.0/24")
OUTSIDE: Final = ipaddress.IPv4Network("203.0.113.0/24")
UNDERLAY_V6: Final = ipaddress.IPv6Network("2001:db8:51::/64")
OUTSIDE_V6: Final = ipaddress.IPv6Network("2001:db8:113::/64")
REGISTRY_PORT: Final = 5000
ETCD_PORT: Final = 2379
ETCD_PEER_PORT: Final = 2380
WEB_PORT: Final = 80
NIC: Final = "ens33"
BRIDGE: Final = "br0"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where one machine sits: its namespace, and its one NIC (`ens33`) on the underlay or outside of it."""

    machine: str
    netns: str
    address: ipaddress.IPv4Interface
    gateway: ipaddress.IPv4Address
    address_v6: ipaddress.IPv6Interface
    gateway_v6: ipaddress.IPv6Address
    mac: str

    @property
    def ip(self) -> str:
        """The address alone, as text."""
        return str(self.address.ip)

    @property
    def ip_v6(self) -> str:
        """The IPv6 address alone, as text."""
        return str(self.address_v6.ip)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All names and addresses of one lab."""

    name: str
    router_netns: str
    mtu: int
    engines: Mapping[str, str]
    hosts: tuple[Seat, ...]
    etcd: tuple[Seat, ...]
    registry: Seat | None
    client: Seat
    outside: Seat

    @property
    def seats(self) -> tuple[Seat, ...]:
        """Every machine but the router."""
        registry = (self.registry,) if self.registry else ()
        return (*self.hosts, *self.etcd, *registry, self.client, self.outside)

    @property
    def on_bridge(self) -> tuple[Seat, ...]:
        """Every machine of the underlay."""
        return tuple(seat for seat in self.seats if seat is not self.outside)

    @property
    def netns(self) -> tuple[str, ...]:
        """Every network namespace of the lab."""
        return (self.router_netns, *(seat.netns for seat in self.seats))

    def cgroup(self, seat: Seat) -> str:
        """Name a machine's cgroup."""
        return f"flannelpy-lab.{self.name}.{seat.machine}"

    @property
    def etcd_endpoints(self) -> tuple[str, ...]:
        """Client URLs of all members."""
        return tuple(f"http://{seat.ip}:{ETCD_PORT}" for seat in self.etcd)

    @property
    def registry_name(self) -> str | None:
        """What stands before the slash in an image's name."""
        return f"{self.registry.ip}:{REGISTRY_PORT}" if self.registry else None


def plan_lab(config: cfg.LabConfig) -> Plan:
    """Derive all names and addresses."""
    hosts = tuple(_seat(config.name, f"h{i + 1}", 11 + i) for i in range(config.hosts))
    return Plan(
        name=config.name,
        router_netns=f"{config.name}-net",
        mtu=config.mtu,
        engines={seat.machine: config.engine_of(i) for i, seat in enumerate(hosts)},
        hosts=hosts,
        etcd=tuple(_seat(config.name, f"etcd{i + 1}", 2 + i) for i in range(config.etcd_members)),
        registry=_seat(config.name, "registry", 5) if config.registry else None,
        client=_seat(config.name, "client", 6),
        outside=_seat(config.name, "outside", 10, OUTSIDE),
    )


def spell_mac(ip: ipaddress.IPv4Address) -> str:
    """A locally administered MAC that spells an address, so that a reboot keeps it."""
    return ":".join(f"{octet:02x}" for octet in (2, 0, *ip.packed))


def _seat(lab: str, machine: str, number: int, network: ipaddress.IPv4Network = UNDERLAY) -> Seat:
    """Place a machine."""
    ip, network_v6 = network[number], UNDERLAY_V6 if network == UNDERLAY else OUTSIDE_V6
    ip_v6 = ipaddress.IPv6Address(f"{network_v6.network_address}{number}")  # 11 looks like 11, not like b
    return Seat(
        machine=machine,
        netns=f"{lab}-{machine}",
        address=ipaddress.IPv4Interface((ip, network.prefixlen)),
        gateway=network[1],
        address_v6=ipaddress.IPv6Interface((ip_v6, network_v6.prefixlen)),
        gateway_v6=network_v6[1],
        mac=spell_mac(ip),
    )
