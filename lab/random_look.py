"""What a host has, from outside: what Docker knows, what the plugin says, what its file and the kernel hold.

Called by `random_run`; `random_oracle` compares. Asks the Engine API, the plugin's /status, its state file (read
only), iproute2, nftables and iptables; nothing of the plugin's own code has a part in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import pathlib
import re
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final

from lab import engine_api, errors, host, site

_STATE_FILES: Final = "docker/plugins/*/propagated-mount/flannelpy.db"
"""On a host's disk: SQLite follows links, and that of /proc/PID/root leads here."""
_RULES: Final = "nft list ruleset; iptables-save -t filter; ip6tables-save -t filter"
_SEPARATOR: Final = "-- rules --"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DockerEndpoint:
    """An endpoint as Docker knows it. container: empty for one without a sandbox."""

    id: str
    network_id: str
    container: str
    addresses: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a running container asks for at an endpoint that the plugin may have to publish.

    ports: `8081->80/tcp`, `->80/tcp` for any port of the host; certain: it is on no other network, so that Docker has
    no other endpoint to publish them at.
    """

    ports: frozenset[str]
    certain: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One host at one moment.

    gateways: of all Docker networks of ours, by network; running: container to the endpoint ids that Docker says it
    has; rows: address in use to its kind, out of the state file; rules: the packet filter as text; asked, told_ports:
    by endpoint, of networks that publish natively, the latter as `docker ps` would show them.
    """

    name: str
    networks: Mapping[str, tuple[str, ...]]
    endpoints: tuple[DockerEndpoint, ...]
    running: Mapping[str, frozenset[str]]
    told_networks: frozenset[str]
    told_endpoints: frozenset[tuple[str, tuple[str, ...]]]
    filed_networks: frozenset[str]
    filed_endpoints: frozenset[str]
    rows: Mapping[str, str]
    pools: frozenset[str]
    docker_pools: frozenset[str]
    links: Mapping[str, str]
    rules: str
    asked: Mapping[str, Asked]
    told_ports: Mapping[str, frozenset[str]]


def look(on: host.Host) -> Seen:
    """Look at everything once. Raises LabError where somebody does not answer."""
    networks = [
        engine_api.get(on, f"/networks/{one['Id']}")
        for one in engine_api.get(on, "/networks")
        if str(one["Driver"]).startswith("flannelpy")
    ]
    containers = engine_api.get(on, "/containers/json?all=1")
    running = [one for one in containers if _runs(one)]
    told = _told(on)
    filed = _filed(on)
    links, rules = _kernel(on)
    own = {str(net["Id"]) for net in networks}
    return Seen(
        name=on.name,
        networks={str(net["Id"]): _gateways(net) for net in networks},
        endpoints=tuple(end for net in networks for end in _endpoints(net)),
        running={str(one["Names"][0]).lstrip("/"): _endpoint_ids(one, own) for one in running},
        told_networks=frozenset(str(net["id"]) for net in told["networks"]),
        told_endpoints=frozenset(
            (str(end["id"]), tuple(a for a in (end["address"], end["address_v6"]) if a)) for end in told["endpoints"]
        ),
        filed_networks=filed.networks,
        filed_endpoints=filed.endpoints,
        rows=filed.rows,
        pools=filed.pools,
        docker_pools=frozenset(str(one["Subnet"]) for net in networks for one in net["IPAM"]["Config"] or ()),
        links=links,
        rules=rules,
        asked=_asked(on, running, {str(net["Name"]) for net in networks if _publishes(net)}),
        told_ports={str(end["id"]): frozenset(end["published"]) for end in told["endpoints"] if end["published"]},
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Filed:
    networks: frozenset[str]
    endpoints: frozenset[str]
    pools: frozenset[str]
    rows: Mapping[str, str]


def _told(on: host.Host) -> Any:  # Any: JSON
    try:
        code, text = site.ask(on, "/status")
        told = json.loads(text)
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise errors.LabError(f"{on.name}: the plugin does not tell its status: {exc!r}") from exc
    if code != 200 or "networks" not in told:  # it is just starting
        raise errors.LabError(f"{on.name}: /status: {code} {text.strip()}")
    return told


def _filed(on: host.Host) -> _Filed:
    files = list(on.spec.disk.glob(_STATE_FILES))
    if len(files) != 1:
        raise errors.LabError(f"{on.name}: {len(files)} state files, expected one")
    try:
        with contextlib.closing(_open(files[0])) as state:
            return _Filed(
                networks=frozenset(row[0] for row in state.execute("SELECT id FROM networks")),
                endpoints=frozenset(row[0] for row in state.execute("SELECT id FROM endpoints")),
                pools=frozenset(row[0] for row in state.execute("SELECT cidr FROM ipam_pools")),
                rows=dict(state.execute("SELECT ip, kind FROM ipam_addresses WHERE kind IS NOT NULL").fetchall()),
            )
    except sqlite3.Error as exc:
        raise errors.LabError(f"{on.name}: {files[0]}: {exc}") from exc


def _open(path: pathlib.Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)


def _kernel(on: host.Host) -> tuple[dict[str, str], str]:
    """Links that carry our marks with their masters, and the rules."""
    told = on.exec(["sh", "-c", f"ip -j link; echo; echo '{_SEPARATOR}'; {_RULES}"])
    links, _, rules = told.partition(_SEPARATOR)
    ours = {
        str(one["ifname"]): str(one.get("master", ""))
        for one in json.loads(links)
        if one.get("ifalias") == "flannelpy" or re.match(r"fp[-hc]", one["ifname"])
    }
    return ours, rules


def _gateways(net: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(one["Gateway"]).partition("/")[0] for one in net["IPAM"]["Config"] or () if one.get("Gateway"))


def _endpoints(net: Mapping[str, Any]) -> list[DockerEndpoint]:
    return [
        DockerEndpoint(
            id=str(one["EndpointID"]),
            network_id=str(net["Id"]),
            container="" if key.startswith("ep-") else key,
            addresses=tuple(
                one[field].partition("/")[0] for field in ("IPv4Address", "IPv6Address") if one.get(field)
            ),
        )
        for key, one in (net.get("Containers") or {}).items()
    ]


def _runs(container: Mapping[str, Any]) -> bool:
    return container["State"] in ("running", "paused")


def _endpoint_ids(container: Mapping[str, Any], own: set[str]) -> frozenset[str]:
    """Of our networks: a container with ports has one on docker_gwbridge too, which is not in this list."""
    joined = container["NetworkSettings"]["Networks"].values()
    return frozenset(str(one["EndpointID"]) for one in joined if one["NetworkID"] in own and one["EndpointID"])


def _publishes(net: Mapping[str, Any]) -> bool:
    return (net["Options"] or {}).get("flannelpy.gateway") == "native" and not net["Internal"]


def _asked(on: host.Host, running: Iterable[Mapping[str, Any]], native: set[str]) -> dict[str, Asked]:
    """Docker keeps what was asked for with the container, and tells nothing of what became of it."""
    found = {}
    for one in running:
        joined = one["NetworkSettings"]["Networks"]
        if not native & joined.keys():
            continue
        wanted = engine_api.get(on, f"/containers/{one['Id']}/json")["HostConfig"]["PortBindings"] or {}
        ports = frozenset(f"{bound['HostPort']}->{port}" for port, every in wanted.items() for bound in every)
        for name in native & joined.keys():
            found[str(joined[name]["EndpointID"])] = Asked(ports=ports, certain=len(joined) == 1)
    return found
