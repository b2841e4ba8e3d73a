from __future__ import annotations

import dataclasses
import ipaddress

from driver import desired, endpoint, names, network
from overlay import firewall, guard, netstate

NETWORK_ID = names.NetworkId("4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e")
ENDPOINT_ID = names.EndpointId("1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809")
BRIDGE = netstate.IfName("fp-4d5d70de7705")
NET = network.Network(
    id=NETWORK_ID,
    bridge=BRIDGE,
    pool=ipaddress.IPv4Network("10.2.20.0/25"),
    gateway=ipaddress.IPv4Interface("10.2.20.1/25"),
    prefix="/coreos.com/network",
    overlay=ipaddress.IPv4Network("10.2.0.0/16"),
    device=netstate.IfName("flannel.1"),
    mtu=1400,
)
END = endpoint.Endpoint(
    id=ENDPOINT_ID,
    network_id=NETWORK_ID,
    address=ipaddress.IPv4Interface("10.2.20.5/25"),
    mac=netstate.Mac("02:42:0a:02:14:05"),
)


def test_a_network_is_a_bridge_with_the_gateways_address_that_hears_no_router() -> None:
    assert desired.network_state(NET) == {
        netstate.BridgeLink(name=BRIDGE, mac=netstate.Mac("02:42:0a:02:14:01"), mtu=1400),
        netstate.Sysctl(key="net.ipv6.conf.fp-4d5d70de7705.accept_ra", value="0", optional=True),
        netstate.Address(link=BRIDGE, interface=ipaddress.IPv4Interface("10.2.20.1/25")),
    }


NET6 = dataclasses.replace(
    NET,
    v6=network.NetworkV6(
        pool=ipaddress.IPv6Network("fd00:2:0:14::/64"),
        gateway=ipaddress.IPv6Interface("fd00:2:0:14::1/64"),
        overlay=ipaddress.IPv6Network("fd00:2::/48"),
        device=netstate.IfName("flannel-v6.1"),
    ),
)


def test_a_network_of_both_families_has_both_gateways_at_once() -> None:
    assert desired.network_state(NET6) == desired.network_state(NET) | {
        netstate.Address(link=BRIDGE, interface=ipaddress.IPv6Interface("fd00:2:0:14::1/64")),
        netstate.Sysctl(key="net.ipv6.conf.fp-4d5d70de7705.disable_ipv6", value="0"),
        netstate.Sysctl(key="net.ipv6.conf.fp-4d5d70de7705.accept_dad", value="0"),
    }


def test_the_host_forwards_ipv6_only_where_a_network_has_it() -> None:
    v4 = netstate.Sysctl(key="net.ipv4.ip_forward", value="1")
    v6 = netstate.Sysctl(key="net.ipv6.conf.all.forwarding", value="1")
    assert (desired.forwarding([]), desired.forwarding([NET])) == ({v4}, {v4})
    assert desired.forwarding([NET, NET6]) == {v4, v6}


def test_a_ports_mtu_is_never_less_than_the_containers_end_has() -> None:
    old = dataclasses.replace(END, mtu=1450, joined=True)
    ports = [desired.endpoint_state(dataclasses.replace(NET, mtu=mtu), old) for mtu in (1400, 1450, 8950)]
    assert [obj.mtu for state in ports for obj in state if isinstance(obj, netstate.BridgePort)] == [1450, 1450, 8950]
    (pair,) = desired.endpoint_state(NET, dataclasses.replace(END, mtu=1450))
    assert isinstance(pair, netstate.VethPair)
    assert pair.mtu == 1450


def test_before_join_both_ends_of_the_pair_are_ours() -> None:
    assert desired.endpoint_state(NET, END) == {
        netstate.VethPair(
            name=netstate.IfName("fph1a2299da1bc9"), peer=netstate.IfName("fpc1a2299da1bc9"), bridge=BRIDGE, mtu=1400
        )
    }


def test_after_join_only_the_hosts_end_is_ours() -> None:
    assert desired.endpoint_state(NET, dataclasses.replace(END, joined=True)) == {
        netstate.BridgePort(name=netstate.IfName("fph1a2299da1bc9"), bridge=BRIDGE, mtu=1400)
    }


def test_the_firewall_has_the_rules_of_all_networks() -> None:
    other = dataclasses.replace(
        NET,
        bridge=netstate.IfName("blue"),
        pool=ipaddress.IPv4Network("10.2.20.128/25"),
        internal=True,
        masquerade=False,
    )
    assert desired.firewall_plan([NET, other]) == {
        firewall.BridgeRules(
            bridge=BRIDGE,
            subnet=NET.pool,
            overlay=NET.overlay,
            device=NET.device,
            internal=False,
            masquerade=True,
            prefix="/coreos.com/network",
        ),
        firewall.BridgeRules(
            bridge=netstate.IfName("blue"),
            subnet=other.pool,
            overlay=NET.overlay,
            device=NET.device,
            internal=True,
            masquerade=False,
            prefix="/coreos.com/network",
        ),
    }
    assert desired.firewall_plan([]) == frozenset()
    (v6,) = (rules.v6 for rules in desired.firewall_plan([NET6]))
    assert v6 == firewall.BridgeRulesV6(
        subnet=ipaddress.IPv6Network("fd00:2:0:14::/64"),
        overlay=ipaddress.IPv6Network("fd00:2::/48"),
        device=netstate.IfName("flannel-v6.1"),
    )


def test_the_firewall_knows_in_both_families_what_crosses_the_underlay_as_it_is() -> None:
    (rules,) = desired.firewall_plan([dataclasses.replace(NET6, direct=True)])
    assert rules.v6 is not None
    assert (rules.direct, rules.v6.direct) == (True, True)


def test_owners_never_meet() -> None:
    assert desired.network_owner(NETWORK_ID) != desired.endpoint_owner(names.EndpointId(NETWORK_ID))


def test_a_container_on_two_networks_may_answer_from_either_address_on_either() -> None:
    other_net = dataclasses.replace(NET, id=names.NetworkId("f" * 64), pool=ipaddress.IPv4Network("10.2.20.128/25"))
    ends = [
        dataclasses.replace(END, sandbox="/run/docker/netns/1"),
        dataclasses.replace(
            END,
            id=names.EndpointId("b" * 64),
            network_id=other_net.id,
            address=ipaddress.IPv4Interface("10.2.20.133/25"),
            sandbox="/run/docker/netns/1",
        ),
        dataclasses.replace(
            END,
            id=names.EndpointId("c" * 64),
            address=ipaddress.IPv4Interface("10.2.20.6/25"),
            sandbox="/run/docker/netns/2",
        ),
        dataclasses.replace(END, id=names.EndpointId("d" * 64), address=ipaddress.IPv4Interface("10.2.20.7/25")),
        dataclasses.replace(END, id=names.EndpointId("e" * 64), address=ipaddress.IPv4Interface("10.2.20.8/25")),
    ]
    plan = desired.guard_plan([NET, other_net], ends)
    allowed = {port.name: sorted(map(str, port.addresses)) for port in plan if isinstance(port, guard.GuardedPort)}
    assert allowed == {
        "fph1a2299da1bc9": ["10.2.20.133", "10.2.20.5"],
        "fphbbbbbbbbbbbb": ["10.2.20.133", "10.2.20.5"],
        "fphcccccccccccc": ["10.2.20.6"],
        "fphdddddddddddd": ["10.2.20.7"],
        "fpheeeeeeeeeeee": ["10.2.20.8"],
    }
