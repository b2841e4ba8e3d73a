"""What flanneld says of itself on this host: its command line, its environment and the file that it leaves behind.

Pure: `processes` reads, `preflight` judges. No flanneld is ever talked to, stopped or configured by us.
Source: flannel main.go (flags and their environment), pkg/subnet/subnet.go (WriteSubnetFile).
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping, Sequence

from overlay import lease

DEFAULT_PREFIX = "/coreos.com/network"

_NAMES = {"flanneld", *(f"flanneld-{arch}" for arch in ("amd64", "arm", "arm64", "ppc64le", "riscv64", "s390x"))}
"""What the binary is called: in packages and images, and as a download of its own."""

_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
"""Source: Go strconv.ParseBool."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flanneld:
    """A flanneld that runs. `prefix` is where it keeps its leases in etcd, cleaned; None: in Kubernetes instead."""

    pid: int
    prefix: str | None


def is_flanneld(comm: str, argv: Sequence[str]) -> bool:
    """Whether a process is one. `comm` is the kernel's name for it, cut to 15 characters; scripts have one too."""
    return bool(argv) and (comm in _NAMES or argv[0].rpartition("/")[2] in _NAMES)


def parse_flanneld(pid: int, argv: Sequence[str], environ: Mapping[str, str]) -> Flanneld:
    """What a flanneld was told. `environ` may be empty: of a process with more rights than ours it cannot be read.

    Later flags outrank earlier ones, and every flag outranks the environment.
    """
    kube = _read_flag(argv, "kube-subnet-mgr", takes_word=False) or environ.get("FLANNELD_KUBE_SUBNET_MGR", "")
    if kube in _TRUE:
        return Flanneld(pid=pid, prefix=None)
    prefix = _read_flag(argv, "etcd-prefix") or environ.get("FLANNELD_ETCD_PREFIX") or DEFAULT_PREFIX
    return Flanneld(pid=pid, prefix=lease.clean_prefix(prefix))


def parse_subnet_env(text: str) -> lease.SubnetKey | None:
    """The subnet in the file that flanneld writes for Docker; None where it names none, or more than one of a family.

    As loose as flannel, which takes comma lists and skips what is no network. Source: flannel main.go,
    ReadCIDRsFromSubnetFile.
    """
    pairs = (line.removeprefix("export ").partition("=") for line in map(str.strip, text.splitlines()))
    values = {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}
    v4 = [net for net in _networks(values.get("FLANNEL_SUBNET", "")) if isinstance(net, ipaddress.IPv4Network)]
    v6 = [net for net in _networks(values.get("FLANNEL_IPV6_SUBNET", "")) if isinstance(net, ipaddress.IPv6Network)]
    if len(v4) != 1:
        return None
    return lease.SubnetKey(v4=v4[0], v6=v6[0] if len(v6) == 1 else None)


def _read_flag(argv: Sequence[str], name: str, *, takes_word: bool = True) -> str:
    """The value that counts: the last one. One dash or two, and `=` or the next word, are all the same to Go."""
    found = ""
    for at, word in enumerate(argv):
        if not word.startswith("-"):
            continue
        key, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if key != name:
            continue
        if equals:
            found = value
        elif not takes_word:
            found = "true"
        elif at + 1 < len(argv):
            found = argv[at + 1]
    return found


def _networks(text: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """The parts of a comma list that are networks; host bits are cut off: flanneld writes its bridge's address."""
    found = []
    for part in text.split(","):
        try:
            found.append(ipaddress.ip_interface(part.strip()).network)
        except ValueError:
            continue
    return found
