"""Ranges of published ports, as dockerd sends them for `-p 10000-20000:10000-20000/udp`: each port, in two lists."""

from __future__ import annotations

import concurrent.futures
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from driver import creation, network
from driver import endpoint as driver_endpoint
from plugin import http
from tests.plugin import memory_plugin

Plugin = memory_plugin.MemoryPlugin
IDS = {"NetworkID": memory_plugin.NETWORK_ID, "EndpointID": memory_plugin.ENDPOINT_ID}
EVERY_PORT = range(1, 65536)
LONGEST_IP = "2001:db8:1111:2222:3333:4444:5555:6666"


def body(numbers: range, host_ip: str = "") -> bytes:
    """Word for word what encoding/json makes of it. Source: moby daemon/libnetwork/types/types.go (PortBinding)."""
    exposed = [{"Proto": 17, "Port": number} for number in numbers]
    portmap = [
        {"Proto": 17, "IP": "", "Port": number, "HostIP": host_ip, "HostPort": number, "HostPortEnd": number}
        for number in numbers
    ]
    options = {"com.docker.network.endpoint.exposedports": exposed, "com.docker.network.portmap": portmap}
    told = {**IDS, "SandboxKey": "/var/run/docker/netns/b6f0529d4689", "Options": options}
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def call(plugin: Plugin, method: str, data: bytes) -> tuple[int, Any]:
    response = plugin.client().post(f"/NetworkDriver.{method}", data=data)
    return response.status_code, json.loads(response.data)


@pytest.mark.parametrize("host_ip", ["", LONGEST_IP])
def test_every_port_in_one_request_works_where_docker_publishes(plugin: Plugin, host_ip: str) -> None:
    memory_plugin.fill(plugin)
    data = body(EVERY_PORT, host_ip)
    assert len(data) < http.BODY_LIMIT
    status, answer = call(plugin, "Join", data)
    assert (status, answer["StaticRoutes"][0]["Destination"]) == (200, "10.2.0.0/16"), answer
    assert call(plugin, "ProgramExternalConnectivity", data) == (200, {})
    assert plugin.driver.endpoints()[0].published == ()


@pytest.fixture
def native(plugin: Plugin) -> Plugin:
    """With a container that publishes by the plugin."""
    memory_plugin.fill(plugin)
    (net,) = plugin.driver.networks()
    request = creation.Request(
        id=net.id,
        v4=(creation.PoolData(address_space="flannelpy", pool=net.pool, gateway=net.gateway),),
        options=network.parse_options({network.OPTION_GATEWAY: "native"}),
    )
    (end,) = plugin.driver.endpoints()
    plugin.driver.delete_network(net.id)
    plugin.driver.create_network(request)
    plugin.driver.create_endpoint(
        driver_endpoint.Endpoint(id=end.id, network_id=net.id, address=end.address, mac=end.mac)
    )
    return plugin


def test_a_range_is_published_whole_or_not_at_all_and_the_answer_says_why(native: Plugin) -> None:
    native.host_ports.most = 1000
    status, answer = call(native, "ProgramExternalConnectivity", body(range(10000, 11001)))
    assert (status, answer["Err"]) == (503, "1000 ports are reserved")
    assert native.host_ports.held == set()
    assert native.driver.endpoints()[0].published == ()
    assert call(native, "ProgramExternalConnectivity", body(range(10000, 11000))) == (200, {})
    assert len(native.driver.endpoints()[0].published) == 1000


def test_clients_of_a_range_are_looked_at_anew_all_at_once(native: Plugin) -> None:
    """A look at the kernel's flows takes 10 ms; one for each port of 10,001 took dockerd's patience."""
    asked: list[int] = []
    forget: Callable[[Any], None] = native.host_ports.forget_flows

    def count(published: Any) -> None:
        asked.append(len(published))
        forget(published)

    native.host_ports.forget_flows = count  # type: ignore[method-assign]
    call(native, "ProgramExternalConnectivity", body(range(10000, 10500)))
    call(native, "ProgramExternalConnectivity", body(range(10000, 10500)))
    call(native, "RevokeExternalConnectivity", json.dumps(IDS).encode())
    assert asked == [500, 500]


def test_large_bodies_are_answered_one_at_a_time_and_small_ones_meanwhile(plugin: Plugin) -> None:
    running, most, lock = [0], [0], threading.Lock()
    inside, go_on = threading.Event(), threading.Event()

    def join(told: Mapping[str, Any]) -> Mapping[str, Any]:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        inside.set()
        assert go_on.wait(10)
        with lock:
            running[0] -= 1
        return {}

    plugin.table["NetworkDriver.Join"] = join
    data = body(range(1, 20000))
    assert len(data) > http.SMALL_BODY
    app = plugin.client().application

    def ask(method: str, sent: bytes) -> int:
        return app.test_client().post(f"/NetworkDriver.{method}", data=sent).status_code

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        large = [pool.submit(ask, "Join", data) for _ in range(4)]
        assert inside.wait(10)
        assert ask("Leave", json.dumps(IDS).encode()) == 200
        go_on.set()
        assert [one.result(20) for one in large] == [200] * 4
    assert most == [1]
