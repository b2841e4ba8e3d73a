"""Ports of a host in memory: for tests and for trying things out.

Passes tests/driver/test_host_ports.py as `host_ports_socket` does.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Collection

from driver import errors, ports
from overlay import firewall, netstate

EPHEMERAL = range(32768, 61000)
"""The kernel's own default. Source: kernel Documentation/networking/ip-sysctl.rst, ip_local_port_range."""


class HostPortsFake:
    """See `host_ports.HostPorts`. `others` are what other processes have; `addresses` the host's own; `most` as many
    ports can be reserved.

    `forgotten`: the ports whose clients were looked at anew, in order; `kept_flows`: the pools whose were,
    and the ports whose were not.
    """

    def __init__(self, *addresses: netstate.IPAddress) -> None:
        self.addresses = set(addresses)
        self.others: set[ports.HostPort] = set()
        self.held: set[ports.HostPort] = set()
        self.most: int | None = None
        self.forgotten: list[firewall.PublishedPort] = []
        self.kept_flows: tuple[tuple[netstate.IPNetwork, ...], tuple[firewall.PublishedPort, ...]] | None = None
        self._lock = threading.Lock()

    def reserve(self, port: ports.HostPort) -> bool:
        """See `host_ports.HostPorts.reserve`."""
        self._require_address(port)
        return self.reserve_again(port)

    def reserve_any(self, protocol: firewall.Protocol, ip: netstate.IPAddress) -> ports.HostPort | None:
        """See `host_ports.HostPorts.reserve_any`."""
        tries = (ports.HostPort(protocol=protocol, ip=ip, number=number) for number in EPHEMERAL)
        return next((port for port in tries if self.reserve(port)), None)

    def reserve_again(self, port: ports.HostPort) -> bool:
        """See `host_ports.HostPorts.reserve_again`."""
        with self._lock:
            if self.most is not None and len(self.held) >= self.most:
                raise errors.OutOfDescriptors(f"{len(self.held)} ports are reserved")
            if any(_overlap(port, other) for other in self.held | self.others):
                return False
            self.held.add(port)
        return True

    def forget_flows(self, published: Collection[firewall.PublishedPort]) -> None:
        """See `host_ports.HostPorts.forget_flows`."""
        self.forgotten += published

    def forget_stale_flows(
        self, pools: Collection[netstate.IPNetwork], published: Collection[firewall.PublishedPort]
    ) -> None:
        """See `host_ports.HostPorts.forget_stale_flows`."""
        self.kept_flows = (tuple(pools), tuple(published))

    def release(self, port: ports.HostPort) -> None:
        """See `host_ports.HostPorts.release`."""
        with self._lock:
            self.held.discard(port)

    def list_held(self) -> frozenset[ports.HostPort]:
        """See `host_ports.HostPorts.list_held`."""
        with self._lock:
            return frozenset(self.held)

    def _require_address(self, port: ports.HostPort) -> None:
        if not port.ip.is_unspecified and not port.ip.is_loopback and port.ip not in self.addresses:
            where = f"{ports.format_host(port.ip)}:{port.number}"
            raise errors.PortTaken(
                f"Bind for {where} failed: Cannot assign requested address; it is no address of this host"
            )


def _overlap(one: ports.HostPort, other: ports.HostPort) -> bool:
    """An unspecified address is all of its family."""
    same = dataclasses.replace(one, ip=other.ip) == other and one.ip.version == other.ip.version
    return same and (one.ip == other.ip or one.ip.is_unspecified or other.ip.is_unspecified)
