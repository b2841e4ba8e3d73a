"""A host for tests of the node: kernel, firewall and registry in memory, a real state file."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import threading
import time
from collections.abc import Callable, Sequence

from overlay import (
    firewall_fake,
    flanneld,
    kernel,
    kernel_fake,
    lease,
    member,
    netstate,
    node,
    nodestore,
    reconciler,
    registry,
    registry_fake,
    statefile,
)

PREFIX = "/coreos.com/network"
CONFIG = '{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan"}}'
MAC = netstate.Mac("0e:00:00:00:00:01")
ETH0 = kernel.UnderlayLink(
    name=netstate.IfName("eth0"),
    index=2,
    mtu=1500,
    up=True,
    addresses=(ipaddress.IPv4Interface("192.0.2.1/24"),),
    has_default_route=True,
)
FAST = node.Timing(
    beat_s=3600, retry_first_s=0.01, retry_cap_s=0.02, findings_s=0, watch_s=0.1, watch_pause_s=0.02, save_first_s=0
)


def key(subnet: str) -> lease.SubnetKey:
    return lease.SubnetKey(v4=ipaddress.IPv4Network(subnet))


def attrs(public_ip: str, mac: str = "0e:00:00:00:00:99", vni: int = 1) -> lease.LeaseAttrs:
    """What a vxlan node at `public_ip` publishes."""
    return lease.LeaseAttrs(
        public_ip=ipaddress.IPv4Address(public_ip),
        backend_type="vxlan",
        backend_data=f'{{"VNI":{vni},"VtepMAC":"{mac}"}}',
    )


def until(true: Callable[[], object], what: str = "", within_s: float = 5.0) -> None:
    """Wait, not for ever."""
    pause = threading.Event()
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or true}"
        pause.wait(0.005)


def once(action: Callable[[], object]) -> Callable[[], None]:
    """The action, the first time."""
    left = [action]

    def act() -> None:
        if left:
            left.pop()()

    return act


class MoodyRegistry(registry_fake.FakeRegistry):
    """Does what a test says just before a call is answered."""

    def __init__(self, config: str | None = None) -> None:
        super().__init__(config)
        self.before_put: Callable[[], None] = lambda: None
        self.after_put: Callable[[], None] = lambda: None
        self.before_read: Callable[[], None] = lambda: None
        self.before_config: Callable[[], None] = lambda: None

    def read_config(self) -> str:
        self.before_config()
        return super().read_config()

    def read_leases(self) -> registry.Snapshot:
        self.before_read()
        return super().read_leases()

    def put_lease(self, key: lease.SubnetKey, attrs: lease.LeaseAttrs, over: lease.Lease | None) -> lease.Lease:
        self.before_put()
        stored = super().put_lease(key, attrs, over)
        self.after_put()
        return stored


@dataclasses.dataclass
class NodeHost:
    """One host. What a test changes between two nodes of it is what a restart finds changed."""

    directory: pathlib.Path
    registry: registry_fake.FakeRegistry
    kernel: kernel_fake.KernelFake = dataclasses.field(default_factory=lambda: kernel_fake.KernelFake([ETH0]))
    in_use: bool = False
    options: member.Options = dataclasses.field(default_factory=member.Options)
    timing: node.Timing = FAST
    claim_room: Callable[[str, Sequence[netstate.IPNetwork], str], None] = lambda *_room: None
    mac: netstate.Mac = MAC
    changed: Callable[[], None] = lambda: None
    flannelds: tuple[flanneld.Flanneld, ...] = ()
    before_flannelds: Callable[[], object] = lambda: None
    previous: lease.SubnetKey | None = None
    machine: str | None = None
    nodes: list[node.Node] = dataclasses.field(default_factory=list)
    file: statefile.StateFile | None = None

    def __post_init__(self) -> None:
        self.reopen()

    def reopen(self) -> None:
        """A new process: state file and reconciler anew, over what kernel and registry are now."""
        if self.file is not None:
            self.file.close()
        self.file = statefile.StateFile(self.directory / "state.db", [nodestore.SCHEMA])
        self.store = nodestore.NodeStore(self.file)
        self.reconciler = reconciler.Reconciler(self.kernel, firewall_fake.FirewallFake())

    def ports(self) -> member.Ports:
        return member.Ports(
            registry=self.registry,
            store=self.store,
            kernel=self.kernel,
            publish=self.reconciler.set,
            in_use=lambda: self.in_use,
            unless_in_use=self.unless_in_use,
            claim_room=self.claim_room,
            pick=lambda _count: 0,
            make_mac=lambda: self.mac,
            changed=lambda: self.changed(),  # noqa: PLW0108 - a test sets another one later
            flannelds=self._list_flannelds,
            previous=lambda: self.previous,
            machine=lambda: self.machine,
        )

    def unless_in_use(self, act: Callable[[], None]) -> bool:
        if not self.in_use:
            act()
        return not self.in_use

    def _list_flannelds(self) -> tuple[flanneld.Flanneld, ...]:
        self.before_flannelds()
        return self.flannelds

    def make(self, prefix: str = PREFIX) -> node.Node:
        """A node as after the start of the plugin; not started."""
        one = node.Node(prefix, self.options, self.ports(), timing=self.timing)
        self.nodes.append(one)
        return one

    def start(self) -> node.Node:
        """A node that was restored and talks to the registry."""
        one = self.make()
        one.restore()
        one.start()
        return one

    def join(self) -> node.Node:
        """A node that has joined and read the peers."""
        one = self.start()
        one.wait(5)
        until(lambda: one.status().confirmed and one.status().followed, "joined and followed")
        return one

    def routes(self) -> set[str]:
        """The subnets that go through a tunnel."""
        return {
            str(obj.destination) for obj in self.kernel.observe(netstate.EMPTY) if isinstance(obj, netstate.Route)
        }

    def close(self) -> None:
        for one in self.nodes:
            one.stop()
        if self.file is not None:
            self.file.close()
