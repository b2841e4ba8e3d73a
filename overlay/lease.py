"""Leases as flannel writes them: the values, and the codec between them and etcd's keys and texts.

Pure. The registry adapters call the codec; everything else sees only `Lease`, `SubnetKey`, `LeaseAttrs`.
Source: flannel pkg/subnet/subnet.go, pkg/lease/lease.go.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from typing import Any

from overlay import errors, fields, gocodec, parse_cache

# flannel's own expression: open at the start, two dots unescaped. Keys are cut first, since the open dots make a
# search through a long run of digits slow; the longest key of flannel's has 62 characters.
_KEY = re.compile(r"([0-9]+\.[0-9]+.[0-9]+.[0-9]+)-([0-9]+)(?:&([a-f0-9:]+)-([0-9]+))?\Z")
_KEY_LIMIT = 80

_VALUE_LIMIT = 1 << 16
"""Characters of a value. etcd takes 1.5 MB, and what a backend publishes is kept of each peer."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SubnetKey:
    """Which subnet a lease is about, and so its key: `10.2.20.0-24` or `10.2.20.0-24&fd00:12:13::-56`."""

    v4: ipaddress.IPv4Network
    v6: ipaddress.IPv6Network | None = None

    def __str__(self) -> str:
        return str(self.v4) if self.v6 is None else f"{self.v4} and {self.v6}"

    def overlaps(self, other: SubnetKey) -> bool:
        """Whether two nodes with these keys would claim some address both."""
        if self.v4.overlaps(other.v4):
            return True
        return self.v6 is not None and other.v6 is not None and self.v6.overlaps(other.v6)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAttrs:
    """What a node publishes about itself.

    Shape: `backend_data` and `backend_v6_data` are compact JSON texts that only the backend named by
    `backend_type` can read; None when absent. `backend_type` is "" for flannel's udp and alloc.
    """

    public_ip: ipaddress.IPv4Address
    public_ipv6: ipaddress.IPv6Address | None = None
    backend_type: str = ""
    backend_data: str | None = None
    backend_v6_data: str | None = None

    def is_same_host(self, other: LeaseAttrs) -> bool:
        """flannel's identity of a node: its PublicIP; PublicIPv6 where there is no IPv4, and all have 0.0.0.0."""
        if self.public_ip.is_unspecified:
            return other.public_ip.is_unspecified and self.public_ipv6 == other.public_ipv6 is not None
        return self.public_ip == other.public_ip

    @property
    def host(self) -> str:
        """Where the node is, for messages."""
        return str(self.public_ipv6 if self.public_ip.is_unspecified and self.public_ipv6 else self.public_ip)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One readable key under `<prefix>/subnets`.

    Units: `ttl_s` seconds granted, None for a reservation (a key without an etcd lease, `lease_id` 0) and where
    the registry was not asked. `mod_revision` is what a compare-and-set compares.
    """

    key: SubnetKey
    attrs: LeaseAttrs
    lease_id: int = 0
    mod_revision: int = 0
    ttl_s: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeldSubnetV6:
    """The IPv6 half of a lease. Shape: `subnet` lies in `network`; `device` as in HeldSubnet."""

    network: ipaddress.IPv6Network
    subnet: ipaddress.IPv6Network
    device: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeldSubnet:
    """What the rooms above need to know of this host's lease in one flannel network.

    Shape: `subnet` lies in `network`; both IPv4. `device` is the link that carries nothing but this flannel network,
    "" where the backend has none (host-gw: packets cross the underlay as they are). `v6` None: a lease of IPv4 alone.
    Units: `overlay_mtu` bytes, what fits every family of the lease.
    """

    prefix: str
    network: ipaddress.IPv4Network
    subnet: ipaddress.IPv4Network
    device: str
    overlay_mtu: int
    direct: bool = False
    """Packets may cross the underlay as they are (host-gw, DirectRouting), whether there is a device or not."""
    v6: HeldSubnetV6 | None = None

    @property
    def subnets(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The subnet of each family that the lease has, IPv4 first."""
        return (self.subnet,) if self.v6 is None else (self.subnet, self.v6.subnet)


@parse_cache.remember
def parse_subnet_key(text: str) -> SubnetKey:
    """The subnet that a key, or its last part, names.

    As loose as flannel: anything may stand before the subnet, only lower-case hex counts, /32 and /128 are no
    subnets. Tighter in one point: flannel takes host bits as they are (10.2.20.5-24), which no flannel writes and no
    network value can hold. Raises CodecError. Source: flannel pkg/subnet/subnet.go, ParseSubnetKey.
    """
    found = _KEY.search(text[-_KEY_LIMIT:])
    if found is None:
        raise errors.CodecError(f"{_shown(text)} is no subnet key such as 10.2.20.0-24")
    v4, v4_len, v6, v6_len = found.groups()
    if int(v4_len) > 31 or int(v6_len or 0) > 127:
        raise errors.CodecError(f"{_shown(text)} is no subnet key: a prefix length is out of range")
    try:
        return SubnetKey(
            v4=ipaddress.IPv4Network((v4, int(v4_len))),
            v6=None if v6 is None else ipaddress.IPv6Network((v6, int(v6_len))),
        )
    except ValueError as exc:
        raise errors.CodecError(f"{_shown(text)} is no subnet key such as 10.2.20.0-24: {exc}") from exc


def format_subnet_key(key: SubnetKey) -> str:
    """The last part of the lease's key. Source: flannel pkg/subnet/subnet.go, MakeSubnetKey."""
    v4 = f"{key.v4.network_address}-{key.v4.prefixlen}"
    if key.v6 is None:
        return v4
    return f"{v4}&{gocodec.format_ipv6(key.v6.network_address)}-{key.v6.prefixlen}"


def clean_prefix(prefix: str) -> str:
    """The prefix as Go's path.Join leaves it: one slash between parts, none at the end, dots resolved."""
    parts: list[str] = []
    rooted = prefix.startswith("/")
    for part in prefix.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part == "..":
            if not rooted:
                parts.append(part)
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if rooted else "") + "/".join(parts)


@parse_cache.remember
def parse_attrs(text: str) -> LeaseAttrs:
    """What a node published, read as leniently as flannel does: any case, unknown members ignored.

    A missing PublicIP is 0.0.0.0. Tighter in one point: a value of more than 64 KiB, of which flannel's have some
    200 bytes, is none. Raises CodecError. Source: flannel pkg/lease/lease.go, LeaseAttrs.
    """
    if len(text) > _VALUE_LIMIT:
        raise errors.CodecError(
            f"no lease attributes: {len(text)} characters, of which {_VALUE_LIMIT} are read at most"
        )
    found: dict[str, Any] = {"public_ip": ipaddress.IPv4Address(0)}
    try:
        for member in gocodec.parse_members(text):
            _read_member(found, member)
    except fields.FieldError as exc:
        raise errors.CodecError(f"no lease attributes: {exc}") from exc
    return LeaseAttrs(**found)


def format_attrs(attrs: LeaseAttrs) -> str:
    """The value of a lease's key, byte for byte as flannel writes it.

    Raises CodecError where the backend's data is not JSON.
    """
    parts = [f'"PublicIP":"{attrs.public_ip}"', f'"PublicIPv6":{_format_public_ipv6(attrs.public_ipv6)}']
    if attrs.backend_type:
        parts.append(f'"BackendType":{gocodec.format_string(attrs.backend_type)}')
    for name, raw in (("BackendData", attrs.backend_data), ("BackendV6Data", attrs.backend_v6_data)):
        if raw is not None:
            try:
                parts.append(f'"{name}":{gocodec.compact(raw)}')
            except fields.FieldError as exc:
                raise errors.CodecError(f"{name}: {exc}") from exc
    return "{" + ",".join(parts) + "}"


def _read_member(found: dict[str, Any], member: gocodec.Member) -> None:
    match member.folded:
        case "publicip":
            found["public_ip"] = gocodec.ipv4(member)
        case "publicipv6":
            found["public_ipv6"] = gocodec.ipv6(member)
        case "backendtype":
            found["backend_type"] = gocodec.text(member, found.get("backend_type", ""))
        case "backenddata":
            found["backend_data"] = gocodec.compact(member.raw)
        case "backendv6data":
            found["backend_v6_data"] = gocodec.compact(member.raw)
        case _:
            pass


def _format_public_ipv6(address: ipaddress.IPv6Address | None) -> str:
    return "null" if address is None else f'"{gocodec.format_ipv6(address)}"'


def _shown(text: str) -> str:
    return repr(text if len(text) <= _KEY_LIMIT else "…" + text[-_KEY_LIMIT:])
