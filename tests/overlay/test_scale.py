"""Many peers, on a real etcd and a real kernel: how few requests, how soon, and what bad ones cost the others."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bench import peers as many
from overlay import errors, firewall_fake, kernel_netlink, netstate, reconciler, registry_etcd
from tests.overlay import etcd_server, node_host, real_node

pytestmark = pytest.mark.contract

PREFIX = node_host.PREFIX
DEVICE = netstate.IfName("flannel.1")
REQUESTS = 6
"""Config, all leases, a grant, the key; then all leases as the watch begins, and the watch."""


@pytest.fixture
def gateway(tmp_path: pathlib.Path) -> Iterator[many.Gateway]:
    with etcd_server.running(tmp_path / "etcd") as cluster:
        made = many.Gateway(cluster.urls[0].removeprefix("http://"))
        made.cluster = cluster  # type: ignore[attr-defined]  # both are wanted, and they are one
        with contextlib.closing(made):
            yield made


def started(gateway: many.Gateway, netns: Any, directory: pathlib.Path, count: int) -> tuple[float, float]:
    """Seconds until a new node has programmed `count` peers, and how many requests that were."""
    prefix = f"/many-{count}"
    gateway.put(f"{prefix}/config", many.CONFIG)
    gateway.put_peers(prefix, 0, count)
    directory.mkdir()
    netns.run(
        "ip link add eth0 up type veth peer name wire",
        "ip link set wire up",
        "ip addr add 192.0.2.1/24 dev eth0",
        "ip route add default via 192.0.2.254",
    )
    client = gateway.cluster.client()  # type: ignore[attr-defined]  # as above
    with contextlib.closing(client):
        client.get("dialled from here, not from the node's namespace")
        agreed = registry_etcd.EtcdRegistry(client, prefix)
        host = real_node.RealNode(netns=netns, registry=agreed, directory=directory, mac="0e:00:00:00:00")
        before, began = gateway.requests(), time.monotonic()
        one = host.start()
        with netns.inside():
            kernel = kernel_netlink.KernelNetlink()
            node_host.until(lambda: len(entries(kernel)) == 3 * count, f"{count} peers programmed", within_s=30)
        took = time.monotonic() - began
        node_host.until(lambda: one.status().followed and one.status().peers == count, "all followed")
        asked = gateway.requests() - before
        host.stop()
    return took, asked


def entries(kernel: kernel_netlink.KernelNetlink) -> set[netstate.KernelObject]:
    of = netstate.Neighbour | netstate.FdbEntry | netstate.Route
    return {obj for obj in kernel.observe(netstate.EMPTY) if isinstance(obj, of)}


def test_a_snapshot_of_500_peers_is_programmed_soon_and_costs_no_request_per_peer(
    gateway: many.Gateway, make_netns: Any, tmp_path: pathlib.Path
) -> None:
    asked = {}
    for count in (10, 500):
        with contextlib.closing(make_netns()) as netns:
            took, asked[count] = started(gateway, netns, tmp_path / str(count), count)
            assert took < 10
    assert asked == {10: REQUESTS, 500: REQUESTS}


def peer(number: int) -> list[netstate.KernelObject]:
    """The entries of one peer."""
    subnet = ipaddress.ip_network(((10 << 24 | 17 << 16) + (number << 8), 24))
    mac = netstate.Mac(many.mac(number))
    vtep = ipaddress.ip_address("198.51.100.0") + number % 250 + 2
    return [
        netstate.Neighbour(link=DEVICE, ip=subnet.network_address, mac=mac),
        netstate.FdbEntry(link=DEVICE, mac=mac, vtep_ip=vtep),
        netstate.Route(destination=subnet, gateway=subnet.network_address, link=DEVICE),
    ]


def test_peers_that_the_kernel_refuses_cost_the_others_nothing(netns: Any) -> None:
    netns.run(
        "ip link add eth0 up type veth peer name wire", "ip link set wire up", "ip addr add 192.0.2.1/24 dev eth0"
    )
    device = netstate.VxlanLink(
        name=DEVICE,
        vni=1,
        port=8472,
        local=ipaddress.ip_address("192.0.2.1"),
        underlay=netstate.IfName("eth0"),
        mac=netstate.Mac("0e:00:00:00:00:01"),
        mtu=1450,
    )
    good = frozenset(obj for number in range(1000) for obj in peer(number) if number % 100)
    bad = {
        dataclasses.replace(obj, gateway=ipaddress.ip_address("224.0.0.1"))
        for number in range(0, 1000, 100)
        for obj in peer(number)
        if isinstance(obj, netstate.Route)
    }
    with netns.inside():
        kernel = kernel_netlink.KernelNetlink()
        keeper = reconciler.Reconciler(kernel, firewall_fake.FirewallFake())
        keeper.open_gate()
        began = time.monotonic()
        with pytest.raises(errors.KernelError) as refused:
            keeper.set("node", frozenset({device}) | good | bad)
        took = time.monotonic() - began
        assert entries(kernel) == good
        assert len(refused.value.failures) == len(bad)
        assert took < 5
        stats = keeper.run_pass()
        assert (stats.ops, stats.failures) == (0, len(bad))
        kernel.apply([netstate.Remove(obj=obj) for obj in peer(1)])
        assert keeper.run_pass().ops == 3
        assert entries(kernel) == good
