"""Root file systems of the engines, made by mmdebstrap once and kept in the cache.

Each suite's root has that suite's docker.io and etcd and the tools of a host, so a lab needs nothing of them from
the machine, and one root serves hosts and services alike. Roots are read-only for everyone: machines lay an
overlay over them. The cache is $FLANNELPY_LAB_CACHE, else ~/.cache/flannelpy-lab.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Final

from lab import command, config, errors, packages

log = logging.getLogger(__name__)

_EVERYWHERE: Final = (
    *("docker.io", "iptables", "nftables", "iproute2", "ca-certificates", "procps", "tini", "busybox-static"),
    *("etcd-server", "etcd-client", "docker-registry"),
    *("iperf3", "traceroute", "iputils-ping", "curl", "socat", "tcpdump", "conntrack"),
    *("firewalld", "dbus", "docker-compose"),
)
# Before trixie, docker.io held the client, and the client could build by itself.
_SPLIT: Final = ("docker-cli", "docker-buildx")
# In bookworm, what merges /usr otherwise brings 50 MB of perl along.
_MERGED: Final = "usr-is-merged"
_NOT_SLIM: Final = ("doc", "groff", "info", "linda", "lintian", "locale", "man")
_FORMAT: Final = "1"


def cache_dir() -> pathlib.Path:
    """Say where roots, images and the build engine's data are kept."""
    chosen = os.environ.get("FLANNELPY_LAB_CACHE")
    return pathlib.Path(chosen) if chosen else pathlib.Path.home() / ".cache" / "flannelpy-lab"


def packages_of(suite: str) -> tuple[str, ...]:
    """List what a suite's root holds."""
    return tuple(sorted((*_EVERYWHERE, *((_MERGED,) if suite == "bookworm" else _SPLIT))))


def path_of(suite: str) -> pathlib.Path:
    """Say where the root of a suite is, or would be. Other packages make another root."""
    key = hashlib.sha256(" ".join((_FORMAT, suite, *packages_of(suite))).encode()).hexdigest()[:12]
    return cache_dir() / "roots" / f"{suite}-{key}"


def ensure(suite: str) -> pathlib.Path:
    """Give the root of a suite, made first if need be (half a minute, some 600 MB).

    Raises: LabError, CommandFailed with the end of mmdebstrap's log.
    """
    root = path_of(suite)
    if root.is_dir():
        return root
    packages.ensure()
    root.parent.mkdir(parents=True, exist_ok=True)
    with locked(root.with_suffix(".lock")):
        if not root.is_dir():
            log.info("making root suite=%s path=%s", suite, root)
            _make(suite, root)
    return root


def debootstrap(
    suite: str, target: pathlib.Path, *, include: Sequence[str] = (), slim: bool = False, tar: bool = False
) -> None:
    """Make a minimal Debian as a directory or a tar file; slim leaves out what Debian's slim images leave out.

    A testing suite's Release file may be expired on a mirror that is not the newest, hence the option.
    """
    argv = ["mmdebstrap", "--variant=minbase", '--aptopt=Acquire::Check-Valid-Until "false"']
    argv += [f"--format={'tar' if tar else 'directory'}"]
    if suite == "bookworm":
        argv += ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]
        include = sorted({_MERGED, *include})
    argv += [f"--include={','.join(include)}"] if include else []
    argv += [f"--dpkgopt=path-exclude=/usr/share/{where}/*" for where in _NOT_SLIM] if slim else []
    argv += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"] if slim else []
    argv += [suite, str(target), packages.mirror()]
    command.check(command.run(argv, timeout_s=1800, shown=argv[:-1]))


def remove_all() -> list[pathlib.Path]:
    """Delete every cached root; running labs must be down. Says which were there."""
    roots = sorted(path for path in (cache_dir() / "roots").glob("*") if path.is_dir())
    for root in roots:
        shutil.rmtree(root)
    return roots


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Hold a lock file, so that of two labs that need the same thing one makes it and the other waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def suite_of(engine: str) -> str:
    """Say which suite has an engine.

    Raises: ConfigError.
    """
    try:
        return config.SUITES[engine]
    except KeyError:
        raise errors.ConfigError(f"engine {engine}: one of {', '.join(config.ENGINES)}") from None


def _make(suite: str, root: pathlib.Path) -> None:
    """Make it beside its place and rename, or an interrupted run would be taken for a whole root."""
    for leftover in root.parent.glob(f"{root.name}.tmp-*"):
        shutil.rmtree(leftover)
    beside = root.with_name(f"{root.name}.tmp-{os.getpid()}")
    try:
        debootstrap(suite, beside, include=packages_of(suite))
        for mine in ("etc/resolv.conf", "etc/hostname"):  # copied from this machine
            (beside / mine).unlink(missing_ok=True)
        beside.rename(root)
    finally:
        if beside.exists():
            shutil.rmtree(beside, ignore_errors=True)
