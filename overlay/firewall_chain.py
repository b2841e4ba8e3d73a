"""The text of our chain in the filter table of iptables or ip6tables: permission to forward, and its place.

Pure. Used by `firewall_exec`; see `firewall` for why this chain only accepts. The same text for both flavours, nft
and legacy, as it is the format of `iptables-save` and `iptables-restore` for both.
Source: iptables-save(8), iptables-extensions(8), moby daemon/libnetwork/iptables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from overlay import firewall

_JUMP = f"-A FORWARD -j {firewall.CHAIN}"
_DOCKER_USER = "-A FORWARD -j DOCKER-USER"
_DOCKER_PATTERNS = ("docker+", "br-+")
"""How the engine names its bridges unless told otherwise; `+` is iptables' wildcard."""

DOCKER_MAP = ("map", "ip", "docker-bridges", "filter-forward-in-jumps")
"""Where an engine that filters with nftables names its bridges. Source: moby daemon/libnetwork/drivers/bridge."""

_MAPPED = re.compile(r'"([^"]+)" : jump')
_OUTGOING = re.compile(r"(?<!! )-o (\S+)")


def forward_script(plan: firewall.FirewallPlan, family: firewall.Family, listing: str) -> str:
    """What `iptables-restore --noflush` reads to make our chain and its place those of `plan`; "" if they are.

    `listing` is what `iptables-save -t filter` of the same flavour and family prints. The jump stands directly after
    the one to DOCKER-USER: there the operator's own drops still win, and no later drop of anybody else comes first.
    """
    chain = firewall.CHAIN
    lines = listing.splitlines()
    forward = [line for line in lines if line.startswith("-A FORWARD ")]
    others = [line for line in forward if line != _JUMP]
    present = any(line.startswith(f":{chain} ") for line in lines)
    removal = [f"-D FORWARD -j {chain}"] * (len(forward) - len(others))
    rules = forward_rules(plan, family, docker_bridges(listing))
    if not rules:
        return _restore([*removal, f"-F {chain}", f"-X {chain}"]) if present else ""
    place = others.index(_DOCKER_USER) + 1 if _DOCKER_USER in others else 0
    in_place = forward == [*others[:place], _JUMP, *others[place:]]
    if present and in_place and rules == [line for line in lines if line.startswith(f"-A {chain} ")]:
        return ""
    # Naming the chain makes it, or empties it if it is there.
    return _restore([f":{chain} - [0:0]", *removal, f"-I FORWARD {place + 1} -j {chain}", *rules])


def forward_rules(plan: firewall.FirewallPlan, family: firewall.Family, docker: Iterable[str]) -> list[str]:
    """The rules of our chain, written as `iptables-save` prints them, in the order in which they must stand.

    Links of one flannel network exchange everything, a bridge with itself too (bridge-nf-call-iptables=1, and so do
    the neighbours that look for each other). Other traffic may leave through a bridge that is not internal and be
    answered; towards the engine's own bridges (`docker`) the engine's rules decide, or we'd open what it isolates.
    What was sent to a published port may enter, wherever it comes from: that it was redirected says so. So may all
    that enters a bridge, or its way to other hosts, where its operator opened them to the outside.
    """
    chain = firewall.CHAIN
    domains = firewall.domains(plan, family)
    inside = [rule for domain in domains for rule in (*_between_links(domain), *_across_underlay(domain))]
    open_bridges = [half.bridge for domain in domains for half in domain.halves if not half.internal]
    if not open_bridges:
        return inside
    opened = [link for domain in domains if domain.outside for link in (*domain.outside, *domain.devices)]
    answering = [device for domain in domains if domain.outside for device in domain.devices]
    publishing = [half.bridge for domain in domains for half in domain.halves if half.published]
    ours = {link for domain in domains for link in domain.links}
    named = sorted(name for name in set(docker) - ours if not name.startswith(("docker", "br-")))
    return [
        *inside,
        *(f"-A {chain} -o {name} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT" for name in open_bridges),
        *(f"-A {chain} -o {name} -m conntrack --ctstate DNAT -j ACCEPT" for name in publishing),
        *(f"-A {chain} -o {name} -j ACCEPT" for name in opened),
        *(f"-A {chain} -o {name} -j RETURN" for name in (*_DOCKER_PATTERNS, *named)),
        *(f"-A {chain} -i {name} -j ACCEPT" for name in open_bridges),
        *(f"-A {chain} -i {name} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT" for name in answering),
    ]


def docker_bridges(listing: str) -> frozenset[str]:
    """The links that the engine's own rules in `iptables-save` guard: its bridges, however they are called.

    An operator may name one freely (com.docker.network.bridge.name). DOCKER-USER is the operator's, not the engine's.
    """
    return frozenset(
        name
        for line in listing.splitlines()
        if (line.startswith("-A DOCKER") and not line.startswith("-A DOCKER-USER ")) or line.endswith(" -j DOCKER")
        for name in _OUTGOING.findall(line)
    )


def mapped_bridges(listing: str) -> frozenset[str]:
    """The same in what `nft list` prints of DOCKER_MAP."""
    return frozenset(_MAPPED.findall(listing))


def _between_links(domain: firewall.Domain) -> Iterator[str]:
    devices = domain.devices
    links = (*devices, *(half.bridge for half in domain.halves))
    for incoming in links:
        for outgoing in links:
            if incoming not in devices or outgoing not in devices:
                yield f"-A {firewall.CHAIN} -i {incoming} -o {outgoing} -j ACCEPT"


def _across_underlay(domain: firewall.Domain) -> Iterator[str]:
    """Where no device tells what belongs to the flannel network, addresses do."""
    for overlay in domain.direct_overlays:
        for half in domain.halves:
            yield f"-A {firewall.CHAIN} -s {overlay} -o {half.bridge} -j ACCEPT"
            yield f"-A {firewall.CHAIN} -d {overlay} -i {half.bridge} -j ACCEPT"


def _restore(lines: Iterable[str]) -> str:
    return "\n".join(("*filter", *lines, "COMMIT", ""))
