from __future__ import annotations

import contextlib
import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import fields

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
READERS = [
    lambda obj: fields.text(obj, "x"),
    lambda obj: fields.flag(obj, "x", default=False),
    lambda obj: fields.mapping(obj, "x"),
    lambda obj: fields.objects(obj, "x"),
]


@pytest.mark.parametrize("text", ["{}", b"{}", ' {"a": 1} '])
def test_an_object_is_read(text: str | bytes) -> None:
    assert fields.parse_object(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a JSON object: "),
        (b"\xff\xfe\xfd", "expected a JSON object: "),
        ("[]", "expected a JSON object, got a list"),
        ("null", "expected a JSON object, got null"),
        ("true", "expected a JSON object, got a boolean"),
        ("1.5", "expected a JSON object, got a number"),
        ('"x"', "expected a JSON object, got a string"),
        pytest.param("[" * 100_000, "expected a JSON object: ", id="deep"),
        pytest.param("1" * 5_000, "expected a JSON object: ", id="long number"),
    ],
)
def test_anything_else_is_refused_with_what_came(text: str | bytes, message: str) -> None:
    with pytest.raises(fields.FieldError) as caught:
        fields.parse_object(text)
    assert str(caught.value).startswith(message)


def test_fields_of_the_right_kind_are_returned() -> None:
    obj = {"text": "a", "flag": True, "mapping": {"b": 1}, "objects": [{}, {"c": 2}]}
    assert fields.text(obj, "text") == "a"
    assert fields.flag(obj, "flag", default=False) is True
    assert fields.mapping(obj, "mapping") == {"b": 1}
    assert fields.objects(obj, "objects") == [{}, {"c": 2}]


@pytest.mark.parametrize("obj", [{}, {"x": None}])
def test_null_counts_as_absent(obj: fields.JsonObject) -> None:
    assert fields.text(obj, "x", "default") == "default"
    assert fields.flag(obj, "x", default=True) is True
    assert fields.mapping(obj, "x") == {}
    assert fields.objects(obj, "x") == []
    with pytest.raises(fields.FieldError, match="x: expected a string, got nothing"):
        fields.text(obj, "x")


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (READERS[0], 1, "x: expected a string, got a number"),
        (READERS[1], "true", "x: expected true or false, got a string"),
        (READERS[1], 1, "x: expected true or false, got a number"),
        (READERS[2], [], "x: expected an object, got a list"),
        (READERS[3], {}, "x: expected a list of objects, got an object"),
        (READERS[3], [{}, 1], "x: expected a list of objects, got a list"),
    ],
)
def test_other_kinds_are_refused_by_name(read, value: object, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(fields.FieldError) as caught:
        read({"x": value})
    assert str(caught.value) == message


def test_addresses_are_read() -> None:
    assert fields.address("192.0.2.1", "x") == ipaddress.IPv4Address("192.0.2.1")
    assert fields.address("2001:DB8::1", "x") == ipaddress.IPv6Address("2001:db8::1")
    assert fields.ipv4_network("192.0.2.0/24", "x") == ipaddress.IPv4Network("192.0.2.0/24")
    assert fields.ipv4_interface("192.0.2.5/24", "x") == ipaddress.IPv4Interface("192.0.2.5/24")
    assert fields.ipv6_network("2001:DB8::/64", "x") == ipaddress.IPv6Network("2001:db8::/64")
    assert fields.ipv6_interface("2001:db8::5/64", "x") == ipaddress.IPv6Interface("2001:db8::5/64")


@pytest.mark.parametrize("read", [fields.ipv6_network, fields.ipv6_interface])
@pytest.mark.parametrize("value", ["", "x", "192.0.2.1", "2001:db8::/129", "2001:db8:::1", "2001:db8::1/x"])
def test_other_texts_are_no_ipv6_addresses(read, value: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(fields.FieldError, match=r"^x: expected an (IPv6 prefix|address) such as fd00:10:2:14::"):
        read(value, "x")


@pytest.mark.parametrize("value", ["", "x", "192.0.2.256", "192.0.2.1/24", "2001:db8::1/64", "2001:db8:::1"])
def test_other_texts_are_no_address_of_either_family(value: str) -> None:
    with pytest.raises(fields.FieldError) as caught:
        fields.address(value, "x")
    assert str(caught.value) == f"x: expected an IP address, got {value!r}"


@pytest.mark.parametrize("read", [fields.ipv4_network, fields.ipv4_interface])
@pytest.mark.parametrize("value", ["", "x", "2001:db8::1", "192.0.2.256", "192.0.2.1/33", "192.0.02.1/24"])
def test_other_texts_are_no_addresses(read, value: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(fields.FieldError, match=r"^x: expected an (IPv4|address)"):
        read(value, "x")


def test_a_prefix_with_host_bits_is_refused() -> None:
    with pytest.raises(fields.FieldError, match=r"such as 10\.2\.20\.0/24, got '192\.0\.2\.1/24'"):
        fields.ipv4_network("192.0.2.1/24", "x")


@given(JSON)
def test_any_json_is_read_or_refused(value: object) -> None:
    for read in READERS:
        with contextlib.suppress(fields.FieldError):
            read({"x": value})


@pytest.mark.parametrize("zone", ["eth0", "x; flush ruleset", "\n"])
def test_no_address_has_a_zone(zone: str) -> None:
    for read, text in (
        (fields.address, f"fe80::1%{zone}"),
        (fields.ipv6_network, f"fd00::%{zone}/64"),
        (fields.ipv6_interface, f"fd00::1%{zone}/64"),
    ):
        with pytest.raises(fields.FieldError, match="x: expected an"):
            read(text, "x")
