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
LEASES = (ipaddress.IPv4Network("10.2.20.0/24"), ipaddress.IPv6Network("fd00:2:0:14::/64"))
ENDPOINT_ID = names.EndpointId("1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809")
CONTAINER_END = netstate.IfName("fpc1a2299da1bc9")

INTERFACE = {"SrcName": "fpc1a2299da1bc9", "DstPrefix": "eth"}
OVERLAY_ROUTE = {"Destination": "10.2.0.0/16", "RouteType": 0, "NextHop": "10.2.20.1"}
NATIVE: dict[str, Any] = {
    "InterfaceName": INTERFACE,
    "StaticRoutes": [OVERLAY_ROUTE],
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
    way = endpoint.choose_exit(net, LEASES, publishes=publishes)
    assert endpoint.format_join(endpoint.Joined(container_end=CONTAINER_END, way=way)) == answer


NET6 = dataclasses.replace(
    NET,
    v6=network.NetworkV6(
        pool=ipaddress.IPv6Network("fd00:2:0:14::/64"),
        gateway=ipaddress.IPv6Interface("fd00:2:0:14::1/64"),
        overlay=ipaddress.IPv6Network("fd00:2::/48"),
        device=netstate.IfName("flannel-v6.1"),
    ),
)
ROUTES6 = [OVERLAY_ROUTE, {"Destination": "fd00:2::/48", "RouteType": 0, "NextHop": "fd00:2:0:14::1"}]


@pytest.mark.parametrize(
    ("mode", "internal", "publishes", "answer"),
    [
        (
            network.GatewayMode.AUTO,
            False,
            False,
            NATIVE | {"GatewayIPv6": "fd00:2:0:14::1", "StaticRoutes": ROUTES6},
        ),
        (network.GatewayMode.AUTO, False, True, DOCKER | {"StaticRoutes": ROUTES6}),
        (network.GatewayMode.DOCKER, False, False, DOCKER | {"StaticRoutes": ROUTES6}),
        (network.GatewayMode.AUTO, True, False, INTERNAL | {"StaticRoutes": ROUTES6}),
    ],
)
def test_join_tells_the_way_out_in_both_families(
    mode: network.GatewayMode, internal: bool, publishes: bool, answer: dict[str, Any]
) -> None:
    """Never an IPv6 gateway beside published ports: newer engines would not attach docker_gwbridge then."""
    net = dataclasses.replace(NET6, gateway_mode=mode, internal=internal)
    way = endpoint.choose_exit(net, LEASES, publishes=publishes)
    assert endpoint.format_join(endpoint.Joined(container_end=CONTAINER_END, way=way)) == answer


END = endpoint.Endpoint(
    id=ENDPOINT_ID,
    network_id=NET.id,
    address=ipaddress.IPv4Interface("10.2.20.5/24"),
    mac=netstate.Mac("02:42:0a:02:14:05"),
)


@pytest.mark.parametrize(
    ("net", "address_v6", "message"),
    [
        (NET, "fd00:2:0:14::5/64", "network 4d5d70de7705 has no IPv6, got fd00:2:0:14::5/64"),
        (NET6, "fd00:2:0:14::1/64", "fd00:2:0:14::1/64 is not a container's address in network 4d5d70de7705"),
        (NET6, "fd00:2:0:15::5/64", "fd00:2:0:15::5/64 is not a container's address in network 4d5d70de7705"),
    ],
)
def test_an_ipv6_address_that_no_container_can_have_is_refused(
    net: network.Network, address_v6: str, message: str
) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        endpoint.require_address(net, dataclasses.replace(END, address_v6=ipaddress.IPv6Interface(address_v6)))
    assert str(caught.value).startswith(f"Interface.AddressIPv6: {message}")


def test_a_container_may_have_ipv6_or_not() -> None:
    for address_v6 in (None, ipaddress.IPv6Interface("fd00:2:0:14::5/64")):
        endpoint.require_address(NET6, dataclasses.replace(END, address_v6=address_v6))


def test_an_endpoint_is_the_same_however_far_it_has_got() -> None:
    assert END.is_same(dataclasses.replace(END, joined=True, mtu=1450))
    assert not END.is_same(dataclasses.replace(END, address_v6=ipaddress.IPv6Interface("fd00:2:0:14::5/64")))
    assert not END.is_same(dataclasses.replace(END, mac=netstate.Mac("02:42:0a:02:14:06")))
