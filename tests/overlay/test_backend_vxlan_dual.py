"""The VXLAN backend with IPv6: hosts of one family and of both, beside each other and badly described."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest

from overlay import backend, backend_vxlan, diff, errors, halves, kernel, lease, netstate, underlay

MAC, MAC_V6 = netstate.Mac("02:00:00:00:00:01"), netstate.Mac("02:00:00:00:06:01")
NO_V4 = ipaddress.IPv4Address("0.0.0.0")
DUAL_UNDERLAY = underlay.Underlay(
    name=netstate.IfName("eth0"),
    ip=ipaddress.IPv4Address("192.0.2.1"),
    mtu=1500,
    public_ip=ipaddress.IPv4Address("192.0.2.1"),
    v6=underlay.UnderlayV6(
        ip=ipaddress.IPv6Address("2001:db8::1"), public_ip=ipaddress.IPv6Address("2001:db8:ff::1")
    ),
)


def key(text: str) -> lease.SubnetKey:
    return lease.parse_subnet_key(text)


DUAL = backend.Own(key=key("10.2.20.0-24&fd00:20::-64"), underlay=DUAL_UNDERLAY, mac=MAC, mac_v6=MAC_V6)
V4_ALONE = backend.Own(
    key=key("10.2.20.0-24"), underlay=dataclasses.replace(DUAL_UNDERLAY, v6=None), mac=MAC, mac_v6=None
)
V6_ALONE = dataclasses.replace(DUAL, underlay=dataclasses.replace(DUAL_UNDERLAY, ip=NO_V4, public_ip=NO_V4))


def data(mac: str, vni: int = 1) -> str:
    return f'{{"VNI":{vni},"VtepMAC":"{mac}"}}'


def dual(number: int, **changes: Any) -> lease.Lease:
    attrs = lease.LeaseAttrs(
        public_ip=ipaddress.IPv4Address(f"192.0.2.{number}"),
        public_ipv6=ipaddress.IPv6Address(f"2001:db8::{number:x}"),
        backend_type="vxlan",
        backend_data=data(f"02:00:00:00:01:{number:02x}"),
        backend_v6_data=data(f"02:00:00:00:06:{number:02x}"),
    )
    return lease.Lease(
        key=key(f"10.2.{number}.0-24&fd00:{number:x}::-64"),
        attrs=dataclasses.replace(attrs, **changes),
        mod_revision=number,
    )


def v4_alone(number: int) -> lease.Lease:
    whole = dual(number, public_ipv6=None, backend_v6_data=None)
    return dataclasses.replace(whole, key=lease.SubnetKey(v4=whole.key.v4))


def v6_alone(number: int) -> lease.Lease:
    return dual(number, public_ip=NO_V4)


def test_the_devices_of_both_families_are_switched_alike() -> None:
    for on in (True, False):
        state, _ = backend_vxlan.VxlanBackend().desired(dataclasses.replace(DUAL, tx_checksum=on), {})
        devices = {obj.name: obj.tx_checksum for obj in state if isinstance(obj, netstate.VxlanLink)}
        assert devices == {"flannel.1": on, "flannel-v6.1": on}


def v4_lines(number: int) -> list[str]:
    mac = f"02:00:00:00:01:{number:02x}"
    return [
        f"ip neigh replace 10.2.{number}.0 lladdr {mac} dev flannel.1 nud permanent",
        f"bridge fdb replace {mac} dev flannel.1 dst 192.0.2.{number} self permanent",
        f"ip route replace 10.2.{number}.0/24 via 10.2.{number}.0 dev flannel.1 onlink proto 70",
    ]


def v6_lines(number: int) -> list[str]:
    mac = f"02:00:00:00:06:{number:02x}"
    return [
        f"ip neigh replace fd00:{number:x}:: lladdr {mac} dev flannel-v6.1 nud permanent",
        f"bridge fdb replace {mac} dev flannel-v6.1 dst 2001:db8::{number:x} self permanent",
        f"ip route replace fd00:{number:x}::/64 via fd00:{number:x}:: dev flannel-v6.1 onlink proto 70",
    ]


DEVICE_V4 = [
    (
        "ip link add flannel.1 up address 02:00:00:00:00:01 mtu 1450 type vxlan id 1 dev eth0 local 192.0.2.1"
        " dstport 8472 nolearning"
    ),
    "ip addr add 10.2.20.0/32 dev flannel.1",
]
DEVICE_V6 = [
    (
        "ip link add flannel-v6.1 up address 02:00:00:00:06:01 mtu 1430 type vxlan id 1 dev eth0 local 2001:db8::1"
        " dstport 8472 nolearning"
    ),
    "sysctl -w net.ipv6.conf.flannel-v6/1.disable_ipv6=0",
    "ip addr add fd00:20::/128 dev flannel-v6.1",
]


def lines(
    own: backend.Own, *peers: lease.Lease, made: backend_vxlan.VxlanBackend | None = None
) -> tuple[set[str], list[str]]:
    state, skipped = (made or backend_vxlan.VxlanBackend()).desired(own, {one.key: one for one in peers})
    assert len(netstate.index(state)) == len(state)
    return {diff.format_op(op) for op in diff.plan(state, netstate.EMPTY)}, [str(one) for one in skipped]


def test_each_family_has_its_own_device_and_entries() -> None:
    made, skipped = lines(DUAL, dual(2), dual(3))
    assert made == {*DEVICE_V4, *DEVICE_V6, *v4_lines(2), *v6_lines(2), *v4_lines(3), *v6_lines(3)}
    assert skipped == []


def test_a_device_can_take_its_address_before_it_gets_one() -> None:
    state, _ = backend_vxlan.VxlanBackend().desired(DUAL, {})
    ordered = [diff.format_op(op) for op in diff.plan(state, netstate.EMPTY)]
    assert [ordered.index(line) for line in DEVICE_V6] == sorted(ordered.index(line) for line in DEVICE_V6)


def test_hosts_of_one_family_stand_beside_those_of_both() -> None:
    made, skipped = lines(DUAL, dual(2), v4_alone(3), v6_alone(4))
    assert made == {*DEVICE_V4, *DEVICE_V6, *v4_lines(2), *v6_lines(2), *v4_lines(3), *v6_lines(4)}
    assert skipped == []


def test_a_host_of_ipv4_alone_takes_what_it_can_use_and_names_the_rest() -> None:
    made, skipped = lines(V4_ALONE, dual(2), v4_alone(3), v6_alone(4))
    assert made == {*DEVICE_V4, *v4_lines(2), *v4_lines(3)}
    assert skipped == ["10.2.4.0-24&fd00:4::-64: its underlay has IPv6 alone, and this host has no IPv6"]


def test_a_host_of_ipv6_alone_takes_what_it_can_use_and_names_the_rest() -> None:
    made, skipped = lines(V6_ALONE, dual(2), v4_alone(3), v6_alone(4))
    assert made == {*DEVICE_V6, *v6_lines(2), *v6_lines(4)}
    assert skipped == ["10.2.3.0-24: its underlay has IPv4 alone, and this host has no IPv4"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"backend_v6_data": None},
            "BackendV6Data: expected a JSON object: Expecting value: line 1 column 1 (char 0)",
        ),
        ({"backend_v6_data": '{"VNI":1}'}, "BackendV6Data: vtepmac: expected a string, got nothing"),
        ({"backend_v6_data": data("02:00:00:00:06:02", vni=9)}, "VNI is 9, ours is 1"),
        ({"backend_v6_data": data(str(MAC_V6))}, f"VTEP MAC {MAC_V6} is our own"),
        ({"public_ipv6": None}, "PublicIPv6 is missing"),
        ({"public_ipv6": ipaddress.IPv6Address("2001:db8::1")}, "PublicIPv6 2001:db8::1 is our own"),
        ({"public_ipv6": ipaddress.IPv6Address("2001:db8:ff::1")}, "PublicIPv6 2001:db8:ff::1 is our own"),
        ({"public_ipv6": ipaddress.IPv6Address("fe80::2")}, "PublicIPv6 fe80::2 is no host's address"),
        (
            {"public_ipv6": ipaddress.IPv6Address("::ffff:192.0.2.2")},
            "PublicIPv6 ::ffff:c000:202 is no host's address",
        ),
    ],
)
def test_a_bad_ipv6_half_costs_neither_the_ipv4_half_nor_another_peer(changes: dict[str, Any], reason: str) -> None:
    made, skipped = lines(DUAL, dual(2, **changes), dual(3))
    assert made == {*DEVICE_V4, *DEVICE_V6, *v4_lines(2), *v4_lines(3), *v6_lines(3)}
    assert skipped == [f"10.2.2.0-24&fd00:2::-64: IPv6: {reason}"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"backend_data": None}, "BackendData: expected a JSON object: Expecting value: line 1 column 1 (char 0)"),
        ({"public_ip": ipaddress.IPv4Address("192.0.2.1")}, "PublicIP 192.0.2.1 is our own"),
        ({"public_ip": ipaddress.IPv4Address("224.0.0.1")}, "PublicIP 224.0.0.1 is no host's address"),
    ],
)
def test_a_bad_ipv4_half_costs_not_the_ipv6_half(changes: dict[str, Any], reason: str) -> None:
    made, skipped = lines(DUAL, dual(2, **changes))
    assert made == {*DEVICE_V4, *DEVICE_V6, *v6_lines(2)}
    assert skipped == [f"10.2.2.0-24&fd00:2::-64: {reason}"]


def test_a_peer_whose_halves_are_both_bad_is_named_for_each() -> None:
    assert lines(DUAL, dual(2, backend_data="{}", backend_v6_data="[]"))[1] == [
        "10.2.2.0-24&fd00:2::-64: BackendData: vtepmac: expected a string, got nothing",
        "10.2.2.0-24&fd00:2::-64: IPv6: BackendV6Data: expected a JSON object, got a list",
    ]


def test_a_peer_of_another_backend_is_named_once() -> None:
    assert lines(DUAL, dual(2, backend_type="wireguard"))[1] == [
        "10.2.2.0-24&fd00:2::-64: backend type is wireguard, ours is vxlan"
    ]


def test_what_is_no_ipv6_host_at_all_is_no_host_of_ipv6_alone() -> None:
    nowhere = dataclasses.replace(v6_alone(2), key=key("10.2.2.0-24"))
    assert lines(DUAL, nowhere)[1] == ["10.2.2.0-24: PublicIP 0.0.0.0 is no host's address"]


@pytest.mark.parametrize(
    ("subnet", "reason"),
    [
        ("fd00:20:0:0:8000::-65", "its subnet overlaps ours, fd00:20::/64"),
        (
            "2001:db8::-32",
            "its subnet covers 2001:db8::1: packets to that host would be taken for its containers'",
        ),
        ("fd00:3::-60", "its subnet begins where fd00:3::/64 of 2001:db8::3 does"),
    ],
)
def test_an_ipv6_subnet_that_is_in_the_way_is_left_out(subnet: str, reason: str) -> None:
    bad = dataclasses.replace(dual(2), key=key(f"10.2.2.0-24&{subnet}"))
    made, skipped = lines(DUAL, bad, dual(3))
    assert made == {*DEVICE_V4, *DEVICE_V6, *v4_lines(2), *v4_lines(3), *v6_lines(3)}
    assert skipped == [f"10.2.2.0-24&{subnet}: IPv6: {reason}"]


def test_the_same_subnet_under_both_forms_of_key_is_the_later_writers() -> None:
    """Their keys differ, so etcd's compare-and-set let both be written."""
    old = dataclasses.replace(v4_alone(3), key=key("10.2.2.0-24"), mod_revision=1)
    made, skipped = lines(DUAL, old, dual(2))
    assert made == {*DEVICE_V4, *DEVICE_V6, *v4_lines(2), *v6_lines(2)}
    assert skipped == ["10.2.2.0-24: its subnet begins where 10.2.2.0/24 of 192.0.2.2 does"]


def test_direct_routing_asks_each_family_for_itself() -> None:
    ways = (
        kernel.UnderlayRoute(
            destination=ipaddress.ip_network("2001:db8::/64"), gateway=None, link=netstate.IfName("eth0")
        ),
        kernel.UnderlayRoute(
            destination=ipaddress.ip_network("192.0.2.0/24"),
            gateway=ipaddress.ip_address("198.51.100.9"),
            link=netstate.IfName("eth1"),
        ),
    )
    own = dataclasses.replace(DUAL, underlay=dataclasses.replace(DUAL_UNDERLAY, routes=ways))
    made = backend_vxlan.VxlanBackend(direct_routing=True)
    direct = "ip route replace fd00:2::/64 via 2001:db8::2 dev eth0 proto 70"
    assert lines(own, dual(2), made=made)[0] == {*DEVICE_V4, *DEVICE_V6, *v4_lines(2), direct}


@pytest.mark.parametrize(
    ("own", "published"),
    [
        (
            DUAL,
            (
                '{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8:ff::1","BackendType":"vxlan",'
                '"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"},'
                '"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:06:01"}}'
            ),
        ),
        (
            V6_ALONE,
            (
                '{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8:ff::1","BackendType":"vxlan",'
                '"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"},'
                '"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:06:01"}}'
            ),
        ),
        (
            V4_ALONE,
            (
                '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan",'
                '"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}'
            ),
        ),
    ],
    ids=["dual", "v6 alone", "v4 alone"],
)
def test_what_is_published_is_flannels_word_for_word(own: backend.Own, published: str) -> None:
    assert lease.format_attrs(backend_vxlan.VxlanBackend().attrs(own)) == published


def test_two_hosts_of_ours_understand_each_other() -> None:
    made = backend_vxlan.VxlanBackend(vni=9)
    other = lease.Lease(key=DUAL.key, attrs=made.attrs(DUAL))
    elsewhere = underlay.UnderlayV6(
        ip=ipaddress.IPv6Address("2001:db8::2"), public_ip=ipaddress.IPv6Address("2001:db8::2")
    )
    own = dataclasses.replace(
        V6_ALONE,
        key=key("10.2.2.0-24&fd00:2::-64"),
        underlay=dataclasses.replace(V6_ALONE.underlay, v6=elsewhere),
        mac_v6=netstate.Mac("02:00:00:00:06:02"),
    )
    state, skipped = made.desired(own, {other.key: other})
    assert skipped == ()
    assert {obj.vtep_ip for obj in state if isinstance(obj, netstate.FdbEntry)} == {
        ipaddress.IPv6Address("2001:db8:ff::1")
    }


@pytest.mark.parametrize(
    ("own", "mtu", "lower", "expected"),
    [(DUAL, None, 1500, 1430), (V4_ALONE, None, 1500, 1450), (V6_ALONE, 1400, 9000, 1330), (DUAL, None, 9000, 8930)],
)
def test_what_containers_may_send_fits_every_family_in_use(
    own: backend.Own, mtu: int | None, lower: int, expected: int
) -> None:
    moved = dataclasses.replace(own, underlay=dataclasses.replace(own.underlay, mtu=lower))
    assert backend_vxlan.VxlanBackend(mtu=mtu).overlay_mtu(moved) == expected


@pytest.mark.parametrize(
    ("own", "mtu", "lower", "message"),
    [
        (V4_ALONE, 9000, 1500, "network config, Backend: MTU is 9000, but eth0 carries 1500: at most 1500"),
        (DUAL, None, 1349, "interface eth0: MTU is 1349, and IPv6 inside VXLAN needs 1350"),
        (V4_ALONE, None, 100, "interface eth0: MTU is 100, and IPv4 inside VXLAN needs 118"),
    ],
)
def test_an_underlay_that_is_too_narrow_is_refused_with_what_is_possible(
    own: backend.Own, mtu: int | None, lower: int, message: str
) -> None:
    made = backend_vxlan.VxlanBackend(mtu=mtu)
    with pytest.raises(errors.ConfigInvalid) as caught:
        made.check_underlay(dataclasses.replace(own, underlay=dataclasses.replace(own.underlay, mtu=lower)))
    assert str(caught.value) == message


@pytest.mark.parametrize(("mtu", "lower"), [(None, 1350), (1350, 9000), (9000, 9000)])
def test_an_underlay_that_is_wide_enough_is_taken(mtu: int | None, lower: int) -> None:
    moved = dataclasses.replace(DUAL, underlay=dataclasses.replace(DUAL_UNDERLAY, mtu=lower))
    backend_vxlan.VxlanBackend(mtu=mtu).check_underlay(moved)


def test_an_mtu_too_small_for_ipv6_is_refused_where_there_is_ipv6() -> None:
    assert backend_vxlan.parse_backend({"MTU": 1349}).mtu == 1349
    with pytest.raises(errors.ConfigInvalid, match="MTU is 1349, and IPv6 inside VXLAN needs 1350"):
        backend_vxlan.parse_backend({"MTU": 1349}, with_v6=True)


@pytest.mark.parametrize(("vni", "with_v6"), [(9_999_999, False), (9_999, True)])
def test_a_vni_that_fits_the_name_of_every_device_is_taken(vni: int, *, with_v6: bool) -> None:
    assert backend_vxlan.parse_backend({"VNI": vni}, with_v6=with_v6).vni == vni


@pytest.mark.parametrize(
    ("vni", "with_v6", "name"),
    [(10_000_000, False, "flannel.10000000"), (10_000, True, "flannel-v6.10000"), (70_000, True, "flannel-v6.70000")],
)
def test_a_vni_that_makes_a_devices_name_too_long_is_refused(vni: int, name: str, *, with_v6: bool) -> None:
    most = 9_999 if with_v6 else 9_999_999
    with pytest.raises(errors.ConfigInvalid) as caught:
        backend_vxlan.parse_backend({"VNI": vni}, with_v6=with_v6)
    assert str(caught.value) == (
        f"network config, Backend: VNI is {vni}, and a device cannot be called {name}: at most {most}"
    )


def test_a_vni_that_old_flannelds_cannot_read_is_warned_of() -> None:
    assert backend_vxlan.VxlanBackend(vni=65535).warnings == ()
    assert backend_vxlan.VxlanBackend(vni=65536).warnings == (
        "VNI is 65536: flanneld before v0.24.0 reads at most 65535 and leaves this host out",
    )


def test_a_family_counts_where_lease_and_underlay_have_it() -> None:
    assert set(halves.own_halves(DUAL)) == {halves.V4, halves.V6}
    assert set(halves.own_halves(V6_ALONE)) == {halves.V6}
    assert set(halves.own_halves(dataclasses.replace(DUAL, key=key("10.2.20.0-24")))) == {halves.V4}
    no_v6_below = dataclasses.replace(DUAL_UNDERLAY, v6=None)
    assert set(halves.own_halves(dataclasses.replace(DUAL, underlay=no_v6_below))) == {halves.V4}
