"""The VXLAN backend: a device for each family, and per peer a neighbour, a forwarding entry and a route.

Pure. Made by `backend.choose_backend`. With DirectRouting a peer that no router is before gets a plain route.
Source: flannel pkg/backend/vxlan/vxlan.go, vxlan_network.go; RFC 7348.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from overlay import backend, backend_options, errors, fields, halves, lease, netstate, underlay, vxlan_data

TYPE = "vxlan"
OVERHEAD = {halves.V4: 50, halves.V6: 70}
"""Bytes that VXLAN adds, by the family below: Ethernet 14, VXLAN 8, UDP 8, and IPv4 20 or IPv6 40.

flannel counts 50 for both, which makes every full packet over IPv6 too large. Source: RFC 7348 §5.
"""

DEFAULT_PORT = 8472
"""The kernel's own default, which flannel means by 0; written out so that no kernel can change it."""

MAX_VNI = 2**24 - 1
OLD_VNI = 2**16 - 1
"""The most that flanneld before v0.24.0 can read in a lease; it skips peers with more."""

MAX_NAME = 15
MIN_OVERLAY_MTU = {halves.V4: 68, halves.V6: 1280}
"""The least that the family inside needs. Source: RFC 791 §3.2, RFC 8200 §5."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What one half of a lease comes to, if nobody objects."""

    held: lease.Lease
    peer: halves.PeerHalf
    entries: netstate.NetState


@dataclasses.dataclass(slots=True)
class _Memo:
    """What was made of each lease last time, by the lease's own identity, for this host as it was then.

    One peer's change would cost the parsing and hashing of thousands otherwise: 70 ms for 5,000.
    """

    last: tuple[backend.Own | None, Mapping[tuple[int, int], _Made]] = (None, {})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VxlanBackend:
    """The options of a vxlan network. Units: `mtu` bytes of the underlay, None to take the link's own."""

    vni: int = 1
    port: int = DEFAULT_PORT
    mtu: int | None = None
    gbp: bool = False
    learning: bool = False
    direct_routing: bool = False
    _memo: _Memo = dataclasses.field(default_factory=_Memo, init=False, compare=False, repr=False)

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

    @property
    def warnings(self) -> tuple[str, ...]:
        """A VNI that old peers cannot read."""
        if self.vni <= OLD_VNI:
            return ()
        return (f"VNI is {self.vni}: flanneld before v0.24.0 reads at most {OLD_VNI} and leaves this host out",)

    def overlay_mtu(self, own: backend.Own) -> int:
        """The MTU less the overhead of the families in use; never more than the link carries."""
        return min((self._device_mtu(own, version) for version in halves.own_halves(own)), default=0)

    def check_underlay(self, own: backend.Own) -> None:
        """Raises ConfigInvalid where the MTU is more than the link carries, or too small for IPv6."""
        name, carried = own.underlay.name, own.underlay.mtu
        if self.mtu is not None and self.mtu > carried:
            raise errors.ConfigInvalid(
                f"network config, Backend: MTU is {self.mtu}, but {name} carries {carried}: at most {carried}"
            )
        for version in halves.own_halves(own):
            _check_room(version, min(self.mtu or carried, carried), f"interface {name}: MTU")

    def attrs(self, own: backend.Own) -> lease.LeaseAttrs:
        """The public addresses and the MACs of our devices.

        BackendData is there even where this host is of IPv6 alone: flanneld leaves out a peer of which one half of
        the data is missing.
        """
        v6 = None if own.key.v6 is None else own.underlay.v6
        return lease.LeaseAttrs(
            public_ip=own.underlay.public_ip,
            public_ipv6=None if v6 is None else v6.public_ip,
            backend_type=TYPE,
            backend_data=self._format_data(_mac(own, halves.V4)),
            backend_v6_data=None if v6 is None else self._format_data(_mac(own, halves.V6)),
        )

    def desired(
        self, own: backend.Own, peers: Mapping[lease.SubnetKey, lease.Lease]
    ) -> tuple[netstate.NetState, tuple[backend.Skipped, ...]]:
        """For each family the device, its address, and the entries of every usable peer."""
        everybody = halves.sort_peers(own, peers)
        ours, skipped = halves.split_by_type(everybody, TYPE)
        own_halves = halves.own_halves(own)
        skipped += halves.find_strangers(ours, own_halves)
        ways = underlay.RouteTable(own.underlay.routes)
        objects: list[netstate.KernelObject] = []
        entries: list[netstate.NetState] = []
        before, known = self._memo.last  # in one go: another thread may be at it
        known = known if before == own else {}
        made: dict[tuple[int, int], _Made] = {}
        for version, half in own_halves.items():
            device = self._make_device(own, half)
            objects += (device, netstate.Address(link=device.name, interface=_host_interface(half.subnet)))
            if version == halves.V6:
                objects.append(_enable_ipv6(device.name))
            sieve = halves.Sieve(half, everybody, device.mac)
            for held in ours:
                if not halves.has_half(held, version):
                    continue
                try:
                    one = known.get((id(held), version))
                    if one is None or one.held is not held:
                        peer = self._parse_peer(held, version)
                        sieve.check_range(peer)
                        one = _Made(held=held, peer=peer, entries=frozenset(self._entries(device.name, ways, peer)))
                    made[id(held), version] = one
                    sieve.check(one.peer)
                except errors.CodecError as exc:
                    skipped.append(halves.skip(held.key, version, exc))
                else:
                    entries.append(one.entries)
        self._memo.last = (own, made)
        return frozenset(objects).union(*entries), halves.sort_skipped(skipped)

    def _make_device(self, own: backend.Own, half: halves.OwnHalf) -> netstate.VxlanLink:
        v6 = half.ip.version == halves.V6
        return netstate.VxlanLink(
            name=self.device_v6 if v6 else self.device,
            vni=self.vni,
            port=self.port,
            local=half.ip,  # not PublicIP: a NAT may own that one, and nothing would leave this host
            underlay=own.underlay.name,
            mac=_mac(own, half.ip.version),
            mtu=self._device_mtu(own, half.ip.version),
            learning=self.learning,
            gbp=self.gbp,
            tx_checksum=own.tx_checksum,
        )

    def _device_mtu(self, own: backend.Own, version: int) -> int:
        return min(self.mtu or own.underlay.mtu, own.underlay.mtu) - OVERHEAD[version]

    def _format_data(self, mac: netstate.Mac) -> str:
        return vxlan_data.format_vxlan_data(vxlan_data.VxlanData(vni=self.vni, mac=mac))

    def _parse_peer(self, held: lease.Lease, version: int) -> halves.PeerHalf:
        subnet, public_ip = halves.subnet_and_ip(held, version)
        if version == halves.V6:
            data = vxlan_data.parse_vxlan_data(held.attrs.backend_v6_data or "", "BackendV6Data")
        else:
            data = vxlan_data.parse_vxlan_data(held.attrs.backend_data or "")
        if data.vni not in {None, self.vni}:
            raise errors.CodecError(f"VNI is {data.vni}, ours is {self.vni}")
        return halves.PeerHalf(key=held.key, subnet=subnet, public_ip=public_ip, mac=data.mac)

    def _entries(
        self, device: netstate.IfName, ways: underlay.RouteTable, peer: halves.PeerHalf
    ) -> Iterable[netstate.KernelObject]:
        direct = ways.find_direct(peer.public_ip) if self.direct_routing else None
        if direct is not None:
            yield netstate.Route(destination=peer.subnet, gateway=peer.public_ip, link=direct.link, onlink=False)
        elif peer.mac is not None:
            yield netstate.Neighbour(link=device, ip=peer.gateway, mac=peer.mac)
            yield netstate.FdbEntry(link=device, mac=peer.mac, vtep_ip=peer.public_ip)
            yield netstate.Route(destination=peer.subnet, gateway=peer.gateway, link=device)


def parse_backend(options: Mapping[str, Any], *, with_v6: bool = False) -> VxlanBackend:
    """The options under the network config's `Backend`, in any case; unknown ones are ignored, as flannel does.

    Raises ConfigInvalid.
    """
    read = backend_options.Options(options)
    try:
        made = VxlanBackend(
            vni=read.number("VNI", default=1, low=1, high=MAX_VNI),
            port=read.number("Port", default=0, low=0, high=65535) or DEFAULT_PORT,
            mtu=read.number("MTU", default=0, low=0, high=65535) or None,
            gbp=read.flag("GBP"),
            learning=read.flag("Learning"),
            direct_routing=read.flag("DirectRouting"),
        )
    except fields.FieldError as exc:
        raise errors.ConfigInvalid(f"network config, Backend: {exc}") from exc
    for version in (halves.V4, halves.V6) if with_v6 else (halves.V4,):
        _check_name(made.device_v6 if version == halves.V6 else made.device, made.vni)
        if made.mtu is not None:
            _check_room(version, made.mtu, "network config, Backend: MTU")
    return made


def _mac(own: backend.Own, version: int) -> netstate.Mac:
    return own.mac if version == halves.V4 or own.mac_v6 is None else own.mac_v6


def _check_name(device: netstate.IfName, vni: int) -> None:
    """flannel names the devices, and the kernel takes at most 15 characters. Source: netdevice(7), IFNAMSIZ."""
    if len(device) > MAX_NAME:
        most = 10 ** (MAX_NAME - len(device) + len(str(vni))) - 1
        raise errors.ConfigInvalid(
            f"network config, Backend: VNI is {vni}, and a device cannot be called {device}: at most {most}"
        )


def _check_room(version: int, mtu: int, what: str) -> None:
    least = MIN_OVERLAY_MTU[version] + OVERHEAD[version]
    if mtu < least:
        raise errors.ConfigInvalid(f"{what} is {mtu}, and IPv{version} inside VXLAN needs {least}")


def _host_interface(subnet: netstate.IPNetwork) -> netstate.IPInterface:
    """The first address of the subnet, alone: peers use it as their gateway to us."""
    return ipaddress.ip_interface((subnet.network_address.packed, subnet.max_prefixlen))


def _enable_ipv6(device: netstate.IfName) -> netstate.Sysctl:
    """A host may have IPv6 switched off for new links, and then the device takes no address."""
    return netstate.Sysctl(key=f"net.ipv6.conf.{device.replace('.', '/')}.disable_ipv6", value="0")
