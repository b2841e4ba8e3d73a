"""What the plugin says of itself, at each stage of its life."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import threading
from collections.abc import Callable

import pytest

from ipam import requests
from overlay import flanneld, netstate
from plugin import report
from tests.overlay import node_host
from tests.plugin import memory_plugin

Plugin = memory_plugin.MemoryPlugin
OWN = node_host.key("10.2.1.0/24")
PREFIX = node_host.PREFIX


def missing(plugin: Plugin) -> list[str]:
    return list(report.missing(plugin.graph))


def gauges(plugin: Plugin) -> dict[str, float]:
    return {name: value for name, _, _, value in report.samples(plugin.graph)}


@pytest.fixture
def ready(make_plugin: Callable[..., Plugin]) -> Plugin:
    plugin = make_plugin().join()
    plugin.reconciler.run_pass()
    return plugin


def test_at_first_all_is_missing(make_plugin: Callable[..., Plugin]) -> None:
    assert missing(make_plugin()) == [f"{PREFIX}: no lease yet: starting", "kernel: the first pass has not ended"]


def test_a_saved_lease_waits_for_the_registry(make_plugin: Callable[..., Plugin]) -> None:
    plugin = make_plugin(saved=True)
    plugin.reconciler.run_pass()
    assert missing(plugin) == [f"{PREFIX}: lease 10.2.1.0/24 not confirmed yet: starting"]


def test_why_there_is_no_lease_is_told(make_plugin: Callable[..., Plugin]) -> None:
    plugin = make_plugin()
    plugin.registry.set_config(None)
    plugin.nodes.start()
    node_host.until(lambda: plugin.nodes.all()[0].status().trouble)
    assert missing(plugin)[0] == f"{PREFIX}: no lease yet: no network config in the registry"


def test_when_nothing_is_missing_nothing_is_told(ready: Plugin) -> None:
    assert missing(ready) == []
    assert gauges(ready)["flannelpy_lease_held"] == 1.0


def test_a_pool_nearly_used_up_is_told_and_does_not_make_the_plugin_unready(ready: Plugin) -> None:
    pool_id = memory_plugin.fill_network(ready)
    for _ in range(203):  # with the gateway 204, of 254
        ready.ipam.request_address(requests.AddressRequest(pool_id=pool_id))
    assert report.status(ready.graph)["addresses"] == [
        {"pool": "10.2.1.0/24", "prefix": PREFIX, "used": 204, "total": 254, "short": True}
    ]
    assert gauges(ready)["flannelpy_addresses_short"] == 1.0
    assert missing(ready) == []


def test_a_pool_outside_the_lease_is_told(ready: Plugin) -> None:
    """Docker has a network from an earlier life, and its subnet is another host's by now."""
    wandered = requests.KnownPool(
        prefix=PREFIX,
        cidr=ipaddress.IPv4Network("10.2.9.0/24"),
        subpool=None,
        gateway=None,
        aux=frozenset(),
        endpoints=None,
    )
    ready.ipam.adopt([wandered], seen_at=0.0)
    (line,) = missing(ready)
    assert line.startswith(f"{PREFIX}: pool 10.2.9.0/24 is no part of 10.2.1.0/24, which this host has, and no other")


def test_a_lease_over_ours_is_told(ready: Plugin) -> None:
    ready.registry.put_peer(node_host.key("10.2.0.0/22"), node_host.attrs("192.0.2.66"))
    node_host.until(lambda: missing(ready))
    (line,) = missing(ready)
    assert line.startswith(f"{PREFIX}: lease 10.2.0.0/22 of 192.0.2.66 overlaps this host's 10.2.1.0/24")


def test_a_flanneld_beside_us_is_told(ready: Plugin) -> None:
    ready.flannelds = (flanneld.Flanneld(pid=1234, prefix=PREFIX),)
    ready.registry.delete_peer(OWN)  # a reason to look at the lease before the next keepalive
    node_host.until(lambda: ready.nodes.all()[0].status().findings.rival)
    (line,) = missing(ready)
    assert line.startswith(f"{PREFIX}: flanneld (pid 1234) runs on this host with prefix {PREFIX}")
    ready.flannelds = ()
    assert missing(ready) == []


def test_a_lost_subnet_is_told(ready: Plugin) -> None:
    ready.ipam.request_pool(memory_plugin.POOL)
    ready.registry.put_peer(OWN, node_host.attrs("192.0.2.66"))
    node_host.until(lambda: ready.nodes.all()[0].status().conflict)
    (line,) = missing(ready)
    assert line.startswith(f"{PREFIX}: subnet 10.2.1.0/24 is leased by 192.0.2.66, but containers of this host")
    assert gauges(ready)["flannelpy_lease_held"] == 0.0


def test_what_the_kernel_refuses_is_told_and_counted(ready: Plugin) -> None:
    peer = node_host.key("10.2.9.0/24")
    route = netstate.Route(destination=peer.v4, gateway=peer.v4.network_address, link=netstate.IfName("flannel.1"))
    ready.kernel.refuse(route, "no buffer space available")
    ready.registry.put_peer(peer, node_host.attrs("192.0.2.9"))
    node_host.until(lambda: ready.reconciler.run_pass() and ready.reconciler.last_errors)
    assert missing(ready) == [
        "kernel: ip route replace 10.2.9.0/24 via 10.2.9.0 dev flannel.1 onlink proto 70: no buffer space available"
    ]
    assert gauges(ready)["flannelpy_kernel_failures"] == 1.0


def test_an_outage_does_not_make_a_working_plugin_unready(ready: Plugin) -> None:
    """Containers start and talk without etcd: whoever restarts an unready plugin would only do harm."""
    ready.registry.go_down()
    node_host.until(lambda: ready.nodes.all()[0].status().outage)
    assert missing(ready) == []
    assert gauges(ready)["flannelpy_registry_up"] == 0.0


def test_status_is_json_and_shows_networks_endpoints_and_addresses(ready: Plugin) -> None:
    memory_plugin.fill(ready)
    told = json.loads(json.dumps(report.status(ready.graph)))
    assert told["networks"] == [
        {
            "id": memory_plugin.NETWORK_ID,
            "bridge": "fp-4d5d70de7705",
            "pool": "10.2.1.0/24",
            "gateway": "10.2.1.1",
            "pool_v6": None,
            "gateway_v6": None,
            "prefix": PREFIX,
            "mtu": 1450,
            "internal": False,
        }
    ]
    assert told["endpoints"] == [
        {
            "id": memory_plugin.ENDPOINT_ID,
            "network_id": memory_plugin.NETWORK_ID,
            "address": "10.2.1.2",
            "address_v6": None,
            "joined": False,
            "published": [],
        }
    ]
    assert told["addresses"] == [{"pool": "10.2.1.0/24", "prefix": PREFIX, "used": 2, "total": 254, "short": False}]
    assert told["flannel_networks"][0]["confirmed"] is True
    assert told["engine"] == {
        "reachable": False,
        "confirmed": False,
        "error": "not asked yet",
        "default_network": None,
        "mended": 0,
        "looked_s": None,
        "differences": {},
        "refused": {},
    }
    assert told["kernel"]["failures"] == []


def test_what_differed_at_the_last_looks_is_counted_by_kind(ready: Plugin) -> None:
    memory_plugin.fill(ready)
    ready.watch = ready.make_watch(dataclasses.replace(memory_plugin.TIMING, grace_s=3600.0))
    ready.graph = dataclasses.replace(ready.graph, watch=ready.watch)
    for _ in range(2):
        ready.watch.look()
    counts = {"network:stale": 1, "pool:stale": 1}
    assert report.status(ready.graph)["engine"]["differences"] == counts
    assert [one for one in report.samples(ready.graph) if one[0] == "flannelpy_differences"] == [
        ("flannelpy_differences", "What the last looks found to differ.", {"kind": kind}, float(count))
        for kind, count in counts.items()
    ]


def test_checksum_offload_is_told(ready: Plugin) -> None:
    assert report.status(ready.graph)["offload"] == {"setting": "auto", "on": {PREFIX: True}, "examined": []}
    assert gauges(ready)["flannelpy_tx_checksum"] == 1.0
    ready.nodes.all()[0].set_tx_checksum(False)
    ready.graph.offload.look(threading.Event())
    assert report.status(ready.graph)["offload"] == {
        "setting": "auto",
        "on": {PREFIX: False},
        "examined": [{"prefix": PREFIX, "verdict": "unknown", "asked": 0, "questions": 0, "trouble": None}],
    }
    told = gauges(ready)
    names = ("flannelpy_tx_checksum", "flannelpy_offload_questions", "flannelpy_offload_broken")
    assert [told[name] for name in names] == [0.0, 0.0, 0.0]


def test_repairs_are_counted_by_kind(ready: Plugin) -> None:
    peer = node_host.key("10.2.9.0/24")
    ready.registry.put_peer(peer, node_host.attrs("192.0.2.9"))
    route = netstate.Route(destination=peer.v4, gateway=peer.v4.network_address, link=netstate.IfName("flannel.1"))
    node_host.until(lambda: route in ready.kernel.observe(netstate.EMPTY))
    for _ in range(2):
        ready.reconciler.run_pass()
    ready.kernel.delete(route)
    ready.reconciler.run_pass()
    assert ("flannelpy_repairs", {"kind": "route"}, 1.0) in [
        (name, labels, value) for name, _, labels, value in report.samples(ready.graph)
    ]
    assert report.status(ready.graph)["repairs"] == {"route": 1}


def test_gauges_count_what_is_there(ready: Plugin) -> None:
    memory_plugin.fill(ready)
    told = gauges(ready)
    assert {name: told[name] for name in told if "address" in name or "networks" in name or "endpoints" in name} == {
        "flannelpy_addresses_used": 2.0,
        "flannelpy_addresses": 254.0,
        "flannelpy_addresses_short": 0.0,
        "flannelpy_networks": 1.0,
        "flannelpy_endpoints": 1.0,
    }


def test_events_and_requests_are_counters_and_in_the_status(ready: Plugin) -> None:
    counters = {
        (name, *labels.values()): value
        for name, _, labels, value in report.samples(ready.graph)
        if name.endswith("_total")
    }
    assert counters["flannelpy_events_total", PREFIX, "lease_held"] == 1.0
    assert counters["flannelpy_events_total", PREFIX, "key_gone"] == 0.0
    assert counters["flannelpy_etcd_requests_total", "list"] == 2.0
    told = report.status(ready.graph)
    assert told["flannel_networks"][0]["events"]["lease_held"] == 1
    assert told["etcd_requests"] == {"list": 2}


def test_another_mtu_below_reaches_the_bridges(ready: Plugin) -> None:
    memory_plugin.fill(ready)
    ready.kernel.set_underlays([dataclasses.replace(node_host.ETH0, mtu=9000)])
    ready.nodes.all()[0].look_at_underlay()
    bridges = {obj.mtu for obj in ready.kernel.observe(netstate.EMPTY) if isinstance(obj, netstate.BridgeLink)}
    assert (bridges, report.status(ready.graph)["networks"][0]["mtu"]) == ({8950}, 8950)


def test_a_watch_that_says_nothing_is_missing_though_the_lease_is_renewed(ready: Plugin) -> None:
    """The peers that come meanwhile are not known, whatever the keepalive is answered."""
    here = ready.nodes.all()[0]._standing
    here.set_progress(0.01)
    node_host.until(lambda: missing(ready))
    assert missing(ready)[0].startswith(f"{PREFIX}: watch of the peers: nothing heard for ")
    assert gauges(ready)["flannelpy_watch_heard_seconds"] > 0.01
    assert gauges(ready)["flannelpy_lease_renewed_seconds"] < 60
    here.set_progress(60)
    assert missing(ready) == []
