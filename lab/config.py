"""What a lab shall look like. Pure: values in, values or ConfigError out.

Called by whoever wants a lab; `plan` turns a configuration into names and addresses.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final

from lab import errors

FIREWALLS: Final = ("iptables-nft", "iptables-legacy", "nftables")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Nftables:
    """How a dockerd is made to filter with nftables itself.

    args: its flags; env: variables of its environment; needs_forwarding: it does not switch ip_forward on, so the
    host does at its boot, and so it sets no policy of FORWARD either.
    """

    args: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    needs_forwarding: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What the lab knows of an engine.

    suite: of Debian, whose docker.io it is; "": none has it yet. nftables None: it filters with iptables alone.
    """

    suite: str
    nftables: Nftables | None = None

    @property
    def firewalls(self) -> tuple[str, ...]:
        """Those of FIREWALLS that it has."""
        return tuple(one for one in FIREWALLS if one != "nftables" or self.nftables is not None)


KNOWN: Final[Mapping[str, Engine]] = {
    "20.10": Engine(suite="bookworm"),
    "26.1": Engine(suite="trixie"),
    # It has no flag for it. It says so in `docker info`, makes no DOCKER-USER, and writes the name server's rules of
    # each container with nft; those of bridges stay with iptables.
    "28.5": Engine(suite="forky", nftables=Nftables(env={"DOCKER_FIREWALL_BACKEND": "nftables"})),
    "29": Engine(
        suite="",
        nftables=Nftables(
            args=("--firewall-backend=nftables", "--feature=swarm-nftables=true"), needs_forwarding=True
        ),
    ),
}
"""Once a suite has the next docker.io its name goes in here, and everything runs on that engine too."""

SUITES: Final[Mapping[str, str]] = {name: engine.suite for name, engine in KNOWN.items() if engine.suite}
ENGINES: Final = tuple(SUITES)
NFTABLES_ENGINES: Final = tuple(name for name in ENGINES if KNOWN[name].nftables is not None)
ETCD_MEMBERS: Final = (0, 1, 3)
MAX_HOSTS: Final = 50

_NAME = re.compile(r"[a-z][a-z0-9]{0,15}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LabConfig:
    """One lab. Two labs may run side by side if their names differ.

    name: lower-case letters and digits, at most 16; every namespace and directory of the lab begins with it.
    hosts: 1 to 50 Docker hosts, h1 to hN.
    engine: one of ENGINES, or several with commas, dealt out to the hosts in turn ("28.5,20.10").
    etcd_members: 0 (none), 1 or 3.
    firewall: the flavour behind the `iptables` command on the hosts, or dockerd's own backend nftables.
    dockerd_args: more flags for every dockerd, such as "--live-restore".
    shares: directories of this machine that appear on every host under the same path.
    mtu: of the underlay, bytes.
    """

    name: str = "lab"
    hosts: int = 2
    engine: str = "28.5"
    etcd_members: int = 1
    registry: bool = True
    firewall: str = "iptables-nft"
    dockerd_args: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    mtu: int = 1500

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises: ConfigError.
        """
        if not _NAME.fullmatch(self.name):
            raise errors.ConfigError(f"name {self.name!r}: 1 to 16 lower-case letters and digits, letter first")
        if not 1 <= self.hosts <= MAX_HOSTS:
            raise errors.ConfigError(f"hosts {self.hosts}: 1 to {MAX_HOSTS}")
        for engine in self.engine.split(","):
            _one_of("engine", engine, ENGINES)
        _one_of("etcd", self.etcd_members, ETCD_MEMBERS)
        _one_of("firewall", self.firewall, FIREWALLS)
        if self.firewall == "nftables":
            for engine in self.engine.split(","):
                _one_of("firewall nftables: engine", engine, NFTABLES_ENGINES)
        if not 1280 <= self.mtu <= 9000:
            raise errors.ConfigError(f"mtu {self.mtu}: 1280 to 9000")
        for share in self.shares:
            if not share.startswith("/") or any(c.isspace() for c in share):
                raise errors.ConfigError(f"share {share!r}: an absolute path without blanks")

    def engine_of(self, index: int) -> str:
        """Say which engine host number `index` (from 0) runs."""
        engines = self.engine.split(",")
        return engines[index % len(engines)]

    def nftables_of(self, engine: str) -> Nftables:
        """What makes an engine's dockerd filter as `firewall` says; nothing where that is iptables."""
        return (KNOWN[engine].nftables if self.firewall == "nftables" else None) or Nftables()

    @property
    def suites(self) -> tuple[str, ...]:
        """The Debian suites whose roots the lab needs; services run from the first one."""
        return tuple(dict.fromkeys(SUITES[engine] for engine in self.engine.split(",")))


def format_config(config: LabConfig) -> dict[str, object]:
    """Turn a configuration into JSON's types."""
    return dataclasses.asdict(config)


def parse_config(data: Mapping[str, Any]) -> LabConfig:  # Any: JSON
    """Read back what format_config wrote.

    Raises: ConfigError.
    """
    try:
        return LabConfig(**{**data, "dockerd_args": tuple(data["dockerd_args"]), "shares": tuple(data["shares"])})
    except (KeyError, TypeError) as exc:
        raise errors.ConfigError(f"not a lab's configuration: {exc}") from exc


def _one_of(field: str, value: object, possible: tuple[object, ...]) -> None:
    if value not in possible:
        raise errors.ConfigError(f"{field} {value}: one of {', '.join(map(str, possible))}")
