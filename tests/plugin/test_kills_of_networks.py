"""The worker killed -9 at every fault point that the calls about a network pass, and while it starts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plugin import kills

pytestmark = [pytest.mark.contract, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def hosts() -> Iterator[kills.Hosts]:
    made = kills.Hosts()
    yield made
    made.drop()


def live(host: kills.Host) -> None:
    """docker network create, docker network rm."""
    net = host.engine.network_create(host.pools[1], {})
    host.engine.network_rm(net)


@pytest.mark.parametrize(
    "method",
    [
        "IpamDriver.RequestPool",
        "IpamDriver.RequestAddress",
        "NetworkDriver.CreateNetwork",
        "IpamDriver.ReleaseAddress",
        "IpamDriver.ReleasePool",
        "NetworkDriver.DeleteNetwork",
    ],
)
def test_a_kill_within_a_call_about_a_network_leaves_nothing(hosts: kills.Hosts, method: str) -> None:
    assert kills.first(kills.check_every_point(hosts, method, live)) == []


def test_a_kill_at_any_point_of_the_start_changes_nothing(hosts: kills.Hosts) -> None:
    assert kills.first(kills.check_every_start(hosts)) == []
