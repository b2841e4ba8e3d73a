"""A host whose containers must come back: what runs on it, and whether all of it is there and reaches its peers.

Called by `reboots`.
"""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import http.client
import ipaddress
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from lab import engine_api, errors, host, images, random_look, random_oracle, site

MINE, OTHER, NATIVE = "mynet", "other", "native"
FIXED: Final = "fixed"
_GATEWAY: Final = "external connectivity on endpoint gateway_"
_ALLOCATED: Final = "port is already allocated"
_SERVER: Final = "mkdir -p /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A container that must come back. `port`: published on the host; 0 for none."""

    name: str
    networks: tuple[str, ...] = (MINE,)
    port: int = 0
    fixed: bool = False


KEPT: Final = (
    Kept(name="plain"),
    Kept(name=FIXED, fixed=True),
    Kept(name="published", port=8080),
    Kept(name="native", networks=(NATIVE,), port=8081),
    Kept(name="both", networks=(MINE, OTHER)),
)


def furnish(on: host.Host) -> None:
    """Three networks on slices of the host's lease, and the containers. Raises LabError."""
    slices = _slices(lease_of(on))
    for name, cidr in zip((MINE, OTHER, NATIVE), slices, strict=False):
        options = ("-o", "flannelpy.gateway=native") if name == NATIVE else ()
        site.create_network(on, name, "--subnet", str(cidr), *options)
    for one in KEPT:
        address = ("--ip", str(slices[0].broadcast_address - 10)) if one.fixed else ()
        ports = ("-p", f"{one.port}:80") if one.port else ()
        options = ("--name", one.name, "--restart", "always", "--network", one.networks[0], *address, *ports)
        on.docker("run", "-d", *options, images.BUSYBOX, "sh", "-c", _SERVER, timeout_s=90)
        for more in one.networks[1:]:
            on.docker("network", "connect", more, one.name, timeout_s=60)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """What must be the same after every reboot."""

    lease: str
    subnets: tuple[str, ...]
    fixed: str

    @property
    def spare(self) -> str:
        """The part of the lease on which there is no network."""
        return str(_slices(self.lease)[-1])

    @classmethod
    def of(cls, on: host.Host) -> Home:
        """As it is now. Raises LabError."""
        subnets = tuple(site.subnet_of(on, name) for name in (MINE, OTHER, NATIVE))
        return cls(lease=lease_of(on), subnets=subnets, fixed=site.ip_of(on, FIXED))


def lease_of(on: host.Host) -> str:
    """The host's lease as its plugin tells it. Raises LabError."""
    try:
        (lease,) = site.status(on)["flannel_networks"]
    except (OSError, ValueError, KeyError, http.client.HTTPException) as exc:
        raise errors.LabError(f"{on.name}: the plugin does not tell its lease: {exc!r}") from exc
    return str(lease["subnet"])


def _slices(lease: str) -> list[ipaddress.IPv4Network]:
    return list(ipaddress.IPv4Network(lease).subnets(new_prefix=26))


def addresses(on: host.Host) -> dict[str, dict[str, str]]:
    """The addresses of the kept containers that run, by network; one that has none in a network has "" there."""
    shown = engine_api.get(on, "/containers/json")
    names = {one.name for one in KEPT}
    return {
        name: {
            network: str(joined["IPAddress"])
            for network, joined in one["NetworkSettings"]["Networks"].items()
            if network in (MINE, OTHER, NATIVE)
        }
        for one in shown
        if (name := str(one["Names"][0]).lstrip("/")) in names and one["State"] == "running"
    }


def missing(on: host.Host) -> list[str]:
    """What is not back yet: a line for each container."""
    try:
        there = addresses(on)
    except errors.LabError as exc:
        return [f"{on.name}: {exc}"]
    return [
        f"{on.name}: {one.name} has {there.get(one.name)}, expected an address in each of {', '.join(one.networks)}"
        for one in KEPT
        if sorted(there.get(one.name, {})) != sorted(one.networks) or not all(there[one.name].values())
    ]


def engines_own(on: host.Host) -> list[str]:
    """Containers that dockerd itself kept from starting.

    A power cut within a start leaves the port of an endpoint on docker_gwbridge taken until dockerd starts once more:
    it restores the endpoint, but has no sandbox for it (seen on 26.1).
    """
    told = on.docker("inspect", "-f", "{{.Name}} {{.State.Error}}", *(one.name for one in KEPT))
    return [line for line in told.splitlines() if _GATEWAY in line and _ALLOCATED in line]


def unreached(hosts: Sequence[host.Host]) -> list[str]:
    """Every container must reach each of the other hosts', and published ports must answer there: what does not."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [(pool.submit(on.try_docker, *words, timeout_s=20), text) for on, words, text in _questions(hosts)]
        return [text for answer, text in asked if not answer.result().ok]


def _questions(hosts: Sequence[host.Host]) -> Iterator[tuple[host.Host, tuple[str, ...], str]]:
    there = {on.name: addresses(on) for on in hosts}
    for on in hosts:
        for peer in hosts:
            if peer is on:
                continue
            targets = [ip for joined in there[peer.name].values() for ip in joined.values()]
            pings = " && ".join(f"ping -c 1 -w 3 {ip} >/dev/null" for ip in targets)
            for one in KEPT:
                yield on, ("exec", one.name, "sh", "-c", pings), f"{on.name}: {one.name} reaches not all of {targets}"
            urls = [f"http://{peer.ip}:{one.port}/" for one in KEPT if one.port]
            asks = " && ".join(f"timeout 4 wget -qO- {url} | grep -q served" for url in urls)
            yield on, ("exec", "plain", "sh", "-c", asks), f"{on.name}: plain gets not all of {' '.join(urls)}"


def strangers(hosts: Sequence[host.Host], homes: dict[str, Home]) -> list[str]:
    """What is not as Docker has it, doubled, or moved: a line each. Raises LabError."""
    seen = [random_look.look(on) for on in hosts]
    found = [str(one) for one in random_oracle.doubled(seen)]
    for each in seen:
        found += map(str, random_oracle.differences(each))
    for on in hosts:
        now = Home.of(on)
        if now != homes[on.name]:
            found.append(f"{on.name}: {homes[on.name]} became {now}")
    return found


def lease_in_etcd(keys: str, on: host.Host) -> str:
    """The subnet that the registry has for this host; "" for none. `keys`: what etcdctl printed as JSON."""
    for item in json.loads(keys).get("kvs", []):
        attrs: Any = json.loads(base64.b64decode(item["value"]))  # JSON
        if attrs.get("PublicIP") == str(on.ip):
            return base64.b64decode(item["key"]).decode().rpartition("/")[2].replace("-", "/")
    return ""
