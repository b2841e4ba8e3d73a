"""The soak: hosts whose containers ping each other while everything around them is broken at random, and a verdict.

`python -m lab chaos`, `make chaos`. A schedule comes from `chaos_plan`, its faults are done by `chaos_faults`, pings
and losses are `chaos_watch` and `chaos_verdict`, the state in the end `chaos_converged`. It passes when no ping
between two containers was lost for longer than ten seconds, but where a fault cut the link of one of their hosts, and
when soon after the last fault all hosts agree with etcd and with each other.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import click

from lab import (
    chaos_converged,
    chaos_faults,
    chaos_hosts,
    chaos_plan,
    chaos_report,
    chaos_verdict,
    chaos_watch,
    command,
    config,
    errors,
    lab,
    plugin_image,
    site,
)

NAME: Final = "chaos"
CONVERGE_S: Final = 15.0
_BEGIN_S: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One soak. evidence: where a failure leaves logs and what the hosts looked like."""

    seconds: float
    seed: int
    hosts: int = 4
    engine: str = "28.5"
    keep: bool = False
    evidence: pathlib.Path = pathlib.Path("build")


def run(options: Options) -> bool:
    """Soak and tell; True if it passed. The lab goes away, also after a failure or Ctrl-C, unless it is kept.

    Raises: LabError where the lab itself cannot be had.
    """
    click.echo(f"seed {options.seed}: {options.seconds:g} s, {options.hosts} hosts, engine {options.engine}")
    image = plugin_image.build()
    wanted = config.LabConfig(
        name=NAME,
        hosts=options.hosts,
        engine=options.engine,
        etcd_members=3,
        dockerd_args=("--live-restore",),
    )
    built = lab.Lab.up(wanted)
    watch = chaos_watch.Watch(list(built.hosts))
    try:
        site.put_config(built)
        name = plugin_image.push(built, image)
        return Soak(options, built, chaos_faults.Faults(built, name, watch), watch).run()
    finally:
        watch.stop()
        if options.keep:
            click.echo(f"the lab is kept: python -m lab exec --name {NAME} h1 bash; python -m lab down --name {NAME}")
        else:
            built.down()


class Soak:
    """One run over a lab that is up. Times in the log are seconds since the first ping."""

    def __init__(
        self, options: Options, built: lab.Lab, faults: chaos_faults.Faults, watch: chaos_watch.Watch
    ) -> None:
        self._options = options
        self._lab = built
        self._faults = faults
        self._watch = watch
        self._zero = time.monotonic()
        self._lock = threading.Lock()  # over the four below
        self._done: list[chaos_report.Done] = []
        self._windows: dict[int, chaos_verdict.Window] = {}
        self._troubles: list[str] = []
        self._moved: set[str] = set()
        self._resources = {name: threading.Lock() for name in ("traffic", "etcd", "words", "docker", *built.hosts)}
        self._over = threading.Event()

    def run(self) -> bool:
        """Begin, break, wait, judge."""
        before = self._begin()
        schedule = chaos_plan.plan(
            self._options.seed, self._options.seconds, list(self._lab.hosts), list(self._lab.etcd)
        )
        self._break_all(schedule)
        self._converge({name: subnet for name, subnet in before.items() if name not in self._moved})
        time.sleep(chaos_verdict.PATIENCE_S)  # until the last probes are decided
        now = time.monotonic()
        sent, answered = self._watch.counts()
        pieces = chaos_verdict.judge(self._watch.losses(), list(self._windows.values()), now)
        report = chaos_report.Report(
            done=sorted(self._done, key=lambda done: done.begin_s),
            pieces=pieces,
            troubles=self._troubles,
            zero_s=self._zero,
            worst_pause_s=self._watch.worst_pause_s,
            sent=sent,
            answered=answered,
        )
        click.echo(chaos_report.format_report(report))
        if not report.passed:
            self._keep_logs()
            click.echo(f"evidence in {self._evidence}; again with: python -m lab chaos --keep {self._again}")
        return report.passed

    # -- the begin ------------------------------------------------------------------------------------------------

    def _begin(self) -> dict[str, str]:
        """Let every host join and every pair answer; give the hosts' subnets. Raises LabError."""
        command.each(self._faults.hosts.join, self._lab.hosts.values())
        self._watch.start()
        command.wait_until("all pairs answer", lambda: not self._watch.silent(), timeout_s=_BEGIN_S)
        self._zero = time.monotonic()
        self._forget_before()
        return {name: site.subnet_of(host, chaos_hosts.NETWORK) for name, host in self._lab.hosts.items()}

    def _forget_before(self) -> None:
        """What was lost before all pairs answered is nobody's."""
        self._windows = {
            -number: chaos_verdict.Window(host=name, begin_s=0, end_s=self._zero)
            for number, name in enumerate(self._lab.hosts, 1)
        }

    # -- the faults -----------------------------------------------------------------------------------------------

    def _break_all(self, schedule: Sequence[chaos_plan.Fault]) -> None:
        """Do every fault at its time, each in a thread of its own; returns when all have ended."""
        with concurrent.futures.ThreadPoolExecutor(max_workers=16, thread_name_prefix="fault") as pool:
            running = []
            for fault in schedule:
                self._sleep_until(self._zero + fault.at_s)
                running.append(pool.submit(self._guarded, fault))
            self._sleep_until(self._zero + self._options.seconds)
            self._over.set()
        for future in running:
            future.result()

    def _sleep_until(self, when: float) -> None:
        """Wait, and look meanwhile at what is lost for too long."""
        while (left := when - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
            self._catch_in_the_act()

    def _guarded(self, fault: chaos_plan.Fault) -> None:
        """Do one fault when everything it needs is whole; a fault that cannot be done fails the soak."""
        with contextlib.ExitStack() as held:
            for name in sorted(fault.resources):
                held.enter_context(self._resources[name])
            if self._over.is_set():
                return
            begin = time.monotonic()
            self._open_window(fault, begin)
            with self._lock:
                if fault.kind.name == "left-for-good":
                    self._moved.add(fault.target)
            try:
                how = self._faults.begin(fault)
                self._say(f"{fault.kind.name} {fault.target}", how)
                time.sleep(fault.lasts_s)
                self._faults.end(fault)
            except errors.LabError as exc:
                self._trouble(f"{fault.kind.name} {fault.target} could not be done: {exc}")
            end = time.monotonic()
            self._close_window(fault, begin, end)
            if end - begin > 1:
                self._say(f"{fault.kind.name} {fault.target} over", "")
            with self._lock:
                self._done.append(chaos_report.Done(fault=fault, begin_s=begin, end_s=end))
            self._over.wait(fault.kind.heals_s)

    def _open_window(self, fault: chaos_plan.Fault, begin: float) -> None:
        if fault.excused is not None:
            with self._lock:
                self._windows[fault.number] = chaos_verdict.Window(
                    host=fault.excused, begin_s=begin, end_s=float("inf")
                )

    def _close_window(self, fault: chaos_plan.Fault, begin: float, end: float) -> None:
        if fault.excused is not None:
            with self._lock:
                self._windows[fault.number] = chaos_verdict.Window(
                    host=fault.excused, begin_s=begin, end_s=end + chaos_plan.SETTLE_S
                )

    # -- the end --------------------------------------------------------------------------------------------------

    def _converge(self, before: dict[str, str]) -> None:
        """Wait until everything agrees; what still does not is a trouble."""
        started = time.monotonic()
        self._say("all faults are over", "")
        left = ["nobody was asked"]

        def agrees() -> bool:
            try:
                hosts, keys = chaos_converged.look(self._lab, self._faults.etcd)
            except errors.LabError as exc:
                left[:] = [str(exc)]
                return False
            left[:] = [*chaos_converged.complaints(hosts, keys, before), *self._still_silent()]
            return not left

        try:
            command.wait_until("all hosts agree", agrees, timeout_s=CONVERGE_S, interval_s=0.3)
        except errors.Timeout:
            for line in left:
                self._trouble(f"{CONVERGE_S:g} s after the last fault: {line}")
            return
        self._say(f"all hosts agree after {time.monotonic() - started:.1f} s", "")

    def _still_silent(self) -> Iterator[str]:
        for pair in self._watch.silent():
            yield f"no answer: {pair}"

    # -- what is said and kept ------------------------------------------------------------------------------------

    def _say(self, what: str, how: str) -> None:
        click.echo(f"{time.monotonic() - self._zero:8.1f}  {what}" + (f": {how}" if how else ""))

    def _trouble(self, what: str) -> None:
        with self._lock:
            self._troubles.append(what)
        self._say(f"TROUBLE {what}", "")

    @property
    def _evidence(self) -> pathlib.Path:
        return self._options.evidence / f"chaos-{self._options.seed}"

    @property
    def _again(self) -> str:
        return f"--seed {self._options.seed} --seconds {self._options.seconds:g}"

    def _catch_in_the_act(self) -> None:
        """Note how both hosts look while a ping is lost for too long: afterwards it is repaired or gone."""
        now = time.monotonic()
        lost = [loss for loss in self._watch.losses() if loss.end_s is None]
        with self._lock:
            windows = list(self._windows.values())
        for piece in chaos_verdict.failures(chaos_verdict.judge(lost, windows, now)):
            file = self._evidence / f"{piece.loss.source}-{piece.loss.target}-{piece.begin_s - self._zero:.0f}.txt"
            if file.exists() or piece.end_s < now:
                continue
            self._say(f"LOST {piece.loss.source} > {piece.loss.target} for {piece.length_s:.1f} s", str(file))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(self._describe(name) for name in (piece.loss.source, piece.loss.target)))

    def _describe(self, name: str) -> str:
        looks = "ip -d link; ip addr; ip route; ip neigh; bridge fdb; nft list ruleset; iptables-save; docker ps -a"
        host = self._lab.hosts[name]
        told = [f"# {name}"]
        steps: list[Callable[[], str]] = [
            lambda: host.try_exec(["sh", "-xc", f"exec 2>&1; {looks}"], timeout_s=10).out,
            lambda: "\n".join(site.ask(host, path)[1] for path in ("/readyz", "/status")),
        ]
        for step in steps:
            try:
                told.append(step())
            except (errors.LabError, OSError) as exc:
                told.append(str(exc))
        return "\n".join(told)

    def _keep_logs(self) -> None:
        self._evidence.mkdir(parents=True, exist_ok=True)
        for machine in (*self._lab.hosts.values(), *self._lab.etcd.values()):
            for daemon in ("dockerd", "etcd"):
                with contextlib.suppress(OSError):
                    text = machine.log_path(daemon).read_bytes()
                    (self._evidence / f"{machine.name}-{daemon}.log").write_bytes(text)
