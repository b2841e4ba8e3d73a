"""The engine port: what Docker itself knows of our networks.

Adapter: `driver.engine_docker`. Caller: `plugin.engine_watch`, one background thread; never a handler, since dockerd
holds locks while it calls and starts containers before its API answers.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Collection, Mapping
from typing import Protocol

from driver import names
from overlay import netstate

CLASSIC_NAME = "flannelpy"
"""The name under which the classic socket is found, whatever alias and tag the plugin was installed with."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineEndpoint:
    """An endpoint that Docker knows."""

    id: names.EndpointId
    address: ipaddress.IPv4Interface
    mac: netstate.Mac | None
    address_v6: ipaddress.IPv6Interface | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EnginePool:
    """One IPAM config of a network."""

    cidr: netstate.IPNetwork
    gateway: netstate.IPAddress | None = None
    ip_range: netstate.IPNetwork | None = None
    aux: frozenset[netstate.IPAddress] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineNetwork:
    """A network that Docker knows. `ours`, `ipam_ours`: its driver, its IPAM is this plugin; else only an id.

    Shape: `pools` as Docker lists them, of both families.
    """

    id: names.NetworkId
    name: str
    ours: bool
    ipam_ours: bool = False
    pools: tuple[EnginePool, ...] = ()
    internal: bool = False
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ipam_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    endpoints: tuple[EngineEndpoint, ...] = ()


class Engine(Protocol):
    """What the background asks of Docker."""

    def list_networks(self, known: Collection[names.NetworkId]) -> list[EngineNetwork]:
        """All networks of this engine, those of other drivers as an id alone. Raises EngineError.

        The drivers of the networks `known` to be ours are this plugin, whatever they are called: the operator chose
        the alias, and nobody tells the plugin.
        """
        ...

    def create_network(self, name: str) -> None:
        """Create a network of this driver and IPAM; one of that name already is success. Raises EngineError."""
        ...


def is_ours(driver: str) -> bool:
    """Whether a driver's name says this plugin: `flannelpy`, `flannelpy:1`, `REGISTRY/flannelpy:1.0`."""
    return driver.rpartition("/")[2].partition(":")[0] == CLASSIC_NAME
