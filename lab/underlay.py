"""The wires: namespaces, the bridge with the router's address, and one NIC per machine.

Text for `ip -batch` is composed purely and then run; every veth pair is made inside the router's namespace with its
other end born in the machine's, so nothing of a lab is ever seen in the machine's own namespace.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Final

from lab import command, plan, roots

# `ip netns add` makes its directory a shared mount at first use, and two at once get in each other's way.
_LOCK: Final = pathlib.Path("/run/flannelpy-lab/.netns.lock")


def netns_path(name: str) -> pathlib.Path:
    """Say where `ip netns` keeps a namespace."""
    return pathlib.Path("/run/netns") / name


def format_router(lab: plan.Plan) -> str:
    """Compose the router: a bridge with the gateway's address, and the way outside.

    The bridge's MAC is its own: left to the kernel it is the lowest of its ports', and changes with reboots.
    """
    lines = [
        "link set lo up",
        f"link add {plan.BRIDGE} address {plan.spell_mac(plan.UNDERLAY[1])} type bridge",
        f"link set {plan.BRIDGE} mtu {lab.mtu} up",
        f"address add {plan.UNDERLAY[1]}/{plan.UNDERLAY.prefixlen} dev {plan.BRIDGE}",
        f"address add {plan.UNDERLAY_V6[1]}/{plan.UNDERLAY_V6.prefixlen} dev {plan.BRIDGE} nodad",
    ]
    for seat in lab.seats:
        lines += _format_port(lab, seat)
    return "\n".join(lines) + "\n"


def format_nic(lab: plan.Plan, seat: plan.Seat) -> str:
    """Compose a machine's own end."""
    return (
        "link set lo up\n"
        f"address add {seat.address} broadcast + dev {plan.NIC}\n"
        f"address add {seat.address_v6} dev {plan.NIC} nodad\n"
        f"link set {plan.NIC} mtu {lab.mtu} up\n"
        f"route add default via {seat.gateway} dev {plan.NIC}\n"
        f"route add default via {seat.gateway_v6} dev {plan.NIC}\n"
    )


def create(lab: plan.Plan) -> None:
    """Make all namespaces and wires of a lab.

    Raises: CommandFailed, for example if a namespace of that name exists.
    """
    _add(lab.netns)
    enable = ["nsenter", f"--net={netns_path(lab.router_netns)}", "sh", "-c"]
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        command.check(command.run([*enable, f"echo 1 > /proc/sys/net/{key}"]))
    _batch(lab.router_netns, format_router(lab))
    for seat in lab.seats:
        _batch(seat.netns, format_nic(lab, seat))


def plug_new(lab: plan.Plan, seat: plan.Seat) -> None:
    """Give a machine a namespace as new, as after a reboot: old interfaces, rules and conntrack entries are gone.

    The port goes first: the kernel takes a deleted namespace apart later, and its name would still be taken.
    """
    command.run(["ip", "-n", lab.router_netns, "link", "del", seat.machine])
    delete([seat.netns])
    _add([seat.netns])
    _batch(lab.router_netns, "\n".join(_format_port(lab, seat)) + "\n")
    _batch(seat.netns, format_nic(lab, seat))


def set_link(lab: plan.Plan, seat: plan.Seat, *, up: bool) -> None:
    """Pull a machine's cable, or put it back."""
    set_to = "up" if up else "down"
    command.check(command.run(["ip", "-n", lab.router_netns, "link", "set", seat.machine, set_to]))


def delete(names: Sequence[str]) -> None:
    """Delete namespaces; those that are not there are not missed."""
    for name in names:
        if netns_path(name).exists():
            command.check(command.run(["ip", "netns", "del", name]))


def pids(name: str) -> set[int]:
    """List the processes in a namespace."""
    if not netns_path(name).exists():
        return set()
    return {int(pid) for pid in command.run(["ip", "netns", "pids", name]).out.split()}


def _add(names: Sequence[str]) -> None:
    with roots.locked(_LOCK):
        _run_batch(["ip"], "".join(f"netns add {name}\n" for name in names))


def _format_port(lab: plan.Plan, seat: plan.Seat) -> list[str]:
    """Compose the router's end of a machine's wire, named like the machine."""
    port = seat.machine
    lines = [f"link add name {port} type veth peer name {plan.NIC} address {seat.mac} netns {seat.netns}"]
    if seat == lab.outside:
        lines.append(f"address add {seat.gateway}/{seat.address.network.prefixlen} dev {port}")
        lines.append(f"address add {seat.gateway_v6}/{seat.address_v6.network.prefixlen} dev {port} nodad")
    else:
        lines.append(f"link set {port} master {plan.BRIDGE}")
    return [*lines, f"link set {port} mtu {lab.mtu} up"]


def _batch(netns: str, text: str) -> None:
    _run_batch(["ip", "-n", netns], text)


def _run_batch(ip: list[str], text: str) -> None:
    command.check(command.run([*ip, "-batch", "-"], stdin=text.encode()))
