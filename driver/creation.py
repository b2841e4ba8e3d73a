"""CreateNetwork as a value, and the network that it makes on the leases of this host.

Pure. Callers: `driver.endpoints` and `driver.audit` make a Request, `driver.service` has it planned.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from driver import errors, names, network
from overlay import lease, netstate

Pool = TypeVar("Pool", bound=netstate.IPNetwork)
Gateway = TypeVar("Gateway", bound=netstate.IPInterface)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoolData(Generic[Pool, Gateway]):
    """One element of CreateNetwork's IPv4Data or IPv6Data."""

    address_space: str
    pool: Pool
    gateway: Gateway


PoolDataV4 = PoolData[ipaddress.IPv4Network, ipaddress.IPv4Interface]
PoolDataV6 = PoolData[ipaddress.IPv6Network, ipaddress.IPv6Interface]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A network is being created. `ipv6`: with --ipv6; whether there is a pool for it then depends on the engine."""

    id: names.NetworkId
    v4: tuple[PoolDataV4, ...]
    v6: tuple[PoolDataV6, ...] = ()
    ipv6: bool = False
    options: network.Options = dataclasses.field(default_factory=network.Options)
    internal: bool = False


def plan(request: Request, held: list[lease.HeldSubnet], bridge: netstate.IfName | None = None) -> network.Network:
    """The network asked for; `bridge` where that has another name than its id says. Raises BadRequest, WrongIpam."""
    v4 = _single(request.v4, "IPv4")
    pools: list[PoolDataV4 | PoolDataV6] = [v4, *request.v6]
    for data in pools:
        if data.address_space != network.ADDRESS_SPACE:
            raise errors.WrongIpam(explain_wrong_ipam(data, held))
    holding = find_holding(v4.pool, held)
    if holding is None:
        raise errors.BadRequest(
            f"pool {v4.pool} is not part of a lease of this host ({_leases(held, 4) or 'none held'})"
        )
    _require_gateway(v4, "IPv4")
    return network.Network(
        id=request.id,
        bridge=bridge or names.bridge_name(request.id),
        pool=v4.pool,
        gateway=v4.gateway,
        prefix=holding.prefix,
        overlay=holding.network,
        device=netstate.IfName(holding.device),
        direct=holding.direct,
        mtu=_mtu(request, holding),
        chosen_mtu=request.options.mtu,
        internal=request.internal,
        masquerade=request.options.masquerade,
        gateway_mode=request.options.gateway_mode,
        icc=request.options.icc,
        spoofing=request.options.spoofing,
        outside=request.options.outside,
        iface_prefix=request.options.iface_prefix,
        v6=_plan_v6(request, holding) if request.ipv6 or request.v6 else None,
    )


def require_room(net: network.Network, others: Iterable[network.Network]) -> None:
    """Raise Conflict where an address of one of the network's pools is another network's, too."""
    for other in others:
        for pool, theirs in itertools.product(net.all_pools, other.all_pools):
            if pool.version == theirs.version and pool.overlaps(theirs):
                raise errors.Conflict(f"pool {pool} overlaps pool {theirs} of network {other.id[:12]}")


def find_holding(pool: netstate.IPNetwork, held: Iterable[lease.HeldSubnet]) -> lease.HeldSubnet | None:
    """The lease that `pool` is a part of."""
    return next((holding for holding in held if any(netstate.is_part(pool, own) for own in holding.subnets)), None)


def explain_wrong_ipam(data: PoolDataV4 | PoolDataV6, held: Sequence[lease.HeldSubnet]) -> str:
    """Why Docker's default IPAM cannot serve this driver, and the command to use instead."""
    leases = _leases(held, data.pool.version) or ("not held yet" if not held else "which has no IPv6")
    ipv6 = "--ipv6 " if data.pool.version == 6 else ""
    return (
        f"{data.pool} comes from Docker's own IPAM, not from this host's flannel lease ({leases}); "
        f"create the network with: docker network create -d flannelpy --ipam-driver flannelpy {ipv6}NAME"
    )


def _plan_v6(request: Request, holding: lease.HeldSubnet) -> network.NetworkV6:
    if holding.v6 is None:
        raise errors.BadRequest(
            f"--ipv6: the flannel network {holding.prefix} has no IPv6; leave --ipv6 and IPv6 --subnet away, or add "
            "EnableIPv6 and IPv6Network to its network config (docs/operations.md, Dual stack)"
        )
    if not request.v6:
        raise errors.BadRequest(
            "--ipv6: this engine asks for no IPv6 pool unless it is given one; create the network with: docker "
            f"network create -d flannelpy --ipam-driver flannelpy --ipv6 --subnet {holding.v6.subnet} NAME"
        )
    data = _single(request.v6, "IPv6")
    if not netstate.is_part(data.pool, holding.v6.subnet):
        raise errors.BadRequest(
            f"pool {data.pool} is not part of this host's lease {holding.v6.subnet} of {holding.prefix}, from which "
            "the IPv4 pool comes; take both from one flannel network"
        )
    _require_gateway(data, "IPv6")
    return network.NetworkV6(
        pool=data.pool,
        gateway=data.gateway,
        overlay=holding.v6.network,
        device=netstate.IfName(holding.v6.device),
    )


def _mtu(request: Request, holding: lease.HeldSubnet) -> int:
    most, chosen = holding.overlay_mtu, request.options.mtu
    if chosen is not None and chosen > most:
        raise errors.BadRequest(
            f"{network.OPTION_MTU}={chosen} does not fit the overlay: at most {most} bytes here; leave it away"
        )
    mtu = most if chosen is None else chosen
    if request.ipv6 and mtu < network.MIN_MTU_V6:
        what = f"the overlay's MTU here, {mtu}," if chosen is None else f"{network.OPTION_MTU}={mtu}"
        raise errors.BadRequest(f"--ipv6: {what} is too small: IPv6 needs {network.MIN_MTU_V6} bytes at least")
    return mtu


def _require_gateway(data: PoolDataV4 | PoolDataV6, family: str) -> None:
    if data.gateway.ip not in data.pool:
        raise errors.BadRequest(f"{family}Data.Gateway: {data.gateway.ip} is not in pool {data.pool}")


def _single(pools: Sequence[PoolData[Pool, Gateway]], family: str) -> PoolData[Pool, Gateway]:
    if len(pools) != 1:
        raise errors.BadRequest(
            f"{family}Data: expected one pool, got {len(pools)}; "
            f"a flannelpy network has one --subnet of {family} at most"
        )
    return pools[0]


def _leases(held: Iterable[lease.HeldSubnet], version: int) -> str:
    return ", ".join(str(own) for holding in held for own in holding.subnets if own.version == version)
