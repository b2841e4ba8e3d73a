"""Two hosts of flanneld on a real kernel, one of which becomes ours while packets pass, and its key in a real etcd.

What flanneld leaves is made by hand, in its order and with its values: flannel pkg/backend/vxlan/device.go and
vxlan_network.go. No flanneld can be had where these tests run.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import subprocess
import threading
from collections.abc import Iterator

import pytest

from overlay import clones, etcd_client, kernel_netlink, lease, member, netstate, node, registry_etcd, registry_fake
from tests import documents, flanneld_rules
from tests.overlay import etcd_server, node_host

pytestmark = pytest.mark.contract

OUR_MAC, PEER_MAC, GONE_MAC = "c6:d2:32:6f:8f:01", "c6:d2:32:6f:8f:02", "c6:d2:32:6f:8f:03"
OURS, PEER = node_host.key("10.2.20.0/24"), node_host.key("10.2.21.0/24")


def make_device(number: int, mac: str) -> list[str]:
    """flannel.1 and docker0 of the host 192.0.2.<number>, subnet 10.2.<19 + number>.0/24."""
    vxlan = f"type vxlan id 1 dev eth0 local 192.0.2.{number} dstport 8472 nolearning"
    subnet = f"10.2.{19 + number}"
    return [
        f"ip link add flannel.1 address {mac} mtu 1450 txqueuelen 0 {vxlan}",
        f"ip addr add {subnet}.0/32 dev flannel.1",
        "ip link set flannel.1 up",
        "ip link add docker0 type bridge",
        f"ip addr add {subnet}.1/24 dev docker0",
        "ip link set docker0 up",
    ]


def add_peer(subnet: str, mac: str, public_ip: str) -> list[str]:
    return [
        f"ip neigh replace {subnet}.0 lladdr {mac} dev flannel.1 nud permanent",
        f"bridge fdb replace {mac} dev flannel.1 dst {public_ip} self permanent",
        f"ip route replace {subnet}.0/24 via {subnet}.0 dev flannel.1 onlink",
    ]


@pytest.fixture
def hosts(make_netns) -> Iterator[tuple]:
    """Two hosts on one wire, as two flannelds leave them; 10.2.22.0/24 has departed while ours was not looking."""
    ours, peer = make_netns(), make_netns()
    ours.run(f"ip link add eth0 type veth peer name eth0 netns {peer.path}")
    for number, (space, mac) in enumerate(((ours, OUR_MAC), (peer, PEER_MAC)), start=1):
        space.run(
            f"ip addr add 192.0.2.{number}/24 dev eth0",
            "ip link set eth0 up",
            "ip route add default via 192.0.2.254",
            *make_device(number, mac),
        )
    ours.run(*add_peer("10.2.21", PEER_MAC, "192.0.2.2"), *add_peer("10.2.22", GONE_MAC, "192.0.2.3"))
    peer.run(*add_peer("10.2.20", OUR_MAC, "192.0.2.1"))
    yield ours, peer
    ours.close()
    peer.close()


@pytest.fixture
def host(hosts, tmp_path: pathlib.Path) -> Iterator[node_host.NodeHost]:
    """Ours, with flanneld's lease and that of the peer in a registry that only listens."""
    agreed = registry_fake.FakeRegistry(node_host.CONFIG)
    agreed.put_peer(OURS, node_host.attrs("192.0.2.1", OUR_MAC))
    agreed.put_peer(PEER, node_host.attrs("192.0.2.2", PEER_MAC))
    one = node_host.NodeHost(tmp_path, agreed, kernel=kernel_netlink.KernelNetlink())
    yield one
    one.close()


@pytest.fixture
def client(tmp_path: pathlib.Path) -> Iterator[etcd_client.EtcdClient]:
    with etcd_server.running(tmp_path / "etcd") as cluster, contextlib.closing(cluster.client()) as made:
        yield made


def link_of(space) -> tuple[object, ...]:
    """What would be another if the device had been made anew, or moved."""
    (link,) = json.loads(space.run("ip -j -d link show flannel.1"))
    data = link["linkinfo"]["info_data"]
    return link["ifindex"], link["address"], link["mtu"], data["local"], link.get("ifalias")


def entries_of(space) -> list[str]:
    """Routes, neighbours and forwarding entries of flannel.1, without who made a route."""
    lines = space.run(
        "ip route show dev flannel.1", "ip neigh show dev flannel.1", "bridge fdb show dev flannel.1"
    ).splitlines()
    return sorted(re.sub(r" proto \S+", "", line).strip() for line in lines)


def take_over(space, host: node_host.NodeHost) -> node.Node:
    """As the plugin starts: join, follow, and a look at the whole host, all in its namespace."""
    with space.inside():
        one = host.start()
        node_host.until(lambda: one.status().confirmed and one.status().followed)
        host.reconciler.open_gate()
        host.reconciler.run_pass()
    return one


class Ping:
    """Fifty a second until `lost` asks how many had no answer."""

    def __init__(self, space, source: str, target: str) -> None:
        with space.inside():
            self._process = subprocess.Popen(
                ["ping", "-i", "0.02", "-w", "60", "-I", source, target], stdout=subprocess.PIPE, text=True
            )
        assert self._process.stdout is not None
        while "icmp_seq" not in self._process.stdout.readline():  # the first answer
            assert self._process.poll() is None, f"{target} does not answer"

    def lost(self) -> int:
        self._process.send_signal(2)
        told, _ = self._process.communicate(timeout=20)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", told)
        assert found is not None, told
        return int(found[1]) - int(found[2])


def test_a_host_of_flanneld_is_taken_over_without_a_packet_lost(hosts, host: node_host.NodeHost) -> None:
    ours, peer = hosts
    index, *made, alias = link_of(ours)
    assert alias is None
    there, revision = (link_of(peer), entries_of(peer)), host.registry.read_leases().revision
    pings = [Ping(ours, "10.2.20.0", "10.2.21.1"), Ping(peer, "10.2.21.1", "10.2.20.1")]
    with ours.inside():
        monitor = subprocess.Popen(["ip", "monitor", "link"], stdout=subprocess.PIPE, text=True)
    take_over(ours, host)
    threading.Event().wait(0.5)  # time in which packets could be lost
    assert [one.lost() for one in pings] == [0, 0]
    monitor.terminate()
    events, _ = monitor.communicate(timeout=20)
    assert "flannel.1" in events  # our alias
    assert "Deleted" not in events
    assert link_of(ours) == (index, *made, netstate.LINK_ALIAS)
    assert (link_of(peer), entries_of(peer)) == there
    assert host.registry.read_leases().revision == revision
    assert "10.2.20.1/24" in ours.run("ip addr show docker0")  # Docker's, not ours to take


def test_flanneld_s_entries_of_peers_that_are_there_stay_and_those_of_others_go(
    hosts, host: node_host.NodeHost
) -> None:
    ours, _ = hosts
    take_over(ours, host)
    with ours.inside():
        assert host.reconciler.run_pass()
    assert entries_of(ours) == sorted(
        [
            "10.2.21.0/24 via 10.2.21.0 onlink",
            f"10.2.21.0 lladdr {PEER_MAC} PERMANENT",
            f"{PEER_MAC} dst 192.0.2.2 self permanent",
        ]
    )
    assert "10.2.21.0/24 via" in ours.run("ip route show proto 70")


def test_a_device_that_flanneld_bound_to_a_public_address_is_moved_in_place(hosts, host: node_host.NodeHost) -> None:
    """Since 0.27.4 flanneld takes PublicIP, which behind a NAT no link of the host has."""
    ours, _ = hosts
    ours.run("ip link set flannel.1 type vxlan id 1 dev eth0 local 203.0.113.7")
    index, mac, mtu, local, _ = link_of(ours)
    assert local == "203.0.113.7"
    take_over(ours, host)
    assert link_of(ours) == (index, mac, mtu, "192.0.2.1", netstate.LINK_ALIAS)


@pytest.mark.parametrize("left_file", [True, False])
def test_the_key_in_etcd_stays_as_flanneld_wrote_it(
    tmp_path: pathlib.Path, client: etcd_client.EtcdClient, left_file: bool
) -> None:
    """Its lease too: whoever follows the keys hears nothing. `left_file`: /run/flannel/subnet.env, as always."""
    data = f'{{"VNI":1,"VtepMAC":"{OUR_MAC}"}}'
    text = f'{{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{data}}}'
    granted, _ = client.grant(86400)
    client.put_if("/adopted/config", node_host.CONFIG, lease_id=0, revision=0)
    put = client.put_if("/adopted/subnets/10.2.20.0-24", text, lease_id=granted, revision=0)
    host = node_host.NodeHost(tmp_path, registry_etcd.EtcdRegistry(client, "/adopted"), mac=netstate.Mac(OUR_MAC))
    host.previous = OURS if left_file else None
    try:
        joined = member.join("/adopted", host.options, host.ports(), threading.Event(), clones.Origins(150))
    finally:
        host.close()
    assert isinstance(joined, member.Joined)
    assert joined.lease == lease.Lease(
        key=OURS,
        attrs=node_host.attrs("192.0.2.1", OUR_MAC),
        lease_id=granted,
        mod_revision=put.item.mod_revision,
    )
    assert client.get("/adopted/subnets/10.2.20.0-24") == put.item


FAMILIES = {
    "iptables": ("10.2.0.0/16", "10.2.20.0/24"),
    "ip6tables": ("2001:db8:42::/56", "2001:db8:42:14::/64"),
}


def documented_cleaning() -> str:
    """The commands of the document but for the last, which is about files of this machine."""
    *lines, last = documents.cleaning_after_flanneld()
    assert last.strip() == "rm -r /run/flannel"
    return "\n".join(lines)


@pytest.mark.parametrize("families", [("iptables", "ip6tables"), ("iptables",)], ids=["dual", "IPv4 alone"])
@pytest.mark.parametrize("version", flanneld_rules.VERSIONS)
def test_the_document_s_cleaning_leaves_nothing_of_flanneld_and_all_of_others(netns, version: str, families) -> None:
    others = [f"{tool} {at} -j ACCEPT" for tool in FAMILIES for at in ("-A FORWARD", "-t nat -A POSTROUTING")]
    run_shell(netns, "\n".join(["set -e", *others]))
    before = saved_rules(netns)
    made = [line for tool in families for line in flanneld_rules.make(version, tool, *FAMILIES[tool])]
    run_shell(netns, "\n".join(["set -e", *made]))
    assert saved_rules(netns) != before
    run_shell(netns, documented_cleaning())
    assert saved_rules(netns) == before


def test_the_document_s_cleaning_leaves_nothing_of_flanneld_s_nftables(netns) -> None:
    for family in ("ip flannel-ipv4", "ip6 flannel-ipv6"):
        netns.run(f"nft add table {family}")
    run_shell(netns, documented_cleaning())
    assert netns.run("nft list tables") == ""


def run_shell(space, text: str) -> None:
    """As an operator's shell would. What fails in it is said and gone past, unless the text says otherwise."""
    with space.inside():
        subprocess.run(["sh", "-c", text], timeout=60, check=text.startswith("set -e"))


def saved_rules(space) -> list[str]:
    """Of both families, without counters and comments."""
    lines = [line for tool in FAMILIES for line in space.run(f"{tool}-save").splitlines()]
    return [re.sub(r" \[\d+:\d+\]$", "", line) for line in lines if not line.startswith("#")]
