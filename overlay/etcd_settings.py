"""How to reach etcd: what the operator says, and what a gRPC channel needs to hear.

Pure. `plugin` builds EtcdSettings from the environment, `etcd_client` resolves names and dials.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import urllib.parse
from collections.abc import Mapping, Sequence

from overlay import errors

DEFAULT_PORT = 2379

CHANNEL_OPTIONS = (
    # A host whose watch hangs at a frozen member does not hear that its key is gone, and its peers do: both together
    # must leave time to claim it again within ten seconds. etcd hangs up on pings more often than every 5 s.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),  # without it a dead peer is noticed after 68 s
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # also: how long one member may take to answer a connect
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 256 * 1024 * 1024),
    ("grpc.enable_http_proxy", 0),
)
"""Of every gRPC channel, measured with grpcio 1.85. Source: grpc/impl/channel_arg_names.h."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One member of the cluster. Shape: `host` is a name or an address without brackets."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EtcdSettings:
    """Where etcd is and how to log in; empty strings are unset. Files are PEM.

    Shape: `endpoints` are URLs, `http://192.0.2.1:2379`; one scheme for all. https without `ca_file` trusts the
    system's authorities.
    `server_name` is a name that the certificates of all members have, where their own addresses are not in them.
    Units: `timeout_s` seconds for one call, in which a request may be sent twice; `progress_s` seconds between two
    questions to a watch whether it lives.
    """

    endpoints: tuple[str, ...]
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    username: str = ""
    password: str = dataclasses.field(default="", repr=False)
    server_name: str = ""
    timeout_s: float = 8.0
    progress_s: float = 30.0

    @property
    def attempt_s(self) -> float:
        """Seconds for one request: longer than a slow disk, or electing a leader (1 to 2 s), makes etcd take."""
        return self.timeout_s / 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One channel: gRPC's name for some members, and the name their certificates must have ("" without TLS)."""

    address: str
    tls_name: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The members, checked. `tls` holds for all."""

    members: tuple[Endpoint, ...]
    tls: bool

    def starting_at(self, turn: int) -> Cluster:
        """The same members in another order: gRPC tries the first one first."""
        turn %= len(self.members)
        return dataclasses.replace(self, members=self.members[turn:] + self.members[:turn])

    def __str__(self) -> str:
        return ",".join(str(member) for member in self.members)


def parse_cluster(settings: EtcdSettings) -> Cluster:
    """The members, once all that can be wrong in the settings has been looked at.

    Raises SettingsError, never with a password in it.
    """
    texts = [text.strip() for text in ",".join(settings.endpoints).split(",") if text.strip()]
    if not texts:
        raise errors.SettingsError("no etcd endpoint given, expected such as http://192.0.2.1:2379")
    parsed = [_parse_endpoint(text) for text in texts]
    if len({tls for _, tls in parsed}) > 1:
        raise errors.SettingsError("etcd endpoints mix http and https; use one of them for all members")
    cluster = Cluster(members=tuple(endpoint for endpoint, _ in parsed), tls=parsed[0][1])
    _check_credentials(settings, cluster)
    return cluster


def plan_targets(cluster: Cluster, addresses: Mapping[str, Sequence[IPAddress]], server_name: str) -> list[Target]:
    """The channels to try, in turn; `addresses` are those of each member's host, none where its name is unknown.

    Without TLS, or with a name that all certificates share, all members are one channel and gRPC fails over by
    itself. Otherwise each host is its own, since a channel can expect only one name.
    """
    if not cluster.tls:
        return [Target(address=_join(cluster.members, addresses))]
    names = dict.fromkeys(server_name or member.host for member in cluster.members if addresses[member.host])
    return [
        Target(
            address=_join([member for member in cluster.members if name in (server_name, member.host)], addresses),
            tls_name=name,
        )
        for name in names
    ]


def _join(members: Sequence[Endpoint], addresses: Mapping[str, Sequence[IPAddress]]) -> str:
    pairs = [(address, member.port) for member in members for address in _one_family(addresses[member.host])]
    if all(address.version == 4 for address, _ in pairs):
        return "ipv4:" + ",".join(f"{address}:{port}" for address, port in pairs)
    # A target has one family: an IPv4 member beside an IPv6 one is reached by its mapped address.
    mapped = [(f"::ffff:{address}" if address.version == 4 else str(address), port) for address, port in pairs]
    return "ipv6:" + ",".join(f"[{address}]:{port}" for address, port in mapped)


def _one_family(addresses: Sequence[IPAddress]) -> Sequence[IPAddress]:
    return [address for address in addresses if address.version == 4] or addresses


def _parse_endpoint(text: str) -> tuple[Endpoint, bool]:
    if "@" in text:
        raise errors.SettingsError("an etcd endpoint must not hold a user; use the settings for user and password")
    if "://" not in text:
        text = f"http://{text}"
    expected = f"etcd endpoint {text}: expected such as http://192.0.2.1:2379 or https://[2001:db8::1]:2379"
    try:
        url = urllib.parse.urlsplit(text)
        host, port = url.hostname, url.port
        if url.netloc.startswith("["):
            ipaddress.IPv6Address(host or "")
    except ValueError as exc:
        raise errors.SettingsError(expected) from exc
    if url.scheme not in ("http", "https") or not host or port == 0 or url.path.strip("/") or url.query:
        raise errors.SettingsError(expected)
    return Endpoint(host=host, port=port or DEFAULT_PORT), url.scheme == "https"


def _check_credentials(settings: EtcdSettings, cluster: Cluster) -> None:
    if bool(settings.cert_file) != bool(settings.key_file):
        raise errors.SettingsError("an etcd client certificate needs its key, and the key its certificate")
    if bool(settings.username) != bool(settings.password):
        raise errors.SettingsError("an etcd user needs a password, and the password a user")
    if not cluster.tls and (settings.ca_file or settings.cert_file):
        raise errors.SettingsError("etcd certificates are given but the endpoints are http; write https://")
