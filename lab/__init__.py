"""Several real Docker hosts on one machine, as a library and as `python -m lab`.

A host is a set of namespaces with an engine from a Debian release of its own; a lab has hosts, an etcd, a registry, a
client, and a server outside. Nothing of it touches the machine's own network. Called by `make demo`, the system
tests and `bench`; nothing in the plugin knows it.

    with lab.Lab.up(lab.LabConfig(name="mine", hosts=2, engine="28.5")) as mine:
        mine.hosts["h1"].docker("run", "--rm", "busybox", "true")
"""

from lab.command import Result
from lab.config import ENGINES, FIREWALLS, LabConfig
from lab.errors import CommandFailed, ConfigError, LabError, Timeout
from lab.host import Host
from lab.images import BUSYBOX, TOOLS
from lab.lab import SHARED, Lab
from lab.machine import Machine

__all__ = [
    "BUSYBOX",
    "ENGINES",
    "FIREWALLS",
    "SHARED",
    "TOOLS",
    "CommandFailed",
    "ConfigError",
    "Host",
    "Lab",
    "LabConfig",
    "LabError",
    "Machine",
    "Result",
    "Timeout",
]
