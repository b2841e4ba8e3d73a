"""Our rules seen by packets: one host made of network namespaces, its links those of two flannel networks, of an
engine's bridges and of the underlay, under the FORWARD policy and the chains that engines leave behind.

          host: FORWARD policy DROP, chains of 20.10 or 28, in iptables-nft or iptables-legacy
    fp-a ── a, a2       fp-int ── inner, inner2    flannel.1 ── remote     one flannel network
    fp-shut ── shut, shut2 (no icc)
    fp-blue ── blue                                flannel.9 ── far        another one
    docker0 ── docker   shop ── shop (a name that its operator chose)      eth0 ── world
    docker_gwbridge ── publisher, and a2's second interface
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
import pathlib
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from overlay import firewall, firewall_exec, netstate

pytestmark = pytest.mark.contract

LISTINGS = pathlib.Path(__file__).parent / "firewall"
PORT = 7000
LEAVES = {  # name: link on the host, its address, the leaf's address
    "a": ("fp-a", "10.2.20.1/25", "10.2.20.5/25"),
    "a2": ("fp-a", "10.2.20.1/25", "10.2.20.6/25"),
    "inner": ("fp-int", "10.2.20.129/25", "10.2.20.135/25"),
    "inner2": ("fp-int", "10.2.20.129/25", "10.2.20.136/25"),
    "shut": ("fp-shut", "10.2.21.1/24", "10.2.21.5/24"),
    "shut2": ("fp-shut", "10.2.21.1/24", "10.2.21.6/24"),
    "remote": ("flannel.1", "10.2.20.0/32", "10.2.12.5/32"),
    "blue": ("fp-blue", "10.9.20.1/24", "10.9.20.5/24"),
    "far": ("flannel.9", "10.9.20.0/32", "10.9.12.5/32"),
    "docker": ("docker0", "172.17.0.1/16", "172.17.0.2/16"),
    "docker2": ("docker0", "172.17.0.1/16", "172.17.0.3/16"),
    "shop": ("shop", "172.18.0.1/16", "172.18.0.2/16"),
    "compose": ("br-0123456789ab", "172.20.0.1/16", "172.20.0.2/16"),
    "publisher": ("docker_gwbridge", "172.19.0.1/16", "172.19.0.2/16"),
    "world": ("eth0", "192.0.2.1/24", "192.0.2.9/24"),
}
BRIDGES = ("fp-a", "fp-int", "fp-shut", "fp-blue", "docker0", "shop", "br-0123456789ab", "docker_gwbridge")


def rules(
    bridge: str, subnet: str, device: str, *, internal: bool = False, icc: bool = True, outside: bool = False
) -> firewall.BridgeRules:
    return firewall.BridgeRules(
        bridge=netstate.IfName(bridge),
        subnet=ipaddress.IPv4Network(subnet),
        overlay=ipaddress.IPv4Network(subnet).supernet(new_prefix=16),
        device=netstate.IfName(device),
        internal=internal,
        icc=icc,
        outside=outside,
    )


PLAN = frozenset(
    {
        rules("fp-a", "10.2.20.0/25", "flannel.1"),
        rules("fp-int", "10.2.20.128/25", "flannel.1", internal=True),
        rules("fp-shut", "10.2.21.0/24", "flannel.1", icc=False),
        rules("fp-blue", "10.9.20.0/24", "flannel.9"),
    }
)


class Host:
    """The host and its leaves; `sends` tells which way packets go."""

    def __init__(self, make_netns: Any) -> None:
        self.spaces: dict[str, Any] = {"host": make_netns()}
        self.host = self.spaces["host"]
        self.host.sysctl("ipv4/ip_forward", "1")
        self.host.sysctl(
            "bridge/bridge-nf-call-iptables", "1"
        )  # as engines set it: a bridge's own traffic is filtered
        self.host.run(*(f"ip link add {name} type bridge" for name in BRIDGES))
        for name, (link, gateway, address) in LEAVES.items():
            self.spaces[name] = make_netns()
            self._plug(name, link, gateway, address)
        self.host.run("ip route add default via 192.0.2.9")
        self._give_second_interface("a2")

    def _plug(self, name: str, link: str, gateway: str, address: str) -> None:
        leaf = self.spaces[name]
        port = f"v-{name}" if link in BRIDGES else link
        self.host.run(f"ip link add {port} type veth peer name eth0 netns {leaf.path}", f"ip link set {port} up")
        if link in BRIDGES:
            self.host.run(f"ip link set {port} master {link}", f"ip link set {link} up")
        self.host.run(f"ip addr replace {gateway} dev {link}")
        router = gateway.partition("/")[0]
        leaf.run(f"ip addr add {address} dev eth0", "ip link set eth0 up")
        leaf.run(f"ip route add default via {router} dev eth0 onlink")
        if address.endswith("/32"):
            self.host.run(f"ip route add {address} dev {link}")

    def _give_second_interface(self, name: str) -> None:
        """As of a container that publishes ports: its way to all that is not routed into the overlay."""
        leaf, port = self.spaces[name], f"v-{name}-2"
        self.host.run(f"ip link add {port} type veth peer name eth1 netns {leaf.path}", f"ip link set {port} up")
        self.host.run(f"ip link set {port} master docker_gwbridge")
        leaf.run("ip addr add 172.19.0.3/16 dev eth1", "ip link set eth1 up")
        for space in (leaf, self.host):  # or the kernel drops what comes another way than it would go
            space.run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0")
        self.host.run("sysctl -qw net.ipv4.conf.docker_gwbridge.rp_filter=0")

    def address(self, name: str) -> str:
        return LEAVES[name][2].partition("/")[0]

    def sends(self, source: str, target: str, *, wait_s: float = 2.0, bound: str = "", to: str = "") -> str | None:
        """The source that `target` sees, once the answer is back at `source`; None if nothing came in time."""
        with (
            self.spaces[target].bind(self.address(target), PORT) as server,
            self.spaces[source].bind(bound) as client,
        ):
            server.settimeout(wait_s)
            client.settimeout(2.0)
            try:
                client.sendto(b"question", (to or self.address(target), PORT))
                _, seen = server.recvfrom(64)
            except (TimeoutError, PermissionError):
                return None
            server.sendto(b"answer", seen)
            assert client.recv(64) == b"answer"
            return str(seen[0])

    def blocked(self, source: str, target: str) -> bool:
        return self.sends(source, target, wait_s=0.15) is None

    def close(self) -> None:
        for space in self.spaces.values():
            space.close()


@pytest.fixture(scope="module")
def bare(make_netns: Any) -> Iterator[Host]:
    """A host without any rule."""
    host = Host(make_netns)
    yield host
    host.close()


@pytest.fixture(scope="module", params=["iptables-nft", "iptables-legacy"])
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["20.10", "28"])
def guarded(
    request: pytest.FixtureRequest, flavour: str, make_netns: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """A host with an engine's rules and ours."""
    host = Host(make_netns)
    host.host.run(f"{flavour}-restore", text=(LISTINGS / f"docker-{request.param}.rules").read_text())
    assert host.blocked("a", "remote"), "the engine's policy should drop"
    with host.host.inside():
        wall = firewall_exec.FirewallExec(lockfile=str(tmp_path_factory.mktemp("wall") / "lock"))
        assert wall.ensure(PLAN) == ("nft", flavour)
    yield host
    host.close()


@pytest.mark.parametrize("target", [name for name in LEAVES if name != "a"])
def test_without_any_rules_every_pair_that_is_tested_below_can_talk(bare: Host, target: str) -> None:
    assert bare.sends("a", target) == "10.2.20.5"
    assert bare.sends(target, "a") == bare.address(target)


INSIDE = [("a", "a2"), ("inner", "inner2"), ("a", "remote"), ("a", "inner"), ("inner", "remote"), ("blue", "far")]


@pytest.mark.parametrize(("one", "other"), INSIDE)
def test_inside_one_flannel_network_packets_pass_with_their_source(guarded: Host, one: str, other: str) -> None:
    assert guarded.sends(one, other) == guarded.address(one)
    assert guarded.sends(other, one) == guarded.address(other)


def test_what_leaves_the_overlay_has_the_hosts_address(guarded: Host) -> None:
    assert guarded.sends("a", "world") == "192.0.2.1"
    assert guarded.sends("blue", "world") == "192.0.2.1"


def test_who_reaches_into_the_overlay_has_an_overlay_address(guarded: Host) -> None:
    assert guarded.sends("host", "remote", bound="192.0.2.1") == "10.2.20.0"
    assert guarded.sends("host", "a") == "10.2.20.1"


SHUT = [(one, other) for one in ("shut",) for other in ("a", "inner", "remote", "blue", "far", "docker")]


@pytest.mark.parametrize(("one", "other"), SHUT)
def test_containers_of_a_network_without_icc_meet_no_other(guarded: Host, one: str, other: str) -> None:
    assert guarded.blocked(one, other)
    assert other == "docker" or guarded.blocked(other, one)


def test_nor_do_they_meet_through_the_gateway(guarded: Host) -> None:
    for name in ("shut", "shut2"):
        guarded.host.run(f"bridge link set dev v-{name} isolated on")
    assert guarded.blocked("shut", "shut2")
    for name, other in (("shut", "shut2"), ("shut2", "shut")):
        guarded.spaces[name].run(f"ip route add {guarded.address(other)}/32 via 10.2.21.1")
    assert guarded.blocked("shut", "shut2")
    for name in ("shut", "shut2"):
        guarded.host.run(f"bridge link set dev v-{name} isolated off")


def test_but_they_reach_the_host_and_the_outside(guarded: Host) -> None:
    assert guarded.sends("shut", "world") == "192.0.2.1"
    with guarded.host.bind("10.2.21.1", PORT) as server, guarded.spaces["shut"].bind("") as client:
        server.settimeout(2)
        client.sendto(b"question", ("10.2.21.1", PORT))
        assert server.recvfrom(64)[1][0] == "10.2.21.5"


APART = [("a", "blue"), ("a", "far"), ("blue", "inner"), ("remote", "blue"), ("remote", "far"), ("far", "a")]


@pytest.mark.parametrize(("source", "target"), APART)
def test_two_flannel_networks_never_meet(guarded: Host, source: str, target: str) -> None:
    assert guarded.blocked(source, target)


@pytest.mark.parametrize("target", ["a", "blue", "remote", "far"])
def test_the_second_interface_of_a_container_that_publishes_leads_into_no_flannel_network(
    guarded: Host, target: str
) -> None:
    """Or a container of one had a way into the other: nothing tells there which it is of."""
    assert guarded.blocked("publisher", target)
    assert guarded.blocked(target, "publisher")


@contextlib.contextmanager
def through_the_second_interface(host: Host, target: str, forged: str = "") -> Iterator[None]:
    """a2 sends its packets to a target by way of docker_gwbridge, and may call itself whatever it likes."""
    leaf, route = host.spaces["a2"], f"{host.address(target)} via 172.19.0.1 dev eth1"
    leaf.run(f"ip route add {route}", *([f"ip addr add {forged}/32 dev lo"] if forged else []))
    try:
        yield
    finally:
        leaf.run(f"ip route del {route}", *([f"ip addr del {forged}/32 dev lo"] if forged else []))


ONE_NETWORK = frozenset(one for one in PLAN if one.device == "flannel.1")


@pytest.fixture
def alone(bare: Host) -> Iterator[Host]:
    """A host with one flannel network, on which nothing else filters."""
    with bare.host.inside():
        wall = firewall_exec.FirewallExec()
        assert wall.ensure(ONE_NETWORK) == ("nft",)
    yield bare
    with bare.host.inside():
        assert wall.ensure(frozenset()) == ("nft",)


@pytest.mark.parametrize("forged", ["10.2.20.99", "10.2.12.99"])
@pytest.mark.parametrize("target", ["a", "remote", "docker", "world"])
def test_nobody_speaks_through_the_second_interface_with_an_address_of_the_flannel_network(
    alone: Host, target: str, forged: str
) -> None:
    with through_the_second_interface(alone, target, forged):
        assert alone.sends("a2", target, bound="172.19.0.3", wait_s=2)
        assert alone.sends("a2", target, bound=forged, wait_s=0.15) is None


def test_but_what_was_asked_through_the_first_is_answered_through_the_second(alone: Host) -> None:
    """As a sibling slice's question is: the route to the overlay leaves out the lease."""
    with through_the_second_interface(alone, "remote"):
        assert alone.sends("remote", "a2") == "10.2.12.5"


def test_an_answer_that_nobody_asked_for_is_of_no_connection_and_passes_neither(alone: Host, guarded: Host) -> None:
    assert not echoed(alone, "a", bound="10.2.20.99", forged="10.2.20.99")
    assert echoed(alone, "a", bound="172.19.0.3")
    assert not echoed(guarded, "blue", bound="172.19.0.3")


def echoed(host: Host, target: str, *, bound: str, forged: str = "") -> bool:
    """Whether an echo reply out of nowhere arrives at a target."""
    reply = struct.pack(">BBHHH", 0, 0, 0xFFFF - 7, 7, 0)
    with (
        through_the_second_interface(host, target, forged),
        host.spaces[target].inside(),
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as hears,
    ):
        with host.spaces["a2"].inside(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as says:
            says.bind((bound, 0))
            says.sendto(reply, (host.address(target), 0))
        hears.settimeout(0.3)
        try:
            return any(hears.recv(128)[20:] == reply for _ in range(8))
        except TimeoutError:
            return False


def test_a_port_published_on_the_second_interface_answers_containers_of_every_flannel_network(
    guarded: Host, flavour: str
) -> None:
    """As the engine redirects it; the engine's chain lets it through."""
    publish = f"-p udp -d 192.0.2.1 --dport {PORT} -j DNAT --to-destination 172.19.0.2:{PORT}"
    guarded.host.run(f"{flavour} -t nat -A PREROUTING {publish}", f"{flavour} -I DOCKER -d 172.19.0.2 -j ACCEPT")
    try:
        for source in ("a", "blue"):
            assert guarded.sends(source, "publisher", to="192.0.2.1") == "172.19.0.1"
    finally:
        guarded.host.run(f"{flavour} -t nat -D PREROUTING {publish}", f"{flavour} -D DOCKER -d 172.19.0.2 -j ACCEPT")


@pytest.mark.parametrize("other", ["world", "docker", "shop"])
def test_an_internal_bridge_meets_nobody_outside_its_flannel_network(guarded: Host, other: str) -> None:
    assert guarded.blocked("inner", other)
    assert guarded.blocked(other, "inner")


@pytest.mark.parametrize("target", ["docker", "shop"])
def test_the_engines_bridges_stay_closed_to_containers_of_the_overlay(guarded: Host, target: str) -> None:
    assert guarded.blocked("a", target)
    assert guarded.blocked("remote", target)


def test_nobody_outside_starts_a_talk_with_a_container(guarded: Host) -> None:
    assert guarded.blocked("world", "a")
    assert guarded.blocked("world", "remote")


def test_the_operators_own_drop_wins(guarded: Host, flavour: str) -> None:
    guarded.host.run(f"{flavour} -I DOCKER-USER -i fp-a -o flannel.1 -j DROP")
    assert guarded.blocked("a", "remote")
    guarded.host.run(f"{flavour} -D DOCKER-USER 1")
    assert guarded.sends("a", "remote") == "10.2.20.5"


@pytest.mark.parametrize(
    "rejecting", [("iptables-nft",), ("iptables-legacy",), ("iptables-nft", "iptables-legacy")], ids="+".join
)
def test_firewalls_without_an_engine_are_passed_too(
    make_netns: Any, tmp_path: pathlib.Path, rejecting: tuple[str, ...]
) -> None:
    host = Host(make_netns)
    host.host.run(*(f"{flavour} -A FORWARD -j REJECT --reject-with icmp-host-prohibited" for flavour in rejecting))
    assert host.blocked("a", "remote")
    with host.host.inside():
        wall = firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock"))
        assert wall.ensure(PLAN) == ("nft", *rejecting)
        assert host.sends("a", "remote") == "10.2.20.5"
        assert host.sends("a", "world") == "192.0.2.1"
        assert wall.ensure(frozenset()) == (*reversed(rejecting), "nft")
    assert host.blocked("a", "remote")
    host.close()


def test_an_engine_that_filters_with_nftables_is_passed_and_its_bridges_stay_closed(make_netns: Any) -> None:
    """Docker 29 and newer, with firewall-backend=nftables on a host that has never seen iptables."""
    host = Host(make_netns)
    host.host.run("nft -f -", text=(LISTINGS / "docker-29.nft").read_text())
    with host.host.inside():
        assert firewall_exec.FirewallExec().ensure(PLAN) == ("nft",)
    for one, other in INSIDE:
        assert host.sends(one, other) == host.address(one)
        assert host.sends(other, one) == host.address(other)
    assert host.sends("a", "world") == "192.0.2.1"
    assert host.sends("docker", "world") == "192.0.2.1"
    for source, target in (*APART, ("a", "docker"), ("blue", "shop"), ("publisher", "a"), ("inner", "world")):
        assert host.blocked(source, target), f"{source} reaches {target}"
    host.close()


BACKENDS = ("none", "20.10", "28", "29")


@pytest.fixture(scope="module", params=BACKENDS)
def permissive(
    request: pytest.FixtureRequest, make_netns: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """A host with FORWARD policy ACCEPT: no engine, one that found ip_forward on, one that filters with nftables."""
    host = Host(make_netns)
    if request.param == "29":
        host.host.run("nft -f -", text=(LISTINGS / "docker-29.nft").read_text())
    elif request.param != "none":
        text = (LISTINGS / f"docker-{request.param}.rules").read_text().replace(":FORWARD DROP", ":FORWARD ACCEPT")
        host.host.run("iptables-nft-restore", text=text)
    yield host
    host.close()


@contextlib.contextmanager
def written(
    host: Host, plan: firewall.FirewallPlan, tmp_path: pathlib.Path, after: firewall.FirewallPlan = frozenset()
) -> Iterator[firewall_exec.FirewallExec]:
    """Our rules, and those that were there again."""
    with host.host.inside():
        wall = firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock"))
        wall.ensure(plan)
    try:
        yield wall
    finally:
        with host.host.inside():
            wall.ensure(after)


OUTSIDE = [
    (source, target) for source in ("world", "docker", "shop") for target in ("a", "shut", "blue", "remote", "far")
]


def test_nobody_outside_reaches_a_container_whatever_the_policy_is(permissive: Host, tmp_path: pathlib.Path) -> None:
    """Unpublished ports: the engine sets the policy DROP only where it switches ip_forward on itself."""
    assert permissive.sends("world", "a") == "192.0.2.9", "nobody else drops it"
    with written(permissive, PLAN, tmp_path):
        for source, target in OUTSIDE:
            assert permissive.blocked(source, target), f"{source} reaches {target}"


def test_whatever_the_policy_is_all_that_should_pass_does(permissive: Host, tmp_path: pathlib.Path) -> None:
    with written(permissive, PLAN, tmp_path):
        for one, other in INSIDE:
            assert permissive.sends(one, other) == permissive.address(one)
            assert permissive.sends(other, one) == permissive.address(other)
        for one in ("a", "shut", "blue"):
            assert permissive.sends(one, "world") == "192.0.2.1"
        for one in ("a", "shut", "blue", "remote"):
            assert permissive.sends("host", one)


def test_an_answer_of_no_connection_does_not_come_in_from_outside(permissive: Host, tmp_path: pathlib.Path) -> None:
    reply = struct.pack(">BBHHH", 0, 0, 0xFFFF - 9, 9, 0)

    def arrives() -> bool:
        with permissive.spaces["a"].inside(), _raw_icmp() as hears:
            with permissive.spaces["world"].inside(), _raw_icmp() as says:
                says.sendto(reply, (permissive.address("a"), 0))
            hears.settimeout(0.3)
            try:
                return any(hears.recv(128)[20:] == reply for _ in range(8))
            except TimeoutError:
                return False

    assert arrives()
    with written(permissive, PLAN, tmp_path):
        assert not arrives()


def _raw_icmp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


OPENED = frozenset(dataclasses.replace(one, outside=one.device == "flannel.1") for one in PLAN)


def assert_open_to_the_outside(host: Host) -> None:
    """Here and on to other hosts; internal networks and the other flannel network stay as they are."""
    assert host.sends("world", "a") == "192.0.2.9"
    assert host.sends("world", "shut") == "192.0.2.9"
    assert host.sends("world", "remote") == "10.2.20.0"
    for source, target in (*APART, ("world", "inner"), ("world", "blue"), ("world", "far")):
        assert host.blocked(source, target), f"{source} reaches {target}"


def test_a_network_may_be_opened_to_who_is_routed_there(permissive: Host, tmp_path: pathlib.Path) -> None:
    with written(permissive, OPENED, tmp_path):
        assert_open_to_the_outside(permissive)


def test_it_is_then_open_whatever_the_policy_is(guarded: Host, tmp_path: pathlib.Path) -> None:
    with written(guarded, OPENED, tmp_path, after=PLAN):
        assert_open_to_the_outside(guarded)
    assert guarded.blocked("world", "a")


@pytest.mark.parametrize(("source", "target"), [("world", "a"), ("a", "world")])
def test_what_began_before_a_network_was_closed_goes_on(
    permissive: Host, tmp_path: pathlib.Path, source: str, target: str
) -> None:
    """So an upgrade cuts nobody off: neither who was routed here, nor what a container asked for."""
    with (
        permissive.spaces[target].bind(permissive.address(target), PORT) as server,
        permissive.spaces[source].bind("") as client,
        written(permissive, OPENED, tmp_path) as wall,
    ):
        server.settimeout(2)
        client.settimeout(2)
        for plan in (OPENED, PLAN):
            with permissive.host.inside():
                wall.ensure(plan)
            client.sendto(b"question", (permissive.address(target), PORT))
            server.sendto(b"answer", server.recvfrom(64)[1])
            assert client.recv(64) == b"answer"


@pytest.mark.parametrize("outside", [False, True])
def test_a_network_without_icc_is_not_entered_by_the_gateway_bridge(
    bare: Host, tmp_path: pathlib.Path, outside: bool
) -> None:
    """There a container of the very network has its second interface, and may send by it what the first refuses."""
    plan = frozenset(dataclasses.replace(one, outside=outside) for one in ONE_NETWORK)
    with written(bare, plan, tmp_path):
        assert bare.blocked("publisher", "shut")
        assert bare.sends("publisher", "a") == "172.19.0.2"
        assert bare.sends("shut", "publisher") == "172.19.0.1"


def test_isolation_needs_no_iptables(bare: Host) -> None:
    with bare.host.inside():
        wall = firewall_exec.FirewallExec()
        assert wall.ensure(PLAN) == ("nft",)
        assert bare.blocked("a", "blue")
        assert bare.blocked("world", "inner")
        assert bare.blocked("inner", "world")
        assert bare.sends("a", "world") == "192.0.2.1"
        assert wall.ensure(frozenset()) == ("nft",)
    assert bare.sends("a", "blue") == "10.2.20.5"


@contextlib.contextmanager
def in_anothers_name(host: Host, source: str, owner: str) -> Iterator[socket.socket]:
    """A socket with which a leaf speaks as if it were another one, from the port that this one listens at."""
    leaf, name = host.spaces[source], host.address(owner)
    leaf.run(f"ip addr add {name}/32 dev lo")
    try:
        with leaf.bind(name, PORT) as says:
            yield says
    finally:
        leaf.run(f"ip addr del {name}/32 dev lo")


def enters_by_an_answer(
    host: Host, source: str, helper: str, target: str, *, by: str = "", at: int = PORT + 1
) -> bool:
    """Whether a helper's answer to what a source said in the name of a target comes to the target.

    by: the address at which the source asks the helper, `at` the port.
    """
    with (
        host.spaces[target].bind(host.address(target), PORT) as server,
        host.spaces[helper].bind(host.address(helper), at) as asked,
        in_anothers_name(host, source, target) as says,
    ):
        says.sendto(b"question", (by or host.address(helper), at))
        asked.settimeout(0.3)
        seen = (host.address(target), PORT)
        with contextlib.suppress(TimeoutError):
            seen = asked.recvfrom(64)[1]
        asked.sendto(b"an answer that was never asked for", seen)
        server.settimeout(0.3)
        try:
            return bool(server.recv(64))
        except TimeoutError:
            return False


FORGERS = [
    (source, helper, target)
    for source, helper in (("docker", "world"), ("shop", "world"), ("compose", "world"), ("world", "publisher"))
    for target in ("a", "shut", "blue")
]
FORGERS += [("blue", "world", "a"), ("blue", "world", "shut"), ("a", "world", "blue"), ("far", "world", "a")]
"""Where a network's containers are free to forge, or a tunnel brings those of an unguarded host."""


@pytest.mark.parametrize(("source", "helper", "target"), FORGERS)
def test_nobody_enters_as_the_answer_to_what_he_forged(
    permissive: Host, tmp_path: pathlib.Path, source: str, helper: str, target: str
) -> None:
    """What is asked in a container's name makes a connection of the container's, and its answers come in."""
    with written(permissive, PLAN, tmp_path):
        assert not enters_by_an_answer(permissive, source, helper, target)


FRIENDS = [
    ("shop", "docker", "a"),
    ("compose", "docker", "a"),
    ("docker", "shop", "a"),
]


@pytest.mark.parametrize(("source", "helper", "target"), FRIENDS)
def test_nor_through_a_port_that_his_friend_has_published(
    bare: Host, tmp_path: pathlib.Path, source: str, helper: str, target: str
) -> None:
    ports = f"-p udp -d 192.0.2.1 --dport {PORT + 1}:{PORT + 2}"
    publish = f"PREROUTING {ports} -j DNAT --to {bare.address(helper)}"
    bare.host.run(f"iptables-nft -t nat -A {publish}")
    try:
        assert enters_by_an_answer(bare, source, helper, target, by="192.0.2.1"), "nobody else drops it"
        with written(bare, ONE_NETWORK, tmp_path):
            assert not enters_by_an_answer(bare, source, helper, target, by="192.0.2.1", at=PORT + 2)
    finally:
        bare.host.run(f"iptables-nft -t nat -D {publish}")


def test_two_of_another_bridge_begin_no_connection_with_a_container(permissive: Host, tmp_path: pathlib.Path) -> None:
    """One plays the container that the other asks; then this one sends the same by its gateway."""
    asks, plays, name = permissive.spaces["docker"], permissive.spaces["docker2"], permissive.address("a")
    mac = json.loads(plays.run("ip -j link show eth0"))[0]["address"]
    with (
        written(permissive, PLAN, tmp_path),
        in_anothers_name(permissive, "docker2", "a") as player,
        permissive.spaces["a"].bind(name, PORT) as server,
        asks.bind(permissive.address("docker")) as client,
    ):
        asks.run(f"ip route add {name} dev eth0", f"ip neigh add {name} lladdr {mac} dev eth0")
        client.sendto(b"question", (name, PORT))
        player.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            player.sendto(b"answer", player.recvfrom(64)[1])
            client.settimeout(0.5)
            client.recv(64)
        asks.run(f"ip neigh del {name} dev eth0", f"ip route replace {name} via 172.17.0.1 dev eth0")
        client.sendto(b"entered", (name, PORT))
        server.settimeout(0.5)
        with pytest.raises(TimeoutError):
            assert server.recv(64) == b""
        asks.run(f"ip route del {name}")


def test_a_connection_goes_on_where_its_container_gets_another_gateway(
    permissive: Host, tmp_path: pathlib.Path
) -> None:
    """As by docker network connect: the engine moves the default route to a bridge of its own."""
    leaf, world = permissive.spaces["a"], permissive.address("world")
    with (
        written(permissive, PLAN, tmp_path),
        permissive.spaces["world"].bind(world, PORT) as server,
        leaf.bind(permissive.address("a")) as client,
    ):
        for one in (server, client):
            one.settimeout(2)
        client.sendto(b"question", (world, PORT))
        server.sendto(b"answer", server.recvfrom(64)[1])
        assert client.recv(64) == b"answer"
        permissive.host.run(f"ip link add v-a-3 type veth peer name eth3 netns {leaf.path}")
        permissive.host.run("ip link set v-a-3 master shop", "ip link set v-a-3 up")
        leaf.run("ip addr add 172.18.0.9/16 dev eth3", "ip link set eth3 up")
        leaf.run(f"ip route add {world} via 172.18.0.1 dev eth3")
        client.sendto(b"more", (world, PORT))
        try:
            assert server.recv(64) == b"more"
        finally:
            permissive.host.run("ip link del v-a-3")
