"""Peers that change in etcd while a host follows them, and the moment at which its kernel has what came of it.

Runs in the host's network namespace (`bench.inside deltas`). The clock runs from before the put to the kernel's own
notices of the entries: a neighbour, a forwarding entry and, for a new peer, a route.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final

from bench import peers
from overlay import netstate, rtnl, rtnl_socket

PAUSE_S: Final = 0.05
"""Between two changes, so that each finds the plugin at rest."""

WAIT_S: Final = 10.0
BURST_WAIT_S: Final = 60.0
BUFFER: Final = 16 << 20
GROUPS: Final = 0x4 | 0x40
"""RTMGRP_NEIGH, RTMGRP_IPV4_ROUTE. Source: linux/rtnetlink.h."""

NOWHERE: Final = netstate.IfName("")

Sign = tuple[str, str]
"""What the kernel says of one entry: its kind and its key."""


def measure(etcd: str, prefix: str, known: int, count: int) -> dict[str, object]:
    """Seconds of each of `count` changes one after the other, and of as many more made at once.

    By turns a peer that is new, and one of the `known` that came back with another MAC. Raises TimeoutError.
    """
    gateway = peers.Gateway(etcd)
    subnets = f"{prefix}/subnets/"
    apart = []
    with rtnl_socket.open_socket(GROUPS, BUFFER) as sock:
        for turn in range(count):
            key, value, signs = _change(turn, known, 1)
            began = time.monotonic()
            gateway.put(subnets + key, value)
            apart.append(_wait(sock, signs, began + WAIT_S) - began)
            time.sleep(PAUSE_S)
        together = [_change(turn, known + count, 2) for turn in range(count)]
        began = time.monotonic()
        for key, value, _ in together:
            gateway.put(subnets + key, value)
        last = _wait(sock, (sign for _, _, signs in together for sign in signs), began + BURST_WAIT_S)
    return {"apart": apart, "together": last - began}


def _change(turn: int, known: int, generation: int) -> tuple[str, str, list[Sign]]:
    """What to put, and the notices that must come of it."""
    new = turn % 2 == 0
    number = known + turn if new else turn
    key, value = peers.lease(number, generation)
    address = key.partition("-")[0]
    mac = peers.mac(number, generation)
    signs = [("neighbour", f"{address} {mac}"), ("fdb", mac)]
    return key, value, [*signs, ("route", f"{address}/24")] if new else signs


def _wait(sock: rtnl_socket.RtnlSocket, signs: Iterable[Sign], deadline: float) -> float:
    """The moment at which the last of them was seen."""
    missing = set(signs)
    while missing:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"{len(missing)} entries did not come: {sorted(missing)[:3]}")
        for data, kind, at, end in sock.wait(left_s):
            missing.difference_update(_signs(data, kind, at, end))
    return time.monotonic()


def _signs(data: bytes, kind: int, at: int, end: int) -> Iterator[Sign]:
    if kind == rtnl.RTM_NEWROUTE:
        yield "route", str(rtnl.parse_route(data, at, end).destination)
    elif kind == rtnl.RTM_NEWNEIGH and data[at] == rtnl.AF_BRIDGE:
        if (entry := rtnl.parse_fdb_entry(data, at, end, NOWHERE)) is not None:
            yield "fdb", entry.mac
    elif kind == rtnl.RTM_NEWNEIGH and (neighbour := rtnl.parse_neighbour(data, at, end, NOWHERE)) is not None:
        yield "neighbour", f"{neighbour.ip} {neighbour.mac}"
