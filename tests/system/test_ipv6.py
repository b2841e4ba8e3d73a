"""Dual stack, as docs/operations.md promises: `--ipv6` on two hosts whose flannel network has IPv6.

The network is one of its own beside `mynet`, under another prefix: both are on the same hosts throughout.
"""

from __future__ import annotations

import ipaddress

import pytest

from lab import plan, site

PREFIX = "/dual/network"
CONFIG = (
    '{"EnableIPv6": true, "Network": "10.66.0.0/16", "IPv6Network": "fd00:66::/48",'
    ' "Backend": {"Type": "vxlan", "VNI": 66}}'
)
IPAM = ("--ipam-opt", f"flannelpy.prefix={PREFIX}")
OUTSIDE = plan.OUTSIDE_V6[0x10]


def create(host, name, *options):
    """Create a network of both families on the lease's whole subnets."""
    site.create_network(host, name, *IPAM, "--ipv6", *options)
    assert [pool.version for pool in pools_of(host, name)] == [4, 6]


def pools_of(host, name):
    """The subnets of a network, IPv4 first."""
    told = host.docker("network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{end}}", name).split()
    return sorted(map(ipaddress.ip_network, told), key=lambda pool: pool.version)


@pytest.fixture
def dual(pair):
    """Network `dual` on both hosts."""
    site.put_config(pair.lab, CONFIG, PREFIX)
    for host in (pair.h1, pair.h2):
        create(host, "dual")
    yield pair
    for host in (pair.h1, pair.h2):
        for name in host.docker("ps", "-aq", "--filter", "network=dual").split():
            host.try_docker("rm", "-f", name, timeout_s=90)
        host.try_docker("network", "rm", "dual", timeout_s=90)


def test_containers_of_two_hosts_talk_over_both_families_and_keep_their_addresses(dual, run):
    one, two = run(dual.h1, network="dual"), run(dual.h2, network="dual")
    site.serve_who(dual.h2, two, "[::]:80")
    own4, own6 = site.ip_of(dual.h1, one, "dual"), site.ip6_of(dual.h1, one, "dual")
    ip4, ip6 = site.ip_of(dual.h2, two, "dual"), site.ip6_of(dual.h2, two, "dual")
    assert ipaddress.ip_address(ip6) in pools_of(dual.h2, "dual")[1]
    assert "3 packets received" in site.inside(dual.h1, one, f"ping -c 3 -w 10 {ip4}")
    assert "3 packets received" in site.inside(dual.h1, one, f"ping6 -c 3 -w 10 {ip6}")
    assert own6 in site.inside(dual.h1, one, f"timeout 5 wget -qO- http://[{ip6}]/cgi-bin/who")
    assert own4 in site.inside(dual.h1, one, f"timeout 5 wget -qO- http://{ip4}/cgi-bin/who")
    assert "1 packets received" in site.inside(dual.h2, two, f"ping6 -c 1 -w 10 {own6}")


def test_what_leaves_the_overlay_over_ipv6_leaves_as_the_host(dual, run):
    one = run(dual.h1, network="dual")
    assert "2 packets received" in site.inside(dual.h1, one, f"ping6 -c 2 -w 10 {OUTSIDE}")
    assert "default via " in site.inside(dual.h1, one, "ip -6 route")


def test_a_full_packet_passes_over_ipv6_and_one_byte_more_does_not(dual, run):
    one = run(dual.h1, image="flannelpy-tools", network="dual")
    ip6 = site.ip6_of(dual.h2, run(dual.h2, network="dual"), "dual")
    mtu = int(site.inside(dual.h1, one, "cat /sys/class/net/eth0/mtu"))
    assert mtu == 1430  # 1500 without what VXLAN over IPv6 takes
    ping = "/usr/bin/ping -6 -M do -c 1 -w 5"
    assert " 0% packet loss" in site.inside(dual.h1, one, f"{ping} -s {mtu - 48} {ip6}")
    with pytest.raises(site.errors.CommandFailed, match=r"[Mm]essage too long"):
        site.inside(dual.h1, one, f"{ping} -s {mtu - 47} {ip6}")


def test_a_container_with_published_ports_has_ipv6_within_the_flannel_network(dual, run):
    one = run(dual.h1, "-p", "8086:80", network="dual")
    two = run(dual.h2, network="dual")
    assert "0.0.0.0:8086->80/tcp" in dual.h1.docker("ps", "--filter", f"name={one}", "--format", "{{.Ports}}")
    assert "1 packets received" in site.inside(dual.h1, one, f"ping6 -c 1 -w 10 {site.ip6_of(dual.h2, two, 'dual')}")
    assert "1 packets received" in site.inside(dual.h2, two, f"ping6 -c 1 -w 10 {site.ip6_of(dual.h1, one, 'dual')}")
    routes = site.inside(dual.h1, one, "ip -6 route")
    assert "fd00:66::/48 via " in routes
    assert "default" not in routes
    assert dual.h1.ip in site.inside(dual.h1, one, f"timeout 5 wget -qO- {dual.lab.outside_url}")
    site.serve_who(dual.h1, one)
    for address in (dual.h1.ip, f"[{dual.h1.ip_v6}]"):
        assert dual.lab.client.exec(["curl", "-fsS", "-m", "5", f"http://{address}:8086/cgi-bin/who"])


def test_slices_of_both_families_stand_beside_a_network_of_ipv4_alone(dual, solo, run):
    """And `--ip6`, which engines before 29 take only on a network with subnets of the user's own."""
    there = run(dual.h2, network="dual")
    ip4, ip6 = site.ip_of(dual.h2, there, "dual"), site.ip6_of(dual.h2, there, "dual")
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints, ETCD_PREFIX=PREFIX)
    site.wait_ready(solo.host)
    (lease,) = site.status(solo.host)["flannel_networks"]
    half4, rest4 = ipaddress.IPv4Network(lease["subnet"]).subnets()
    half6, _ = ipaddress.IPv6Network(lease["subnet_v6"]).subnets()
    site.create_network(solo.host, "both", "--subnet", str(half4), "--ipv6", "--subnet", str(half6))
    site.create_network(solo.host, "plain", "--subnet", str(rest4))
    chosen = half6[0xBEEF]
    one, other = run(solo.host, "--ip6", str(chosen), network="both"), run(solo.host, network="plain")
    assert site.ip6_of(solo.host, one, "both") == str(chosen)
    assert f" {chosen}/{half6.prefixlen} " in site.inside(solo.host, one, "ip -o -6 addr show eth0")
    assert "1 packets received" in site.inside(solo.host, one, f"ping6 -c 1 -w 10 {ip6}")
    assert "1 packets received" in site.inside(dual.h2, there, f"ping6 -c 1 -w 10 {chosen}")
    assert site.ip6_of(solo.host, other, "plain") == ""
    assert "1 packets received" in site.inside(solo.host, other, f"ping -c 1 -w 10 {ip4}")
    local = site.ip_of(solo.host, one, "both")
    assert "1 packets received" in site.inside(solo.host, other, f"ping -c 1 -w 10 {local}")


def test_a_restarted_plugin_goes_on_with_both_families(dual, run):
    one = run(dual.h1, network="dual")
    ip6 = site.ip6_of(dual.h2, run(dual.h2, network="dual"), "dual")
    known = site.status(dual.h1)["networks"], site.status(dual.h1)["endpoints"], site.status(dual.h1)["addresses"]
    dual.h1.docker("plugin", "disable", "-f", site.PLUGIN, timeout_s=60)
    dual.h1.docker("plugin", "enable", site.PLUGIN, timeout_s=60)
    site.wait_ready(dual.h1)
    told = site.status(dual.h1)
    assert (told["networks"], told["endpoints"], told["addresses"]) == known
    assert "1 packets received" in site.inside(dual.h1, one, f"ping6 -c 1 -w 10 {ip6}")
    two = run(dual.h1, network="dual")
    assert "1 packets received" in site.inside(dual.h1, two, f"ping6 -c 1 -w 10 {ip6}")


def test_removal_leaves_nothing(dual, run):
    run(dual.h1, network="dual")  # forwarding is on from here, for good
    for host in (dual.h1, dual.h2):
        for name in host.docker("ps", "-aq", "--filter", "network=dual").split():
            host.docker("rm", "-f", name, timeout_s=90)
        host.docker("network", "rm", "dual")
    for host in (dual.h1, dual.h2):
        site.wait_for("nothing of IPv6", lambda host=host: not traces(host), 15)
        told = site.status(host)
        assert {net["prefix"] for net in told["networks"]} == {site.PREFIX}
        assert {one["prefix"] for one in told["addresses"]} == {site.PREFIX}
    site.wait_for("the keys gone", lambda: not keys_of(dual))
    for host in (dual.h1, dual.h2):
        create(host, "dual")


def keys_of(dual):
    """The two hosts that have a key in the flannel network."""
    leases = dual.lab.etcdctl("get", "--prefix", f"{PREFIX}/subnets")
    return [host.ip for host in (dual.h1, dual.h2) if f'"{host.ip}"' in leases]


def traces(host):
    """What a host still has of the flannel network."""
    seen = site.kernel_of(host)
    return [
        line for part in seen.values() for line in part if "fd00:66:" in line or "10.66." in line or ".66" in line
    ]
