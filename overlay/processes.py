"""Finds the flannelds of this host: the one place that reads /proc of other processes.

Built by `plugin.graph`, asked by `member` and `node`. Needs no privilege: what a process is called, its arguments and
which network namespace it is in are open to everybody who sees it at all. A managed plugin has a process namespace of
its own, so `plugin/config.json` mounts the host's /proc aside. Keeps nothing, and skips what ends while it looks.
Source: proc(5).
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

from overlay import flanneld, lease

OWN_NETWORK = pathlib.Path("/proc/thread-self/net/dev")
"""Its inode is that of the network namespace's device table: the same in every /proc, and without ptrace's rights,
which the link ns/net asks for."""


def find_flannelds(proc: pathlib.Path) -> tuple[flanneld.Flanneld, ...]:
    """Those in our own network namespace, by pid. Empty where `proc` cannot be read."""
    try:
        ours = OWN_NETWORK.stat().st_ino
        entries = sorted((entry for entry in proc.iterdir() if entry.name.isdecimal()), key=lambda one: int(one.name))
    except OSError:
        return ()
    return tuple(_iter_flannelds(entries, ours))


def read_subnet_env(path: pathlib.Path) -> lease.SubnetKey | None:
    """The subnet that a flanneld had on this host; None where none has left its file."""
    try:
        return flanneld.parse_subnet_env(path.read_text(errors="replace"))
    except OSError:
        return None


def _iter_flannelds(entries: list[pathlib.Path], network: int) -> Iterator[flanneld.Flanneld]:
    for entry in entries:
        with contextlib.suppress(OSError):  # it has ended
            argv = _words(entry / "cmdline")
            comm = (entry / "comm").read_text(errors="replace").rstrip("\n")
            if flanneld.is_flanneld(comm, argv) and (entry / "net/dev").stat().st_ino == network:
                yield flanneld.parse_flanneld(int(entry.name), argv, _environ(entry))


def _environ(entry: pathlib.Path) -> dict[str, str]:
    """Empty for a process that has more rights than we do."""
    try:
        return {name: value for name, _, value in (word.partition("=") for word in _words(entry / "environ"))}
    except PermissionError:
        return {}


def _words(path: pathlib.Path) -> list[str]:
    return path.read_bytes().decode(errors="replace").split("\0")[:-1]
