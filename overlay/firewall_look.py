"""What of a plan is not in the packet filter, found out without trusting anything that was remembered.

Used by `firewall_exec` alone, which runs the tools. nft sorts and merges what it is given, each version in its own
way, so that our text and a listing cannot be compared: the plan's table is written a second time under another name
and dormant (no packet meets it), listed, and taken away, all for one comparison of nft's words with nft's words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol

from overlay import errors, firewall, firewall_chain, firewall_port, firewall_table, tunnel_guard

TWIN = "flannelpy-audit"
"""The dormant table. One that a killed plugin left is harmless, and replaced by the next look."""

_SHOWN = 3
"""How many lines of a difference are told."""


class ListNft(Protocol):
    """`nft list` with these words; None where there is no such thing."""

    def __call__(self, *what: str) -> str | None: ...


class Run(Protocol):
    """Run a tool; its output. Raises KernelError."""

    def __call__(self, *argv: str, script: str | None = None) -> str: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What runs the host's tools."""

    list_nft: ListNft
    run: Run
    legacy_tables: Callable[[firewall.Family], list[str]]


def look(tools: Tools, plan: firewall.FirewallPlan) -> Iterator[firewall_port.Finding]:
    """Each place that is not as the plan has it. Raises KernelError."""
    for family in firewall.FAMILIES:
        yield from _look_at_table(tools, plan, family)
        for flavour, listing in _chain_listings(tools, family):
            yield from _look_at_chain(plan, family, flavour, listing)


def look_at_tunnels(tools: Tools, plan: tunnel_guard.TunnelPlan) -> Iterator[firewall_port.Finding]:
    """The same of the table that keeps containers from the tunnels. Raises KernelError."""
    engine: set[str] = set()
    for _, listing in _chain_listings(tools, firewall.IPV4):
        engine |= firewall_chain.docker_bridges(listing)
    if not engine:
        engine |= firewall_chain.mapped_bridges(tools.list_nft(*firewall_chain.DOCKER_MAP) or "")
    script = tunnel_guard.script(plan, engine)
    yield from _look_at(tools, "nft-inet", f"inet {tunnel_guard.TABLE}", script if plan else None)


def _look_at_table(
    tools: Tools, plan: firewall.FirewallPlan, family: firewall.Family
) -> Iterator[firewall_port.Finding]:
    place = "nft" if family is firewall.IPV4 else f"nft-{family.table}"
    script = firewall_table.nft_script(plan, family) if firewall.domains(plan, family) else None
    yield from _look_at(tools, place, f"{family.table} {firewall.TABLE}", script)


def _look_at(tools: Tools, place: str, table: str, script: str | None) -> Iterator[firewall_port.Finding]:
    """`table` as "ip flannelpy"; `script` writes it, None where it should not be."""
    seen = tools.list_nft("table", *table.split())
    if script is None:
        if seen is not None:
            yield firewall_port.Finding(place=place, how=firewall_port.How.STALE, seen=_shown(_rules(seen)))
        return
    should = _rules(_list_twin(tools, table, script))
    if seen is None:
        yield firewall_port.Finding(place=place, how=firewall_port.How.MISSING, wanted=_shown(should))
    elif (found := _rules(seen)) != should:
        yield firewall_port.Finding(
            place=place,
            how=firewall_port.How.CHANGED,
            wanted=_shown([line for line in should if line not in found]),
            seen=_shown([line for line in found if line not in should]),
        )


def _list_twin(tools: Tools, table: str, script: str) -> str:
    """How nft lists the table that we would write."""
    family = table.split(maxsplit=1)[0]
    ours, twin = f"table {table}", f"table {family} {TWIN}"
    script = script.replace(ours, twin).replace(f"{twin} {{\n", f"{twin} {{\n\tflags dormant;\n")
    tools.run("nft", "-f", "-", script=script)
    try:
        listing = tools.list_nft("table", family, TWIN)
    finally:
        tools.run("nft", "-f", "-", script=f"{twin}\ndelete {twin}\n")
    if listing is None:
        raise errors.KernelError([f"nft list table {family} {TWIN}: gone since it was written"])
    return listing


def _chain_listings(tools: Tools, family: firewall.Family) -> Iterator[tuple[str, str]]:
    """The filter table of each flavour in which an engine, or we, have something to say."""
    if tools.list_nft("chain", family.table, "filter", "FORWARD") is not None:
        yield f"{family.iptables}-nft", tools.run(f"{family.iptables}-nft-save", "-t", "filter")
    if "filter" in tools.legacy_tables(family):
        yield f"{family.iptables}-legacy", tools.run(f"{family.iptables}-legacy-save", "-t", "filter")


def _look_at_chain(
    plan: firewall.FirewallPlan, family: firewall.Family, flavour: str, listing: str
) -> Iterator[firewall_port.Finding]:
    script = firewall_chain.forward_script(plan, family, listing)
    if not script:
        return
    rules = firewall_chain.forward_rules(plan, family, firewall_chain.docker_bridges(listing))
    found = [line for line in listing.splitlines() if firewall.CHAIN in line]
    how = firewall_port.How.STALE if not rules else firewall_port.How.CHANGED
    if not found:
        how = firewall_port.How.MISSING
    changes = [line for line in script.splitlines() if line not in found and line not in {"*filter", "COMMIT"}]
    yield firewall_port.Finding(
        place=flavour,
        how=how,
        wanted=_shown(changes) if rules else "",
        seen=_shown([line for line in found if line not in rules]),
    )


def _rules(listing: str) -> list[str]:
    """The lines between a table's braces."""
    lines = (" ".join(line.split()) for line in listing.splitlines()[1:-1])
    return [line for line in lines if line and line != "flags dormant"]


def _shown(lines: list[str]) -> str:
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "; ".join(lines[:_SHOWN]) + more
