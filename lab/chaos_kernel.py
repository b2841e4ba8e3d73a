"""What an unfriendly hand does to a host's kernel state: one shell line that breaks one object of the plugin's.

`observe` looks at a host, `lines` is pure and lists what can be broken there, `break_one` does one of them. Called by
`chaos_faults`. Nothing is undone here: that is the plugin's part.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from lab import host

VXLAN: Final = "flannel.1"
MTU: Final = 1450
PROTOCOL: Final = "70"
"""How `ip` prints the plugin's route protocol."""
_WRONG_MAC: Final = "02:00:00:00:00:99"
_WRONG_IP: Final = "198.51.100.99"

Rows = Sequence[Mapping[str, Any]]  # Any: the JSON of iproute2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A host's objects as iproute2 tells them. bridges, ports: names."""

    routes: Rows
    neighbours: Rows
    fdb: Rows
    vxlan: Mapping[str, Any] | None
    bridges: Mapping[str, Sequence[str]]
    ports: Sequence[str]


def observe(on: host.Host) -> Seen:
    """Look at the plugin's objects; those that are not there are left out."""
    links = _rows(on, "ip", "-d", "-j", "address", "show")
    bridges = {
        str(link["ifname"]): [f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["family"] == "inet"]
        for link in links
        if link.get("linkinfo", {}).get("info_kind") == "bridge" and link.get("ifalias") == "flannelpy"
    }
    on_vxlan = next((link for link in links if link["ifname"] == VXLAN), None)
    return Seen(
        routes=_rows(on, "ip", "-d", "-j", "route", "show", "proto", PROTOCOL),
        neighbours=_rows(on, "ip", "-j", "neigh", "show", "nud", "permanent", "dev", VXLAN) if on_vxlan else (),
        fdb=[
            row
            for row in (_rows(on, "bridge", "-j", "fdb", "show", "dev", VXLAN) if on_vxlan else ())
            if row.get("dst") and row["mac"] != "00:00:00:00:00:00"
        ],
        vxlan=on_vxlan,
        bridges=bridges,
        ports=[str(link["ifname"]) for link in links if link.get("master") in bridges],
    )


def lines(kind: str, seen: Seen) -> list[str]:
    """Every way to do `kind` here, as a shell line each; none where there is nothing to break."""
    noun, _, verb = kind.partition("-")
    match noun:
        case "route" | "neighbour" | "fdb":
            return _ENTRIES[noun](seen, verb)
        case "vxlan":
            return _of_vxlan(verb, seen) if seen.vxlan else []
        case "bridge":
            return _of_bridges(verb, seen)
        case "port":
            what = {"removed": "nomaster", "down": "down"}[verb]
            return [f"ip link set {port} {what}" for port in seen.ports]
        case _:
            return [_RULES[kind]]


def break_one(on: host.Host, kind: str, draw: float) -> str:
    """Break one object; tells how. draw: 0 to 1, picks which. Raises CommandFailed."""
    there = sorted(lines(kind, observe(on)))
    if not there:
        return "nothing there to break"
    line = there[int(draw * len(there)) % len(there)]
    on.try_exec(["sh", "-c", line])  # the plugin may be quicker with a step of its own
    return line


def _of_routes(seen: Seen, verb: str) -> list[str]:
    way = {"deleted": "ip route del {dst}", "changed": "ip route replace unreachable {dst}"}[verb]
    return [way.format(**route) for route in seen.routes]


def _of_neighbours(seen: Seen, verb: str) -> list[str]:
    way = {
        "deleted": f"ip neigh del {{dst}} dev {VXLAN}",
        "changed": f"ip neigh replace {{dst}} lladdr {_WRONG_MAC} nud permanent dev {VXLAN}",
    }[verb]
    return [way.format(**entry) for entry in seen.neighbours]


def _of_fdb(seen: Seen, verb: str) -> list[str]:
    way = {
        "deleted": f"bridge fdb del {{mac}} dev {VXLAN} self",
        "changed": f"bridge fdb replace {{mac}} dev {VXLAN} dst {_WRONG_IP} self permanent",
    }[verb]
    return [way.format(**entry) for entry in seen.fdb]


def _of_vxlan(verb: str, seen: Seen) -> list[str]:
    assert seen.vxlan is not None  # noqa: S101  its caller looked
    addresses = [f"{a['local']}/{a['prefixlen']}" for a in seen.vxlan["addr_info"] if a["family"] == "inet"]
    return {
        "down": [f"ip link set {VXLAN} down"],
        "bounced": [f"ip link set {VXLAN} down; sleep 0.3; ip link set {VXLAN} up"],
        "mac": [f"ip link set {VXLAN} address {_WRONG_MAC}"],
        "mtu": [f"ip link set {VXLAN} mtu 1300"],
        "deleted": [f"ip link del {VXLAN}"],
        "address-deleted": [f"ip address del {address} dev {VXLAN}" for address in addresses],
    }[verb]


def _of_bridges(verb: str, seen: Seen) -> list[str]:
    if verb == "address-deleted":
        return [
            f"ip address del {address} dev {bridge}" for bridge, there in seen.bridges.items() for address in there
        ]
    what = {"down": "down", "mtu": "mtu 1280"}[verb]
    return [f"ip link set {bridge} {what}" for bridge in seen.bridges]


_ENTRIES: Final[Mapping[str, Callable[[Seen, str], list[str]]]] = {
    "route": _of_routes,
    "neighbour": _of_neighbours,
    "fdb": _of_fdb,
}

# A policy of DROP, as dockerd sets it: an earlier flush of the whole ruleset has taken it away.
_RULES: Final[Mapping[str, str]] = {
    "ruleset-flushed": "nft flush ruleset",
    "forward-flushed": "iptables -P FORWARD DROP; iptables -F FORWARD",
    "filter-flushed": "iptables -P FORWARD DROP; iptables -F",
    "table-deleted": "nft delete table ip flannelpy",
    "jump-deleted": "iptables -P FORWARD DROP; iptables -D FORWARD -j FLANNELPY-FORWARD",
    "forwarding-off": "echo 0 > /proc/sys/net/ipv4/ip_forward",
}


def _rows(on: host.Host, *argv: str) -> list[Mapping[str, Any]]:
    told = on.try_exec(argv)
    return [row for row in json.loads(told.out or "[]") if row] if told.ok else []
