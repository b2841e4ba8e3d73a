"""The firewall port on nft and iptables.

Thin: `firewall_table` and `firewall_chain` know what the rules are; here they are compared with what is there and
handed to the tools (`firewall_tools`). Called by `reconciler` on its timer and
after every change of a network. Two iptables flavours can be in use at once (an engine on one, an older tool on the
other), and a packet must pass both. A flavour that nobody uses is left alone: asking iptables-legacy loads its
modules and makes its tables. No tool is run for nftables while the kernel says that nothing changed there.
Not for two threads at once, but for `events`: `firewall_keeper` sees to that, and holds no lock while tools run.
Source: nft(8), xtables-nft(8), iptables-restore(8).
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Unpack

from overlay import (
    errors,
    firewall,
    firewall_chain,
    firewall_look,
    firewall_port,
    firewall_ports,
    firewall_table,
    firewall_tools,
    guard,
    guard_exec,
    nft_events,
    tunnel_exec,
    tunnel_guard,
)

log = logging.getLogger(__name__)

GuardPlan = guard.GuardPlan
TunnelPlan = tunnel_guard.TunnelPlan

LOCK_WAIT_S = 5
"""Seconds to wait for the lock of the legacy iptables: less than `firewall_tools.Tools.timeout_s`."""

LEGACY_TABLES = Path("/proc/thread-self/net")
"""Where the kernel tells which tables of the legacy kind there are: in ip_tables_names, and in ip6_tables_names."""

_UNREADABLE = "Table `filter' is incompatible"


@dataclasses.dataclass(slots=True, kw_only=True)
class _Round:
    """One call of `ensure`. `quiet`: nftables has not changed since all of ours was found there."""

    plan: firewall.FirewallPlan
    quiet: bool
    tools: firewall_tools.Run
    bridges: set[str] = dataclasses.field(default_factory=set)
    written: list[str] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)


class FirewallExec:
    """The host's own packet filter."""

    def __init__(self, *, look_every_s: float = 600.0, **tools: Unpack[firewall_tools.Options]) -> None:
        """`tools` as in `firewall_tools.Tools`.

        Units: `look_every_s` seconds until nftables is listed even though the kernel says that nothing changed there.
        """
        self._tools = firewall_tools.Tools(**tools)
        self._look_every_s = look_every_s
        self._journal = nft_events.Journal()
        self._guard = guard_exec.GuardExec(self._tools, self._journal, look_every_s)
        self._tunnels = tunnel_exec.TunnelExec(self._tools, self._journal, look_every_s)
        self._bridges: frozenset[str] = frozenset()  # of the engine, by its own rules
        self._quiet: tuple[firewall.FirewallPlan, nft_events.Mark] | None = None
        self._quiet_until = 0.0
        self._written: dict[str, tuple[str, str]] = {}  # by nft family: what we wrote, and what nft lists of it

    def ensure(self, plan: firewall.FirewallPlan) -> tuple[str, ...]:
        """Make the host's rules be those of `plan`; names each place that had to be written.

        In each family drops are written before permissions, and where there is nothing to permit they go after them:
        nothing is let through unguarded, and permissions are not written when the drops were refused. Idempotent.
        Raises KernelError after all other places were tried.
        """
        now = self._journal.mark()
        work = _Round(plan=plan, quiet=self._is_quiet(plan, now), tools=self._tools.begin())
        for family in firewall.FAMILIES:
            self._ensure_family(work, family)
        self._note_bridges(work)
        if work.written or work.failures:
            self._quiet = None
        elif work.quiet:
            self._quiet = (plan, now)
        elif now.number is not None:
            self._quiet, self._quiet_until = (plan, now), time.monotonic() + self._look_every_s
        if work.written:
            log.info("firewall written places=%s bridges=%d", ",".join(work.written), len(plan))
        if work.failures:
            raise errors.KernelError(list(dict.fromkeys(work.failures)))
        return tuple(work.written)

    def guard(self, plan: guard.GuardPlan) -> tuple[str, ...]:
        """See `firewall_port.Firewall.guard`; the place is "nft-bridge"."""
        written = self._guard.ensure(plan)
        if written:
            log.debug("guard written objects=%d", len(plan))
        return written

    def list_published(self) -> frozenset[firewall.PublishedPort]:
        """See `firewall_port.Firewall.list_published`."""
        run = self._tools.begin()
        listings = (run.list_nft("table", family.table, firewall.TABLE) for family in firewall.FAMILIES)
        try:
            return frozenset(port for text in listings if text for port in firewall_ports.parse_published(text))
        except ValueError as exc:
            raise errors.KernelError([f"nft list table {firewall.TABLE}: {exc}"]) from exc

    def tunnels(self, plan: TunnelPlan) -> tuple[str, ...]:
        """See `firewall_port.Firewall.tunnels`; the place is "nft-inet"."""
        return self._tunnels.ensure(plan, self._bridges)

    def limits(self) -> tuple[str, ...]:
        """See `firewall_port.Firewall.limits`."""
        said = {
            "forged addresses are not dropped": self._guard.unsupported,
            "containers are not kept from the tunnels' port": self._tunnels.unsupported,
        }
        return tuple(f"{what}: {why}" for what, why in said.items() if why)

    def look(
        self,
        plan: firewall.FirewallPlan,
        guarded: GuardPlan | None = None,
        tunnels: TunnelPlan | None = None,
    ) -> tuple[firewall_port.Finding, ...]:
        """See `firewall_port.Inspector.look`."""
        run = self._tools.begin()
        tools = firewall_look.Tools(list_nft=run.list_nft, run=run.run, legacy_tables=_legacy_tables)
        found = list(firewall_look.look(tools, plan))
        if guarded is not None:
            found += guard_exec.look(run, guarded)
        if tunnels is not None:
            found += firewall_look.look_at_tunnels(tools, tunnels)
        return tuple(found)

    def events(self, stop: threading.Event) -> Iterator[None]:
        """See `firewall_port.Firewall.events`."""
        for numbers in nft_events.changes(stop):
            if self._journal.hear(numbers):
                yield

    def _note_bridges(self, work: _Round) -> None:
        """Remember the engine's bridges: those that its rules name, in whichever tool it wrote them.

        While nftables is quiet only the legacy tables were read, and no bridge of another kind has gone.
        """
        if work.quiet:
            self._bridges |= work.bridges
        elif firewall.domains(work.plan, firewall.IPV4) and not work.failures:
            listed = "" if work.bridges else work.tools.list_nft(*firewall_chain.DOCKER_MAP) or ""
            self._bridges = frozenset(work.bridges | firewall_chain.mapped_bridges(listed))

    def _is_quiet(self, plan: firewall.FirewallPlan, now: nft_events.Mark) -> bool:
        """Whether nobody has changed nftables since all of `plan` was found there, but we with the guard."""
        if self._quiet is None or time.monotonic() >= self._quiet_until:
            return False
        found, then = self._quiet
        return found == plan and self._journal.is_ours(then, now)

    def _ensure_family(self, work: _Round, family: firewall.Family) -> None:
        """While nftables is quiet only legacy tables are looked at, and only where something of ours must be."""
        wanted = bool(firewall.domains(work.plan, family))
        table = "nft" if family is firewall.IPV4 else f"nft-{family.table}"
        legacy = f"{family.iptables}-legacy"
        places: list[tuple[str, Callable[[], bool]]] = [
            (table, lambda: self._ensure_table(work, family)),
            (f"{family.iptables}-nft", lambda: self._ensure_nft_chain(work, family, wanted=wanted)),
            (legacy, lambda: self._ensure_legacy_chain(work, family)),
        ]
        for name, ensure_place in places if wanted else reversed(places):
            if work.quiet and not (wanted and name == legacy):
                continue
            try:
                if ensure_place():
                    work.written.append(name)
            except errors.KernelError as exc:
                work.failures.extend(exc.failures)
                if name == table:
                    return

    def _ensure_table(self, work: _Round, family: firewall.Family) -> bool:
        wanted = bool(firewall.domains(work.plan, family))
        listing = work.tools.list_nft("table", family.table, firewall.TABLE)
        if listing is None and not wanted:
            return False
        script = firewall_table.nft_script(work.plan, family)
        if listing is not None and self._written.get(family.table) == (script, listing):
            return False
        self._written.pop(family.table, None)
        work.tools.run("nft", "-f", "-", script=script)
        if wanted:
            self._remember(work, family, script)
        return True

    def _remember(self, work: _Round, family: firewall.Family, script: str) -> None:
        """Keep nft's own text of what was written; a later text that differs means somebody changed the table.

        Not kept if somebody was quicker and took rules away in between: then the next round writes again.
        """
        listing = work.tools.list_nft("table", family.table, firewall.TABLE)
        if listing is not None and firewall_table.nft_shape(listing) == firewall_table.nft_shape(script):
            self._written[family.table] = (script, listing)

    def _ensure_nft_chain(self, work: _Round, family: firewall.Family, *, wanted: bool) -> bool:
        flavour = f"{family.iptables}-nft"
        return self._ensure_chain(work, flavour, self._list_nft_filter(work, family, wanted=wanted), family)

    def _ensure_legacy_chain(self, work: _Round, family: firewall.Family) -> bool:
        flavour = f"{family.iptables}-legacy"
        if "filter" not in _legacy_tables(family):
            return False
        return self._ensure_chain(work, flavour, work.tools.run(f"{flavour}-save", "-t", "filter"), family)

    def _ensure_chain(self, work: _Round, flavour: str, listing: str | None, family: firewall.Family) -> bool:
        if listing is None:
            return False
        if _UNREADABLE in listing:
            raise errors.KernelError([f"{flavour}-save -t filter: {_UNREADABLE}; rename the table that nft made"])
        work.bridges |= firewall_chain.docker_bridges(listing)
        script = firewall_chain.forward_script(work.plan, family, listing)
        if script:
            work.tools.run(f"{flavour}-restore", "--noflush", "-w", str(LOCK_WAIT_S), script=script)
        return bool(script)

    def _list_nft_filter(self, work: _Round, family: firewall.Family, *, wanted: bool) -> str | None:
        """The filter table of iptables-nft or ip6tables-nft, None if nothing is to be done there.

        The tool shows an empty table where there is none, and may fail on one that nft made: unless our chain is in
        what it shows, nft is asked. Where nothing is wanted nft alone is: most hosts have no IPv6 here.
        """
        if not wanted and work.tools.list_nft("chain", family.table, "filter", firewall.CHAIN) is None:
            return None
        tool = f"{family.iptables}-nft-save"
        saved = work.tools.spawn(tool, "-t", "filter") if work.tools.has(tool) else None
        if saved is not None and f":{firewall.CHAIN} " in saved.stdout:
            return firewall_tools.output(saved)
        if work.tools.list_nft("chain", family.table, "filter", "FORWARD") is None:
            return None
        if saved is None:
            raise firewall_tools.missing(tool)
        return firewall_tools.output(saved)


def _legacy_tables(family: firewall.Family) -> list[str]:
    """The tables of the legacy kind that somebody uses in this network namespace. Raises KernelError."""
    names = LEGACY_TABLES / f"{family.table}_tables_names"
    try:
        return names.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise errors.KernelError([f"cat {names}: {exc.strerror}"]) from exc
