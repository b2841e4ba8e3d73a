from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest

from driver import endpoint, errors, names, network
from overlay import netstate

NET = network.Network(
    id=names.NetworkId("4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e"),
    bridge=names.bridge_name(names.NetworkId("4d5d70de7705")),
    pool=ipaddress.IPv4Network("10.2.20.0/24"),
    gateway=ipaddress.IPv4Interface("10.2.20.1/24"),
    prefix="/coreos.com/network",
    overlay=ipaddress.IPv4Network("10.2.0.0/16"),
    device=netstate.IfName("flannel.1"),
    mtu=1450,
)
ENDPOINT_ID = names.EndpointId("1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809")

INTERFACE = {"SrcName": "fpc1a2299da1bc9", "DstPrefix": "eth"}
OVERLAY_ROUTE = {"Destination": "10.2.0.0/16", "RouteType": 0, "NextHop": "10.2.20.1"}
NATIVE: dict[str, Any] = {
    "InterfaceName": INTERFACE,
    "StaticRoutes": [],
    "Gateway": "10.2.20.1",
    "DisableGatewayService": True,
}
DOCKER: dict[str, Any] = {"InterfaceName": INTERFACE, "StaticRoutes": [OVERLAY_ROUTE]}
INTERNAL: dict[str, Any] = {
    "InterfaceName": INTERFACE,
    "StaticRoutes": [OVERLAY_ROUTE],
    "DisableGatewayService": True,
}


@pytest.mark.parametrize(
    ("mode", "internal", "publishes", "answer"),
    [
        (network.GatewayMode.AUTO, False, False, NATIVE),
        (network.GatewayMode.AUTO, False, True, DOCKER),
        (network.GatewayMode.NATIVE, False, False, NATIVE),
        (network.GatewayMode.DOCKER, False, False, DOCKER),
        (network.GatewayMode.DOCKER, False, True, DOCKER),
        (network.GatewayMode.AUTO, True, False, INTERNAL),
        (network.GatewayMode.AUTO, True, True, INTERNAL),
        (network.GatewayMode.NATIVE, True, True, INTERNAL),
        (network.GatewayMode.DOCKER, True, True, INTERNAL),
    ],
)
def test_join_tells_the_way_out(
    mode: network.GatewayMode, internal: bool, publishes: bool, answer: dict[str, Any]
) -> None:
    net = dataclasses.replace(NET, gateway_mode=mode, internal=internal)
    assert endpoint.format_join(ENDPOINT_ID, endpoint.choose_exit(net, publishes=publishes)) == answer


def test_a_native_network_refuses_published_ports_and_says_how_to_publish() -> None:
    net = dataclasses.replace(NET, gateway_mode=network.GatewayMode.NATIVE)
    with pytest.raises(errors.BadRequest) as caught:
        endpoint.choose_exit(net, publishes=True)
    assert str(caught.value) == (
        "flannelpy.gateway=native publishes no ports; use a network with flannelpy.gateway=auto for -p"
    )
