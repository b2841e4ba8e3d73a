"""Two flannel networks on one host, of every mix of backends, seen by packets of both families.

           host: FORWARD policy DROP and an engine's chains in both families, in the nft or the legacy kind
    fp-red ── red, red2    fp-rint ── red-inner    red-far      one flannel network
    fp-blue ── blue, blue2 fp-bint ── blue-inner   blue-far     another one
    docker0 ── docker      eth0 ── a switch ── world

A far container is behind the network's devices (vxlan: flannel.1, and flannel-v6.1), or behind a host on the switch
to which the underlay itself leads (host-gw). In DirectRouting both are there: the red network's device leads nowhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import pathlib
import re
import select
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from overlay import firewall, firewall_exec, netstate

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

LISTINGS = pathlib.Path(__file__).parent / "firewall"
PORT = 7000
NUMBERS = {"red": 2, "blue": 9}
BRIDGED = {"": "open", "2": "open", "-inner": "internal"}
ADDRESSES: dict[str, tuple[str, str]] = {
    "world": ("192.0.2.9", "2001:db8:0:2::9"),
    "docker": ("172.17.0.2", "2001:db8:ff17::2"),
    **{
        f"{colour}{kind}": (f"10.{number}.{v4}", f"2001:db8:{number}:{v6}")
        for colour, number in NUMBERS.items()
        for kind, v4, v6 in (
            ("", "20.5", "20::5"),
            ("2", "20.6", "20::6"),
            ("-inner", "20.135", "21::5"),
            ("-far", "12.5", "12::5"),
        )
    },
}
HOST = ("192.0.2.1", "2001:db8:0:2::1")
MIXES = {
    "vxlan+vxlan": {"red": "vxlan", "blue": "vxlan"},
    "vxlan+host-gw": {"red": "vxlan", "blue": "host-gw"},
    "host-gw+host-gw": {"red": "host-gw", "blue": "host-gw"},
    "direct+host-gw": {"red": "direct", "blue": "host-gw"},
    "direct+vxlan": {"red": "direct", "blue": "vxlan"},
}
KINDS = {"nft": ("iptables-nft", "ip6tables-nft"), "legacy": ("iptables-legacy", "ip6tables-legacy")}
V4, V6 = 0, 1
Pair = tuple[str, str]


def rules(colour: str, backend: str, bridge: str, half: int, *, internal: bool) -> firewall.BridgeRules:
    number = NUMBERS[colour]
    devices = ("", "") if backend == "host-gw" else (f"flannel.{number}", f"flannel-v6.{number}")
    return firewall.BridgeRules(
        bridge=netstate.IfName(bridge),
        subnet=ipaddress.IPv4Network(f"10.{number}.20.{128 * half}/25"),
        overlay=ipaddress.IPv4Network(f"10.{number}.0.0/16"),
        device=netstate.IfName(devices[0]),
        internal=internal,
        prefix=f"/{colour}",
        direct=backend == "direct",
        v6=firewall.BridgeRulesV6(
            subnet=ipaddress.IPv6Network(f"2001:db8:{number}:2{half}::/64"),
            overlay=ipaddress.IPv6Network(f"2001:db8:{number}::/48"),
            device=netstate.IfName(devices[1]),
            direct=backend == "direct",
        ),
    )


def plan_of(mix: dict[str, str]) -> firewall.FirewallPlan:
    return frozenset(
        rules(colour, backend, bridge, half, internal=bool(half))
        for colour, backend in mix.items()
        for half, bridge in enumerate((f"fp-{colour}", f"fp-{colour[0]}int"))
    )


@dataclasses.dataclass(frozen=True)
class Talk:
    """A packet that came through: the source that its target saw, and whether the answer came back."""

    source: str
    answered: bool


class Host:
    """The host and all that hangs on it."""

    def __init__(self, make_netns: Any, mix: dict[str, str]) -> None:
        self._make = make_netns
        self.spaces: dict[str, Any] = {}
        self.host = self._add("host")
        self.switch = self._add("switch")
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "bridge/bridge-nf-call-iptables"):
            self.host.sysctl(key, "1")
        self.host.sysctl("bridge/bridge-nf-call-ip6tables", "1")
        for key in ("bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"):
            self.switch.sysctl(key, "0")
        self.switch.run("ip link add br0 type bridge", "ip link set br0 up")
        self._underlay("host", "eth0", HOST)
        self._underlay("world", "eth0", ADDRESSES["world"])
        for colour, backend in mix.items():
            for half, bridge in enumerate((f"fp-{colour}", f"fp-{colour[0]}int")):
                number = NUMBERS[colour]
                gateways = (f"10.{number}.20.{128 * half + 1}/25", f"2001:db8:{number}:2{half}::1/64")
                self._bridge(bridge, gateways, [f"{colour}-inner"] if half else [colour, f"{colour}2"])
            self._far(colour, backend)
        self._bridge("docker0", ("172.17.0.1/16", "2001:db8:ff17::1/64"), ["docker"])

    def _add(self, name: str) -> Any:
        space = self.spaces[name] = self._make()
        space.sysctl("ipv6/conf/default/accept_dad", "0")
        space.sysctl("ipv6/conf/all/accept_dad", "0")
        return space

    def _underlay(self, name: str, link: str, addresses: tuple[str, str]) -> None:
        space = self.spaces.get(name) or self._add(name)
        space.run(f"ip link add {link} type veth peer name {name} netns {self.switch.path}")
        space.run(f"ip addr add {addresses[V4]}/24 dev {link}", f"ip addr add {addresses[V6]}/64 dev {link} nodad")
        space.run(f"ip link set {link} up")
        self.switch.run(f"ip link set {name} master br0", f"ip link set {name} up")
        if name != "host":
            self._send_all_to(space, HOST, link)

    def _bridge(self, bridge: str, gateways: tuple[str, str], leaves: list[str]) -> None:
        self.host.run(f"ip link add {bridge} type bridge", f"ip link set {bridge} up")
        for gateway in gateways:
            self.host.run(f"ip addr add {gateway} dev {bridge} {'nodad' * (':' in gateway)}")
        for leaf in leaves:
            space, port = self._add(leaf), f"v-{leaf}"
            self.host.run(f"ip link add {port} type veth peer name eth0 netns {space.path}")
            self.host.run(f"ip link set {port} master {bridge}", f"ip link set {port} up")
            for address, gateway in zip(ADDRESSES[leaf], gateways, strict=True):
                length = gateway.partition("/")[2]
                space.run(f"ip addr add {address}/{length} dev eth0 {'nodad' * (':' in address)}")
            space.run("ip link set eth0 up")
            routers = tuple(gateway.partition("/")[0] for gateway in gateways)
            self._send_all_to(space, (routers[V4], routers[V6]), "eth0")

    def _far(self, colour: str, backend: str) -> None:
        number, far = NUMBERS[colour], f"{colour}-far"
        space = self._add(far)
        for address in ADDRESSES[far]:
            space.run(f"ip addr add {address} dev lo {'nodad' * (':' in address)}")
        devices = (f"flannel.{number}", f"flannel-v6.{number}")
        own = (f"10.{number}.20.0", f"2001:db8:{number}:20::")
        if backend != "host-gw":
            for device, address in zip(devices, own, strict=True):
                peer = "eth4" if device == devices[V4] else "eth6"
                self.host.run(f"ip link add {device} type veth peer name {peer} netns {space.path}")
                length = 128 if ":" in address else 32
                self.host.run(f"ip addr add {address}/{length} dev {device} {'nodad' * (':' in address)}")
                self.host.run(f"ip link set {device} up")
                space.run(f"ip link set {peer} up")
        if backend == "vxlan":
            space.run("ip -6 addr add fe80::2/64 dev eth6 nodad", "ip route add default dev eth4")
            self.host.run(f"ip addr add fe80::1/64 dev {devices[V6]} nodad")
            space.run("ip -6 route add default via fe80::1 dev eth6")
            # The far container's host answers for it, as a VTEP does.
            space.sysctl("ipv4/conf/eth4/proxy_arp", "1")
            self.host.sysctl(f"ipv4/conf/{devices[V4]}/proxy_arp", "1")
            self.host.run(f"ip route add 10.{number}.12.0/24 dev {devices[V4]}")
            self.host.run(f"ip -6 route add 2001:db8:{number}:12::/64 via fe80::2 dev {devices[V6]}")
            return
        hop = (f"192.0.2.{20 + number}", f"2001:db8:0:2::{20 + number}")
        self._underlay(far, "eth0", hop)
        self.host.run(f"ip route add 10.{number}.12.0/24 via {hop[V4]}")
        self.host.run(f"ip -6 route add 2001:db8:{number}:12::/64 via {hop[V6]}")

    def _send_all_to(self, space: Any, routers: tuple[str, str], link: str) -> None:
        space.run(f"ip route add default via {routers[V4]} dev {link}")
        space.run(f"ip -6 route add default via {routers[V6]} dev {link}")

    def talk(self, family: int, pairs: Iterable[Pair], wait_s: float = 0.6) -> dict[Pair, Talk]:
        """Every pair's first sends to its second, all at once; who is not in the answer, did not get through."""
        asked = list(pairs)
        clients: dict[Pair, socket.socket] = {}
        servers: dict[str, socket.socket] = {}
        seen: dict[Pair, str] = {}
        answered: set[Pair] = set()
        try:
            for source, target in asked:
                if target not in servers:
                    servers[target] = self.spaces[target].bind(ADDRESSES[target][family], PORT)
                bound = HOST[family] if source == "host" else ADDRESSES[source][family]
                clients[source, target] = self.spaces[source].bind(bound)
                clients[source, target].sendto(source.encode(), (ADDRESSES[target][family], PORT))
            until = time.monotonic() + wait_s
            while (left_s := until - time.monotonic()) > 0 and len(answered) < len(asked):
                ready, _, _ = select.select([*servers.values(), *clients.values()], [], [], left_s)
                for target, server in servers.items():
                    if server in ready:
                        text, address = server.recvfrom(64)
                        seen[text.decode(), target] = str(address[0])
                        server.sendto(b"answer", address)
                answered |= {pair for pair, client in clients.items() if client in ready}
        finally:
            for sock in (*clients.values(), *servers.values()):
                sock.close()
        return {pair: Talk(source, pair in answered) for pair, source in seen.items()}

    def close(self) -> None:
        for space in self.spaces.values():
            space.close()


def both_ways(pairs: Iterable[Pair]) -> list[Pair]:
    return [pair for one, other in pairs for pair in ((one, other), (other, one))]


def members(colour: str) -> list[str]:
    return [colour, f"{colour}-inner", f"{colour}-far"]


INSIDE = both_ways(
    pair
    for colour in NUMBERS
    for pair in (
        (colour, f"{colour}2"),
        (colour, f"{colour}-inner"),
        (colour, f"{colour}-far"),
        (f"{colour}-inner", f"{colour}-far"),
    )
)
APART = both_ways((one, other) for one in members("red") for other in members("blue"))
INTERNAL = both_ways((f"{colour}-inner", other) for colour in NUMBERS for other in ("world", "docker"))
OUTSIDE = [
    *(("world", f"{colour}{kind}") for colour in NUMBERS for kind in ("", "-far")),
    *(("docker", colour) for colour in NUMBERS),
]
CLOSED = [
    *((colour, "docker") for colour in NUMBERS),
    *((f"{colour}-far", "docker") for colour in NUMBERS),
    *OUTSIDE,
]


def through_devices(mix: dict[str, str]) -> list[Pair]:
    """Where packets cross the underlay as they are, other hosts keep the engine's containers out."""
    return [("docker", f"{colour}-far") for colour, backend in mix.items() if backend == "vxlan"]


@pytest.fixture(scope="module", params=MIXES)
def mix(request: pytest.FixtureRequest) -> dict[str, str]:
    return MIXES[str(request.param)]


@pytest.fixture(scope="module")
def bare(mix: dict[str, str], make_netns: Any) -> Iterator[Host]:
    """A host without any rule."""
    host = Host(make_netns, mix)
    yield host
    host.close()


@pytest.fixture(scope="module", params=KINDS)
def guarded(
    request: pytest.FixtureRequest, mix: dict[str, str], make_netns: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """A host with an engine's rules and ours, in both families."""
    host = Host(make_netns, mix)
    flavours = KINDS[str(request.param)]
    text = (LISTINGS / "docker-28.rules").read_text()
    host.host.run(f"{flavours[V4]}-restore", text=text)
    host.host.run(f"{flavours[V6]}-restore", text=re.sub(r"172\.(\d+)\.0\.0/16", r"2001:db8:ff\1::/64", text))
    for family in (V4, V6):
        assert host.talk(family, [("red", "red-far"), ("blue", "blue-far")], 0.2) == {}, "the engine's policy drops"
    with host.host.inside():
        wall = firewall_exec.FirewallExec(lockfile=str(tmp_path_factory.mktemp("wall") / "lock"))
        assert wall.ensure(plan_of(mix)) == ("nft", flavours[V4], "nft-ip6", flavours[V6])
        assert wall.ensure(plan_of(mix)) == ()
    yield host
    host.close()


@pytest.fixture(scope="module")
def alone(mix: dict[str, str], make_netns: Any) -> Iterator[Host]:
    """A host with our rules and nobody else's: what is not dropped is let through."""
    host = Host(make_netns, mix)
    with host.host.inside():
        assert firewall_exec.FirewallExec().ensure(plan_of(mix)) == ("nft", "nft-ip6")
    yield host
    host.close()


@pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
def test_what_is_kept_apart_needs_nobody_elses_drop(alone: Host, mix: dict[str, str], family: int) -> None:
    assert alone.talk(family, [*APART, *INTERNAL, *OUTSIDE, *through_devices(mix)]) == {}
    assert alone.talk(family, INSIDE, 3) == {pair: Talk(ADDRESSES[pair[0]][family], answered=True) for pair in INSIDE}


@pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
def test_networks_that_are_open_to_the_outside_never_meet(alone: Host, mix: dict[str, str], family: int) -> None:
    opened = frozenset(dataclasses.replace(one, outside=True) for one in plan_of(mix))
    with alone.host.inside():
        wall = firewall_exec.FirewallExec()
        wall.ensure(opened)
    try:
        entered = [(one, other) for one, other in OUTSIDE if one == "world" and not other.endswith("-far")]
        assert alone.talk(family, [*APART, *INTERNAL]) == {}
        assert alone.talk(family, entered, 3).keys() == set(entered)
    finally:
        with alone.host.inside():
            wall.ensure(plan_of(mix))


@pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize(("source", "target"), [("docker", "red"), ("docker", "blue-inner"), ("red", "blue")])
def test_nobody_enters_as_the_answer_to_what_he_forged(alone: Host, family: int, source: str, target: str) -> None:
    forger, name = alone.spaces[source], ADDRESSES[target][family]
    forger.run(f"ip addr add {name} dev lo {'nodad' * (family == V6)}")
    try:
        with (
            alone.spaces[target].bind(name, PORT) as server,
            alone.spaces["world"].bind(ADDRESSES["world"][family], PORT) as asked,
            forger.bind(name, PORT) as says,
        ):
            says.sendto(b"question", (ADDRESSES["world"][family], PORT))
            for sock in (asked, server):
                sock.settimeout(0.3)
            seen: tuple[Any, ...] = (name, PORT)
            with contextlib.suppress(TimeoutError):
                seen = asked.recvfrom(64)[1]
            asked.sendto(b"an answer that was never asked for", seen)
            with pytest.raises(TimeoutError):
                assert server.recv(64) == b""
    finally:
        forger.run(f"ip addr del {name} dev lo")


@pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
def test_who_reaches_into_the_overlay_needs_no_rule_of_the_engines(
    alone: Host, mix: dict[str, str], family: int
) -> None:
    assert_rewritten_on_the_way_in(alone, mix, family)


def assert_rewritten_on_the_way_in(host: Host, mix: dict[str, str], family: int) -> None:
    """Far containers see the device's address, or the underlay's where packets cross it as they are."""
    sources = {colour: {"host"} if backend == "vxlan" else {"host", "docker"} for colour, backend in mix.items()}
    seen = host.talk(family, [(source, f"{colour}-far") for colour in mix for source in sorted(sources[colour])], 3)
    for colour, backend in mix.items():
        number = NUMBERS[colour]
        own = (f"10.{number}.20.0", f"2001:db8:{number}:20::")
        wanted = Talk(own[family] if backend == "vxlan" else HOST[family], answered=True)
        assert {seen.get((source, f"{colour}-far")) for source in sources[colour]} == {wanted}


@pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
def test_without_any_rules_every_pair_that_is_tested_below_can_talk(bare: Host, family: int) -> None:
    pairs = [*INSIDE, *APART, *INTERNAL, *CLOSED]
    assert bare.talk(family, pairs, 3) == {pair: Talk(ADDRESSES[pair[0]][family], answered=True) for pair in pairs}


@pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
class TestGuarded:
    def test_inside_one_flannel_network_packets_pass_with_their_source(self, guarded: Host, family: int) -> None:
        assert guarded.talk(family, INSIDE, 3) == {
            pair: Talk(ADDRESSES[pair[0]][family], answered=True) for pair in INSIDE
        }

    def test_two_flannel_networks_never_meet(self, guarded: Host, family: int) -> None:
        assert guarded.talk(family, APART) == {}

    def test_an_internal_bridge_meets_nobody_outside_its_flannel_network(self, guarded: Host, family: int) -> None:
        assert guarded.talk(family, INTERNAL) == {}

    def test_nobody_outside_starts_a_talk_and_the_engines_bridges_stay_closed(
        self, guarded: Host, family: int
    ) -> None:
        assert guarded.talk(family, CLOSED) == {}

    def test_what_leaves_the_overlay_has_the_hosts_address(self, guarded: Host, family: int) -> None:
        pairs = [("red", "world"), ("blue", "world")]
        assert guarded.talk(family, pairs, 3) == {pair: Talk(HOST[family], answered=True) for pair in pairs}

    def test_who_reaches_into_the_overlay_has_an_address_that_is_answered(
        self, guarded: Host, mix: dict[str, str], family: int
    ) -> None:
        assert_rewritten_on_the_way_in(guarded, mix, family)
