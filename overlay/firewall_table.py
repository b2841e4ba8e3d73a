"""The text of our nft table in one family: masquerade at the edge of the overlay, isolation, who may come in.

Pure. Used by `firewall_exec`; see `firewall` for why this table only drops. A flannel network is known by its links,
and by its addresses where its packets cross the underlay as they are (Domain.direct_overlays): never by the
underlay's interface, which the host and all flannel networks share. Source: nft(8).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from overlay import firewall, firewall_ports, nft_text


def nft_script(plan: firewall.FirewallPlan, family: firewall.Family) -> str:
    """What `nft -f -` reads to make our table that of `plan`, in one transaction, whatever is there now."""
    name = f"table {family.table} {firewall.TABLE}"
    fresh = f"{name}\ndelete {name}\n"
    domains = firewall.domains(plan, family)
    if not domains:
        return fresh
    rewrites = [*firewall_ports.rewrites(domains, family), *_rewrites(domains, family)]
    parts = [
        *firewall_ports.parts(domains, family),
        nft_text.chain("gateway", _forged(domains, family), "type filter hook prerouting priority mangle"),
        nft_text.chain("postrouting", rewrites, "type nat hook postrouting priority srcnat"),
    ]
    entrances = list(_entrances(domains, family))
    if entrances:
        parts.append(nft_text.chain("outside", _OUTSIDE))
    drops = [*_internal_drops(domains, family), *_closed_drops(domains, family), *_between(domains, family)]
    filters = [*_astray(domains, family), *drops, *entrances]
    parts.append(nft_text.chain("forward", filters, "type filter hook forward priority filter"))
    return f"{fresh}{name} {{\n" + "\n".join(parts) + "}\n"


def nft_shape(text: str) -> tuple[int, ...]:
    """How many chains, verdicts and ports a table's text has: equal in what we write and in what nft lists of it.

    The texts themselves differ: nft sorts and merges set elements, each version in its own way.
    """
    return tuple(text.count(word) for word in ("\tchain ", " masquerade", "drop\n", " goto ", " map @", " : "))


def _forged(domains: list[firewall.Domain], family: firewall.Family) -> Iterator[str]:
    """Nobody on another link speaks with an address of this host's containers: only their bridges have a guard of it.

    To conntrack a question in a container's name is the container's, and lets its answer in, to ports that nobody
    published. On Docker's gateway bridge, on which containers of any flannel network are, no address of any is heard.
    By pools, not by whole flannel networks, since a network of Docker's own, or the host's, may be in their range.
    But in answer: a container leaves by its default gateway, also where it was asked by its flannel address (from a
    sibling slice, or by who is routed to the overlay), and goes on so where it gets another gateway. The price: what
    it begins to say to the outside from its flannel address is lost; with strict rp_filter the kernel drops that by
    itself.
    """
    source = f"{family.table} saddr"
    overlays = nft_text.networks(overlay for domain in domains for overlay in domain.overlays)
    forged = f'iifname "{firewall.GATEWAY_BRIDGE}" {source} {overlays}'
    yield f"{forged} ct direction reply accept"
    yield f"{forged} drop"
    for domain in domains:
        if domain.halves:
            subnets = nft_text.networks(half.subnet for half in domain.halves)
            own = nft_text.names(["lo", *domain.links])
            yield f"iifname != {own} {source} {subnets} ct state invalid,new,untracked drop"


def _astray(domains: list[firewall.Domain], family: firewall.Family) -> Iterator[str]:
    """What is for this host's containers leaves by their links and no other.

    It does where two of another bridge play question and answer, for conntrack to take the third packet, to the
    container, for one of a connection: so that bridge must be filtered (bridge-nf-call-iptables, as engines set it).
    """
    for domain in domains:
        if domain.halves:
            subnets = nft_text.networks(half.subnet for half in domain.halves)
            yield f"oifname != {nft_text.names(domain.links)} {family.table} daddr {subnets} drop"


def _rewrites(domains: Iterable[firewall.Domain], family: firewall.Family) -> Iterator[str]:
    """Sources are kept inside the overlay and rewritten at its edge, in both directions.

    Remote containers answer only to overlay addresses, and to hosts: who reaches in with another address gets the
    device's, or the underlay's where there is no device. fully-random as in flannel: two clients of one port do not
    race for the same translation.
    """
    source, target = f"{family.table} saddr", f"{family.table} daddr"
    for domain in domains:
        subnets = [half.subnet for half in domain.halves if half.masquerade and not half.internal]
        if subnets:
            outside = f"{target} != {nft_text.networks([*domain.overlays, family.multicast])}"
            elsewhere = f"oifname != {nft_text.names(domain.links)}"
            yield f"{source} {nft_text.networks(subnets)} {outside} {elsewhere} masquerade fully-random"
        foreign = f"{source} != {nft_text.networks([*domain.overlays, *family.own])}"
        for device in domain.devices:
            yield f'oifname "{device}" {foreign} masquerade fully-random'
        if direct := domain.direct_overlays:
            elsewhere = f"oifname != {nft_text.names(['lo', *domain.links])}"
            yield f"{target} {nft_text.networks(direct)} {foreign} {elsewhere} masquerade fully-random"


_NOT_ENGINES = 'iifname != "docker0" iifname != "br-*"'
"""Not by the bridges that the engine names itself."""

_OUTSIDE = ("ct state established,related accept", "ct status dnat accept", "drop")
"""What enters from outside: answers, connections of before these rules, and published ports.

All else goes, and with it what conntrack does not know: a container answers even a packet of no connection.
"""


def _entrances(domains: list[firewall.Domain], family: firewall.Family) -> Iterator[str]:
    """The ways into a flannel network from outside: its bridges here, and its way to other hosts.

    The policy of FORWARD is no help: an engine sets it only where it switches ip_forward on itself, and none does
    that filters with nftables. Containers on the engine's own bridges are outside, as they are of one another. Those
    on its gateway bridge may be ours, but never reach a bridge without icc.
    Where packets cross the underlay as they are, `Network` may have a LAN in it, as in flannel's own example:
    containers on the engine's bridges go on to reach it, and other hosts keep them from their own bridges.
    """
    for domain in domains:
        origin = f"iifname != {nft_text.names([*domain.links, firewall.GATEWAY_BRIDGE])}"
        if direct := domain.direct_overlays:
            origin += f" {family.table} saddr != {nft_text.networks(direct)}"
        ways = [half.bridge for half in domain.halves if not half.internal and not half.outside]
        if not domain.outside:
            ways += domain.devices
            if direct:
                yield f"{family.table} daddr {nft_text.networks(direct)} {origin} {_NOT_ENGINES} goto outside"
        if ways:
            yield f"oifname {nft_text.names(ways)} {origin} goto outside"
    if closed := [bridge for domain in domains for bridge in domain.closed]:
        yield f'oifname {nft_text.names(closed)} iifname "{firewall.GATEWAY_BRIDGE}" goto outside'


def _internal_drops(domains: Iterable[firewall.Domain], family: firewall.Family) -> Iterator[str]:
    """An internal bridge meets only its flannel network."""
    for domain in domains:
        if domain.internal:
            internal, links = nft_text.names(domain.internal), nft_text.names(domain.links)
            beyond_target, beyond_source = "", ""
            if direct := domain.direct_overlays:
                beyond_target = f"{family.table} daddr != {nft_text.networks(direct)} "
                beyond_source = f"{family.table} saddr != {nft_text.networks(direct)} "
            yield f"iifname {internal} oifname != {links} {beyond_target}drop"
            yield f"oifname {internal} iifname != {links} {beyond_source}drop"


def _closed_drops(domains: list[firewall.Domain], family: firewall.Family) -> Iterator[str]:
    """A bridge without icc meets nothing of its flannel network, itself included: what is routed back into it.

    But through a published port, which is there for everybody, as on Docker's own bridge.
    """
    if any(domain.closed for domain in domains):
        yield from firewall_ports.exceptions(domains)
    for domain in domains:
        if domain.closed:
            closed, links = nft_text.names(domain.closed), nft_text.names(domain.links)
            yield f"iifname {closed} oifname {links} drop"
            yield f"oifname {closed} iifname {links} drop"
            if direct := domain.direct_overlays:
                yield f"iifname {closed} {family.table} daddr {nft_text.networks(direct)} drop"
                yield f"oifname {closed} {family.table} saddr {nft_text.networks(direct)} drop"


def _between(domains: list[firewall.Domain], family: firewall.Family) -> Iterator[str]:
    if drops := list(_drops(domains, family)):
        yield from firewall_ports.exceptions(domains)
        yield from drops
        yield from _gateway_drops(domains, family)


def _gateway_drops(domains: list[firewall.Domain], family: firewall.Family) -> Iterator[str]:
    """Containers that publish ports have an interface on Docker's gateway bridge, whatever network they are in.

    There nothing tells which that is; and what is for other hosts of their own leaves through the other interface. So
    between that bridge and any flannel network only published ports pass, and answers that were asked for. The price:
    they do not reach sibling slices of their own lease, to which they have no other way (`driver.routes`).
    """
    links = nft_text.names(link for domain in domains for link in domain.links)
    from_gateway, to_gateway = f'iifname "{firewall.GATEWAY_BRIDGE}"', f'oifname "{firewall.GATEWAY_BRIDGE}"'
    yield f"iifname {links} {to_gateway} ct direction original ct status dnat accept"
    yield f"iifname {links} {to_gateway} drop"
    yield f"{from_gateway} ct direction reply accept"
    yield f"{from_gateway} oifname {links} drop"
    if overlays := [overlay for domain in domains for overlay in domain.direct_overlays]:
        yield f"{from_gateway} {family.table} daddr {nft_text.networks(overlays)} drop"


def _drops(domains: list[firewall.Domain], family: firewall.Family) -> Iterator[str]:
    """Two flannel networks never meet: whatever tells that a packet is from one, and that it is for another."""
    source, target = f"{family.table} saddr", f"{family.table} daddr"
    for domain in domains:
        others = [other for other in domains if other is not domain]
        links = [link for other in others for link in other.links]
        overlays = [overlay for other in others for overlay in other.direct_overlays]
        origins = [f"iifname {nft_text.names(domain.links)}"]
        if direct := domain.direct_overlays:
            origins.append(f"{source} {nft_text.networks(direct)}")
        for origin in origins:
            if links:
                yield f"{origin} oifname {nft_text.names(links)} drop"
            if overlays:
                yield f"{origin} {target} {nft_text.networks(overlays)} drop"
