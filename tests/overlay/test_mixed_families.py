"""Hosts of IPv4 alone, of both families and of IPv6 alone in one flannel network, on the real kernel."""

from __future__ import annotations

import ipaddress
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from overlay import registry_fake
from tests.overlay import node_host, real_node
from tests.overlay.node_host import until

pytestmark = pytest.mark.contract

DUAL = """
{"Network": "10.2.0.0/16", "EnableIPv6": true, "IPv6Network": "2001:db8:cafe::/48", "Backend": {"Type": "vxlan"}}
"""


class Mix:
    """Four hosts: `old` joined before the network had IPv6, `one` and `two` have both families, `six` IPv6 alone."""

    def __init__(self, spaces: list[Any], directory: pathlib.Path) -> None:
        self.registry = registry_fake.FakeRegistry(node_host.CONFIG)
        self.hosts = []
        for number, space in enumerate(spaces):
            own = directory / str(number)
            own.mkdir()
            if number < 3:
                space.run(f"ip addr add 192.0.2.{number + 1}/24 dev eth0", "ip route add default via 192.0.2.254")
            if number > 0:
                space.run(
                    f"ip addr add 2001:db8::{number + 1}/64 dev eth0 nodad",
                    "ip -6 route add default via 2001:db8::ffff dev eth0",
                )
            self.hosts.append(real_node.RealNode(space, self.registry, own, f"0e:00:00:00:{number:02x}"))
        self.old, self.one, self.two, self.six = self.hosts

    def join(self) -> None:
        self.held_old = self.old.join()
        self.registry.set_config(DUAL)
        self.held_one, self.held_two, self.held_six = (host.join() for host in self.hosts[1:])


@pytest.fixture
def mix(make_netns: Any, tmp_path: pathlib.Path) -> Iterator[Mix]:
    with real_node.plug(make_netns, 4) as spaces:
        made = Mix(spaces, tmp_path)
        made.join()
        yield made
        for host in made.hosts:
            host.stop()


def first(net: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    return str(net.network_address)


def test_every_pair_of_hosts_uses_what_both_have(mix: Mix) -> None:
    assert mix.held_old.v6 is None
    v6 = {name: getattr(mix, f"held_{name}").v6 for name in ("one", "two", "six")}
    assert None not in v6.values()
    four = {name: first(getattr(mix, f"held_{name}").subnet) for name in ("old", "one", "two")}
    six = {name: first(held.subnet) for name, held in v6.items()}
    for name, host in (("old", mix.old), ("one", mix.one), ("two", mix.two)):
        for other, address in four.items():
            if other != name:
                until(lambda host=host, address=address: host.answers(address), f"{name} to {other}", 10)
    for name, host in (("one", mix.one), ("two", mix.two), ("six", mix.six)):
        for other, address in six.items():
            if other != name:
                until(lambda host=host, address=address: host.answers(address), f"{name} to {other}, IPv6", 10)


def test_what_a_peer_lacks_is_named_and_costs_nothing_else(mix: Mix) -> None:
    until(lambda: mix.old.node.status().peers == 3)
    until(lambda: "its underlay has IPv6 alone" in str(mix.old.node.status().skipped))
    assert mix.old.reconciler.last_errors == ()
    assert mix.one.reconciler.last_errors == ()
    assert mix.six.reconciler.last_errors == ()
    assert "flannel-v6.1" not in mix.old.netns.run("ip link")
    assert "flannel.1:" not in mix.six.netns.run("ip link")


def test_a_departed_dual_peer_takes_both_families_along(mix: Mix) -> None:
    held = mix.held_two
    assert held.v6 is not None
    subnets = (str(held.subnet), str(held.v6.subnet))

    def entries() -> str:
        return str(mix.one.netns.run("ip route", "ip -6 route", "ip neigh show nud permanent", "bridge fdb"))

    until(lambda: all(subnet in entries() for subnet in subnets))
    mix.two.stop()
    mix.registry.delete_peer(next(key for key in mix.registry.read_leases().leases if str(key.v4) == subnets[0]))
    until(lambda: not any(subnet in entries() for subnet in subnets), "entries gone", 10)
    mix.two.start()
