"""All flannel networks that this host is in: the adapter of `holdings.Holdings`.

One Node for each registry prefix; the default one always, others from the first Docker network that names them to
the last. Built by `plugin.app`.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Sequence

from overlay import errors, lease, netstate, node, supervisor, turns

log = logging.getLogger(__name__)

POLL_S = 0.5
LOOK_POLLS = 20
"""So many waits of POLL_S lie between two looks where nothing was noticed: a look may cross an attempt to join."""

GIVE_BACK_S = 5.0
"""How long a stop waits for subnets that are being given back."""

SETTLE_S = 0.5
"""Seconds between the first sign of a change below and the look at it."""


class Nodes:
    """The nodes by prefix. `make_node` builds one; it is neither restored nor started."""

    def __init__(
        self,
        default_prefix: str,
        make_node: Callable[[str], node.Node],
        supervisor_: supervisor.Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor_ or supervisor.Supervisor()
        self._ended = threading.Event()
        self._default = default_prefix
        self._make_node = make_node
        self._turns = turns.Turns()  # of each prefix: one joins or leaves it at a time
        self._lock = threading.Lock()
        self._nodes: dict[str, node.Node] = {}
        self._leaving: dict[str, threading.Thread] = {}  # a node that was left ends before the next one begins
        self._rooms: dict[str, tuple[tuple[netstate.IPNetwork, ...], str]] = {}
        self._left: list[node.Node] = []  # for good, and their subnets are not given back yet
        self._wake = threading.Event()
        self._started = False

    def restore(self, saved_prefixes: Iterable[str]) -> None:
        """Take up the default network and those of the state file, without a word to any registry."""
        for prefix in dict.fromkeys((self._default, *saved_prefixes)):
            self._nodes[prefix] = self._make_node(prefix)
            self._nodes[prefix].restore()

    def start(self) -> None:
        """Begin to talk to the registries."""
        with self._lock:
            self._started = True
            nodes = [one for prefix, one in self._nodes.items() if prefix not in self._leaving]
        for one in nodes:
            one.start()

    def stop(self) -> None:
        """End all threads; leases and kernel objects stay. A subnet that is not given back by then expires."""
        with self._lock:
            self._started = False
            self._ended.set()
            leaving = list(self._leaving.values())
        for one in self.all():
            one.halt()
        for one in self.all():
            one.stop()
        node.end_threads(leaving, GIVE_BACK_S)

    def all(self) -> list[node.Node]:
        """The nodes, the default one first."""
        with self._lock:
            return list(self._nodes.values())

    def wait(self, prefix: str | None, timeout_s: float) -> lease.HeldSubnet:
        """Implements `holdings.Holdings`."""
        return self._join(prefix or self._default).wait(timeout_s)

    def held(self) -> list[lease.HeldSubnet]:
        """Implements `holdings.Holdings`."""
        return [held for one in self.all() if (held := one.held()) is not None]

    def holds(self, held: lease.HeldSubnet) -> bool:
        """Implements `holdings.Holdings`."""
        with self._lock:
            known = self._nodes.get(held.prefix)
        return known is not None and known.holds(held)

    def leave(self, prefix: str) -> None:
        """Implements `holdings.Holdings`."""
        if prefix == self._default:
            return
        with self._turns.of(prefix):
            with self._lock:
                left = self._nodes.pop(prefix, None)
            if left is not None:
                left.leave()
            with self._lock:
                self._rooms.pop(prefix, None)
                if left is None or prefix in self._leaving:  # the latter: it has not begun, and has nothing
                    return
                give_back = functools.partial(self._give_back, left)
                self._leaving[prefix] = self._supervisor.start(f"leave:{prefix}", give_back, self._ended)

    def leave_all(self) -> list[str]:
        """Leave every flannel network for good, the default one too; those whose subnets are left to expire.

        Waits for the registries. Another call tries again to give back what is left.
        """
        with self._lock:
            self._started = False
            nodes, self._nodes = list(self._nodes.values()), {}
            leaving = dict(self._leaving)
        for one in nodes:
            one.leave()
        self._left = [one for one in (*self._left, *nodes) if not _gives_back(one)]
        node.end_threads(leaving.values(), GIVE_BACK_S)
        return [
            *(one.prefix for one in self._left),
            *(prefix for prefix, thread in leaving.items() if thread.is_alive()),
        ]

    def claim_room(self, prefix: str, networks: Sequence[netstate.IPNetwork], device: str) -> None:
        """Keep ranges and a device for a flannel network until it is left; again with others replaces them.

        Raises ConfigInvalid where it collides with another one this host is in, or is joining. `device` "" has none.
        """
        with self._lock:
            for other, (taken, name) in self._rooms.items():
                if other == prefix:
                    continue
                if inner := _nested(prefix, other):
                    raise errors.ConfigInvalid(
                        f"flannel network {inner} lies among the leases of {other if inner == prefix else prefix}, "
                        "whose hosts would read its keys as theirs; give one of them another prefix"
                    )
                if clash := _overlap(networks, taken):
                    raise errors.ConfigInvalid(
                        f"flannel network {prefix} ({clash[0]}) overlaps {other} ({clash[1]}) on this host; "
                        "give one of them another Network"
                    )
                if device and name == device:
                    raise errors.ConfigInvalid(
                        f"flannel network {prefix} has device {device} as {other} has; give one another VNI"
                    )
            self._rooms[prefix] = (tuple(networks), device)

    def notice(self) -> None:
        """Links, addresses or routes of this host may have changed. Never waits."""
        self._wake.set()

    def follow_underlay(self, stop: threading.Event) -> None:
        """Let every node look at its underlay after each `notice`, and now and then without one, until `stop`.

        A pause first, so that an address which goes and comes back (DHCP, a restarted network service) is no news.
        """
        while not stop.is_set():
            noticed = any(self._wake.wait(POLL_S) for _ in range(LOOK_POLLS) if not stop.is_set())
            stop.wait(SETTLE_S if noticed else 0)
            self._wake.clear()
            if self._look_at_underlay():
                self._supervisor.well("underlay")

    def _look_at_underlay(self) -> bool:
        """Whether all nodes could; one that cannot keeps no other from it, and the next look is due all the same."""
        carried_out = True
        for one in self.all():
            try:
                one.look_at_underlay()
            except Exception as exc:  # noqa: BLE001 - told by the supervisor
                carried_out = False
                exc.add_note(f"flannel network {one.prefix}")
                self._supervisor.note("underlay", exc)
        return carried_out

    def _join(self, prefix: str) -> node.Node:
        with self._lock:
            known = self._nodes.get(prefix)
        if known is not None:
            return known
        with self._turns.of(prefix):
            with self._lock:
                known = self._nodes.get(prefix)
            if known is not None:
                return known
            fresh = self._make_node(prefix)
            with self._lock:
                waits = prefix in self._leaving
                if waits:
                    self._nodes[prefix] = fresh
            if not waits:
                self._begin(fresh)
        return fresh

    def _begin(self, fresh: node.Node) -> None:
        fresh.restore()
        with self._lock:
            self._nodes[fresh.prefix] = fresh
            started = self._started
        if started:
            fresh.start()

    def _give_back(self, left: node.Node) -> None:
        """In a thread of its own: the engine waits for `leave`, and no registry shall hold it up.

        Tried again where it fails, as on a full disk; what the file still keeps is left again after the next start.
        """
        left.give_back()
        with self._turns.of(left.prefix):
            with self._lock:
                self._leaving.pop(left.prefix, None)
                fresh = self._nodes.get(left.prefix)
                if fresh is None:
                    self._rooms.pop(left.prefix, None)  # an attempt under way may have claimed it once more
            if fresh is not None:
                self._begin(fresh)


def _gives_back(left: node.Node) -> bool:
    """Whether nothing is left of it. Where the state file cannot be written the others are left all the same."""
    try:
        return left.give_back()
    except errors.OverlayError as exc:
        log.warning("lease left to expire prefix=%s reason=%s", left.prefix, exc)
        return False


def _nested(one: str, other: str) -> str | None:
    """The prefix of the two whose keys lie below the other's `subnets`."""
    return next((inner for inner, outer in ((one, other), (other, one)) if _lies_in(inner, outer)), None)


def _lies_in(inner: str, outer: str) -> bool:
    leases = f"{lease.clean_prefix(outer)}/subnets/"
    return f"{lease.clean_prefix(inner)}/".startswith(leases)


def _overlap(
    some: Sequence[netstate.IPNetwork], others: Sequence[netstate.IPNetwork]
) -> tuple[netstate.IPNetwork, netstate.IPNetwork] | None:
    pairs = ((one, other) for one in some for other in others if one.version == other.version)
    return next(((one, other) for one, other in pairs if one.overlaps(other)), None)
