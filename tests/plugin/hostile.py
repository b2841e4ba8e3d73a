"""Requests as nobody should send them: calls of `sessions` with something wrong, or made of anything at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from driver import network
from tests.plugin import sessions
from tests.plugin.sessions import ENDPOINT_ID, NETWORK_ID, POOL_ID, POOL_ID_V6, SWARM_ID

MARK = "zq"
"""In every text of `tricks`: where it turns up again, a text of the request got through."""


def tricks(text: str) -> list[str]:
    """A text of a right call, with something in it that a shell, a path, nft, SQL or a log would take up."""
    return [
        f"{text}%{MARK}; flush ruleset",
        f"{text.replace('/', f'%{MARK}/', 1)}" if "/" in text else f"{text}%{MARK}",
        f"{text}\n{MARK}",
        f"{text}\x00{MARK}",
        f"{text}; touch /tmp/{MARK}",
        f"$(touch /tmp/{MARK})",
        f"`touch {MARK}`",
        f"../../../{MARK}",
        f"{text}/../{MARK}",
        f"{text}' OR '{MARK}'='{MARK}",
        f'{text}"; drop table networks; --{MARK}',
        f"{text[:12]}{MARK.upper()}",
        f"{text}\ud800{MARK}",
        f"٣{text}{MARK}",
        MARK * 500_000,
    ]


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where something stands in a body, keys of objects and elements of lists, from the outside in."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key)
        yield from places(one, (*path, key))


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    """What stands there."""
    for key in path:
        value = value[key]
    return value


class _Gone:
    def __repr__(self) -> str:
        return "nothing"


GONE = _Gone()


def put(value: Any, path: tuple[str | int, ...], new: object) -> Any:
    """The body with something else there; GONE: with nothing."""
    if not path:
        return new
    copy: Any = dict(value) if isinstance(value, Mapping) else list(value)
    if len(path) == 1 and new is GONE:
        del copy[path[0]]
    else:
        copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


TEXTS = (
    "", NETWORK_ID, NETWORK_ID[:12] + "0" * 52, ENDPOINT_ID, NETWORK_ID[:12], SWARM_ID, "../../etc", POOL_ID,
    POOL_ID_V6, "flannelpy/10.2.1.0/25", "flannelpy/../x", "10.2.1.5/24", "10.2.1.1/24", "10.2.1.5",
    "10.2.1.300", "::1", "fd00:2:0:1::5", "10.2.1.255/24", "10.2.1.0/24", "10.2.1.0/25", "10.2.1.128/25",
    "10.2.1.64/31", "10.2.1.7/32", "10.2.0.0/16", "0.0.0.0/0", "::/0", "fd00:2:0:1::/64", "fd00:2:0:1::/80",
    "fd00:2:0:1::/127", "fd00:2:0:1::5/64", "fd00:2:0:1::%eth0/64", "::ffff:10.2.1.5/120", "02:42:0a:02:01:05",
    "01:00:5e:00:00:01", "flannelpy", "reclocal", "auto", "native", "docker", "1400", "9000", "-1", "1e3",
    "0x10", "true", "blue", "eth0", "lo", "/coreos.com/network", "/blue/network", "/",
    "com.docker.network.gateway", "\ud800", "a\nb", "\x00", "x" * 70_000, "İ", "1" * 5000,
    "blue0", "192.0.2.1", "2001:db8::1", "..", "br-4d5d70de7705",
)  # fmt: skip
NUMBERS = (
    0,
    -1,
    1,
    6,
    17,
    132,
    8080,
    65_535,
    65_536,
    1 << 31,
    1 << 64,
    10**400,
    1.5,
    -0.0,
    float("nan"),
    float("inf"),
    float("-inf"),
)
TYPES = (None, True, False, [], [{}], {}, {"": ""}, GONE)


def instead(value: object) -> tuple[object, ...]:
    """What may stand where a value stood: others of its type, and one of each other type."""
    match value:
        case bool():
            return (not value, "x", 1, *TYPES)
        case int():
            return ("x", *NUMBERS, *TYPES)
        case str():
            return (1, *TEXTS, *TYPES)
        case _:
            return ("x", 1, *TYPES)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from(NUMBERS)
    | st.sampled_from(TEXTS)
    | st.integers()
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    (
        *("Options", "NetworkID", "EndpointID", "PoolID", "V6", "", "options", "\ud800", "x" * 5000, "Interface"),
        *(*network.OPTIONS, "flannelpy.prefix", "flannelpy.nothing", "RequestAddressType"),
    )
) | st.text(max_size=8)


@st.composite
def bodies(draw: st.DrawFn, right: Mapping[str, Any]) -> Any:
    """A right body with up to three things wrong: another value, one gone, one more; seldom anything at all."""
    body: Any = right
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2, 2, 3)))):
        path = draw(st.sampled_from([(), *places(body)])) if isinstance(body, (Mapping, list)) else ()
        kind = draw(st.sampled_from(("other", "gone", "more") if path else ("more", "more", "other")))
        if kind == "other":
            body = put(body, path, draw(JSON))
        elif kind == "gone":
            body = put(body, path, GONE)
        elif isinstance(at(body, path), Mapping):
            body = put(body, path, {**at(body, path), draw(KEYS): draw(JSON)})
    return body


def encode(body: object) -> bytes:
    """As dockerd would."""
    return json.dumps(body).encode() + b"\n"


@st.composite
def data(draw: st.DrawFn, right: Mapping[str, Any]) -> bytes:
    """The bytes of a body: most often JSON, sometimes cut, empty, doubled, no text, or not JSON at all."""
    whole = encode(draw(bodies(right)))
    where = draw(st.integers(0, len(whole)))
    wrong = {
        "whole": whole,
        "cut": whole[:where],
        "empty": b"",
        "twice": whole * 2,
        "bytes": whole[:where] + draw(st.binary(max_size=4)) + whole[where:],
        "deep": b'{"Options":' * draw(st.sampled_from((50, 5_000, 50_000))),
        "doubled": whole.rstrip()[:-1] + b"," + whole[1:],
        "any": draw(st.binary(max_size=30)),
    }
    return wrong[draw(st.sampled_from((*("whole",) * 12, *wrong)))]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Request:
    """One request over HTTP."""

    verb: str
    path: str
    data: bytes

    def __repr__(self) -> str:
        return f"{self.verb} {self.path[:80]} {len(self.data)} bytes: {self.data[:2000]!r}"


PATHS = (
    "/", "/Plugin.Activate", "/NetworkDriver.GetCapabilities", "/IpamDriver.GetDefaultAddressSpaces",
    "/NetworkDriver.Fly", "/networkdriver.leave", "/NetworkDriver.Leave/", "/%2fNetworkDriver.Leave",
    "/NetworkDriver.Leave%00", "/a/../NetworkDriver.Join", "/%2e%2e/%2e%2e/etc/passwd", "/..", "/%ff%fe",
    "/" + "x" * 3000, "/NetworkDriver.Leave?a=b", "/healthz", "/readyz", "/status", "/peers", "/metrics",
    "/diagnose", "/diagnose?peer=", "/diagnose?peer=None&peer=%ff", "/status?" + "a=b&" * 2000,
    "/audit?settle=0", "/audit?settle=x", "/audit?settle=nan", "/audit?settle=-1", "/audit?settle=%ff",
    "/audit?settle=1e999", "/audit?settle=0&settle=x&repair=1", "/audit/", "/audit%00",
)  # fmt: skip
VERBS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW")


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Most often a call of the API with something wrong, sometimes another verb or path."""
    call = draw(st.sampled_from(sessions.CALLS))
    path, verb = f"/{call.method}", "POST"
    if draw(st.integers(0, 9)) == 0:
        path, verb = draw(st.sampled_from((path, *PATHS))), draw(st.sampled_from(VERBS))
    return Request(verb=verb, path=path, data=draw(data(call.body)))
