"""Texts as Go's encoding/json and flannel's pkg/ip read and write them.

Pure. Called by the codecs in `netconfig` and `lease`. Exists because flannel's readers are looser than Python's json
in some places (names in any case, a later duplicate wins, null leaves a value alone) and tighter in others (an
unsigned number is never 24.0 or "24", no NaN), and because its writer keeps foreign JSON as it stood, compact.
Source: encoding/json decode.go and encode.go, flannel pkg/ip/ipnet.go, ip6net.go.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
from typing import Any

from overlay import fields

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_STRING_OR_SPACE = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\n\r]+')
_LENGTH = re.compile(r"[0-9]{1,3}")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
_UINT_LIMIT = 2**64
_GO_KINDS = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One name and value of a JSON object. `raw` is the value's text as it stood; `value` is None for null."""

    name: str
    raw: str
    value: Any  # JSON is untyped until a function here has looked at it

    @property
    def folded(self) -> str:
        """The name as Go compares it with a struct's field."""
        return self.name.casefold()


def _refuse_constant(text: str) -> float:
    raise ValueError(f"invalid character in {text}")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def parse_members(text: str) -> list[Member]:
    """The members of the object in `text`, in order, duplicates kept; null is the empty object, as for Go.

    Raises FieldError.
    """
    try:
        whole = _DECODER.decode(text)
    except (ValueError, RecursionError) as exc:
        raise fields.FieldError(f"expected a JSON object: {exc}") from exc
    if whole is None:
        return []
    if not isinstance(whole, dict):
        raise fields.FieldError(f"json: cannot unmarshal {_go_kind(whole)} into an object")
    members = []
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":  # the text was decoded once, so every step below finds what it expects
        name, at = _DECODER.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        value, at = _DECODER.raw_decode(text, start)
        members.append(Member(name=clean(name), raw=text[start:at], value=value))
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return members


def clean(text: str) -> str:
    """Lone surrogates become U+FFFD: Go does so, and they could not be written as UTF-8."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def flag(member: Member, current: bool) -> bool:
    """A bool; null leaves `current`. Raises FieldError."""
    if member.value is None:
        return current
    if not isinstance(member.value, bool):
        raise _mismatch(member, "bool")
    return member.value


def uint(member: Member, current: int) -> int:
    """An unsigned number written without sign, point or exponent; null leaves `current`. Raises FieldError."""
    if member.value is None:
        return current
    if type(member.value) is not int or member.raw.startswith("-") or member.value >= _UINT_LIMIT:
        raise _mismatch(member, "uint")
    return member.value


def text(member: Member, current: str) -> str:
    """A string; null leaves `current`. Raises FieldError."""
    if member.value is None:
        return current
    if not isinstance(member.value, str):
        raise _mismatch(member, "string")
    return clean(member.value)


def ipv4(member: Member) -> ipaddress.IPv4Address:
    """An IPv4 address, IPv4-mapped IPv6 text included. Null is an error. Raises FieldError with flannel's words."""
    address = _address(member)
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        if mapped is None:
            raise _wrong(member, "invalid IPv4 address format")
        return mapped
    return address


def ipv6(member: Member) -> ipaddress.IPv6Address | None:
    """An IPv6 address, None for null; IPv4 text is taken as IPv4-mapped. Raises FieldError."""
    if member.value is None:
        return None
    address = _address(member)
    if isinstance(address, ipaddress.IPv4Address):
        return ipaddress.IPv6Address(f"::ffff:{address}")
    return address


def ipv4_network(member: Member) -> ipaddress.IPv4Network:
    """An IPv4 CIDR; host bits are masked off. Raises FieldError."""
    network = _network(member)
    if not isinstance(network, ipaddress.IPv4Network):
        raise _wrong(member, "invalid IPv4 CIDR format")
    return network


def ipv6_network(member: Member) -> ipaddress.IPv6Network:
    """An IPv6 CIDR; host bits are masked off. Raises FieldError."""
    network = _network(member)
    if not isinstance(network, ipaddress.IPv6Network):
        raise _wrong(member, "invalid IPv6 CIDR format")
    return network


def format_string(value: str) -> str:
    """A JSON string as Go writes it: UTF-8 kept, <, >, &, U+2028 and U+2029 escaped."""
    return json.dumps(clean(value), ensure_ascii=False).translate(_ESCAPED)


def format_ipv6(address: ipaddress.IPv6Address) -> str:
    """RFC 5952 text as Go's net.IP prints it: an IPv4-mapped address as plain IPv4."""
    return str(address.ipv4_mapped or address)


def compact(raw: str) -> str:
    """A json.RawMessage as Go writes it out: white space between tokens gone, <, >, & escaped, the rest as it stood.

    Idempotent. Raises FieldError where `raw` is not JSON.
    """
    try:
        _DECODER.decode(raw)
    except (ValueError, RecursionError) as exc:
        raise fields.FieldError(f"expected JSON: {exc}") from exc
    return _STRING_OR_SPACE.sub(lambda found: found[1] or "", raw).translate(_ESCAPED)


def _skip(text: str, at: int) -> int:
    found = _WHITESPACE.match(text, at)
    return found.end() if found else at


def _address(member: Member) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    bare = member.raw.strip('"')  # as pkg/ip does, so an escape inside is an error here too
    try:
        return ipaddress.ip_address(bare.replace("%", " "))  # Go's ParseIP knows no zones
    except ValueError as exc:
        raise _wrong(member, "invalid IP address format") from exc


def _network(member: Member) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    bare = member.raw.strip('"')
    address, _, length = bare.partition("/")
    try:
        if _LENGTH.fullmatch(length):  # Python would take a netmask, or nothing, as well
            return ipaddress.ip_network((address.replace("%", " "), int(length)), strict=False)
    except ValueError as exc:
        raise _wrong(member, f"invalid CIDR address: {bare}") from exc
    raise _wrong(member, f"invalid CIDR address: {bare}")


def _wrong(member: Member, message: str) -> fields.FieldError:
    return fields.FieldError(f"{member.name}: {message}, got {member.raw[:80]}")


def _mismatch(member: Member, go_type: str) -> fields.FieldError:
    kind = _go_kind(member.value)
    shown = f"{kind} {member.raw[:40]}" if kind == "number" else kind
    return fields.FieldError(f"json: cannot unmarshal {shown} into {member.name} of type {go_type}")


def _go_kind(value: object) -> str:
    return _GO_KINDS.get(type(value), "null")
