"""Who is outside a flannel network reaches published ports and nothing else, whatever FORWARD's policy is.

It is ACCEPT here: dockerd leaves it so where it finds ip_forward on. h3 has the plugin and that policy; the client is
outside: it has a route to h3's containers.
"""

from __future__ import annotations

import ipaddress

import pytest

from lab import site

PREFIX = "/outside/network"
CONFIG = (
    '{"EnableIPv6": true, "Network": "10.93.0.0/16", "IPv6Network": "fd00:93::/48",'
    ' "Backend": {"Type": "vxlan", "VNI": 93}}'
)
NETWORKS = {
    "shut": (),
    "secret": ("-o", "com.docker.network.bridge.enable_icc=false"),
    "native": ("-o", "flannelpy.gateway=native"),
    "inner": ("--internal",),
    "opened": ("-o", "flannelpy.outside=allow"),
}
PORTS = {"shut": "8081:80", "native": "8082:80"}


@pytest.fixture(scope="module")
def host(pair):
    """h3 after a start of dockerd that found ip_forward on, with a container on each kind of network."""
    host = pair.lab.hosts["h3"]
    policies = {tool: host.exec([tool, "-S", "FORWARD"]).split()[2] for tool in ("iptables", "ip6tables")}
    for tool in policies:
        host.exec([tool, "-P", "FORWARD", "ACCEPT"])
    host.exec(["sysctl", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
    host.restart_dockerd()
    site.put_config(pair.lab, CONFIG, PREFIX)
    site.install(host, pair.image, ETCD_ENDPOINTS=pair.lab.etcd_endpoints, ETCD_PREFIX=PREFIX)
    site.wait_ready(host)
    (told,) = site.status(host)["flannel_networks"]
    slices = ipaddress.IPv4Network(told["subnet"]).subnets(new_prefix=28)
    slices_v6 = ipaddress.IPv6Network(told["subnet_v6"]).subnets(new_prefix=72)
    for name, options in NETWORKS.items():
        six = ("--ipv6", "--subnet", str(next(slices_v6)))
        site.create_network(host, name, "--subnet", str(next(slices)), *six, *options)
        port = ("-p", PORTS[name]) if name in PORTS else ()
        host.docker("run", "-d", "--name", name, "--network", name, *port, "busybox", "sleep", "3600", timeout_s=60)
        site.serve_who(host, name, "[::]:80")
    host.docker("run", "-d", "--name", "plain", "busybox", "sleep", "3600", timeout_s=60)
    yield host
    for name in (*NETWORKS, "plain"):
        host.try_docker("rm", "-f", name, timeout_s=90)
        host.try_docker("network", "rm", name, timeout_s=90)
    site.remove(host)
    for tool, policy in policies.items():
        host.exec([tool, "-P", "FORWARD", policy])


@pytest.fixture
def routed(pair, host):
    """A machine outside, with a route to each of the containers in both families."""
    client = pair.lab.client
    routes = [
        *(("-4", f"{site.ip_of(host, name, name)}/32", "via", host.ip) for name in NETWORKS),
        *(("-6", f"{site.ip6_of(host, name, name)}/128", "via", host.ip_v6) for name in NETWORKS),
    ]
    for family, *route in routes:
        client.exec(["ip", family, "route", "replace", *route])
    yield client
    for family, *route in routes:
        client.exec(["ip", family, "route", "del", *route])


def url(address, port=80):
    return f"http://{f'[{address}]' if ':' in address else address}:{port}/cgi-bin/who"


def addresses(host, name):
    return (site.ip_of(host, name, name), site.ip6_of(host, name, name))


def fetches(machine, address, port=80, wait_s=1):
    return machine.try_exec(["curl", "-sS", "-m", str(wait_s), url(address, port)]).ok


def fetches_inside(host, container, address, port=80):
    return host.try_docker("exec", container, "timeout", "1", "wget", "-qO-", url(address, port)).ok


def test_dockerd_left_the_policy_and_nobody_outside_reaches_a_container(routed, host):
    assert "-P FORWARD ACCEPT" in host.exec(["iptables", "-S", "FORWARD"])
    reached = {name for name in NETWORKS for address in addresses(host, name) if fetches(routed, address)}
    assert reached == {"opened"}
    assert all(fetches(routed, address, wait_s=5) for address in addresses(host, "opened"))


def test_published_ports_are_there_for_everybody(routed, host):
    for name, port in (("shut", 8081), ("native", 8082)):
        assert fetches(routed, host.ip, port, wait_s=5), name
        assert fetches_inside(host, "plain", host.ip, port), name
    assert fetches(routed, host.ip_v6, 8082, wait_s=5)


def test_a_container_on_dockers_own_bridge_is_outside(host):
    reached = {name for name in NETWORKS if fetches_inside(host, "plain", site.ip_of(host, name, name))}
    assert reached == {"opened"}


def test_the_host_and_the_flannel_network_are_inside(pair, host):
    for name in ("shut", "secret", "native", "inner", "opened"):
        for address in addresses(host, name):
            assert fetches(host, address, wait_s=5), name
    for name in ("native", "opened"):
        for address in addresses(host, "native" if name != "native" else "opened"):
            assert fetches_inside(host, name, address), name
    for name in ("shut", "secret", "native", "opened"):
        assert host.ip in site.inside(host, name, f"timeout 5 wget -qO- {pair.lab.outside_url}")


def test_what_keeps_containers_from_the_tunnels_comes_back(host):
    def rules():
        return host.try_exec(["nft", "list", "table", "inet", "flannelpy"]).out

    assert "udp dport 8472" in rules()
    before = rules()
    host.exec(["nft", "delete", "table", "inet", "flannelpy"])
    site.wait_for("no VXLAN from containers", lambda: rules() == before, 10)
    host.docker("network", "create", "-o", "com.docker.network.bridge.name=shop0", "shop")
    site.wait_for("none from a bridge that Docker was told to name so", lambda: '"shop0"' in rules(), 15)
    host.docker("network", "rm", "shop")
    site.wait_for("as before", lambda: rules() == before, 15)
