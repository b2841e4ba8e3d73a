"""What runs on the machines that are not Docker hosts: etcd members, the registry, the outside web server.

Each service is argv and a question whether it answers; `lab` places and starts them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from lab import boot, command, errors, machine, plan

_ETCD_DATA = "/var/lib/etcd"

# Answers every request with the address it came from: how a test sees who masqueraded whom.
_RESPONDER = """#!/bin/sh
while IFS= read -r line && [ "${#line}" -gt 1 ]; do :; done
printf 'HTTP/1.0 200 OK\\r\\nContent-Type: text/plain\\r\\nConnection: close\\r\\n\\r\\n%s\\n' "$SOCAT_PEERADDR"
"""


class Etcd(machine.Machine):
    """One member of the lab's etcd, on a machine of its own."""

    def __init__(self, lab: plan.Plan, seat: plan.Seat, *, spec: boot.Boot) -> None:
        """Take names only: who the member is and who the others are."""
        super().__init__(seat.machine, netns=seat.netns, cgroup=lab.cgroup(seat), spec=spec)
        self.endpoint = f"http://{seat.ip}:{plan.ETCD_PORT}"
        peers = ",".join(f"{s.machine}=http://{s.ip}:{plan.ETCD_PEER_PORT}" for s in lab.etcd)
        self.peer_url = mine = f"http://{seat.ip}:{plan.ETCD_PEER_PORT}"
        self._state = "new"
        self._argv = [
            *("etcd", "--name", seat.machine, "--data-dir", _ETCD_DATA),
            *("--listen-client-urls", f"{self.endpoint},http://127.0.0.1:{plan.ETCD_PORT}"),
            *("--advertise-client-urls", self.endpoint),
            *("--listen-peer-urls", mine, "--initial-advertise-peer-urls", mine),
            *("--initial-cluster", peers),
        ]

    def start_etcd(self) -> None:
        """Start the member; does not wait, since alone it has no quorum. Its data outlives a stop."""
        if self.daemon_pid("etcd") is None:
            self.spawn("etcd", [*self._argv, "--initial-cluster-state", self._state])

    def stop_etcd(self) -> None:
        """End the member in good order."""
        self.signal("etcd", "CONT")  # a frozen one could not hear
        self.end("etcd")

    def kill_etcd(self) -> None:
        """End the member with SIGKILL."""
        self.end("etcd", signal="KILL")

    def wipe_etcd(self) -> None:
        """Delete an ended member's data: it starts next as a new member of a cluster that goes on."""
        self.exec(["rm", "-rf", _ETCD_DATA])
        self._state = "existing"

    def freeze(self) -> None:
        """Stop the member's processes: connections stay open and nothing answers, as with a hung machine."""
        self.signal("etcd", "STOP")

    def thaw(self) -> None:
        """Let a frozen member go on."""
        self.signal("etcd", "CONT")


def etcdctl(on: machine.Machine, endpoints: Sequence[str], args: Sequence[str], *, timeout_s: float) -> str:
    """Run etcdctl (API v3) on a machine.

    Raises: CommandFailed, Timeout.
    """
    env: Mapping[str, str] = {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": ",".join(endpoints)}
    return on.exec(["etcdctl", *args], env=env, timeout_s=timeout_s)


def wait_etcd(members: Sequence[Etcd], endpoints: Sequence[str], *, timeout_s: float = 30) -> None:
    """Wait until the cluster serves: /health asks for a read through the quorum.

    Raises: LabError with the end of a dead member's log, Timeout.
    """

    def serves() -> bool:
        for member in members:
            if member.daemon_pid("etcd") is None:
                raise errors.LabError(f"{member.name}: etcd died:\n{member.log_tail('etcd')}")
        return all(_is_healthy(member, url) for member, url in zip(members, endpoints, strict=True))

    if members:
        command.wait_until("etcd serves", serves, timeout_s=timeout_s, interval_s=0.05)


def start_registry(on: machine.Machine) -> None:
    """Start a plain-http registry that keeps its data on the machine's disk."""
    config = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": "/var/lib/registry"}, "delete": {"enabled": True}},
        "http": {"addr": f":{plan.REGISTRY_PORT}"},
    }
    (on.root / "etc/lab-registry.json").write_text(json.dumps(config))  # JSON is YAML enough
    on.spawn("registry", ["docker-registry", "serve", "/etc/lab-registry.json"])


def wait_registry(on: machine.Machine, *, timeout_s: float = 20) -> None:
    """Wait until the registry answers.

    Raises: Timeout.
    """
    url = f"http://127.0.0.1:{plan.REGISTRY_PORT}/v2/"
    answers = ["curl", "-fsS", "--max-time", "3", url]
    command.wait_until("registry answers", lambda: on.try_exec(answers).ok, timeout_s=timeout_s, interval_s=0.05)


def start_web(on: machine.Machine) -> None:
    """Start the server that answers every request with the client's address."""
    program = on.root / "usr/local/bin/lab-whoami"
    program.write_text(_RESPONDER)
    program.chmod(0o755)
    listen = f"TCP-LISTEN:{plan.WEB_PORT},fork,reuseaddr,max-children=64"
    on.spawn("web", ["socat", "-T10", listen, "EXEC:/usr/local/bin/lab-whoami"])


def _is_healthy(member: machine.Machine, url: str) -> bool:
    answer = member.try_exec(["curl", "-fsS", "--max-time", "3", f"{url}/health"])
    return answer.ok and json.loads(answer.out).get("health") == "true"
