"""What is asked of the IPAM, and what it answers and shows: plain values.

Decoded and encoded by `ipam.endpoints`; `KnownPool` is filled by `plugin` from what Docker shows of its networks.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from ipam import pool
from overlay import netstate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoolRequest:
    """A network is being created. None: the default flannel network, the whole lease, the whole pool.

    Shape: `version` 4 or 6, the family of the pool asked for, and of `cidr` and `subpool` where they are given.
    """

    prefix: str | None = None
    version: int = 4
    cidr: netstate.IPNetwork | None = None
    subpool: netstate.IPNetwork | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GrantedPool:
    """The answer to a PoolRequest. `id` follows from `cidr`: engines keep it for the network's life."""

    id: str
    cidr: netstate.IPNetwork


class Purpose(enum.Enum):
    """What an address is asked for, as far as the engine says."""

    GATEWAY = enum.auto()
    ENDPOINT = enum.auto()
    UNSAID = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AddressRequest:
    """An address of a pool; `ip` None: whichever comes next, or the first of the pool for a gateway."""

    pool_id: str
    ip: netstate.IPAddress | None = None
    purpose: Purpose = Purpose.UNSAID
    holder: pool.Holder = pool.NOBODY


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoolUsage:
    """One pool, for status and metrics. `used` and `total` count the addresses that can be handed out.

    `short`: few are left (`ipam.shortage`).
    """

    id: str
    prefix: str
    lease: netstate.IPNetwork
    cidr: netstate.IPNetwork
    subpool: netstate.IPNetwork | None
    gateway: netstate.IPAddress | None
    used: int
    total: int
    short: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AddressInUse:
    """One address, for status. Units: `age_s` seconds since it was granted or adopted."""

    pool_id: str
    ip: netstate.IPAddress
    kind: pool.Kind
    age_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KnownPool:
    """A pool of ours as Docker knows it: one IPAM config of a network whose *IPAM* driver is this plugin.

    No defaults: an address that is left out here is one that Docker does not know, and is handed out again.
    Shape: `prefix` is the network's `flannelpy.prefix` option, or the default prefix. `endpoints` None where Docker
    was not asked for them: then no address of the pool is released.
    """

    prefix: str
    cidr: netstate.IPNetwork
    subpool: netstate.IPNetwork | None
    gateway: netstate.IPAddress | None
    aux: frozenset[netstate.IPAddress]
    endpoints: frozenset[netstate.IPAddress] | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RowInUse:
    """One address in use, as the audit compares it. Units: `since` seconds of wall clock, when it was given out."""

    kind: pool.Kind
    since: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KnownRows:
    """What one side, the state file or this process, knows: pools by id, and the addresses in use of each."""

    pools: Mapping[str, netstate.IPNetwork]
    addresses: Mapping[str, Mapping[netstate.IPAddress, RowInUse]]
