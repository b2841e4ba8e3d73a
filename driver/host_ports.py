"""The port through which ports of the host are reserved, so that nobody else listens there and we hear of who does.

Used by `driver.publishing`. Adapters: `host_ports_socket` and `host_ports_fake`, which pass the same contract suite.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from driver import ports
from overlay import firewall, netstate


class HostPorts(Protocol):
    """Safe to call from any thread; no call waits for anybody."""

    def reserve(self, port: ports.HostPort) -> bool:
        """Reserve a port; False if anybody has it, we included. From then on it is taken for everybody else.

        Raises PortTaken where this host has no such address, and OutOfDescriptors.
        """
        ...

    def reserve_any(self, protocol: firewall.Protocol, ip: netstate.IPAddress) -> ports.HostPort | None:
        """Reserve some port from the host's range for such; None if all are taken. Raises as `reserve`."""
        ...

    def reserve_again(self, port: ports.HostPort) -> bool:
        """Reserve what was ours before a restart: as `reserve`, but the host's address may be still to come."""
        ...

    def forget_flows(self, published: Collection[firewall.PublishedPort]) -> None:
        """Have clients looked at anew that speak to ports which are published, or no more, without a connection."""
        ...

    def forget_stale_flows(
        self, pools: Collection[netstate.IPNetwork], published: Collection[firewall.PublishedPort]
    ) -> None:
        """The same for clients whom a port that is published no more still leads to an address of these pools."""
        ...

    def release(self, port: ports.HostPort) -> None:
        """Give a port back; one that is not reserved is success."""
        ...

    def list_held(self) -> frozenset[ports.HostPort]:
        """What is reserved now."""
        ...
