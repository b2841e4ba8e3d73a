"""Published ports seen by packets: who reaches a container through the host's ports, and with which address.

host: FORWARD policy DROP, an engine's chains, in iptables-nft or iptables-legacy
fp-a ── a (publishes), a2     fp-b ── b      of one flannel network
fp-blue ── blue                              of another one
docker0 ── docker                            eth0 ── world
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import pathlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from overlay import conntrack, firewall, firewall_exec, netstate, nft_events

pytestmark = pytest.mark.contract

LISTINGS = pathlib.Path(__file__).parent / "firewall"
LEAVES = {  # name: link on the host, addresses of host and leaf
    "a": ("fp-a", "10.2.20.1/25", "10.2.20.5/25", "2001:db8:2:20::1/64", "2001:db8:2:20::5/64"),
    "a2": ("fp-a", "10.2.20.1/25", "10.2.20.6/25", "2001:db8:2:20::1/64", "2001:db8:2:20::6/64"),
    "b": ("fp-b", "10.2.20.129/25", "10.2.20.135/25", "2001:db8:2:21::1/64", "2001:db8:2:21::7/64"),
    "blue": ("fp-blue", "10.9.20.1/24", "10.9.20.5/24", "2001:db8:9:20::1/64", "2001:db8:9:20::5/64"),
    "docker": ("docker0", "172.17.0.1/16", "172.17.0.2/16", "2001:db8:17::1/64", "2001:db8:17::2/64"),
    "world": ("eth0", "192.0.2.1/24", "192.0.2.9/24", "2001:db8::1/64", "2001:db8::9/64"),
}
BRIDGES = ("fp-a", "fp-b", "fp-blue", "docker0")
HOST = {4: "192.0.2.1", 6: "2001:db8::1"}
OTHER = {4: "192.0.2.77", 6: "2001:db8::77"}
MOVING = {4: "192.0.2.99", 6: "2001:db8::99"}
"""An address that is now this host's, now another's (keepalived)."""
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def own(name: str, version: int = 4) -> str:
    return LEAVES[name][2 if version == 4 else 4].partition("/")[0]


def gateway(name: str, version: int = 4) -> str:
    return LEAVES[name][1 if version == 4 else 3].partition("/")[0]


def rules(bridge: str, subnet: str, subnet_v6: str, vni: int) -> firewall.BridgeRules:
    v4, v6 = ipaddress.IPv4Network(subnet), ipaddress.IPv6Network(subnet_v6)
    return firewall.BridgeRules(
        bridge=netstate.IfName(bridge),
        subnet=v4,
        overlay=v4.supernet(new_prefix=16),
        device=netstate.IfName(f"flannel.{vni}"),
        prefix=f"/{vni}",
        v6=firewall.BridgeRulesV6(
            subnet=v6, overlay=v6.supernet(new_prefix=48), device=netstate.IfName(f"flannel-v6.{vni}")
        ),
    )


def port(protocol: str, host_ip: str, host_port: int, address: str, own_port: int) -> firewall.PublishedPort:
    return firewall.PublishedPort(
        protocol=firewall.Protocol(protocol),
        host_ip=ipaddress.ip_address(host_ip),
        host_port=host_port,
        address=ipaddress.ip_address(address),
        port=own_port,
    )


PUBLISHED = frozenset(
    {
        *(port(kind, "0.0.0.0", 8080, own("a"), 80) for kind in KINDS),
        *(port(kind, "::", 8080, own("a", 6), 80) for kind in KINDS),
        port("tcp", "127.0.0.1", 8081, own("a"), 80),
        port("tcp", HOST[4], 8082, own("a"), 80),
        port("tcp", HOST[6], 8082, own("a", 6), 80),
        *(port("tcp", MOVING[version], 8090, own("a", version), 80) for version in HOST),
    }
)
A = rules("fp-a", "10.2.20.0/25", "2001:db8:2:20::/64", 1)
BARE = frozenset(
    {
        A,
        rules("fp-b", "10.2.20.128/25", "2001:db8:2:21::/64", 1),
        rules("fp-blue", "10.9.20.0/24", "2001:db8:9:20::/64", 9),
    }
)
PLAN = BARE - {A} | {dataclasses.replace(A, published=PUBLISHED)}


class Host:
    """The host and its leaves; `a` tells every client on its ports 80 the address that it sees."""

    def __init__(self, make_netns: Any) -> None:
        self.spaces: dict[str, Any] = {"host": make_netns()}
        self.host = self.spaces["host"]
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.host.sysctl(key, "1")
        self.filter_bridges(True)
        self.host.run(*(f"ip link add {name} type bridge forward_delay 0" for name in BRIDGES))
        for name in LEAVES:
            self.spaces[name] = make_netns()
            self._plug(name)
        # what the driver sets for a published port, beside the rules
        self.host.sysctl("ipv4/conf/fp-a/route_localnet", "1")
        self.host.run("bridge link set dev v-a hairpin on")
        self._stop = threading.Event()
        self._servers = [
            threading.Thread(target=self._serve, args=(self._listen(kind, version),))
            for kind in KINDS
            for version in FAMILIES
        ]
        for server in self._servers:
            server.start()

    def filter_bridges(self, on: bool) -> None:
        """As engines switch it on for docker_gwbridge: then a bridge's own frames are filtered, and redirected."""
        for tables in ("iptables", "ip6tables"):
            self.host.sysctl(f"bridge/bridge-nf-call-{tables}", "1" if on else "0")

    def _plug(self, name: str) -> None:
        link, *addresses = LEAVES[name]
        leaf, gateways, owns = self.spaces[name], addresses[::2], addresses[1::2]
        end = f"v-{name}" if link in BRIDGES else link
        self.host.run(f"ip link add {end} type veth peer name eth0 netns {leaf.path}", f"ip link set {end} up")
        if link in BRIDGES:
            self.host.run(f"ip link set {end} master {link}", f"ip link set {link} up")
        self.host.run(*(f"ip addr replace {address} dev {link} nodad" for address in gateways))
        leaf.run("ip link set eth0 up", *(f"ip addr add {address} dev eth0 nodad" for address in owns))
        if name != "world":
            leaf.run(f"ip route add default via {gateway(name)}", f"ip -6 route add default via {gateway(name, 6)}")

    def _listen(self, kind: str, version: int) -> socket.socket:
        with self.spaces["a"].inside():
            sock = socket.socket(FAMILIES[version], KINDS[kind])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((own("a", version), 80))
        if kind == "tcp":
            sock.listen()
        sock.settimeout(0.1)
        return sock

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    if sock.type == socket.SOCK_DGRAM:
                        _, peer = sock.recvfrom(64)
                        sock.sendto(peer[0].encode(), peer)
                    else:
                        conn, peer = sock.accept()
                        with conn:
                            conn.sendall(peer[0].encode())

    def ask(self, client: str, target: str, number: int = 8080, kind: str = "tcp", wait_s: float = 3.0) -> str | None:
        """The client's address as the publishing container sees it; None if no answer came."""
        with self.spaces[client].inside():
            sock = socket.socket(FAMILIES[6 if ":" in target else 4], KINDS[kind])
        with sock:
            sock.settimeout(wait_s)
            try:
                sock.connect((target, number))
                if kind == "udp":
                    sock.send(b"who")
                return sock.recv(64).decode()
            except OSError:
                return None

    def close(self) -> None:
        self._stop.set()
        for server in self._servers:
            server.join(timeout=5)
        for space in self.spaces.values():
            space.close()


@pytest.fixture(
    scope="module",
    params=[("iptables-nft", "DROP"), ("iptables-legacy", "DROP"), ("iptables-nft", "ACCEPT")],
    ids="-".join,
)
def host(request: pytest.FixtureRequest, make_netns: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with an engine's rules and ours, and whichever policy of FORWARD the engine came to; `a` publishes."""
    made = Host(make_netns)
    flavour, policy = request.param
    text = (LISTINGS / "docker-28.rules").read_text().replace(":FORWARD DROP", f":FORWARD {policy}")
    made.host.run(f"{flavour}-restore", text=text)
    ip6tables = flavour.replace("ip", "ip6", 1)
    made.host.run(
        f"{ip6tables} -P FORWARD {policy}",
        f"{ip6tables} -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"{ip6tables} -A FORWARD -i docker0 -j ACCEPT",
    )
    with made.host.inside():
        made.wall = firewall_exec.FirewallExec(lockfile=str(tmp_path_factory.mktemp("wall") / "lock"))
        made.wall.ensure(PLAN)
    yield made
    made.close()


@pytest.fixture(params=[True, False], ids=["bridges filtered", "bridges not filtered"])
def filtered(request: pytest.FixtureRequest, host: Host) -> bool:
    host.filter_bridges(request.param)
    return bool(request.param)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", FAMILIES)
def test_a_client_outside_reaches_the_port_and_keeps_its_address(host: Host, version: int, kind: str) -> None:
    assert host.ask("world", HOST[version], kind=kind) == own("world", version)


@pytest.mark.parametrize("version", FAMILIES)
def test_a_port_of_one_address_is_reached_there_and_nowhere_else(host: Host, version: int) -> None:
    assert host.ask("world", HOST[version], 8082) == own("world", version)
    assert host.ask("host", HOST[version], 8082) == HOST[version]
    assert host.ask("a2", gateway("a", version), 8082, wait_s=0.3) is None
    assert host.ask("host", "127.0.0.1", 8082, wait_s=0.3) is None


@pytest.mark.parametrize("version", FAMILIES)
def test_a_port_of_an_address_that_moved_to_another_host_is_asked_there(host: Host, version: int) -> None:
    """And is the container's again when the address comes back."""
    address = MOVING[version]
    world, length = host.spaces["world"], 32 if version == 4 else 128
    for _ in range(2):
        host.host.run(f"ip addr add {address}/{length} dev eth0" + " nodad" * (version == 6))
        assert host.ask("world", address, 8090) == own("world", version)
        assert host.ask("host", address, 8090) == address
        assert host.ask("a2", address, 8090) == gateway("a", version)
        host.host.run(f"ip addr del {address}/{length} dev eth0", "ip neigh flush dev eth0")
        world.run(f"ip addr add {address}/{length} dev eth0" + " nodad" * (version == 6))
        with world.inside(), socket.create_server((address, 8090), family=FAMILIES[version]) as server:
            answering = threading.Thread(target=answer, args=(server, 2))
            answering.start()
            told = [host.ask(client, address, 8090) for client in ("host", "a2")]
            answering.join(timeout=10)
        assert told == ["another host"] * 2
        world.run(f"ip addr del {address}/{length} dev eth0", "ip neigh flush dev eth0")


def answer(server: socket.socket, clients: int) -> None:
    """What has the address now."""
    server.settimeout(2.0)
    for _ in range(clients):
        with contextlib.suppress(TimeoutError):
            conn, _ = server.accept()
            with conn:
                conn.sendall(b"another host")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.usefixtures("filtered")
def test_the_publishing_container_reaches_itself_and_its_neighbours_reach_it(
    host: Host, version: int, kind: str
) -> None:
    """The bridge's address stands for them: the answer must come back the way that the question took."""
    for client in ("a", "a2"):
        assert host.ask(client, HOST[version], kind=kind) == gateway("a", version)
        assert host.ask(client, gateway("a", version), kind=kind) == gateway("a", version)


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.usefixtures("filtered")
def test_containers_of_the_same_flannel_network_keep_their_address(host: Host, version: int) -> None:
    assert host.ask("b", HOST[version]) == own("b", version)


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.usefixtures("filtered")
def test_containers_of_other_networks_reach_the_port_and_nothing_else(host: Host, version: int) -> None:
    assert host.ask("blue", HOST[version]) == gateway("a", version)
    engines = {4: gateway("a"), 6: own("docker", 6)}  # which rewrites the source of its IPv4 containers
    assert host.ask("docker", HOST[version]) == engines[version]
    assert host.ask("blue", own("a", version), 80, wait_s=0.3) is None
    assert host.ask("world", own("a", version), 80, wait_s=0.3) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_reaches_the_port_through_all_its_addresses(host: Host, kind: str) -> None:
    assert host.ask("host", "127.0.0.1", kind=kind) == gateway("a")
    assert host.ask("host", "127.3.2.1", kind=kind) == gateway("a")
    assert host.ask("host", HOST[4], kind=kind) == HOST[4]
    assert host.ask("host", gateway("a"), kind=kind) == gateway("a")
    assert host.ask("host", HOST[6], kind=kind) == HOST[6]


def test_what_has_no_way_from_the_ipv6_loopback_is_refused_at_once(host: Host) -> None:
    """The socket that reserves the port would keep a datagram to itself, and its sender wait."""
    listening = port("udp", "::1", 8091, own("a", 6), 80)
    with host.host.inside():
        host.wall.ensure(BARE - {A} | {dataclasses.replace(A, published=PUBLISHED | {listening})})
    for number in (8080, 8091, 8092):
        with host.host.bind("::", number) as reserved, host.host.bind("::1") as client:
            client.settimeout(2.0)
            client.connect(("::1", number))
            client.send(b"who")
            if number == 8092:  # nobody publishes it
                assert reserved.recv(8) == b"who"
                continue
            with pytest.raises(ConnectionRefusedError):
                client.recv(8)
            with host.host.inside(), pytest.raises(ConnectionRefusedError):
                socket.create_connection(("::1", number), timeout=2.0)
    with host.host.inside():
        host.wall.ensure(PLAN)


def test_a_port_of_the_loopback_is_the_hosts_alone(host: Host) -> None:
    assert host.ask("host", "127.0.0.1", 8081) == gateway("a")
    for client in ("a", "a2", "world", "docker"):
        assert host.ask(client, HOST[4], 8081, wait_s=0.3) is None


def test_what_the_documents_say_of_an_operators_own_rules_is_so(host: Host) -> None:
    """A table of the operator's own, where the engine has no DOCKER-USER."""
    _, _, told = (
        (pathlib.Path(__file__).parents[2] / "docs/operations.md").read_text().partition("nft -f - <<'END'\n")
    )
    script, end, _ = told.partition("    END\n")
    assert "proto-dst 8080 " in script
    assert end

    def reaches_outside() -> bool:
        with host.spaces["world"].bind(own("world"), 9999) as server, host.spaces["a2"].bind(own("a2")) as client:
            server.settimeout(0.5)
            client.sendto(b"question", (own("world"), 9999))
            try:
                return server.recv(64) == b"question"
            except TimeoutError:
                return False

    assert reaches_outside()
    for allowed, answer in (("198.51.100.0/24", None), ("192.0.2.0/24", own("world"))):
        for _ in range(2):  # it may be given again
            host.host.run("nft -f -", text=script.replace("198.51.100.0/24", allowed))
        assert host.ask("world", HOST[4], wait_s=0.5) == answer
        assert host.ask("world", HOST[4], 8082) == own("world")
        assert host.ask("b", HOST[4], wait_s=0.5) is None
        assert not reaches_outside()
        with host.host.inside():
            assert host.wall.ensure(PLAN) == (), "the operator's own rules are left alone"
    host.host.run("nft delete table inet mine")
    assert host.ask("world", HOST[4]) == own("world")
    assert reaches_outside()


def test_what_is_sent_to_that_port_of_another_host_gets_there(host: Host) -> None:
    with host.spaces["world"].bind(own("world"), 8080) as server, host.spaces["a2"].bind(own("a2")) as client:
        server.settimeout(2.0)
        client.sendto(b"question", (own("world"), 8080))
        assert server.recvfrom(64)[1][0] == HOST[4]


def forge(host: Host, client: str) -> None:
    """Route 127.0.0.2 to the host as only somebody with ill intent would."""
    space = host.spaces[client]
    space.sysctl("ipv4/conf/all/route_localnet", "1")
    space.run(f"ip route replace 127.0.0.2 via {gateway(client)} dev eth0 src {own(client)} table 99")
    space.run("ip rule add lookup local pref 2", "ip rule add to 127.0.0.2 lookup 99 pref 1", "ip rule del pref 0")


def test_a_container_does_not_reach_what_listens_on_the_hosts_loopback(host: Host) -> None:
    """The kernel parameter that opens the way from the loopback to the bridge would open the way back, too."""
    forge(host, "a2")
    with host.host.bind("127.0.0.2", 5353) as listener, host.spaces["a2"].bind(own("a2")) as client:
        listener.settimeout(0.3)
        client.sendto(b"forged", ("127.0.0.2", 5353))
        with pytest.raises(TimeoutError):
            listener.recv(64)
        assert host.ask("a2", "127.0.0.2", 8080, wait_s=0.3) is None
        host.host.run("nft flush chain ip flannelpy loopback")  # that it is these rules, and not the test
        client.sendto(b"forged", ("127.0.0.2", 5353))
        assert listener.recv(64) == b"forged"
    with host.host.inside():
        assert host.wall.ensure(PLAN) == ("nft",)


@pytest.mark.parametrize("version", FAMILIES)
def test_a_client_that_goes_on_sending_reaches_who_has_the_port_now(host: Host, version: int) -> None:
    """Over UDP a flow goes where its first packet went, for as long as its client does not pause."""
    target = "0.0.0.0" if version == 4 else "::"
    mine = port("udp", target, 8085, own("a", version), 80)
    others = port("udp", target, 8085, own("a2", version), 80)

    def publish(*ports: firewall.PublishedPort) -> None:
        host.wall.ensure(BARE - {A} | {dataclasses.replace(A, published=PUBLISHED | set(ports))})

    def answers(client: socket.socket) -> bool:
        try:
            client.send(b"who")
            return client.recv(64).decode() == own("world", version)
        except (TimeoutError, ConnectionRefusedError):
            return False

    with host.spaces["world"].bind(own("world", version)) as client, host.host.inside():
        client.settimeout(0.5)
        assert host.ask("world", HOST[version], kind="udp") == own("world", version)  # neighbours know each other
        client.connect((HOST[version], 8085))
        assert not answers(client), "nobody listens"
        publish(mine)
        assert not answers(client), "the kernel remembers"
        assert conntrack.forget_flows([mine]) == 1
        assert answers(client)
        publish(others)
        assert answers(client), "the kernel remembers"
        assert conntrack.forget_flows([mine]) == 1
        assert not answers(client), "a2 does not answer"
        assert conntrack.forget_flows([mine]) == 0
        assert (
            conntrack.forget_flows([dataclasses.replace(others, host_ip=ipaddress.ip_address(OTHER[version]))]) == 0
        )
        assert conntrack.forget_flows([dataclasses.replace(others, protocol=firewall.Protocol.TCP)]) == 0
        assert conntrack.forget_flows([others]) == 1
        publish()


@pytest.mark.parametrize("version", FAMILIES)
def test_what_a_crash_left_redirected_is_found_by_its_pool(host: Host, version: int) -> None:
    target = "0.0.0.0" if version == 4 else "::"
    mine = port("udp", target, 8087, own("a", version), 80)
    others = port("udp", target, 8088, own("a2", version), 80)
    pools = [ipaddress.ip_network(own("a", version))]
    elsewhere = [ipaddress.ip_network(HOST[version])]
    with host.host.inside():
        host.wall.ensure(BARE - {A} | {dataclasses.replace(A, published=PUBLISHED | {mine, others})})
    for number, kind in ((8087, "udp"), (8087, "udp"), (8088, "udp")):
        host.ask("world", HOST[version], number, kind=kind, wait_s=0.3)
    host.ask("a2", own("a", version), 80, kind="udp")  # led nowhere: it knows the container's own address
    with host.host.inside():
        assert conntrack.forget_stale_flows(elsewhere, []) == 0, "no pool of ours"
        assert conntrack.forget_stale_flows(pools, [*PUBLISHED, mine]) == 0, "published"
        assert conntrack.forget_stale_flows(pools, [*PUBLISHED, dataclasses.replace(mine, host_port=8089)]) == 2
        assert conntrack.forget_stale_flows(pools, PUBLISHED) == 0, "gone"
        assert conntrack.forget_flows([others]) == 1, "another pool's were left alone"
        host.wall.ensure(PLAN)


@pytest.mark.parametrize("version", FAMILIES)
def test_what_passes_to_that_port_of_another_host_is_left_alone(host: Host, version: int) -> None:
    mine = port("udp", "0.0.0.0" if version == 4 else "::", 8086, own("a", version), 80)
    with host.spaces["world"].bind(own("world", version), 8086) as server:
        with host.spaces["a2"].bind(own("a2", version)) as client:
            client.sendto(b"question", (own("world", version), 8086))
            server.settimeout(2.0)
            seen = server.recvfrom(64)[1]
        with host.host.inside():
            assert conntrack.forget_flows([mine]) == 0
            assert conntrack.forget_flows([dataclasses.replace(mine, host_ip=ipaddress.ip_address(seen[0]))]) == 0


def test_a_port_that_is_published_no_more_is_gone_and_another_one_comes_with_one_write(host: Host) -> None:
    with host.host.inside():
        assert "nft" in host.wall.ensure(BARE)
    assert host.ask("world", HOST[4], wait_s=0.3) is None
    assert host.ask("host", "127.0.0.1", wait_s=0.3) is None
    assert host.host.run("nft list table ip flannelpy").count("8080") == 0
    with host.host.inside():
        assert "nft" in host.wall.ensure(PLAN)
        assert host.wall.ensure(PLAN) == ()
    assert host.ask("world", HOST[4]) == own("world")
    more = PUBLISHED | {port("tcp", "0.0.0.0", 8083, own("a"), 80)}
    with host.host.inside():
        wider = BARE - {A} | {dataclasses.replace(A, published=more)}
        before = nft_events.read_generation()
        assert host.wall.ensure(wider) == ("nft",)
        assert before is not None
        assert nft_events.read_generation() == before + 1  # one transaction: never without its rules
        assert host.ask("world", HOST[4], 8083) == own("world")
        assert host.wall.ensure(PLAN) == ("nft",)
