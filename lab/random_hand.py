"""Does the operations of a random run on a host, through the Engine API as a client of Docker would, and its faults.

Called by `random_run`. What dockerd refuses is an outcome; which refusals are in order, `random_refusals` says.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from lab import chaos_hosts, engine_api, errors, host, images, random_plan, site

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_GATEWAY_OPTION: Final = "flannelpy.gateway"
_DOCKER_S: Final = 90.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an operation. refused: what Docker said against it, empty if it was done. Units: seconds."""

    operation: random_plan.Operation
    began_s: float
    took_s: float
    refused: str


class Hand:
    """Operates one host. leases: its subnets of both families, of which networks are cut."""

    def __init__(self, on: host.Host, leases: tuple[ipaddress.IPv4Network, ipaddress.IPv6Network]) -> None:
        self._on = on
        self._leases = leases
        self._pools: dict[str, Network] = {}
        self._faults: Mapping[str, Callable[[float], None]] = {
            "worker-killed": lambda _lasts_s: _kill(on, worker=True),
            "plugin-killed": lambda _lasts_s: _kill(on, worker=False),
            "plugin-bounced": self._bounce_plugin,
            "dockerd-killed": self._kill_dockerd,
            "dockerd-restarted": lambda _lasts_s: on.restart_dockerd(),
        }

    def do(self, operation: random_plan.Operation) -> Outcome:
        """Do it at its time in the step. Raises LabError where a fault cannot be done."""
        time.sleep(operation.after_s)
        began_s = time.monotonic()
        refused = ""
        if operation.is_fault:
            self._faults[operation.kind](operation.lasts_s)
        else:
            refused = self._ask(operation)
        return Outcome(operation=operation, began_s=began_s, took_s=time.monotonic() - began_s, refused=refused)

    def clear(self) -> list[str]:
        """Remove all containers and networks; what Docker says against that."""
        there = engine_api.get(self._on, "/containers/json?all=1")
        said = [engine_api.ask(self._on, "DELETE", f"/containers/{one['Id']}?force=1").message for one in there]
        networks = engine_api.get(self._on, "/networks")
        ours = [one["Name"] for one in networks if one["Name"] in random_plan.NETWORKS]
        said += [engine_api.ask(self._on, "DELETE", f"/networks/{name}").message for name in ours]
        return [message for message in said if message]

    def _ask(self, operation: random_plan.Operation) -> str:
        try:
            for verb, path, body in self._requests(operation):
                answer = engine_api.ask(self._on, verb, path, body)
                if not answer.ok:
                    return f"{answer.status} {answer.message}"
        except engine_api.Unreachable as exc:
            return f"0 {exc}"
        return ""

    def _requests(self, operation: random_plan.Operation) -> list[tuple[str, str, Any]]:  # noqa: PLR0911  a table
        target = operation.target
        match operation.kind:
            case "network-create":
                return [("POST", "/networks/create", self._network(operation))]
            case "network-remove":
                return [("DELETE", f"/networks/{target}", None)]
            case "create":
                return [self._create(operation)]
            case "run":
                return [self._create(operation), ("POST", f"/containers/{target}/start", None)]
            case "remove":
                return [("DELETE", f"/containers/{target}?force=1", None)]
            case "connect" | "disconnect":
                body = {"Container": target, "EndpointConfig": {}}
                return [("POST", f"/networks/{operation.network}/{operation.kind}", body)]
            case kind:
                return [("POST", f"/containers/{target}/{kind}", None)]

    def _network(self, operation: random_plan.Operation) -> dict[str, Any]:
        spec = operation.made
        assert isinstance(spec, random_plan.NetworkSpec)  # noqa: S101  as planned
        pools = [_quarter(lease, spec.quarter) for lease in self._leases[: 2 if spec.v6 else 1]]
        self._pools[operation.target] = pools[0]
        return {
            "Name": operation.target,
            "CheckDuplicate": True,
            "Driver": "flannelpy",
            "Internal": spec.internal,
            "EnableIPv6": spec.v6,
            "Options": {_GATEWAY_OPTION: spec.gateway},
            "IPAM": {
                "Driver": "flannelpy",
                "Config": [{"Subnet": str(pool)} for pool in pools] if spec.quarter is not None else [],
            },
        }

    def _create(self, operation: random_plan.Operation) -> tuple[str, str, Any]:
        spec = operation.made
        assert isinstance(spec, random_plan.ContainerSpec)  # noqa: S101  as planned
        pool = self._pools.get(operation.network, self._leases[0])
        chosen = {"IPv4Address": str(pool[spec.ip])} if spec.ip is not None else {}
        bindings = {} if spec.port is None else {"80/tcp": [{"HostPort": str(spec.port) if spec.port else ""}]}
        body = {
            "Image": images.BUSYBOX,
            "Cmd": ["true"] if spec.brief else ["sleep", "86400"],
            "StopSignal": "SIGKILL",  # sleep as process 1 hears no other
            "ExposedPorts": {port: {} for port in bindings},
            "HostConfig": {
                "NetworkMode": operation.network,
                "PortBindings": bindings,
                "RestartPolicy": {"Name": "always" if spec.always else "no"},
            },
            "NetworkingConfig": {"EndpointsConfig": {operation.network: {"IPAMConfig": chosen}}},
        }
        return "POST", f"/containers/create?name={operation.target}", body

    def _bounce_plugin(self, lasts_s: float) -> None:
        self._on.docker("plugin", "disable", "-f", site.PLUGIN, timeout_s=_DOCKER_S)
        time.sleep(lasts_s)
        self._on.docker("plugin", "enable", site.PLUGIN, timeout_s=_DOCKER_S)

    def _kill_dockerd(self, lasts_s: float) -> None:
        self._on.kill_dockerd()
        time.sleep(lasts_s)
        self._on.start_dockerd()


def _quarter(lease: Network, quarter: int | None) -> Network:
    if quarter is None:
        return lease
    quarters: list[Network] = [*lease.subnets(new_prefix=lease.prefixlen + 2)]
    return quarters[quarter]


def _kill(on: host.Host, *, worker: bool) -> None:
    pid = chaos_hosts.plugin_pids(on)[1 if worker else 0]
    if pid is not None:  # else it is just coming back
        on.try_exec(["kill", "-9", pid])
    if pid is None and engine_api.get(on, f"/plugins/{site.PLUGIN}/json")["Enabled"] is not True:
        raise errors.LabError(f"{on.name}: the plugin does not run")
