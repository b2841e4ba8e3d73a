"""The plugin and its worker killed -9 where both families, --internal, enable_icc=false and UDP flows are at work.

A sample, one point and one victim at a time; every point of the same calls over IPv4 is in the other two files.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from overlay import faults
from tests.plugin import engine_model, kills

pytestmark = [pytest.mark.contract, pytest.mark.timeout(300)]

CLOSED = {"com.docker.network.bridge.enable_icc": "false"}
DNS = {"Proto": 17, "IP": "", "Port": 53, "HostIP": "", "HostPort": 8053, "HostPortEnd": 8053}
PORTS = {"com.docker.network.portmap": [engine_model.HTTP, DNS]}
ASK = "for host in 192.0.2.1 2001:db8::1; do echo > /dev/udp/$host/8053; done"
"""What makes the kernel track a flow to the published port, in each family."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[kills.Hosts]:
    made = kills.Hosts(NETWORK_CONFIG=kills.DUAL)
    yield made
    made.drop()


def live_closed(host: kills.Host) -> None:
    """docker network create --ipv6 --internal, docker run, docker rm, docker network rm."""
    net = host.engine.network_create(host.pools[1], CLOSED, pool_v6=host.pools_v6[1], internal=True)
    try:
        one = host.engine.run(net, {})
        host.engine.rm(net, one)
    finally:
        host.engine.network_rm(net)


def live_published(host: kills.Host) -> None:
    """docker run -p, docker rm, with a client that sends all the time."""
    host.run("bash", "-c", ASK)
    one = host.engine.run(host.net, PORTS)
    host.run("bash", "-c", ASK)
    host.engine.rm(host.net, one)


@pytest.mark.parametrize(
    ("method", "point", "nth", "victim"),
    [
        ("IpamDriver.RequestPool", "state.commit.before", 2, "worker"),
        ("IpamDriver.RequestPool", "state.commit.after", 2, "plugin"),
        ("IpamDriver.RequestAddress", "state.commit.after", 2, "plugin"),  # the IPv6 gateway
        ("IpamDriver.RequestAddress", "state.commit.after", 4, "worker"),  # the container's IPv6 address
        ("NetworkDriver.CreateNetwork", "kernel.link.after", 1, "plugin"),
        ("NetworkDriver.CreateNetwork", "kernel.sysctl.before", 2, "worker"),
        ("NetworkDriver.CreateNetwork", "kernel.sysctl.after", 3, "plugin"),
        ("NetworkDriver.CreateNetwork", "kernel.entries.before", 1, "worker"),
        ("NetworkDriver.CreateNetwork", "firewall.write.after", 1, "plugin"),
        ("NetworkDriver.CreateEndpoint", "state.commit.after", 1, "plugin"),
        ("NetworkDriver.CreateEndpoint", "kernel.link.after", 1, "worker"),
        ("NetworkDriver.Join", "state.commit.after", 1, "plugin"),
        ("NetworkDriver.Leave", "state.commit.after", 1, "plugin"),
        ("NetworkDriver.DeleteEndpoint", "state.commit.before", 1, "plugin"),
        ("IpamDriver.ReleaseAddress", "state.commit.after", 2, "worker"),
        ("IpamDriver.ReleaseAddress", "state.commit.before", 4, "plugin"),
        ("IpamDriver.ReleasePool", "state.commit.after", 1, "plugin"),
        ("IpamDriver.ReleasePool", "state.commit.before", 2, "worker"),
        ("NetworkDriver.DeleteNetwork", "kernel.link.after", 1, "plugin"),
        ("NetworkDriver.DeleteNetwork", "firewall.write.after", 1, "worker"),
    ],
)
def test_a_kill_within_the_life_of_a_closed_network_of_both_families_leaves_nothing(
    hosts: kills.Hosts, method: str, point: str, nth: int, victim: str
) -> None:
    assert kills.check_point(hosts, method, kills.Point(point, nth), victim, live_closed) == ""


@pytest.mark.parametrize(
    ("method", "point", "nth", "victim"),
    [
        ("NetworkDriver.ProgramExternalConnectivity", "port.reserve.before", 3, "worker"),
        ("NetworkDriver.ProgramExternalConnectivity", "port.reserve.after", 4, "plugin"),
        ("NetworkDriver.ProgramExternalConnectivity", "kernel.flow.before", 1, "worker"),
        ("NetworkDriver.ProgramExternalConnectivity", "kernel.flow.after", 2, "plugin"),
        ("NetworkDriver.EndpointOperInfo", "handler.after", 1, "plugin"),
        ("NetworkDriver.RevokeExternalConnectivity", "kernel.flow.before", 1, "plugin"),
        ("NetworkDriver.RevokeExternalConnectivity", "kernel.flow.after", 2, "worker"),
        ("NetworkDriver.RevokeExternalConnectivity", "port.release.before", 2, "plugin"),
    ],
)
def test_a_kill_while_ports_of_both_families_are_published_leaves_nothing(
    hosts: kills.Hosts, method: str, point: str, nth: int, victim: str
) -> None:
    assert kills.check_point(hosts, method, kills.Point(point, nth), victim, live_published) == ""


def test_every_fault_point_is_passed_where_the_plugin_is_killed(hosts: kills.Hosts) -> None:
    """Those of etcd and of devices' features in test_kills_of_the_first_lease; there is no firewalld here."""
    host = hosts.get()
    passed = host.record(lambda: (live_closed(host), live_published(host)))
    elsewhere = {"etcd.request", "kernel.feature", "firewall.consent"}
    assert {point.rpartition(".")[0] for _, point in passed} == set(faults.POINTS) - elsewhere
