"""A Docker host: a machine with a dockerd that can be stopped, killed and rebooted.

Built by `lab`. dockerd starts its own containerd, so killing dockerd leaves shims and containers to themselves, as
a crash would.
"""

from __future__ import annotations

import http.client
import pathlib
import socket
from collections.abc import Callable, Mapping
from typing import BinaryIO, Final

from lab import boot, command, config, errors, machine, plan, underlay

DOCKERD: Final = "dockerd"
_START_S: Final = 45


class Host(machine.Machine):
    """One Docker host of a lab."""

    def __init__(self, lab: plan.Plan, seat: plan.Seat, *, spec: boot.Boot, args: tuple[str, ...]) -> None:
        """Take names only. args: flags for dockerd beyond those a lab needs; may be changed between starts."""
        super().__init__(seat.machine, netns=seat.netns, cgroup=lab.cgroup(seat), spec=spec)
        self.engine = lab.engines[seat.machine]
        self.ip = seat.ip
        self.ip_v6 = seat.ip_v6
        self.dockerd_args = args
        self.nftables = config.Nftables()
        self.on_boot: Callable[[], None] = lambda: None
        self._lab = lab
        self._seat = seat

    @property
    def docker_socket(self) -> pathlib.Path:
        """The Engine API's socket, reachable from this machine; valid until the host is rebooted."""
        return self.root / "run/docker.sock"

    def docker(
        self,
        *args: str,
        stdin: bytes | BinaryIO | None = None,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run the docker command on the host and give what it printed.

        Raises: CommandFailed, Timeout.
        """
        return self.exec(["docker", *args], stdin=stdin, timeout_s=timeout_s, env=env)

    def try_docker(
        self,
        *args: str,
        stdin: bytes | BinaryIO | None = None,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> command.Result:
        """Run the docker command on the host; a non-zero code is an answer.

        Raises: Timeout.
        """
        return self.try_exec(["docker", *args], stdin=stdin, timeout_s=timeout_s, env=env)

    def start_dockerd(self, *, wait: bool = True, timeout_s: float = _START_S) -> None:
        """Start dockerd and wait until its API answers; harmless if it runs.

        Raises: LabError with the end of dockerd's log, Timeout.
        """
        if self.daemon_pid(DOCKERD) is None:
            self.spawn(DOCKERD, self.dockerd_command)
        if wait:
            wait_dockerd(self, timeout_s=timeout_s)

    def stop_dockerd(self, *, timeout_s: float = 30) -> None:
        """End dockerd as `systemctl stop` does. Containers end too, unless live-restore is on."""
        self.end(DOCKERD, timeout_s=timeout_s)

    def kill_dockerd(self) -> None:
        """End dockerd with SIGKILL; shims, containers and plugins go on."""
        self.end(DOCKERD, signal="KILL")

    def restart_dockerd(self) -> None:
        """Stop and start, as `systemctl restart` does."""
        self.stop_dockerd()
        self.start_dockerd()

    def reboot(self, *, wait: bool = True) -> None:
        """Cut the power and boot again: every process, /run and the network namespace are new, the disk stays."""
        self.power_off()
        self.power_on(wait=wait)

    def power_off(self) -> None:
        """Cut the power."""
        self.stop()

    def power_on(self, *, wait: bool = True) -> None:
        """Boot after power_off."""
        underlay.plug_new(self._lab, self._seat)
        self.start()
        self.on_boot()
        self.start_dockerd(wait=wait)

    def unplug(self) -> None:
        """Pull the host's cable: its NIC loses carrier, addresses and routes stay."""
        underlay.set_link(self._lab, self._seat, up=False)

    def plug(self) -> None:
        """Put the cable back."""
        underlay.set_link(self._lab, self._seat, up=True)

    @property
    def dockerd_command(self) -> list[str]:
        """How its dockerd is started."""
        environment = [f"{name}={value}" for name, value in self.nftables.env.items()]
        registry = self._lab.registry_name
        insecure = ["--insecure-registry", registry] if registry else []
        return ["env", *environment, "dockerd", *insecure, *self.nftables.args, *self.dockerd_args]

    @property
    def forward_policy(self) -> str:
        """What the policy of FORWARD in iptables is once dockerd runs: it forbids what it has itself switched on."""
        return "ACCEPT" if self.nftables.needs_forwarding else "DROP"


def wait_dockerd(on: machine.Machine, *, timeout_s: float = _START_S) -> None:
    """Wait until the API of a machine's dockerd answers.

    Raises: LabError with the end of dockerd's log, Timeout.
    """

    def answers_or_died() -> bool:
        if on.daemon_pid(DOCKERD) is None:
            raise errors.LabError(f"{on.name}: dockerd died:\n{on.log_tail(DOCKERD)}")
        return _ping(on.root / "run/docker.sock")

    command.wait_until(f"{on.name}: dockerd up", answers_or_died, timeout_s=timeout_s)


def _ping(path: pathlib.Path) -> bool:
    """Ask the Engine API's /_ping, without the price of a docker command."""
    connection = http.client.HTTPConnection("localhost", timeout=5)
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(5)
        connection.sock.connect(str(path))
        connection.request("GET", "/_ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
