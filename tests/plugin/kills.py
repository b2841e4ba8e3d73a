"""A host on which the plugin, or its worker alone, is killed at a fault point, and what must be as before in the end.

The plugin's real process, a real kernel in a namespace, a real state file; dockerd is `engine_model`.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import ipaddress
import itertools
import json
import os
import pathlib
import re
import signal
import sqlite3
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from driver import endpoints
from overlay import faults
from tests.overlay import node_host
from tests.plugin import engine_model, machine

until = node_host.until
NATIVE = {"flannelpy.gateway": "native"}
DUAL = json.dumps(
    {"Network": "10.2.0.0/16", "EnableIPv6": True, "IPv6Network": "2001:db8:2::/48", "Backend": {"Type": "vxlan"}}
)
QUERIES = (
    "SELECT id, bridge, pool FROM networks",
    "SELECT id, network_id, address, joined FROM endpoints",
    "SELECT pool_id FROM ipam_pools",
    "SELECT pool_id, ip, kind FROM ipam_addresses WHERE kind IS NOT NULL",
)

SHARED, SHARED_TRIES = "firewall.", 4
"""Points that a call passes only where no other thread is writing for it at that moment (`overlay.group_commit`)."""

SETTLES_S = 15.0
"""The look at Docker mends what is older than 1.2 s and found by two looks; the rest is for a busy machine."""


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """The `nth` time that `name` is passed within one call."""

    name: str
    nth: int


def count(names: Sequence[str]) -> list[Point]:
    """Every moment that was recorded, as one at which to strike."""
    seen: collections.Counter[str] = collections.Counter()
    points = []
    for name in names:
        seen[name] += 1
        points.append(Point(name, seen[name]))
    return points


class Host(machine.Machine):
    """One host, with a network and a container on it that nothing may touch: the bystander."""

    def __init__(self, directory: pathlib.Path, **env: str) -> None:
        super().__init__(directory, **env)
        self.start()
        self.engine = engine_model.Engine(directory / "run", self.netns)
        until(self.ready, "ready", 30)
        (lease,) = json.loads(self.get("/status"))["flannel_networks"]
        self.pools = [str(net) for net in ipaddress.ip_network(lease["subnet"]).subnets(new_prefix=26)]
        self.pools_v6 = [""] * len(self.pools)
        if lease["subnet_v6"]:
            v6 = ipaddress.ip_network(lease["subnet_v6"]).subnets(new_prefix=66)
            self.pools_v6 = [str(net) for net in v6]
        self.net = self.engine.network_create(self.pools[0], NATIVE, pool_v6=self.pools_v6[0])
        self.bystander = self.engine.run(self.net, {})
        until(lambda: len(json.loads(self.get("/status"))["endpoints"]) == 1)
        self.whole = self.truth()

    def close(self) -> None:
        """End everything."""
        self.engine.close()
        super().close()

    # -- fault points ---------------------------------------------------------------------------------------

    def strike(self, method: str, point: Point, *, action: str = "kill") -> None:
        """Kill the worker at this point of the next call of `method`, or within the thread of this name."""
        order = faults.Order(point=point.name, handler=method, nth=point.nth, action=action)

        def give(called: str) -> None:
            if called == method:
                self.engine.before = lambda _method: None
                self.give(order)

        if _is_call(method):
            self.engine.before = give
        else:
            self.give(order)

    # -- what there is ---------------------------------------------------------------------------------------

    def truth(self) -> dict[str, object]:
        """Everything that could leak or be doubled, without counters and numbers of links."""
        links = json.loads(self.run("ip", "-j", "link"))
        rules = re.sub(r"counter packets \d+ bytes \d+", "counter", self.run("nft", "list", "ruleset"))
        tables = sorted(re.split(r"(?m)^(?=table )", rules))  # one that was made anew is listed last
        told = json.loads(self.get("/status"))
        return {
            "links": sorted(f"{link['ifname']} in {link.get('master', 'nothing')}" for link in links),
            "addresses": sorted(
                " ".join(line.split()[1:4]) for line in self._lines("ip", "-o", "addr") if "fe80:" not in line
            ),
            "routes": sorted(
                line.strip()
                for family in ("-4", "-6")
                for line in self._lines("ip", family, "route")
                if "fe80:" not in line
            ),
            "rules": "".join(tables).splitlines(),
            "listening": sorted(" ".join(line.split()[:5]) for line in self._lines("ss", "-Hltun")),
            "rows": self._rows(),
            "told": {name: told.get(name) for name in ("networks", "endpoints", "addresses")},
        }

    def wait_until_whole(self) -> list[str]:
        """Wait until all is as it was in the beginning; what is not in the end, a line each."""
        left: list[str] = []

        def same() -> bool:
            nonlocal left
            try:
                now = self.truth()
            except engine_model.BROKEN:
                return False
            left = [f"{name}: {self.whole[name]} became {now[name]}" for name in now if self.whole[name] != now[name]]
            return not left

        with contextlib.suppress(AssertionError):
            until(same, within_s=SETTLES_S)
        if not left and not self.bystander_is_well():
            left = ["the bystander lost its interface"]
        return left

    def bystander_is_well(self) -> bool:
        """Its interface is where it was, up, with its address."""
        shown = engine_model.inside(self.bystander.netns, "ip", "-o", "-4", "addr", "show", "up", "dev", "eth0")
        return self.bystander.address in shown

    # -- inside ---------------------------------------------------------------------------------------

    def _rows(self) -> list[list[tuple[Any, ...]]]:
        path = urllib.parse.quote(str(self.directory / "state/flannelpy.db"))
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
            return [sorted(connection.execute(query).fetchall()) for query in QUERIES]

    def _lines(self, *words: str) -> list[str]:
        return self.run(*words).splitlines()


def _is_call(who: str) -> bool:
    """A method of the plugin, not one of its threads."""
    return who.startswith(("NetworkDriver.", "IpamDriver."))


class Hosts:
    """One host for a whole module; a new one where a test left it broken. `env`: the plugin's settings."""

    def __init__(self, **env: str) -> None:
        self._env = env
        self._host: Host | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def get(self) -> Host:
        if self._host is None:
            self._directory = tempfile.TemporaryDirectory()  # a socket's path has at most 107 characters
            self._host = Host(pathlib.Path(self._directory.name), **self._env)
        return self._host

    def drop(self) -> None:
        if self._host is not None and self._directory is not None:
            self._host.close()
            self._directory.cleanup()
        self._host = None


def first(failures: Iterator[str], most: int = 3) -> list[str]:
    """What tells enough: each failure has taken SETTLES_S, and all of them may take longer than a test may."""
    return list(itertools.islice(failures, most))


def check_every_point(
    hosts: Hosts, method: str, live: Callable[[Host], object], *, modern: bool = True
) -> Iterator[str]:
    """Live once recording, then once for each point within `method`, killed there; a line for each failure.

    `method` may be the name of a thread: what it does after a life is recorded too.
    """
    host = hosts.get()
    host.engine.modern = modern
    passed = [point for who, point in host.record(lambda: (live(host), host.wait_until_whole())) if who == method]
    assert passed, f"{method} passed no fault point"
    left = host.wait_until_whole()
    assert left == [], left
    for point in count(passed):
        host = hosts.get()
        failure = _kill_once(host, method, point, live)
        if failure:
            hosts.drop()
            yield f"{method} killed at {point.name} #{point.nth}: {failure}"


def check_point(hosts: Hosts, method: str, point: Point, victim: str, live: Callable[[Host], object]) -> str:
    """Live once, killed there: the "worker" or the "plugin" as a whole; what is wrong then."""
    host = hosts.get()
    host.engine.modern = True
    failure = _kill_once(host, method, point, live, victim)
    if failure:
        hosts.drop()
    return failure


def _kill_once(host: Host, method: str, point: Point, live: Callable[[Host], object], victim: str = "worker") -> str:
    tries = SHARED_TRIES if point.name.startswith(SHARED) else 1
    if not any(_is_struck(host, method, point, live, victim) for _ in range(tries)):
        return "the point was not reached"
    refused = [text.rpartition("got an ")[2][:10] for text in host.engine.refusals]
    if _is_call(method) and refused != ([] if method in endpoints.CONSTANT else ["empty body"]):
        return f"expected the repeat alone to be refused, and none of a constant call, got {host.engine.refusals}"
    return "; ".join(host.wait_until_whole())


def _is_struck(host: Host, method: str, point: Point, live: Callable[[Host], object], victim: str) -> bool:
    host.engine.refusals.clear()
    with contextlib.ExitStack() as stack:
        if victim == "plugin":
            stack.enter_context(host.killed_while_held())
        host.strike(method, point, action="kill" if victim == "worker" else "hold")
        with contextlib.suppress(engine_model.Refused):
            live(host)
        with contextlib.suppress(AssertionError):
            until(host.struck, within_s=SETTLES_S)
    return host.struck()


def check_every_start(hosts: Hosts) -> Iterator[str]:
    """Let a new worker start, recording, and then one for each point that its threads passed, killed there."""
    host = hosts.get()
    passed = host.record(lambda: _restart(host))
    assert "build" in {who for who, _ in passed}
    for who in sorted({who for who, _ in passed} - {"engine"}):  # its looks change nothing here
        for point in count([name for by, name in passed if by == who]):
            host = hosts.get()
            host.strike(who, point)
            _restart(host)
            with contextlib.suppress(AssertionError):  # not every start needs the same of its background
                until(host.struck, within_s=3)
            failure = host.wait_until_whole() if host.struck() or who != "build" else ["the point was not reached"]
            (host.orders / "order").unlink(missing_ok=True)
            if failure:
                hosts.drop()
                yield f"{who} killed at {point.name} #{point.nth}: {'; '.join(failure)}"


def _restart(host: Host) -> None:
    """Kill the worker and wait until another one is ready."""
    before = host.worker()
    os.kill(before, signal.SIGKILL)
    until(lambda: host.worker() not in (0, before) and host.ready(), "ready again", 30)
