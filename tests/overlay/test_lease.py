from __future__ import annotations

import contextlib
import ipaddress
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import errors, gocodec, lease

V4 = ipaddress.IPv4Address
MAC = '{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}'

GOLDEN = [
    ('{"PublicIP":"1.2.3.4","PublicIPv6":null}', lease.LeaseAttrs(public_ip=V4("1.2.3.4"))),
    (
        '{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":' + MAC + "}",
        lease.LeaseAttrs(public_ip=V4("192.168.64.3"), backend_type="vxlan", backend_data=MAC),
    ),
    (
        '{"PublicIP":"192.168.64.3","PublicIPv6":"fd50::10","BackendType":"vxlan","BackendData":'
        + MAC
        + ',"BackendV6Data":'
        + MAC
        + "}",
        lease.LeaseAttrs(
            public_ip=V4("192.168.64.3"),
            public_ipv6=ipaddress.IPv6Address("fd50::10"),
            backend_type="vxlan",
            backend_data=MAC,
            backend_v6_data=MAC,
        ),
    ),
    (
        '{"PublicIP":"10.0.0.5","PublicIPv6":null,"BackendType":"host-gw"}',
        lease.LeaseAttrs(public_ip=V4("10.0.0.5"), backend_type="host-gw"),
    ),
    (
        '{"PublicIP":"10.0.0.5","PublicIPv6":null,"BackendType":"wireguard","BackendData":{"PublicKey":"aA+/=","Port":51820}}',
        lease.LeaseAttrs(
            public_ip=V4("10.0.0.5"), backend_type="wireguard", backend_data='{"PublicKey":"aA+/=","Port":51820}'
        ),
    ),
    (
        '{"PublicIP":"10.0.0.5","PublicIPv6":null,"BackendType":"extension","BackendData":"text"}',
        lease.LeaseAttrs(public_ip=V4("10.0.0.5"), backend_type="extension", backend_data='"text"'),
    ),
]

INVALID_KEYS = [
    "10",
    "10.12.13.0",
    "10.12.13-24",
    "10.12.13.300-24",
    "10.12.13.0-24hi",
    "&2001::-56",
    "10.12.13.0-24&:12:13:-56",
    "10.12.13.0-24&20011::-56",
    "10.12.13.0-24&2001-56",
    "10.12.13.0-24&2001::",
    "10.12.13.0-24&2001::-56hi",
    "10.12.13.0-32",
    "10.12.13.0-24&fd00::-128",
    "10.12.13.0-24&FD00::-56",
    "10.12.13.0-24\n",
    "10x12y13z0-24",
    "010.12.13.0-24",
    "10.12.13.5-24",  # ours alone: flannel reads it, and no flannel writes it
    "",
    pytest.param("1" * 100_000, id="digits"),
    pytest.param("1." * 50_000 + "-24", id="dots"),
]

UNREADABLE = [
    "",
    "{",
    "[]",
    "1",
    '{"PublicIP":null}',
    '{"PublicIP":""}',
    '{"PublicIP":"fd50::10"}',
    '{"PublicIP":"1.2.3"}',
    '{"PublicIP":"1.2.3.4\\u002f"}',
    '{"PublicIP":1}',
    '{"PublicIP":"1.2.3.4","PublicIPv6":""}',
    '{"PublicIP":"1.2.3.4","PublicIPv6":"fe80::1%eth0"}',
    '{"PublicIP":"1.2.3.4","BackendType":1}',
    '{"PublicIP":"1.2.3.4","BackendData":NaN}',
    pytest.param("[" * 100_000, id="deep"),
]


@pytest.mark.parametrize(("text", "attrs"), GOLDEN)
def test_values_are_flannels_byte_for_byte(text: str, attrs: lease.LeaseAttrs) -> None:
    assert lease.format_attrs(attrs) == text
    assert lease.parse_attrs(text) == attrs


@pytest.mark.parametrize("text", ["10.12.13.0-24", "10.12.13.0-24&fd00:12:13::-56", "0.0.0.0-0"])
def test_keys_are_flannels(text: str) -> None:
    assert lease.format_subnet_key(lease.parse_subnet_key(text)) == text


def test_anything_may_stand_before_the_subnet() -> None:
    key = lease.SubnetKey(v4=ipaddress.IPv4Network("10.12.13.0/24"))
    assert lease.parse_subnet_key("/coreos.com/network/subnets/10.12.13.0-24") == key


@pytest.mark.parametrize("text", INVALID_KEYS)
def test_other_keys_are_refused(text: str) -> None:
    with pytest.raises(errors.CodecError):
        lease.parse_subnet_key(text)


@pytest.mark.parametrize("text", UNREADABLE)
def test_other_values_are_refused(text: str) -> None:
    with pytest.raises(errors.CodecError):
        lease.parse_attrs(text)


def test_the_reader_is_lenient() -> None:
    text = '{ "publicip": "192.0.2.7", "BACKENDTYPE": "vxlan", "BackendData": {"VNI": 1 , "a b":[ ]}, "Node": "x" }'
    assert lease.parse_attrs(text) == lease.LeaseAttrs(
        public_ip=V4("192.0.2.7"), backend_type="vxlan", backend_data='{"VNI":1,"a b":[]}'
    )


def test_a_missing_public_ip_is_zero() -> None:
    assert lease.parse_attrs("{}") == lease.parse_attrs("null") == lease.LeaseAttrs(public_ip=V4("0.0.0.0"))


def test_null_data_is_data_as_in_go() -> None:
    attrs = lease.parse_attrs('{"PublicIP":"192.0.2.7","BackendData":null}')
    assert lease.format_attrs(attrs) == '{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendData":null}'


def test_numbers_in_data_stay_as_written() -> None:
    assert lease.parse_attrs('{"BackendData":[1.0, 1e3, -0]}').backend_data == "[1.0,1e3,-0]"


def test_strings_are_escaped_as_go_does() -> None:
    attrs = lease.LeaseAttrs(public_ip=V4("192.0.2.7"), backend_type="<&>\u2028ä\n", backend_data='"<a>"')
    text = lease.format_attrs(attrs)
    assert '"BackendType":"\\u003c\\u0026\\u003e\\u2028ä\\n","BackendData":"\\u003ca\\u003e"' in text
    assert lease.parse_attrs(text).backend_type == attrs.backend_type


def test_ipv4_text_in_the_ipv6_field_comes_back_the_same() -> None:
    text = '{"PublicIP":"192.0.2.7","PublicIPv6":"192.0.2.8"}'
    assert lease.format_attrs(lease.parse_attrs(text)) == text


def test_lone_surrogates_become_what_go_makes_of_them() -> None:
    assert lease.parse_attrs('{"BackendType":"\\ud800"}').backend_type == "\ufffd"


def test_data_that_is_not_json_cannot_be_written() -> None:
    with pytest.raises(errors.CodecError, match="BackendData"):
        lease.format_attrs(lease.LeaseAttrs(public_ip=V4("192.0.2.7"), backend_data="{"))


@st.composite
def networks(draw: st.DrawFn, bits: int) -> tuple[int, int]:
    length = draw(st.integers(0, bits - 1))
    return (draw(st.integers(0, 2**bits - 1)) >> (bits - length)) << (bits - length), length


KEYS = st.builds(
    lease.SubnetKey,
    v4=networks(32).map(ipaddress.IPv4Network),
    v6=st.none() | networks(128).map(ipaddress.IPv6Network),
)
PLAIN = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=8,
)
DATA = JSON.map(lambda value: gocodec.compact(json.dumps(value, ensure_ascii=False)))
ATTRS = st.builds(
    lease.LeaseAttrs,
    public_ip=st.ip_addresses(v=4),
    public_ipv6=st.none() | st.ip_addresses(v=6),
    backend_type=PLAIN,
    backend_data=st.none() | DATA,
    backend_v6_data=st.none() | DATA,
)


@given(KEYS)
def test_every_key_survives_the_way_there_and_back(key: lease.SubnetKey) -> None:
    assert lease.parse_subnet_key(lease.format_subnet_key(key)) == key


@given(ATTRS)
def test_every_value_survives_the_way_there_and_back(attrs: lease.LeaseAttrs) -> None:
    assert lease.parse_attrs(lease.format_attrs(attrs)) == attrs


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (lease.parse_attrs, lease.parse_subnet_key):
        with contextlib.suppress(errors.CodecError):
            parse(text)


IP = ipaddress.IPv4Address("192.0.2.1")
NOWHERE = ipaddress.IPv4Address(0)
SIX, OTHER_SIX = ipaddress.IPv6Address("2001:db8::1"), ipaddress.IPv6Address("2001:db8::2")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (lease.LeaseAttrs(public_ip=IP), lease.LeaseAttrs(public_ip=IP, public_ipv6=SIX), True),
        (
            lease.LeaseAttrs(public_ip=IP, public_ipv6=SIX),
            lease.LeaseAttrs(public_ip=NOWHERE, public_ipv6=SIX),
            False,
        ),
        (
            lease.LeaseAttrs(public_ip=NOWHERE, public_ipv6=SIX),
            lease.LeaseAttrs(public_ip=NOWHERE, public_ipv6=SIX),
            True,
        ),
        (
            lease.LeaseAttrs(public_ip=NOWHERE, public_ipv6=SIX),
            lease.LeaseAttrs(public_ip=NOWHERE, public_ipv6=OTHER_SIX),
            False,
        ),
        (lease.LeaseAttrs(public_ip=NOWHERE, public_ipv6=SIX), lease.LeaseAttrs(public_ip=NOWHERE), False),
        (lease.LeaseAttrs(public_ip=NOWHERE), lease.LeaseAttrs(public_ip=NOWHERE), False),
    ],
)
def test_hosts_without_ipv4_are_told_apart_by_their_ipv6_address(
    one: lease.LeaseAttrs, other: lease.LeaseAttrs, same: bool
) -> None:
    assert (one.is_same_host(other), other.is_same_host(one)) == (same, same)


def test_large_values_leave_nothing_in_memory() -> None:
    """etcd takes 1.5 MB in a value; a key that is rewritten again and again with such must not fill a host."""
    text = '{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"vxlan","x":"%s%s"}'
    tracemalloc.start()
    try:
        lease.parse_attrs(text % (0, "y" * 30_000))
        before = tracemalloc.get_traced_memory()[0]
        for number in range(100):
            lease.parse_attrs(text % (number, "y" * 30_000))
        assert tracemalloc.get_traced_memory()[0] - before < 300_000
    finally:
        tracemalloc.stop()
    with pytest.raises(errors.CodecError, match="characters"):
        lease.parse_attrs(text % (0, "y" * 1_000_000))
