"""Many containers started at the same moment, on one host or on many: do all run, and how long did the plugin take?

`python -m lab crowd`, and a hundred at once in the system suite. How long each call of the plugin took is read from
its own histogram in /metrics, as the difference between before and after; what starts cost as a whole is mostly runc
and dockerd, all hosts sharing one machine. Beside it stands what the kernel alone takes for a change of a link.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import click

from lab import (
    command,
    config,
    engine_api,
    errors,
    host,
    images,
    kernel_lock,
    lab,
    plugin_image,
    quantiles,
    random_look,
    random_oracle,
    site,
)

NETWORK: Final = "crowd"
LIMIT_S: Final = 0.1
"""What 99 of 100 calls may take."""
SHARE: Final = 0.99
SLUGGISH_S: Final = 0.5
"""What the median may take beside other labs. On two cores two crowds of 100 have CreateEndpoint at 0.1 to 0.5 s."""
MEDIAN: Final = 0.5
LOCK: Final = "(the kernel's lock alone)"
_SETTLE_S: Final = 20.0
_BUCKET: Final = re.compile(r'^flannelpy_call_seconds_bucket\{le="([^"]+)",method="([^"]+)",status="(\d+)"\} (\S+)$')

Buckets = Mapping[tuple[str, float], float]
"""How many calls of a method took at most so many seconds."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How many hosts, and how many containers on each."""

    hosts: int = 10
    containers: int = 20
    engine: str = "28.5"
    keep: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What came of it. took_s: until all ran; calls: of all hosts; lock_s: waits for the kernel's lock over links."""

    containers: int
    took_s: float
    calls: Buckets
    troubles: Sequence[str]
    lock_s: Sequence[float] = ()

    @property
    def passed(self) -> bool:
        """Whether all run with an address of their own, and the plugin was quick enough."""
        return not self.troubles and is_quick(self.calls)


def run(options: Options) -> bool:
    """Bring a lab up, crowd it, tell; True if it passed. Raises LabError."""
    name = f"crowd{options.engine.replace('.', '')}"
    image = plugin_image.build()
    built = lab.Lab.up(config.LabConfig(name=name, hosts=options.hosts, engine=options.engine))
    try:
        site.put_config(built)
        pushed = plugin_image.push(built, image)
        hosts = list(built.hosts.values())
        command.each(lambda on: site.install(on, pushed, ETCD_ENDPOINTS=built.etcd_endpoints), hosts)
        command.each(lambda on: site.create_network(on, NETWORK), hosts)
        seen = crowd(hosts, options.containers)
        click.echo(format_seen(seen))
        return seen.passed
    finally:
        if not options.keep:
            built.down()


def crowd(hosts: Sequence[host.Host], containers: int, network: str = NETWORK) -> Seen:
    """Start so many on each host at once, look at everything, and remove them. The network must be there."""
    made = [(on, f"crowd{number}") for on in hosts for number in range(containers)]
    try:
        _at_once(made, lambda on, name: _create(on, name, network), width=len(hosts) * 4)
        before = _calls(hosts)
        with kernel_lock.measured(hosts[0]) as lock_s:
            began_s = time.monotonic()
            refused = _at_once(made, _start, width=len(made))
            took_s = time.monotonic() - began_s
        calls = {key: count - before.get(key, 0.0) for key, count in _calls(hosts).items()}
        troubles = [line for line in refused if line] + judge(hosts, len(made))
    finally:
        _at_once(made, _remove, width=len(hosts) * 4)
    return Seen(containers=len(made), took_s=took_s, calls=calls, troubles=troubles, lock_s=lock_s)


def is_quick(calls: Buckets) -> bool:
    """Whether 99 of 100 calls took at most the limit."""
    return _share(calls, list({method for method, _ in calls})) >= SHARE


def list_sluggish(calls: Buckets) -> list[str]:
    """The methods of whose calls less than half took at most SLUGGISH_S: so much holds beside other labs, too."""
    methods = {method for method, _ in calls}
    return sorted(method for method in methods if _share(calls, [method], SLUGGISH_S) < MEDIAN)


def format_seen(seen: Seen) -> str:
    """Everything, for a terminal."""
    return "\n".join(_lines(seen))


def _lines(seen: Seen) -> Iterator[str]:
    methods = sorted({method for method, _ in seen.calls})
    yield f"{seen.containers} containers started at once, all in {seen.took_s:.1f} s"
    yield f"{'call':46}{'times':>6}  within {LIMIT_S * 1000:g} ms; 99 of 100 within"
    for method in methods:
        if _total(seen.calls, [method]):
            yield f"{method:46}{_line(seen.calls, [method])}"
    yield f"{'all':46}{_line(seen.calls, methods)}"
    if seen.lock_s:
        share = quantiles.share_within(seen.lock_s, LIMIT_S)
        yield f"{LOCK:46}{len(seen.lock_s):6}  {share:.1%}; {quantiles.quantile(seen.lock_s, SHARE) * 1000:.0f} ms"
    yield from (f"FAILED: {trouble}" for trouble in seen.troubles)
    if not is_quick(seen.calls):
        yield f"FAILED: less than 99 of 100 calls took at most {LIMIT_S * 1000:g} ms"
    yield "passed" if seen.passed else "not passed"


def _line(calls: Buckets, methods: Sequence[str]) -> str:
    total = _total(calls, methods)
    bounds = sorted({bound for _, bound in calls})
    within = next((bound for bound in bounds if _upto(calls, methods, bound) >= SHARE * total), float("inf"))
    return f"{total:6.0f}  {_share(calls, methods):.1%}; {within * 1000:g} ms"


def _total(calls: Buckets, methods: Iterable[str]) -> float:
    return _upto(calls, methods, float("inf"))


def _upto(calls: Buckets, methods: Iterable[str], bound: float) -> float:
    return sum(calls.get((method, bound), 0.0) for method in methods)


def _share(calls: Buckets, methods: Sequence[str], limit_s: float = LIMIT_S) -> float:
    total = _total(calls, methods)
    return _upto(calls, methods, limit_s) / total if total else 1.0


def parse_calls(text: str) -> Buckets:
    """Read the histogram out of Prometheus' text: all statuses of a method together."""
    counted: dict[tuple[str, float], float] = collections.defaultdict(float)
    for line in text.splitlines():
        found = _BUCKET.match(line)
        if found is not None:
            bound, method, _, count = found.groups()
            counted[method, float(bound.replace("+Inf", "inf"))] += float(count)
    return counted


def _calls(hosts: Iterable[host.Host]) -> Buckets:
    counted: dict[tuple[str, float], float] = collections.defaultdict(float)
    for on in hosts:
        for key, count in parse_calls(site.ask(on, "/metrics")[1]).items():
            counted[key] += count
    return counted


def judge(hosts: Sequence[host.Host], wanted: int) -> list[str]:
    """What is not as it must be: so many run, nothing is doubled, missing or left over. Waits a while for it."""
    last: list[str] = []

    def agrees() -> bool:
        seen = command.each(random_look.look, hosts)
        found = [*random_oracle.doubled(seen), *(one for on in seen for one in random_oracle.differences(on))]
        count = sum(len(on.running) for on in seen)
        last[:] = [str(one) for one in found] + ([] if count >= wanted else [f"{count} of {wanted} run"])
        return not last

    try:
        command.wait_until("all agree", agrees, timeout_s=_SETTLE_S, interval_s=0.5)
    except errors.Timeout:
        return last
    return []


def _at_once(made: Sequence[tuple[host.Host, str]], work: Callable[[host.Host, str], str], width: int) -> list[str]:
    with concurrent.futures.ThreadPoolExecutor(max_workers=width) as pool:
        return [future.result() for future in [pool.submit(work, on, name) for on, name in made]]


def _create(on: host.Host, name: str, network: str) -> str:
    body = {
        "Image": images.BUSYBOX,
        "Cmd": ["sleep", "86400"],
        "StopSignal": "SIGKILL",
        "HostConfig": {"NetworkMode": network},
    }
    answer = engine_api.ask(on, "POST", f"/containers/create?name={name}", body)
    if not answer.ok:
        raise errors.LabError(f"{on.name}: create {name}: {answer.message}")
    return ""


def _start(on: host.Host, name: str) -> str:
    answer = engine_api.ask(on, "POST", f"/containers/{name}/start")
    return "" if answer.ok else f"{on.name}: start {name}: {answer.message}"


def _remove(on: host.Host, name: str) -> str:
    return engine_api.ask(on, "DELETE", f"/containers/{name}?force=1").message
