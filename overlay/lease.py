"""Leases as flannel writes them: the values, and the codec between them and etcd's keys and texts.

Pure. The registry adapters call the codec; everything else sees only `Lease`, `SubnetKey`, `LeaseAttrs`.
Source: flannel pkg/subnet/subnet.go, pkg/lease/lease.go.
"""

from __future__ import annotations

import dataclasses
import ipaddress


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SubnetKey:
    """Which subnet a lease is about, and so its key: `10.2.20.0-24` or `10.2.20.0-24&fd00:12:13::-56`."""

    v4: ipaddress.IPv4Network
    v6: ipaddress.IPv6Network | None = None


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
class HeldSubnet:
    """What the rooms above need to know of this host's lease in one flannel network.

    Shape: `subnet` lies in `network`; both IPv4. `device` is the VTEP device's name. Units: `overlay_mtu` bytes.
    """

    prefix: str
    network: ipaddress.IPv4Network
    subnet: ipaddress.IPv4Network
    device: str
    overlay_mtu: int
