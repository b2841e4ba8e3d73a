"""The VXLAN backend: options, BackendData, and the kernel state of peers as text."""

import dataclasses
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import backend, backend_vxlan, diff, errors, kernel, lease, netconfig, netstate, underlay, vxlan_data

OWN_MAC = netstate.Mac("02:00:00:00:00:01")
UNDERLAY = underlay.Underlay(
    name=netstate.IfName("ens33"),
    ip=ipaddress.IPv4Address("198.51.100.1"),
    mtu=1500,
    public_ip=ipaddress.IPv4Address("203.0.113.1"),
    routes=(
        kernel.UnderlayRoute(
            destination=ipaddress.IPv4Network("198.51.100.0/24"), gateway=None, link=netstate.IfName("ens33")
        ),
    ),
)


def key(text: str) -> lease.SubnetKey:
    return lease.parse_subnet_key(text)


OWN = backend.Own(key=key("10.2.20.0-24"), underlay=UNDERLAY, mac=OWN_MAC)


def peer(subnet: str, public_ip: str, mac: str = "", revision: int = 1, **changes: Any) -> lease.Lease:
    number = int(ipaddress.IPv4Address(public_ip)) & 0xFF
    data = changes.pop("backend_data", None) or f'{{"VNI":1,"VtepMAC":"{mac or f"02:00:00:00:01:{number:02x}"}"}}'
    attrs = lease.LeaseAttrs(public_ip=ipaddress.IPv4Address(public_ip), backend_type="vxlan", backend_data=data)
    return lease.Lease(key=key(subnet), attrs=dataclasses.replace(attrs, **changes), mod_revision=revision)


def lines(
    made: backend_vxlan.VxlanBackend, *peers: lease.Lease, own: backend.Own = OWN
) -> tuple[list[str], list[str]]:
    state, skipped = made.desired(own, {one.key: one for one in peers})
    return [diff.format_op(op) for op in diff.plan(state, netstate.EMPTY)], [str(one) for one in skipped]


OWN_LINES = [
    (
        "ip link add flannel.1 up address 02:00:00:00:00:01 mtu 1450 type vxlan id 1 dev ens33 local 198.51.100.1"
        " dstport 8472 nolearning"
    ),
    "ip addr add 10.2.20.0/32 dev flannel.1",
]
GOOD = peer("10.2.21.0-24", "198.51.100.2")
GOOD_LINES = [
    "ip neigh replace 10.2.21.0 lladdr 02:00:00:00:01:02 dev flannel.1 nud permanent",
    "bridge fdb replace 02:00:00:00:01:02 dev flannel.1 dst 198.51.100.2 self permanent",
    "ip route replace 10.2.21.0/24 via 10.2.21.0 dev flannel.1 onlink proto 70",
]


def test_two_peers_come_to_flannels_entries_in_flannels_order() -> None:
    made, skipped = lines(backend_vxlan.VxlanBackend(), GOOD, peer("10.2.22.0-24", "192.0.2.3"))
    assert made == [
        *OWN_LINES,
        "ip neigh replace 10.2.21.0 lladdr 02:00:00:00:01:02 dev flannel.1 nud permanent",
        "ip neigh replace 10.2.22.0 lladdr 02:00:00:00:01:03 dev flannel.1 nud permanent",
        "bridge fdb replace 02:00:00:00:01:02 dev flannel.1 dst 198.51.100.2 self permanent",
        "bridge fdb replace 02:00:00:00:01:03 dev flannel.1 dst 192.0.2.3 self permanent",
        "ip route replace 10.2.21.0/24 via 10.2.21.0 dev flannel.1 onlink proto 70",
        "ip route replace 10.2.22.0/24 via 10.2.22.0 dev flannel.1 onlink proto 70",
    ]
    assert skipped == []


def test_every_option_shows_on_the_device() -> None:
    made = backend_vxlan.parse_backend(
        {"Type": "vxlan", "vni": 4096, "PORT": 4789, "Mtu": 1400, "gbp": True, "Learning": True}
    )
    assert lines(made)[0] == [
        (
            "ip link add flannel.4096 up address 02:00:00:00:00:01 mtu 1350 type vxlan id 4096 dev ens33"
            " local 198.51.100.1 dstport 4789 learning gbp"
        ),
        "ip addr add 10.2.20.0/32 dev flannel.4096",
    ]


def test_a_device_without_checksum_offload_is_made_so() -> None:
    made, _ = lines(backend_vxlan.VxlanBackend(), own=dataclasses.replace(OWN, tx_checksum=False))
    assert made == [f"{OWN_LINES[0]} && ethtool -K flannel.1 tx-checksum-ip-generic off", OWN_LINES[1]]


def test_direct_routing_needs_no_tunnel_on_the_same_network() -> None:
    made = backend_vxlan.parse_backend({"DirectRouting": True})
    far = peer("10.2.22.0-24", "192.0.2.3")
    assert lines(made, GOOD, far)[0] == [
        *OWN_LINES,
        "ip neigh replace 10.2.22.0 lladdr 02:00:00:00:01:03 dev flannel.1 nud permanent",
        "bridge fdb replace 02:00:00:00:01:03 dev flannel.1 dst 192.0.2.3 self permanent",
        "ip route replace 10.2.21.0/24 via 198.51.100.2 dev ens33 proto 70",
        "ip route replace 10.2.22.0/24 via 10.2.22.0 dev flannel.1 onlink proto 70",
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (peer("10.2.22.0-24", "192.0.2.3", backend_type="host-gw"), "backend type is host-gw, ours is vxlan"),
        (peer("10.2.22.0-24", "192.0.2.3", backend_type=""), "backend type is udp or alloc, ours is vxlan"),
        (
            peer("10.2.22.0-24", "192.0.2.3", backend_data='{"VNI":2,"VtepMAC":"02:00:00:00:01:03"}'),
            "VNI is 2, ours is 1",
        ),
        (
            peer("10.2.22.0-24", "192.0.2.3", backend_data='{"VNI":1}'),
            "BackendData: vtepmac: expected a string, got nothing",
        ),
        (
            peer("10.2.22.0-24", "192.0.2.3", backend_data='{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}'),
            "BackendData: VtepMAC: 01:00:5e:00:00:01 is no unicast address",
        ),
        (peer("10.2.16.0-20", "192.0.2.3"), "its subnet overlaps ours, 10.2.20.0/24"),
        (peer("10.2.22.0-24", "203.0.113.1"), "PublicIP 203.0.113.1 is our own"),
        (peer("10.2.22.0-24", "198.51.100.1"), "PublicIP 198.51.100.1 is our own"),
        (peer("10.2.22.0-24", "0.0.0.0"), "PublicIP 0.0.0.0 is no host's address"),
        (peer("10.2.22.0-24", "192.0.2.3", str(OWN_MAC)), "VTEP MAC 02:00:00:00:00:01 is our own"),
        (
            peer("192.0.0.0-16", "192.0.2.3"),
            "its subnet covers 192.0.2.3: packets to that host would be taken for its containers'",
        ),
        (
            peer("198.0.0.0-8", "192.0.2.3"),
            "its subnet covers 198.51.100.1: packets to that host would be taken for its containers'",
        ),
        (
            peer("10.2.22.0-24", "192.0.2.3", "02:00:00:00:01:02", revision=0),
            "VTEP MAC 02:00:00:00:01:02 is that of 10.2.21.0/24 at 198.51.100.2 too",
        ),
        (
            peer("10.2.21.0-25", "192.0.2.3", revision=0),
            "its subnet begins where 10.2.21.0/24 of 198.51.100.2 does",
        ),
    ],
)
def test_a_bad_peer_is_named_and_costs_no_other_its_entries(bad: lease.Lease, reason: str) -> None:
    made, skipped = lines(backend_vxlan.VxlanBackend(), bad, GOOD)
    assert made == [*OWN_LINES, *GOOD_LINES]
    assert skipped == [f"{lease.format_subnet_key(bad.key)}: {reason}"]


INSIDE = dataclasses.replace(
    OWN,
    key=key("10.2.20.0-24&fd00:20::-64"),
    underlay=dataclasses.replace(
        UNDERLAY,
        v6=underlay.UnderlayV6(
            ip=ipaddress.IPv6Address("2001:db8::1"), public_ip=ipaddress.IPv6Address("2001:db8::1")
        ),
    ),
    mac_v6=netstate.Mac("02:00:00:00:00:06"),
    networks=(ipaddress.IPv4Network("10.2.0.0/16"), ipaddress.IPv6Network("fd00::/16")),
    host_ranges=(
        kernel.HostRange(network=ipaddress.IPv4Network("10.2.12.0/23"), link=netstate.IfName("br-db")),
        kernel.HostRange(network=ipaddress.IPv4Network("10.2.14.0/24"), link=netstate.IfName("br-web")),
        kernel.HostRange(network=ipaddress.IPv6Network("fd00:12::/64"), link=netstate.IfName("br-db")),
    ),
)
"""This host in a network whose ranges are known, of which links of its own have parts."""


@pytest.mark.parametrize(
    ("subnet", "reason"),
    [
        ("172.17.0.0-16", "its subnet is not inside the flannel network 10.2.0.0/16"),
        ("128.0.0.0-2", "its subnet is not inside the flannel network 10.2.0.0/16"),
        ("10.0.0.0-8", "its subnet is not inside the flannel network 10.2.0.0/16"),
        ("10.3.0.0-24", "its subnet is not inside the flannel network 10.2.0.0/16"),
        ("10.2.13.0-24", "its subnet lies in 10.2.12.0/23, which br-db of this host has"),
        ("10.2.14.0-24", "its subnet lies in 10.2.14.0/24, which br-web of this host has"),
        ("10.2.14.128-25", "its subnet lies in 10.2.14.0/24, which br-web of this host has"),
        ("10.2.14.0-23", None),  # what the host has of it is more specific, and goes on
        ("10.2.15.0-24", None),
        ("10.2.0.0-24", None),
        ("10.2.255.0-24", None),
    ],
)
def test_a_subnet_outside_the_network_or_of_a_link_of_the_host_is_skipped(subnet: str, reason: str | None) -> None:
    odd = peer(subnet, "198.51.100.7")
    made, skipped = lines(backend_vxlan.VxlanBackend(), odd, GOOD, own=INSIDE)
    assert skipped == ([f"{subnet}: {reason}"] if reason else [])
    assert any(f"ip route replace {odd.key.v4} " in line for line in made) is (reason is None)
    assert set(GOOD_LINES) <= set(made)


@pytest.mark.parametrize(
    ("subnet", "reason"),
    [
        ("fe00:21::-64", "its subnet is not inside the flannel network fd00::/16"),
        ("fd00:12::-64", "its subnet lies in fd00:12::/64, which br-db of this host has"),
    ],
)
def test_the_ipv6_half_is_measured_by_the_ipv6_network(subnet: str, reason: str) -> None:
    half = {
        "public_ipv6": ipaddress.IPv6Address("2001:db8::7"),
        "backend_v6_data": '{"VNI":1,"VtepMAC":"02:00:00:00:06:07"}',
    }
    odd = peer(f"10.2.30.0-24&{subnet}", "198.51.100.7", **half)
    made, skipped = lines(backend_vxlan.VxlanBackend(), odd, own=INSIDE)
    assert skipped == [f"{lease.format_subnet_key(odd.key)}: IPv6: {reason}"]
    assert any("ip route replace 10.2.30.0/24 " in line for line in made)


def test_our_own_lease_is_neither_peer_nor_skipped() -> None:
    assert lines(backend_vxlan.VxlanBackend(), peer("10.2.20.0-24", "203.0.113.1")) == (OWN_LINES, [])


def test_a_host_that_moved_beats_its_own_stale_lease() -> None:
    stale = peer("10.2.21.0-24", "198.51.100.2", "02:00:00:00:01:02", revision=5)
    moved = peer("10.2.22.0-24", "198.51.100.9", "02:00:00:00:01:02", revision=6)
    made, skipped = lines(backend_vxlan.VxlanBackend(), stale, moved)
    assert "bridge fdb replace 02:00:00:00:01:02 dev flannel.1 dst 198.51.100.9 self permanent" in made
    assert skipped == ["10.2.21.0-24: VTEP MAC 02:00:00:00:01:02 is that of 10.2.22.0/24 at 198.51.100.9 too"]


def test_one_host_with_two_subnets_is_two_peers() -> None:
    made, skipped = lines(
        backend_vxlan.VxlanBackend(), GOOD, peer("10.2.22.0-24", "198.51.100.2", "02:00:00:00:01:02")
    )
    assert skipped == []
    assert len(made) == len(OWN_LINES) + 5  # they share the forwarding entry


def test_a_skipped_lease_does_not_block_another() -> None:
    rival = peer("10.2.21.0-25", "192.0.2.3", revision=0)
    like_rival = peer("10.2.23.0-24", "192.0.2.4", "02:00:00:00:01:03", revision=0)
    _, skipped = lines(backend_vxlan.VxlanBackend(), GOOD, rival, like_rival)
    assert skipped == ["10.2.21.0-25: its subnet begins where 10.2.21.0/24 of 198.51.100.2 does"]


def test_attrs_are_flannels_and_carry_the_public_address() -> None:
    attrs = backend_vxlan.VxlanBackend(vni=7).attrs(OWN)
    assert lease.format_attrs(attrs) == (
        '{"PublicIP":"203.0.113.1","PublicIPv6":null,"BackendType":"vxlan",'
        '"BackendData":{"VNI":7,"VtepMAC":"02:00:00:00:00:01"}}'
    )


@pytest.mark.parametrize(
    ("option", "lower", "expected"), [(None, 1500, 1450), (9000, 1500, 1450), (1400, 1500, 1350)]
)
def test_overlay_mtu_never_exceeds_what_the_underlay_carries(option: int | None, lower: int, expected: int) -> None:
    own = dataclasses.replace(OWN, underlay=dataclasses.replace(UNDERLAY, mtu=lower))
    assert backend_vxlan.VxlanBackend(mtu=option).overlay_mtu(own) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"VNI": 0}, "VNI: expected a number from 1 to 16777215, got 0"),
        ({"VNI": "1"}, "VNI: expected a number from 1 to 16777215, got '1'"),
        ({"VNI": True}, "VNI: expected a number from 1 to 16777215, got True"),
        ({"Port": 65536}, "Port: expected a number from 0 to 65535, got 65536"),
        ({"MTU": 100}, "MTU is 100, and IPv4 inside VXLAN needs 118"),
        ({"GBP": "yes"}, "GBP: expected true or false, got a string"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ConfigInvalid, match=message):
        backend_vxlan.parse_backend(options)


def test_the_network_config_chooses_the_backend() -> None:
    config = netconfig.parse_network_config('{"Network":"10.2.0.0/16","Backend":{"Type":"VXLAN","VNI":3}}')
    assert backend.choose_backend(config) == backend_vxlan.VxlanBackend(vni=3)


CHOICE = (
    'set "Backend" in the network config to {"Type": "vxlan"}, or to {"Type": "host-gw"} if there is no router '
    "between any two hosts"
)


@pytest.mark.parametrize("name", ["udp", "alloc", "extension", "ipip", "ipsec", "WireGuard", "tencent-vpc"])
def test_flannels_other_backends_are_known_by_name_and_the_choice_is_told(name: str) -> None:
    config = netconfig.parse_network_config(f'{{"Network":"10.2.0.0/16","Backend":{{"Type":"{name}"}}}}')
    with pytest.raises(errors.ConfigInvalid) as caught:
        backend.choose_backend(config)
    assert str(caught.value) == f'flannel\'s backend "{name.lower()}" is not spoken here: {CHOICE}'


def test_a_backend_that_flannel_has_not_is_said_to_be_none() -> None:
    config = netconfig.parse_network_config('{"Network":"10.2.0.0/16","Backend":{}}')
    with pytest.raises(errors.ConfigInvalid) as caught:
        backend.choose_backend(config)
    assert str(caught.value) == f"backend type '' is none of flannel's: {CHOICE}"


def test_a_config_without_a_backend_gets_the_same_choice() -> None:
    with pytest.raises(errors.ConfigInvalid) as caught:
        netconfig.parse_network_config('{"Network":"10.2.0.0/16"}')
    assert str(caught.value) == (
        f'the network config names no Backend, and flannel\'s default "udp" is not spoken here: {CHOICE}'
    )


macs = st.integers(1, 2**40 - 1).map(lambda n: netstate.Mac(":".join(f"{b:02x}" for b in n.to_bytes(6, "big"))))


@given(vni=st.integers(1, backend_vxlan.MAX_VNI), mac=macs)
def test_backend_data_survives_the_wire(vni: int, mac: netstate.Mac) -> None:
    data = vxlan_data.VxlanData(vni=vni, mac=mac)
    assert vxlan_data.parse_vxlan_data(vxlan_data.format_vxlan_data(data)) == data


@pytest.mark.parametrize("text", ["C6:D2:32:6F:8F:44", "c6-d2-32-6f-8f-44", "c6d2.326f.8f44"])
def test_macs_are_read_in_every_notation_go_reads(text: str) -> None:
    data = vxlan_data.parse_vxlan_data(f'{{"vni":1,"VTEPMAC":"{text}","later":[]}}')
    assert data == vxlan_data.VxlanData(vni=1, mac=netstate.Mac("c6:d2:32:6f:8f:44"))


@pytest.mark.parametrize(
    "text",
    [
        "c6:d2-32:6f-8f:44",
        "c6-d2-32-6f-8f:44",
        "c6d2:326f:8f44",
        "c6d2.326f-8f44",
        "c6:d2:32:6f:8f:44:00:01",  # Go reads it, and no VXLAN device has such an address
        "c6:d2:32:6f:8f:4",
        "c6d2326f8f44",
        "\\u0063\\u0036:d2:32:6f:8f:44",  # flannel hands the text to Go as it stands
    ],
)
def test_macs_that_go_or_the_kernel_refuses_are_refused(text: str) -> None:
    with pytest.raises(errors.CodecError, match=r"^BackendData: VtepMAC: expected"):
        vxlan_data.parse_vxlan_data(f'{{"VNI":1,"VtepMAC":"{text}"}}')


@given(st.text(max_size=60))
def test_garbage_data_is_a_codec_error(text: str) -> None:
    with pytest.raises(errors.CodecError):
        vxlan_data.parse_vxlan_data(text)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 7), st.integers(1, 6), st.integers(1, 4), st.integers(0, 5), st.sampled_from([24, 23])
        ),
        max_size=12,
    )
)
def test_no_set_of_peers_asks_for_two_things_under_one_key(rows: list[tuple[int, int, int, int, int]]) -> None:
    peers = [
        peer(f"10.2.{third * 2}.0-{length}", f"198.51.100.{host}", f"02:00:00:00:00:{mac:02x}", revision)
        for third, host, mac, revision, length in rows
    ]
    state, _ = backend_vxlan.VxlanBackend().desired(OWN, {one.key: one for one in peers})
    assert len(netstate.index(state)) == len(state)


def test_what_is_remembered_of_a_lease_ends_with_the_lease_and_with_what_this_host_was() -> None:
    one, two = GOOD, peer("10.2.22.0-24", "198.51.100.3")
    kept = backend_vxlan.VxlanBackend(direct_routing=True)

    def same(own: backend.Own, *held: lease.Lease) -> None:
        peers = {each.key: each for each in held}
        assert kept.desired(own, peers) == backend_vxlan.VxlanBackend(direct_routing=True).desired(own, peers)

    same(OWN, one, two)
    same(OWN, one, dataclasses.replace(two, attrs=dataclasses.replace(two.attrs, public_ip=one.attrs.public_ip)))
    same(OWN, two)
    same(dataclasses.replace(OWN, underlay=dataclasses.replace(UNDERLAY, routes=())), one, two)
    same(OWN, one, two)
