"""Random operations against real dockerds, with kills: does anything stay that Docker does not know?

`python -m lab random`, and a short one in the system suite. The plan is `random_plan`'s, operations are done by
`random_hand`, hosts seen by `random_look` and judged by `random_oracle`. After every step everything is compared
with what Docker knows; where something was killed, what differs has the plugin's own time to be mended, at the end of
the burst. Two endpoints with one address are a failure at any time.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import ipaddress
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Final

import click

from lab import (
    command,
    config,
    errors,
    host,
    lab,
    plugin_image,
    random_evidence,
    random_hand,
    random_look,
    random_oracle,
    random_plan,
    random_refusals,
    random_report,
    site,
)

HOSTS: Final = 2
NETWORK_CONFIG: Final = (
    '{"EnableIPv6": true, "Network": "10.2.0.0/16", "IPv6Network": "fd00:2::/48", "Backend": {"Type": "vxlan"}}'
)
SETTLE_S: Final = 10.0
"""In which all must agree where nothing was killed: brief containers end, veth pairs go in the background."""
MEND_S: Final = 100.0
"""In which all must agree after a kill: the plugin looks 65 s after its start, and then every minute."""
_NOTABLE_S: Final = 2.0
_SHADOW_S: Final = 60.0
"""For so long after the end of a fault operations may fail because of it: dockerd repeats broken calls for 30 s."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One run. only: just this burst of it, from 0; evidence: where a failure leaves logs and looks."""

    operations: int
    seed: int
    engine: str = "28.5"
    firewall: str = "iptables-nft"
    dockerd_args: tuple[str, ...] = ()
    only: int | None = None
    keep: bool = False
    evidence: pathlib.Path = pathlib.Path("build")


def run(options: Options) -> bool:
    """Bring a lab up, operate, tell; True if it passed. The lab goes away, unless it is kept. Raises LabError."""
    name = f"rand{options.engine.replace('.', '')}s{options.seed}"
    wanted = config.LabConfig(
        name=name,
        hosts=HOSTS,
        engine=options.engine,
        firewall=options.firewall,
        dockerd_args=options.dockerd_args,
    )
    image = plugin_image.build()
    built = lab.Lab.up(wanted)
    try:
        site.put_config(built, NETWORK_CONFIG)
        pushed = plugin_image.push(built, image)
        for on in built.hosts.values():
            site.install(on, pushed, ETCD_ENDPOINTS=built.etcd_endpoints)
        return RandomRun(options, built, list(built.hosts.values())).run()
    finally:
        if options.keep:
            click.echo(f"the lab is kept: python -m lab exec --name {name} h1 bash; python -m lab down --name {name}")
        else:
            built.down()


class RandomRun:
    """One run on hosts that have the plugin and nothing else on its networks. prefix: of their flannel network."""

    def __init__(
        self, options: Options, built: lab.Lab, hosts: Sequence[host.Host], prefix: str = site.PREFIX
    ) -> None:
        self._options = options
        self._prefix = prefix
        self._lab = built
        self._hosts = {on.name: on for on in hosts}
        self._hands: dict[str, random_hand.Hand] = {}
        self._zero = time.monotonic()
        self._outcomes: list[random_hand.Outcome] = []
        self._refusals: collections.Counter[str] = collections.Counter()
        self._found: list[random_oracle.Difference] = []
        self._troubles: list[str] = []
        self._shadows: dict[str, float] = {}  # until when a host's refusals may come from a fault
        self._broken = False  # whether anything was killed in this burst
        self._looks = 0
        self._settled_s = [0.0, 0.0]
        self._leases: list[str] = []

    def run(self) -> bool:
        """Operate as planned and judge; stops at the first burst after which something differs."""
        bursts = random_plan.plan(self._options.seed, self._options.operations, list(self._hosts))
        self._begin()
        for number, burst in enumerate(bursts):
            if self._options.only in (None, number):
                self._do_burst(number, burst)
            if self._found:
                break
        report = random_report.Report(
            outcomes=self._outcomes,
            refusals=self._refusals,
            found=self._found,
            troubles=self._troubles,
            looks=self._looks,
            settled_s=(self._settled_s[0], self._settled_s[1]),
            took_s=time.monotonic() - self._zero,
        )
        click.echo(random_report.format_report(report))
        if not report.passed:
            directory = self._options.evidence / f"random-{self._options.engine}-{self._options.seed}"
            random_evidence.keep(directory, self._hosts.values())
            click.echo(f"evidence in {directory}")
        return report.passed

    # -- the begin ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        for on in self._hosts.values():
            site.wait_ready(on, 60)
            (lease,) = site.status(on)["flannel_networks"]
            subnets = ipaddress.IPv4Network(lease["subnet"]), ipaddress.IPv6Network(lease["subnet_v6"])
            self._hands[on.name] = random_hand.Hand(on, subnets)
        self._leases = self._lease_keys()
        self._zero = time.monotonic()

    def _lease_keys(self) -> list[str]:
        """The subnets in etcd and whose they are: they must be these in the end."""
        told = json.loads(self._lab.etcdctl("get", "--prefix", f"{self._prefix}/subnets/", "-w", "json"))
        return sorted(f"{entry['key']} {entry['lease'] != 0}" for entry in told.get("kvs", ()))

    # -- a burst --------------------------------------------------------------------------------------------------

    def _do_burst(self, number: int, burst: random_plan.Burst) -> None:
        self._broken = False
        for at, step in enumerate(burst):
            self._do_step(f"{number}.{at}", step)
            if self._broken:
                self._look_for_doubled()
            else:
                self._settle(f"after {number}.{at}", [step[0].host] if len(step) == 1 else list(self._hosts))
            if self._found:
                return
        self._settle(f"at the end of burst {number}", list(self._hosts), audit=True)
        self._clear(number)
        self._settle(f"after all of burst {number} was removed", list(self._hosts), audit=True)
        if self._lease_keys() != self._leases:
            self._troubles.append(f"after burst {number}: etcd has {self._lease_keys()}, at first {self._leases}")

    def _do_step(self, place: str, step: random_plan.Step) -> None:
        for operation in step:
            self._say(place, str(operation))
            if operation.is_fault:
                self._broken = True
                self._shadows[operation.host] = float("inf")
        with concurrent.futures.ThreadPoolExecutor(max_workers=len(step)) as pool:
            futures = [pool.submit(self._do, operation) for operation in step]
        for operation, future in zip(step, futures, strict=True):
            if operation.is_fault:
                self._shadows[operation.host] = time.monotonic() + _SHADOW_S
            try:
                self._note(place, future.result())
            except errors.LabError as exc:
                self._trouble(f"{place}: {operation}: could not be done: {exc}")

    def _do(self, operation: random_plan.Operation) -> random_hand.Outcome:
        return self._hands[operation.host].do(operation)

    def _note(self, place: str, outcome: random_hand.Outcome) -> None:
        self._outcomes.append(outcome)
        if not outcome.refused:
            return
        shadowed = outcome.began_s < self._shadows.get(outcome.operation.host, 0.0)
        name = random_refusals.name_of(outcome.refused, after_fault=shadowed)
        self._say(place, f"  refused after {outcome.took_s:.2f} s ({name}): {outcome.refused}")
        if name is None:
            self._trouble(f"{place}: {outcome.operation}: {outcome.refused}")
        else:
            self._refusals[name] += 1

    def _clear(self, number: int) -> None:
        """Twice, if need be: a network that still has an endpoint from before a kill is removed when Docker sees."""
        said: list[str] = []

        def cleared() -> bool:
            said[:] = [
                line for lines in command.each(lambda hand: hand.clear(), self._hands.values()) for line in lines
            ]
            return not said

        try:
            command.wait_until("nothing left", cleared, timeout_s=SETTLE_S, interval_s=1.0)
        except errors.Timeout:
            self._trouble(f"after burst {number} not removed: {'; '.join(said)}")

    # -- the looks ------------------------------------------------------------------------------------------------

    def _settle(self, when: str, names: Sequence[str], *, audit: bool = False) -> None:
        """Wait until nothing differs, and the plugin's own audit agrees if asked; what still does is found."""
        began_s = time.monotonic()
        patience_s = MEND_S if self._broken else SETTLE_S
        left: list[str] = []

        def settled() -> bool:
            found = self._differences(names)
            if audit and not found:
                found = self._audited(names)
            lines = [str(one) for one in found]
            if lines != left and time.monotonic() - began_s > _NOTABLE_S:
                self._say(when, f"differs: {'; '.join(lines) or 'nothing'}")
            left[:] = lines
            return not lines

        try:
            command.wait_until("all agree", settled, timeout_s=patience_s, interval_s=0.2)
        except errors.Timeout:
            self._found += self._differences(names) or self._audited(names)
            self._say(when, f"DIFFERENT after {patience_s:g} s")
            return
        took_s = time.monotonic() - began_s
        self._settled_s[self._broken] = max(self._settled_s[self._broken], took_s)
        if took_s > _NOTABLE_S:
            self._say(when, f"all agree after {took_s:.1f} s")

    def _differences(self, names: Sequence[str]) -> list[random_oracle.Difference]:
        """Everything; a host of which not all can be seen differs too."""
        try:
            seen = self._see(names)
        except errors.LabError as exc:
            return [random_oracle.Difference(sort=random_oracle.Sort.MISSING, text=str(exc))]
        return [*random_oracle.doubled(seen), *(one for host in seen for one in random_oracle.differences(host))]

    def _audited(self, names: Sequence[str]) -> list[random_oracle.Difference]:
        """What the plugin itself finds different."""
        found = []
        for name in names:
            code, text = site.ask(self._hosts[name], "/audit?settle=0.5")
            told = json.loads(text).get("differences", ()) if code == 200 else [text.strip()]
            found += [random_oracle.Difference(sort=random_oracle.Sort.AUDIT, text=f"{name}: {one}") for one in told]
        return found

    def _look_for_doubled(self) -> None:
        """What is doubled must be so at two looks: an address may move from one endpoint to another between two."""
        first = self._try_doubled()
        if first:
            self._found += [one for one in self._try_doubled() if one in first]

    def _try_doubled(self) -> list[random_oracle.Difference]:
        try:
            return random_oracle.doubled(self._see(list(self._hosts)))
        except errors.LabError:
            return []  # somebody is just coming back

    def _see(self, names: Sequence[str]) -> list[random_look.Seen]:
        self._looks += 1
        return command.each(random_look.look, [self._hosts[name] for name in names])

    # -- what is said ---------------------------------------------------------------------------------------------

    def _say(self, where: str, what: str) -> None:
        click.echo(f"{time.monotonic() - self._zero:8.1f}  {where:6} {what}")

    def _trouble(self, what: str) -> None:
        self._troubles.append(what)
        click.echo(f"TROUBLE {what}")
