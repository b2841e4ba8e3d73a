"""The backend port: how packets get from one node of a flannel network to another.

Pure. `node` asks a backend what this host publishes in its lease and which kernel objects the leases of the peers
come to; the kernel itself is the reconciler's business. A further way to carry packets (host-gw, WireGuard, a tc fast
path) is a further class here and a line in `choose_backend`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from overlay import errors, kernel, lease, netconfig, netstate, underlay


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """This host as its backend sees it: its lease's subnet, the link below, and the MACs of its tunnel devices.

    `mac_v6` is that of the IPv6 device; None for a lease of IPv4 alone. `tx_checksum`: whether the tunnel devices may
    leave the checksums of what containers send to the hardware below. `networks` are the flannel network's ranges, of
    each family one, in which the subnets of peers must lie; any do where there are none. `host_ranges`: what other
    links of this host have of them.
    """

    key: lease.SubnetKey
    underlay: underlay.Underlay
    mac: netstate.Mac
    mac_v6: netstate.Mac | None = None
    tx_checksum: bool = True
    networks: tuple[netstate.IPNetwork, ...] = ()
    host_ranges: tuple[kernel.HostRange, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A peer that gets no kernel objects, and why."""

    key: lease.SubnetKey
    reason: str

    def __str__(self) -> str:
        return f"{lease.format_subnet_key(self.key)}: {self.reason}"


class Backend(Protocol):
    """One way to carry packets. Made by `choose_backend` from the network config, so it knows its options."""

    @property
    def device(self) -> netstate.IfName:
        """The link that carries nothing but this flannel network's IPv4; "" where there is none (host-gw)."""
        ...

    @property
    def device_v6(self) -> netstate.IfName:
        """The same for IPv6."""
        ...

    @property
    def needs_routes(self) -> bool:
        """Whether what peers come to depends on `Underlay.routes`."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should know of these options, a line each."""
        ...

    def overlay_mtu(self, own: Own) -> int:
        """What is left for packets of the overlay in every family of the lease. Units: bytes."""
        ...

    def check_underlay(self, own: Own) -> None:
        """Asked before this host joins: whether the link below can do what the options ask for.

        A host that is a member goes on as well as it can instead. Raises ConfigInvalid.
        """
        ...

    def attrs(self, own: Own) -> lease.LeaseAttrs:
        """What this host publishes. `own.key` is not looked at: the lease may not be there yet."""
        ...

    def desired(
        self, own: Own, peers: Mapping[lease.SubnetKey, lease.Lease]
    ) -> tuple[netstate.NetState, tuple[Skipped, ...]]:
        """The kernel state that connects this host with `peers`, and the peers left out of it.

        A lease under our own key is us, and neither a peer nor skipped. One bad peer never costs another its entries.
        """
        ...


FOREIGN = frozenset({"udp", "alloc", "extension", "ipip", "ipsec", "wireguard", "tencent-vpc"})
"""Backends of flannel's that are not spoken here."""


def choose_backend(config: netconfig.NetworkConfig) -> Backend:
    """The backend that the network config asks for. Raises ConfigInvalid for one that this host cannot speak."""
    from overlay import backend_hostgw, backend_vxlan  # they need the values above

    match config.backend_type:
        case "vxlan":
            return backend_vxlan.parse_backend(config.backend, with_v6=config.v6 is not None)
        case "host-gw":
            return backend_hostgw.HostGwBackend()
        case foreign if foreign in FOREIGN:
            raise errors.ConfigInvalid(f'flannel\'s backend "{foreign}" is not spoken here: {netconfig.CHOICE}')
        case unknown:
            raise errors.ConfigInvalid(f"backend type {unknown!r} is none of flannel's: {netconfig.CHOICE}")
