"""All flannel networks that this host is in: the adapter of `holdings.Holdings`.

One Node for each registry prefix; the default one always, others from the first Docker network that names them to
the last. Built by `plugin.app`.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterable

from overlay import errors, lease, node


class Nodes:
    """The nodes by prefix. `make_node` builds one; it is neither restored nor started."""

    def __init__(self, default_prefix: str, make_node: Callable[[str], node.Node]) -> None:
        self._default = default_prefix
        self._make_node = make_node
        self._turn = (
            threading.Lock()
        )  # one network joined or left at a time: one that is being left may be joined again
        self._lock = threading.Lock()
        self._nodes: dict[str, node.Node] = {}
        self._rooms: dict[str, tuple[ipaddress.IPv4Network, str]] = {}
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
            nodes = list(self._nodes.values())
        for one in nodes:
            one.start()

    def stop(self) -> None:
        """End all threads; leases and kernel objects stay."""
        for one in self.all():
            one.halt()
        for one in self.all():
            one.stop()

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

    def leave(self, prefix: str) -> None:
        """Implements `holdings.Holdings`."""
        if prefix == self._default:
            return
        with self._turn:
            with self._lock:
                left = self._nodes.pop(prefix, None)
            if left is not None:
                left.leave()
            with self._lock:
                self._rooms.pop(prefix, None)

    def claim_room(self, prefix: str, network: ipaddress.IPv4Network, device: str) -> None:
        """Keep a range and a device for a flannel network until it is left; again with others replaces them.

        Raises ConfigInvalid where it collides with another one this host is in, or is joining.
        """
        with self._lock:
            for other, (taken, name) in self._rooms.items():
                if other == prefix:
                    continue
                if taken.overlaps(network):
                    raise errors.ConfigInvalid(
                        f"flannel network {prefix} ({network}) overlaps {other} ({taken}) on this host; "
                        "give one of them another Network"
                    )
                if name == device:
                    raise errors.ConfigInvalid(
                        f"flannel network {prefix} has device {device} as {other} has; give one another VNI"
                    )
            self._rooms[prefix] = (network, device)

    def _join(self, prefix: str) -> node.Node:
        with self._lock:
            known = self._nodes.get(prefix)
        if known is not None:
            return known
        with self._turn:
            with self._lock:
                known = self._nodes.get(prefix)
            if known is not None:
                return known
            fresh = self._make_node(prefix)
            fresh.restore()
            with self._lock:
                self._nodes[prefix] = fresh
                started = self._started
            if started:
                fresh.start()
        return fresh
