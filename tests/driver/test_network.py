from __future__ import annotations

import dataclasses
import ipaddress

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
DATA = network.PoolData(
    address_space="flannelpy",
    pool=ipaddress.IPv4Network("10.2.20.0/24"),
    gateway=ipaddress.IPv4Interface("10.2.20.1/24"),
)
NETWORK_ID = names.NetworkId("4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e")


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
        }
    )
    assert read == network.Options(
        gateway_mode=network.GatewayMode.DOCKER,
        mtu=1300,
        masquerade=False,
    )


def test_an_unknown_option_is_refused_with_the_list_of_the_known() -> None:
    with pytest.raises(errors.BadRequest) as caught:
        network.parse_options({"flannelpy.gatway": "auto"})
    assert str(caught.value) == (
        "unknown option 'flannelpy.gatway'; flannelpy knows: flannelpy.gateway, com.docker.network.driver.mtu, "
        "com.docker.network.bridge.enable_ip_masquerade"
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
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


def test_a_network_has_the_overlays_mtu_and_a_bridge_of_its_own() -> None:
    made = network.make_network(NETWORK_ID, DATA, network.Options(), HELD, internal=False)
    assert made == network.Network(
        id=NETWORK_ID,
        bridge=names.bridge_name(NETWORK_ID),
        pool=DATA.pool,
        gateway=DATA.gateway,
        prefix="/coreos.com/network",
        overlay=HELD.network,
        device=netstate.IfName("flannel.1"),
        mtu=1450,
        internal=False,
        masquerade=True,
        gateway_mode=network.GatewayMode.AUTO,
    )


def test_a_smaller_mtu_is_kept_and_a_larger_one_is_refused() -> None:
    assert network.make_network(NETWORK_ID, DATA, network.Options(mtu=1400), HELD, internal=True).mtu == 1400
    with pytest.raises(errors.BadRequest, match=r"driver\.mtu=1451 does not fit the overlay: at most 1450 bytes"):
        network.make_network(NETWORK_ID, DATA, network.Options(mtu=1451), HELD, internal=False)


def test_a_gateway_outside_the_pool_is_refused() -> None:
    data = dataclasses.replace(DATA, gateway=ipaddress.IPv4Interface("10.2.21.1/24"))
    with pytest.raises(errors.BadRequest, match=r"IPv4Data.Gateway: 10.2.21.1 is not in pool 10.2.20.0/24"):
        network.make_network(NETWORK_ID, data, network.Options(), HELD, internal=False)


def test_a_slice_belongs_to_the_lease_around_it() -> None:
    blue = dataclasses.replace(HELD, prefix="/blue", subnet=ipaddress.IPv4Network("10.9.7.0/24"))
    assert network.find_holding(ipaddress.IPv4Network("10.9.7.64/26"), [HELD, blue]) == blue
    assert network.find_holding(ipaddress.IPv4Network("10.2.20.0/24"), [HELD, blue]) == HELD
    assert network.find_holding(ipaddress.IPv4Network("10.2.20.0/23"), [HELD, blue]) is None
    assert network.find_holding(ipaddress.IPv4Network("172.18.0.0/16"), []) is None


def test_dockers_own_ipam_is_answered_with_the_exact_command() -> None:
    data = network.PoolData(
        address_space="LocalDefault",
        pool=ipaddress.IPv4Network("172.18.0.0/16"),
        gateway=ipaddress.IPv4Interface("172.18.0.1/16"),
    )
    assert network.explain_wrong_ipam(data, [HELD]) == (
        "172.18.0.0/16 comes from Docker's own IPAM, not from this host's flannel lease (10.2.20.0/24); "
        "create the network with: docker network create -d flannelpy --ipam-driver flannelpy NAME"
    )
    assert "(not held yet)" in network.explain_wrong_ipam(data, [])
