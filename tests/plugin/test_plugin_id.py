"""A managed plugin's id, as its mounts show it. The lines are of a plugin on Docker 28.5."""

from __future__ import annotations

import pytest

from plugin import plugin_id

ID = "3f4e2d1c" * 8


def line(root: str, point: str) -> str:
    return f"812 811 0:46 {root} {point} rw,relatime shared:30 - tmpfs tmpfs rw,size=65536k"


@pytest.mark.parametrize(
    "lines",
    [
        [line(f"/var/lib/docker/plugins/{ID}/rootfs", "/"), line("/proc", "/proc")],
        [line(f"/plugins/{ID}/rootfs", "/")],  # the data root is a file system of its own
        [line("/", "/"), line(f"/docker/plugins/{ID}", "/run/docker/plugins")],
        [line(f"/srv/plugins/{'a' * 64}/x/plugins/{ID}/rootfs", "/")],
        ["", "short line", line(f"/plugins/{ID}/rootfs", "/")],
    ],
)
def test_the_mounts_of_a_managed_plugin_show_its_id(lines: list[str]) -> None:
    assert plugin_id.parse("\n".join(lines)) == ID


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [line("/", "/"), line("/", "/run")],
        [line("/", "/"), line(f"/var/lib/docker/plugins/{ID}/rootfs", "/mnt")],  # a host that looks into one
        [line(f"/plugins/{ID[:-1]}/rootfs", "/")],
        [line(f"/plugins/{ID}/rootfs/more", "/")],
    ],
)
def test_any_other_process_has_none(lines: list[str]) -> None:
    assert plugin_id.parse("\n".join(lines)) == ""


def test_this_process_has_none() -> None:
    assert plugin_id.read() == ""
