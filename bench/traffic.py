"""What a container's packets pay on top of the host's own way over the vxlan device, to a container on another host.

Each round measures both, one after the other, in an order that turns each time. TCP throughput is iperf3's, run
in the containers and on the hosts. A round trip is one byte there and one back over one TCP connection, the median
of one second, asked by a small program of this machine (`bench.inside`) that is put into the network namespaces of
containers and hosts.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Iterator

import lab
from bench import figures, inside, rig
from lab import site

ROUNDS = 7
TCP_S = 3
TRIP_S = 1
PORT = 5201
TRIP_PORT = 5300
CONTAINER = "talker"


def measure(on: rig.Rig) -> Iterator[figures.Figure]:
    """Ratios by round, and the hosts' own figures to show what they are ratios of."""
    for host in (on.h1, on.h2):
        host.docker("run", "-d", "--name", CONTAINER, "--network", rig.NETWORK, lab.TOOLS, "sleep", "3600")
    containers, hosts = _Containers(on), _Hosts(on)
    for side in (containers, hosts):
        side.listen()
    fast = _pairs(containers.gigabits, hosts.gigabits)
    slow = _pairs(containers.trip_us, hosts.trip_us)
    for host in (on.h1, on.h2):
        host.docker("rm", "-f", CONTAINER)
    yield figures.median("tcp_vs_vxlan_host", "", [ours / theirs for ours, theirs in fast])
    yield figures.median("rtt_vs_vxlan_host", "", [ours / theirs for ours, theirs in slow])
    yield figures.median("tcp_vxlan_host_gbit", "Gbit/s", [theirs for _, theirs in fast])
    yield figures.median("rtt_vxlan_host_us", "us", [theirs for _, theirs in slow])


class _Hosts:
    """h1 to h2 from flannel.1 to flannel.1."""

    def __init__(self, on: rig.Rig) -> None:
        self._from, self._to = on.h1, on.h2
        self.address = _vtep(on.h2)

    def listen(self) -> None:
        """Start iperf3's server."""
        self._to.exec(["iperf3", "-s", "-D", "-B", self.address, "-p", str(PORT)])

    def gigabits(self) -> float:
        """One way, one connection."""
        return _gigabits(self._from.exec(_client(self.address), timeout_s=TCP_S + 20))

    def trip_us(self) -> float:
        """There and back."""
        return _trip_us(_net(self._from, 1), _net(self._to, 1), self.address)


class _Containers:
    """h1's container to h2's."""

    def __init__(self, on: rig.Rig) -> None:
        self._from, self._to = on.h1, on.h2
        self.address = site.ip_of(on.h2, CONTAINER, rig.NETWORK)

    def listen(self) -> None:
        """Start iperf3's server."""
        self._to.docker("exec", "-d", CONTAINER, "iperf3", "-s", "-p", str(PORT))

    def gigabits(self) -> float:
        """One way, one connection."""
        return _gigabits(self._from.docker("exec", CONTAINER, *_client(self.address), timeout_s=TCP_S + 20))

    def trip_us(self) -> float:
        """There and back."""
        return _trip_us(self._net_of(self._from), self._net_of(self._to), self.address)

    @staticmethod
    def _net_of(on: lab.Host) -> pathlib.Path:
        return _net(on, int(on.docker("inspect", "-f", "{{.State.Pid}}", CONTAINER)))


def _pairs(ours: Callable[[], float], theirs: Callable[[], float]) -> list[tuple[float, float]]:
    found = []
    for number in range(ROUNDS):
        if number % 2:
            second, first = theirs(), ours()
        else:
            first, second = ours(), theirs()
        found.append((first, second))
    return found


def _client(address: str) -> list[str]:
    return ["iperf3", "-c", address, "-p", str(PORT), "-t", str(TCP_S), "-O", "1", "-J", "--connect-timeout", "5000"]


def _gigabits(report: str) -> float:
    return float(json.loads(report)["end"]["sum_received"]["bits_per_second"]) / 1e9


def _trip_us(client: pathlib.Path, server: pathlib.Path, address: str) -> float:
    with inside.running(server, "serve", address, str(TRIP_PORT)):
        time.sleep(inside.BEGIN_S)
        with inside.running(client, "ask", address, str(TRIP_PORT), str(TRIP_S)) as asking:
            return inside.answer(asking, TRIP_S + 20)


def _net(on: lab.Host, pid: int) -> pathlib.Path:
    """The network namespace of a process on a host; its init's is the host's own."""
    return rig.process_dir(on, pid) / "ns/net"


def _vtep(on: lab.Host) -> str:
    said = json.loads(on.exec(["ip", "-j", "-4", "address", "show", "dev", "flannel.1"]))
    return str(said[0]["addr_info"][0]["local"])
