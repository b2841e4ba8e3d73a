"""What everything is measured on: a lab of three hosts with the plugin installed from the lab's registry.

h1 and h2 are members of one flannel network; h1's control calls are the engine's own, h2's go through the recorder.
h3 stays bare: its plugin is installed, enabled and disabled by the measurements of starting and converging.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

import lab
from lab import plugin_image, site

NAME = "bench"
ENGINE = "28.5"
NETWORK = "mynet"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """The lab and the plugin's name in its registry."""

    built: lab.Lab
    image: str

    @property
    def h1(self) -> lab.Host:
        """The host whose starts are compared with Docker's own bridge."""
        return self.built.hosts["h1"]

    @property
    def h2(self) -> lab.Host:
        """The host whose calls are recorded."""
        return self.built.hosts["h2"]

    @property
    def h3(self) -> lab.Host:
        """The bare host."""
        return self.built.hosts["h3"]


@contextlib.contextmanager
def bring_up() -> Iterator[Rig]:
    """Bring the lab up; whatever happens, nothing of it stays."""
    image = plugin_image.build(engine=ENGINE)
    with lab.Lab.up(lab.LabConfig(name=NAME, hosts=3, engine=ENGINE)) as made:
        rig = Rig(built=made, image=plugin_image.push(made, image))
        site.put_config(made)
        for host in (rig.h1, rig.h2):
            site.install(host, rig.image, ETCD_ENDPOINTS=made.etcd_endpoints)
            site.wait_ready(host)
        yield rig


def enter(on: lab.Machine) -> list[str]:
    """Words that put a command into a machine's files and network, for commands that we may have to kill.

    Not into its pid namespace: nsenter would have to fork for that, and its child would outlive it.
    """
    return ["nsenter", f"--target={on.pid}", "--mount", "--net", "--"]


def plugin_pids(on: lab.Host) -> list[int]:
    """The plugin's processes, by their pids inside the host: gunicorn's master and what it started."""
    return [pid for pid in _pids(on) if _is_plugin(process_dir(on, pid))]


def process_dir(on: lab.Host, pid: int) -> pathlib.Path:
    """/proc/PID of a process on the host."""
    return on.root / "proc" / str(pid)


def _pids(on: lab.Host) -> list[int]:
    return sorted(int(path.name) for path in (on.root / "proc").iterdir() if path.name.isdigit())


def _is_plugin(process: pathlib.Path) -> bool:
    """Whatever runs in the plugin's own root; tools that it runs for a moment count as well."""
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        return (process / "root/app/plugin").is_dir() and bool(words[0])
    except OSError:
        return False
