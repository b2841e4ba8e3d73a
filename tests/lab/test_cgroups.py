"""Reading the cgroup layout, and the lines that mount it again inside."""

from __future__ import annotations

import pathlib

from lab import cgroups

_V2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
_HYBRID = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:4 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
99 31 0:29 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct
"""


def test_v2_alone_is_one_hierarchy_without_options() -> None:
    assert cgroups.parse_mountinfo(_V2) == (cgroups.Hierarchy(mountpoint=pathlib.Path("/sys/fs/cgroup"), options=""),)


def test_each_hierarchy_of_a_hybrid_layout_is_found_once() -> None:
    assert cgroups.parse_mountinfo(_HYBRID) == (
        cgroups.Hierarchy(mountpoint=pathlib.Path("/sys/fs/cgroup/cpu,cpuacct"), options="cpu,cpuacct"),
        cgroups.Hierarchy(mountpoint=pathlib.Path("/sys/fs/cgroup/systemd"), options="none,name=systemd"),
        cgroups.Hierarchy(mountpoint=pathlib.Path("/sys/fs/cgroup/unified"), options=""),
    )


def test_a_machine_without_cgroups_has_none() -> None:
    assert cgroups.parse_mountinfo("22 27 0:21 / /proc rw,relatime - proc proc rw\n") == ()


def test_v2_alone_moves_processes_aside() -> None:
    assert "init/cgroup.procs" in cgroups.mount_script(cgroups.parse_mountinfo(_V2))


def test_a_hybrid_layout_is_mounted_as_it_is_outside() -> None:
    assert cgroups.mount_script(cgroups.parse_mountinfo(_HYBRID)).splitlines() == [
        "mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup",
        "mkdir -p sys/fs/cgroup/cpu,cpuacct",
        "mount -t cgroup -o cpu,cpuacct cgroup sys/fs/cgroup/cpu,cpuacct",
        "ln -s cpu,cpuacct sys/fs/cgroup/cpu",
        "ln -s cpu,cpuacct sys/fs/cgroup/cpuacct",
        "mkdir -p sys/fs/cgroup/systemd",
        "mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd",
        "mkdir -p sys/fs/cgroup/unified",
        "mount -t cgroup2 cgroup sys/fs/cgroup/unified",
    ]
