"""The engine port over the docker SDK: the only module that imports it.

The client is made at the first call and again after every failure, since its constructor talks to the daemon.
Source: docker-py.readthedocs.io; Engine API `GET /info`, `GET /plugins`, `GET /networks`, `GET /networks/{id}`.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import docker
from docker import errors as docker_errors
from docker import types as docker_types

from driver import engine, errors, names
from overlay import netstate

TIMEOUT_S = 10

_UNREADABLE = (KeyError, TypeError, AttributeError)
"""What reading an answer raises that has another shape than the Engine API's: DOCKER_HOST may be anybody's."""

_FAILURES = (docker_errors.DockerException, OSError, ValueError, *_UNREADABLE)


class DockerEngine:
    """The engine at `base_url` (unix:///host/run/docker.sock). `plugin_id`: of this managed plugin, "" for none."""

    def __init__(self, base_url: str, plugin_id: str = "") -> None:
        self._base_url = base_url
        self._plugin_id = plugin_id
        self._client: docker.DockerClient | None = None

    def identify(self) -> engine.Identity:
        """Implements `engine.Engine`."""
        try:
            api = self._connect().api
            has_plugin = self._plugin_id in self._plugins(api) if self._plugin_id else None
            return engine.Identity(id=str(api.info().get("ID") or ""), has_plugin=has_plugin)
        except _FAILURES as exc:
            raise self._lost(exc) from exc

    def list_networks(self, known: Collection[names.NetworkId]) -> list[engine.EngineNetwork]:
        """Implements `engine.Engine`."""
        try:
            api = self._connect().api
            summaries = self._summaries(api)
            plugins = self._plugins(api)
            aliases = self._aliases(plugins, summaries, known)
            found = []
            for summary in summaries:
                if aliases & {_driver(summary), _ipam_driver(summary)}:
                    found.append(_network(api.inspect_network(summary["Id"]), aliases))
                else:
                    found.append(_other_network(summary))
            found += self._unlisted(api, set(known) - {net.id for net in found})
        except docker_errors.NotFound as exc:
            raise errors.EngineError("a network was removed during the look") from exc
        except _FAILURES as exc:
            raise self._lost(exc) from exc
        return found

    def create_network(self, name: str) -> None:
        """Implements `engine.Engine`."""
        try:
            api = self._connect().api
            summaries = api.networks()
            drivers = {_driver(one) for one in summaries if one["Name"] == name}
            if not drivers:
                ipam = docker_types.IPAMConfig(driver=engine.CLASSIC_NAME)
                # engines before 25 take a second network of one name unless told to check
                api.create_network(name, driver=engine.CLASSIC_NAME, ipam=ipam, check_duplicate=True)
                return
            is_there = bool(drivers & self._aliases(self._plugins(api), summaries, ()))
        except _FAILURES as exc:
            raise self._lost(exc) from exc
        if not is_there:
            raise errors.EngineError(
                f"a network {name} of driver {', '.join(sorted(drivers))} is there; choose another name, or take it "
                f"away with: docker network rm {name}"
            )

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _summaries(self, api: docker.APIClient) -> list[Mapping[str, Any]]:
        summaries: list[Mapping[str, Any]] = api.networks()
        if not summaries:
            raise errors.EngineError(
                f"Engine API at {self._base_url}: it lists no network at all, where every engine has one called none"
            )
        return summaries

    @staticmethod
    def _unlisted(api: docker.APIClient, ids: Iterable[names.NetworkId]) -> Iterator[engine.EngineNetwork]:
        """Those of our networks that the list leaves out and that are there: a list may be filtered on its way."""
        for network_id in ids:
            with contextlib.suppress(docker_errors.NotFound):
                detail = api.inspect_network(network_id)
                yield _network(detail, {_driver(detail), _ipam_driver(detail)})

    def _plugins(self, api: docker.APIClient) -> Mapping[str, str]:
        """The names of this plugin and of all others that are enabled, by id.

        Nobody is asked where this process is no managed plugin.
        """
        if not self._plugin_id:
            return {}
        try:
            listed = api.plugins()  # type: ignore[no-untyped-call]
        except docker_errors.NotFound:  # podman
            return {}
        return {one["Id"]: one["Name"] for one in listed if one["Enabled"] or one["Id"] == self._plugin_id}

    def _aliases(
        self, plugins: Mapping[str, str], summaries: Iterable[Mapping[str, Any]], known: Collection[names.NetworkId]
    ) -> set[str]:
        """The names under which this engine has this plugin.

        Its own, and the usual ones in sight that no other plugin has; and what `known` networks say.
        """
        own = {name for plugin_id, name in plugins.items() if plugin_id == self._plugin_id}
        usual = {name for one in summaries for name in (_driver(one), _ipam_driver(one)) if engine.is_ours(name)}
        said = {name for one in summaries if one["Id"] in known for name in (_driver(one), _ipam_driver(one))}
        return own | said | (usual - set(plugins.values()))

    def _connect(self) -> docker.DockerClient:
        if self._client is None:
            self._client = docker.DockerClient(base_url=self._base_url, version="auto", timeout=TIMEOUT_S)
        return self._client

    def _lost(self, exc: Exception) -> errors.EngineError:
        self.close()
        reason = getattr(exc, "explanation", None) or exc
        if isinstance(exc, _UNREADABLE):
            reason = f"it answers as no engine does: {type(exc).__name__}: {exc}"
        return errors.EngineError(f"Engine API at {self._base_url}: {reason}")


def _driver(detail: Mapping[str, Any]) -> str:
    return str(detail.get("Driver"))


def _ipam_driver(detail: Mapping[str, Any]) -> str:
    return str((detail.get("IPAM") or {}).get("Driver"))


def _other_network(summary: Mapping[str, Any]) -> engine.EngineNetwork:
    """One of another driver. Of one with a name like ours the links may be like ours, too, and are not to be lost."""
    driver = _driver(summary)
    trouble = f"its driver {driver} is another plugin that is enabled; a host has one flannelpy: disable one of them"
    return engine.EngineNetwork(
        id=names.NetworkId(summary["Id"]),
        name=str(summary.get("Name", "")) if engine.is_ours(driver) else "",
        ours=False,
        trouble=trouble if engine.is_ours(driver) else "",
    )


def _network(detail: Mapping[str, Any], aliases: Collection[str]) -> engine.EngineNetwork:
    """One that cannot be read does not keep the others from it."""
    try:
        return _whole_network(detail, aliases)
    except (ValueError, *_UNREADABLE) as exc:
        pools = []
        for config in (detail.get("IPAM") or {}).get("Config") or []:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                pools.append(engine.EnginePool(cidr=ipaddress.ip_network(config["Subnet"], strict=False)))
        return engine.EngineNetwork(
            id=names.NetworkId(detail["Id"]),
            name=str(detail.get("Name", "")),
            ours=False,
            ipam_ours=_ipam_driver(detail) in aliases and not detail.get("ConfigOnly"),
            pools=tuple(pools),
            trouble=f"{type(exc).__name__}: {exc}",
        )


def _whole_network(detail: Mapping[str, Any], aliases: Collection[str]) -> engine.EngineNetwork:
    ipam = detail.get("IPAM") or {}
    return engine.EngineNetwork(
        id=names.NetworkId(detail["Id"]),
        name=detail.get("Name", ""),
        ours=_driver(detail) in aliases,
        # a config-only network is a form to be filled in: no pool was ever asked for
        ipam_ours=_ipam_driver(detail) in aliases and not detail.get("ConfigOnly"),
        pools=tuple(_pool(one) for one in ipam.get("Config") or [] if one.get("Subnet")),
        internal=bool(detail.get("Internal")),
        options=dict(detail.get("Options") or {}),
        ipam_options=dict(ipam.get("Options") or {}),
        endpoints=tuple(
            _endpoint(one)
            for one in (detail.get("Containers") or {}).values()
            if one.get("EndpointID") and one.get("IPv4Address")
        ),
    )


def _pool(config: Mapping[str, Any]) -> engine.EnginePool:
    gateway, ip_range = config.get("Gateway"), config.get("IPRange")
    aux = config.get("AuxiliaryAddresses") or {}
    return engine.EnginePool(
        cidr=ipaddress.ip_network(config["Subnet"], strict=False),
        gateway=ipaddress.ip_interface(gateway).ip if gateway else None,
        ip_range=ipaddress.ip_network(ip_range, strict=False) if ip_range else None,
        aux=frozenset(ipaddress.ip_interface(address).ip for address in aux.values()),
    )


def _endpoint(one: Mapping[str, Any]) -> engine.EngineEndpoint:
    address_v6 = one.get("IPv6Address")
    return engine.EngineEndpoint(
        id=names.EndpointId(one["EndpointID"]),
        address=ipaddress.IPv4Interface(one["IPv4Address"]),
        mac=netstate.Mac(one["MacAddress"].lower()) if one.get("MacAddress") else None,
        address_v6=ipaddress.IPv6Interface(address_v6) if address_v6 else None,
    )
