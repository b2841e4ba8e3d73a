"""What a random run does: a seed in, bursts of operations out, made by hypothesis. The same seed gives the same plan.

Called by `random_run`; how an operation is done is `random_hand`'s business. A burst begins and ends with nothing on
the hosts, so that each can be run again by itself. Operations are drawn from what a model of Docker holds possible at
the moment, and now and then blindly, since a refusal must leave nothing behind either. The model is of what should
happen: it knows nothing of refusals, faults and of who wins where operations of one step are done at the same time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import hypothesis
from hypothesis import strategies

T = TypeVar("T")

BURST: Final = 50
"""Operations in a burst, at least."""
QUARTERS: Final = 4
"""Into how many slices a lease may be cut."""

NETWORKS: Final = ("n0", "n1", "n2")
CONTAINERS: Final = tuple(f"c{number}" for number in range(8))
PORTS: Final = (0, 8081, 8082)
"""Host ports that containers publish; 0 is one that dockerd chooses."""

FAULTS: Final = {
    "worker-killed": 3,
    "plugin-killed": 3,
    "plugin-bounced": 1,
    "dockerd-killed": 3,
    "dockerd-restarted": 1,
}
_FAULT_EVERY: Final = (12, 30)
"""How many operations lie between two faults."""
_EXAMPLES: Final = 12
"""hypothesis begins with ten small examples: few choices, many zeros."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """A network: quarter None is the whole lease."""

    quarter: int | None = None
    v6: bool = False
    internal: bool = False
    gateway: str = "auto"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """A container. ip: its place in the network's pool, None to be given one; port: see PORTS, None publishes none.

    always: dockerd brings it up again; brief: it ends by itself, at once.
    """

    ip: int | None = None
    port: int | None = None
    always: bool = False
    brief: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing done on one host. after_s: since the begin of its step; lasts_s: until a fault is put right."""

    host: str
    kind: str
    target: str = ""
    network: str = ""
    made: NetworkSpec | ContainerSpec | None = None
    after_s: float = 0.0
    lasts_s: float = 0.0

    @property
    def is_fault(self) -> bool:
        """Whether it kills or stops something."""
        return self.kind in FAULTS

    def __str__(self) -> str:
        """The operation for a log: `h1 run c3 n0 ip=7 always`."""
        words = [self.host, self.kind, self.target, self.network]
        if self.made is not None:
            shown = ((field.name, getattr(self.made, field.name)) for field in dataclasses.fields(self.made))
            told = [(name, value) for name, value in shown if value is not None and value is not False]
            words += [name if value is True else f"{name}={value}" for name, value in told]
        return " ".join(word for word in words if word) + (f" after={self.after_s:g}" if self.after_s else "")


Step = tuple[Operation, ...]
"""What is done at the same time."""
Burst = tuple[Step, ...]


def plan(seed: int, operations: int, hosts: Sequence[str]) -> tuple[Burst, ...]:
    """Bursts with so many operations in all, the last one cut short. Each follows from the seed and its place."""
    bursts: list[Burst] = []
    left = operations
    while left > 0:
        made = _cut(_burst(f"{seed}/{len(bursts)}", hosts), left)
        left -= sum(map(len, made))
        bursts.append(made)
    return tuple(bursts)


def _burst(seed: str, hosts: Sequence[str]) -> Burst:
    """The last of some examples, since hypothesis varies a good one: a plan of them all would say much twice."""
    made: list[Burst] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=_EXAMPLES,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(_bursts(hosts))
    def collect(burst: Burst) -> None:
        made.append(burst)

    collect()
    return made[-1]


def _cut(burst: Burst, left: int) -> Burst:
    steps: list[Step] = []
    for step in burst:
        if left > 0:
            steps.append(step[:left])
            left -= len(steps[-1])
    return tuple(steps)


class _Host:
    """What a host should have by now."""

    def __init__(self) -> None:
        self.networks: dict[str, NetworkSpec] = {}
        self.states: dict[str, str] = {}
        self.joined: dict[str, set[str]] = {}

    def containers(self, *states: str) -> list[str]:
        """The containers in one of these states."""
        return [name for name, state in self.states.items() if state in states]

    def unused(self) -> list[str]:
        """The networks on which no container runs."""
        busy = {name for one in self.containers("running", "paused") for name in self.joined[one]}
        return [name for name in self.networks if name not in busy]


class _Author:
    """Writes one burst."""

    def __init__(self, draw: Callable[..., object], hosts: Sequence[str]) -> None:
        self._draw = draw
        self._hosts = {name: _Host() for name in hosts}

    def write(self) -> Burst:
        steps: list[Step] = [(self._make_network(name, "n0"),) for name in self._hosts]
        count, fault_at = len(steps), self._number(*_FAULT_EVERY)
        while count < BURST:
            size = self._number(2, 5) if self._chance(1, 5) else 1
            step = [self._operation(spread=size > 1) for _ in range(size)]
            if count >= fault_at:
                fault_at = count + self._number(*_FAULT_EVERY)
                step = self._with_fault(step)
            steps.append(tuple(step))
            count += len(step)
        return tuple(steps)

    def _with_fault(self, step: list[Operation]) -> list[Operation]:
        """Half of the faults come while something is being done, or a moment after."""
        kind = self._pick([name for name, weight in FAULTS.items() for _ in range(weight)])
        after_s, lasts_s = self._number(0, 60) / 100, self._number(0, 150) / 100
        fault = Operation(host=step[0].host, kind=kind, after_s=after_s, lasts_s=lasts_s)
        return [*step, fault] if self._chance(1, 2) else [dataclasses.replace(fault, after_s=0.0)]

    def _operation(self, *, spread: bool) -> Operation:
        name = self._pick(list(self._hosts))
        made = self._blind(name) if self._chance(1, 12) else self._possible(name)
        return dataclasses.replace(made, after_s=self._number(0, 30) / 100) if spread else made

    def _blind(self, name: str) -> Operation:
        """Whatever the model says: most of these are refused."""
        kind = self._pick(["start", "stop", "kill", "remove", "restart", "pause", "unpause", "connect", "disconnect"])
        return self._do(name, kind, self._pick(CONTAINERS))

    def _possible(self, name: str) -> Operation:
        host = self._hosts[name]
        free = [one for one in CONTAINERS if one not in host.states]
        running = host.containers("running")
        there = host.containers("created", "running", "paused", "exited")
        doable: dict[str, tuple[int, Sequence[str]]] = {
            "run": (10, free if host.networks else ()),
            "brief": (4, free if host.networks else ()),
            "create": (3, free if host.networks else ()),
            "start": (6, host.containers("created", "exited")),
            "stop": (4, running),
            "kill": (4, running),
            "remove": (5, there),
            "restart": (3, host.containers("running", "exited")),
            "pause": (2, running),
            "unpause": (3, host.containers("paused")),
            "connect": (5, [one for one in there if len(host.joined[one]) < len(host.networks)]),
            "disconnect": (4, [one for one in there if len(host.joined[one]) > 1]),
            "network-create": (4, [one for one in NETWORKS if one not in host.networks]),
            "network-remove": (2, host.unused()),
        }
        kind = self._pick([one for one, (weight, targets) in doable.items() if targets for _ in range(weight)])
        return self._do(name, kind, self._pick(list(doable[kind][1])))

    def _do(self, name: str, kind: str, target: str) -> Operation:
        host = self._hosts[name]
        match kind:
            case "network-create":
                return self._make_network(name, target)
            case "network-remove":
                del host.networks[target]
            case "run" | "brief" | "create":
                return self._make_container(name, kind, target)
            case "connect" | "disconnect":
                return self._move(name, kind, target)
            case "remove":
                host.states.pop(target, None)
                host.joined.pop(target, None)
            case _:
                if target in host.states:
                    host.states[target] = _AFTER[kind]
        return Operation(host=name, kind=kind, target=target)

    def _make_network(self, name: str, target: str) -> Operation:
        networks = self._hosts[name].networks
        taken = {spec.quarter for spec in networks.values()}
        free = [one for one in range(QUARTERS) if one not in taken]
        quarter = None if not networks and self._chance(1, 4) else self._pick(free)
        spec = NetworkSpec(
            quarter=quarter,
            v6=self._chance(1, 3),
            internal=self._chance(1, 6),
            gateway=self._pick(["auto", "auto", "native", "native", "docker"]),
        )
        networks[target] = spec
        return Operation(host=name, kind="network-create", target=target, made=spec)

    def _make_container(self, name: str, kind: str, target: str) -> Operation:
        host = self._hosts[name]
        network = self._pick(list(host.networks))
        chosen = host.networks[network].quarter is not None and self._chance(1, 4)
        spec = ContainerSpec(
            ip=self._number(2, 40) if chosen else None,
            port=self._port(host.networks[network]),
            always=kind != "brief" and self._chance(1, 4),
            brief=kind == "brief",
        )
        host.states[target] = {"run": "running", "brief": "exited", "create": "created"}[kind]
        host.joined[target] = {network}
        return Operation(host=name, kind=_MADE_AS[kind], target=target, network=network, made=spec)

    def _port(self, spec: NetworkSpec) -> int | None:
        """One in five publishes; three in five where the plugin does that itself, with as many draws."""
        drawn = self._number(1, 5)
        often = spec.gateway == "native" and drawn <= 3
        return self._pick(PORTS) if drawn == 1 else PORTS[drawn - 2] if often else None

    def _move(self, name: str, kind: str, target: str) -> Operation:
        host = self._hosts[name]
        joined = host.joined.setdefault(target, set()) if target in host.states else set()
        outside = [one for one in host.networks if one not in joined]
        network = self._pick((outside if kind == "connect" else sorted(joined)) or NETWORKS)
        (joined.add if kind == "connect" else joined.discard)(network)
        return Operation(host=name, kind=kind, target=target, network=network)

    def _pick(self, among: Sequence[T]) -> T:
        return self._draw(strategies.sampled_from(among))  # type: ignore[return-value]  # draw is typed by its argument

    def _number(self, low: int, high: int) -> int:
        return self._draw(strategies.integers(low, high))  # type: ignore[return-value]

    def _chance(self, times: int, of: int) -> bool:
        return self._number(1, of) <= times


_MADE_AS: Final = {"run": "run", "brief": "run", "create": "create"}
_AFTER: Final = {
    **dict.fromkeys(("start", "restart", "unpause"), "running"),
    **dict.fromkeys(("stop", "kill"), "exited"),
    "pause": "paused",
}


@strategies.composite
def _bursts(draw: strategies.DrawFn, hosts: Sequence[str]) -> Burst:
    return _Author(draw, hosts).write()
