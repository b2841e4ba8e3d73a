"""How soon a starting plugin answers, with an etcd that does not.

From the start of the plugin's first process, as the kernel keeps it (so runc's own work before the program begins
counts too), to a whole answer of GetCapabilities on the classic socket. dockerd enables it as it would at boot.
"""

from __future__ import annotations

import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator

import lab
from bench import figures, rig, wire
from lab import site

ROUNDS = 10
NOBODY = "http://198.51.100.250:2379"
POLL_S = 0.002
WAIT_S = 30.0


def measure(on: rig.Rig) -> Iterator[figures.Figure]:
    """The median; the plugin has a lease to restore from none of the rounds."""
    host = on.h3
    options = ("--disable", "--alias", site.PLUGIN, "--grant-all-permissions", on.image)
    host.docker("plugin", "install", *options, f"ETCD_ENDPOINTS={NOBODY}", timeout_s=120)
    took = []
    for _ in range(ROUNDS):
        answers: list[float] = []
        asking = threading.Thread(target=_ask, args=(host.root / site.SOCKET, answers), daemon=True)
        asking.start()
        host.docker("plugin", "enable", site.PLUGIN)
        asking.join(WAIT_S)
        if not answers:
            raise lab.LabError(f"{host.name}: no answer within {WAIT_S:g} s")
        took.append(answers[0] - _started(host))
        host.docker("plugin", "disable", "-f", site.PLUGIN)
    host.docker("plugin", "rm", "-f", site.PLUGIN)
    yield figures.median("listen_s", "s", took)


def _ask(path: pathlib.Path, answers: list[float]) -> None:
    """Ask until somebody answers; says when, by the clock since boot."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(WAIT_S)
                asking.connect(str(path))
                asking.sendall(wire.post("NetworkDriver.GetCapabilities", b"{}"))
                if wire.Reader(asking).message().status == 200:
                    answers.append(time.clock_gettime(time.CLOCK_BOOTTIME))
                    return
        except (OSError, wire.Closed):
            time.sleep(POLL_S)


def _started(on: lab.Host) -> float:
    """When the plugin's oldest process began, in seconds since boot; the kernel keeps hundredths."""
    stats = [(rig.process_dir(on, pid) / "stat").read_text() for pid in rig.plugin_pids(on)]
    ticks = [int(stat[stat.rindex(")") + 2 :].split()[19]) for stat in stats]  # proc(5): field 22, starttime
    return min(ticks) / os.sysconf("SC_CLK_TCK")
