"""The values of settings, one at a time: each function reads a text or raises ValueError with what was expected.

Pure. Used by `settings` alone, which has the table of them and adds whose value it was.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re

from overlay import errors as overlay_errors
from overlay import netconfig

LOG_LEVELS = ("debug", "info", "warning", "error")
TX_CHECKSUMS = ("auto", "on", "off")
QUARANTINE_MAX_S = 86_400


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to serve metrics over TCP."""

    host: str
    port: int


def parse_endpoints(text: str) -> tuple[str, ...]:
    """Some URLs of etcd, all with the same scheme."""
    endpoints = tuple(part.strip() for part in text.split(",") if part.strip())
    if not endpoints:
        raise ValueError(f"expected URLs such as http://10.0.0.3:2379, separated by commas; got {text!r}")
    for endpoint in endpoints:
        found = re.fullmatch(r"https?://(\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::([0-9]{1,5}))?/?", endpoint)
        if not found or not 0 < int(found[2] or 1) < 65536:
            raise ValueError(f"expected URLs such as http://10.0.0.3:2379, separated by commas; got {endpoint!r}")
    if len({endpoint.partition("://")[0] for endpoint in endpoints}) > 1:
        raise ValueError("expected either http:// or https:// for all endpoints, got both")
    return endpoints


def parse_prefix(text: str) -> str:
    """A key prefix, without slashes that mean nothing."""
    if not text.startswith("/") or ".." in text or len(text) > 512 or any(char.isspace() for char in text):
        raise ValueError(f"expected a key prefix such as /coreos.com/network, got {text!r}")
    parts = [part for part in text.split("/") if part]
    if not parts:
        raise ValueError(f"expected a key prefix such as /coreos.com/network, got {text!r}")
    return "/" + "/".join(parts)


def parse_file(text: str) -> str:
    """A path inside the plugin; whether it is there is seen when it is read."""
    if not text.startswith("/"):
        raise ValueError(f"expected an absolute path inside the plugin, got {text!r}")
    return text


def parse_iface(text: str) -> str:
    """A name or an IP is a regular expression, too."""
    try:
        re.compile(text)
    except re.error as exc:
        raise ValueError(f"expected an interface name, an IP or a regular expression, got {text!r}: {exc}") from exc
    return text


def parse_public_ip(text: str) -> ipaddress.IPv4Address:
    """An address that could be reached from elsewhere."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as exc:
        raise ValueError(f"expected an IPv4 address, got {text!r}") from exc
    if address.is_unspecified or address.is_multicast or address.is_loopback or address.is_reserved:
        raise ValueError(f"expected an address other hosts can reach, got {text!r}")
    return address


def parse_public_ipv6(text: str) -> ipaddress.IPv6Address:
    """As `parse_public_ip`; link-local ones name no host without an interface."""
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError as exc:
        raise ValueError(f"expected an IPv6 address, got {text!r}") from exc
    unfit = address.is_unspecified or address.is_multicast or address.is_loopback or address.is_link_local
    if unfit or address.ipv4_mapped is not None or address.scope_id is not None:
        raise ValueError(f"expected an address other hosts can reach, got {text!r}")
    return address


def parse_network_config(text: str) -> str:
    """The text as it is, if flannel would take it."""
    try:
        netconfig.parse_network_config(text)
    except overlay_errors.ConfigInvalid as exc:
        raise ValueError(f"flannel would refuse this config: {exc}") from exc
    return text


def parse_tx_checksum(text: str) -> str:
    """One of TX_CHECKSUMS."""
    if text.lower() not in TX_CHECKSUMS:
        raise ValueError(f"expected one of {', '.join(TX_CHECKSUMS)}; got {text!r}")
    return text.lower()


def parse_network_name(text: str) -> str:
    """What Docker takes for a name."""
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", text):
        raise ValueError(f"expected a Docker network name, got {text!r}")
    return text


def parse_quarantine(text: str) -> int:
    """Whole seconds, up to a day."""
    if not re.fullmatch("[0-9]{1,6}", text) or int(text) > QUARANTINE_MAX_S:
        raise ValueError(f"expected seconds, 0 to {QUARANTINE_MAX_S}; got {text!r}")
    return int(text)


def parse_flag(text: str) -> bool:
    """True or false, in any case."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def parse_log_level(text: str) -> str:
    """One of LOG_LEVELS."""
    if text.lower() not in LOG_LEVELS:
        raise ValueError(f"expected one of {', '.join(LOG_LEVELS)}; got {text!r}")
    return text.lower()


def parse_address(text: str) -> Address:
    """IP:PORT, an IPv6 address in brackets."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
        number = int(port) if colon else 0
    except ValueError:
        number = 0
    if not 0 < number < 65536:
        raise ValueError(f"expected IP:PORT such as 127.0.0.1:9410, got {text!r}")
    return Address(host=host, port=number)


def parse_docker_host(text: str) -> str:
    """An address that the client of the Engine API knows."""
    if not re.fullmatch(r"(unix:///|tcp://|http://).+", text):
        raise ValueError(f"expected an address such as unix:///host/run/docker.sock, got {text!r}")
    return text
