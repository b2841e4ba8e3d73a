from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest

from driver import errors, names, network
from overlay import lease, netstate

HELD = lease.HeldSubnet(
    prefix="/coreos.com/network",
    network=ipaddress.IPv4Network("10.2.0.0/16"),
    subnet=ipaddress.IPv4Network("10.2.20.0/24"),
    device="flannel.1",
    overlay_mtu=1450,
)


def test_no_options_are_the_defaults() -> None:
    assert network.parse_options({}) == network.Options(
        gateway_mode=network.GatewayMode.AUTO, mtu=None, masquerade=True
    )


def test_every_option_is_read() -> None:
    read = network.parse_options(
        {
            "flannelpy.gateway": "docker",
            "com.docker.network.driver.mtu": "1300",
            "com.docker.network.bridge.enable_ip_masquerade": "False",
            "com.docker.network.bridge.name": "br_blue-1.5",
            "com.docker.network.container_iface_prefix": "blue",
            "com.docker.network.bridge.enable_icc": "false",
            "flannelpy.spoofing": "allow",
            "flannelpy.outside": "allow",
        }
    )
    assert read == network.Options(
        gateway_mode=network.GatewayMode.DOCKER,
        mtu=1300,
        masquerade=False,
        bridge=netstate.IfName("br_blue-1.5"),
        iface_prefix="blue",
        icc=False,
        spoofing=True,
        outside=True,
    )


def test_an_empty_name_is_none() -> None:
    """As from a Compose file whose variable is not set."""
    assert network.parse_options({network.OPTION_BRIDGE: "", network.OPTION_IFACE_PREFIX: ""}) == network.Options()


def test_an_unknown_option_is_refused_with_the_list_of_the_known() -> None:
    with pytest.raises(errors.BadRequest) as caught:
        network.parse_options({"flannelpy.gatway": "auto"})
    assert str(caught.value) == (
        "unknown option 'flannelpy.gatway'; flannelpy knows: flannelpy.gateway, flannelpy.spoofing, "
        "flannelpy.outside, com.docker.network.driver.mtu, com.docker.network.bridge.enable_ip_masquerade, "
        "com.docker.network.bridge.enable_icc, com.docker.network.bridge.name, "
        "com.docker.network.container_iface_prefix"
    )


@pytest.mark.parametrize(
    ("key", "value", "instead"),
    [
        ("com.docker.network.bridge.default_bridge", "true", "docker run --network NAME"),
        ("com.docker.network.bridge.gateway_mode_ipv4", "routed", "enable_ip_masquerade=false"),
        ("com.docker.network.bridge.gateway_mode_ipv6", "isolated", "--internal"),
        ("com.docker.network.bridge.host_binding_ipv4", "192.0.2.1", "-p ADDRESS:PORT:PORT"),
        ("com.docker.network.bridge.inhibit_ipv4", "true", "--internal"),
        ("com.docker.network.bridge.trusted_host_interfaces", "eth1", "use -p"),
        ("com.docker.network.driver.overlay.vxlanid_list", "7", "--ipam-opt flannelpy.prefix"),
        ("com.docker.network.host_ipv4", "192.0.2.1", "the interface that it leaves by"),
        ("encrypted", "true", "encrypt the wire below"),
    ],
)
def test_what_docker_has_and_flannelpy_has_not_is_refused_with_what_to_use_instead(
    key: str, value: str, instead: str
) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        network.parse_options({key: value})
    assert str(caught.value).startswith(f"{key}={value}: ")
    assert instead in str(caught.value)


def test_what_asks_for_what_is_so_anyway_is_let_by() -> None:
    asked = {
        "com.docker.network.bridge.default_bridge": "false",
        "com.docker.network.bridge.gateway_mode_ipv4": "nat",
        "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
        "com.docker.network.bridge.inhibit_ipv4": "0",
        "com.docker.network.bridge.trusted_host_interfaces": "",
    }
    assert network.parse_options(asked) == network.Options()


def test_what_the_engine_does_for_every_driver_is_taken() -> None:
    asked = {
        "com.docker.network.advertise_addr_nmsgs": "2",
        "com.docker.network.advertise_addr_ms": "500",
        "com.docker.network.enable_ipv4": "true",
    }
    assert network.parse_options(asked) == network.Options()


TAKEN = "is a name that Docker, flannelpy or the kernel uses; choose another"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, "expected 1 to 15 letters, digits, '_', '.' or '-', got") for name in ("a" * 16, "a/b", "..", ".")),
        *(
            (name, "expected 1 to 15 letters")
            for name in ("a b", "fp%d", "br+", "-x", 'a"b', "br*", "a:b", "é", "a\n")
        ),
        *((name, TAKEN) for name in ("all", "default", "lo", "docker0", "docker_gwbridge", "br-0123456789ab")),
        *((name, TAKEN) for name in ("fp-blue", "fphone", "fpc", "flannel.7", "flannel-v6.1")),
    ],
)
def test_a_bridge_has_a_name_that_the_kernel_takes_and_nobody_else_has(name: str, expected: str) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        network.parse_options({network.OPTION_BRIDGE: name})
    assert str(caught.value).startswith(f"{network.OPTION_BRIDGE}: ")
    assert expected in str(caught.value)


@pytest.mark.parametrize("prefix", ["a" * 14, "a/b", "-", "%d", "e h"])
def test_an_interface_prefix_leaves_room_for_dockers_number(prefix: str) -> None:
    with pytest.raises(errors.BadRequest, match=f"{network.OPTION_IFACE_PREFIX}: expected 1 to 13 letters"):
        network.parse_options({network.OPTION_IFACE_PREFIX: prefix})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("flannelpy.outside", "yes", "expected one of drop, allow, got 'yes'"),
        ("flannelpy.gateway", "bridge", "expected one of auto, native, docker, got 'bridge'"),
        ("flannelpy.gateway", 1, "expected a string, got a number"),
        ("com.docker.network.driver.mtu", "", "expected a number of bytes from 68 up, got ''"),
        ("com.docker.network.driver.mtu", "67", "expected a number of bytes from 68 up"),
        ("com.docker.network.driver.mtu", "-1", "expected a number of bytes from 68 up"),
        ("com.docker.network.driver.mtu", "1450.0", "expected a number of bytes from 68 up"),
        ("com.docker.network.driver.mtu", "٦٨", "expected a number of bytes from 68 up"),
        ("com.docker.network.driver.mtu", "9" * 10_000, "expected a number of bytes from 68 up"),
        ("com.docker.network.bridge.enable_ip_masquerade", "no", "expected true or false, got 'no'"),
        ("com.docker.network.bridge.enable_ip_masquerade", ["x" * 1000], "expected a string, got a list"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(key: str, value: object, expected: str) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        network.parse_options({key: value})
    assert str(caught.value).startswith(f"{key}: ")
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True"])
def test_dockers_words_for_yes_are_understood(text: str) -> None:
    assert network.parse_options({network.OPTION_MASQUERADE: text}).masquerade


NET = network.Network(
    id=names.NetworkId("4d5d70de7705"),
    bridge=netstate.IfName("fp-4d5d70de7705"),
    pool=ipaddress.IPv4Network("10.2.20.0/25"),
    gateway=ipaddress.IPv4Interface("10.2.20.1/25"),
    prefix="/coreos.com/network",
    overlay=ipaddress.IPv4Network("10.2.0.0/16"),
    device=netstate.IfName("flannel.1"),
    mtu=1450,
)
V6 = network.NetworkV6(
    pool=ipaddress.IPv6Network("fd00:2:0:14::/65"),
    gateway=ipaddress.IPv6Interface("fd00:2:0:14::1/65"),
    overlay=ipaddress.IPv6Network("fd00:2::/48"),
    device=netstate.IfName("flannel-v6.1"),
)
HELD_V6 = lease.HeldSubnetV6(
    network=ipaddress.IPv6Network("fd00:2::/32"),
    subnet=ipaddress.IPv6Network("fd00:2:0:14::/64"),
    device="flannel-v6.9",
)


def held(mtu: int, **more: Any) -> lease.HeldSubnet:
    return dataclasses.replace(HELD, overlay_mtu=mtu, **more)


@pytest.mark.parametrize(
    ("chosen", "overlay_mtu", "mtu"),
    [(None, 1450, 1450), (None, 8950, 8950), (None, 1400, 1400), (1400, 1450, 1400), (1400, 1300, 1300)],
)
def test_a_network_follows_the_overlays_mtu_unless_one_was_chosen(
    chosen: int | None, overlay_mtu: int, mtu: int
) -> None:
    net = dataclasses.replace(NET, mtu=min(chosen or 1450, 1450), chosen_mtu=chosen)
    shrunk = network.follow(net, held(overlay_mtu))
    assert shrunk == dataclasses.replace(net, mtu=mtu)
    assert network.follow(shrunk, held(1450)) == net


def test_a_network_follows_its_devices_and_ranges() -> None:
    net = dataclasses.replace(NET, v6=V6)
    wide = ipaddress.IPv4Network("10.0.0.0/8")
    after = network.follow(net, held(1450, network=wide, device="flannel.9", direct=True, v6=HELD_V6))
    assert after == dataclasses.replace(
        net,
        overlay=wide,
        device=netstate.IfName("flannel.9"),
        direct=True,
        v6=dataclasses.replace(
            V6, overlay=ipaddress.IPv6Network("fd00:2::/32"), device=netstate.IfName("flannel-v6.9")
        ),
    )
    assert network.format_change(net, after) == (
        "device=flannel.9 was=flannel.1 direct=True was=False overlay=10.0.0.0/8 was=10.2.0.0/16 "
        "device_v6=flannel-v6.9 was=flannel-v6.1 "
        "overlay_v6=fd00:2::/32 was=fd00:2::/48"
    )
    assert network.follow(net, held(1450)) == net  # an IPv6 half that is lost is not followed


def test_a_lease_that_is_not_about_the_network_changes_nothing() -> None:
    elsewhere = held(1300, subnet=ipaddress.IPv4Network("10.2.21.0/24"), device="flannel.9")
    assert network.follow(NET, elsewhere) == network.follow(NET, None) == NET


def test_what_an_mtu_leaves_to_be_desired_is_told() -> None:
    assert list(network.doubts(NET)) == list(network.doubts(dataclasses.replace(NET, chosen_mtu=1450))) == []
    assert list(network.doubts(dataclasses.replace(NET, v6=V6, mtu=1200, chosen_mtu=1300))) == [
        "the overlay has no room for the network's own MTU wanted=1300 mtu=1200",
        "the overlay's MTU is too small for IPv6, which needs 1280 mtu=1200",
    ]
    assert list(network.doubts(dataclasses.replace(NET, mtu=1200))) == []
