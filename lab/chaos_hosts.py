"""Faults of whole hosts: the plugin's processes, dockerd, the cable, the power; and joining and leaving.

Called by `chaos_faults`, and by `chaos` for the first joining of every host. One container, `talker`, lives on each
host that has joined; `watch` follows it wherever it comes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from lab import chaos_watch, errors, host, images, lab, plan, site

NETWORK: Final = "mynet"
CONTAINER: Final = "talker"
_COMES_S: Final = 60.0


class HostFaults:
    """Each kind of `chaos_plan.HOST_KINDS` has a begin, and an end where somebody must put it right."""

    def __init__(self, built: lab.Lab, image: str, watch: chaos_watch.Watch) -> None:
        self._lab = built
        self._image = image
        self._watch = watch
        self._begins: Mapping[str, Callable[[host.Host], None]] = {
            "worker-killed": lambda on: _kill(on, worker=True),
            "master-killed": lambda on: _kill(on, worker=False),
            "plugin-disabled": lambda on: _docker(on, "plugin", "disable", "-f", site.PLUGIN),
            "dockerd-restarted": lambda on: on.restart_dockerd(),
            "dockerd-killed": lambda on: on.kill_dockerd(),
            "cable-pulled": lambda on: on.unplug(),
            "nic-bounced": lambda on: _set_nic(on, up=False),
            "left-and-joined": self.leave,
            "left-for-good": self.leave,
            "rebooted": self._power_off,
        }
        self._ends: Mapping[str, Callable[[host.Host], None]] = {
            "plugin-disabled": lambda on: _docker(on, "plugin", "enable", site.PLUGIN),
            "dockerd-killed": lambda on: on.start_dockerd(),
            "cable-pulled": lambda on: on.plug(),
            "nic-bounced": lambda on: _set_nic(on, up=True),
            "left-and-joined": self.join,
            "left-for-good": self.join,
            "rebooted": self._power_on,
        }

    def begin(self, kind: str, target: str) -> None:
        """Break it. Raises LabError."""
        self._begins[kind](self._lab.hosts[target])

    def end(self, kind: str, target: str) -> None:
        """Put it right where the plugin cannot; returns when the host's container runs. Raises LabError."""
        undo = self._ends.get(kind)
        if undo is not None:
            undo(self._lab.hosts[target])

    def join(self, on: host.Host) -> None:
        """Install the plugin, make the network, run the container. Raises LabError."""
        site.install(on, self._image, ETCD_ENDPOINTS=self._endpoints_for(on))
        _until(f"{on.name}: network {NETWORK}", lambda: site.create_network(on, NETWORK))
        run = ("run", "-d", "--restart", "always", "--name", CONTAINER, "--network", NETWORK)
        on.docker(*run, images.BUSYBOX, "sleep", "86400", timeout_s=90)
        self._attach(on)

    def leave(self, on: host.Host) -> None:
        """Take container, network and plugin off the host, in order. Raises LabError."""
        self._watch.detach(on.name)
        on.docker("rm", "-f", CONTAINER, timeout_s=90)
        on.docker("network", "rm", NETWORK, timeout_s=90)
        on.docker("plugin", "disable", site.PLUGIN, timeout_s=90)
        on.docker("plugin", "rm", site.PLUGIN, timeout_s=90)

    def _endpoints_for(self, on: host.Host) -> str:
        """All members, another one first on each host: else all hosts hear from one, and lose the same at once."""
        every = self._lab.plan.etcd_endpoints
        first = list(self._lab.hosts).index(on.name) % len(every)
        return ",".join((*every[first:], *every[:first]))

    def _attach(self, on: host.Host) -> None:
        pid = on.docker("inspect", "-f", "{{.State.Pid}}", CONTAINER)
        if pid == "0":
            raise errors.LabError(f"{on.name}: {CONTAINER} does not run")
        self._watch.attach(on.name, on.root / "proc" / pid / "ns/net", site.ip_of(on, CONTAINER))

    def _power_off(self, on: host.Host) -> None:
        self._watch.detach(on.name)
        on.power_off()

    def _power_on(self, on: host.Host) -> None:
        on.power_on()
        _until(f"{on.name}: {CONTAINER} runs again", lambda: self._attach(on))


def plugin_pids(on: host.Host) -> tuple[str | None, str | None]:
    """The plugin's master and worker as the host sees them; None for one that is not there at the moment."""
    rows = [line.split(None, 2) for line in on.exec(["ps", "-eo", "pid,ppid,args"]).splitlines()]
    found = {pid: ppid for pid, ppid, args in rows if "-m plugin" in args and "docker" not in args}
    master = next((pid for pid, ppid in found.items() if ppid not in found), None)
    return master, next((pid for pid, ppid in found.items() if ppid == master), None)


def _docker(on: host.Host, *args: str) -> None:
    on.docker(*args, timeout_s=90)


def _kill(on: host.Host, *, worker: bool) -> None:
    master, its_worker = plugin_pids(on)
    pid = its_worker if worker else master
    if pid is None:
        raise errors.LabError(f"{on.name}: the plugin does not run")
    on.try_exec(["kill", "-9", pid])


def _set_nic(on: host.Host, *, up: bool) -> None:
    """What `ifdown` and `ifup` do: with the link goes the default route, which the kernel does not bring back."""
    on.exec(["ip", "link", "set", plan.NIC, "up" if up else "down"])
    if up:
        on.exec(["ip", "route", "replace", "default", "via", str(plan.UNDERLAY[1]), "dev", plan.NIC])


def _until(what: str, step: Callable[[], None]) -> None:
    """Repeat a step until it succeeds, as an operator would. Raises Timeout with its last error."""
    deadline = time.monotonic() + _COMES_S
    while True:
        try:
            step()
        except errors.LabError as exc:
            if time.monotonic() > deadline:
                raise errors.Timeout(f"{what}: not within {_COMES_S:g} s: {exc}") from exc
        else:
            return
        time.sleep(0.5)
