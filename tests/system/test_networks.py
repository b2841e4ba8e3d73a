"""Networks come and go without a trace; names, slices, and the network that creates itself."""

from __future__ import annotations

import ipaddress

import pytest

from lab import plan, site

DUAL_CONFIG = (
    '{"EnableIPv6": true, "Network": "10.72.0.0/16", "IPv6Network": "fd00:72::/48",'
    ' "Backend": {"Type": "vxlan", "VNI": 72}}'
)


def test_network_rm_leaves_no_device_rule_route_or_row(solo):
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    site.create_network(solo.host, "warm-up")  # the first network switches forwarding on, for good
    solo.host.docker("run", "--rm", "-p", "80", "--network", "warm-up", "busybox", "true", timeout_s=60)
    solo.host.docker("network", "rm", "warm-up")
    site.wait_for("no container's link", lambda: "fph" not in " ".join(site.kernel_of(solo.host)["links"]))
    site.wait_for("no guard", lambda: "table bridge flannelpy {" not in site.kernel_of(solo.host)["rules"])
    before = site.kernel_of(solo.host)
    site.create_network(solo.host, "mynet")
    solo.host.docker("run", "-d", "--name", "one", "--network", "mynet", "busybox", "sleep", "3600")
    solo.host.docker("run", "-d", "--name", "two", "-p", "8080:80", "--network", "mynet", "busybox", "sleep", "3600")
    during = site.kernel_of(solo.host)
    assert any(link.startswith("fp-") for link in during["links"])
    assert sum(link.startswith("fph") for link in during["links"]) == 2
    assert len(site.status(solo.host)["endpoints"]) == 2
    solo.host.docker("rm", "-f", "one", "two")
    solo.host.docker("network", "rm", "mynet")
    site.wait_kernel(solo.host, before)
    told = site.status(solo.host)
    assert (told["networks"], told["endpoints"], told["addresses"]) == ([], [], [])
    solo.host.docker("plugin", "disable", "-f", site.PLUGIN, timeout_s=60)
    solo.host.docker("plugin", "enable", site.PLUGIN, timeout_s=60)
    site.wait_ready(solo.host)
    told = site.status(solo.host)  # what the file says, not the memory
    assert (told["networks"], told["endpoints"], told["addresses"]) == ([], [], [])


@pytest.mark.parametrize("name", ["flannelpy", "flannelpy:1"])
def test_both_names_of_the_driver_work(solo, name):
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    solo.host.docker("network", "create", "-d", name, "--ipam-driver", name, "net", timeout_s=60)
    solo.host.docker("run", "--rm", "--network", "net", "busybox", "true", timeout_s=60)


def test_the_default_network_creates_itself(solo):
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints, DEFAULT_NETWORK="home")
    site.wait_for("network home", lambda: solo.host.try_docker("network", "inspect", "home").ok)
    assert "default via" in solo.host.docker("run", "--rm", "--network", "home", "busybox", "ip", "route")


def test_standalone_needs_no_etcd(solo):
    solo.install()
    site.wait_ready(solo.host)
    assert site.status(solo.host)["mode"] == "standalone"
    site.create_network(solo.host, "mynet")
    solo.host.docker("run", "-d", "--name", "one", "--network", "mynet", "busybox", "sleep", "3600", timeout_s=60)
    ip = site.ip_of(solo.host, "one")
    told = solo.host.docker("run", "--rm", "--network", "mynet", "busybox", "ping", "-c", "1", "-w", "5", ip)
    assert "1 packets received" in told
    assert solo.host.ip in site.inside(solo.host, "one", f"timeout 5 wget -qO- {solo.lab.outside_url}")


def test_standalone_takes_the_config_it_is_given(solo):
    solo.install(NETWORK_CONFIG='{"Network":"10.9.0.0/16","SubnetLen":26,"Backend":{"Type":"vxlan"}}')
    site.wait_ready(solo.host)
    site.create_network(solo.host, "mynet")
    subnet = ipaddress.IPv4Network(site.subnet_of(solo.host, "mynet"))
    assert subnet.prefixlen == 26
    assert subnet.subnet_of(ipaddress.IPv4Network("10.9.0.0/16"))


def test_two_networks_share_one_lease(solo):
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    lease = ipaddress.IPv4Network(site.status(solo.host)["flannel_networks"][0]["subnet"])
    low, high = lease.subnets(prefixlen_diff=1)
    for name, slice_ in (("low", low), ("high", high)):
        site.create_network(solo.host, name, "--subnet", str(slice_))
        solo.host.docker("run", "-d", "--name", f"in-{name}", "--network", name, "busybox", "sleep", "3600")
    ip = site.ip_of(solo.host, "in-high", "high")
    assert ipaddress.IPv4Address(ip) in high
    assert "1 packets received" in site.inside(solo.host, "in-low", f"ping -c 1 -w 5 {ip}")
    third = solo.host.try_docker(
        "network", "create", "-d", "flannelpy", "--ipam-driver", "flannelpy", "third", timeout_s=60
    )
    assert not third.ok
    assert str(low) in third.err
    assert str(high) in third.err


@pytest.mark.parametrize("option", ["--internal", "--label=none=1"])
def test_a_container_is_on_two_slices_of_one_lease(pair, solo, run, option):
    """Whichever comes first: Docker refuses an interface whose address a route of the container covers already."""
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    lease = ipaddress.IPv4Network(site.status(solo.host)["flannel_networks"][0]["subnet"])
    for name, half in zip(("low", "high"), lease.subnets(), strict=True):
        site.create_network(solo.host, name, option, "--subnet", str(half))
    one, two = (run(solo.host, "-p", "8085:80", network="low"), run(solo.host, network="high"))
    solo.host.docker("network", "connect", "high", one)
    solo.host.docker("network", "connect", "low", two)
    solo.host.docker("restart", one, two, timeout_s=60)
    peer = site.ip_of(pair.h1, run(pair.h1))
    for name in (one, two):
        assert "1 packets received" in site.inside(solo.host, name, f"ping -c 1 -w 10 {peer}")
    for network in ("low", "high"):
        address = site.ip_of(solo.host, two, network)
        assert "1 packets received" in site.inside(solo.host, one, f"ping -c 1 -w 10 {address}")


def test_an_internal_network_reaches_the_overlay_and_nothing_else(pair, solo, run):
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.create_network(solo.host, "mynet", "--internal")
    solo.host.docker("run", "-d", "--name", "one", "--network", "mynet", "busybox", "sleep", "3600", timeout_s=60)
    peer = site.ip_of(pair.h1, run(pair.h1))
    assert "2 packets received" in site.inside(solo.host, "one", f"ping -c 2 -w 10 {peer}")
    assert not solo.host.try_docker("exec", "one", "timeout", "3", "wget", "-qO-", solo.lab.outside_url).ok
    assert not solo.host.try_docker(
        "exec", "one", "ping", "-c", "1", "-w", "3", solo.lab.client.exec(["hostname", "-I"]).split()[0]
    ).ok


def test_an_internal_network_stays_shut_where_all_else_is_open(solo):
    """The operator lets everything through, the container makes itself a way out, and outside knows the way back."""
    site.put_config(solo.lab, DUAL_CONFIG, "/shut/network")
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints, ETCD_PREFIX="/shut/network")
    site.create_network(solo.host, "mynet", "--internal", "--ipv6")
    options = ("--cap-add", "NET_ADMIN", "--network", "mynet")
    solo.host.docker("run", "-d", "--name", "one", *options, "busybox", "sleep", "3600", timeout_s=60)
    own, own_v6 = site.ip_of(solo.host, "one"), site.ip6_of(solo.host, "one")
    told = solo.host.docker("network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{end}}", "mynet").split()
    subnet, subnet_v6 = sorted(map(ipaddress.ip_network, told), key=lambda one: one.version)
    for family, net in (("-4", subnet), ("-6", subnet_v6)):
        site.inside(solo.host, "one", f"ip {family} route add default via {net[1]}")
    client = solo.lab.client
    chain = "FORWARD" if solo.lab.config.firewall == "nftables" else "DOCKER-USER"
    solo.host.exec(["iptables", "-I", chain, "-j", "ACCEPT"])
    solo.host.exec(["ip6tables", "-I", "FORWARD", "-j", "ACCEPT"])
    client.exec(["ip", "route", "add", str(subnet), "via", solo.host.ip])
    client.exec(["ip", "route", "add", str(subnet_v6), "via", solo.host.ip_v6])
    try:
        there = [address for address in client.exec(["hostname", "-I"]).split() if not address.startswith("fe80")]
        assert [ipaddress.ip_address(address).version for address in there] == [4, 6]
        for address in there:
            assert not solo.host.try_docker("exec", "one", "ping", "-c", "1", "-W", "3", address).ok
        for address in (own, own_v6):
            assert not client.try_exec(["ping", "-c", "1", "-w", "3", address]).ok
    finally:
        for net in (subnet, subnet_v6):
            client.exec(["ip", "route", "del", str(net)])
        solo.host.exec(["ip6tables", "-D", "FORWARD", "-j", "ACCEPT"])
        solo.host.exec(["iptables", "-D", chain, "-j", "ACCEPT"])


def test_two_flannel_networks_on_one_host_never_meet(solo):
    site.put_config(solo.lab, '{"Network":"10.66.0.0/16","Backend":{"Type":"vxlan","VNI":66}}', "/blue/network")
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.create_network(solo.host, "red")
    site.create_network(solo.host, "blue", "--ipam-opt", "flannelpy.prefix=/blue/network")
    for name in ("red", "blue"):
        solo.host.docker("run", "-d", "--name", f"in-{name}", "--network", name, "busybox", "sleep", "3600")
    red, blue = site.ip_of(solo.host, "in-red", "red"), site.ip_of(solo.host, "in-blue", "blue")
    assert blue.startswith("10.66.")
    assert "flannel.66" in " ".join(site.kernel_of(solo.host)["links"])
    assert not solo.host.try_docker("exec", "in-red", "ping", "-c", "1", "-W", "2", blue).ok
    assert not solo.host.try_docker("exec", "in-blue", "ping", "-c", "1", "-W", "2", red).ok
    assert solo.host.ip in site.inside(solo.host, "in-blue", f"timeout 5 wget -qO- {solo.lab.outside_url}")
    solo.host.docker("rm", "-f", "in-blue")
    solo.host.docker("network", "rm", "blue")
    site.wait_for("flannel.66 gone", lambda: "flannel.66" not in site.kernel_of(solo.host)["links"])
    site.wait_for("its key gone", lambda: not solo.lab.etcdctl("get", "--prefix", "/blue/network/subnets"))


def test_networks_follow_the_mtu_of_the_wire_below(solo, pair, run):
    """New containers get it; those that run keep theirs, and their large packets still arrive."""
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    site.create_network(solo.host, "mynet")
    before = run(solo.host, image="flannelpy-tools")
    server = run(pair.h2, image="flannelpy-tools")
    there = site.ip_of(pair.h2, server)
    site.inside(pair.h2, server, "socat -u TCP-LISTEN:9000 OPEN:/tmp/got,creat & echo ok")
    set_wire(solo.host, 1400)
    try:
        site.wait_for("bridge at 1350", lambda: mtu_of_bridge(solo.host) == 1350, 15)
        after = run(solo.host)
        assert site.inside(solo.host, after, "cat /sys/class/net/eth0/mtu") == "1350"
        assert site.inside(solo.host, before, "cat /sys/class/net/eth0/mtu") == "1450"
        send = f"head -c 300000 /dev/zero | timeout 20 socat -u - TCP:{there}:9000"
        site.inside(solo.host, before, send)  # its first full segment finds out what the path carries
        got = site.inside(pair.h2, server, "wc -c < /tmp/got")
        assert int(got) == 300000
    finally:
        set_wire(solo.host, 1500)
    site.wait_for("bridge at 1450", lambda: mtu_of_bridge(solo.host) == 1450, 15)


def set_wire(host, mtu):
    host.exec(["ip", "link", "set", plan.NIC, "mtu", str(mtu)])


def mtu_of_bridge(host):
    (line,) = [line for line in host.exec(["ip", "-o", "link"]).splitlines() if ": fp-" in line]
    return int(line.split(" mtu ")[1].split()[0])
