"""The id that the engine gave this managed plugin: the engine does not tell it, the mounts show it.

Source: moby daemon/pkg/plugin/v2/plugin_linux.go (InitSpec): the root is `DATA-ROOT/plugins/ID/rootfs`, and what is
mounted at /run/docker/plugins is `/run/docker/plugins/ID` on the host. Format: proc_pid_mountinfo(5).
"""

from __future__ import annotations

import pathlib
import re

MOUNTINFO = pathlib.Path("/proc/self/mountinfo")
MOUNT_POINTS = ("/", "/run/docker/plugins")
_ID = re.compile(r"/plugins/([0-9a-f]{64})(?:/rootfs)?$")


def read() -> str:
    """This plugin's id; "" where this process is no managed plugin, or cannot tell."""
    try:
        return parse(MOUNTINFO.read_text(errors="surrogateescape"))
    except OSError:
        return ""


def parse(mountinfo: str) -> str:
    """The id in the text of mountinfo, "" for none."""
    roots = {}
    for line in mountinfo.splitlines():
        _mount, _parent, _device, root, point, *_more = [*line.split(" "), *[""] * 5]
        roots[point] = root
    for point in MOUNT_POINTS:
        if found := _ID.search(roots.get(point, "")):
            return found.group(1)
    return ""
