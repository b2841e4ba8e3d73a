"""The engine port: what Docker itself knows of our networks.

Adapter: `driver.engine_docker`; whose word that is and whether it counts is `driver.confirmation`'s. Asked in the
background; never in a handler, since dockerd holds locks while it calls and starts containers before its API answers.
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

    Shape: `pools` as Docker lists them, of both families. `trouble` is why a network of this plugin could not be
    read; then it is not `ours`, nothing is known of its endpoints, and `pools` are those that could be.
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
    trouble: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who answers. `id` is the engine's own, "" where it tells none.

    `has_plugin`: this plugin is one of its managed plugins; None where this process is no managed plugin.
    """

    id: str
    has_plugin: bool | None = None


class Engine(Protocol):
    """What the background asks of Docker."""

    def identify(self) -> Identity:
        """Who answers at this address. Raises EngineError."""
        ...

    def list_networks(self, known: Collection[names.NetworkId]) -> list[EngineNetwork]:
        """All networks of this engine, those of other drivers as an id alone. Raises EngineError.

        A driver is this plugin if it is called as the engine calls this managed plugin, or by its usual name; so are
        the drivers of the networks `known` to be ours, whatever they are called. An empty list is no answer.
        """
        ...

    def create_network(self, name: str) -> None:
        """Create a network of this driver and IPAM; one of ours under that name already is success.

        Raises EngineError, also where a network of another driver has the name.
        """
        ...


def is_ours(driver: str) -> bool:
    """Whether a driver's name is a usual one of this plugin: `flannelpy`, `flannelpy:1`, `REGISTRY/flannelpy:1.0`."""
    return driver.rpartition("/")[2].partition(":")[0] == CLASSIC_NAME
