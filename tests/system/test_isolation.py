"""Three flannel networks on both of two hosts, two of them of both families: each talks within itself, nothing passes
between them, whatever happens to the hosts' packet filters."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import json

import pytest

from lab import site

CONFIGS = {
    "apart": (
        '{"EnableIPv6": true, "Network": "10.68.0.0/16", "IPv6Network": "fd00:68::/48",'
        ' "Backend": {"Type": "vxlan", "VNI": 68}}'
    ),
    "beside": (
        '{"EnableIPv6": true, "Network": "10.70.0.0/16", "IPv6Network": "fd00:70::/48",'
        ' "Backend": {"Type": "vxlan", "VNI": 70}}'
    ),
}
KINDS = {"mynet": ("plain",), "apart": ("plain", "web"), "beside": ("plain", "web")}
CREATE = ("network", "create", "-d", "flannelpy", "--ipam-driver", "flannelpy")
WAYS = ("ping", "tcp")
"""What surely is answered. UDP is by an ICMP error, of which a kernel sends few at a time: what arrives counts."""
ARRIVED = ("InEchos", "Icmp6InEchos", "NoPorts", "Udp6NoPorts", "OutRsts")
"""A container's counters of pings, of UDP packets to a port where nobody listens, and of such connections refused."""

PROBE = """
import errno, json, select, socket, sys, time

def ping(sock, address):
    sock.connect((address, 1))
    sock.send(bytes([128 if ":" in address else 8, 0, 0, 0, 0, 0, 0, 1]))

def udp(sock, address):
    sock.connect((address, 9))
    sock.send(b"?")

def tcp(sock, address):
    sock.connect_ex((address, 9))

def answered(sock):
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code or sock.type == socket.SOCK_STREAM:
        return code == errno.ECONNREFUSED
    return bool(sock.recv(64))

asked, poll = {}, select.poll()
for label, address in json.loads(sys.argv[1]).items():
    six = ":" in address
    family = socket.AF_INET6 if six else socket.AF_INET
    icmp = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    for way, kind, number in (
        (ping, socket.SOCK_DGRAM, icmp), (udp, socket.SOCK_DGRAM, 0), (tcp, socket.SOCK_STREAM, 0)
    ):
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, number)
        try:
            way(sock, address)
        except OSError as exc:
            if exc.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL):
                raise  # the last where a container has no IPv6
            continue
        asked[sock.fileno()] = (sock, f"{label} {way.__name__}")
        poll.register(sock, select.POLLIN | select.POLLOUT * (way is tcp))
reached, end = [], time.monotonic() + 1
while asked and (left := end - time.monotonic()) > 0:
    for number, _ in poll.poll(left * 1000):
        sock, label = asked.pop(number)
        poll.unregister(number)
        if answered(sock):
            reached.append(label)
print(json.dumps(sorted(reached)))
"""
"""What answers within a second; a port where nobody listens does so by refusing."""


@dataclasses.dataclass(frozen=True)
class Container:
    """One of a network. `kind` web: it has a second interface, on docker_gwbridge."""

    host: object
    network: str
    kind: str

    @property
    def name(self):
        return f"{self.network}-{self.kind}"

    @property
    def label(self):
        return f"{self.host.name} {self.name}"

    @property
    def publishes(self):
        return self.kind == "web"


class Land:
    """Containers of both kinds, networks and hosts, and who reaches whom."""

    def __init__(self, pair):
        self.hosts = (pair.h1, pair.h2)
        self.containers = [
            Container(host, network, kind) for host in self.hosts for network in KINDS for kind in KINDS[network]
        ]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(self._start, self.hosts))
        self.look()

    def look(self):
        """Learn everybody's addresses, and where their namespaces are."""
        self.pids = {}
        self.targets = {}
        for one in self.containers:
            self.pids[one.label] = one.host.docker("inspect", "-f", "{{.State.Pid}}", one.name)
            self.targets[f"{one.label} v4"] = site.ip_of(one.host, one.name, one.network)
            if six := site.ip6_of(one.host, one.name, one.network):
                self.targets[f"{one.label} v6"] = six
        for host in self.hosts:
            for network in KINDS:
                for subnet in subnets_of(host, network):
                    self.targets |= {
                        f"{host.name} {network} bridge v{subnet.version}": str(subnet[1]),
                        f"{host.name} {network} device v{subnet.version}": str(subnet[0]),
                    }

    def _start(self, host):
        for one in self.containers:
            if one.host is host:
                port = ("-p", "80") if one.publishes else ()
                words = ("run", "-d", "--name", one.name, "--restart", "always", "--network", one.network, *port)
                host.docker(*words, "busybox", "sleep", "3600", timeout_s=90)

    def reached(self):
        """What each container gets an answer from, and what arrives at each, answered or not."""
        labels = [one.label for one in self.containers]
        with concurrent.futures.ThreadPoolExecutor(len(labels)) as pool:
            before = list(pool.map(self._arrived, self.containers))
            answers = list(pool.map(self._ask, self.containers))
            after = list(pool.map(self._arrived, self.containers))
        arrived = [
            {name: now[name] - then[name] for name in ARRIVED} for then, now in zip(before, after, strict=True)
        ]
        return dict(zip(labels, zip(answers, arrived, strict=True), strict=True))

    def _ask(self, one):
        """The addresses of its own host in either network are the host's, and no way into the other network."""
        targets = {
            label: address
            for label, address in self.targets.items()
            if not label.startswith((f"{one.label} ", *(f"{one.host.name} {net} " for net in KINDS)))
        }
        told = self._within(one, "python3", "-c", PROBE, json.dumps(targets))
        reached = json.loads(told.out) if told.ok else [told.err]
        own = (f" {one.network}-", f" {one.network} ")
        return [label for label in reached if not (label.endswith(" udp") and any(word in label for word in own))]

    def _arrived(self, one):
        told = self._within(one, "cat", "/proc/thread-self/net/snmp", "/proc/thread-self/net/snmp6").out
        lines = [line.split() for line in told.splitlines()]
        counted = {line[0]: line[1] for line in lines if line[0] in ARRIVED}
        for part in ("Icmp:", "Udp:", "Tcp:"):
            names, numbers = (line for line in lines if line[0] == part)
            counted |= dict(zip(names, numbers, strict=True))
        return {name: int(counted[name]) for name in ARRIVED}

    def _within(self, one, *words):
        return one.host.try_exec(["nsenter", "-t", self.pids[one.label], "-n", *words])

    def wanted(self):
        """Its own network, on both hosts; and from each other container of it one of everything."""
        wanted = {}
        for one in self.containers:
            families = ("v4",) if one.network == "mynet" else ("v4", "v6")
            own = {f"{host.name} {one.network}-{kind}" for host in self.hosts for kind in KINDS[one.network]}
            own -= {one.label}
            far = {f"{host.name} {one.network} {part}" for host in self.hosts for part in ("bridge", "device")}
            far = {label for label in far if not label.startswith(one.host.name)}
            answers = sorted(f"{label} {ip} {way}" for label in own | far for ip in families for way in WAYS)
            six = len(own) * (len(families) - 1)
            arrived = dict(zip(ARRIVED, (len(own), six, len(own), six, len(own) + six), strict=True))
            wanted[one.label] = (answers, arrived)
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


def subnets_of(host, network):
    told = host.docker("network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{end}}", network)
    return map(ipaddress.ip_network, told.split())


@pytest.fixture(scope="module")
def land(pair):
    for network, config in CONFIGS.items():
        site.put_config(pair.lab, config, f"/{network}/network")
        for host in (pair.h1, pair.h2):
            site.create_network(host, network, "--ipam-opt", f"flannelpy.prefix=/{network}/network", "--ipv6")
    try:
        yield Land(pair)
    finally:
        for host in (pair.h1, pair.h2):
            host.try_docker("rm", "-f", *(f"{network}-{kind}" for network in KINDS for kind in ("plain", "web")))
            for network in CONFIGS:
                host.try_docker("network", "rm", network, timeout_s=90)
            host.exec(["iptables", "-P", "FORWARD", host.forward_policy])


def both(land, words):
    for host in land.hosts:
        host.exec(["sh", "-ec", words])


def test_each_reaches_its_own_network_and_nothing_of_the_other(land):
    land.wait("at first")


@pytest.mark.parametrize(
    "flush",
    [
        "nft flush ruleset",
        "iptables -P INPUT DROP; iptables -P FORWARD DROP; iptables -F; ip6tables -F; iptables -P INPUT ACCEPT",
    ],
    ids=["ruleset", "iptables"],
)
def test_it_is_so_again_after_the_packet_filter_was_flushed(land, flush):
    both(land, flush)
    land.wait(flush)


def test_it_is_so_again_after_dockerd_was_restarted(land):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda host: host.restart_dockerd(), land.hosts))
    for host in land.hosts:
        site.wait_for("containers", lambda host=host: len(host.docker("ps", "-q").split()) == 5, 30)
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
