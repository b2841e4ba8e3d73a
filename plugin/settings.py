"""Every setting: its name, default, unit, check and description, in one place.

Pure: the environment comes in as an argument; how a value is read and checked is in `setting_values`.
`plugin/config.json` lists the same names for `docker plugin set` (tests/plugin/test_config_json.py compares),
`README.md` the same descriptions. A wrong setting is a Problem, not an exception: the plugin must still listen, or
dockerd disables it and nobody reads why.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Mapping

from plugin import setting_values

Address = setting_values.Address


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


KNOWN: tuple[Known, ...] = (
    Known(
        name="ETCD_ENDPOINTS",
        field="etcd_endpoints",
        parse=setting_values.parse_endpoints,
        description="etcd's client URLs, separated by commas; empty: standalone, this host alone",
    ),
    Known(
        name="ETCD_PREFIX",
        field="etcd_prefix",
        parse=setting_values.parse_prefix,
        description="key prefix of the default flannel network",
    ),
    Known(
        name="ETCD_CA_FILE",
        field="etcd_ca_file",
        parse=setting_values.parse_file,
        description="CA certificate for https endpoints (PEM file inside the plugin, see the mount etcd-tls)",
    ),
    Known(
        name="ETCD_CERT_FILE",
        field="etcd_cert_file",
        parse=setting_values.parse_file,
        description="client certificate for etcd (PEM file inside the plugin)",
    ),
    Known(
        name="ETCD_KEY_FILE",
        field="etcd_key_file",
        parse=setting_values.parse_file,
        description="key of the client certificate (PEM file inside the plugin)",
    ),
    Known(name="ETCD_USERNAME", field="etcd_username", parse=str, description="etcd user"),
    Known(name="ETCD_PASSWORD", field="etcd_password", parse=str, description="password of the etcd user"),
    Known(
        name="IFACE",
        field="iface",
        parse=setting_values.parse_iface,
        description="underlay interface: name, IP or regular expression; empty: the default route's",
    ),
    Known(
        name="PUBLIC_IP",
        field="public_ip",
        parse=setting_values.parse_public_ip,
        description="IPv4 address at which other hosts reach this one; empty: the interface's",
    ),
    Known(
        name="PUBLIC_IPV6",
        field="public_ipv6",
        parse=setting_values.parse_public_ipv6,
        description="IPv6 address at which other hosts reach this one; empty: the interface's",
    ),
    Known(
        name="TX_CHECKSUM",
        field="tx_checksum",
        parse=setting_values.parse_tx_checksum,
        description="whether tunnel devices leave checksums to the hardware below: on, off, or auto, which finds out",
    ),
    Known(
        name="NETWORK_CONFIG",
        field="network_config",
        parse=setting_values.parse_network_config,
        description="flannel's network config (JSON): put into etcd if absent; the config of standalone mode",
    ),
    Known(
        name="DEFAULT_NETWORK",
        field="default_network",
        parse=setting_values.parse_network_name,
        description="Docker network that the plugin creates by itself; empty: none",
    ),
    Known(
        name="ADDRESS_QUARANTINE",
        field="address_quarantine_s",
        parse=setting_values.parse_quarantine,
        description="seconds for which a released address is kept for the container that had it; 0: not at all",
    ),
    Known(
        name="STICKY_MAC",
        field="sticky_mac",
        parse=setting_values.parse_flag,
        description="true: addresses come back by --mac-address too; other containers then get random MACs",
    ),
    Known(
        name="LOG_LEVEL",
        field="log_level",
        parse=setting_values.parse_log_level,
        description=f"one of {', '.join(setting_values.LOG_LEVELS)}",
    ),
    Known(
        name="METRICS_ADDRESS",
        field="metrics_address",
        parse=setting_values.parse_address,
        description="IP:PORT that serves Prometheus metrics over TCP; empty: on the plugin's sockets only",
    ),
    Known(
        name="DOCKER_HOST",
        field="docker_host",
        parse=setting_values.parse_docker_host,
        description="address of the Engine API; empty: docker.sock in the mounted /run",
    ),
    Known(
        name="STATE_DIR",
        field="state_dir",
        parse=setting_values.parse_file,
        description="directory of the state file",
        managed=False,
    ),
    Known(
        name="RUN_DIR",
        field="run_dir",
        parse=setting_values.parse_file,
        description="the host's /run",
        managed=False,
    ),
)
