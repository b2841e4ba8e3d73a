"""What Docker, the driver's rows and the driver's memory say of networks and endpoints, compared.

Pure. Caller: `plugin.audit`, which hands in what it has just read. What is mended is `driver.audit`'s.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from driver import endpoint, engine, errors, names, network, ports
from overlay import difference, netstate

Kind = difference.Kind


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What one side knows: the state file, or this process."""

    networks: tuple[network.Network, ...] = ()
    endpoints: tuple[endpoint.Endpoint, ...] = ()


def with_docker(known: Known, seen: Iterable[engine.EngineNetwork]) -> Iterator[difference.Difference]:
    """The rows against what Docker told. Docker's word counts."""
    seen = list(seen)
    yield from _networks(known, seen)
    yield from _endpoints(known, seen)
    yield from _doubled(known, seen)


def with_memory(file: Known, memory: Known) -> Iterator[difference.Difference]:
    """The rows against what this process goes by. The file's word counts."""
    for what, rows, objects in (
        ("network", _by_id(file.networks), _by_id(memory.networks)),
        ("endpoint", _by_id(file.endpoints), _by_id(memory.endpoints)),
    ):
        for one in sorted(rows.keys() | objects.keys()):
            if rows.get(one) != objects.get(one):
                yield difference.Difference(
                    kind=Kind.ROW_CHANGED,
                    thing=f"{what} {one[:12]}",
                    says=difference.Says(state=_text(rows.get(one)), memory=_text(objects.get(one))),
                    repair="as Docker has it; forgotten where Docker does not know it",
                )


def with_reservations(file: Known, reserved: AbstractSet[ports.HostPort]) -> Iterator[difference.Difference]:
    """The rows against the ports of the host that are reserved."""
    for port in sorted(missing_ports(file, reserved), key=str):
        yield difference.Difference(
            kind=Kind.PUBLISHED_MISSING,
            thing=_port_name(port),
            says=difference.Says(state="published", kernel="not reserved"),
            repair="reserve it, unless somebody else listens there",
        )
    for port in sorted(stale_ports(file, reserved), key=str):
        yield difference.Difference(
            kind=Kind.PUBLISHED_STALE,
            thing=_port_name(port),
            says=difference.Says(state=difference.ABSENT, kernel="reserved"),
            repair="give it back",
        )


def missing_ports(file: Known, reserved: AbstractSet[ports.HostPort]) -> frozenset[ports.HostPort]:
    """What the rows publish and nobody reserved."""
    return _published(file) - reserved


def stale_ports(file: Known, reserved: AbstractSet[ports.HostPort]) -> frozenset[ports.HostPort]:
    """What is reserved for no row."""
    return frozenset(reserved) - _published(file)


def _published(known: Known) -> frozenset[ports.HostPort]:
    return frozenset(ports.host_port(port) for end in known.endpoints for port in end.published)


def _port_name(port: ports.HostPort) -> str:
    return f"{ports.format_host(port.ip)}:{port.number}/{port.protocol}"


def _networks(known: Known, seen: Collection[engine.EngineNetwork]) -> Iterator[difference.Difference]:
    rows = {net.id: net for net in known.networks}
    there = {net.id: net for net in seen}
    for net in known.networks:
        told = there.get(net.id)
        if told is None:
            yield difference.Difference(
                kind=Kind.NETWORK_STALE,
                thing=net.id[:12],
                says=difference.Says(docker=difference.ABSENT, state=net.pools),
                repair="forget it with its endpoints, once it is old enough: Docker does not know it",
            )
        elif told.ours and (change := _network_change(net, told)) is not None:
            yield change
    for told in seen:
        if told.ours and told.id not in rows and told.pools:
            yield difference.Difference(
                kind=Kind.NETWORK_MISSING,
                thing=told.id[:12],
                says=difference.Says(docker=f"{told.name} {_pools(told)}", state=difference.ABSENT),
                repair="adopt it from Docker",
            )


def _network_change(net: network.Network, told: engine.EngineNetwork) -> difference.Difference | None:
    """What of a network's properties the file has otherwise. None of these can change in a network's life.

    Of a pool of the user's own without a gateway Docker tells none, though it has one.
    """
    silent = [pool.cidr for pool in told.pools if pool.gateway is None]
    gateways = (net.gateway.ip, *((net.v6.gateway.ip,) if net.v6 else ()))
    ours = {
        "pools": {str(pool) for pool in (net.pool, net.v6.pool if net.v6 else None) if pool},
        "gateways": {str(ip) for ip in gateways if not any(ip in cidr for cidr in silent)},
        "internal": net.internal,
    }
    theirs: dict[str, object] = {
        "pools": {str(pool.cidr) for pool in told.pools},
        "gateways": {str(pool.gateway) for pool in told.pools if pool.gateway is not None},
        "internal": told.internal,
    }
    with contextlib.suppress(errors.BadRequest):
        options = network.parse_options(told.options)
        ours |= {"mtu": net.chosen_mtu, "masquerade": net.masquerade, "gateway": net.gateway_mode.value}
        theirs |= {"mtu": options.mtu, "masquerade": options.masquerade, "gateway": options.gateway_mode.value}
    other = [name for name in ours if ours[name] != theirs[name]]
    if not other:
        return None
    says = difference.Says(docker=_words(theirs, other), state=_words(ours, other))
    return difference.Difference(
        kind=Kind.NETWORK_CHANGED, thing=net.id[:12], says=says, repair="take over what Docker says"
    )


def _endpoints(known: Known, seen: Collection[engine.EngineNetwork]) -> Iterator[difference.Difference]:
    rows = {end.id: end for end in known.endpoints}
    asked = {net.id for net in seen if net.ours}
    theirs = {end.id: (net.id, end) for net in seen if net.ours for end in net.endpoints}
    for end in known.endpoints:
        if end.network_id in asked and end.id not in theirs:
            yield difference.Difference(
                kind=Kind.ENDPOINT_STALE,
                thing=end.id[:12],
                says=difference.Says(docker=difference.ABSENT, state=_text(end)),
                repair="forget it, once it is old enough: Docker does not know it",
                mark=end.id,
            )
    for endpoint_id, (network_id, told) in theirs.items():
        row = rows.get(endpoint_id)
        says = difference.Says(docker=_engine_text(network_id, told), state=_text(row))
        if row is None:
            yield difference.Difference(
                kind=Kind.ENDPOINT_MISSING,
                thing=endpoint_id[:12],
                says=says,
                repair="adopt it from Docker",
                mark=endpoint_id,
            )
        elif not _agree(network_id, told, row):
            yield difference.Difference(
                kind=Kind.ENDPOINT_CHANGED,
                thing=endpoint_id[:12],
                says=says,
                repair="take over what Docker says",
                mark=endpoint_id,
            )


def _agree(network_id: names.NetworkId, told: engine.EngineEndpoint, row: endpoint.Endpoint) -> bool:
    """What Docker leaves out (engines before 29 show no MAC until the container runs) is no contradiction."""
    return (
        network_id == row.network_id
        and told.address.ip == row.address.ip
        and told.mac in (None, row.mac)
        and (told.address_v6 is None or row.address_v6 is None or told.address_v6.ip == row.address_v6.ip)
        and (told.address_v6 is None) == (row.address_v6 is None)
    )


def _doubled(known: Known, seen: Iterable[engine.EngineNetwork]) -> Iterator[difference.Difference]:
    """Addresses that two endpoints have, on either side. Nobody can tell which of two containers is to lose it."""
    sides: tuple[dict[netstate.IPAddress, set[str]], ...] = (defaultdict(set), defaultdict(set))
    docker, state = sides
    for net in seen:
        for told in net.endpoints if net.ours else ():
            for interface in (told.address, told.address_v6):
                if interface is not None:
                    docker[interface.ip].add(told.id)
    for end in known.endpoints:
        for interface in (end.address, end.address_v6):
            if interface is not None:
                state[interface.ip].add(end.id)
    for ip in sorted(docker.keys() | state.keys(), key=lambda one: (one.version, int(one))):
        users = (docker.get(ip, set()), state.get(ip, set()))
        if max(map(len, users)) > 1:
            yield difference.Difference(
                kind=Kind.ADDRESS_DOUBLED,
                thing=str(ip),
                says=difference.Says(docker=_short(users[0]), state=_short(users[1])),
            )


def _by_id(
    objects: Iterable[network.Network | endpoint.Endpoint],
) -> Mapping[str, network.Network | endpoint.Endpoint]:
    return {one.id: one for one in objects}


def _text(one: network.Network | endpoint.Endpoint | None) -> str:
    """The object as the file has it, without what is empty."""
    if one is None:
        return difference.ABSENT
    fields = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    if isinstance(one, endpoint.Endpoint):
        fields |= {"network_id": one.network_id[:12]}
    return " ".join(
        f"{name}={value}" for name, value in fields.items() if value not in (None, (), "") and name != "id"
    )


def _engine_text(network_id: names.NetworkId, told: engine.EngineEndpoint) -> str:
    words = {"network_id": network_id[:12], "address": told.address, "mac": told.mac, "address_v6": told.address_v6}
    return " ".join(f"{name}={value}" for name, value in words.items() if value is not None)


def _pools(told: engine.EngineNetwork) -> str:
    return ",".join(str(pool.cidr) for pool in told.pools)


def _words(values: Mapping[str, object], chosen: Iterable[str]) -> str:
    shown = ((name, values[name]) for name in chosen)
    return " ".join(f"{name}={','.join(sorted(value)) if isinstance(value, set) else value}" for name, value in shown)


def _short(ids: Iterable[str]) -> str:
    return ", ".join(sorted(one[:12] for one in ids)) or difference.ABSENT
