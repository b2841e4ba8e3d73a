"""What the host's packet filter must let through, rewrite and keep apart; as values and as rule text.

Pure. `driver.desired` makes a FirewallPlan, `reconciler` hands it to the firewall port. Two places, since a verdict
"accept" in one table never overrides a drop in another: masquerade and isolation are an nft table of our own;
permission to forward is a chain of our own in the iptables flavour(s) where the engine put its DROP.
Source: nft(8), iptables(8), moby daemon/libnetwork/iptables.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Protocol

from overlay import netstate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BridgeRules:
    """One Docker network's bridge: what may pass between it, the other links of its flannel network, and the rest.

    `overlay` is the whole flannel network (10.2.0.0/16), `subnet` the bridge's part of it, `device` its VTEP device.
    Bridges with the same `device` are one trust domain; bridges of different devices never reach each other.
    `internal`: nothing passes between the bridge and anything outside its flannel network.
    """

    bridge: netstate.IfName
    subnet: ipaddress.IPv4Network
    overlay: ipaddress.IPv4Network
    device: netstate.IfName
    internal: bool = False
    masquerade: bool = True


FirewallPlan = frozenset[BridgeRules]


class Firewall(Protocol):
    """The firewall port. Adapters: `firewall_exec` (nft, iptables-nft, iptables-legacy) and `firewall_fake`."""

    def ensure(self, plan: FirewallPlan) -> tuple[str, ...]:
        """Make the host's rules be those of `plan`; names each place that had to be written ("nft", "iptables-nft").

        Idempotent, and cheap when nothing is to do. An empty plan removes all that is ours. Raises KernelError.
        """
        ...
