"""The VXLAN backend: one device, and per peer a neighbour, a forwarding entry and a route.

Pure. Made by `backend.choose_backend`. With DirectRouting a peer on the underlay's own network gets a plain route.
Source: flannel pkg/backend/vxlan/vxlan.go, vxlan_network.go; RFC 7348.
"""

from __future__ import annotations

import bisect
import dataclasses
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from overlay import backend, errors, fields, lease, netstate, underlay

TYPE = "vxlan"
OVERHEAD = 50
"""Bytes that VXLAN over IPv4 adds: Ethernet 14, VXLAN 8, UDP 8, IPv4 20. Source: RFC 7348 §5."""

DEFAULT_PORT = 8472
"""The kernel's own default, which flannel means by 0; written out so that no kernel can change it."""

MAX_VNI = 2**24 - 1
MIN_OVERLAY_MTU = 68
"""The least that IPv4 needs. Source: RFC 791 §3.2."""

_MAC_DIGITS = re.compile(r"[0-9a-f]{12}")
_MAC_SHAPES = re.compile(r"([0-9a-f]{2}[:-]){5}[0-9a-f]{2}|([0-9a-f]{4}\.){2}[0-9a-f]{4}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VxlanData:
    """BackendData of a vxlan lease. `vni` is None where the peer wrote none."""

    vni: int | None
    mac: netstate.Mac


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VxlanBackend:
    """The options of a vxlan network. Units: `mtu` bytes of the underlay, None to take the link's own."""

    vni: int = 1
    port: int = DEFAULT_PORT
    mtu: int | None = None
    gbp: bool = False
    learning: bool = False
    direct_routing: bool = False

    @property
    def device(self) -> netstate.IfName:
        """`flannel.<VNI>`, the name that flanneld gives it too."""
        return netstate.IfName(f"flannel.{self.vni}")

    @property
    def device_v6(self) -> netstate.IfName:
        """`flannel-v6.<VNI>`, the name that flanneld gives it too."""
        return netstate.IfName(f"flannel-v6.{self.vni}")

    @property
    def needs_routes(self) -> bool:
        """DirectRouting asks which peers no router is before."""
        return self.direct_routing

    def overlay_mtu(self, underlay_mtu: int) -> int:
        """The MTU less the overhead; never more than the link carries, since the kernel would refuse it."""
        return min(self.mtu or underlay_mtu, underlay_mtu) - OVERHEAD

    def attrs(self, own: backend.Own) -> lease.LeaseAttrs:
        """PublicIP and the MAC of our device."""
        return lease.LeaseAttrs(
            public_ip=own.underlay.public_ip,
            backend_type=TYPE,
            backend_data=format_vxlan_data(VxlanData(vni=self.vni, mac=own.mac)),
        )

    def desired(
        self, own: backend.Own, peers: Mapping[lease.SubnetKey, lease.Lease]
    ) -> tuple[netstate.NetState, tuple[backend.Skipped, ...]]:
        """The device, its address, and the entries of every usable peer."""
        objects: list[netstate.KernelObject] = [
            netstate.VxlanLink(
                name=self.device,
                vni=self.vni,
                port=self.port,
                local=own.underlay.ip,  # not PublicIP: a NAT may own that one, and nothing would leave this host
                underlay=own.underlay.name,
                mac=own.mac,
                mtu=self.overlay_mtu(own.underlay.mtu),
                learning=self.learning,
                gbp=self.gbp,
                tx_checksum=own.tx_checksum,
            ),
            netstate.Address(link=self.device, interface=ipaddress.IPv4Interface((own.key.v4.network_address, 32))),
        ]
        usable, skipped = self._sift(own, peers)
        ways = underlay.RouteTable(own.underlay.routes)
        for peer in usable:
            objects.extend(self._entries(ways, peer))
        return frozenset(objects), tuple(skipped)

    def _sift(
        self, own: backend.Own, peers: Mapping[lease.SubnetKey, lease.Lease]
    ) -> tuple[list[_Peer], list[backend.Skipped]]:
        """Peers that can be programmed side by side. Of two that claim one thing the later written lease wins."""
        newest_first = sorted(peers.values(), key=lambda held: (-held.mod_revision, held.key.v4, str(held.key.v6)))
        vteps = sorted({own.underlay.ip, *(held.attrs.public_ip for held in newest_first)})
        usable: list[_Peer] = []
        skipped = []
        by_mac: dict[netstate.Mac, _Peer] = {}
        by_gateway: dict[ipaddress.IPv4Address, _Peer] = {}
        for held in newest_first:
            if held.key == own.key:
                continue
            try:
                peer = self._parse_peer(held.attrs, held.key.v4)
                _check(peer, own, vteps)
                _check_twins(peer, by_mac.get(peer.mac), by_gateway.get(peer.gateway))
            except errors.CodecError as exc:
                skipped.append(backend.Skipped(key=held.key, reason=str(exc)))
            else:
                by_mac[peer.mac] = by_gateway[peer.gateway] = peer
                usable.append(peer)
        return usable, sorted(skipped, key=lambda one: (one.key.v4, str(one.key.v6)))

    def _parse_peer(self, attrs: lease.LeaseAttrs, subnet: ipaddress.IPv4Network) -> _Peer:
        if attrs.backend_type != TYPE:
            raise errors.CodecError(f"backend type is {attrs.backend_type or 'udp or alloc'}, ours is {TYPE}")
        data = parse_vxlan_data(attrs.backend_data or "")
        if data.vni not in {None, self.vni}:
            raise errors.CodecError(f"VNI is {data.vni}, ours is {self.vni}")
        return _Peer(subnet=subnet, mac=data.mac, vtep_ip=attrs.public_ip)

    def _entries(self, ways: underlay.RouteTable, peer: _Peer) -> Iterable[netstate.KernelObject]:
        direct = ways.find_direct(peer.vtep_ip) if self.direct_routing else None
        if direct is not None:
            return (netstate.Route(destination=peer.subnet, gateway=peer.vtep_ip, link=direct.link, onlink=False),)
        return (
            netstate.Neighbour(link=self.device, ip=peer.gateway, mac=peer.mac),
            netstate.FdbEntry(link=self.device, mac=peer.mac, vtep_ip=peer.vtep_ip),
            netstate.Route(destination=peer.subnet, gateway=peer.gateway, link=self.device),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Peer:
    subnet: ipaddress.IPv4Network
    mac: netstate.Mac
    vtep_ip: ipaddress.IPv4Address

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The address of the peer's device: the first of its subnet."""
        return self.subnet.network_address


def _check(peer: _Peer, own: backend.Own, vteps: Sequence[ipaddress.IPv4Address]) -> None:
    """Raises CodecError where the peer's entries would harm us or the way to any VTEP; `vteps` is sorted."""
    if peer.subnet.overlaps(own.key.v4):
        raise errors.CodecError(f"its subnet overlaps ours, {own.key.v4}")
    if peer.vtep_ip in {own.underlay.public_ip, own.underlay.ip}:
        raise errors.CodecError(f"PublicIP {peer.vtep_ip} is our own")
    if not is_usable(peer.vtep_ip):
        raise errors.CodecError(f"PublicIP {peer.vtep_ip} is no host's address")
    if peer.mac == own.mac:
        raise errors.CodecError(f"VTEP MAC {peer.mac} is our own")
    at = bisect.bisect_left(vteps, peer.subnet.network_address)
    if at < len(vteps) and vteps[at] in peer.subnet:
        raise errors.CodecError(f"its subnet covers {vteps[at]}: packets to that tunnel end would go into the tunnel")


def _check_twins(peer: _Peer, same_mac: _Peer | None, same_gateway: _Peer | None) -> None:
    """Raises CodecError where the kernel could hold the entries of only one of two peers."""
    if same_mac is not None and same_mac.vtep_ip != peer.vtep_ip:
        raise errors.CodecError(f"VTEP MAC {peer.mac} is that of {same_mac.subnet} at {same_mac.vtep_ip} too")
    if same_gateway is not None:
        raise errors.CodecError(f"its subnet begins where {same_gateway.subnet} of {same_gateway.vtep_ip} does")


def parse_backend(options: Mapping[str, Any]) -> VxlanBackend:
    """The options under the network config's `Backend`, in any case; unknown ones are ignored, as flannel does.

    Raises ConfigInvalid.
    """
    folded = {name.casefold(): value for name, value in options.items()}
    try:
        made = VxlanBackend(
            vni=_number(folded, "VNI", default=1, low=1, high=MAX_VNI),
            port=_number(folded, "Port", default=0, low=0, high=65535) or DEFAULT_PORT,
            mtu=_number(folded, "MTU", default=0, low=0, high=65535) or None,
            gbp=_flag(folded, "GBP"),
            learning=_flag(folded, "Learning"),
            direct_routing=_flag(folded, "DirectRouting"),
        )
    except fields.FieldError as exc:
        raise errors.ConfigInvalid(f"network config, Backend: {exc}") from exc
    if made.mtu is not None and made.mtu - OVERHEAD < MIN_OVERLAY_MTU:
        raise errors.ConfigInvalid(
            f"network config, Backend: MTU is {made.mtu}, and IPv4 inside VXLAN needs {OVERHEAD + MIN_OVERLAY_MTU}"
        )
    return made


def parse_vxlan_data(text: str) -> VxlanData:
    """BackendData. Raises CodecError. Source: flannel pkg/backend/vxlan/vxlan.go, vxlanLeaseAttrs."""
    try:
        folded = {name.casefold(): value for name, value in fields.parse_object(text).items()}
        vni = folded.get("vni")
        if vni is not None:
            vni = _number(folded, "VNI", default=0, low=0, high=2**32 - 1)
        return VxlanData(vni=vni, mac=_parse_mac(fields.text(folded, "vtepmac")))
    except fields.FieldError as exc:
        raise errors.CodecError(f"BackendData: {exc}") from exc


def format_vxlan_data(data: VxlanData) -> str:
    """BackendData as flannel writes it: compact, VNI first."""
    return json.dumps({"VNI": data.vni or 0, "VtepMAC": data.mac}, separators=(",", ":"))


def is_usable(address: ipaddress.IPv4Address) -> bool:
    """Whether a VTEP can be at this address: a unicast one of a host."""
    return not (address.is_unspecified or address.is_loopback or address.is_multicast or int(address) >= 0xF0000000)


def _parse_mac(text: str) -> netstate.Mac:
    """The three notations that Go's net.ParseMAC takes for six bytes."""
    lower = text.lower()
    digits = re.sub(r"[:.-]", "", lower)
    if not _MAC_SHAPES.fullmatch(lower) or not _MAC_DIGITS.fullmatch(digits):
        raise fields.FieldError(f"VtepMAC: expected six bytes such as c6:d2:32:6f:8f:44, got {text[:40]!r}")
    if int(digits[:2], 16) & 1 or not int(digits, 16):
        raise fields.FieldError(f"VtepMAC: {text} is no unicast address")
    return netstate.Mac(":".join(digits[at : at + 2] for at in range(0, 12, 2)))


def _number(folded: Mapping[str, Any], name: str, *, default: int, low: int, high: int) -> int:
    value = folded.get(name.casefold())
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise fields.FieldError(f"{name}: expected a number from {low} to {high}, got {value!r}")
    return value


def _flag(folded: Mapping[str, Any], name: str) -> bool:
    try:
        return fields.flag(folded, name.casefold(), default=False)
    except fields.FieldError as exc:
        raise fields.FieldError(str(exc).replace(name.casefold(), name, 1)) from exc
