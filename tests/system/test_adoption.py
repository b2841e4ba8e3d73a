"""A host moves from flanneld and `--bip` to flannelpy, by the steps of docs/operations.md.

No flanneld can be had where these tests run. What it leaves in the kernel, in etcd and in /run is made by hand, in
its order and with its values; a program of its name, with its arguments, stands in for the process.
Source: flannel pkg/backend/vxlan/vxlan_network.go, pkg/trafficmngr/iptables/iptables.go, main.go.
"""

from __future__ import annotations

import base64
import json

import pytest

from lab import site
from tests import documents, flanneld_rules

pytestmark = pytest.mark.long("26.1")

SUBNET = "10.2.60.0/24"
KEY = f"{site.PREFIX}/subnets/{SUBNET.replace('/', '-')}"
MAC = "c6:d2:32:6f:8f:60"
FLANNELD = "/usr/local/bin/flanneld"
RIVAL = (
    "flanneld (pid {pid}) runs on this host with prefix /coreos.com/network and would fight for this host's lease: "
    "stop it (systemctl disable --now flanneld), then flannelpy takes over its lease and device by itself"
)
DOCKER0 = f"docker0 has 10.2.60.1/24, and {SUBNET} is this host's flannel subnet"


def leases(pair):
    """The leases of the other hosts: (subnet, PublicIP, MAC)."""
    found = []
    for entry in json.loads(pair.lab.etcdctl("get", "--prefix", "-w", "json", f"{site.PREFIX}/subnets"))["kvs"]:
        name = base64.b64decode(entry["key"]).decode().rpartition("/")[2].replace("-", "/")
        value = json.loads(base64.b64decode(entry["value"]))
        if name != SUBNET:
            found.append((name, value["PublicIP"], value["BackendData"]["VtepMAC"]))
    return found


def become_flannel(pair, host):
    """Kernel, etcd, /run and dockerd as flanneld and its unit files leave them."""
    vxlan = f"type vxlan id 1 dev ens33 local {host.ip} dstport 8472 nolearning"
    lines = [
        f"ip link add flannel.1 address {MAC} mtu 1450 {vxlan}",
        "ip addr add 10.2.60.0/32 dev flannel.1",
        "ip link set flannel.1 up",
    ]
    for subnet, ip, mac in leases(pair):
        gateway = subnet.partition("/")[0]
        lines += [
            f"ip neigh replace {gateway} lladdr {mac} dev flannel.1 nud permanent",
            f"bridge fdb replace {mac} dev flannel.1 dst {ip} self permanent",
            f"ip route replace {subnet} via {gateway} dev flannel.1 onlink",
        ]
    lines += flanneld_rules.make("0.28.9", "iptables", "10.2.0.0/16", SUBNET)
    lines += [
        "mkdir -p /run/flannel",
        "printf 'FLANNEL_NETWORK=10.2.0.0/16\\nFLANNEL_SUBNET=10.2.60.1/24\\n' > /run/flannel/subnet.env",
        f"printf '#!/bin/sh\\nwhile :; do sleep 1; done\\n' > {FLANNELD}",
        f"chmod +x {FLANNELD}",
    ]
    host.exec(["sh", "-ec", "\n".join(lines)])
    grant = pair.lab.etcdctl("lease", "grant", "86400").split()[1]
    value = {"PublicIP": host.ip, "PublicIPv6": None, "BackendType": "vxlan"}
    value["BackendData"] = {"VNI": 1, "VtepMAC": MAC}
    pair.lab.etcdctl("put", f"--lease={grant}", KEY, json.dumps(value, separators=(",", ":")))
    start_flanneld(pair, host)
    host.dockerd_args = (*pair.lab.config.dockerd_args, "--bip=10.2.60.1/24", "--mtu=1450")
    host.restart_dockerd()


def start_flanneld(pair, host):
    host.spawn("flanneld", [FLANNELD, f"--etcd-endpoints={pair.lab.etcd_endpoints}", "--ip-masq"])


@pytest.fixture
def flannel_host(pair, solo):
    """h3 as a flannel host of the classic guide; afterwards as it was."""
    host = solo.host
    before = host.dockerd_args
    become_flannel(pair, host)
    yield host
    site.remove(host)
    host.dockerd_args = before
    pair.lab.etcdctl("del", KEY)
    host.reboot()


def key(pair):
    """(value, etcd lease, create revision) of the host's key, and how often it was written."""
    (entry,) = json.loads(pair.lab.etcdctl("get", "-w", "json", KEY))["kvs"]
    return (base64.b64decode(entry["value"]).decode(), entry["lease"], entry["create_revision"]), entry["version"]


def seen_from(host):
    """What another host has in its kernel about this one."""
    lines = host.exec(["sh", "-c", "ip route; ip neigh show dev flannel.1; bridge fdb show dev flannel.1"])
    return sorted(line.strip() for line in lines.splitlines() if "10.2.60." in line or MAC in line)


def device(host):
    """What would be new if the device had been made anew: its number, MAC and local address."""
    (link,) = json.loads(host.exec(["ip", "-j", "-d", "link", "show", "flannel.1"]))
    return link["ifindex"], link["address"], link["linkinfo"]["info_data"]["local"]


def rules_of_flanneld(host):
    """How many rules and chains are flanneld's."""
    tools = ("iptables", "ip6tables")
    return host.exec(["sh", "-c", "; ".join(f"{one} -S; {one} -t nat -S" for one in tools)]).count("FLANNEL-")


def refusal(host, *options):
    told = host.try_docker("network", "create", "-d", "flannelpy", "--ipam-driver", "flannelpy", *options, "mynet")
    assert not told.ok
    return told.err


def test_a_flannel_host_is_taken_over_and_no_other_host_notices(pair, solo, flannel_host, run):
    host = flannel_host
    far = run(pair.h1)
    far_ip = site.ip_of(pair.h1, far)
    site.wait_for("the peer's route", lambda: len(seen_from(pair.h1)) >= 3, 10)
    before, made, there = key(pair), device(host), seen_from(pair.h1)
    assert "2 packets received" in host.docker("run", "--rm", "busybox", "ping", "-c", "2", "-w", "9", far_ip)

    # While flanneld runs nothing is touched, and everybody is told why.
    solo.install(ETCD_ENDPOINTS=pair.lab.etcd_endpoints)
    rival = RIVAL.format(pid=host.daemon_pid("flanneld"))
    site.wait_for("the refusal", lambda: rival in site.ask(host, "/readyz")[1])
    assert site.ask(host, "/readyz")[0] == 503
    assert rival in refusal(host)
    assert "flannelpy" not in host.exec(["ip", "-d", "link"])

    # It ends, and flannelpy takes over by itself, without a write.
    host.end("flanneld")
    site.wait_ready(host)
    assert (key(pair), device(host), seen_from(pair.h1)) == (before, made, there)
    site.wait_for("the rewrite for peers that missed something", lambda: key(pair) == (before[0], 2), 15)
    assert DOCKER0 in refusal(host)
    assert "2 packets received" in host.docker("run", "--rm", "busybox", "ping", "-c", "2", "-w", "9", far_ip)

    # Docker lets go of the subnet.
    host.dockerd_args = (*pair.lab.config.dockerd_args, "--bip=172.17.0.1/16")
    host.restart_dockerd()
    site.wait_ready(host)
    site.create_network(host, "mynet")
    assert site.subnet_of(host, "mynet") == SUBNET
    near = run(host)
    near_ip = site.ip_of(host, near)
    site.serve_who(host, near)
    assert "2 packets received" in site.inside(host, near, f"ping -c 2 -w 9 {far_ip}")
    assert "2 packets received" in site.inside(pair.h1, far, f"ping -c 2 -w 9 {near_ip}")
    assert site.inside(pair.h1, far, f"wget -qO- http://{near_ip}/cgi-bin/who").strip() == far_ip
    assert (key(pair)[0], device(host), seen_from(pair.h1)) == (before[0], made, there)

    # flanneld's own rules are not ours to remove: an operator does, as the document says.
    assert rules_of_flanneld(host) == (1 + 1 + 6) + (1 + 1 + 2)
    host.exec(["sh", "-c", "\n".join(documents.cleaning_after_flanneld())])
    assert rules_of_flanneld(host) == 0
    assert "2 packets received" in site.inside(host, near, f"ping -c 2 -w 9 {far_ip}")

    # One that starts beside flannelpy renews the key and is told; once it has ended it is told no more.
    start_flanneld(pair, host)
    (value, grant, _), _ = key(pair)
    pair.lab.etcdctl("put", f"--lease={grant:x}", KEY, value)
    rival = RIVAL.format(pid=host.daemon_pid("flanneld"))
    site.wait_for("the stray one is told", lambda: rival in site.ask(host, "/readyz")[1], 10)
    host.end("flanneld")
    site.wait_ready(host, 10)


DUAL = "/dual/network"
DUAL_CONFIG = (
    '{"EnableIPv6": true, "Network": "10.71.0.0/16", "IPv6Network": "fd00:71::/48",'
    ' "Backend": {"Type": "vxlan", "VNI": 71}}'
)
DUAL_SUBNETS = {"iptables": ("10.71.0.0/16", "10.71.60.0/24"), "ip6tables": ("fd00:71::/48", "fd00:71:0:60::/64")}
DUAL_KEY = f"{DUAL}/subnets/10.71.60.0-24&fd00:71:0:60::-64"
LET_GO = "--bip=172.17.0.1/16"


@pytest.fixture
def dual_host(pair, solo):
    """h3 as a host of flanneld's with both families, which has ended; afterwards as it was."""
    host, before = solo.host, solo.host.dockerd_args
    site.put_config(pair.lab, DUAL_CONFIG, DUAL)
    mac = {"VNI": 71, "VtepMAC": MAC}
    value = {"PublicIP": host.ip, "PublicIPv6": host.ip_v6, "BackendType": "vxlan"}
    value |= {"BackendData": mac, "BackendV6Data": {"VNI": 71, "VtepMAC": MAC[:-2] + "61"}}
    grant = pair.lab.etcdctl("lease", "grant", "86400").split()[1]
    pair.lab.etcdctl("put", f"--lease={grant}", DUAL_KEY, json.dumps(value, separators=(",", ":")))
    made = [line for tool, nets in DUAL_SUBNETS.items() for line in flanneld_rules.make("0.28.9", tool, *nets)]
    env = ("FLANNEL_NETWORK=10.71.0.0/16", "FLANNEL_SUBNET=10.71.60.1/24", "FLANNEL_IPV6_SUBNET=fd00:71:0:60::1/64")
    made += ["mkdir -p /run/flannel", f"printf '%s\\n' {' '.join(env)} > /run/flannel/subnet.env"]
    host.exec(["sh", "-ec", "\n".join(made)])
    docker0 = ("--bip=10.71.60.1/24", "--mtu=1430", "--ipv6", "--fixed-cidr-v6=fd00:71:0:60::/64")
    host.dockerd_args = (*pair.lab.config.dockerd_args, *docker0)
    host.restart_dockerd()
    yield host
    site.remove(host)
    host.dockerd_args = before
    pair.lab.etcdctl("del", "--prefix", DUAL)
    host.reboot()


@pytest.mark.long("28.5")
def test_a_dual_stack_host_is_taken_over_by_the_steps_of_the_document(pair, solo, dual_host):
    host = dual_host
    solo.install(ETCD_ENDPOINTS=pair.lab.etcd_endpoints, ETCD_PREFIX=DUAL)
    site.wait_ready(host)
    (net,) = site.status(host)["flannel_networks"]
    assert (net["subnet"], net["subnet_v6"]) == ("10.71.60.0/24", "fd00:71:0:60::/64")
    assert "docker0 has 10.71.60.1/24, and 10.71.60.0/24 is this host's flannel subnet" in refusal(host, "--ipv6")

    host.dockerd_args = (*pair.lab.config.dockerd_args, LET_GO)
    host.restart_dockerd()
    site.wait_ready(host)
    left = "fd00:71:0:60::1/64" in host.exec(["ip", "addr", "show", "docker0"])
    assert left or host.engine != "28.5", "the document says so"
    if left:
        cure = "ip addr del fd00:71:0:60::1/64 dev docker0"
        assert cure in refusal(host, "--ipv6")
        host.exec(cure.split())
    site.create_network(host, "mynet", "--ipv6")
    host.docker("run", "-d", "--name", "both", "--network", "mynet", "busybox", "sleep", "3600", timeout_s=60)
    assert site.ip_of(host, "both").startswith("10.71.60.")
    assert site.ip6_of(host, "both").startswith("fd00:71:0:60:")

    assert rules_of_flanneld(host) == 2 * ((1 + 1 + 6) + (1 + 1 + 2))
    host.exec(["sh", "-c", "\n".join(documents.cleaning_after_flanneld())])
    assert rules_of_flanneld(host) == 0
    host.restart_dockerd()
    site.wait_ready(host)
    assert "fd00:71" not in host.exec(["ip", "addr", "show", "docker0"])
