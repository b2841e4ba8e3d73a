from __future__ import annotations

import dataclasses
import ipaddress

import pytest

from driver import creation, errors, names, network
from overlay import lease, netstate

V6 = lease.HeldSubnetV6(
    network=ipaddress.IPv6Network("fd00:2::/48"),
    subnet=ipaddress.IPv6Network("fd00:2:0:14::/64"),
    device="flannel-v6.1",
)
HELD = lease.HeldSubnet(
    prefix="/coreos.com/network",
    network=ipaddress.IPv4Network("10.2.0.0/16"),
    subnet=ipaddress.IPv4Network("10.2.20.0/24"),
    device="flannel.1",
    overlay_mtu=1450,
)
DUAL = dataclasses.replace(HELD, overlay_mtu=1430, v6=V6)
DATA = creation.PoolData(
    address_space="flannelpy",
    pool=ipaddress.IPv4Network("10.2.20.0/24"),
    gateway=ipaddress.IPv4Interface("10.2.20.1/24"),
)
DATA6 = creation.PoolData(
    address_space="flannelpy", pool=V6.subnet, gateway=ipaddress.IPv6Interface("fd00:2:0:14::1/64")
)
NETWORK_ID = names.NetworkId("4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e")
REQUEST = creation.Request(id=NETWORK_ID, v4=(DATA,))
REQUEST6 = creation.Request(id=NETWORK_ID, v4=(DATA,), v6=(DATA6,), ipv6=True)


def with_mtu(mtu: int, request: creation.Request = REQUEST) -> creation.Request:
    return dataclasses.replace(request, options=network.Options(mtu=mtu))


def refusal(request: creation.Request, *held: lease.HeldSubnet) -> str:
    with pytest.raises(errors.DriverError) as caught:
        creation.plan(request, list(held))
    return str(caught.value)


@pytest.mark.parametrize("direct", [True, False])
def test_a_network_knows_whether_its_packets_cross_the_underlay_as_they_are(*, direct: bool) -> None:
    assert creation.plan(REQUEST, [dataclasses.replace(HELD, direct=direct)]).direct is direct


def test_a_network_has_the_overlays_mtu_and_a_bridge_of_its_own() -> None:
    made = creation.plan(REQUEST, [HELD])
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
    made = creation.plan(with_mtu(1400), [HELD])
    assert (made.mtu, made.chosen_mtu) == (1400, 1400)
    assert creation.plan(with_mtu(1450), [HELD]).chosen_mtu == 1450
    assert refusal(with_mtu(1451), HELD) == (
        "com.docker.network.driver.mtu=1451 does not fit the overlay: at most 1450 bytes here; leave it away"
    )


def test_a_gateway_outside_the_pool_is_refused() -> None:
    data = dataclasses.replace(DATA, gateway=ipaddress.IPv4Interface("10.2.21.1/24"))
    assert refusal(dataclasses.replace(REQUEST, v4=(data,)), HELD) == (
        "IPv4Data.Gateway: 10.2.21.1 is not in pool 10.2.20.0/24"
    )
    data6 = dataclasses.replace(DATA6, gateway=ipaddress.IPv6Interface("fd00:2:0:15::1/64"))
    assert refusal(dataclasses.replace(REQUEST6, v6=(data6,)), DUAL) == (
        "IPv6Data.Gateway: fd00:2:0:15::1 is not in pool fd00:2:0:14::/64"
    )


def test_a_network_of_both_families_has_both_ways_through_the_overlay() -> None:
    assert creation.plan(REQUEST6, [DUAL]) == dataclasses.replace(
        creation.plan(REQUEST, [DUAL]),
        v6=network.NetworkV6(
            pool=V6.subnet,
            gateway=DATA6.gateway,
            overlay=V6.network,
            device=netstate.IfName("flannel-v6.1"),
        ),
    )
    assert creation.plan(REQUEST6, [DUAL]).mtu == 1430
    adopted = dataclasses.replace(REQUEST6, ipv6=False)  # Docker's API shows pools, whatever the flag was
    assert creation.plan(adopted, [DUAL]) == creation.plan(REQUEST6, [DUAL])


def test_an_engine_that_asks_for_no_ipv6_pool_is_given_the_command_that_makes_it() -> None:
    """None of 20.10, 26.1 and 28.5 (tests/system/test_ipv6.py); one that does not must not get IPv4 in silence."""
    assert refusal(dataclasses.replace(REQUEST6, v6=()), DUAL) == (
        "--ipv6: this engine asks for no IPv6 pool unless it is given one; create the network with: docker network "
        "create -d flannelpy --ipam-driver flannelpy --ipv6 --subnet fd00:2:0:14::/64 NAME"
    )


@pytest.mark.parametrize("pools", [(), (DATA6,)])
def test_ipv6_on_a_flannel_network_without_it_is_refused(
    pools: tuple[creation.PoolDataV6, ...],
) -> None:
    assert refusal(dataclasses.replace(REQUEST6, v6=pools), HELD) == (
        "--ipv6: the flannel network /coreos.com/network has no IPv6; leave --ipv6 and IPv6 --subnet away, or add "
        "EnableIPv6 and IPv6Network to its network config (docs/operations.md, Dual stack)"
    )


def test_an_ipv6_pool_of_another_flannel_network_is_refused() -> None:
    theirs = dataclasses.replace(DATA6, pool=ipaddress.IPv6Network("fd00:9::/64"))
    assert refusal(dataclasses.replace(REQUEST6, v6=(theirs,)), DUAL) == (
        "pool fd00:9::/64 is not part of this host's lease fd00:2:0:14::/64 of /coreos.com/network, from which the "
        "IPv4 pool comes; take both from one flannel network"
    )


def test_one_ipv6_pool_is_enough() -> None:
    assert refusal(dataclasses.replace(REQUEST6, v6=(DATA6, DATA6)), DUAL) == (
        "IPv6Data: expected one pool, got 2; a flannelpy network has one --subnet of IPv6 at most"
    )


def test_an_mtu_too_small_for_ipv6_is_refused() -> None:
    assert creation.plan(with_mtu(1280, REQUEST6), [DUAL]).mtu == 1280
    assert refusal(with_mtu(1279, REQUEST6), DUAL) == (
        "--ipv6: com.docker.network.driver.mtu=1279 is too small: IPv6 needs 1280 bytes at least"
    )
    assert refusal(REQUEST6, dataclasses.replace(DUAL, overlay_mtu=1279)) == (
        "--ipv6: the overlay's MTU here, 1279, is too small: IPv6 needs 1280 bytes at least"
    )


def test_a_slice_belongs_to_the_lease_around_it() -> None:
    blue = dataclasses.replace(HELD, prefix="/blue", subnet=ipaddress.IPv4Network("10.9.7.0/24"))
    assert creation.find_holding(ipaddress.IPv4Network("10.9.7.64/26"), [HELD, blue]) == blue
    assert creation.find_holding(ipaddress.IPv4Network("10.2.20.0/24"), [HELD, blue]) == HELD
    assert creation.find_holding(ipaddress.IPv4Network("10.2.20.0/23"), [HELD, blue]) is None
    assert creation.find_holding(ipaddress.IPv4Network("172.18.0.0/16"), []) is None


def test_dockers_own_ipam_is_answered_with_the_exact_command() -> None:
    data = creation.PoolData(
        address_space="LocalDefault",
        pool=ipaddress.IPv4Network("172.18.0.0/16"),
        gateway=ipaddress.IPv4Interface("172.18.0.1/16"),
    )
    assert creation.explain_wrong_ipam(data, [HELD]) == (
        "172.18.0.0/16 comes from Docker's own IPAM, not from this host's flannel lease (10.2.20.0/24); "
        "create the network with: docker network create -d flannelpy --ipam-driver flannelpy NAME"
    )
    assert "(not held yet)" in creation.explain_wrong_ipam(data, [])
    data6 = dataclasses.replace(DATA6, address_space="LocalDefault", pool=ipaddress.IPv6Network("fd12:3456::/64"))
    request = dataclasses.replace(REQUEST6, v6=(data6,))
    assert refusal(request, DUAL) == (
        "fd12:3456::/64 comes from Docker's own IPAM, not from this host's flannel lease (fd00:2:0:14::/64); "
        "create the network with: docker network create -d flannelpy --ipam-driver flannelpy --ipv6 NAME"
    )
