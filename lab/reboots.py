"""Cut the power of Docker hosts again and again: does every container come back, with its network?

`python -m lab reboots`. A schedule comes from `reboots_plan`; what runs on the hosts and how it is judged is
`reboots_hosts`. After each round every `restart=always` container must run, have its addresses and reach the other
host's containers, published ports must answer, and soon after nothing may be there that Docker does not know.
"""

from __future__ import annotations

import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import click

from lab import command, config, errors, host, images, lab, plugin_image, reboots_hosts, reboots_plan, services, site

BACK_S: Final = 60.0
"""In which all containers must be back and reach each other, counted from the power; etcd or not."""
MEND_S: Final = 150.0
"""In which nothing may be left over: what the plugin's looks of 20 s found unknown to Docker goes."""
_SHOWS: Final = "docker ps -a; docker inspect $(docker ps -aq); ip -d addr; ip route; bridge fdb; nft list ruleset"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A run: as many reboots on each of the engines."""

    count: int
    seed: int
    engine: str = "28.5"
    keep: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a round went. Units: seconds; `clean_s` until nothing was left over."""

    round: reboots_plan.Round
    back_s: float
    clean_s: float
    troubles: tuple[str, ...]
    remark: str = ""


def run(options: Options) -> list[Outcome]:
    """Bring a lab up, reboot and tell. The lab goes away, unless it is kept. Raises LabError."""
    name = f"boots{options.engine.replace('.', '')}"
    image = plugin_image.build()
    built = lab.Lab.up(config.LabConfig(name=name, hosts=len(reboots_plan.HOSTS), engine=options.engine))
    try:
        site.put_config(built)
        pushed = plugin_image.push(built, image)
        return Reboots(built, pushed).run(reboots_plan.plan(options.seed, options.count))
    finally:
        if options.keep:
            click.echo(f"the lab is kept: python -m lab exec --name {name} h1 bash; python -m lab down --name {name}")
        else:
            built.down()


class Reboots:
    """Rounds over a lab that is up."""

    def __init__(self, built: lab.Lab, image: str) -> None:
        self._lab = built
        self._image = image
        self._hosts = list(built.hosts.values())
        self._homes: dict[str, reboots_hosts.Home] = {}

    def run(self, rounds: Sequence[reboots_plan.Round]) -> list[Outcome]:
        """Furnish the hosts and reboot them; ends at the first round that fails. Raises LabError."""
        command.each(self._furnish, self._hosts)
        self._homes = {on.name: reboots_hosts.Home.of(on) for on in self._hosts}
        if unwell := _within(BACK_S, self._not_back):
            self._keep_logs()
            raise errors.LabError(f"not whole before the first reboot: {'; '.join(unwell)}")
        click.echo(HEAD)
        done: list[Outcome] = []
        for each in rounds:
            done.append(self._reboot(each))
            click.echo(format_outcome(done[-1]))
            if done[-1].troubles:
                self._keep_logs()
                break
        return done

    def _furnish(self, on: host.Host) -> None:
        site.install(on, self._image, ETCD_ENDPOINTS=self._lab.etcd_endpoints)
        site.wait_ready(on)
        reboots_hosts.furnish(on)

    def _reboot(self, one: reboots_plan.Round) -> Outcome:
        targets = [self._lab.hosts[name] for name in one.hosts]
        if one.etcd != "up":
            self._each_member(services.Etcd.stop_etcd)
        command.each(lambda on: self._cut(on, one), targets)
        time.sleep(one.off_s)
        begin = time.monotonic()
        troubles: list[str] = []
        remark = ""
        try:
            command.each(lambda on: on.power_on(), targets)
            troubles += _within(BACK_S, self._not_back)
            anew = [on for on in targets if troubles and self._start_docker_anew(on)]
            if anew:
                remark = ", dockerd started once more: its own port was taken"
                troubles = _within(BACK_S, self._not_back)
        except errors.LabError as exc:
            troubles.append(str(exc))
        back_s = time.monotonic() - begin
        if one.etcd == "late":
            time.sleep(max(0.0, reboots_plan.LATE_S - (time.monotonic() - begin)))
        if one.etcd != "up":
            self._each_member(services.Etcd.start_etcd)
        if not troubles:
            for on in targets:
                self._sweep(on)
            troubles += _within(MEND_S, self._not_clean)
        clean_s = time.monotonic() - begin
        return Outcome(round=one, back_s=back_s, clean_s=clean_s, troubles=tuple(troubles), remark=remark)

    def _keep_logs(self) -> None:
        """What dockerd, with the plugin's lines, and Docker say of each host: the lab goes away."""
        evidence = pathlib.Path("build") / self._lab.name
        evidence.mkdir(parents=True, exist_ok=True)
        for on in self._hosts:
            (evidence / f"{on.name}-dockerd.log").write_text(on.log_tail(host.DOCKERD, lines=4000))
            shown = on.try_exec(["sh", "-c", _SHOWS], timeout_s=60)
            (evidence / f"{on.name}-state.txt").write_text(shown.out + shown.err)
        click.echo(f"logs in {evidence}")

    @staticmethod
    def _start_docker_anew(on: host.Host) -> bool:
        """Where dockerd itself kept a container from starting, and nobody else; tells whether."""
        if not reboots_hosts.engines_own(on):
            return False
        on.restart_dockerd()
        return True

    # -- cutting --------------------------------------------------------------------------------------------------

    def _cut(self, on: host.Host, one: reboots_plan.Round) -> None:
        """Cut one host's power at the moment that the round names."""
        if one.cut == "starting":
            on.power_off()
            on.power_on(wait=False)
        doing = threading.Thread(target=_interrupted, args=(on, one.cut, self._homes[on.name].spare), daemon=True)
        doing.start()
        time.sleep(one.after_s)
        on.power_off()
        doing.join(30)

    def _sweep(self, on: host.Host) -> None:
        """Take away what a cut operation left in Docker: it may have come into being or not."""
        on.try_docker("rm", "-f", "passing", timeout_s=90)
        on.try_docker("network", "rm", "passing", timeout_s=90)

    def _each_member(self, act: Callable[[services.Etcd], None]) -> None:
        members = list(self._lab.etcd.values())
        for member in members:
            act(member)
        if act is services.Etcd.start_etcd:
            services.wait_etcd(members, self._lab.plan.etcd_endpoints)

    # -- judging --------------------------------------------------------------------------------------------------

    def _not_back(self) -> list[str]:
        lost = [line for on in self._hosts for line in reboots_hosts.missing(on)]
        return lost or reboots_hosts.unreached(self._hosts)

    def _not_clean(self) -> list[str]:
        found = reboots_hosts.strangers(self._hosts, self._homes)
        keys = self._lab.etcdctl("get", "--prefix", f"{site.PREFIX}/subnets/", "-w", "json")
        for on in self._hosts:
            held, home = reboots_hosts.lease_in_etcd(keys, on), self._homes[on.name].lease
            if held != home:
                found.append(f"{on.name}: etcd has {held or 'no lease'}, expected {home}")
        return found or self._not_back()


def _interrupted(on: host.Host, cut: reboots_plan.Cut, spare: str) -> None:
    """What the power cut falls into: it may fail, or never end."""
    run_ = ("run", "-d", "--name", "passing", "--network", reboots_hosts.MINE, images.BUSYBOX, "sleep", "600")
    words: dict[reboots_plan.Cut, list[tuple[str, ...]]] = {
        "run": [run_],
        "rm": [run_, ("rm", "-f", "passing")],
        "network": [
            ("network", "create", "-d", "flannelpy", "--ipam-driver", "flannelpy", "--subnet", spare, "passing"),
            ("network", "rm", "passing"),
        ],
    }
    for each in words.get(cut, []):
        try:
            on.try_docker(*each, timeout_s=20)
        except (errors.LabError, OSError):
            return


def _within(seconds: float, ask: Callable[[], list[str]]) -> list[str]:
    """Ask until there is nothing to complain of; the last complaints."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            said = ask()
        except errors.LabError as exc:
            said = [str(exc)]
        if not said or time.monotonic() > deadline:
            return said
        time.sleep(0.5)


HEAD: Final = f"{'round':>5}  {'hosts':7}{'etcd':6}{'cut into':10}{'after s':>8}{'back s':>8}{'clean s':>9}  verdict"


def format_outcome(one: Outcome) -> str:
    """A line of the table, and one for each trouble."""
    which = one.round
    verdict = ("FAILED" if one.troubles else "all back, nothing left") + one.remark
    row = (
        f"{which.number:5}  {','.join(which.hosts):7}{which.etcd:6}{which.cut:10}{which.after_s:8.2f}"
        f"{one.back_s:8.1f}{one.clean_s:9.1f}  {verdict}"
    )
    return "\n".join([row, *(f"       {trouble}" for trouble in one.troubles)])
