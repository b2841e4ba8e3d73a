"""The difference: what it plans, how that reads, and that it leads to the desired state from anywhere."""

import ipaddress
from collections.abc import Sequence

import hypothesis
import pytest
from hypothesis import strategies as st

from overlay import diff, kernel, kernel_fake, netstate

UNDERLAYS = [
    kernel.UnderlayLink(
        name=netstate.IfName(name), index=number, mtu=1500, up=True, addresses=(), has_default_route=False
    )
    for number, name in enumerate(("ens33", "ens34"), start=2)
]
DEVICE = netstate.IfName("flannel.1")
BRIDGE = netstate.IfName("br-a")


def mac(number: int) -> netstate.Mac:
    return netstate.Mac(f"02:00:00:00:00:{number:02x}")


def vxlan(**changes: object) -> netstate.VxlanLink:
    fields: dict[str, object] = {
        "name": DEVICE,
        "vni": 1,
        "port": 8472,
        "local": ipaddress.ip_address("198.51.100.1"),
        "underlay": UNDERLAYS[0].name,
        "mac": mac(1),
        "mtu": 1450,
    }
    return netstate.VxlanLink(**{**fields, **changes})  # type: ignore[arg-type]


def bridge(**changes: object) -> netstate.BridgeLink:
    fields: dict[str, object] = {"name": BRIDGE, "mac": mac(2), "mtu": 1450}
    return netstate.BridgeLink(**{**fields, **changes})  # type: ignore[arg-type]


def pair(name: str = "v1", **changes: object) -> netstate.VethPair:
    fields: dict[str, object] = {"name": name, "peer": f"{name}c", "bridge": BRIDGE, "mtu": 1450}
    return netstate.VethPair(**{**fields, **changes})  # type: ignore[arg-type]


def port(name: str = "v1", **changes: object) -> netstate.BridgePort:
    fields: dict[str, object] = {"name": name, "bridge": BRIDGE, "mtu": 1450}
    return netstate.BridgePort(**{**fields, **changes})  # type: ignore[arg-type]


def address(text: str, link: str = BRIDGE) -> netstate.Address:
    return netstate.Address(link=netstate.IfName(link), interface=ipaddress.ip_interface(text))


def entries(third: int, host: int, link: str = DEVICE) -> list[netstate.KernelObject]:
    gateway = ipaddress.ip_address(f"10.2.{third}.0")
    name = netstate.IfName(link)
    return [
        netstate.Neighbour(link=name, ip=gateway, mac=mac(0x10 + host)),
        netstate.FdbEntry(link=name, mac=mac(0x10 + host), vtep_ip=ipaddress.ip_address(f"198.51.100.{host}")),
        netstate.Route(destination=ipaddress.ip_network(f"10.2.{third}.0/24"), gateway=gateway, link=name),
    ]


def lines(desired: Sequence[netstate.KernelObject], observed: Sequence[netstate.KernelObject]) -> list[str]:
    return [diff.format_op(op) for op in diff.plan(frozenset(desired), frozenset(observed))]


FORWARDING = netstate.Sysctl(key="net.ipv4.ip_forward", value="1")
HOST = [
    FORWARDING,
    vxlan(),
    bridge(),
    pair(),
    address("10.2.20.0/32", DEVICE),
    address("10.2.20.1/24"),
    *entries(21, 2),
]


def test_a_host_is_built_from_the_bottom_up() -> None:
    assert lines(HOST, []) == [
        "sysctl -w net.ipv4.ip_forward=1",
        "ip link add br-a up address 02:00:00:00:00:02 mtu 1450 type bridge",
        (
            "ip link add flannel.1 up address 02:00:00:00:00:01 mtu 1450 type vxlan id 1 dev ens33"
            " local 198.51.100.1 dstport 8472 nolearning"
        ),
        "ip link add v1 up mtu 1450 master br-a type veth peer name v1c mtu 1450",
        "ip addr add 10.2.20.1/24 dev br-a",
        "ip addr add 10.2.20.0/32 dev flannel.1",
        "ip neigh replace 10.2.21.0 lladdr 02:00:00:00:00:12 dev flannel.1 nud permanent",
        "bridge fdb replace 02:00:00:00:00:12 dev flannel.1 dst 198.51.100.2 self permanent",
        "ip route replace 10.2.21.0/24 via 10.2.21.0 dev flannel.1 onlink proto 70",
    ]


def test_a_peer_is_taken_down_from_the_top() -> None:
    assert lines(HOST[:-3], HOST) == [
        "ip route del 10.2.21.0/24 via 10.2.21.0 dev flannel.1 onlink proto 70",
        "bridge fdb del 02:00:00:00:00:12 dev flannel.1 dst 198.51.100.2 self",
        "ip neigh del 10.2.21.0 dev flannel.1",
    ]


def test_a_host_is_taken_down_by_its_links() -> None:
    assert lines([], HOST) == ["ip link del flannel.1", "ip link del v1", "ip link del br-a"]


def test_a_peer_that_moves_is_never_without_a_way_to_it() -> None:
    assert lines(entries(21, 3), entries(21, 2)) == [
        "ip neigh replace 10.2.21.0 lladdr 02:00:00:00:00:13 dev flannel.1 nud permanent",
        "bridge fdb replace 02:00:00:00:00:13 dev flannel.1 dst 198.51.100.3 self permanent",
        "bridge fdb del 02:00:00:00:00:12 dev flannel.1 dst 198.51.100.2 self",
    ]


@pytest.mark.parametrize(
    ("new", "old", "line"),
    [
        (vxlan(), vxlan(mtu=1400, up=False), "ip link set flannel.1 up mtu 1450"),
        (
            vxlan(),
            vxlan(local=ipaddress.ip_address("198.51.100.9")),
            "ip link set flannel.1 type vxlan local 198.51.100.1",
        ),
        (vxlan(), vxlan(tx_checksum=False), "ethtool -K flannel.1 tx-checksum-ip-generic on"),
        (
            vxlan(tx_checksum=False),
            vxlan(mtu=1400),
            "ip link set flannel.1 mtu 1450 && ethtool -K flannel.1 tx-checksum-ip-generic off",
        ),
        (bridge(), bridge(mac=mac(9)), "ip link set br-a address 02:00:00:00:00:02"),
        (port(), port(bridge=netstate.IfName("")), "ip link set v1 master br-a"),
        (pair(), port(up=False), "ip link set v1 up"),
        (
            vxlan(),
            vxlan(vni=2),
            (
                "ip link del flannel.1 && ip link add flannel.1 up address 02:00:00:00:00:01 mtu 1450 type vxlan id 1"
                " dev ens33 local 198.51.100.1 dstport 8472 nolearning"
            ),
        ),
    ],
)
def test_a_change_of_a_link_shows_what_differs(
    new: netstate.KernelObject, old: netstate.KernelObject, line: str
) -> None:
    assert lines([new], [old]) == [line]


def test_a_pair_is_there_when_its_host_end_is_in_the_bridge() -> None:
    assert lines([pair()], [port()]) == []
    assert lines([port()], [pair()]) == []


def test_a_port_is_never_made() -> None:
    assert lines([port()], []) == []


def test_a_recreated_device_gets_its_entries_again() -> None:
    desired = [vxlan(), address("10.2.20.0/32", DEVICE), *entries(21, 2)]
    observed = [vxlan(port=4789), address("10.2.20.0/32", DEVICE), *entries(21, 2)]
    assert len(lines(desired, observed)) == 5


def test_a_new_mac_costs_the_neighbours() -> None:
    assert lines([vxlan(), *entries(21, 2)], [vxlan(mac=mac(9)), *entries(21, 2)]) == [
        "ip link set flannel.1 address 02:00:00:00:00:01",
        "ip neigh replace 10.2.21.0 lladdr 02:00:00:00:00:12 dev flannel.1 nud permanent",
    ]


def test_an_address_goes_first_only_where_it_would_take_its_successor_along() -> None:
    assert lines([address("10.2.20.2/24")], [address("10.2.20.1/24")]) == [
        "ip addr del 10.2.20.1/24 dev br-a",
        "ip addr add 10.2.20.2/24 dev br-a",
    ]
    assert lines([address("10.2.30.0/32", DEVICE)], [address("10.2.20.0/32", DEVICE)]) == [
        "ip addr add 10.2.30.0/32 dev flannel.1",
        "ip addr del 10.2.20.0/32 dev flannel.1",
    ]


def test_an_old_device_makes_room_for_one_with_its_vni() -> None:
    other = vxlan(name=netstate.IfName("flannel.x"))
    assert lines([vxlan()], [other])[0] == "ip link del flannel.x"


def test_a_device_made_anew_gets_its_parameters_before_its_addresses() -> None:
    parameter = netstate.Sysctl(key="net.ipv6.conf.flannel/1.disable_ipv6", value="0")
    rest = [parameter, address("fd00:20::/128", DEVICE)]
    assert lines([vxlan(port=4789), *rest], [vxlan(), *rest])[1:] == [
        "sysctl -w net.ipv6.conf.flannel/1.disable_ipv6=0",
        "ip addr add fd00:20::/128 dev flannel.1",
    ]


def test_kernel_parameters_are_never_taken_back() -> None:
    assert lines([], [FORWARDING]) == []


# -- properties -----------------------------------------------------------------------------------------------------


@st.composite
def states(draw: st.DrawFn) -> netstate.NetState:
    """A host that fits together: nothing hangs on a link that is not there."""
    objects: list[netstate.KernelObject] = []
    if draw(st.booleans()):
        objects.append(netstate.Sysctl(key="net.ipv4.ip_forward", value=draw(st.sampled_from("01"))))
    if draw(st.booleans()):
        device = vxlan(
            name=draw(st.sampled_from(["flannel.1", "flannel.2"])),
            port=draw(st.sampled_from([8472, 4789])),
            underlay=draw(st.sampled_from(["ens33", "ens34"])),
            mac=mac(draw(st.integers(1, 3))),
            mtu=draw(st.sampled_from([1400, 1450])),
            local=ipaddress.ip_address(f"198.51.100.{draw(st.integers(1, 2))}"),
            tx_checksum=draw(st.booleans()),
        )
        objects.append(device)
        objects.append(address(f"10.2.{draw(st.integers(20, 21))}.0/32", device.name))
        if draw(st.booleans()):
            key = f"net.ipv6.conf.{device.name.replace('.', '/')}.disable_ipv6"
            objects.append(netstate.Sysctl(key=key, value="0"))
        for third in draw(st.sets(st.integers(1, 4))):
            objects.extend(entries(third, draw(st.integers(1, 3)), device.name))
    bridges = draw(st.sets(st.sampled_from(["br-a", "br-b"])))
    for name in sorted(bridges):
        objects.append(bridge(name=name, mac=mac(draw(st.integers(4, 5))), mtu=draw(st.sampled_from([1400, 1450]))))
        if draw(st.booleans()):
            objects.append(address(f"10.2.20.{draw(st.integers(1, 2))}/24", name))
    if bridges:
        for name in draw(st.sets(st.sampled_from(["v1", "v2", "v3"]))):
            master = draw(st.sampled_from(sorted(bridges)))
            objects.append(pair(name, bridge=master) if draw(st.booleans()) else port(name, bridge=master))
    return frozenset(netstate.index(objects).values())


def reached(desired: netstate.NetState, fake: kernel_fake.KernelFake) -> bool:
    """Whether the kernel holds what is desired, as far as ports that are not there let it."""
    observed = fake.observe(desired)
    expected = {diff.host_end(obj) if isinstance(obj, netstate.VethPair) else obj for obj in desired}
    missing = {obj for obj in expected if isinstance(obj, netstate.BridgePort) and not fake.has_link(obj.name)}
    return {obj for obj in observed if not isinstance(obj, netstate.Sysctl)} == {
        obj for obj in expected - missing if not isinstance(obj, netstate.Sysctl)
    } and {obj for obj in expected if isinstance(obj, netstate.Sysctl)} <= observed


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(before=states(), desired=states())
def test_applying_the_difference_reaches_the_desired_state(
    before: netstate.NetState, desired: netstate.NetState
) -> None:
    fake = kernel_fake.KernelFake(UNDERLAYS)
    assert fake.apply(diff.plan(before, netstate.EMPTY)) == []
    assert fake.apply(diff.plan(desired, fake.observe(desired))) == []
    assert reached(desired, fake)
    assert diff.plan(desired, fake.observe(desired)) == []


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(before=states(), desired=states(), data=st.data())
def test_cutting_it_short_anywhere_and_planning_again_converges(
    before: netstate.NetState, desired: netstate.NetState, data: st.DataObject
) -> None:
    fake = kernel_fake.KernelFake(UNDERLAYS)
    fake.apply(diff.plan(before, netstate.EMPTY))
    ops = diff.plan(desired, fake.observe(desired))
    fake.apply(ops[: data.draw(st.integers(0, len(ops)))])
    assert fake.apply(diff.plan(desired, fake.observe(desired))) == []
    assert reached(desired, fake)


@hypothesis.settings(deadline=None)
@hypothesis.given(states())
def test_equal_states_need_nothing(state: netstate.NetState) -> None:
    assert diff.plan(state, state) == []


def test_a_port_that_lets_frames_back_out_reads_as_an_operator_would_type_it() -> None:
    seen, wanted = port(), port(hairpin=True)
    assert lines([wanted], [seen]) == ["bridge link set dev v1 hairpin on"]
    assert lines([seen], [wanted]) == ["bridge link set dev v1 hairpin off"]
    bare = diff.format_op(netstate.Add(obj=seen))
    assert diff.format_op(netstate.Add(obj=wanted)) == f"{bare} && bridge link set dev v1 hairpin on"


@hypothesis.settings(deadline=None)
@hypothesis.given(states(), states())
def test_every_change_reads_as_one_line(desired: netstate.NetState, observed: netstate.NetState) -> None:
    for op in diff.plan(desired, observed):
        text = diff.format_op(op)
        assert text.split()[0] in {"ip", "bridge", "sysctl", "ethtool"}
        assert "\n" not in text


def test_a_links_parameters_are_set_between_the_link_and_its_addresses() -> None:
    name = netstate.IfName("fp-1")
    state = frozenset(
        {
            netstate.Sysctl(key="net.ipv6.conf.all.forwarding", value="1"),
            netstate.Sysctl(key="net.ipv6.conf.fp-1.accept_dad", value="0"),
            netstate.BridgeLink(name=name, mac=netstate.Mac("02:00:00:00:00:01"), mtu=1450),
            netstate.Address(link=name, interface=ipaddress.ip_interface("2001:db8::1/64")),
        }
    )
    assert [diff.format_op(op) for op in diff.plan(state, netstate.EMPTY)] == [
        "sysctl -w net.ipv6.conf.all.forwarding=1",
        "ip link add fp-1 up address 02:00:00:00:00:01 mtu 1450 type bridge",
        "sysctl -w net.ipv6.conf.fp-1.accept_dad=0",
        "ip addr add 2001:db8::1/64 dev fp-1",
    ]
