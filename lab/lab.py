"""A lab, whole: brought up, found again, taken down.

The order of `up`: what is cached, the name, the wires, all machines at once, all daemons at once. The order of
`down`: machines, namespaces, disks, the name, so that a `down` cut short can be run again.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import pathlib
import threading
import types
from collections.abc import Callable, Iterator
from typing import Final, Self

from lab import boot, command, errors, host, images, machine, packages, plan, roots, services, state, underlay
from lab import config as cfg

log = logging.getLogger(__name__)

SHARED: Final = "/lab"


class Lab:
    """A running lab. Make one with `Lab.up`, find one with `Lab.attach`; as a context manager it ends itself."""

    def __init__(self, config: cfg.LabConfig) -> None:
        """Lay out names and addresses; nothing is made."""
        self.config = config
        self.plan = plan.plan_lab(config)
        self.name = config.name
        self.shared_dir = state.data_dir(config.name) / "shared"
        self.hosts = {seat.machine: self._host(seat) for seat in self.plan.hosts}
        self.etcd = {seat.machine: services.Etcd(self.plan, seat, spec=self._spec(seat)) for seat in self.plan.etcd}
        self.client = self._machine(self.plan.client)
        self.outside = self._machine(self.plan.outside)
        self._registry = self._machine(self.plan.registry) if self.plan.registry else None
        self._saving = threading.Lock()  # machines boot side by side, and each boot is written down

    @classmethod
    def up(cls, config: cfg.LabConfig) -> Self:
        """Build a lab; on failure, Ctrl-C included, nothing of it stays.

        Raises: LabError.
        """
        command.require_root("a lab")
        packages.ensure()
        for suite in config.suites:
            images.ensure(roots.ensure(suite))
        lab = cls(config)
        state.reserve(config)
        try:
            lab._build()
        except BaseException:
            log.info("taking down what was made lab=%s", config.name)
            lab.down()
            raise
        return lab

    @classmethod
    def attach(cls, name: str) -> Self:
        """Find a lab that some other process brought up.

        Raises: LabError if there is none of that name.
        """
        known = state.load(name)
        if known is None:
            there = ", ".join(state.names()) or "none is up"
            raise errors.LabError(f"no lab {name} ({there}): `python -m lab up --name {name}`")
        lab = cls(known.config)
        for each in lab.machines:
            each.init = known.inits.get(each.name)
        return lab

    @property
    def machines(self) -> tuple[machine.Machine, ...]:
        """Every machine of the lab."""
        registry = (self._registry,) if self._registry else ()
        return (*self.hosts.values(), *self.etcd.values(), *registry, self.client, self.outside)

    @property
    def etcd_endpoints(self) -> str:
        """Client URLs of all members with commas, as ETCD_ENDPOINTS wants them; empty without etcd."""
        return ",".join(self.plan.etcd_endpoints)

    @property
    def registry(self) -> str:
        """What stands before the slash in the name of an image in the lab's registry.

        Raises: LabError if the lab has none.
        """
        if self.plan.registry_name is None:
            raise errors.LabError(f"lab {self.name} has no registry")
        return self.plan.registry_name

    @property
    def outside_url(self) -> str:
        """A page off the underlay, which says the address that the request came from."""
        return f"http://{self.plan.outside.ip}/"

    def etcdctl(self, *args: str, timeout_s: float = 30) -> str:
        """Run etcdctl (API v3, all endpoints) on the client machine and give what it printed.

        Raises: CommandFailed, Timeout.
        """
        return services.etcdctl(self.client, self.plan.etcd_endpoints, args, timeout_s=timeout_s)

    def find(self, name: str) -> machine.Machine:
        """Find a machine by name.

        Raises: LabError, which lists the names.
        """
        for each in self.machines:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.machines)
        raise errors.LabError(f"no machine {name} in lab {self.name}: {known}")

    def down(self) -> None:
        """End every process, delete every namespace, cgroup, mount and file of the lab. Twice is harmless.

        Raises: the first LabError, after everything else was tried.
        """
        failures: list[errors.LabError] = []

        def tried(step: Callable[[], object]) -> None:
            try:
                step()
            except errors.LabError as exc:
                failures.append(exc)

        command.each(lambda each: tried(each.stop), self.machines)
        tried(lambda: underlay.delete(self.plan.netns))
        if failures:
            raise failures[0]
        state.forget(self.name)

    def save(self) -> None:
        """Write down which processes are the machines' inits."""
        with self._saving:
            inits = {each.name: each.init for each in self.machines if each.init is not None}
            state.save(state.State(config=self.config, inits=inits))

    def __enter__(self) -> Self:
        """Give the lab itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        """Take it down."""
        self.down()

    def _build(self) -> None:
        self.shared_dir.mkdir(parents=True, exist_ok=True)
        with _timed("wires"):
            underlay.create(self.plan)
        with _timed("machines"):
            command.each(lambda each: each.start(), self.machines)
            self.save()
        with _timed("daemons"):
            command.each(lambda start: start(), self._daemons())

    def _daemons(self) -> list[Callable[[], None]]:
        """List what must be started, each on its own; all of them together are the lab."""
        starts: list[Callable[[], None]] = [self._start_etcd, lambda: services.start_web(self.outside)]
        starts += [functools.partial(self._start_host, one) for one in self.hosts.values()]
        if self._registry is not None:
            starts.append(functools.partial(services.start_registry, self._registry))
        return starts

    def _start_etcd(self) -> None:
        members = list(self.etcd.values())
        for member in members:
            member.start_etcd()
        services.wait_etcd(members, self.plan.etcd_endpoints)

    def _start_host(self, one: host.Host) -> None:
        one.start_dockerd()
        with images.ensure(one.spec.root).open("rb") as archive:
            one.docker("load", "--quiet", stdin=archive, timeout_s=120)

    def _host(self, seat: plan.Seat) -> host.Host:
        made = host.Host(self.plan, seat, spec=self._spec(seat), args=self.config.dockerd_args)
        made.nftables = self.config.nftables_of(made.engine)
        made.on_boot = self.save
        return made

    def _machine(self, seat: plan.Seat) -> machine.Machine:
        return machine.Machine(seat.machine, netns=seat.netns, cgroup=self.plan.cgroup(seat), spec=self._spec(seat))

    def _spec(self, seat: plan.Seat) -> boot.Boot:
        engine = self.plan.engines.get(seat.machine, self.config.engine_of(0))
        shares = [(pathlib.Path(share), share) for share in self.config.shares]
        return boot.Boot(
            hostname=seat.machine,
            root=roots.path_of(roots.suite_of(engine)),
            disk=state.data_dir(self.name) / seat.machine,
            # Nobody answers there, and the router says so at once: a lookup fails fast and never leaves the lab.
            resolv_conf=f"nameserver {plan.UNDERLAY[1]}\n",
            shares=[(self.shared_dir, SHARED), *shares],
            iptables="legacy" if self.config.firewall == "iptables-legacy" else "nft",
            forwards=seat in self.plan.hosts and self.config.nftables_of(engine).needs_forwarding,
        )


@contextlib.contextmanager
def _timed(step: str) -> Iterator[None]:
    started = command.now()
    yield
    log.info("%s up after %.1f s", step, command.now() - started)
