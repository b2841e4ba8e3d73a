"""Two flannel networks on both of two hosts: each talks within itself, nothing passes between them, whatever happens
to the hosts' packet filters."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import json

import pytest

from lab import site

PREFIX = "/apart/network"
CONFIG = '{"Network":"10.68.0.0/16","Backend":{"Type":"vxlan","VNI":68}}'
NETWORKS = {"mynet": "flannel.1", "apart": "flannel.68"}
CREATE = ("network", "create", "-d", "flannelpy", "--ipam-driver", "flannelpy")


@dataclasses.dataclass(frozen=True)
class Container:
    """One of a network. `publishes`: it has a second interface, on docker_gwbridge."""

    host: object
    network: str
    publishes: bool

    @property
    def name(self):
        return f"{self.network}-{'web' if self.publishes else 'plain'}"

    @property
    def label(self):
        return f"{self.host.name} {self.name}"


class Land:
    """Containers of both kinds, networks and hosts, and who reaches whom."""

    def __init__(self, pair):
        self.hosts = (pair.h1, pair.h2)
        self.containers = [
            Container(host, network, publishes)
            for host in self.hosts
            for network in NETWORKS
            for publishes in (False, True)
        ]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(self._start, self.hosts))
        self.look()

    def look(self):
        """Learn everybody's address."""
        self.targets = {one.label: site.ip_of(one.host, one.name, one.network) for one in self.containers}
        for host in self.hosts:
            for network in NETWORKS:
                subnet = ipaddress.IPv4Network(site.subnet_of(host, network))
                self.targets |= {
                    f"{host.name} {network} bridge": str(subnet[1]),
                    f"{host.name} {network} device": str(subnet[0]),
                }

    def _start(self, host):
        for one in self.containers:
            if one.host is host:
                port = ("-p", "80") if one.publishes else ()
                words = ("run", "-d", "--name", one.name, "--restart", "always", "--network", one.network, *port)
                host.docker(*words, "busybox", "sleep", "3600", timeout_s=90)

    def reached(self):
        """What each container gets an answer from."""
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return dict(
                zip([one.label for one in self.containers], pool.map(self._ask, self.containers), strict=True)
            )

    def _ask(self, one):
        """The addresses of its own host in either network are the host's, and no way into the other network."""
        ping = "".join(
            f"(ping -c 1 -W 1 {address} > /dev/null && echo '{label}') & "
            for label, address in self.targets.items()
            if not (label.startswith(one.host.name) and label.endswith(("bridge", "device")))
        )
        told = one.host.try_docker("exec", one.name, "sh", "-c", f"{ping} wait")
        return sorted(told.out.splitlines()) if told.ok else [told.err]

    def wanted(self):
        """Its own network, on both hosts."""
        wanted = {}
        for one in self.containers:
            own = {f"{host.name} {one.network}-{kind}" for host in self.hosts for kind in ("plain", "web")}
            far = {f"{host.name} {one.network} {kind}" for host in self.hosts for kind in ("bridge", "device")}
            wanted[one.label] = sorted(own | {label for label in far if not label.startswith(one.host.name)})
        return wanted

    def wait(self, what):
        last = {}

        def right():
            nonlocal last
            last = self.reached()
            return last == self.wanted()

        try:
            site.wait_for(f"everybody reaches their own, {what}", right, 10)
        except site.errors.Timeout:
            assert last == self.wanted(), what


@pytest.fixture(scope="module")
def land(pair):
    site.put_config(pair.lab, CONFIG, PREFIX)
    for host in (pair.h1, pair.h2):
        site.create_network(host, "apart", "--ipam-opt", f"flannelpy.prefix={PREFIX}")
    try:
        yield Land(pair)
    finally:
        for host in (pair.h1, pair.h2):
            host.try_docker("rm", "-f", *(f"{network}-{kind}" for network in NETWORKS for kind in ("plain", "web")))
            host.try_docker("network", "rm", "apart", timeout_s=90)
            host.exec(["iptables", "-P", "FORWARD", "DROP"])


def both(land, words):
    for host in land.hosts:
        host.exec(["sh", "-ec", words])


def test_each_reaches_its_own_network_and_nothing_of_the_other(land):
    land.wait("at first")


@pytest.mark.parametrize(
    "flush",
    [
        "nft flush ruleset",
        "iptables -P INPUT DROP; iptables -P FORWARD DROP; iptables -F; iptables -P INPUT ACCEPT",
    ],
)
def test_it_is_so_again_after_the_packet_filter_was_flushed(land, flush):
    both(land, flush)
    land.wait(flush)


def test_it_is_so_again_after_dockerd_was_restarted(land):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda host: host.restart_dockerd(), land.hosts))
    for host in land.hosts:
        site.wait_for("containers", lambda host=host: len(host.docker("ps", "-q").split()) == 4, 30)
    land.look()  # Docker may have given others
    land.wait("after dockerd was restarted")


def test_a_published_port_is_there_for_the_other_network_too(land):
    """It is the host's, as for anybody else who reaches the host."""
    web, other = (one for one in land.containers if one.host is land.hosts[0] and one.publishes)
    site.serve_who(web.host, web.name)
    port = web.host.docker("port", web.name, "80/tcp").splitlines()[0].rpartition(":")[2]
    for client in (other, *(one for one in land.containers if one.network == other.network)):
        assert site.inside(client.host, client.name, f"timeout 5 wget -qO- {web.host.ip}:{port}/cgi-bin/who")


@pytest.mark.parametrize(
    ("prefix", "config", "told"),
    [
        ("/wide", '{"Network":"10.68.128.0/17","Backend":{"Type":"vxlan","VNI":69}}', "overlaps /apart/network"),
        ("/twin", '{"Network":"10.69.0.0/16","Backend":{"Type":"vxlan","VNI":68}}', "has device flannel.68 as"),
        (
            "/apart/network/subnets",
            '{"Network":"10.69.0.0/16","Backend":{"Type":"vxlan","VNI":69}}',
            "lies among the leases of /apart/network",
        ),
    ],
)
def test_a_network_that_collides_is_refused_and_leaves_nothing(pair, land, prefix, config, told):
    before = json.dumps(site.status(pair.h1)["flannel_networks"])
    site.put_config(pair.lab, config, prefix)
    try:
        refused = pair.h1.try_docker(*CREATE, "--ipam-opt", f"flannelpy.prefix={prefix}", "no", timeout_s=60)
        assert told in refused.err
        assert pair.lab.etcdctl("get", "--prefix", "--keys-only", f"{prefix}/subnets/") == ""
        assert {"flannel.69"}.isdisjoint(site.kernel_of(pair.h1)["links"])
        site.wait_for("as before", lambda: keys_of(pair.h1) == [one["prefix"] for one in json.loads(before)])
    finally:
        pair.lab.etcdctl("del", f"{prefix}/config")


def keys_of(host):
    return [one["prefix"] for one in site.status(host)["flannel_networks"]]
