"""Every setting: its name, default, unit, check and description, in one place.

Pure: the environment comes in as an argument. `plugin/config.json` lists the same names for `docker plugin set`
(tests/plugin/test_config_json.py compares), `README.md` the same descriptions. A wrong setting is a Problem, not an
exception: the plugin must still listen, or dockerd disables it and nobody reads why.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Mapping

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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the operator chose. Empty texts mean "not set"."""

    etcd_endpoints: tuple[str, ...] = ()
    etcd_prefix: str = "/coreos.com/network"
    etcd_ca_file: str = ""
    etcd_cert_file: str = ""
    etcd_key_file: str = ""
    etcd_username: str = ""
    etcd_password: str = dataclasses.field(default="", repr=False)
    iface: str = ""
    public_ip: ipaddress.IPv4Address | None = None
    public_ipv6: ipaddress.IPv6Address | None = None
    tx_checksum: str = "auto"
    network_config: str = ""
    default_network: str = ""
    address_quarantine_s: int = 60
    sticky_mac: bool = False
    log_level: str = "info"
    metrics_address: Address | None = None
    docker_host: str = ""
    state_dir: str = "/data"
    run_dir: str = "/host/run"

    @property
    def standalone(self) -> bool:
        """No etcd: the registry is kept in the state file, for this host alone."""
        return not self.etcd_endpoints


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One setting that cannot be used, and what was expected of it."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"setting {self.name}: {self.text}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One setting. `field` is its place in Settings; `parse` raises ValueError with what was expected."""

    name: str
    field: str
    parse: Callable[[str], object]
    description: str
    managed: bool = True
    """False for what only a plugin outside Docker needs: not in config.json."""


def parse_settings(env: Mapping[str, str]) -> tuple[Settings, tuple[Problem, ...]]:
    """Read all settings; an empty value counts as not set. What has a Problem keeps its default."""
    values: dict[str, object] = {}
    problems = []
    for known in KNOWN:
        text = env.get(known.name, "").strip()
        if not text:
            continue
        try:
            values[known.field] = known.parse(text)
        except ValueError as exc:
            problems.append(Problem(name=known.name, text=str(exc)))
    settings = Settings(**values)  # type: ignore[arg-type]  # each parse returns its field's type: a test checks
    return settings, (*problems, *_combinations(settings))


def _combinations(settings: Settings) -> list[Problem]:
    problems = []
    if bool(settings.etcd_cert_file) != bool(settings.etcd_key_file):
        missing = "ETCD_KEY_FILE" if settings.etcd_cert_file else "ETCD_CERT_FILE"
        problems.append(
            Problem(name=missing, text="a client certificate needs both ETCD_CERT_FILE and ETCD_KEY_FILE")
        )
    if bool(settings.etcd_username) != bool(settings.etcd_password):
        missing = "ETCD_PASSWORD" if settings.etcd_username else "ETCD_USERNAME"
        problems.append(Problem(name=missing, text="set both ETCD_USERNAME and ETCD_PASSWORD, or neither"))
    tls_files = settings.etcd_ca_file or settings.etcd_cert_file
    if tls_files and any(endpoint.startswith("http://") for endpoint in settings.etcd_endpoints):
        problems.append(
            Problem(name="ETCD_ENDPOINTS", text="TLS files are set, so endpoints must start with https://")
        )
    return problems


def _endpoints(text: str) -> tuple[str, ...]:
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


def _prefix(text: str) -> str:
    if not text.startswith("/") or ".." in text or len(text) > 512 or any(char.isspace() for char in text):
        raise ValueError(f"expected a key prefix such as /coreos.com/network, got {text!r}")
    parts = [part for part in text.split("/") if part]
    if not parts:
        raise ValueError(f"expected a key prefix such as /coreos.com/network, got {text!r}")
    return "/" + "/".join(parts)


def _file(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"expected an absolute path inside the plugin, got {text!r}")
    return text


def _iface(text: str) -> str:
    try:
        re.compile(text)
    except re.error as exc:
        raise ValueError(f"expected an interface name, an IP or a regular expression, got {text!r}: {exc}") from exc
    return text


def _public_ip(text: str) -> ipaddress.IPv4Address:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as exc:
        raise ValueError(f"expected an IPv4 address, got {text!r}") from exc
    if address.is_unspecified or address.is_multicast or address.is_loopback or address.is_reserved:
        raise ValueError(f"expected an address other hosts can reach, got {text!r}")
    return address


def _public_ipv6(text: str) -> ipaddress.IPv6Address:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError as exc:
        raise ValueError(f"expected an IPv6 address, got {text!r}") from exc
    unfit = address.is_unspecified or address.is_multicast or address.is_loopback or address.is_link_local
    if unfit or address.ipv4_mapped is not None or address.scope_id is not None:
        raise ValueError(f"expected an address other hosts can reach, got {text!r}")
    return address


def _network_config(text: str) -> str:
    try:
        netconfig.parse_network_config(text)
    except overlay_errors.ConfigInvalid as exc:
        raise ValueError(f"flannel would refuse this config: {exc}") from exc
    return text


def _tx_checksum(text: str) -> str:
    if text.lower() not in TX_CHECKSUMS:
        raise ValueError(f"expected one of {', '.join(TX_CHECKSUMS)}; got {text!r}")
    return text.lower()


def _network_name(text: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", text):
        raise ValueError(f"expected a Docker network name, got {text!r}")
    return text


def _quarantine(text: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", text) or int(text) > QUARANTINE_MAX_S:
        raise ValueError(f"expected seconds, 0 to {QUARANTINE_MAX_S}; got {text!r}")
    return int(text)


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def _log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise ValueError(f"expected one of {', '.join(LOG_LEVELS)}; got {text!r}")
    return text.lower()


def _address(text: str) -> Address:
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


def _docker_host(text: str) -> str:
    if not re.fullmatch(r"(unix:///|tcp://|http://).+", text):
        raise ValueError(f"expected an address such as unix:///host/run/docker.sock, got {text!r}")
    return text


KNOWN: tuple[Known, ...] = (
    Known(
        name="ETCD_ENDPOINTS",
        field="etcd_endpoints",
        parse=_endpoints,
        description="etcd's client URLs, separated by commas; empty: standalone, this host alone",
    ),
    Known(
        name="ETCD_PREFIX",
        field="etcd_prefix",
        parse=_prefix,
        description="key prefix of the default flannel network",
    ),
    Known(
        name="ETCD_CA_FILE",
        field="etcd_ca_file",
        parse=_file,
        description="CA certificate for https endpoints (PEM file inside the plugin, see the mount etcd-tls)",
    ),
    Known(
        name="ETCD_CERT_FILE",
        field="etcd_cert_file",
        parse=_file,
        description="client certificate for etcd (PEM file inside the plugin)",
    ),
    Known(
        name="ETCD_KEY_FILE",
        field="etcd_key_file",
        parse=_file,
        description="key of the client certificate (PEM file inside the plugin)",
    ),
    Known(name="ETCD_USERNAME", field="etcd_username", parse=str, description="etcd user"),
    Known(name="ETCD_PASSWORD", field="etcd_password", parse=str, description="password of the etcd user"),
    Known(
        name="IFACE",
        field="iface",
        parse=_iface,
        description="underlay interface: name, IP or regular expression; empty: the default route's",
    ),
    Known(
        name="PUBLIC_IP",
        field="public_ip",
        parse=_public_ip,
        description="IPv4 address at which other hosts reach this one; empty: the interface's",
    ),
    Known(
        name="PUBLIC_IPV6",
        field="public_ipv6",
        parse=_public_ipv6,
        description="IPv6 address at which other hosts reach this one; empty: the interface's",
    ),
    Known(
        name="TX_CHECKSUM",
        field="tx_checksum",
        parse=_tx_checksum,
        description="whether tunnel devices leave checksums to the hardware below: on, off, or auto, which finds out",
    ),
    Known(
        name="NETWORK_CONFIG",
        field="network_config",
        parse=_network_config,
        description="flannel's network config (JSON): put into etcd if absent; the config of standalone mode",
    ),
    Known(
        name="DEFAULT_NETWORK",
        field="default_network",
        parse=_network_name,
        description="Docker network that the plugin creates by itself; empty: none",
    ),
    Known(
        name="ADDRESS_QUARANTINE",
        field="address_quarantine_s",
        parse=_quarantine,
        description="seconds for which a released address is kept for the container that had it; 0: not at all",
    ),
    Known(
        name="STICKY_MAC",
        field="sticky_mac",
        parse=_flag,
        description="true: addresses come back by --mac-address too; other containers then get random MACs",
    ),
    Known(name="LOG_LEVEL", field="log_level", parse=_log_level, description=f"one of {', '.join(LOG_LEVELS)}"),
    Known(
        name="METRICS_ADDRESS",
        field="metrics_address",
        parse=_address,
        description="IP:PORT that serves Prometheus metrics over TCP; empty: on the plugin's sockets only",
    ),
    Known(
        name="DOCKER_HOST",
        field="docker_host",
        parse=_docker_host,
        description="address of the Engine API; empty: docker.sock in the mounted /run",
    ),
    Known(
        name="STATE_DIR",
        field="state_dir",
        parse=_file,
        description="directory of the state file",
        managed=False,
    ),
    Known(
        name="RUN_DIR",
        field="run_dir",
        parse=_file,
        description="the host's /run",
        managed=False,
    ),
)
