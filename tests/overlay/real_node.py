"""Flannel nodes on the real kernel: each in a network namespace of its own, all on one bridge in another.

The registry is whatever a test gives them, so that a test can be the other hosts, or bring an etcd.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from overlay import (
    firewall_fake,
    kernel_netlink,
    lease,
    member,
    netstate,
    node,
    nodes,
    nodestore,
    reconciler,
    registry,
    statefile,
)
from tests.overlay import node_host

FAST = node.Timing(beat_s=3600, retry_first_s=0.05, retry_cap_s=0.2)


@dataclasses.dataclass
class RealNode:
    """One host. Its NIC is `eth0`; `netns` is the conftest's Netns."""

    netns: Any
    registry: registry.Registry
    directory: pathlib.Path
    mac: str
    in_use: bool = True
    options: member.Options = dataclasses.field(default_factory=member.Options)
    timing: node.Timing = FAST
    reconciler_timing: reconciler.Timing | None = None

    def start(self) -> node.Node:
        """As the plugin starts it: restored, gate open, everything running."""
        self.stop_event = threading.Event()
        self.file = statefile.StateFile(self.directory / "state.db", [nodestore.SCHEMA])
        kernel = kernel_netlink.KernelNetlink()
        self.reconciler = reconciler.Reconciler(kernel, firewall_fake.FirewallFake(), timing=self.reconciler_timing)
        macs = iter(range(1, 250))
        with self.netns.inside():  # threads are born in the namespace of who starts them
            ports = member.Ports(
                registry=self.registry,
                store=nodestore.NodeStore(self.file),
                kernel=kernel,
                publish=self.reconciler.set,
                in_use=lambda: self.in_use,
                unless_in_use=self.unless_in_use,
                claim_room=lambda *_room: None,
                pick=lambda _count: 0,
                make_mac=lambda: netstate.Mac(f"{self.mac}:{next(macs):02x}"),
            )
            self.nodes = nodes.Nodes(
                node_host.PREFIX, lambda prefix: node.Node(prefix, self.options, ports, timing=self.timing)
            )
            self.reconciler.on_events(self.nodes.notice)
            self.nodes.restore([])
            self.reconciler.open_gate()
            self.threads = [
                threading.Thread(target=run, args=(self.stop_event,), daemon=True)
                for run in (self.reconciler.run, self.nodes.follow_underlay)
            ]
            for thread in self.threads:
                thread.start()
            self.nodes.start()
        return self.nodes.all()[0]

    def unless_in_use(self, act: Callable[[], None]) -> bool:
        if not self.in_use:
            act()
        return not self.in_use

    @property
    def node(self) -> node.Node:
        return self.nodes.all()[0]

    def join(self) -> lease.HeldSubnet:
        """Start, and wait until the lease is held and the peers are read."""
        one = self.start()
        held = one.wait(10)
        node_host.until(lambda: one.status().confirmed and one.status().followed, "joined and followed", 10)
        return held

    def stop(self) -> None:
        self.stop_event.set()
        self.nodes.stop()
        for thread in self.threads:
            thread.join(5)
        self.file.close()

    def answers(self, target: object, *options: str) -> bool:
        """Whether one ping is answered within a second."""
        with contextlib.suppress(AssertionError):
            self.netns.run(f"ping -n -c 1 -W 1 {' '.join(options)} {target}")
            return True
        return False


class Spaces(list[Any]):
    """The hosts' namespaces; `router` is that of the bridge `br0` between them."""

    router: Any = None


@contextlib.contextmanager
def plug(make_netns: Any, count: int, *, mtu: int = 1500) -> Iterator[Spaces]:
    """So many namespaces with an `eth0` each on one bridge, without addresses."""
    with contextlib.ExitStack() as stack:

        def make() -> Any:
            space = make_netns()
            stack.callback(space.close)
            return space

        router = make()
        router.run("ip link add br0 type bridge", f"ip link set br0 mtu {mtu} up")
        spaces = Spaces()
        spaces.router = router
        for number in range(count):
            space = make()
            router.run(f"ip link add p{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {space.path}")
            router.run(f"ip link set p{number} master br0 up")
            space.run("ip link set eth0 up")
            spaces.append(space)
        yield spaces
