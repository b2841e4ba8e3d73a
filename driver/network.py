"""A Docker network on this host as a value, and the reading of CreateNetwork's options.

Pure. Source: moby daemon/libnetwork/drivers/remote/api/api.go, daemon/libnetwork/netlabel/labels.go.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
from collections.abc import Mapping

from driver import errors, names
from overlay import fields, lease, netstate

ADDRESS_SPACE = "flannelpy"
"""What `ipam` answers to GetDefaultAddressSpaces: how CreateNetwork sees whose addresses they are."""

OPTION_GATEWAY = "flannelpy.gateway"
OPTION_MTU = "com.docker.network.driver.mtu"
OPTION_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
OPTIONS = (OPTION_GATEWAY, OPTION_MTU, OPTION_MASQUERADE)

MIN_MTU = 68
"""The least an IPv4 link may have. Source: RFC 791 §3.2."""


class GatewayMode(enum.StrEnum):
    """Who is a container's way out: see `driver.endpoint.choose_exit`."""

    AUTO = "auto"
    NATIVE = "native"
    DOCKER = "docker"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One Docker network on this host.

    Shape: `pool` lies in this host's lease, `overlay` is the whole flannel network it belongs to (registry prefix
    `prefix`, VTEP device `device`); `gateway` is the bridge's address. Units: `mtu` bytes.
    """

    id: names.NetworkId
    bridge: netstate.IfName
    pool: ipaddress.IPv4Network
    gateway: ipaddress.IPv4Interface
    prefix: str
    overlay: ipaddress.IPv4Network
    device: netstate.IfName
    mtu: int
    internal: bool = False
    masquerade: bool = True
    gateway_mode: GatewayMode = GatewayMode.AUTO


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `docker network create -o …` may say. Units: `mtu` bytes, None = the overlay's."""

    gateway_mode: GatewayMode = GatewayMode.AUTO
    mtu: int | None = None
    masquerade: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoolData:
    """One element of CreateNetwork's IPv4Data."""

    address_space: str
    pool: ipaddress.IPv4Network
    gateway: ipaddress.IPv4Interface


def parse_options(raw: Mapping[str, object]) -> Options:
    """Read the generic options. Raises BadRequest for an unknown one, with the list of those there are."""
    unknown = sorted(set(raw) - set(OPTIONS))
    if unknown:
        raise errors.BadRequest(f"unknown option {unknown[0][:80]!r}; flannelpy knows: {', '.join(OPTIONS)}")
    values = {key: _text(key, value) for key, value in raw.items()}
    return Options(
        gateway_mode=_gateway_mode(values.get(OPTION_GATEWAY, GatewayMode.AUTO)),
        mtu=_mtu(values[OPTION_MTU]) if OPTION_MTU in values else None,
        masquerade=_flag(OPTION_MASQUERADE, values.get(OPTION_MASQUERADE, "true")),
    )


def make_network(
    network_id: names.NetworkId, data: PoolData, options: Options, held: lease.HeldSubnet, *, internal: bool
) -> Network:
    """Put a network together. Raises BadRequest where MTU or gateway do not fit the overlay."""
    if data.gateway.ip not in data.pool:
        raise errors.BadRequest(f"IPv4Data.Gateway: {data.gateway.ip} is not in pool {data.pool}")
    mtu = options.mtu or held.overlay_mtu
    if mtu > held.overlay_mtu:
        raise errors.BadRequest(
            f"{OPTION_MTU}={mtu} does not fit the overlay: at most {held.overlay_mtu} bytes here; leave it away"
        )
    return Network(
        id=network_id,
        bridge=names.bridge_name(network_id),
        pool=data.pool,
        gateway=data.gateway,
        prefix=held.prefix,
        overlay=held.network,
        device=netstate.IfName(held.device),
        mtu=mtu,
        internal=internal,
        masquerade=options.masquerade,
        gateway_mode=options.gateway_mode,
    )


def find_holding(pool: ipaddress.IPv4Network, held: list[lease.HeldSubnet]) -> lease.HeldSubnet | None:
    """The lease that `pool` is a part of."""
    return next((holding for holding in held if pool.subnet_of(holding.subnet)), None)


def explain_wrong_ipam(data: PoolData, held: list[lease.HeldSubnet]) -> str:
    """Why Docker's default IPAM cannot serve this driver, and the command to use instead."""
    leases = ", ".join(str(holding.subnet) for holding in held) or "not held yet"
    return (
        f"{data.pool} comes from Docker's own IPAM, not from this host's flannel lease ({leases}); "
        "create the network with: docker network create -d flannelpy --ipam-driver flannelpy NAME"
    )


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise errors.BadRequest(f"{key[:80]}: expected a string, got {fields.kind(value)}")
    return value


def _gateway_mode(value: str) -> GatewayMode:
    try:
        return GatewayMode(value)
    except ValueError as exc:
        raise errors.BadRequest(
            f"{OPTION_GATEWAY}: expected one of {', '.join(GatewayMode)}, got {value[:80]!r}"
        ) from exc


def _mtu(value: str) -> int:
    if not value.isascii() or not value.isdigit() or not MIN_MTU <= int(value[:6]) <= 65535:
        raise errors.BadRequest(f"{OPTION_MTU}: expected a number of bytes from {MIN_MTU} up, got {value[:80]!r}")
    return int(value)


def _flag(key: str, value: str) -> bool:
    """Docker's own words for yes and no. Source: Go strconv.ParseBool."""
    if value in {"1", "t", "T", "true", "TRUE", "True"}:
        return True
    if value in {"0", "f", "F", "false", "FALSE", "False"}:
        return False
    raise errors.BadRequest(f"{key}: expected true or false, got {value[:80]!r}")
