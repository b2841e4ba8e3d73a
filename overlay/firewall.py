"""What the host's packet filter must let through, rewrite and keep apart; as values and as rule text.

Pure. `driver.desired` makes a FirewallPlan, `reconciler` hands it to the firewall port. Two places, since a verdict
"accept" in one table never overrides a drop in another: masquerade and isolation are an nft table of our own;
permission to forward is a chain of our own in the iptables flavour(s) where the engine put its DROP. So the table
only drops and the chain only accepts: what the chain lets through too broadly, the table still keeps apart.
Source: nft(8), iptables(8), moby daemon/libnetwork/iptables, flannel pkg/trafficmngr/iptables/iptables.go.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from overlay import netstate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BridgeRulesV6:
    """The IPv6 half of a bridge's rules: `subnet`, `overlay`, `device` as in BridgeRules."""

    subnet: ipaddress.IPv6Network
    overlay: ipaddress.IPv6Network
    device: netstate.IfName


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BridgeRules:
    """One Docker network's bridge: what may pass between it, the other links of its flannel network, and the rest.

    `overlay` is the whole flannel network (10.2.0.0/16), `subnet` the bridge's part of it, `device` its VTEP device.
    Bridges with the same `device` are one trust domain; bridges of different devices never reach each other. So
    `device` carries nothing but its flannel network: never the underlay's interface, which all share.
    `internal`: nothing passes between the bridge and anything outside its flannel network.
    """

    bridge: netstate.IfName
    subnet: ipaddress.IPv4Network
    overlay: ipaddress.IPv4Network
    device: netstate.IfName
    internal: bool = False
    masquerade: bool = True
    prefix: str = ""
    """The flannel network's registry prefix: bridges with one prefix are one domain."""
    v6: BridgeRulesV6 | None = None


FirewallPlan = frozenset[BridgeRules]


class Firewall(Protocol):
    """The firewall port. Adapters: `firewall_exec` (nft, iptables-nft, iptables-legacy) and `firewall_fake`."""

    def ensure(self, plan: FirewallPlan) -> tuple[str, ...]:
        """Make the host's rules be those of `plan`; names each place that had to be written ("nft", "iptables-nft").

        Idempotent, and cheap when nothing is to do. An empty plan removes all that is ours. Raises KernelError.
        """
        ...


TABLE = "flannelpy"
"""The nft table of family ip that is ours alone."""

CHAIN = "FLANNELPY-FORWARD"
"""The chain in iptables' filter table that is ours alone."""

MULTICAST = ipaddress.IPv4Network("224.0.0.0/4")

_JUMP = f"-A FORWARD -j {CHAIN}"
_DOCKER_USER = "-A FORWARD -j DOCKER-USER"
_DOCKER_PATTERNS = ("docker+", "br-+")
"""How the engine names its bridges unless told otherwise; `+` is iptables' wildcard."""

_OUTGOING = re.compile(r"(?<!! )-o (\S+)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Domain:
    """One flannel network on this host: all bridges that hang on `device`."""

    device: netstate.IfName
    bridges: tuple[BridgeRules, ...]

    @property
    def links(self) -> tuple[str, ...]:
        return (self.device, *(rules.bridge for rules in self.bridges))


def nft_script(plan: FirewallPlan) -> str:
    """What `nft -f -` reads to make our table that of `plan`, in one transaction, whatever is there now."""
    fresh = f"table ip {TABLE}\ndelete table ip {TABLE}\n"
    if not plan:
        return fresh
    domains = _domains(plan)
    chains = [_nft_chain("postrouting", "type nat hook postrouting priority srcnat", _rewrites(domains))]
    if drops := list(_drops(domains)):
        chains.append(_nft_chain("forward", "type filter hook forward priority filter", drops))
    return f"{fresh}table ip {TABLE} {{\n" + "\n".join(chains) + "}\n"


def nft_shape(text: str) -> tuple[int, ...]:
    """How many chains and verdicts a table's text has: equal in what we write and in what nft lists of it.

    The texts themselves differ: nft sorts and merges set elements, each version in its own way.
    """
    return tuple(text.count(word) for word in ("\tchain ", " masquerade", " drop\n"))


def forward_script(plan: FirewallPlan, listing: str) -> str:
    """What `iptables-restore --noflush` reads to make our chain and its place those of `plan`; "" if they are.

    `listing` is what `iptables-save -t filter` of the same flavour prints. The jump stands directly after the one to
    DOCKER-USER: there the operator's own drops still win, and no later drop of anybody else comes first.
    """
    lines = listing.splitlines()
    forward = [line for line in lines if line.startswith("-A FORWARD ")]
    others = [line for line in forward if line != _JUMP]
    present = any(line.startswith(f":{CHAIN} ") for line in lines)
    removal = [f"-D FORWARD -j {CHAIN}"] * (len(forward) - len(others))
    if not plan:
        return _restore([*removal, f"-F {CHAIN}", f"-X {CHAIN}"]) if present else ""
    place = others.index(_DOCKER_USER) + 1 if _DOCKER_USER in others else 0
    rules = forward_rules(plan, docker_bridges(listing))
    in_place = forward == [*others[:place], _JUMP, *others[place:]]
    if present and in_place and rules == [line for line in lines if line.startswith(f"-A {CHAIN} ")]:
        return ""
    # Naming the chain makes it, or empties it if it is there.
    return _restore([f":{CHAIN} - [0:0]", *removal, f"-I FORWARD {place + 1} -j {CHAIN}", *rules])


def forward_rules(plan: FirewallPlan, docker: Iterable[str]) -> list[str]:
    """The rules of our chain, written as `iptables-save` prints them, in the order in which they must stand.

    Links of one flannel network exchange everything, a bridge with itself too (bridge-nf-call-iptables=1). Other
    traffic may leave through a bridge that is not internal and be answered; towards the engine's own bridges
    (`docker`) the engine's rules decide, or we would open what it isolates.
    """
    domains = _domains(plan)
    pairs = [
        f"-A {CHAIN} -i {incoming} -o {outgoing} -j ACCEPT"
        for domain in domains
        for incoming in domain.links
        for outgoing in domain.links
        if incoming != domain.device or outgoing != domain.device
    ]
    open_bridges = [rules.bridge for domain in domains for rules in domain.bridges if not rules.internal]
    if not open_bridges:
        return pairs
    ours = {link for domain in domains for link in domain.links}
    named = sorted(name for name in set(docker) - ours if not name.startswith(("docker", "br-")))
    return [
        *pairs,
        *(f"-A {CHAIN} -o {name} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT" for name in open_bridges),
        *(f"-A {CHAIN} -o {name} -j RETURN" for name in (*_DOCKER_PATTERNS, *named)),
        *(f"-A {CHAIN} -i {name} -j ACCEPT" for name in open_bridges),
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


def _domains(plan: FirewallPlan) -> list[_Domain]:
    """The plan by flannel network, in an order that does not depend on the set's."""
    by_device: dict[netstate.IfName, list[BridgeRules]] = {}
    for rules in sorted(plan, key=lambda rules: (rules.device, rules.bridge)):
        by_device.setdefault(rules.device, []).append(rules)
    return [_Domain(device=device, bridges=tuple(bridges)) for device, bridges in by_device.items()]


def _rewrites(domains: Iterable[_Domain]) -> Iterator[str]:
    """Sources are kept inside the overlay and rewritten at its edge, in both directions.

    Remote containers answer only to overlay addresses: who reaches in with another one gets the device's.
    fully-random as in flannel: two clients of one port do not race for the same translation.
    """
    for domain in domains:
        overlays = {rules.overlay for rules in domain.bridges}
        subnets = {rules.subnet for rules in domain.bridges if rules.masquerade and not rules.internal}
        if subnets:
            outside = f"ip daddr != {_networks({*overlays, MULTICAST})} oifname != {_names(domain.links)}"
            yield f"ip saddr {_networks(subnets)} {outside} masquerade fully-random"
        yield f'oifname "{domain.device}" ip saddr != {_networks(overlays)} masquerade fully-random'


def _drops(domains: list[_Domain]) -> Iterator[str]:
    """Isolation: an internal bridge meets only its flannel network, and two flannel networks never meet."""
    for domain in domains:
        if internal := [rules.bridge for rules in domain.bridges if rules.internal]:
            yield f"iifname {_names(internal)} oifname != {_names(domain.links)} drop"
            yield f"oifname {_names(internal)} iifname != {_names(domain.links)} drop"
        if foreign := [link for other in domains if other is not domain for link in other.links]:
            yield f"iifname {_names(domain.links)} oifname {_names(foreign)} drop"


def _nft_chain(name: str, hook: str, rules: Iterable[str]) -> str:
    body = "".join(f"\t\t{rule}\n" for rule in rules)
    return f"\tchain {name} {{\n\t\t{hook}; policy accept;\n{body}\t}}\n"


def _names(links: Iterable[str]) -> str:
    return _set([f'"{link}"' for link in links])


def _networks(networks: Iterable[ipaddress.IPv4Network]) -> str:
    """Collapsed, since nft refuses a set whose intervals overlap."""
    return _set([str(network) for network in ipaddress.collapse_addresses(networks)])


def _set(elements: list[str]) -> str:
    return elements[0] if len(elements) == 1 else "{ " + ", ".join(elements) + " }"


def _restore(lines: Iterable[str]) -> str:
    return "\n".join(("*filter", *lines, "COMMIT", ""))
