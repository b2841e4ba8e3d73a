"""The text that `ip -batch` gets, whole."""

from __future__ import annotations

import pytest

from lab import command, config, plan, underlay

_LAB = plan.plan_lab(config.LabConfig(name="x", hosts=1, etcd_members=0, registry=False, mtu=1400))


def test_the_router_has_a_bridge_and_a_way_outside() -> None:
    assert (
        underlay.format_router(_LAB)
        == """\
link set lo up
link add br0 address 02:00:c6:33:64:01 type bridge
link set br0 mtu 1400 up
address add 198.51.100.1/24 dev br0
address add 2001:db8:51::1/64 dev br0 nodad
link add name h1 type veth peer name ens33 address 02:00:c6:33:64:0b netns x-h1
link set h1 master br0
link set h1 mtu 1400 up
link add name client type veth peer name ens33 address 02:00:c6:33:64:06 netns x-client
link set client master br0
link set client mtu 1400 up
link add name outside type veth peer name ens33 address 02:00:cb:00:71:0a netns x-outside
address add 203.0.113.1/24 dev outside
address add 2001:db8:113::1/64 dev outside nodad
link set outside mtu 1400 up
"""
    )


def test_a_machine_has_one_nic_and_a_default_route() -> None:
    assert (
        underlay.format_nic(_LAB, _LAB.hosts[0])
        == """\
link set lo up
address add 198.51.100.11/24 broadcast + dev ens33
address add 2001:db8:51::11/64 dev ens33 nodad
link set ens33 mtu 1400 up
route add default via 198.51.100.1 dev ens33
route add default via 2001:db8:51::1 dev ens33
"""
    )


@pytest.mark.contract
def test_the_gateway_keeps_its_mac_whoever_reboots() -> None:
    """Or all others would send what leaves the underlay to nobody, until their neighbour tables notice."""
    lab = plan.plan_lab(config.LabConfig(name="gatewaymac", hosts=2, etcd_members=0, registry=False))
    names = [lab.router_netns, *(seat.netns for seat in lab.seats)]
    underlay.create(lab)
    try:
        reach = ["ip", "netns", "exec", lab.hosts[1].netns, "ping", "-c", "1", "-W", "1", str(lab.outside.address.ip)]
        command.check(command.run(reach))
        for _ in range(6):
            for seat in (lab.hosts[0], lab.client):
                underlay.plug_new(lab, seat)
            command.check(command.run(reach))
    finally:
        underlay.delete(names)
