"""Whether hosts have exactly what Docker knows: every difference as a line. Pure.

Called by `random_run` with what `random_look` saw. Docker's word is that of its networks, which tell all endpoints
that libnetwork has, also those whose container never came up.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from lab import random_look

_REDIRECTION: Final = re.compile(r"\b(tcp|udp) \. (\d+) : (\S+) \. (\d+)\b")
"""An element of our maps as nft lists it."""


class Sort(enum.StrEnum):
    """What a difference is."""

    LEAKED = "leaked"
    """Ours, and not Docker's."""
    MISSING = "missing"
    """Docker's, and not ours."""
    DOUBLED = "doubled"
    """One address twice."""
    DOCKER = "docker"
    """Docker does not agree with itself."""
    AUDIT = "audit"
    """What the plugin's own audit finds different, and we do not."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not as it must be."""

    sort: Sort
    text: str

    def __str__(self) -> str:
        return f"{self.sort}: {self.text}"


def differences(seen: random_look.Seen) -> list[Difference]:
    """Everything on one host."""
    return [
        *_of_addresses(seen),
        *_of_networks(seen),
        *_of_endpoints(seen),
        *_of_links(seen),
        *_of_rules(seen),
        *_of_ports(seen),
        *_of_redirections(seen),
    ]


def doubled(hosts: Iterable[random_look.Seen]) -> list[Difference]:
    """Addresses that two endpoints have, on one host or on two; gateways count."""
    holders: dict[str, list[str]] = collections.defaultdict(list)
    for seen in hosts:
        for net, gateways in seen.networks.items():
            for address in gateways:
                holders[address].append(f"{seen.name} gateway of {net[:12]}")
        for end in seen.endpoints:
            for address in end.addresses:
                holders[address].append(f"{seen.name} endpoint {end.id[:12]}")
    return [
        Difference(sort=Sort.DOUBLED, text=f"{address}: {', '.join(held)}")
        for address, held in sorted(holders.items())
        if len(held) > 1
    ]


def _of_addresses(seen: random_look.Seen) -> Iterator[Difference]:
    known = {address for end in seen.endpoints for address in end.addresses}
    known |= {address for gateways in seen.networks.values() for address in gateways}
    known |= set(_gateways(seen))
    yield from _compare(f"{seen.name}: address in use", set(seen.rows), known)
    yield from _compare(f"{seen.name}: pool", set(seen.pools), set(seen.docker_pools))


def _gateways(seen: random_look.Seen) -> Iterator[str]:
    """The first gateway of each pool: engines tell none for a subnet of the user's own without one."""
    for pool in map(ipaddress.ip_network, seen.docker_pools):
        held = [ip for ip, kind in seen.rows.items() if kind == "gateway" and ipaddress.ip_address(ip) in pool]
        yield from sorted(held)[:1]


def _of_networks(seen: random_look.Seen) -> Iterator[Difference]:
    yield from _compare(f"{seen.name}: network in memory", set(seen.told_networks), set(seen.networks))
    yield from _compare(f"{seen.name}: network in the file", set(seen.filed_networks), set(seen.networks))


def _of_endpoints(seen: random_look.Seen) -> Iterator[Difference]:
    known = {f"{end.id[:12]} {' '.join(end.addresses)}" for end in seen.endpoints}
    told = {f"{end_id[:12]} {' '.join(addresses)}" for end_id, addresses in seen.told_endpoints}
    yield from _compare(f"{seen.name}: endpoint in memory", told, known)
    ids = {end.id[:12] for end in seen.endpoints}
    yield from _compare(f"{seen.name}: endpoint in the file", {end_id[:12] for end_id in seen.filed_endpoints}, ids)
    for container, has in seen.running.items():
        for end_id in sorted(has - {end.id for end in seen.endpoints}):
            yield Difference(
                sort=Sort.DOCKER, text=f"{seen.name}: container {container} has {end_id[:12]}, no network has it"
            )


def _of_links(seen: random_look.Seen) -> Iterator[Difference]:
    bridges = {f"fp-{net[:12]}" for net in seen.networks}
    ports = {f"fph{end.id[:12]}": f"fp-{end.network_id[:12]}" for end in seen.endpoints}
    joined = {f"fph{end.id[:12]}" for end in seen.endpoints if end.container}
    there = {name for name in seen.links if not name.startswith(("flannel.", "flannel-v6."))}
    for name in sorted(there - bridges - set(ports)):
        yield Difference(sort=Sort.LEAKED, text=f"{seen.name}: link {name}")
    for name in sorted((bridges | joined) - there):
        yield Difference(sort=Sort.MISSING, text=f"{seen.name}: link {name}")
    for name in sorted(there & set(ports)):
        if seen.links[name] != ports[name]:
            yield Difference(
                sort=Sort.MISSING, text=f"{seen.name}: {name} is in bridge {seen.links[name]!r}, not {ports[name]}"
            )


def _of_rules(seen: random_look.Seen) -> Iterator[Difference]:
    """Rules name bridges, ports and addresses: none may be of what is gone, and each bridge has some."""
    known = {f"fp-{net[:12]}" for net in seen.networks}
    known |= {f"fph{end.id[:12]}" for end in seen.endpoints}
    named = set(re.findall(r"\bfp(?:-|h)[0-9a-f]{12}\b", seen.rules))
    for name in sorted(named - known):
        yield Difference(sort=Sort.LEAKED, text=f"{seen.name}: a rule for {name}")
    for net in sorted(seen.networks):
        if f"fp-{net[:12]}" not in named:
            yield Difference(sort=Sort.MISSING, text=f"{seen.name}: rules for fp-{net[:12]}")


def _of_ports(seen: random_look.Seen) -> Iterator[Difference]:
    """A container's ports are published in each family that it has, while it runs; those of others are leaked."""
    versions = {end.id: [ipaddress.ip_address(one).version for one in end.addresses] for end in seen.endpoints}
    for end_id in sorted(seen.asked.keys() | seen.told_ports.keys()):
        asked = seen.asked.get(end_id, random_look.Asked(ports=frozenset(), certain=False))
        told = {_as_asked(line, asked.ports) for line in seen.told_ports.get(end_id, ())}
        wanted = {f"v{version} {port}" for version in versions.get(end_id, ()) for port in asked.ports}
        yield from _compare(f"{seen.name}: port of {end_id[:12]}", told, wanted if asked.certain else wanted & told)


def _as_asked(line: str, asked: AbstractSet[str]) -> str:
    """`0.0.0.0:8081->80/tcp` as `v4 8081->80/tcp`, or without the host's number where none was asked for."""
    version, number, port = _parse_published(line)
    return f"v{version} " + (f"->{port}" if f"->{port}" in asked else f"{number}->{port}")


def _parse_published(line: str) -> tuple[int, str, str]:
    """`[::]:8081->80/tcp` as (6, `8081`, `80/tcp`)."""
    host, _, port = line.partition("->")
    ip, _, number = host.rpartition(":")
    return ipaddress.ip_address(ip.strip("[]")).version, number, port


def _of_redirections(seen: random_look.Seen) -> Iterator[Difference]:
    """The packet filter redirects what is told to be published, to the endpoint's address, and nothing else."""
    told = set()
    for end in seen.endpoints:
        for line in seen.told_ports.get(end.id, ()):
            version, host_port, port = _parse_published(line)
            number, protocol = port.split("/")
            told |= {
                f"{protocol} {host_port} to {address} {number}"
                for address in end.addresses
                if ipaddress.ip_address(address).version == version
            }
    tables = [table for table in re.split(r"(?m)^table ", seen.rules) if re.match(r"ip6? flannelpy ", table)]
    redirected = {
        f"{protocol} {host_port} to {address} {port}"
        for table in tables
        for protocol, host_port, address, port in _REDIRECTION.findall(table)
    }
    yield from _compare(f"{seen.name}: redirection", redirected, told)


def _compare(what: str, ours: set[str], dockers: set[str]) -> Iterator[Difference]:
    for one in sorted(ours - dockers):
        yield Difference(sort=Sort.LEAKED, text=f"{what}: {one}")
    for one in sorted(dockers - ours):
        yield Difference(sort=Sort.MISSING, text=f"{what}: {one}")


def count(found: Sequence[Difference]) -> dict[Sort, int]:
    """How many of each sort."""
    counted = collections.Counter(one.sort for one in found)
    return {sort: counted[sort] for sort in Sort}
