"""The worker killed -9 at every fault point that the calls about a container pass: nothing leaks."""

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
    """docker run, docker rm."""
    one = host.engine.run(host.net)
    host.engine.rm(host.net, one)


@pytest.mark.parametrize(
    "method",
    [
        "IpamDriver.RequestAddress",
        "NetworkDriver.CreateEndpoint",
        "NetworkDriver.Join",
        "NetworkDriver.ProgramExternalConnectivity",
        "NetworkDriver.EndpointOperInfo",
        "NetworkDriver.RevokeExternalConnectivity",
        "NetworkDriver.Leave",
        "NetworkDriver.DeleteEndpoint",
        "IpamDriver.ReleaseAddress",
    ],
)
def test_a_kill_within_a_call_about_a_container_leaves_nothing(hosts: kills.Hosts, method: str) -> None:
    assert kills.first(kills.check_every_point(hosts, method, live)) == []


@pytest.mark.parametrize("method", ["NetworkDriver.Join", "NetworkDriver.ProgramExternalConnectivity"])
def test_a_kill_followed_by_an_older_engines_calls_leaves_nothing(hosts: kills.Hosts, method: str) -> None:
    """Before 27 a failed Join is not followed by a Leave."""
    assert kills.first(kills.check_every_point(hosts, method, live, modern=False)) == []


def test_a_kill_of_what_follows_a_removed_container_in_the_background_leaves_nothing(hosts: kills.Hosts) -> None:
    assert kills.first(kills.check_every_point(hosts, "reconciler", live)) == []
