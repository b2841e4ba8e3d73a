"""A node that only follows flannel's own words: its key, its JSON, its device, its three entries for each peer.

No flanneld can be had where these tests run; what it does is done by hand on the lab's client machine, in the order
and with the values of flannel pkg/backend/vxlan/vxlan_network.go.
"""

from __future__ import annotations

import base64
import ipaddress
import json

import pytest

from lab import site

SUBNET = ipaddress.IPv4Network("10.2.250.0/24")
MAC = "c6:d2:32:6f:8f:44"


@pytest.fixture
def node(pair):
    """The client machine as the flannel node of 10.2.250.0/24, with a bridge as docker0 would be."""
    client = pair.lab.client
    ip = pair.lab.plan.client.ip
    peers = json.loads(pair.lab.etcdctl("get", "--prefix", "-w", "json", f"{site.PREFIX}/subnets"))
    script = [
        f"ip link add flannel.1 address {MAC} mtu 1450 type vxlan id 1 dev ens33 local {ip} dstport 8472 nolearning",
        f"ip addr add {SUBNET.network_address}/32 dev flannel.1",
        "ip link set flannel.1 up",
        "ip link add cbr0 type bridge",
        f"ip addr add {SUBNET[1]}/24 dev cbr0",
        "ip link set cbr0 up",
    ]
    for entry in peers["kvs"]:
        name = base64.b64decode(entry["key"]).decode().rpartition("/")[2]
        lease = json.loads(base64.b64decode(entry["value"]))
        assert list(lease) == ["PublicIP", "PublicIPv6", "BackendType", "BackendData"]
        assert lease["PublicIPv6"] is None
        assert lease["BackendType"] == "vxlan"
        mac, gateway = lease["BackendData"]["VtepMAC"], name.partition("-")[0]
        script += [
            f"ip neigh replace {gateway} lladdr {mac} dev flannel.1 nud permanent",
            f"bridge fdb replace {mac} dev flannel.1 dst {lease['PublicIP']} self permanent",
            f"ip route replace {name.replace('-', '/')} via {gateway} dev flannel.1 onlink",
        ]
    client.exec(["sh", "-ec", "\n".join(script)])
    value = {"PublicIP": ip, "PublicIPv6": None, "BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": MAC}}
    key = f"{site.PREFIX}/subnets/{str(SUBNET).replace('/', '-')}"
    pair.lab.etcdctl("put", key, json.dumps(value, separators=(",", ":")))
    yield client
    pair.lab.etcdctl("del", key)
    client.exec(["sh", "-c", "ip link del flannel.1; ip link del cbr0"])


def test_a_flannel_node_and_a_container_reach_each_other(pair, node, run):
    one = run(pair.h1)
    address = site.ip_of(pair.h1, one)
    route = f"{SUBNET} via {SUBNET.network_address} dev flannel.1"
    site.wait_for("the peer's route", lambda: route in pair.h1.exec(["ip", "route"]), 5)
    assert " 0% packet loss" in node.exec(["ping", "-c", "2", "-w", "5", "-I", str(SUBNET[1]), address])
    assert "2 packets received" in site.inside(pair.h1, one, f"ping -c 2 -w 5 {SUBNET[1]}")


def test_its_leaving_takes_its_entries_away(pair, node):
    route = f"{SUBNET} via"
    site.wait_for("the peer's route", lambda: route in pair.h1.exec(["ip", "route"]), 5)
    pair.lab.etcdctl("del", f"{site.PREFIX}/subnets/{str(SUBNET).replace('/', '-')}")
    site.wait_for("no route", lambda: route not in pair.h1.exec(["ip", "route"]), 5)
    assert MAC not in pair.h1.exec(["sh", "-c", "ip neigh show dev flannel.1; bridge fdb show dev flannel.1"])
