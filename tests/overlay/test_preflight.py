"""What stands in the way of a flannel network on its host."""

from __future__ import annotations

import dataclasses
import ipaddress

import pytest

from overlay import errors, flanneld, kernel, lease, netstate, preflight
from tests.overlay import node_host

RIVAL = flanneld.Flanneld(pid=1234, prefix="/coreos.com/network")
TOLD = (
    "flanneld (pid 1234) runs on this host with prefix /coreos.com/network and would fight for this host's lease: "
    "stop it (systemctl disable --now flanneld), then flannelpy takes over its lease and device by itself"
)
CURE = (
    "in dockerd's options (daemon.json, or the unit that reads mk-docker-opts.sh) take away mtu, give bip another "
    "range such as 172.17.0.1/16 (without any, Docker keeps the old one) and restart docker"
)
CURE_V6 = (
    "in dockerd's options (daemon.json, or the unit that reads mk-docker-opts.sh) take away ipv6 and fixed-cidr-v6, "
    "or give the latter another range, restart docker, and take the address away, which Docker leaves "
    "(ip addr del 2001:db8:42:7::1/64 dev docker0)"
)
KUBE = flanneld.Flanneld(pid=99, prefix=None)
HELD = lease.HeldSubnet(
    prefix=node_host.PREFIX,
    network=ipaddress.IPv4Network("10.2.0.0/16"),
    subnet=ipaddress.IPv4Network("10.2.20.0/24"),
    device="flannel.1",
    overlay_mtu=1450,
)


def link(name: str, *addresses: str) -> kernel.UnderlayLink:
    return kernel.UnderlayLink(
        name=netstate.IfName(name),
        index=9,
        mtu=1500,
        up=True,
        addresses=tuple(ipaddress.IPv4Interface(one) for one in addresses),
        has_default_route=False,
    )


def test_a_flanneld_of_our_prefix_is_refused() -> None:
    with pytest.raises(errors.FlanneldRunning) as caught:
        preflight.refuse_rival("/coreos.com//network/", [KUBE, RIVAL])
    assert str(caught.value) == TOLD


def test_a_flanneld_of_another_registry_is_no_rival() -> None:
    preflight.refuse_rival("/blue/network", [KUBE, RIVAL])


def test_a_device_that_a_flanneld_of_another_registry_has_is_refused() -> None:
    with pytest.raises(errors.FlanneldRunning) as caught:
        preflight.refuse_clash("flannel.1", [KUBE, RIVAL], [link("eth0"), link("flannel.1")])
    assert str(caught.value) == (
        "flanneld (pid 99 with leases in Kubernetes, pid 1234 with prefix /coreos.com/network) runs on this host and "
        "flannel.1 is its device: stop it (systemctl disable --now flanneld) or give one of the two networks another "
        "VNI"
    )


def test_a_device_of_ours_or_of_another_name_is_no_clash() -> None:
    """Ours are not among the links; without any flanneld a device was left behind."""
    preflight.refuse_clash("flannel.1", [KUBE], [link("eth0"), link("flannel.2")])
    preflight.refuse_clash("flannel.1", [], [link("flannel.1")])


def test_a_bridge_with_the_lease_s_address_is_refused() -> None:
    with pytest.raises(errors.AddressTaken) as caught:
        preflight.refuse_overlap(HELD, [link("eth0", "192.0.2.1/24"), link("docker0", "10.2.20.1/24")])
    assert str(caught.value) == (
        "docker0 has 10.2.20.1/24, and 10.2.20.0/24 is this host's flannel subnet: its containers could not be "
        f"reached through two links; {CURE}"
    )


def test_another_link_with_an_address_of_the_subnet_is_named() -> None:
    with pytest.raises(
        errors.AddressTaken, match=r"cbr0 has 10\.2\.20\.9/32, .*ip addr del 10\.2\.20\.9/32 dev cbr0"
    ):
        preflight.refuse_overlap(HELD, [link("cbr0", "10.9.0.1/24", "10.2.20.9/32")])


def test_the_flannel_device_and_wider_networks_are_let_be() -> None:
    """The underlay may be 10.0.0.0/8: the longer prefix wins, and no address is there twice."""
    preflight.refuse_overlap(HELD, [link("flannel.1", "10.2.20.0/32"), link("eth0", "10.0.0.5/8")])


def test_what_is_amiss_is_told_a_line_each() -> None:
    links = [
        link("eth0", "10.0.0.5/8", "192.0.2.1/24"),
        link("docker0", "10.2.20.1/24"),
        link("flannel.1", "10.2.20.0/32"),
        link("eth1", "10.2.30.1/24"),
    ]
    wide = "what is there becomes unreachable where a host has its subnet; give the flannel network another range"
    assert preflight.find_rival(node_host.PREFIX, [KUBE, RIVAL]) == TOLD
    assert preflight.find_overlaps(HELD, links) == (
        f"eth0 has 10.0.0.5/8, which overlaps the flannel network 10.2.0.0/16: {wide}",
        f"docker0 has 10.2.20.1/24 of this host's flannel subnet 10.2.20.0/24: {CURE}",
        f"eth1 has 10.2.30.1/24, which overlaps the flannel network 10.2.0.0/16: {wide}",
    )


def test_nothing_amiss_is_nothing_told() -> None:
    links = [link("eth0", "192.0.2.1/24"), link("docker0", "172.17.0.1/16")]
    assert preflight.find_rival(node_host.PREFIX, [KUBE]) is None
    assert preflight.find_overlaps(HELD, links) == ()


def test_the_second_family_is_looked_at_too() -> None:
    v6 = lease.HeldSubnetV6(
        network=ipaddress.IPv6Network("2001:db8:42::/56"),
        subnet=ipaddress.IPv6Network("2001:db8:42:7::/64"),
        device="flannel-v6.1",
    )
    held = dataclasses.replace(HELD, v6=v6)
    docker0 = dataclasses.replace(link("docker0"), addresses_v6=(ipaddress.IPv6Interface("2001:db8:42:7::1/64"),))
    device = dataclasses.replace(docker0, name=netstate.IfName("flannel-v6.1"))
    wide = dataclasses.replace(link("eth0"), addresses_v6=(ipaddress.IPv6Interface("2001:db8::1/32"),))
    preflight.refuse_overlap(held, [device, wide])
    preflight.refuse_overlap(HELD, [docker0])
    with pytest.raises(errors.AddressTaken) as caught:
        preflight.refuse_overlap(held, [wide, docker0])
    assert str(caught.value) == (
        "docker0 has 2001:db8:42:7::1/64, and 2001:db8:42:7::/64 is this host's flannel subnet: its containers could "
        f"not be reached through two links; {CURE_V6}"
    )
    (told,) = preflight.find_overlaps(held, [device, wide])
    assert told.startswith("eth0 has 2001:db8::1/32, which overlaps the flannel network 2001:db8:42::/56")
