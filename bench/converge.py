"""A host that joins a network of a thousand: how soon all peers are in its kernel, and what the plugin weighs then.

The leases are in the lab's etcd before the plugin is enabled. The clock runs from the last look at which etcd did not
have the host's own lease yet, to the first at which the kernel lists a route for each peer; neighbours and forwarding
entries, which the plugin programs before the routes, are counted after that. Each round begins from nothing: no
lease, no state file, no device.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import lab
from bench import addresses, engine, figures, inside, rig
from lab import site

PEERS = 1000
PREFIX = "/bench/network"
CONFIG = '{"Network": "10.16.0.0/12", "Backend": {"Type": "vxlan"}}'
ROUNDS = 5
SETTLE_S = 3.0
USES = 3
STARTS = 10
WAIT_S = 60.0


def measure(on: rig.Rig) -> Iterator[figures.Figure]:
    """A sample of both figures in every round. Extra: the weight after use, in the last round."""
    put_peers(on.built)
    took: list[float] = []
    weights: list[float] = []
    used: list[float] = []
    host = on.h3
    options = ("--disable", "--alias", site.PLUGIN, "--grant-all-permissions", on.image)
    settings = (f"ETCD_ENDPOINTS={on.built.etcd_endpoints}", f"ETCD_PREFIX={PREFIX}")
    host.docker("plugin", "install", *options, *settings, timeout_s=120)
    for _ in range(ROUNDS):
        took.append(_converge(on))
        _check(host)
        time.sleep(SETTLE_S)
        weights.append(plugin_pss_mb(host))
        if len(took) == ROUNDS:
            used = list(_use(host))
        _forget(on)
    host.docker("plugin", "rm", "-f", site.PLUGIN)
    yield figures.median("converge_1000_s", "s", took)
    yield figures.median("plugin_pss_mb_1000", "MB", weights)
    yield figures.median("plugin_pss_mb_1000_used", "MB", used)


def _converge(on: rig.Rig) -> float:
    """Seconds of one round."""
    etcd = on.built.plan.etcd_endpoints[0].removeprefix("http://")
    keys = ("keys", etcd, f"{PREFIX}/subnets/", str(PEERS), str(WAIT_S))
    with (
        inside.running(_net(on.built.client), *keys) as leases,
        inside.running(_net(on.h3), "routes", str(PEERS), str(WAIT_S)) as routes,
    ):
        time.sleep(inside.BEGIN_S)
        on.h3.docker("plugin", "enable", site.PLUGIN)
        held, complete = inside.answer(leases, WAIT_S), inside.answer(routes, WAIT_S)
    return complete - held


def _use(host: lab.Host) -> Iterator[float]:
    """What it weighs after some starts, and after calls that wake all of its threads."""
    site.create_network(host, rig.NETWORK)
    api = engine.Engine(host)
    for _ in range(USES):
        for _ in range(STARTS):
            container = api.create(rig.NETWORK, "sleep", "3600")
            api.start(container)
            api.remove(container)
        addresses.over_socket(host, addresses.CALLERS)
        yield plugin_pss_mb(host)
    host.docker("network", "rm", rig.NETWORK)


def put_peers(to: lab.Lab) -> None:
    """Put the network's config and a thousand leases as flanneld writes them, in transactions of a hundred."""
    to.etcdctl("put", f"{PREFIX}/config", CONFIG)
    for at in range(0, PEERS, 100):
        puts = "\n".join(f"put {key} {json.dumps(value)}" for key, value in map(_lease, range(at, at + 100)))
        to.client.exec(
            ["etcdctl", "txn"],
            stdin=f"\n{puts}\n\n\n".encode(),
            env={"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": to.etcd_endpoints},
        )


def plugin_pss_mb(on: lab.Host) -> float:
    """Proportional set size of all the plugin's processes. Units: 10^6 bytes."""
    kilobytes = 0
    for pid in rig.plugin_pids(on):
        lines = (rig.process_dir(on, pid) / "smaps_rollup").read_text().splitlines()
        kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes * 1024 / 1e6


def _lease(number: int) -> tuple[str, str]:
    """Peers 10.17.0.0/24 and on, each with a public address and a MAC of its own."""
    high, low = divmod(number, 250)
    value: dict[str, Any] = {
        "PublicIP": f"198.51.{101 + high}.{low + 1}",
        "PublicIPv6": None,
        "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": f"02:10:00:00:{high:02x}:{low:02x}"},
    }
    subnet = f"10.{17 + number // 256}.{number % 256}.0-24"
    return f"{PREFIX}/subnets/{subnet}", json.dumps(value)


def _check(on: lab.Host) -> None:
    """Count by iproute2's own words. Raises LabError."""
    counts: dict[str, Callable[[str], bool]] = {
        "ip route show proto 70": lambda line: "via" in line,
        "ip neigh show dev flannel.1 nud permanent": lambda line: "PERMANENT" in line,
        "bridge fdb show dev flannel.1": lambda line: " dst " in f"{line} ",
    }
    for words, counted in counts.items():
        found = sum(map(counted, on.exec(words.split()).splitlines()))
        if found != PEERS:
            raise lab.LabError(f"{on.name}: {words}: {found} of {PEERS}")


def _forget(on: rig.Rig) -> None:
    """Take the host back to nothing: plugin off, device and entries gone, no state, no lease."""
    host = on.h3
    host.docker("plugin", "disable", "-f", site.PLUGIN)
    host.exec(["ip", "link", "del", "flannel.1"])
    for directory in pathlib.Path(host.root, "var/lib/docker/plugins").glob("*/propagated-mount"):
        for state in directory.glob("flannelpy.db*"):
            state.unlink()
    peers = {key for key, _ in map(_lease, range(PEERS))}
    for key in set(on.built.etcdctl("get", "--prefix", "--keys-only", f"{PREFIX}/subnets/").split()) - peers:
        on.built.etcdctl("del", key)


def _net(on: lab.Machine) -> pathlib.Path:
    return pathlib.Path(f"/proc/{on.pid}/ns/net")
