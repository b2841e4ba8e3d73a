"""Options of Docker's own drivers that flannelpy does not have, and what to use in their place.

Pure. Used by `driver.network`. Users set them by habit; a value that asks for what is so anyway is let by.
Source: moby daemon/libnetwork/drivers/bridge/labels.go, daemon/libnetwork/netlabel/labels.go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

_NO = frozenset({"", "0", "f", "F", "false", "FALSE", "False"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """An option that is refused, but for the values that are `harmless`."""

    why: str
    harmless: frozenset[str] = frozenset({""})


_MODE: Final = Foreign(
    why="a flannelpy network is as nat; in place of routed use "
    "-o com.docker.network.bridge.enable_ip_masquerade=false -o flannelpy.outside=allow, in place of isolated "
    "--internal",
    harmless=frozenset({"", "nat"}),
)
_SOURCE: Final = Foreign(why="what leaves the overlay has the address of the interface that it leaves by")

FOREIGN: Final[Mapping[str, Foreign]] = {
    "com.docker.network.bridge.default_bridge": Foreign(
        why="only docker0 is the network that containers join unasked; use docker run --network NAME", harmless=_NO
    ),
    "com.docker.network.bridge.gateway_mode_ipv4": _MODE,
    "com.docker.network.bridge.gateway_mode_ipv6": _MODE,
    "com.docker.network.bridge.host_binding_ipv4": Foreign(
        why="say it where the port is published: -p ADDRESS:PORT:PORT",
        harmless=frozenset({"", "0.0.0.0"}),  # noqa: S104
    ),
    "com.docker.network.bridge.inhibit_ipv4": Foreign(
        why="the bridge needs an address, since peers are reached through it; for a network without a way out use "
        "--internal, for another address --gateway",
        harmless=_NO,
    ),
    "com.docker.network.bridge.trusted_host_interfaces": Foreign(
        why="only the flannel network and this host reach a container by its own address; use -p, or "
        "-o flannelpy.outside=allow"
    ),
    "com.docker.network.driver.overlay.vxlanid_list": Foreign(
        why="the VNI is in the flannel network's config in etcd, see --ipam-opt flannelpy.prefix"
    ),
    "com.docker.network.host_ipv4": _SOURCE,
    "com.docker.network.host_ipv6": _SOURCE,
    "encrypted": Foreign(why="VXLAN carries packets as they are; encrypt the wire below, or what the containers say"),
}
