"""How long a container's start takes on our network: beside Docker's own bridge, and inside our handlers."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import lab
from bench import engine, figures, recorder, rig, sleeper
from lab import site

ROUNDS = 40
STARTS = 200
RUN_S = 60


def against_bridge(on: rig.Rig) -> Iterator[figures.Figure]:
    """`docker run --rm busybox true` with our network and Docker's bridge: ours, bridge, bridge, ours.

    Value: the median of the rounds' ratios, each the sum of two of ours over the sum of two of the bridge's: what
    slows the machine down for a while slows both. Extra: the medians themselves, the command's own time included.
    """
    site.create_network(on.h1, rig.NETWORK)
    for network in (rig.NETWORK, "bridge"):
        _run(on.h1, network)  # the first start loads what later ones find in the cache
    ratios, ours, bridge = [], [], []
    for _ in range(ROUNDS):
        first, second, third, fourth = (_run(on.h1, name) for name in (rig.NETWORK, "bridge", "bridge", rig.NETWORK))
        ours += [first, fourth]
        bridge += [second, third]
        ratios.append((first + fourth) / (second + third))
    yield figures.median("start_vs_bridge", "", ratios)
    yield figures.median("start_ms", "ms", [1000 * took for took in ours])
    yield figures.median("start_bridge_ms", "ms", [1000 * took for took in bridge])


def in_handlers(on: rig.Rig) -> Iterator[figures.Figure]:
    """All of the engine's calls of one start: from the start's request to its answer, as the recorder saw them.

    RequestAddress, CreateEndpoint, Join, ProgramExternalConnectivity and EndpointOperInfo, on 28.5. Extra: the calls
    of one stop (RevokeExternalConnectivity, Leave, DeleteEndpoint, ReleaseAddress), and how late a sleeper of this
    program woke meanwhile: time that the machine owed to somebody else, of which a start has its share.
    """
    starts: list[float] = []
    stops: list[float] = []
    with recorder.recording(on.h2.root) as seen, sleeper.watching() as late:
        site.create_network(on.h2, rig.NETWORK)
        api = engine.Engine(on.h2)
        for _ in range(STARTS):
            container = api.create(rig.NETWORK, "sleep", "3600")
            seen.taken()
            api.start(container)
            starts.append(_sum_ms(seen.taken(), {"IpamDriver.RequestAddress", "NetworkDriver.Join"}))
            api.remove(container)
            stops.append(_sum_ms(seen.taken(), {"IpamDriver.ReleaseAddress", "NetworkDriver.Leave"}))
    yield figures.median("handlers_start_p50_ms", "ms", starts)
    yield figures.tail("handlers_start_p99_ms", "ms", starts)
    yield figures.median("handlers_stop_p50_ms", "ms", stops)
    yield figures.tail("machine_stall_p99_ms", "ms", [1000 * seconds for seconds in late])


def _run(on: lab.Host, network: str) -> float:
    """Seconds of one `docker run`, without the lab's own bookkeeping around a command."""
    words = [*rig.enter(on), "docker", "run", "--rm", "--network", network, lab.BUSYBOX, "true"]
    began = time.monotonic()
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_S, check=False)
    took = time.monotonic() - began
    if done.returncode != 0:
        raise lab.LabError(
            f"{on.name}: docker run --network {network}: {done.stderr.decode(errors='replace').strip()}"
        )
    return took


def _sum_ms(calls: list[recorder.Call], expected: set[str]) -> float:
    """Raises LabError where a call was refused, or one is missing without which nothing was measured."""
    missing = expected - {call.method for call in calls if call.status == 200}
    refused = [call.method for call in calls if call.status != 200]
    if missing or refused:
        raise lab.LabError(f"calls of one start or stop: missing {sorted(missing)}, refused {refused}")
    return 1000 * sum(call.took for call in calls)
