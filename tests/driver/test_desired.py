from __future__ import annotations

import dataclasses
import ipaddress

from driver import desired, endpoint, names, network
from overlay import firewall, netstate

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


def test_a_network_is_a_bridge_with_the_gateways_address() -> None:
    assert desired.network_state(NET) == {
        netstate.BridgeLink(name=BRIDGE, mac=netstate.Mac("02:42:0a:02:14:01"), mtu=1400),
        netstate.Address(link=BRIDGE, interface=ipaddress.IPv4Interface("10.2.20.1/25")),
    }


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
        ),
        firewall.BridgeRules(
            bridge=netstate.IfName("blue"),
            subnet=other.pool,
            overlay=NET.overlay,
            device=NET.device,
            internal=True,
            masquerade=False,
        ),
    }
    assert desired.firewall_plan([]) == frozenset()


def test_owners_never_meet() -> None:
    assert desired.network_owner(NETWORK_ID) != desired.endpoint_owner(names.EndpointId(NETWORK_ID))
