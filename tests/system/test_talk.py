"""Containers on two hosts talk, as the README promises."""

from __future__ import annotations

import ipaddress
import re

import pytest

from lab import site
from lab.errors import CommandFailed


@pytest.fixture
def both(pair, run):
    """A container on each host, as (host, name, address)."""
    one, two = run(pair.h1), run(pair.h2)
    return (pair.h1, one, site.ip_of(pair.h1, one)), (pair.h2, two, site.ip_of(pair.h2, two))


def test_each_host_hands_out_addresses_of_its_own_lease(pair, both):
    leases = pair.lab.etcdctl("get", "--prefix", "--keys-only", f"{site.PREFIX}/subnets").split()
    for host, _, address in both:
        subnet = ipaddress.IPv4Network(site.subnet_of(host, "mynet"))
        assert ipaddress.IPv4Address(address) in subnet
        assert f"{site.PREFIX}/subnets/{str(subnet).replace('/', '-')}" in leases


def test_they_ping_each_other_by_lease_address(both):
    (h1, one, ip1), (h2, two, ip2) = both
    assert "3 packets received" in site.inside(h1, one, f"ping -c 3 -w 10 {ip2}")
    assert "3 packets received" in site.inside(h2, two, f"ping -c 3 -w 10 {ip1}")


def test_a_host_reaches_a_container_of_the_other_host(both):
    (h1, _, _), (_, _, ip2) = both
    assert " 0% packet loss" in h1.exec(["ping", "-c", "2", "-w", "5", ip2])


def test_the_peer_sees_the_containers_own_address(both):
    (h1, one, ip1), (h2, two, ip2) = both
    site.serve_who(h2, two)
    assert site.inside(h1, one, f"wget -qO- http://{ip2}/cgi-bin/who") == ip1


def test_a_full_packet_of_1450_passes_and_one_byte_more_does_not(pair, run):
    one = run(pair.h1, image="flannelpy-tools")
    ip2 = site.ip_of(pair.h2, run(pair.h2))
    assert site.inside(pair.h1, one, "cat /sys/class/net/eth0/mtu") == "1450"
    assert " 0% packet loss" in site.inside(pair.h1, one, f"/usr/bin/ping -M do -c 1 -w 3 -s {1450 - 28} {ip2}")
    with pytest.raises(CommandFailed, match=r"[Mm]essage too long"):
        site.inside(pair.h1, one, f"/usr/bin/ping -M do -c 1 -w 3 -s {1451 - 28} {ip2}")


def test_traceroute_shows_the_three_hops_of_the_classic_guide(both):
    (h1, one, _), (h2, _, ip2) = both
    here = ipaddress.IPv4Network(site.subnet_of(h1, "mynet"))
    there = ipaddress.IPv4Network(site.subnet_of(h2, "mynet"))
    lines = site.inside(h1, one, f"traceroute -n -q 1 -w 2 -m 5 {ip2}").splitlines()
    hops = [match[1] for line in lines if (match := re.match(r"\s*\d+\s+(\d+\.\d+\.\d+\.\d+)", line))]
    assert hops == [str(here[1]), str(there.network_address), ip2]


def test_without_published_ports_a_container_has_one_interface_and_reaches_outside(pair, both):
    (h1, one, _), _ = both
    links = re.findall(r"^\d+: ([^:@]+)", site.inside(h1, one, "ip -o link"), re.MULTILINE)
    assert sorted(links) == ["eth0", "lo"]
    seen = site.inside(h1, one, f"timeout 5 wget -qO- {pair.lab.outside_url}")
    assert h1.ip in seen, "what leaves the overlay leaves as the host"


def test_containers_of_one_host_find_each_other_by_name(pair, run):
    one, two = run(pair.h1), run(pair.h1)
    assert site.ip_of(pair.h1, two) in site.inside(pair.h1, one, f"ping -c 1 -w 5 {two}")


def test_the_interface_has_the_mac_that_docker_shows(pair, run):
    one = run(pair.h1)
    ip = ipaddress.IPv4Address(site.ip_of(pair.h1, one))
    mac = ":".join(f"{octet:02x}" for octet in (2, 0x42, *ip.packed))
    assert site.inside(pair.h1, one, "cat /sys/class/net/eth0/address") == mac
    shown = pair.h1.docker("inspect", "-f", "{{.NetworkSettings.Networks.mynet.MacAddress}}", one)
    assert shown == mac


def test_a_chosen_address_and_mac_are_kept(pair, run):
    subnet = ipaddress.IPv4Network(site.subnet_of(pair.h1, "mynet"))
    mac = "02:00:00:00:00:77"
    pair.h1.docker("network", "rm", "mynet")
    try:
        site.create_network(pair.h1, "mynet", "--subnet", str(subnet))
        one = run(pair.h1, "--ip", str(subnet[77]), "--mac-address", mac)
        assert site.inside(pair.h1, one, "cat /sys/class/net/eth0/address") == mac
        assert f" {subnet[77]}/24 " in site.inside(pair.h1, one, "ip -o -4 addr show eth0")
        pair.h1.docker("rm", "-f", one)
    finally:
        pair.h1.try_docker("network", "rm", "mynet")
        site.create_network(pair.h1, "mynet")


def test_checksum_offload_is_examined_and_left_on(pair):
    def verdict() -> str:
        examined = site.status(pair.h1)["offload"]["examined"]
        return examined[0]["verdict"] if examined else "unknown"

    site.wait_for("a verdict on checksum offload", lambda: verdict() == "sound", 60)
    assert site.status(pair.h1)["offload"]["on"] == {site.PREFIX: True}


def test_the_plugin_may_send_segments_of_its_own_making(pair):
    """CAP_NET_RAW (13) is Docker's gift; without it a broken offload would not be found."""
    show = (
        "for one in /proc/[0-9]*; do tr '\\0' ' ' <$one/cmdline | grep -q 'python3 -m plugin'"
        " && sed -n 's/^CapEff:\\s*//p' $one/status; done; true"
    )
    granted = {int(mask, 16) for mask in pair.h1.exec(["sh", "-c", show]).split()}
    assert granted
    assert all(mask >> 13 & 1 for mask in granted)
