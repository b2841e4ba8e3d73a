"""Who may not speak VXLAN to this host's tunnels or to its peers': containers. As values, and as the text of a table.

Pure. `reconciler` makes a TunnelPlan of the links that are desired, `tunnel_exec` writes it. The kernel's tunnel asks
nobody who sends: a container's datagram to its port enters whichever flannel network it names, from whichever sender.
So what comes in by a container's link is dropped on its way to a port in use: on this host, and where it leaves for
others. From container to container it passes, as of a Kubernetes in containers; and so does what comes in by a link
that tunnels use, where a bridge of machines of their own may be. A container with the host's network is the host.
A table of family inet, since a tunnel over IPv6 may be where no bridge has it. Source: nft(8), RFC 7348 §7.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable

from overlay import firewall, guard, netstate, nft_text

TABLE = "flannelpy"
"""The nft table of family inet that is ours alone."""

CONTAINER_LINKS = (netstate.BRIDGE_PREFIX, guard.PORT_PREFIX, "flannel", "br-")
"""How links begin by which containers' packets come in: our bridges and their ports, the tunnels that bring those of
other hosts, and the engine's bridges."""

ENGINE_BRIDGES = ("docker0", firewall.GATEWAY_BRIDGE)

_PLAIN = re.compile(r"[\w.@-]+")
"""A name that nft takes as it is; the kernel allows others, such as those with a quote or a star."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """A UDP port at which the kernel takes VXLAN, and the link below."""

    port: int
    underlay: netstate.IfName


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContainerLink:
    """A bridge of ours whose name does not say so."""

    name: netstate.IfName


TunnelPlan = frozenset[Tunnel | ContainerLink]
"""Empty where there is no tunnel."""


def plan(links: Iterable[netstate.KernelObject]) -> TunnelPlan:
    """What the desired links come to."""
    tunnels: set[Tunnel | ContainerLink] = set()
    named: set[Tunnel | ContainerLink] = set()
    for link in links:
        match link:
            case netstate.VxlanLink(port=port, underlay=underlay):
                tunnels.add(Tunnel(port=port, underlay=underlay))
            case netstate.BridgeLink(name=name) if not name.startswith(CONTAINER_LINKS):
                named.add(ContainerLink(name=name))
    return frozenset(tunnels | named) if tunnels else frozenset()


def script(wanted: TunnelPlan, engine: Collection[str] = ()) -> str:
    """What `nft -f -` reads to make the table that of the plan, in one transaction, whatever is there now.

    `engine`: the engine's bridges; those that it named itself change nothing.
    """
    name = f"table inet {TABLE}"
    fresh = f"{name}\ndelete {name}\n"
    tunnels = [one for one in wanted if isinstance(one, Tunnel)]
    if not tunnels:
        return fresh
    below = nft_text.names(sorted({one.underlay for one in tunnels}))
    ports = nft_text.set_of(map(str, sorted({one.port for one in tunnels})))
    named = {one.name for one in wanted if isinstance(one, ContainerLink)} | {*engine, *ENGINE_BRIDGES}
    named = {name for name in named if _PLAIN.fullmatch(name) and not name.startswith(CONTAINER_LINKS)}
    links = (nft_text.names(sorted(named)), *(f'"{prefix}*"' for prefix in CONTAINER_LINKS))
    hook = "type filter hook {} priority filter"
    parts = (
        nft_text.chain("containers", [f"iifname {below} return", *(f"iifname {link} drop" for link in links)]),
        nft_text.chain(
            "leaving",
            [
                f"oifname {below} goto containers",
                *(f"oifname {link} return" for link in links),
                "goto containers",
            ],
        ),
        nft_text.chain("input", [f"udp dport {ports} goto containers"], hook.format("input")),
        nft_text.chain("forward", [f"udp dport {ports} goto leaving"], hook.format("forward")),
    )
    return f"{fresh}{name} {{\n" + "\n".join(parts) + "}\n"


def shape(text: str) -> tuple[int, ...]:
    """How many chains, verdicts and names a table's text has: equal in what we write and in what nft lists of it."""
    return tuple(text.count(word) for word in ("\tchain ", " hook ", " drop\n", " return\n", "goto ", '"'))
