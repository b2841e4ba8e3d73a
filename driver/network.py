"""A Docker network on this host as a value, and the reading of CreateNetwork's options.

Pure. Source: moby daemon/libnetwork/drivers/remote/api/api.go, daemon/libnetwork/netlabel/labels.go.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
from collections.abc import Iterator, Mapping

from driver import errors, foreign_options, names
from overlay import fields, lease, netstate

ADDRESS_SPACE = "flannelpy"
"""What `ipam` answers to GetDefaultAddressSpaces: how CreateNetwork sees whose addresses they are."""

OPTION_GATEWAY = "flannelpy.gateway"
OPTION_MTU = "com.docker.network.driver.mtu"
OPTION_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
OPTION_BRIDGE = "com.docker.network.bridge.name"
OPTION_IFACE_PREFIX = "com.docker.network.container_iface_prefix"
OPTION_ICC = "com.docker.network.bridge.enable_icc"
OPTION_SPOOFING = "flannelpy.spoofing"
OPTION_OUTSIDE = "flannelpy.outside"
OPTIONS = (
    OPTION_GATEWAY,
    OPTION_SPOOFING,
    OPTION_OUTSIDE,
    OPTION_MTU,
    OPTION_MASQUERADE,
    OPTION_ICC,
    OPTION_BRIDGE,
    OPTION_IFACE_PREFIX,
)

SPOOFING = {"drop": False, "allow": True}
"""What may be said of forged addresses, and whether containers may then send under any."""

OUTSIDE = {"drop": False, "allow": True}
"""What may be said of whoever is routed to the containers, and whether they then reach more than published ports."""

IFACE_PREFIX = "eth"

OPTION_IPV4 = "com.docker.network.enable_ipv4"
OPTION_IPV6 = "com.docker.network.enable_ipv6"
ADVERTISING_OPTIONS = ("com.docker.network.advertise_addr_nmsgs", "com.docker.network.advertise_addr_ms")
"""How often, and how far apart, engines from 28 on tell neighbours of a new address, whatever the driver."""

ENGINE_OPTIONS = (OPTION_IPV4, OPTION_IPV6, *ADVERTISING_OPTIONS)
"""What newer engines read themselves, from -o or default-network-opts, and tell us beside it; older ones do not."""

MIN_MTU = 68
"""The least an IPv4 link may have. Source: RFC 791 §3.2."""

MIN_MTU_V6 = 1280
"""The least a link may have to carry IPv6: the kernel takes IPv6 off one that has less. Source: RFC 8200 §5."""


class GatewayMode(enum.StrEnum):
    """Who is a container's way out: see `driver.endpoint.choose_exit`."""

    AUTO = "auto"
    NATIVE = "native"
    DOCKER = "docker"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NetworkV6:
    """The IPv6 half of a network: all as in Network."""

    pool: ipaddress.IPv6Network
    gateway: ipaddress.IPv6Interface
    overlay: ipaddress.IPv6Network
    device: netstate.IfName


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One Docker network on this host.

    Shape: `pool` lies in this host's lease, `overlay` is the whole flannel network it belongs to (registry prefix
    `prefix`, VTEP device `device`, `direct` as in HeldSubnet); `gateway` is the bridge's address. `chosen_mtu` is
    what the operator asked for, None to follow the overlay; `mtu` is what the overlay has room for of it now.
    `route_level` keeps it apart from its neighbours, see `driver.routes`. Without `icc` its containers do not reach
    each other; with `spoofing` they may send under any address and MAC; with `outside` they are reached by whoever is
    routed to them. Units: bytes.
    """

    id: names.NetworkId
    bridge: netstate.IfName
    pool: ipaddress.IPv4Network
    gateway: ipaddress.IPv4Interface
    prefix: str
    overlay: ipaddress.IPv4Network
    device: netstate.IfName
    mtu: int
    direct: bool = False
    internal: bool = False
    masquerade: bool = True
    gateway_mode: GatewayMode = GatewayMode.AUTO
    chosen_mtu: int | None = None
    v6: NetworkV6 | None = None
    iface_prefix: str = IFACE_PREFIX
    route_level: int = 0
    icc: bool = True
    spoofing: bool = False
    outside: bool = False

    @property
    def all_pools(self) -> tuple[netstate.IPNetwork, ...]:
        """The pool of each family, IPv4 first."""
        return (self.pool,) if self.v6 is None else (self.pool, self.v6.pool)

    @property
    def pools(self) -> str:
        """The same for log lines."""
        return ",".join(map(str, self.all_pools))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `docker network create -o …` may say.

    `bridge` None: named after the network's id. Units: `mtu` bytes, None = the overlay's.
    """

    gateway_mode: GatewayMode = GatewayMode.AUTO
    mtu: int | None = None
    masquerade: bool = True
    bridge: netstate.IfName | None = None
    iface_prefix: str = IFACE_PREFIX
    icc: bool = True
    spoofing: bool = False
    outside: bool = False


def parse_options(raw: Mapping[str, object]) -> Options:
    """Read the generic options.

    Raises BadRequest: for an option of Docker's own drivers with what to use instead, for any other with the list of
    those there are.
    """
    values = {key: _text(key, value) for key, value in raw.items()}
    for key in sorted(set(values) - {*OPTIONS, *ENGINE_OPTIONS}):
        foreign = foreign_options.FOREIGN.get(key)
        if foreign is None:
            raise errors.BadRequest(f"unknown option {key[:80]!r}; flannelpy knows: {', '.join(OPTIONS)}")
        if values[key] not in foreign.harmless:
            raise errors.BadRequest(f"{key}={values[key][:80]}: {foreign.why}")
    return Options(
        gateway_mode=_gateway_mode(values.get(OPTION_GATEWAY, GatewayMode.AUTO)),
        mtu=_mtu(values[OPTION_MTU]) if OPTION_MTU in values else None,
        masquerade=_flag(OPTION_MASQUERADE, values.get(OPTION_MASQUERADE, "true")),
        bridge=names.parse_bridge(name, OPTION_BRIDGE) if (name := values.get(OPTION_BRIDGE)) else None,
        iface_prefix=names.parse_iface_prefix(values.get(OPTION_IFACE_PREFIX) or IFACE_PREFIX, OPTION_IFACE_PREFIX),
        icc=_flag(OPTION_ICC, values.get(OPTION_ICC, "true")),
        spoofing=_choice(OPTION_SPOOFING, values.get(OPTION_SPOOFING, "drop"), SPOOFING),
        outside=_choice(OPTION_OUTSIDE, values.get(OPTION_OUTSIDE, "drop"), OUTSIDE),
    )


def require_agreed(raw: Mapping[str, object], *, ipv4: bool, ipv6: bool) -> None:
    """Raise BadRequest where the operator asked through -o for other families than the engine does."""
    for key, asked, words in ((OPTION_IPV4, ipv4, "leave it away"), (OPTION_IPV6, ipv6, "use --ipv6")):
        if key in raw and _flag(key, _text(key, raw[key])) != asked:
            raise errors.BadRequest(f"{key}={raw[key]}: this engine does not heed it; {words}")


def require_heeded(raw: Mapping[str, object]) -> None:
    """Raise BadRequest where the operator asked an engine of before 28 for what engines do since."""
    for key in ADVERTISING_OPTIONS:
        if key in raw:
            raise errors.BadRequest(f"{key}={_text(key, raw[key])[:80]}: this engine does not heed it; leave it away")


def follow(net: Network, held: lease.HeldSubnet | None) -> Network:
    """The network on its flannel network as that is now: other devices, another MTU.

    A lease that is lost, or holds the pool no more, changes nothing: what it tells is not about this network.
    """
    if held is None or not netstate.is_part(net.pool, held.subnet):
        return net
    v6 = net.v6
    if v6 is not None and held.v6 is not None and netstate.is_part(v6.pool, held.v6.subnet):
        v6 = dataclasses.replace(v6, overlay=held.v6.network, device=netstate.IfName(held.v6.device))
    mtu = min(net.chosen_mtu or held.overlay_mtu, held.overlay_mtu)
    device = netstate.IfName(held.device)
    return dataclasses.replace(net, overlay=held.network, device=device, direct=held.direct, mtu=mtu, v6=v6)


def format_change(before: Network, after: Network) -> str:
    """What `follow` changed, for a log line: `mtu=1400 was=1450`."""
    shown: dict[str, tuple[object, object]] = {
        "mtu": (before.mtu, after.mtu),
        "device": (before.device, after.device),
        "direct": (before.direct, after.direct),
    }
    shown |= {"overlay": (before.overlay, after.overlay), "chosen_mtu": (before.chosen_mtu, after.chosen_mtu)}
    if before.v6 is not None and after.v6 is not None:
        shown |= {"device_v6": (before.v6.device, after.v6.device)}
        shown |= {"overlay_v6": (before.v6.overlay, after.v6.overlay)}
    return " ".join(f"{name}={new} was={old}" for name, (old, new) in shown.items() if old != new)


def doubts(net: Network) -> Iterator[str]:
    """What is wrong with a network's MTU, a line each."""
    if net.chosen_mtu is not None and net.mtu < net.chosen_mtu:
        yield f"the overlay has no room for the network's own MTU wanted={net.chosen_mtu} mtu={net.mtu}"
    if net.v6 is not None and net.mtu < MIN_MTU_V6:
        yield f"the overlay's MTU is too small for IPv6, which needs {MIN_MTU_V6} mtu={net.mtu}"


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


def _choice(key: str, value: str, choices: Mapping[str, bool]) -> bool:
    if value not in choices:
        raise errors.BadRequest(f"{key}: expected one of {', '.join(choices)}, got {value[:80]!r}")
    return choices[value]


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
