"""Containers that forge addresses or MACs reach nobody, and those of a network without icc not each other."""

from __future__ import annotations

import contextlib
import ipaddress
import re

import pytest

from lab import site
from lab.errors import CommandFailed

pytestmark = pytest.mark.long("20.10")

FORGER = ("--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW")
OTHER_MAC = "02:00:00:00:00:99"


@pytest.fixture
def slices(solo):
    """h3 with the plugin; makes a network on the next quarter of its lease."""
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    subnet = site.status(solo.host)["flannel_networks"][0]["subnet"]
    left = list(ipaddress.ip_network(subnet).subnets(new_prefix=26))

    def make(name, *options):
        arguments = [*(word for option in options for word in ("-o", option)), "--subnet", str(left.pop(0))]
        solo.host.docker(
            "network", "create", "-d", "flannelpy", "--ipam-driver", "flannelpy", *arguments, name, timeout_s=60
        )

    return make


def echoes(host, name):
    """How many pings a container has got."""
    lines = site.inside(host, name, "cat /proc/net/snmp").splitlines()
    head, counts = (line.split() for line in lines if line.startswith("Icmp:"))
    return int(dict(zip(head, counts, strict=True))["InEchos"])


def pings(host, name, target, options=""):
    """Whether pings of a container with the tools arrive at the target, answered or not."""
    there, other, *network = target
    before = echoes(there, other)
    with contextlib.suppress(CommandFailed):
        site.inside(host, name, f"/usr/bin/ping -c 3 -i 0.2 -w 2 {options} {site.ip_of(there, other, *network)}")
    return echoes(there, other) > before


def forge(host, name, theirs, target):
    """What arrives at the target of a container's own pings, of those from another's address and another MAC.

    And whether the target took its MAC for the other's.
    """
    own = pings(host, name, target)
    site.inside(host, name, f"ip addr add {theirs}/32 dev eth0")
    address = pings(host, name, target, f"-I {theirs}")
    mac = site.inside(host, name, "cat /sys/class/net/eth0/address")
    taken = False
    for _ in range(4):  # the target may just be asking by itself, and hear the honest one last
        site.inside(host, name, f"busybox arping -U -c 1 -w 1 -I eth0 -s {theirs} {theirs} || true")
        taken = taken or neighbour(target[0], target[1], theirs) == mac
    site.inside(host, name, f"ip addr del {theirs}/32 dev eth0")
    hop, its_mac = way_to(host, name, site.ip_of(*target))
    site.inside(host, name, f"ip link set eth0 address {OTHER_MAC}")
    # By hand, or a question that is dropped would do for a ping that is
    site.inside(host, name, f"ip neigh replace {hop} lladdr {its_mac} dev eth0")
    other_mac = pings(host, name, target)
    site.inside(host, name, f"ip link set eth0 address {mac}")
    return own, address, other_mac, taken


def way_to(host, name, address):
    """Whom a container with the tools hands a packet to that address: address and MAC, as it has just used them."""
    hop = re.search(r"via (\S+)", site.inside(host, name, f"ip route get {address}"))
    hop = hop[1] if hop else address
    return hop, neighbour(host, name, hop)


def neighbour(host, name, address):
    """The MAC that a container has for an address."""
    for line in site.inside(host, name, "cat /proc/net/arp").splitlines():
        if line.split()[0] == address:
            return line.split()[3]
    return ""


def test_a_forger_reaches_nobody_unless_the_operator_allows_it(solo, slices, run):
    slices("guarded")
    slices("free", "flannelpy.spoofing=allow")
    h3 = solo.host
    for network, expected in (("guarded", (True, False, False, False)), ("free", (True, True, True, True))):
        forger = run(h3, *FORGER, network=network, image="flannelpy-tools")
        victim, name = run(h3, network=network), run(h3, network=network)
        target, address = (h3, name, network), site.ip_of(h3, victim, network)
        site.inside(h3, name, f"ping -c 1 -w 5 {address}")
        honest = site.inside(h3, victim, "cat /sys/class/net/eth0/address")
        assert neighbour(h3, name, address) == honest
        assert forge(h3, forger, address, target) == expected
        assert network == "free" or neighbour(h3, name, address) == honest
        assert pings(h3, forger, target)
    assert site.status(h3)["kernel"]["limits"] == []


def test_a_forger_reaches_nobody_on_another_host_either(pair, run):
    forger, victim = run(pair.h1, *FORGER, image="flannelpy-tools"), run(pair.h1)
    theirs = site.ip_of(pair.h1, victim)
    assert forge(pair.h1, forger, theirs, (pair.h2, run(pair.h2))) == (True, False, False, False)


def test_a_forger_reaches_nobody_through_its_second_interface(pair, run):
    """That of a container which publishes ports, on docker_gwbridge: whoever it says it is, of either host."""
    forger = run(pair.h1, *FORGER, "-p", "80", image="flannelpy-tools")
    victim, near, far = run(pair.h1), (pair.h1, run(pair.h1)), (pair.h2, run(pair.h2))
    gateway = re.search(r"default via (\S+) dev (\S+)", site.inside(pair.h1, forger, "ip route"))
    local, remote = site.ip_of(pair.h1, victim), site.ip_of(*far)
    for target, names in ((near, (local, remote)), (far, (local,))):
        address = site.ip_of(*target)
        site.inside(pair.h1, forger, f"ip route add {address} via {gateway[1]} dev {gateway[2]}")
        assert pings(pair.h1, forger, target), "this way leads nowhere for anybody"
        for theirs in names:
            site.inside(pair.h1, forger, f"ip addr replace {theirs}/32 dev lo")
            assert not pings(pair.h1, forger, target, f"-I {theirs}"), (theirs, address)
            site.inside(pair.h1, forger, f"ip addr del {theirs}/32 dev lo")
        site.inside(pair.h1, forger, f"ip route del {address}")


def test_what_is_flushed_is_guarded_again_within_ten_seconds(pair, run):
    forger, victim, target = (
        run(pair.h1, *FORGER, image="flannelpy-tools"),
        run(pair.h1, image="flannelpy-tools"),
        run(pair.h1),
    )
    theirs = site.ip_of(pair.h1, victim)
    site.inside(pair.h1, forger, f"ip addr add {theirs}/32 dev eth0")
    pair.h1.exec(["nft", "delete", "table", "bridge", "flannelpy"])
    site.wait_for("guard", lambda: "flannelpy" in pair.h1.exec(["nft", "list", "tables", "bridge"]), 10)
    assert not pings(pair.h1, forger, (pair.h1, target), f"-I {theirs}")
    assert pings(pair.h1, victim, (pair.h1, target))


def test_without_icc_containers_reach_the_outside_and_not_each_other(pair, solo, slices, run):
    slices("shut", "com.docker.network.bridge.enable_icc=false")
    slices("open")
    h3 = solo.host
    one, two = run(h3, network="shut", image="flannelpy-tools"), run(h3, network="shut", image="flannelpy-tools")
    other, remote = run(h3, network="open", image="flannelpy-tools"), run(pair.h1, image="flannelpy-tools")
    for filtered in "10":  # with and without the rules that Docker lets see what stays on a bridge
        h3.exec(["sysctl", "-q", "-w", f"net.bridge.bridge-nf-call-iptables={filtered}"])
        assert not pings(h3, one, (h3, two, "shut"))
    for target in ((h3, other, "open"), (pair.h1, remote)):
        assert not pings(h3, one, target)
    assert not pings(h3, other, (h3, one, "shut"))
    assert not pings(pair.h1, remote, (h3, one, "shut"))
    assert pings(h3, other, (pair.h1, remote))
    gateway = ipaddress.ip_network(site.subnet_of(h3, "shut"))[1]
    outside = re.findall(r"\d+\.\d+\.\d+\.\d+", pair.lab.etcd_endpoints)[0]
    for reached in (gateway, outside):
        assert " 0% packet loss" in site.inside(h3, one, f"/usr/bin/ping -c 2 -w 5 {reached}")
