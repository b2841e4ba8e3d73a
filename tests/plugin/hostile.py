"""Requests as nobody should send them, and the ones they are made from.

`SESSIONS` are whole lives of a network and a container in calls that are right: in one Docker publishes the ports, in
the other this plugin. Everything else is one of their calls with something wrong, or made of anything at all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from driver import network

NETWORK_ID = "4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e"
SWARM_ID = "mlddrf5etdgqpmi68bi6qqn6i"
ENDPOINT_ID = "1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809"
POOL_ID = "flannelpy/10.2.1.0/24"
POOL_ID_V6 = "flannelpy/fd00:2:0:1::/64"
IDS = {"NetworkID": NETWORK_ID, "EndpointID": ENDPOINT_ID}
GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}
EXPOSED = "com.docker.network.endpoint.exposedports"
PORTMAP = "com.docker.network.portmap"


def port(proto: int, number: int, host_ip: str, first: int, last: int) -> dict[str, object]:
    """`-p HOST_IP:FIRST-LAST:NUMBER`."""
    return {"Proto": proto, "IP": "", "Port": number, "HostIP": host_ip, "HostPort": first, "HostPortEnd": last}


PORTS = {EXPOSED: [{"Proto": 6, "Port": 80}], PORTMAP: [port(6, 80, "", 8080, 8080)]}
NATIVE_PORTS = {
    EXPOSED: [{"Proto": 6, "Port": 80}, {"Proto": 17, "Port": 53}],
    PORTMAP: [
        port(6, 80, "", 8080, 8080),
        port(17, 53, "192.0.2.1", 5300, 5309),
        port(6, 443, "2001:db8::1", 8443, 8443),
        port(17, 53, "::", 0, 0),
    ],
}
GENERIC = {
    "flannelpy.gateway": "auto",
    "com.docker.network.driver.mtu": "1400",
    "com.docker.network.bridge.enable_ip_masquerade": "true",
}
NATIVE_GENERIC = {
    "flannelpy.gateway": "native",
    "flannelpy.spoofing": "drop",
    "com.docker.network.bridge.name": "blue0",
    "com.docker.network.container_iface_prefix": "net",
    "com.docker.network.bridge.enable_icc": "false",
}
CREATE_NETWORK = {
    "NetworkID": NETWORK_ID,
    "Options": {
        "com.docker.network.enable_ipv4": True,
        "com.docker.network.enable_ipv6": True,
        "com.docker.network.internal": False,
        "com.docker.network.generic": GENERIC,
    },
    "IPv4Data": [
        {
            "AddressSpace": "flannelpy",
            "Pool": "10.2.1.0/24",
            "Gateway": "10.2.1.1/24",
            "AuxAddresses": {"r1": "10.2.1.130/24"},
        }
    ],
    "IPv6Data": [
        {
            "AddressSpace": "flannelpy",
            "Pool": "fd00:2:0:1::/64",
            "Gateway": "fd00:2:0:1::1/64",
            "AuxAddresses": {"r1": "fd00:2:0:1::130/64"},
        }
    ],
}
INTERFACE = {
    "Address": "10.2.1.2/24",
    "AddressIPv6": "fd00:2:0:1::2/64",
    "MacAddress": "02:42:0a:02:01:02",
}
NAMED = {"com.docker.network.endpoint.name": "c1", "com.docker.network.endpoint.macaddress": "02:42:0a:02:01:02"}
SPACE = {"AddressSpace": "flannelpy"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the engine."""

    method: str
    body: Mapping[str, Any]


def _call(method: str, **body: object) -> Call:
    return Call(method=method, body=body)


def _session(generic: Mapping[str, str], ports: Mapping[str, object]) -> tuple[Call, ...]:
    options = {**CREATE_NETWORK["Options"], "com.docker.network.generic": generic}  # type: ignore[dict-item]
    node = {"DiscoveryType": 1, "DiscoveryData": {"Address": "192.0.2.1", "Self": True}}
    return (
        _call("NetworkDriver.GwAllocCheck", Options=options),
        _call(
            "IpamDriver.RequestPool", **SPACE, Pool="10.2.1.0/24", SubPool="10.2.1.0/25", Options={"x": "y"}, V6=False
        ),
        _call("IpamDriver.RequestAddress", PoolID=POOL_ID, Address="10.2.1.1", Options=GATEWAY),
        _call("IpamDriver.RequestPool", **SPACE, Pool="fd00:2:0:1::/64", SubPool="", Options={}, V6=True),
        _call("IpamDriver.RequestAddress", PoolID=POOL_ID_V6, Address="", Options=GATEWAY),
        Call(method="NetworkDriver.CreateNetwork", body={**CREATE_NETWORK, "Options": options}),
        _call("IpamDriver.RequestAddress", PoolID=POOL_ID, Address="10.2.1.2", Options=NAMED),
        _call("IpamDriver.RequestAddress", PoolID=POOL_ID_V6, Address="", Options=NAMED),
        _call("NetworkDriver.CreateEndpoint", **IDS, Interface=INTERFACE, Options={**ports, "k": "v"}),
        _call("NetworkDriver.Join", **IDS, SandboxKey="/var/run/docker/netns/b6f0529d4689", Options=ports),
        _call("NetworkDriver.ProgramExternalConnectivity", **IDS, Options=ports),
        _call("NetworkDriver.EndpointOperInfo", **IDS),
        _call("NetworkDriver.DiscoverNew", **node),
        _call("NetworkDriver.DiscoverDelete", **node),
        _call("NetworkDriver.AllocateNetwork", NetworkID=SWARM_ID, Options={}, IPv4Data=[], IPv6Data=None),
        _call("NetworkDriver.RevokeExternalConnectivity", **IDS),
        _call("NetworkDriver.Leave", **IDS),
        _call("NetworkDriver.DeleteEndpoint", **IDS),
        _call("IpamDriver.ReleaseAddress", PoolID=POOL_ID, Address="10.2.1.2"),
        _call("IpamDriver.ReleaseAddress", PoolID=POOL_ID_V6, Address="fd00:2:0:1::2"),
        _call("NetworkDriver.FreeNetwork", NetworkID=NETWORK_ID),
        _call("NetworkDriver.DeleteNetwork", NetworkID=NETWORK_ID),
        _call("IpamDriver.ReleasePool", PoolID=POOL_ID),
        _call("IpamDriver.ReleasePool", PoolID=POOL_ID_V6),
        _call("IpamDriver.GetDefaultAddressSpaces"),  # what has no body last: here hypothesis likes the first best
        _call("IpamDriver.GetCapabilities"),
        _call("NetworkDriver.GetCapabilities"),
        _call("Plugin.Activate"),
    )


SESSIONS = {"auto": _session(GENERIC, PORTS), "native": _session(NATIVE_GENERIC, NATIVE_PORTS)}
OWN = {"NetworkDriver.CreateNetwork", "NetworkDriver.ProgramExternalConnectivity"}
"""The calls whose texts get further where this plugin publishes."""

CALLS = [*SESSIONS["auto"], *(call for call in SESSIONS["native"] if call not in SESSIONS["auto"])]


def up_to(session: str, method: str) -> tuple[Call, ...]:
    """The calls of a session until this one was made."""
    methods = [call.method for call in SESSIONS[session]]
    return SESSIONS[session][: methods.index(method) + 1]


CHOSEN = ("com.docker.network.bridge.name", "com.docker.network.container_iface_prefix")
"""Names of links that an operator chooses: letters and digits are rightly taken."""

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
    call = draw(st.sampled_from(CALLS))
    path, verb = f"/{call.method}", "POST"
    if draw(st.integers(0, 9)) == 0:
        path, verb = draw(st.sampled_from((path, *PATHS))), draw(st.sampled_from(VERBS))
    return Request(verb=verb, path=path, data=draw(data(call.body)))
