"""Swarm services over flannel networks: two nodes, in the words of docs/operations.md."""

from __future__ import annotations

import contextlib
import pathlib
import shlex

import pytest

from lab import site
from tests.system import flags

pytestmark = pytest.mark.long("26.1")

DOCS = pathlib.Path(__file__).parents[2] / "docs/operations.md"
PREFIX = "/swarm/network"
CONFIG = '{"Network":"10.77.0.0/16","Backend":{"Type":"vxlan","VNI":77}}'
SERVICE = ("--detach", "--quiet", "--endpoint-mode", "dnsrr", "--stop-grace-period", "0s", "--network", "flannel")


def commands():
    """The section's commands, as words after `docker`; the network goes into a flannel network of its own."""
    section = DOCS.read_text().split("\n## Swarm\n")[1].split("\n## ")[0]
    lines = [line.split("#")[0] for line in section.splitlines() if line.startswith("    docker ")]
    on_every, on_manager, *_ = [shlex.split(line)[1:] for line in lines]
    assert "--config-only" in on_every
    at = on_every.index("--config-only") + 1
    return [*on_every[:at], "--ipam-opt", f"flannelpy.prefix={PREFIX}", *on_every[at:]], on_manager


@pytest.fixture
def nodes(pair):
    """h1 and h2 without live-restore, with which Docker itself allows no swarm."""
    hosts = [host for host in (pair.h1, pair.h2) if flags.LIVE_RESTORE in host.dockerd_args]
    with contextlib.ExitStack() as stack:
        for host in hosts:
            refused = host.try_docker("swarm", "init", "--advertise-addr", host.ip)
            assert "--live-restore daemon configuration is incompatible with swarm mode" in refused.err
            stack.enter_context(flags.other_flags(host))()
            site.wait_ready(host)
        yield pair
    for host in hosts:
        site.wait_ready(host)


@pytest.fixture
def swarm(nodes):
    """h1 manages, h2 works; both have the configuration, and the swarm a network of it. Nothing of it stays."""
    on_every, on_manager = commands()
    site.put_config(nodes.lab, CONFIG, PREFIX)
    nodes.h1.docker("swarm", "init", "--advertise-addr", nodes.h1.ip)
    try:
        token = nodes.h1.docker("swarm", "join-token", "-q", "worker")
        nodes.h2.docker("swarm", "join", "--advertise-addr", nodes.h2.ip, "--token", token, f"{nodes.h1.ip}:2377")
        for host in (nodes.h1, nodes.h2):
            host.docker(*on_every)
        nodes.h1.docker(*on_manager)
        yield nodes
    finally:
        nodes.h1.try_docker("service", "rm", "web", timeout_s=30)
        with contextlib.suppress(site.errors.Timeout):
            wait_gone(nodes.h1, nodes.h2)
        for host in (nodes.h2, nodes.h1):
            host.try_docker("swarm", "leave", "-f", timeout_s=60)
            host.try_docker("network", "rm", "flannel-config")
        nodes.lab.etcdctl("del", "--prefix", PREFIX)


def pools(host):
    return [one for one in site.status(host)["addresses"] if one["prefix"] == PREFIX]


def wait_gone(*hosts):
    site.wait_for("the swarm's network gone from the nodes", lambda: not any(pools(host) for host in hosts), 40)


def tasks(host):
    """The service's containers on a host: id and address."""
    ids = host.docker("ps", "-q", "--filter", "label=com.docker.swarm.service.name=web").split()
    return [(one, site.ip_of(host, one, "flannel")) for one in ids]


def wait_tasks(*hosts, each=1):
    site.wait_for("tasks on all nodes", lambda: all(len(tasks(host)) == each for host in hosts), 60)


def names(host, container, name):
    """What a name resolves to in a container."""
    told = host.try_docker("exec", container, "nslookup", name).out
    return sorted(line.split()[-1] for line in told.splitlines()[2:] if line.startswith("Address"))


def test_tasks_of_two_nodes_reach_each_other_by_address_and_name(swarm):
    h1, h2 = swarm.h1, swarm.h2
    h1.docker("service", "create", "--name", "web", "--mode", "global", *SERVICE, "busybox", "sleep", "3600")
    wait_tasks(h1, h2)
    (one, ip1), (two, ip2) = tasks(h1)[0], tasks(h2)[0]
    leases = [
        one["subnet"] for host in (h1, h2) for one in site.status(host)["flannel_networks"] if one["prefix"] == PREFIX
    ]
    assert [site.subnet_of(host, "flannel") for host in (h1, h2)] == leases
    assert "2 packets received" in site.inside(h1, one, f"ping -c 2 -w 10 {ip2}")
    for host, container in ((h1, one), (h2, two)):
        site.wait_for("gossip of names", lambda at=host, c=container: names(at, c, "web") == sorted((ip1, ip2)), 20)
        assert names(host, container, "tasks.web") == sorted((ip1, ip2))
    there = h2.docker("inspect", "-f", "{{.Name}}", two).lstrip("/")
    assert "2 packets received" in site.inside(h1, one, f"ping -c 2 -w 10 {there}")

    h2.docker("run", "-d", "--name", "guest", "--network", "flannel", "busybox", "sleep", "3600", timeout_s=60)
    try:
        site.wait_for("the guest's name", lambda: names(h1, one, "guest") == [site.ip_of(h2, "guest", "flannel")], 20)
        assert "2 packets received" in site.inside(h1, one, "ping -c 2 -w 10 guest")
    finally:
        h2.docker("rm", "-f", "guest")

    h1.docker("service", "rm", "web")
    wait_gone(h1, h2)
    site.wait_for("leases given back", lambda: not swarm.lab.etcdctl("get", "--prefix", f"{PREFIX}/subnets"))
    for host in (h1, h2):
        assert "flannel.77" not in site.kernel_of(host)["links"]
    h1.docker("service", "create", "--name", "web", "--mode", "global", *SERVICE, "busybox", "sleep", "3600")
    wait_tasks(h1, h2)
    (one, _), (_, ip2) = tasks(h1)[0], tasks(h2)[0]
    assert "2 packets received" in site.inside(h1, one, f"ping -c 2 -w 10 {ip2}")
    h2.docker("swarm", "leave")
    wait_gone(h2)
    assert len(pools(h1)) == 1


def test_swarm_knows_the_plugin_by_its_alias_alone(swarm):
    """Docker's own rule, and why the documents say so."""
    told = swarm.h1.docker("node", "inspect", "self", "-f", "{{json .Description.Engine.Plugins}}")
    assert f'"{site.PLUGIN}"' in told
    classic = ("network", "create", "-d", "flannelpy", "--scope", "swarm", "--config-from", "flannel-config", "other")
    assert "legacy plugin flannelpy of type NetworkDriver is not supported" in swarm.h1.try_docker(*classic).err
