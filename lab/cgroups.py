"""A cgroup of its own for each machine of a lab, in whatever layout the kernel is run: v1, v2 or both.

Each machine gets a directory `flannelpy-lab.<lab>.<machine>` at the top of every mounted hierarchy, and enters a
cgroup namespace there, so its dockerd sees that directory as the root and makes everything below it. That gives
each host its own accounting, and `remove` finds all that dockerd, containerd and runc left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Final

from lab import command, errors

_V2_CONTROLLERS: Final = ("cpuset", "cpu", "io", "memory", "pids")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """One mounted hierarchy. options: what `mount -o` needs to mount it again; empty for v2."""

    mountpoint: pathlib.Path
    options: str

    @property
    def is_v2(self) -> bool:
        """Whether this is the unified hierarchy."""
        return not self.options


def parse_mountinfo(text: str) -> tuple[Hierarchy, ...]:
    """Find the hierarchies in /proc/self/mountinfo (proc(5)); each once, where it is mounted first."""
    found: dict[str, Hierarchy] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        mountpoint = before.split()[4]
        kind, _, super_options = after.split(" ")[:3]
        if kind not in ("cgroup", "cgroup2"):
            continue
        options = "" if kind == "cgroup2" else _v1_options(super_options)
        found.setdefault(options, Hierarchy(mountpoint=pathlib.Path(mountpoint), options=options))
    return tuple(found.values())


def observe() -> tuple[Hierarchy, ...]:
    """Look at what is mounted here.

    Raises: LabError if nothing is.
    """
    found = parse_mountinfo(pathlib.Path("/proc/self/mountinfo").read_text())
    if not found:
        raise errors.LabError("no cgroups here: `mount -t cgroup2 none /sys/fs/cgroup`")
    return found


def ensure(name: str, hierarchies: Sequence[Hierarchy]) -> list[pathlib.Path]:
    """Make the directories of one machine; give the files to write a pid to."""
    return [_ensure_one(hierarchy, name) / "cgroup.procs" for hierarchy in hierarchies]


def pids(name: str, hierarchies: Sequence[Hierarchy]) -> set[int]:
    """List every process below a machine's directories, which may vanish meanwhile."""
    found: set[int] = set()
    for hierarchy in hierarchies:
        for directory, _, _ in os.walk(hierarchy.mountpoint / name):  # glob would raise where one has just gone
            with contextlib.suppress(OSError):
                found |= {int(pid) for pid in (pathlib.Path(directory) / "cgroup.procs").read_text().split()}
    return found


def remove(name: str, hierarchies: Sequence[Hierarchy], *, timeout_s: float = 5) -> None:
    """Delete a machine's directories; what is not there is not missed.

    The kernel lets go of a dead process's cgroup a little after the process, hence the wait.
    Raises: Timeout.
    """
    for hierarchy in hierarchies:
        top = hierarchy.mountpoint / name
        command.wait_until(f"cgroup {top} empty", functools.partial(_remove_tree, top), timeout_s=timeout_s)


def mount_script(hierarchies: Sequence[Hierarchy]) -> str:
    """Write the shell lines that mount, below ./sys/fs/cgroup, what a machine sees from inside its namespace.

    On v2 alone, the processes already there move aside: a cgroup with processes cannot hand controllers down.
    """
    if all(hierarchy.is_v2 for hierarchy in hierarchies):
        return """
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir -p sys/fs/cgroup/init
for pid in $(cat sys/fs/cgroup/cgroup.procs); do echo "$pid" > sys/fs/cgroup/init/cgroup.procs || true; done
for c in $(cat sys/fs/cgroup/cgroup.controllers); do echo "+$c" > sys/fs/cgroup/cgroup.subtree_control || true; done
"""
    lines = ["mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup"]
    for hierarchy in hierarchies:
        where = f"sys/fs/cgroup/{hierarchy.mountpoint.name}"
        how = "-t cgroup2" if hierarchy.is_v2 else f"-t cgroup -o {hierarchy.options}"
        lines += [f"mkdir -p {where}", f"mount {how} cgroup {where}"]
        if "," in hierarchy.mountpoint.name:
            lines += [f"ln -s {hierarchy.mountpoint.name} sys/fs/cgroup/{c}" for c in hierarchy.options.split(",")]
    return "\n".join(lines)


def joinable(procs: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Give the files through which a later process joins: below `init`, where a v2 machine keeps its processes."""
    return [aside if (aside := path.parent / "init" / path.name).exists() else path for path in procs]


def _v1_options(super_options: str) -> str:
    kept = [option for option in super_options.split(",") if option not in ("rw", "ro", "xattr", "clone_children")]
    names = [option for option in kept if not option.startswith("release_agent=")]
    return ",".join(["none", *names] if names and names[0].startswith("name=") else names)


def _ensure_one(hierarchy: Hierarchy, name: str) -> pathlib.Path:
    top = hierarchy.mountpoint / name
    if hierarchy.is_v2:
        for controller in _V2_CONTROLLERS:  # one by one: the kernel refuses all if it lacks one
            with contextlib.suppress(OSError):
                (hierarchy.mountpoint / "cgroup.subtree_control").write_text(f"+{controller}")
    top.mkdir(exist_ok=True)
    if hierarchy.options == "cpuset":  # empty in a new directory, and then no process may enter
        for setting in ("cpuset.cpus", "cpuset.mems"):
            (top / setting).write_text((hierarchy.mountpoint / setting).read_text())
    return top


def _remove_tree(top: pathlib.Path) -> bool:
    """Delete bottom up; False if the kernel still holds one."""
    for directory in sorted((path for path in top.glob("**/") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            directory.rmdir()
    return not top.exists()
