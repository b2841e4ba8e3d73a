"""Every option that users know from Docker's bridge driver: what it does to a container or the host, or why not.

One host with the plugin on a dual-stack flannel network of its own; each test takes slices of its lease.
`--internal` and `-o flannelpy.gateway` are elsewhere.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import json

import pytest

from lab import plan, site

PREFIX = "/options/network"
CONFIG = (
    '{"EnableIPv6": true, "Network": "10.91.0.0/16", "IPv6Network": "fd00:91::/48",'
    ' "Backend": {"Type": "vxlan", "VNI": 91}}'
)
BRIDGE = "com.docker.network.bridge"
CREATE = ("network", "create", "-d", "flannelpy", "--ipam-driver", "flannelpy")


@dataclasses.dataclass
class Mine:
    """The host, and slices of its lease that no network has."""

    pair: object
    host: object
    slices: object
    slices_v6: object

    def create(self, name, *options):
        """A network on the next slice, which is given."""
        slice_ = next(self.slices)
        site.create_network(self.host, name, "--subnet", str(slice_), *options)
        return slice_

    def run(self, name, network, *options, image="busybox"):
        words = ("run", "-d", "--name", name, "--network", network, *options, image, "sleep", "3600")
        self.host.docker(*words, timeout_s=60)
        return name

    def inside(self, container, words):
        return site.inside(self.host, container, words)

    def inspect(self, network):
        return json.loads(self.host.docker("network", "inspect", network))[0]

    def newer_than(self, major):
        return int(self.host.docker("version", "-f", "{{.Server.Version}}").split(".")[0]) >= major


@pytest.fixture(scope="module")
def whole(pair):
    host = pair.lab.hosts["h3"]
    site.put_config(pair.lab, CONFIG, PREFIX)
    site.install(host, pair.image, ETCD_ENDPOINTS=pair.lab.etcd_endpoints, ETCD_PREFIX=PREFIX)
    site.wait_ready(host)
    (told,) = site.status(host)["flannel_networks"]
    v4, v6 = ipaddress.IPv4Network(told["subnet"]), ipaddress.IPv6Network(told["subnet_v6"])
    yield Mine(pair, host, itertools.cycle(v4.subnets(new_prefix=28)), itertools.cycle(v6.subnets(new_prefix=72)))
    site.remove(host)


@pytest.fixture
def mine(whole):
    """The module's host; what a test leaves on it goes away."""
    yield whole
    for name in whole.host.docker("ps", "-aq").split():
        whole.host.try_docker("rm", "-f", name, timeout_s=90)
    for name in whole.host.docker("network", "ls", "-q", "--filter", "type=custom").split():
        whole.host.try_docker("network", "rm", name, timeout_s=90)


def bridge_of(host, network):
    short = host.docker("network", "inspect", "-f", "{{.Id}}", network)[:12]
    return next(net["bridge"] for net in site.status(host)["networks"] if net["id"].startswith(short))


def default_routes(mine, container):
    return [line for line in mine.inside(container, "ip route").splitlines() if line.startswith("default")]


def test_addresses_come_from_where_they_were_asked_for(mine):
    slice_ = next(mine.slices)
    low, high = slice_.subnets(prefixlen_diff=1)
    router, spared = low[3], high[0]
    where = ("--subnet", str(slice_), "--ip-range", str(high), "--gateway", str(router))
    labels = ("--label", "team=blue", "--attachable")
    site.create_network(mine.host, "net", *where, "--aux-address", f"printer={spared}", *labels)
    for number in (1, 2):
        mine.run(f"c{number}", "net")
        assert site.ip_of(mine.host, f"c{number}", "net") == str(high[number])
    assert default_routes(mine, "c1") == [f"default via {router} dev eth0 "]
    assert f"inet {router}/28 " in mine.host.exec(["ip", "-o", "addr", "show", bridge_of(mine.host, "net")])
    asked = ("--ip", str(low[5]), "--mac-address", "02:aa:00:00:00:77", "--network-alias", "third")
    mine.run("c3", "net", *asked)
    assert site.ip_of(mine.host, "c3", "net") == str(low[5])
    assert mine.inside("c3", "cat /sys/class/net/eth0/address") == "02:aa:00:00:00:77"
    assert f"({low[5]})" in mine.inside("c1", "ping -c 1 -w 5 third")
    taken = mine.host.try_docker("run", "--rm", "--network", "net", "--ip", str(low[5]), "busybox", "true")
    assert str(low[5]) in taken.err
    told = mine.inspect("net")
    assert (told["Labels"], told["Attachable"]) == ({"team": "blue"}, True)
    assert mine.host.docker("network", "ls", "--filter", "label=team=blue", "--format", "{{.Name}}") == "net"


def test_a_second_family(mine):
    slice_v6 = next(mine.slices_v6)
    mine.create("net", "--ipv6", "--subnet", str(slice_v6), "--gateway", str(slice_v6[9]))
    wanted = slice_v6[0x77]
    mine.run("c1", "net", "--ip6", str(wanted))
    mine.run("c2", "net")
    assert site.ip6_of(mine.host, "c1", "net") == str(wanted)
    assert f"default via {slice_v6[9]} dev eth0" in mine.inside("c2", "ip -6 route")
    assert "1 packets received" in mine.inside("c2", f"ping6 -c 1 -w 5 {wanted}")
    assert "1 packets received" in mine.inside("c2", f"ping6 -c 1 -w 5 {plan.OUTSIDE_V6[0x10]}")


def test_names_mtu_and_masquerade(mine):
    options = (
        *("-o", f"{BRIDGE}.name=br-options", "-o", "com.docker.network.container_iface_prefix=opt"),
        *("-o", "com.docker.network.driver.mtu=1300", "-o", f"{BRIDGE}.enable_ip_masquerade=false"),
    )
    slice_ = mine.create("net", *options)
    mine.run("c1", "net")
    own = site.ip_of(mine.host, "c1", "net")
    assert default_routes(mine, "c1") == [f"default via {slice_[1]} dev opt0 "]
    assert mine.inside("c1", "cat /sys/class/net/opt0/mtu") == "1300"
    assert "br-options" in mine.host.exec(["ip", "-o", "link", "show", "type", "bridge"])
    assert bridge_of(mine.host, "net") == "br-options"
    assert who_the_client_sees(mine, slice_) == own
    mine.host.docker("plugin", "disable", "-f", site.PLUGIN, timeout_s=60)
    mine.host.exec(["ip", "link", "del", "br-options"])
    mine.host.docker("plugin", "enable", site.PLUGIN, timeout_s=60)
    site.wait_ready(mine.host)
    reaches = ("exec", "c1", "ping", "-c", "1", "-W", "1", str(slice_[1]))
    site.wait_for("the bridge is back", lambda: mine.host.try_docker(*reaches).ok)
    assert who_the_client_sees(mine, slice_) == own
    mine.host.docker("rm", "-f", "c1")
    mine.host.docker("network", "rm", "net")
    assert "br-options" not in site.kernel_of(mine.host)["links"]


def who_the_client_sees(mine, slice_):
    """The source address that a machine beside the host sees, which knows the way back."""
    client = mine.pair.lab.client
    client.exec(["ip", "route", "replace", str(slice_), "via", mine.host.ip])
    client.spawn("who", ["socat", "TCP-LISTEN:9001,fork,reuseaddr", "SYSTEM:echo $SOCAT_PEERADDR"])
    try:
        ask = ("exec", "c1", "nc", "-w", "2", mine.pair.lab.plan.client.ip, "9001")
        site.wait_for("an answer", lambda: mine.host.try_docker(*ask).out != "")
        return mine.host.docker(*ask).strip()
    finally:
        client.end("who")
        client.exec(["ip", "route", "del", str(slice_)])


def test_a_bridge_that_somebody_else_has_is_left_alone(mine):
    mine.host.exec(["ip", "link", "add", "br-theirs", "type", "bridge"])
    before = mine.host.exec(["ip", "-o", "link", "show", "br-theirs"])
    refused = mine.host.try_docker(
        *CREATE, "--subnet", str(next(mine.slices)), "-o", f"{BRIDGE}.name=br-theirs", "no"
    )
    assert "a link br-theirs is there that is not flannelpy's; choose another name" in refused.err
    assert mine.host.exec(["ip", "-o", "link", "show", "br-theirs"]) == before
    mine.host.exec(["ip", "link", "del", "br-theirs"])
    mine.create("one", "-o", f"{BRIDGE}.name=br-theirs")
    again = mine.host.try_docker(*CREATE, "--subnet", str(next(mine.slices)), "-o", f"{BRIDGE}.name=br-theirs", "two")
    assert "has bridge br-theirs" in again.err


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (f"{BRIDGE}.name=fp-blue", "is a name that Docker, flannelpy or the kernel uses"),
        (f"{BRIDGE}.name=a/b", "expected 1 to 15 letters"),
        (f"{BRIDGE}.host_binding_ipv4=192.0.2.1", "-p ADDRESS:PORT:PORT"),
        (f"{BRIDGE}.gateway_mode_ipv4=routed", "enable_ip_masquerade=false"),
        (f"{BRIDGE}.inhibit_ipv4=true", "--internal"),
        (f"{BRIDGE}.default_bridge=true", "docker run --network NAME"),
        (f"{BRIDGE}.trusted_host_interfaces=ens33", "use -p"),
        (
            "parent=ens33",
            (
                "unknown option 'parent'; flannelpy knows: flannelpy.gateway, flannelpy.spoofing, "
                "flannelpy.outside, com.docker.network.driver.mtu"
            ),
        ),
    ],
)
def test_what_there_is_not_is_refused_with_what_to_do(mine, option, told):
    slice_ = next(mine.slices)
    refused = mine.host.try_docker(*CREATE, "--subnet", str(slice_), "-o", option, "no")
    assert told in refused.err
    assert str(slice_) not in json.dumps(site.status(mine.host)), "the pool is free again"


def test_a_container_in_several_networks(mine):
    """Docker's own bridge and two of ours: one way out, and each network with its own address."""
    slice_, other = mine.create("mid"), mine.create("zed")
    mine.host.docker("network", "create", "aaa")
    mine.run("peer1", "mid")
    mine.run("peer2", "zed")
    mine.run("multi", "mid")
    mine.host.docker("network", "connect", "zed", "multi")
    assert default_routes(mine, "multi") == [f"default via {slice_[1]} dev eth0 "], "first by name, as Docker says"
    mine.host.docker("network", "connect", "aaa", "multi")
    first = mine.host.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "aaa")
    assert default_routes(mine, "multi") == [f"default via {first} dev eth2 "]
    for peer, network in (("peer1", "mid"), ("peer2", "zed")):
        site.serve_who(mine.host, peer)
        there = site.ip_of(mine.host, peer, network)
        seen = mine.inside("multi", f"timeout 5 wget -qO- http://{there}/cgi-bin/who")
        assert seen == site.ip_of(mine.host, "multi", network)
    assert mine.host.ip in mine.inside("multi", f"timeout 5 wget -qO- {mine.pair.lab.outside_url}")
    mine.host.docker("network", "disconnect", "aaa", "multi")
    assert default_routes(mine, "multi") == [f"default via {slice_[1]} dev eth0 "]
    mine.host.docker("network", "disconnect", "mid", "multi")
    assert default_routes(mine, "multi") == [f"default via {other[1]} dev eth1 "]
    assert mine.host.ip in mine.inside("multi", f"timeout 5 wget -qO- {mine.pair.lab.outside_url}")
    if mine.newer_than(28):
        mine.host.docker("network", "connect", "--gw-priority", "7", "mid", "multi")
        assert default_routes(mine, "multi") == [f"default via {slice_[1]} dev eth0 "]
        mine.host.docker("network", "connect", "--gw-priority", "9", "aaa", "multi")
        assert [first in route for route in default_routes(mine, "multi")] == [True]


def test_connecting_and_disconnecting_a_running_container(mine):
    slice_ = mine.create("net")
    mine.run("c1", "net")
    mine.run("c2", "none")
    mine.host.docker("network", "disconnect", "none", "c2")
    before = len(site.status(mine.host)["endpoints"])
    asked = ("--alias", "second", "--ip", str(slice_[9]))
    mine.host.docker("network", "connect", *asked, "net", "c2")
    assert f"({slice_[9]})" in mine.inside("c1", "ping -c 1 -w 5 second")
    mine.host.docker("network", "disconnect", "net", "c2")
    assert "eth" not in mine.inside("c2", "ls /sys/class/net")
    assert not mine.host.try_docker("exec", "c1", "ping", "-c", "1", "-W", "1", str(slice_[9])).ok
    assert len(site.status(mine.host)["endpoints"]) == before
    mine.host.docker("network", "connect", *asked, "net", "c2")
    assert f"({slice_[9]})" in mine.inside("c1", "ping -c 1 -w 5 second")
