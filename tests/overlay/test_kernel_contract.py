"""What every adapter of the kernel port does, on the fake kernel and on the real one in a network namespace."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

from overlay import diff, ethtool, kernel, kernel_fake, kernel_netlink, netstate

UNDERLAY = netstate.IfName("ens33")
DEVICE = netstate.IfName("flannel.1")


def mac(number: int) -> netstate.Mac:
    return netstate.Mac(f"02:00:00:00:00:{number:02x}")


VXLAN = netstate.VxlanLink(
    name=DEVICE,
    vni=1,
    port=8472,
    local=ipaddress.ip_address("198.51.100.1"),
    underlay=UNDERLAY,
    mac=mac(1),
    mtu=1450,
)
BRIDGE = netstate.BridgeLink(name=netstate.IfName("br-a"), mac=mac(2), mtu=1450)
OTHER_BRIDGE = netstate.BridgeLink(name=netstate.IfName("br-b"), mac=mac(3), mtu=1450)
PAIR = netstate.VethPair(name=netstate.IfName("v1"), peer=netstate.IfName("c1"), bridge=BRIDGE.name, mtu=1450)
PORT = diff.host_end(PAIR)
ADDRESS = netstate.Address(link=DEVICE, interface=ipaddress.ip_interface("10.2.20.0/32"))
GATEWAY = netstate.Address(link=BRIDGE.name, interface=ipaddress.ip_interface("10.2.20.1/24"))
NEIGHBOUR = netstate.Neighbour(link=DEVICE, ip=ipaddress.ip_address("10.2.21.0"), mac=mac(0x12))
FDB = netstate.FdbEntry(link=DEVICE, mac=mac(0x12), vtep_ip=ipaddress.ip_address("198.51.100.2"))
ROUTE = netstate.Route(
    destination=ipaddress.ip_network("10.2.21.0/24"), gateway=ipaddress.ip_address("10.2.21.0"), link=DEVICE
)
DIRECT = netstate.Route(
    destination=ipaddress.ip_network("10.2.22.0/24"),
    gateway=ipaddress.ip_address("198.51.100.3"),
    link=UNDERLAY,
    onlink=False,
)
FORWARDING = netstate.Sysctl(key="net.ipv4.ip_forward", value="1")
ENTRIES = (NEIGHBOUR, FDB, ROUTE)
WHOLE: netstate.NetState = frozenset({FORWARDING, VXLAN, BRIDGE, PAIR, ADDRESS, GATEWAY, *ENTRIES, DIRECT})
SHOWN: netstate.NetState = frozenset({FORWARDING, VXLAN, BRIDGE, PORT, ADDRESS, GATEWAY, *ENTRIES, DIRECT})


def way(destination: str, gateway: str | None, link: netstate.IfName = UNDERLAY) -> kernel.UnderlayRoute:
    hop = None if gateway is None else ipaddress.ip_address(gateway)
    return kernel.UnderlayRoute(destination=ipaddress.ip_network(destination), gateway=hop, link=link)


OWN_WAYS = [
    way("198.51.100.0/24", None),
    way("0.0.0.0/0", "198.51.100.254"),
    way("2001:db8::/64", None),
    way("::/0", "2001:db8::ff"),
]

Foreign = netstate.Address | netstate.Neighbour | netstate.Route


class Hand(Protocol):
    """What an operator does to the namespace, past the port."""

    def delete(self, obj: netstate.KernelObject) -> None: ...

    def add_foreign_link(self, name: netstate.IfName, kind: str = "bridge") -> None: ...

    def add_foreign(self, obj: Foreign) -> None: ...

    def has_foreign(self, obj: Foreign) -> bool: ...

    def has_link(self, name: netstate.IfName) -> bool: ...

    def set_link(
        self,
        name: netstate.IfName,
        *,
        up: bool | None = None,
        mac: netstate.Mac | None = None,
        mtu: int | None = None,
    ) -> None: ...

    def take_reserved(self, name: netstate.IfName) -> None: ...

    def take_away(self, peer: netstate.IfName) -> None: ...

    def set_tx_checksum(self, name: netstate.IfName, *, on: bool) -> None: ...


class Shell:
    """The operator's hand on the real kernel."""

    def __init__(self, make_netns: Any) -> None:
        self._container = make_netns()

    def run(self, line: str) -> str:
        done = subprocess.run(line.split(), capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout

    def close(self) -> None:
        self._container.close()

    def delete(self, obj: netstate.KernelObject) -> None:
        self.run(diff.format_op(netstate.Remove(obj=obj)))

    def add_foreign_link(self, name: netstate.IfName, kind: str = "bridge") -> None:
        self.run(f"ip link add {name} up type {kind}")

    def add_foreign(self, obj: Foreign) -> None:
        line = diff.format_op(netstate.Add(obj=obj))
        self.run(line.replace("proto 70", "proto boot"))

    def has_foreign(self, obj: Foreign) -> bool:
        match obj:
            case netstate.Address():
                return f" {obj.interface} " in self.run(f"ip addr show dev {obj.link}")
            case netstate.Neighbour():
                return f"{obj.ip} lladdr {obj.mac} PERMANENT" in self.run(f"ip neigh show dev {obj.link}")
            case netstate.Route():
                protocol = "boot" if obj.protocol == netstate.ROUTE_PROTOCOL else obj.protocol
                shown = self.run(f"ip -{obj.destination.version} route show {obj.destination} proto {protocol}")
                return str(obj.gateway) in shown

    def has_link(self, name: netstate.IfName) -> bool:
        return subprocess.run(["ip", "link", "show", name], capture_output=True, check=False).returncode == 0

    def set_link(
        self,
        name: netstate.IfName,
        *,
        up: bool | None = None,
        mac: netstate.Mac | None = None,
        mtu: int | None = None,
    ) -> None:
        words = [] if up is None else ["up" if up else "down"]
        words += [] if mac is None else ["address", mac]
        words += [] if mtu is None else ["mtu", str(mtu)]
        self.run(f"ip link set {name} {' '.join(words)}")

    def take_reserved(self, name: netstate.IfName) -> None:
        self.run(f"ip link set {name} type bridge_slave group_fwd_mask 0")

    def take_away(self, peer: netstate.IfName) -> None:
        self.run(f"ip link set {peer} netns {self._container.path}")

    def set_tx_checksum(self, name: netstate.IfName, *, on: bool) -> None:
        ethtool.write_tx_checksum(name, on)  # no machine need have the command


@dataclasses.dataclass(frozen=True)
class Host:
    """A namespace with an underlay link, seen through the port and by hand."""

    kernel: kernel.Kernel
    hand: Hand

    def build(self, *objects: netstate.KernelObject) -> None:
        assert self.kernel.apply([netstate.Add(obj=obj) for obj in objects]) == []

    def shows(self, *objects: netstate.KernelObject, named: netstate.NetState = WHOLE) -> bool:
        observed = self.kernel.observe(named)
        return {obj for obj in observed if not isinstance(obj, netstate.Sysctl)} == {
            obj for obj in objects if not isinstance(obj, netstate.Sysctl)
        }


def _fake() -> Host:
    underlays = [
        kernel.UnderlayLink(
            name=UNDERLAY,
            index=2,
            mtu=1500,
            up=True,
            addresses=(ipaddress.IPv4Interface("198.51.100.1/24"),),
            has_default_route=True,
            addresses_v6=(ipaddress.IPv6Interface("2001:db8::1/64"),),
            has_default_route_v6=True,
        )
    ]
    fake = kernel_fake.KernelFake(underlays, OWN_WAYS)
    return Host(kernel=fake, hand=fake)


@pytest.fixture(params=["fake", pytest.param("netlink", marks=pytest.mark.contract)])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    if request.param == "fake":
        yield _fake()
        return
    netns = request.getfixturevalue("netns")
    netns.run(
        f"ip link add {UNDERLAY} up mtu 1500 type veth peer name wire",
        "ip link set wire up",
        f"ip addr add 198.51.100.1/24 dev {UNDERLAY}",
        f"ip route add default via 198.51.100.254 dev {UNDERLAY}",
        f"ip addr add 2001:db8::1/64 dev {UNDERLAY} nodad",
        f"ip -6 route add default via 2001:db8::ff dev {UNDERLAY}",
    )
    shell = Shell(request.getfixturevalue("make_netns"))
    with netns.inside():
        yield Host(kernel=kernel_netlink.KernelNetlink(), hand=shell)
    shell.close()


# -- adding, changing, removing --------------------------------------------------------------------------------------


def test_what_is_applied_is_what_is_observed(host: Host) -> None:
    assert host.kernel.apply(diff.plan(WHOLE, netstate.EMPTY)) == []
    assert host.kernel.observe(WHOLE) == SHOWN
    assert diff.plan(WHOLE, host.kernel.observe(WHOLE)) == []


def test_adding_twice_is_safe(host: Host) -> None:
    ops = diff.plan(WHOLE, netstate.EMPTY)
    assert host.kernel.apply([*ops, *ops]) == []
    assert host.kernel.observe(WHOLE) == SHOWN


def test_removing_twice_is_safe(host: Host) -> None:
    host.kernel.apply(diff.plan(WHOLE, netstate.EMPTY))
    ops = [
        netstate.Remove(obj=op.obj)
        for op in reversed(diff.plan(WHOLE, netstate.EMPTY))
        if isinstance(op, netstate.Add)
    ]
    assert host.kernel.apply([*ops, *ops]) == []
    assert host.shows()


def test_what_is_ours_is_known_by_its_marks_alone(host: Host) -> None:
    host.kernel.apply(diff.plan(WHOLE, netstate.EMPTY))
    assert host.kernel.observe(netstate.EMPTY) == SHOWN - {FORWARDING}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (VXLAN, dataclasses.replace(VXLAN, mtu=1400)),
        (VXLAN, dataclasses.replace(VXLAN, mac=mac(9))),
        (VXLAN, dataclasses.replace(VXLAN, local=ipaddress.ip_address("198.51.100.7"))),
        (VXLAN, dataclasses.replace(VXLAN, vni=2)),
        (VXLAN, dataclasses.replace(VXLAN, tx_checksum=False)),
        (dataclasses.replace(VXLAN, tx_checksum=False), VXLAN),
        (VXLAN, dataclasses.replace(VXLAN, vni=2, tx_checksum=False)),
        (VXLAN, dataclasses.replace(VXLAN, port=4789)),
        (VXLAN, dataclasses.replace(VXLAN, gbp=True, learning=True)),
        (BRIDGE, dataclasses.replace(BRIDGE, mtu=1400)),
        (BRIDGE, dataclasses.replace(BRIDGE, mac=mac(9))),
        (BRIDGE, dataclasses.replace(BRIDGE, learns_reserved=True)),
        (dataclasses.replace(BRIDGE, learns_reserved=True), BRIDGE),
    ],
)
def test_a_link_is_changed(host: Host, old: netstate.Link, new: netstate.Link) -> None:
    host.build(old)
    assert host.kernel.apply([netstate.Change(old=old, new=new)]) == []
    assert host.shows(new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (NEIGHBOUR, dataclasses.replace(NEIGHBOUR, mac=mac(9))),
        (FDB, dataclasses.replace(FDB, vtep_ip=ipaddress.ip_address("198.51.100.9"))),
        (ROUTE, dataclasses.replace(ROUTE, gateway=ipaddress.ip_address("10.2.21.7"))),
        (ROUTE, dataclasses.replace(ROUTE, link=UNDERLAY)),
    ],
)
def test_an_entry_is_replaced(host: Host, old: netstate.KernelObject, new: netstate.KernelObject) -> None:
    host.build(VXLAN, old)
    assert host.kernel.apply([netstate.Change(old=old, new=new)]) == []
    assert host.shows(VXLAN, new)


DEVICE_V6 = dataclasses.replace(
    VXLAN, name=netstate.IfName("flannel-v6.1"), local=ipaddress.ip_address("2001:db8::1"), mtu=1430
)
TUNNEL_V6 = netstate.Route(
    destination=ipaddress.ip_network("fd00:21::/64"), gateway=ipaddress.ip_address("fd00:21::"), link=DEVICE_V6.name
)
DIRECT_V6 = dataclasses.replace(TUNNEL_V6, gateway=ipaddress.ip_address("2001:db8::2"), link=UNDERLAY, onlink=False)


@pytest.mark.parametrize(("old", "new"), [(TUNNEL_V6, DIRECT_V6), (DIRECT_V6, TUNNEL_V6)])
def test_an_ipv6_route_moves_to_another_link(host: Host, old: netstate.Route, new: netstate.Route) -> None:
    """The kernel refuses a gateway that it would reach by the very route that is to be replaced."""
    host.build(DEVICE_V6, old)
    assert host.kernel.apply([netstate.Change(old=old, new=new)]) == []
    assert host.shows(DEVICE_V6, new)


@pytest.mark.parametrize(
    ("device", "ours", "foreign"),
    [
        (VXLAN, ROUTE, dataclasses.replace(DIRECT, destination=ROUTE.destination)),
        (DEVICE_V6, TUNNEL_V6, DIRECT_V6),
        (VXLAN, DIRECT, dataclasses.replace(DIRECT, gateway=ipaddress.ip_address("198.51.100.99"))),
        (DEVICE_V6, DIRECT_V6, dataclasses.replace(DIRECT_V6, gateway=ipaddress.ip_address("2001:db8::99"))),
    ],
    ids=["another link", "another link, IPv6", "another gateway", "another gateway, IPv6"],
)
def test_a_route_of_somebody_else_is_never_replaced(
    host: Host, device: netstate.VxlanLink, ours: netstate.Route, foreign: netstate.Route
) -> None:
    host.build(device)
    host.hand.add_foreign(foreign)
    add, change = netstate.Add(obj=ours), netstate.Change(old=dataclasses.replace(ours, onlink=False), new=ours)
    for op in (add, change):
        (failure,) = host.kernel.apply([op])
        assert failure.op == op
        told = f"there is a route that is not ours: {foreign.destination} via {foreign.gateway} dev {foreign.link}"
        assert failure.reason.startswith(told)
    assert host.hand.has_foreign(foreign)
    assert host.shows(device)


def test_among_many_routes_too_only_that_of_somebody_else_stays(host: Host) -> None:
    ours = [
        netstate.Route(destination=network, gateway=network.network_address, link=DEVICE)
        for network in ipaddress.ip_network("10.2.0.0/17").subnets(new_prefix=24)
    ]
    foreign = dataclasses.replace(DIRECT, destination=ours[77].destination)
    left = [route for route in ours if route.destination != foreign.destination]
    host.build(VXLAN, ours[5])
    host.hand.add_foreign(foreign)
    for _ in range(2):  # at first only one of ours is there, then all
        (failure,) = host.kernel.apply([netstate.Add(obj=route) for route in ours])
        assert failure.op == netstate.Add(obj=ours[77])
        assert failure.reason.startswith("there is a route that is not ours")
        assert host.hand.has_foreign(foreign)
        assert host.shows(VXLAN, *left)


@pytest.mark.parametrize(("device", "ours"), [(VXLAN, DIRECT), (DEVICE_V6, DIRECT_V6)])
def test_a_route_that_is_just_like_ours_becomes_ours(
    host: Host, device: netstate.VxlanLink, ours: netstate.Route
) -> None:
    """As flanneld leaves them with host-gw."""
    host.build(device)
    host.hand.add_foreign(ours)
    host.build(ours)
    assert host.shows(device, ours)
    assert not host.hand.has_foreign(ours)


def test_a_forwarding_entry_is_removed_whatever_it_leads_to(host: Host) -> None:
    host.build(VXLAN, FDB)
    wrong = dataclasses.replace(FDB, vtep_ip=ipaddress.ip_address("198.51.100.9"))
    assert host.kernel.apply([netstate.Remove(obj=wrong)]) == []
    assert host.shows(VXLAN)


def test_a_kernel_parameter_is_set_and_observed(host: Host) -> None:
    for value in ("1", "0"):
        wanted = netstate.Sysctl(key="net.ipv4.ip_forward", value=value)
        host.build(wanted)
        assert host.kernel.observe(frozenset({wanted})) == frozenset({wanted})


def test_a_links_parameter_is_gone_with_the_link(host: Host) -> None:
    changed = netstate.Sysctl(key="net.ipv6.conf.flannel/1.disable_ipv6", value="1")
    assert len(host.kernel.apply([netstate.Add(obj=changed)])) == 1
    host.build(VXLAN, changed)
    assert changed in host.kernel.observe(frozenset({changed}))
    host.hand.delete(VXLAN)
    assert host.kernel.observe(frozenset({changed})) == netstate.EMPTY
    host.build(VXLAN)
    assert changed not in host.kernel.observe(frozenset({changed}))


@pytest.mark.parametrize("optional", [False, True])
def test_a_links_parameter_comes_and_goes_with_the_link(host: Host, optional: bool) -> None:
    wanted = netstate.Sysctl(key=f"net.ipv6.conf.{BRIDGE.name}.accept_ra", value="0", optional=optional)
    state = frozenset({wanted, BRIDGE})
    [failure] = host.kernel.apply([netstate.Add(obj=wanted)])
    assert failure.reason == "No such file or directory"
    for _ in range(2):
        assert host.kernel.apply(diff.plan(state, host.kernel.observe(state))) == []
        assert host.kernel.observe(state) == state
        host.hand.delete(BRIDGE)
        assert host.kernel.observe(state) == netstate.EMPTY


def test_a_port_moves_to_another_bridge(host: Host) -> None:
    host.build(BRIDGE, OTHER_BRIDGE, PAIR)
    moved = dataclasses.replace(PORT, bridge=OTHER_BRIDGE.name)
    assert host.kernel.apply([netstate.Change(old=PORT, new=moved)]) == []
    assert host.shows(BRIDGE, OTHER_BRIDGE, moved)


def test_a_port_lets_frames_back_out_where_they_came_in_as_long_as_that_is_wanted(host: Host) -> None:
    host.build(BRIDGE, OTHER_BRIDGE, PAIR)
    hairpin = dataclasses.replace(PORT, hairpin=True)
    assert host.kernel.apply([netstate.Change(old=PORT, new=hairpin)]) == []
    assert host.shows(BRIDGE, OTHER_BRIDGE, hairpin)
    moved = dataclasses.replace(hairpin, bridge=OTHER_BRIDGE.name)
    assert host.kernel.apply([netstate.Change(old=hairpin, new=moved)]) == []
    assert host.shows(BRIDGE, OTHER_BRIDGE, moved)
    assert host.kernel.apply([netstate.Remove(obj=OTHER_BRIDGE)]) == []
    assert host.shows(BRIDGE, dataclasses.replace(PORT, bridge=netstate.IfName("")))
    host.build(BRIDGE, hairpin)
    assert host.kernel.apply([netstate.Change(old=hairpin, new=PAIR)]) == []
    assert host.shows(BRIDGE, PORT)


def test_a_port_is_isolated_from_the_start_and_wherever_it_goes(host: Host) -> None:
    pair = dataclasses.replace(PAIR, isolated=True)
    host.build(BRIDGE, OTHER_BRIDGE, pair)
    port = dataclasses.replace(PORT, isolated=True)
    assert host.shows(BRIDGE, OTHER_BRIDGE, port)
    assert diff.plan(frozenset({BRIDGE, OTHER_BRIDGE, pair}), host.kernel.observe(netstate.EMPTY)) == []
    for old, new in (
        (port, PORT),
        (PORT, port),
        (port, moved := dataclasses.replace(port, bridge=OTHER_BRIDGE.name)),
    ):
        assert host.kernel.apply([netstate.Change(old=old, new=new)]) == []
        assert host.shows(BRIDGE, OTHER_BRIDGE, new)
    assert moved.isolated


def test_a_port_that_takes_reserved_frames_is_seen_and_repaired(host: Host) -> None:
    """As those of earlier versions do."""
    host.build(BRIDGE, PAIR)
    for wanted in (PAIR, PORT):
        host.hand.take_reserved(PORT.name)
        opened = dataclasses.replace(PORT, takes_reserved=True)
        assert host.shows(BRIDGE, opened)
        [op] = diff.plan(frozenset({BRIDGE, wanted}), host.kernel.observe(netstate.EMPTY))
        assert diff.format_op(op) == f"ip link set {PORT.name} type bridge_slave group_fwd_mask 0xfffd"
        shown = [diff.format_op(netstate.Add(obj=obj)) for obj in (PORT, opened)]
        assert shown[1] == f"{shown[0]} && ip link set {PORT.name} type bridge_slave group_fwd_mask 0"
        assert host.kernel.apply([op]) == []
        assert host.shows(BRIDGE, PORT)


def test_removing_a_bridge_leaves_its_ports_outside(host: Host) -> None:
    host.build(BRIDGE, PAIR)
    assert host.kernel.apply([netstate.Remove(obj=BRIDGE)]) == []
    lone = dataclasses.replace(PORT, bridge=netstate.IfName(""))
    assert host.shows(lone)
    assert host.kernel.apply([netstate.Add(obj=BRIDGE), netstate.Change(old=lone, new=PAIR)]) == []
    assert host.shows(BRIDGE, PORT)


def test_a_pair_has_both_ends_until_one_is_taken_away(host: Host) -> None:
    host.build(BRIDGE, PAIR)
    assert host.hand.has_link(PAIR.peer)
    host.hand.take_away(PAIR.peer)
    assert host.shows(BRIDGE, PORT)
    host.build(PAIR)
    assert host.shows(BRIDGE, PORT)


def test_removing_a_port_removes_the_pair(host: Host) -> None:
    host.build(BRIDGE, PAIR)
    assert host.kernel.apply([netstate.Remove(obj=PORT)]) == []
    assert host.shows(BRIDGE)
    assert not host.hand.has_link(PAIR.peer)


# -- what cannot be done ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "obj", [PAIR, PORT, ADDRESS, *ENTRIES, dataclasses.replace(VXLAN, underlay=netstate.IfName("no"))]
)
def test_what_hangs_on_nothing_is_refused(host: Host, obj: netstate.KernelObject) -> None:
    failures = host.kernel.apply([netstate.Add(obj=obj)])
    assert [failure.op for failure in failures] == [netstate.Add(obj=obj)]
    assert failures[0].reason


def test_one_refusal_does_not_stop_the_others(host: Host) -> None:
    nowhere = dataclasses.replace(ROUTE, destination=ipaddress.ip_network("10.2.99.0/24"), link=netstate.IfName("no"))
    objects: list[netstate.KernelObject] = [VXLAN, NEIGHBOUR, nowhere, FDB, ROUTE]
    failures = host.kernel.apply([netstate.Add(obj=obj) for obj in objects])
    assert [failure.op for failure in failures] == [netstate.Add(obj=nowhere)]
    assert host.shows(VXLAN, *ENTRIES)


def test_a_second_device_with_one_vni_is_refused(host: Host) -> None:
    host.build(VXLAN)
    twin = dataclasses.replace(VXLAN, name=netstate.IfName("flannel.x"))
    assert len(host.kernel.apply([netstate.Add(obj=twin)])) == 1
    assert host.shows(VXLAN)


def test_one_vni_has_a_device_of_each_family(host: Host) -> None:
    host.build(DEVICE_V6, VXLAN)
    assert host.shows(DEVICE_V6, VXLAN)


@pytest.mark.parametrize("wanted", [VXLAN, PORT])
def test_a_foreign_link_of_another_kind_is_never_replaced(host: Host, wanted: netstate.Link) -> None:
    host.build(BRIDGE)
    host.hand.add_foreign_link(wanted.name)
    failures = host.kernel.apply([netstate.Add(obj=wanted)])
    assert len(failures) == 1
    assert host.hand.has_link(wanted.name)


# -- what is not ours ------------------------------------------------------------------------------------------------


def test_foreign_objects_are_not_shown(host: Host) -> None:
    host.hand.add_foreign_link(netstate.IfName("docker0"))
    host.hand.add_foreign(
        netstate.Address(link=netstate.IfName("docker0"), interface=ipaddress.ip_interface("172.17.0.1/16"))
    )
    host.hand.add_foreign(netstate.Neighbour(link=UNDERLAY, ip=ipaddress.ip_address("198.51.100.9"), mac=mac(9)))
    host.hand.add_foreign(dataclasses.replace(DIRECT, destination=ipaddress.ip_network("10.9.0.0/16")))
    assert host.shows()
    host.build(VXLAN, BRIDGE)
    assert host.shows(VXLAN, BRIDGE)


def test_all_links_are_listed_with_their_kinds_and_whether_they_are_ours(host: Host) -> None:
    host.hand.add_foreign_link(netstate.IfName("docker0"))
    host.build(VXLAN, BRIDGE, PAIR)
    listed = {link.name: (link.kind, link.ours) for link in host.kernel.list_links()}
    for name, seen in {
        "docker0": ("bridge", False),
        DEVICE: ("vxlan", True),
        BRIDGE.name: ("bridge", True),
        PAIR.name: ("veth", True),
    }.items():
        assert listed[netstate.IfName(name)] == seen
    assert listed[PAIR.peer][0] == "veth"
    assert UNDERLAY in listed


def test_removing_ours_leaves_the_foreign(host: Host) -> None:
    host.build(VXLAN, ADDRESS)
    foreign = dataclasses.replace(ROUTE, link=UNDERLAY, onlink=True)
    host.hand.add_foreign(foreign)
    assert host.kernel.apply([netstate.Remove(obj=ROUTE), netstate.Remove(obj=foreign)]) == []
    assert host.hand.has_foreign(foreign)


FLANNELDS = dataclasses.replace(ROUTE, protocol=3)


def test_our_route_takes_the_place_of_flannelds(host: Host) -> None:
    host.build(VXLAN, ADDRESS)
    host.hand.add_foreign(FLANNELDS)
    assert host.shows(VXLAN, ADDRESS, FLANNELDS)
    desired = frozenset({VXLAN, ADDRESS, ROUTE})
    assert host.kernel.apply(diff.plan(desired, host.kernel.observe(desired))) == []
    assert host.shows(VXLAN, ADDRESS, ROUTE)
    assert not host.hand.has_foreign(FLANNELDS)


def test_a_route_that_flanneld_left_to_a_peer_that_is_gone_is_removed(host: Host) -> None:
    host.build(VXLAN, ADDRESS, NEIGHBOUR, FDB)
    host.hand.add_foreign(FLANNELDS)
    desired = frozenset({VXLAN, ADDRESS})
    assert host.kernel.apply(diff.plan(desired, host.kernel.observe(desired))) == []
    assert host.shows(VXLAN, ADDRESS)
    assert not host.hand.has_foreign(FLANNELDS)


@pytest.mark.parametrize(
    "foreign",
    [
        dataclasses.replace(ROUTE, protocol=4),
        dataclasses.replace(ROUTE, protocol=16),
        dataclasses.replace(FLANNELDS, gateway=ipaddress.ip_address("10.2.21.7")),
        dataclasses.replace(FLANNELDS, link=UNDERLAY),
        dataclasses.replace(FLANNELDS, gateway=ipaddress.ip_address("198.51.100.3"), link=UNDERLAY, onlink=False),
    ],
    ids=["static", "dhcp", "another gateway", "another device", "host-gw"],
)
def test_another_foreign_route_is_neither_shown_nor_touched(host: Host, foreign: netstate.Route) -> None:
    host.build(VXLAN, ADDRESS)
    host.hand.add_foreign(foreign)
    desired = frozenset({VXLAN, ADDRESS})
    assert host.kernel.observe(desired) == desired
    assert host.kernel.apply([netstate.Remove(obj=ROUTE), netstate.Remove(obj=FLANNELDS)]) == []
    assert host.hand.has_foreign(foreign)


def test_a_bridge_found_under_a_name_of_our_making_is_shown_and_taken_over(host: Host) -> None:
    bridge = dataclasses.replace(BRIDGE, name=netstate.IfName("fp-0123456789ab"))
    host.hand.add_foreign_link(bridge.name)
    host.build(bridge)
    assert host.kernel.observe(netstate.EMPTY) == frozenset({bridge})


def test_a_bridge_found_under_a_chosen_name_is_left_alone_with_all_that_would_hang_on_it(host: Host) -> None:
    host.build(OTHER_BRIDGE, dataclasses.replace(PAIR, bridge=OTHER_BRIDGE.name))
    host.hand.add_foreign_link(BRIDGE.name)
    parameter = netstate.Sysctl(key=f"net.ipv6.conf.{BRIDGE.name}.accept_ra", value="0")
    refused = (BRIDGE, GATEWAY, parameter, PAIR, PORT)
    reason = f"{BRIDGE.name} is a bridge that is not ours"
    assert set(host.kernel.apply([netstate.Add(obj=obj) for obj in refused])) == {
        kernel.Failure(op=netstate.Add(obj=obj), reason=reason, name_taken=True) for obj in refused
    }
    assert host.kernel.observe(frozenset({BRIDGE})) == frozenset(
        {OTHER_BRIDGE, dataclasses.replace(PORT, bridge=OTHER_BRIDGE.name)}
    )
    assert host.kernel.apply([netstate.Remove(obj=BRIDGE)]) == []
    assert host.hand.has_link(BRIDGE.name)


# -- what others do to ours ------------------------------------------------------------------------------------------


def repair(host: Host) -> None:
    assert host.kernel.apply(diff.plan(WHOLE, host.kernel.observe(WHOLE))) == []
    assert host.kernel.observe(WHOLE) == SHOWN


@pytest.mark.parametrize("obj", [*ENTRIES, ADDRESS, GATEWAY, DIRECT, VXLAN, BRIDGE, PORT])
def test_a_deletion_by_hand_is_seen_and_repaired(host: Host, obj: netstate.KernelObject) -> None:
    host.kernel.apply(diff.plan(WHOLE, netstate.EMPTY))
    host.hand.delete(obj)
    assert obj not in host.kernel.observe(WHOLE)
    repair(host)


@pytest.mark.parametrize("name", [DEVICE, BRIDGE.name, PORT.name])
def test_a_link_set_down_is_seen_and_repaired(host: Host, name: netstate.IfName) -> None:
    host.kernel.apply(diff.plan(WHOLE, netstate.EMPTY))
    host.hand.set_link(name, up=False)
    links = {
        obj.name: obj.up
        for obj in host.kernel.observe(WHOLE)
        if isinstance(obj, netstate.VxlanLink | netstate.BridgeLink | netstate.BridgePort)
    }
    assert links == {other: other != name for other in (DEVICE, BRIDGE.name, PORT.name)}
    repair(host)


def test_a_device_set_down_and_up_has_lost_routes_and_neighbours(host: Host) -> None:
    host.kernel.apply(diff.plan(WHOLE, netstate.EMPTY))
    host.hand.set_link(DEVICE, up=False)
    host.hand.set_link(DEVICE, up=True)
    assert host.kernel.observe(WHOLE) == SHOWN - {ROUTE, NEIGHBOUR}
    repair(host)


def test_a_changed_mac_is_seen_with_the_neighbours_it_cost(host: Host) -> None:
    host.kernel.apply(diff.plan(WHOLE, netstate.EMPTY))
    host.hand.set_link(DEVICE, mac=mac(9))
    assert host.kernel.vtep_mac(DEVICE) == mac(9)
    assert NEIGHBOUR not in host.kernel.observe(WHOLE)
    repair(host)
    assert host.kernel.vtep_mac(DEVICE) == VXLAN.mac


@pytest.mark.parametrize("name", [DEVICE, BRIDGE.name, PORT.name])
def test_a_changed_mtu_is_seen_and_repaired(host: Host, name: netstate.IfName) -> None:
    host.kernel.apply(diff.plan(WHOLE, netstate.EMPTY))
    host.hand.set_link(name, mtu=1300)
    mtus = {obj.name: obj.mtu for obj in host.kernel.observe(WHOLE) if isinstance(obj, netstate.Link)}
    assert mtus[name] == 1300
    repair(host)


@pytest.mark.parametrize("wanted", [VXLAN, dataclasses.replace(VXLAN, tx_checksum=False)])
def test_a_checksum_switch_thrown_by_hand_is_seen_and_thrown_back_without_loss(
    host: Host, wanted: netstate.VxlanLink
) -> None:
    state = frozenset({wanted, ADDRESS, *ENTRIES})
    assert host.kernel.apply(diff.plan(state, netstate.EMPTY)) == []
    assert host.kernel.observe(state) == state
    host.hand.set_tx_checksum(DEVICE, on=not wanted.tx_checksum)
    thrown = dataclasses.replace(wanted, tx_checksum=not wanted.tx_checksum)
    assert host.kernel.observe(state) == frozenset({thrown, ADDRESS, *ENTRIES})
    assert host.kernel.apply(diff.plan(state, host.kernel.observe(state))) == []
    assert host.kernel.observe(state) == state


def test_the_last_address_takes_the_routes_along(host: Host) -> None:
    host.build(VXLAN, ADDRESS, *ENTRIES)
    host.hand.delete(ADDRESS)
    assert ROUTE not in host.kernel.observe(WHOLE)


@pytest.mark.parametrize(
    ("link", "old", "new", "hanging"),
    [
        (BRIDGE, "10.2.20.1/24", "10.2.20.2/24", ()),
        (BRIDGE, "10.2.20.1/24", "10.2.30.1/24", ()),
        (VXLAN, "10.2.20.0/32", "10.2.30.0/32", ENTRIES),
    ],
)
def test_an_address_moves_in_one_go_and_costs_nothing_else(
    host: Host, link: netstate.BridgeLink | netstate.VxlanLink, old: str, new: str, hanging: tuple[Any, ...]
) -> None:
    before = netstate.Address(link=link.name, interface=ipaddress.ip_interface(old))
    after = netstate.Address(link=link.name, interface=ipaddress.ip_interface(new))
    host.build(link, before, *hanging)
    desired = frozenset({link, after, *hanging})
    assert host.kernel.apply(diff.plan(desired, host.kernel.observe(desired))) == []
    assert host.kernel.observe(desired) == desired


def test_the_underlay_going_takes_the_device_along(host: Host) -> None:
    host.build(VXLAN, ADDRESS, *ENTRIES)
    host.hand.delete(dataclasses.replace(PORT, name=UNDERLAY))
    assert host.shows()


# -- the rest of the port --------------------------------------------------------------------------------------------


def test_only_a_vxlan_device_has_a_vtep_mac(host: Host) -> None:
    host.build(VXLAN, BRIDGE)
    assert host.kernel.vtep_mac(DEVICE) == VXLAN.mac
    assert host.kernel.vtep_mac(BRIDGE.name) is None
    assert host.kernel.vtep_mac(netstate.IfName("no")) is None


def test_whether_a_device_leaves_checksums_to_the_hardware_is_told_whosoever_it_is(host: Host) -> None:
    assert host.kernel.tx_checksum(DEVICE) is None
    host.build(VXLAN)
    assert host.kernel.tx_checksum(DEVICE) is True
    host.hand.set_tx_checksum(DEVICE, on=False)
    assert host.kernel.tx_checksum(DEVICE) is False
    host.hand.add_foreign_link(netstate.IfName("docker0"))
    assert host.kernel.tx_checksum(netstate.IfName("docker0")) is True


def test_the_underlay_is_listed_and_what_is_ours_is_not(host: Host) -> None:
    host.kernel.apply(diff.plan(WHOLE, netstate.EMPTY))
    listed = {link.name: link for link in host.kernel.list_underlays()}
    assert not {DEVICE, BRIDGE.name, PORT.name, "lo"} & listed.keys()
    assert listed[UNDERLAY] == kernel.UnderlayLink(
        name=UNDERLAY,
        index=listed[UNDERLAY].index,
        mtu=1500,
        up=True,
        addresses=(ipaddress.IPv4Interface("198.51.100.1/24"),),
        has_default_route=True,
        addresses_v6=(ipaddress.IPv6Interface("2001:db8::1/64"),),
        has_default_route_v6=True,
    )


def test_the_hosts_own_routes_are_listed_and_neither_ours_nor_those_over_our_links(host: Host) -> None:
    host.kernel.apply(diff.plan(WHOLE, netstate.EMPTY))
    assert sorted(host.kernel.list_routes(), key=str) == sorted(OWN_WAYS, key=str)
    host.hand.add_foreign(dataclasses.replace(DIRECT, destination=ipaddress.ip_network("192.0.2.0/25")))
    host.hand.add_foreign(dataclasses.replace(ROUTE, destination=ipaddress.ip_network("10.9.0.0/16")))
    expected = [*OWN_WAYS, way("192.0.2.0/25", "198.51.100.3")]
    assert sorted(host.kernel.list_routes(), key=str) == sorted(expected, key=str)


def test_an_underlay_set_down_is_listed_as_down(host: Host) -> None:
    host.hand.set_link(UNDERLAY, up=False, mtu=1400)
    listed = {link.name: link for link in host.kernel.list_underlays()}
    assert (listed[UNDERLAY].up, listed[UNDERLAY].mtu) == (False, 1400)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda hand: hand.delete(ROUTE), id="route"),
        pytest.param(lambda hand: hand.set_tx_checksum(DEVICE, on=False), id="tx_checksum"),
    ],
)
def key(op: netstate.Op) -> netstate.Key:
    return netstate.key_of(diff.target_of(op))


@contextlib.contextmanager
def listening(host: Host, is_wanted: Callable[[netstate.Op], bool]) -> Iterator[threading.Semaphore]:
    """Released with every event, from a moment at which all is quiet."""
    stop, heard = threading.Event(), threading.Semaphore(0)

    def listen() -> None:
        for _ in host.kernel.events(stop, is_wanted):
            heard.release()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert heard.acquire(timeout=5)  # it listens now
    while heard.acquire(timeout=0.6):
        pass
    yield heard
    stop.set()
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_a_change_by_hand_is_an_event(host: Host) -> None:
    host.build(VXLAN, ADDRESS, *ENTRIES)
    host.kernel.observe(WHOLE)
    with listening(host, lambda _op: False) as heard:
        host.hand.delete(ROUTE)
        assert heard.acquire(timeout=5)


def test_what_is_wanted_is_no_event(host: Host) -> None:
    host.build(VXLAN, ADDRESS)
    host.kernel.observe(WHOLE)
    additions = [netstate.Add(obj=obj) for obj in ENTRIES]
    with listening(host, lambda op: op in additions) as heard:
        assert host.kernel.apply(additions) == []
        assert not heard.acquire(timeout=0.8)


@pytest.mark.parametrize("obj", ENTRIES)
def test_a_wanted_entry_that_goes_is_an_event(host: Host, obj: netstate.KernelObject) -> None:
    host.build(VXLAN, ADDRESS, *ENTRIES)
    host.kernel.observe(WHOLE)
    with listening(host, lambda op: isinstance(op, netstate.Add)) as heard:
        host.hand.delete(obj)
        assert heard.acquire(timeout=5)


@pytest.mark.parametrize("obj", ENTRIES)
def test_an_unwanted_entry_that_goes_is_no_event(host: Host, obj: netstate.KernelObject) -> None:
    host.build(VXLAN, ADDRESS, *ENTRIES)
    host.kernel.observe(WHOLE)
    with listening(host, lambda op: isinstance(op, netstate.Remove) and key(op) == netstate.key_of(obj)) as heard:
        assert host.kernel.apply([netstate.Remove(obj=obj)]) == []
        assert not heard.acquire(timeout=0.8)


def test_a_link_that_changes_is_an_event_whatever_is_wanted(host: Host) -> None:
    host.build(VXLAN, ADDRESS, *ENTRIES)
    host.kernel.observe(WHOLE)
    with listening(host, lambda _op: True) as heard:
        host.hand.set_link(DEVICE, mtu=1300)
        assert heard.acquire(timeout=5)


def test_sysctls_are_seen_in_a_glance(host: Host) -> None:
    host.build(VXLAN)
    assert host.kernel.apply([netstate.Add(obj=FORWARDING)]) == []
    assert host.kernel.observe_silent(frozenset({FORWARDING, VXLAN, ROUTE})) == {FORWARDING}
    off = dataclasses.replace(FORWARDING, value="0")
    host.kernel.apply([netstate.Change(old=FORWARDING, new=off)])
    assert host.kernel.observe_silent(frozenset({FORWARDING})) == {off}
