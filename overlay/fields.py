"""Checked reading of JSON that somebody else wrote.

Pure. Used wherever a text comes from outside: flannel's config and leases, the engine's request bodies.
A FieldError says where, what was expected and what came; the caller turns it into its own error.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any

JsonObject = Mapping[str, Any]  # JSON is untyped until a function here has looked at it


class FieldError(ValueError):
    """A field is missing or has the wrong type."""


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object in `text`. Raises FieldError for anything else, too deep a nesting included."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise FieldError(f"expected a JSON object: {exc}") from exc
    if not isinstance(value, dict):
        raise FieldError(f"expected a JSON object, got {kind(value)}")
    return value


def text(obj: JsonObject, name: str, default: str | None = None) -> str:
    """A string field; null counts as absent. Raises FieldError without a default."""
    value = obj.get(name)
    if value is None:
        if default is None:
            raise FieldError(f"{name}: expected a string, got nothing")
        return default
    if not isinstance(value, str):
        raise FieldError(f"{name}: expected a string, got {kind(value)}")
    return value


def flag(obj: JsonObject, name: str, *, default: bool) -> bool:
    """A boolean field; null counts as absent."""
    value = obj.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise FieldError(f"{name}: expected true or false, got {kind(value)}")
    return value


def number(obj: JsonObject, name: str, *, least: int, most: int, default: int | None = None) -> int:
    """A whole number in a range; null counts as absent. Raises FieldError without a default."""
    value = obj.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not least <= value <= most:  # true is an int, too
        raise FieldError(f"{name}: expected a whole number from {least} to {most}, got {str(value)[:80]}")
    return value


def mapping(obj: JsonObject, name: str) -> JsonObject:
    """An object field; null and absent are the empty object."""
    value = obj.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FieldError(f"{name}: expected an object, got {kind(value)}")
    return value


def objects(obj: JsonObject, name: str) -> list[JsonObject]:
    """A field that lists objects; null and absent are the empty list."""
    value = obj.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise FieldError(f"{name}: expected a list of objects, got {kind(value)}")
    return value


def address(value: str, name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address of either family without a mask."""
    try:
        return ipaddress.ip_address(_unzoned(value))
    except ValueError as exc:
        raise FieldError(f"{name}: expected an IP address, got {_cut(value)}") from exc


def ipv4_network(value: str, name: str) -> ipaddress.IPv4Network:
    """An IPv4 prefix with no host bits set."""
    try:
        return ipaddress.IPv4Network(value)
    except ValueError as exc:
        raise FieldError(f"{name}: expected an IPv4 prefix such as 10.2.20.0/24, got {_cut(value)}") from exc


def ipv4_interface(value: str, name: str) -> ipaddress.IPv4Interface:
    """An IPv4 address with its prefix length."""
    try:
        return ipaddress.IPv4Interface(value)
    except ValueError as exc:
        raise FieldError(f"{name}: expected an address such as 10.2.20.5/24, got {_cut(value)}") from exc


def ipv6_network(value: str, name: str) -> ipaddress.IPv6Network:
    """An IPv6 prefix with no host bits set."""
    try:
        return ipaddress.IPv6Network(_unzoned(value))
    except ValueError as exc:
        raise FieldError(f"{name}: expected an IPv6 prefix such as fd00:10:2:14::/64, got {_cut(value)}") from exc


def ipv6_interface(value: str, name: str) -> ipaddress.IPv6Interface:
    """An IPv6 address with its prefix length."""
    try:
        return ipaddress.IPv6Interface(_unzoned(value))
    except ValueError as exc:
        raise FieldError(f"{name}: expected an address such as fd00:10:2:14::5/64, got {_cut(value)}") from exc


def _unzoned(value: str) -> str:
    """The text unless it has a zone (fe80::1%eth0), which may be any text at all and would stay in the address."""
    if "%" in value:
        raise ValueError("no zone expected")
    return value


def _cut(value: str) -> str:
    return repr(value[:80])


def kind(value: object) -> str:
    """The JSON name of a value's type, for messages."""
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
