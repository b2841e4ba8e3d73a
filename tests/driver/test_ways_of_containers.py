"""Where a container's packets go that is on several networks, on a real kernel: the driver's answers, and the rest by
hand as dockerd does it, its refusals included.

peers ─ flannel.1 ── host ── fp-… ─┐
      ─ flannel.66 ─      ── fp-… ─┼─ container
                          ── app ──┘   a bridge of Docker's own, which masquerades
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from driver import service, store
from overlay import firewall_exec, kernel_netlink, lease, netstate, reconciler
from tests.overlay import conftest

pytestmark = pytest.mark.contract

Host = Any  # the fixture's class lives in conftest.py
Netns = Any
PORT = 7000
APP = {4: "172.18.0", 6: "fd00:18:"}
"""The network of Docker's own bridge: .1 is the gateway, .2 the container."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A Docker network on this host, in a flannel network."""

    name: str
    vni: int
    part: int = 0
    """0 the whole lease, 1 and 2 its halves."""
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def id(self) -> str:
        return f"{self.vni * 16 + self.part:012x}" + "0" * 52

    def lease(self, version: int, *, peer: bool = False) -> netstate.IPNetwork:
        number = 9 if peer else 20
        text = f"10.{self.vni}.{number}.0/24" if version == 4 else f"fd00:{self.vni}:0:{number}::/64"
        return ipaddress.ip_network(text)

    def pool(self, version: int) -> netstate.IPNetwork:
        halves = [self.lease(version), *self.lease(version).subnets()]
        return halves[self.part]

    def address(self, version: int) -> str:
        return str(self.pool(version)[5])

    def peer(self, version: int) -> str:
        """A container of another host."""
        return str(self.lease(version, peer=True)[7])


RED, BLUE = Place("red", 1), Place("blue", 66)
INTERNAL = Place("red", 1, options=(("com.docker.network.internal", True),))
LOW, HIGH = Place("low", 1, 1), Place("high", 1, 2)


def held(vni: int) -> lease.HeldSubnet:
    place = Place("", vni)
    v4, v6 = place.lease(4), place.lease(6)
    assert isinstance(v4, ipaddress.IPv4Network)
    assert isinstance(v6, ipaddress.IPv6Network)
    return lease.HeldSubnet(
        prefix=f"/{vni}",
        network=v4.supernet(new_prefix=16),
        subnet=v4,
        device=f"flannel.{vni}",
        overlay_mtu=1450,
        v6=lease.HeldSubnetV6(network=v6.supernet(new_prefix=32), subnet=v6, device=f"flannel-v6.{vni}"),
    )


class World:
    """A host, all peers in one namespace, and one container."""

    def __init__(self, host: Host, make_netns: Callable[[], Netns]) -> None:
        self.host, self.peers, self.container = host, make_netns(), make_netns()
        self.space = make_netns()
        self.links = 0
        host.holdings.leases[:] = [held(1), held(66)]
        for space in (self.space, self.peers):
            for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                space.sysctl(key, "1")
            for key in ("all", "default"):
                space.sysctl(f"ipv4/conf/{key}/rp_filter", "1")  # strict: who answers by another way is not heard
        for place in (RED, BLUE):
            self._connect(place, 4, f"flannel.{place.vni}")
            self._connect(place, 6, f"flannel-v6.{place.vni}")
        self.space.run("ip link add app type bridge forward_delay 0", "ip link set app up")
        self.space.run(f"ip addr add {APP[4]}.1/16 dev app", f"ip addr add {APP[6]}:1/64 dev app nodad")
        for tool, source in (("iptables", "172.18.0.0/16"), ("ip6tables", "fd00:18::/64")):
            self.space.run(f"{tool} -w 10 -t nat -A POSTROUTING -s {source} ! -o app -j MASQUERADE")
        with self.space.inside():
            self.reconciler = reconciler.Reconciler(kernel_netlink.KernelNetlink(), firewall_exec.FirewallExec())
            self.reconciler.open_gate()
            host.driver = service.Driver(
                store.DriverStore(host.files[-1]), host.holdings, self.reconciler, host.ports
            )

    def _connect(self, place: Place, version: int, device: str) -> None:
        """What flannel's backend does, over a wire of its own."""
        self.space.run(f"ip link add {device} type veth peer name {device} netns {self.peers.path}")
        there, here = place.lease(version, peer=True), place.lease(version)
        own = {4: f"{here[0]}/32", 6: f"{here[0]}/128 nodad"}[version].split()
        theirs = {4: [f"{place.peer(4)}/32"], 6: [f"{place.peer(6)}/128", "nodad"]}[version]
        self.space.run(f"ip addr add {own[0]} dev {device} {' '.join(own[1:])}", f"ip link set {device} up")
        self.peers.run(f"ip addr add {theirs[0]} dev {device} {' '.join(theirs[1:])}", f"ip link set {device} up")
        self.space.run(f"ip route add {there} dev {device}")
        self.peers.run(f"ip route add {here} via {here[0]} dev {device} onlink")

    def create(self, place: Place) -> None:
        pools = {version: place.pool(version) for version in (4, 6)}
        data = {
            version: [{"AddressSpace": "flannelpy", "Pool": str(pool), "Gateway": f"{pool[1]}/{pool.prefixlen}"}]
            for version, pool in pools.items()
        }
        options = {"com.docker.network.enable_ipv6": True, **dict(place.options)}
        body = {"NetworkID": place.id, "Options": options, "IPv4Data": data[4], "IPv6Data": data[6]}
        with self.space.inside():
            self.host.call("CreateNetwork", body)

    def join(self, place: Place, *, publishes: bool = False) -> Any:
        """As dockerd does. What Join told of gateways."""
        addresses = [f"{place.address(version)}/{place.pool(version).prefixlen}" for version in (4, 6)]
        with self.space.inside():
            made = self.host.create_endpoint(place.id, addresses[0], place.id, addresses[1])
            told = self.host.join(place.id, int(publishes), place.id)
        link = told["InterfaceName"]["SrcName"]
        name = self._plug(link, addresses, made["Interface"]["MacAddress"])
        for route in told["StaticRoutes"]:
            self.container.run(f"ip route add {route['Destination']} via {route['NextHop']} dev {name}")
        return told

    def join_app(self) -> Any:
        """A network of Docker's own."""
        self.space.run("ip link add v-app type veth peer name p-app")
        self.space.run("ip link set v-app master app", "ip link set v-app up")
        self._plug("p-app", [f"{APP[4]}.2/16", f"{APP[6]}:2/64"])
        return {"Gateway": f"{APP[4]}.1", "GatewayIPv6": f"{APP[6]}:1"}

    def _plug(self, link: str, addresses: list[str], mac: str = "") -> str:
        name = f"eth{self.links}"
        self.links += 1
        self.space.run(f"ip link set {link} netns {self.container.path} name {name}")
        if mac:
            self.container.run(f"ip link set {name} address {mac}")
        for address in addresses:
            self._refuse_conflict(address)
            self.container.run(f"ip addr add {address} dev {name}" + " nodad" * (":" in address))
        self.container.run(f"ip link set {name} up")
        return name

    def _refuse_conflict(self, address: str) -> None:
        """Source: moby daemon/libnetwork/osl/interface_linux.go, checkRouteConflict."""
        own = ipaddress.ip_interface(address)
        for route in json.loads(self.container.run(f"ip -j -{own.version} route show")):
            if route["dst"] != "default":
                target = ipaddress.ip_network(route["dst"])
                assert own.ip not in target, f"{address} conflicts with existing route {target}"
                assert target.network_address not in own.network, f"{address} conflicts with existing route {target}"

    def choose_gateway(self, told: Any) -> None:
        for key in ("Gateway", "GatewayIPv6"):
            if key in told:
                self.container.run(f"ip route add default via {told[key]}")

    def talk(self, place: Place, speaks_as: Place | None = None) -> None:
        """The container asks a peer and is asked by it, in both families, under its own address each time."""
        for version, anywhere in ((4, "0.0.0.0"), (6, "::")):
            own, peer = place.address(version), place.peer(version)
            with self.peers.bind(peer, PORT) as theirs, self.container.bind(anywhere) as ours:
                assert self._exchange(ours, (peer, PORT), theirs) == (speaks_as or place).address(version)
            with self.container.bind(own, PORT) as ours, self.peers.bind(peer) as theirs:
                assert self._exchange(theirs, (own, PORT), ours) == peer

    @staticmethod
    def _exchange(client: Any, target: tuple[str, int], server: Any) -> str:
        """Whom the server saw; the client has its answer. The first packets may find no neighbour yet."""
        for one in (client, server):
            one.settimeout(0.2)
        for _ in range(15):
            client.sendto(b"question", target)
            with contextlib.suppress(TimeoutError):
                seen = server.recvfrom(64)[1]
                server.sendto(b"answer", seen)
                assert client.recvfrom(64)[1][:2] == target
                return str(seen[0])
        raise AssertionError(f"{target} is not reached")

    def close(self) -> None:
        for one in (self.container, self.peers, self.space):
            one.close()


@pytest.fixture
def world(host: Host) -> Iterator[World]:
    made = World(host, conftest.Netns)
    yield made
    made.close()


@pytest.mark.parametrize("first", [RED, BLUE], ids=lambda place: place.name)
def test_a_container_on_two_flannel_networks_reaches_the_peers_of_both(world: World, first: Place) -> None:
    for place in (RED, BLUE):
        world.create(place)
    told = {place: world.join(place) for place in (RED, BLUE)}
    world.choose_gateway(told[first])
    for place in (RED, BLUE):
        world.talk(place)


@pytest.mark.parametrize("place", [RED, INTERNAL], ids=["open", "internal"])
@pytest.mark.parametrize("order", [1, -1], ids=["app last", "app first"])
def test_on_a_network_of_dockers_own_beside_it_peers_see_the_flannel_address(
    world: World, order: int, place: Place
) -> None:
    world.create(place)
    steps = {"flannel": lambda: world.join(place), "app": world.join_app}
    told = {name: steps[name]() for name in list(steps)[::order]}
    world.choose_gateway(told["app"])
    world.talk(place)


def test_with_published_ports_as_well(world: World) -> None:
    for place in (RED, BLUE):
        world.create(place)
        assert "Gateway" not in world.join(place, publishes=True)
    world.choose_gateway(world.join_app())
    for place in (RED, BLUE):
        world.talk(place)


@pytest.mark.parametrize("lease_is_known", [True, False])
def test_on_two_slices_of_one_lease_too(world: World, lease_is_known: bool) -> None:
    """It speaks under the one with the narrower routes, and is reached at both."""
    for place in (LOW, HIGH):
        world.create(place)
    if not lease_is_known:
        world.host.holdings.leases.clear()
    for place in (LOW, HIGH):
        world.join(place)
    world.choose_gateway(world.join_app())
    world.talk(HIGH)
    for space in (world.space, world.container):
        space.sysctl("ipv4/conf/all/rp_filter", "2")  # it answers through the other slice
    world.talk(LOW, speaks_as=HIGH)
