"""Ports of the host reserved by sockets that are bound to them, in the network namespace of the calling thread.

Bound, and never listening: who comes while the packet filter does not redirect (a flush, ::1) is refused and does not
hang. So that a bound socket is in everybody's way, SO_REUSEADDR must be off; so that connections that somebody closed
a minute ago are not in ours, it must be on while we bind. Sockets go with the process, whatever ends it.
Source: socket(7), ip(7), ipv6(7), net/ipv4/inet_connection_sock.c (inet_csk_bind_conflict).
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import resource
import socket
import threading
from collections.abc import Callable, Collection

from driver import errors, network, ports
from overlay import conntrack, faults, firewall, netstate

log = logging.getLogger(__name__)

_KINDS = {firewall.Protocol.TCP: socket.SOCK_STREAM, firewall.Protocol.UDP: socket.SOCK_DGRAM}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # linux/in.h, linux/in6.h
_UNLIMITED = 1 << 20  # fs.nr_open, above which no limit counts
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

DESCRIPTOR_RESERVE = 1024
"""Descriptors, at most a quarter of all, that reserved ports leave to the plugin's own work: the engine's calls,
netlink, tools, and etcd, whose client ends the process for want of one."""


class HostPortsSocket:
    """See `host_ports.HostPorts`. `descriptors`: how many this process may have; None: as its limit says."""

    def __init__(self, descriptors: int | None = None) -> None:
        limit = descriptors or _descriptor_limit()
        self._most = limit - min(DESCRIPTOR_RESERVE, limit // 4)
        self._lock = threading.Lock()
        self._sockets: dict[ports.HostPort, socket.socket] = {}

    def reserve(self, port: ports.HostPort) -> bool:
        """See `host_ports.HostPorts.reserve`."""
        return self._hold(port, absent=False) is not None

    def reserve_any(self, protocol: firewall.Protocol, ip: netstate.IPAddress) -> ports.HostPort | None:
        """See `host_ports.HostPorts.reserve_any`."""
        return self._hold(ports.HostPort(protocol=protocol, ip=ip, number=0), absent=False)

    def reserve_again(self, port: ports.HostPort) -> bool:
        """See `host_ports.HostPorts.reserve_again`."""
        return self._hold(port, absent=True) is not None

    def forget_flows(self, published: Collection[firewall.PublishedPort]) -> None:
        """See `host_ports.HostPorts.forget_flows`."""
        _look_anew(ports.format_all(published), lambda: conntrack.forget_flows(published))

    def forget_stale_flows(
        self, pools: Collection[netstate.IPNetwork], published: Collection[firewall.PublishedPort]
    ) -> None:
        """See `host_ports.HostPorts.forget_stale_flows`."""
        _look_anew("ports of an earlier life", lambda: conntrack.forget_stale_flows(pools, published))

    def release(self, port: ports.HostPort) -> None:
        """See `host_ports.HostPorts.release`."""
        with self._lock:
            held = self._sockets.pop(port, None)
        if held is not None:
            faults.reached("port.release.before")
            held.close()
            faults.reached("port.release.after")

    def list_held(self) -> frozenset[ports.HostPort]:
        """See `host_ports.HostPorts.list_held`."""
        with self._lock:
            return frozenset(self._sockets)

    def close(self) -> None:
        """Give all of them back."""
        with self._lock:
            held = list(self._sockets)
        for port in held:
            self.release(port)

    def _hold(self, port: ports.HostPort, *, absent: bool) -> ports.HostPort | None:
        """What is reserved, which is `port` but for its number where that is 0; None if it is taken."""
        with self._lock:
            count = len(self._sockets)
        if count >= self._most:
            raise errors.OutOfDescriptors(self._explain_shortage(port, f"{count} ports are reserved"))
        try:
            sock = socket.socket(_FAMILIES[port.ip.version], _KINDS[port.protocol])
            try:
                _bind(sock, port, absent=absent)
            except BaseException:
                sock.close()
                raise
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                return None
            if exc.errno in _SHORTAGES:
                raise errors.OutOfDescriptors(self._explain_shortage(port, exc.strerror or str(exc))) from exc
            where = f"{ports.format_host(port.ip)}:{port.number}"
            hint = "; it is no address of this host" if exc.errno == errno.EADDRNOTAVAIL else ""
            raise errors.PortTaken(f"Bind for {where} failed: {exc.strerror}{hint}") from exc
        held = ports.HostPort(protocol=port.protocol, ip=port.ip, number=sock.getsockname()[1])
        with self._lock:
            self._sockets[held] = sock
        return held

    def _explain_shortage(self, port: ports.HostPort, reason: str) -> str:
        return (
            f"Bind for {ports.format_host(port.ip)}:{port.number} failed: {reason}, and each needs a descriptor: "
            f"{self._most} ports at most with this process's limit (LimitNOFILE of containerd, or of its unit); "
            f"publish fewer, or use a network with {network.OPTION_GATEWAY}=auto, where Docker publishes"
        )


def _descriptor_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def _look_anew(at: str, forget: Callable[[], int]) -> None:
    """Forget flows, and say so. What fails costs some of their clients a while."""
    try:
        forgotten = forget()
    except OSError as exc:
        log.warning("clients of %s not looked at anew: %s", at, exc.strerror or exc)
        return
    if forgotten:
        log.info("clients of %s looked at anew flows=%d", at, forgotten)


def _bind(sock: socket.socket, port: ports.HostPort, *, absent: bool) -> None:
    if isinstance(port.ip, ipaddress.IPv6Address):
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if absent:
        level, option = (
            (socket.IPPROTO_IPV6, _IPV6_FREEBIND) if port.ip.version == 6 else (socket.SOL_IP, _IP_FREEBIND)
        )
        sock.setsockopt(level, option, 1)
    if port.number and port.protocol is firewall.Protocol.TCP:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    faults.reached("port.reserve.before")
    sock.bind((str(port.ip), port.number))
    faults.reached("port.reserve.after")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
