"""The network config at `<prefix>/config`: flannel's rules for it, and the range of subnets it describes.

Pure. Called by `node` with the registry's text and by `subnets` for the range. It keeps the backend's options as
they stand: which backends this host speaks is the backend chooser's business.
Source: flannel pkg/subnet/config.go (ParseConfig, CheckNetworkConfig); messages are flannel's own.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from overlay import errors, fields, gocodec

N = TypeVar("N", ipaddress.IPv4Network, ipaddress.IPv6Network)

CHOICE = (
    'set "Backend" in the network config to {"Type": "vxlan"}, or to {"Type": "host-gw"} if there is no router '
    "between any two hosts"
)
"""What to do about a backend that is not spoken here."""

_EMPTY_V4 = ipaddress.IPv4Network("0.0.0.0/0")
_EMPTY_V6 = ipaddress.IPv6Network("::/0")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SubnetRange(Generic[N]):
    """The subnets of one family that may be leased: `first`, `first` + 1 … `last`, all of one length.

    Shape: both lie in `network`. `last` below `first` is allowed, as in flannel, and means that there are none.
    """

    network: N
    first: N
    last: N

    @property
    def subnet_len(self) -> int:
        """SubnetLen: the prefix length of every subnet leased."""
        return self.first.prefixlen

    @property
    def count(self) -> int:
        """How many subnets there are."""
        return max(0, self.position(self.last) + 1)

    def position(self, network: N) -> int:
        """The number, from 0, of the subnet in which `network` begins; may lie outside the range."""
        return (int(network.network_address) - int(self.first.network_address)) >> self._host_bits

    def end_position(self, network: N) -> int:
        """The number of the subnet in which `network` ends; may lie outside the range."""
        return (int(network.broadcast_address) - int(self.first.network_address)) >> self._host_bits

    def at(self, position: int) -> N:
        """The subnet with that number."""
        start = int(self.first.network_address) + (position << self._host_bits)
        return type(self.first)((start, self.subnet_len))

    def holds(self, subnet: N) -> bool:
        """Whether `subnet` is one of ours: flannel's "compatible"."""
        return subnet.prefixlen == self.subnet_len and 0 <= self.position(subnet) < self.count

    def iter_subnets(self) -> Iterator[N]:
        """All of them, in order; 10.0.0.0/8 has 65,535."""
        return (self.at(position) for position in range(self.count))

    @property
    def _host_bits(self) -> int:
        return self.first.max_prefixlen - self.first.prefixlen


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """A flannel network.

    Shape: at least one of `v4` and `v6` is there. `backend_type` is lower case, "" for an empty `Backend`.
    `backend` holds all members of `Backend`, `Type` among them, under the names they were written with.
    """

    v4: SubnetRange[ipaddress.IPv4Network] | None
    v6: SubnetRange[ipaddress.IPv6Network] | None = None
    backend_type: str
    backend: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)  # for the backend to read
    enable_nftables: bool = False

    def require_v4(self) -> SubnetRange[ipaddress.IPv4Network]:
        """The IPv4 range, without which there is no key to write: flannel's keys begin with it.

        Raises ConfigInvalid for a network of IPv6 alone.
        """
        if self.v4 is None:
            raise errors.ConfigInvalid(
                "EnableIPv4 is false: leases in etcd are named by their IPv4 subnet; "
                "give the network config a Network and leave EnableIPv4 out"
            )
        return self.v4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """How the rules of IPv4 and IPv6 differ: flannel's limits and the words in its messages."""

    network: str
    subnet: str
    longest: int
    smallest_network: int
    usual_len: int

    @property
    def usual_up_to(self) -> int:
        return self.usual_len - 2


_V4 = _Family(network="Network", subnet="Subnet", longest=30, smallest_network=28, usual_len=24)
_V6 = _Family(network="IPv6Network", subnet="IPv6Subnet", longest=126, smallest_network=124, usual_len=64)


@dataclasses.dataclass(slots=True, kw_only=True)
class _Draft:
    """flannel's Config struct while members are read into it; 0 and :: stand for unset, as there."""

    enable_ipv4: bool = True
    enable_ipv6: bool = False
    enable_nftables: bool = False
    network: ipaddress.IPv4Network = _EMPTY_V4
    subnet_min: int = 0
    subnet_max: int = 0
    subnet_len: int = 0
    ipv6_network: ipaddress.IPv6Network = _EMPTY_V6
    ipv6_subnet_min: int = 0
    ipv6_subnet_max: int = 0
    ipv6_subnet_len: int = 0
    backend: gocodec.Member | None = None


def parse_network_config(text: str) -> NetworkConfig:
    """The network config in `text`, checked by flannel's rules in flannel's order.

    One rule is ours: without `Backend` flannel falls back to udp, which nobody wants and we don't speak, so that is
    refused with the choice to make. Raises ConfigInvalid.
    """
    draft = _read_draft(text)
    backend_type, backend = _read_backend(draft.backend)
    v4 = v6 = None
    if draft.enable_ipv4:
        v4 = _derive(_V4, draft.network, draft.subnet_min, draft.subnet_max, draft.subnet_len)
    if draft.enable_ipv6:
        v6 = _derive(_V6, draft.ipv6_network, draft.ipv6_subnet_min, draft.ipv6_subnet_max, draft.ipv6_subnet_len)
    if v4 is None and v6 is None:
        raise errors.ConfigInvalid("none defined stack")
    if draft.backend is None:
        raise errors.ConfigInvalid(
            f'the network config names no Backend, and flannel\'s default "udp" is not spoken here: {CHOICE}'
        )
    return NetworkConfig(
        v4=v4, v6=v6, backend_type=backend_type, backend=backend, enable_nftables=draft.enable_nftables
    )


def _read_draft(text: str) -> _Draft:
    draft = _Draft()
    try:
        for member in gocodec.parse_members(text):
            _read_switch(draft, member)
            _read_v4(draft, member)
            _read_v6(draft, member)
    except fields.FieldError as exc:
        raise errors.ConfigInvalid(str(exc)) from exc
    return draft


def _read_switch(draft: _Draft, member: gocodec.Member) -> None:
    match member.folded:
        case "enableipv4":
            draft.enable_ipv4 = gocodec.flag(member, draft.enable_ipv4)
        case "enableipv6":
            draft.enable_ipv6 = gocodec.flag(member, draft.enable_ipv6)
        case "enablenftables":
            draft.enable_nftables = gocodec.flag(member, draft.enable_nftables)
        case "backend":
            draft.backend = member


def _read_v4(draft: _Draft, member: gocodec.Member) -> None:
    match member.folded:
        case "network":
            draft.network = gocodec.ipv4_network(member)
        case "subnetmin":
            draft.subnet_min = int(gocodec.ipv4(member))
        case "subnetmax":
            draft.subnet_max = int(gocodec.ipv4(member))
        case "subnetlen":
            draft.subnet_len = gocodec.uint(member, draft.subnet_len)


def _read_v6(draft: _Draft, member: gocodec.Member) -> None:
    match member.folded:
        case "ipv6network":
            draft.ipv6_network = gocodec.ipv6_network(member)
        case "ipv6subnetmin":
            draft.ipv6_subnet_min = int(gocodec.ipv6(member) or 0)
        case "ipv6subnetmax":
            draft.ipv6_subnet_max = int(gocodec.ipv6(member) or 0)
        case "ipv6subnetlen":
            draft.ipv6_subnet_len = gocodec.uint(member, draft.ipv6_subnet_len)


def _read_backend(member: gocodec.Member | None) -> tuple[str, Mapping[str, Any]]:
    backend_type = ""
    if member is None:
        return backend_type, {}
    try:
        options = gocodec.parse_members(member.raw)
        for option in options:
            if option.folded == "type":
                backend_type = gocodec.text(option, backend_type)
    except fields.FieldError as exc:
        raise errors.ConfigInvalid(f"error decoding Backend property of config: {exc}") from exc
    return backend_type.lower(), {option.name: option.value for option in options}


def _derive(family: _Family, network: N, low: int, high: int, subnet_len: int) -> SubnetRange[N]:
    """CheckNetworkConfig for one family: check what was given, derive what was not."""
    if int(network.network_address) == 0 and network.prefixlen == 0:
        raise errors.ConfigInvalid(f"please define a correct {family.network} parameter in the flannel config")
    length = _derive_len(family, network.prefixlen, subnet_len)
    size = 1 << (network.max_prefixlen - length)
    # The first subnet is skipped: its first address would be the network's own.
    low = low or int(network.network_address) + size
    high = high or int(network.broadcast_address) + 1 - size
    first = _bound(network, low, length, f"{family.subnet}Min", family)
    last = _bound(network, high, length, f"{family.subnet}Max", family)
    for name, value in (("Min", low), ("Max", high)):
        if value % size:
            address = type(network.network_address)(value)
            raise errors.ConfigInvalid(f"{family.subnet}{name} is not on a SubnetLen boundary: {address}")
    return SubnetRange(network=network, first=first, last=last)


def _derive_len(family: _Family, prefix_len: int, subnet_len: int) -> int:
    if subnet_len:
        if subnet_len > family.longest:
            raise errors.ConfigInvalid(f"SubnetLen must be less than /{family.longest + 1}")
        if subnet_len < prefix_len + 2:
            raise errors.ConfigInvalid("network must be able to accommodate at least four subnets")
        return subnet_len
    if prefix_len > family.smallest_network:
        name = "network" if family is _V4 else family.network
        raise errors.ConfigInvalid(
            f"{name} is too small. Minimum useful network prefix is /{family.smallest_network}"
        )
    return family.usual_len if prefix_len <= family.usual_up_to else prefix_len + 2


def _bound(network: N, address: int, length: int, name: str, family: _Family) -> N:
    if not int(network.network_address) <= address <= int(network.broadcast_address):
        raise errors.ConfigInvalid(f"{name} is not in the range of the {family.network}")
    return type(network)((address, length), strict=False)
