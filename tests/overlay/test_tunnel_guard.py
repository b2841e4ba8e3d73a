"""What keeps containers from the tunnels: the text, what both adapters promise of it, and who declares it when."""

from __future__ import annotations

import ipaddress
import pathlib
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from overlay import (
    firewall_chain,
    firewall_exec,
    firewall_fake,
    firewall_port,
    kernel,
    kernel_fake,
    netstate,
    reconciler,
    tunnel_guard,
)

LISTINGS = pathlib.Path(__file__).parent / "firewall"
IfName = netstate.IfName


def tunnel(vni: int, *, port: int = 8472, underlay: str = "eth0", mtu: int = 1450) -> netstate.VxlanLink:
    return netstate.VxlanLink(
        name=IfName(f"flannel.{vni}"),
        vni=vni,
        port=port,
        local=ipaddress.ip_address("192.0.2.1"),
        underlay=IfName(underlay),
        mac=netstate.Mac("0e:00:00:00:00:01"),
        mtu=mtu,
    )


def bridge(name: str, mtu: int = 1450) -> netstate.BridgeLink:
    return netstate.BridgeLink(name=IfName(name), mac=netstate.Mac("02:42:0a:02:14:01"), mtu=mtu)


ONE = tunnel_guard.plan([tunnel(1)])
TWO = tunnel_guard.plan([tunnel(1), tunnel(2, port=4789, underlay="eth1"), bridge("blue"), bridge("fp-0123456789ab")])
NOTHING: tunnel_guard.TunnelPlan = frozenset()
TEXT = """\
table inet flannelpy
delete table inet flannelpy
table inet flannelpy {
	chain containers {
		iifname { "eth0", "eth1" } return
		iifname { "blue", "docker0", "docker_gwbridge", "shop" } drop
		iifname "fp-*" drop
		iifname "fph*" drop
		iifname "flannel*" drop
		iifname "br-*" drop
	}

	chain leaving {
		oifname { "eth0", "eth1" } goto containers
		oifname { "blue", "docker0", "docker_gwbridge", "shop" } return
		oifname "fp-*" return
		oifname "fph*" return
		oifname "flannel*" return
		oifname "br-*" return
		goto containers
	}

	chain input {
		type filter hook input priority filter; policy accept;
		udp dport { 4789, 8472 } goto containers
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		udp dport { 4789, 8472 } goto leaving
	}
}
"""


def test_the_text_is_what_an_operator_reads() -> None:
    assert tunnel_guard.script(TWO, {"shop"}) == TEXT
    assert tunnel_guard.script(TWO, {"shop", "docker0", "br-0123456789ab"}) == TEXT
    assert tunnel_guard.script(TWO, {"shop", "e*", 'a"b'}) == TEXT, "nft would read more, or nothing"
    assert tunnel_guard.script(NOTHING) == "table inet flannelpy\ndelete table inet flannelpy\n"


def test_without_a_tunnel_nothing_is_wanted() -> None:
    assert tunnel_guard.plan([bridge("blue")]) == NOTHING


def test_the_engines_bridges_are_read_in_either_kind_of_rules() -> None:
    mapped = (LISTINGS / "docker-29.nft").read_text()
    assert firewall_chain.mapped_bridges(mapped) == {"docker0", "shop", "docker_gwbridge"}


Case = tuple[firewall_port.Firewall, Callable[[], object]]


@pytest.fixture(params=["fake", pytest.param("exec", marks=pytest.mark.contract)])
def case(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Case]:
    """A firewall, and the operator's hand that empties it."""
    if request.param == "fake":
        fake = firewall_fake.FirewallFake()
        yield fake, fake.flush
        return
    space: Any = request.getfixturevalue("netns")
    with space.inside():
        yield (
            firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock")),
            lambda: subprocess.run(["nft", "flush", "ruleset"], check=True, timeout=20),
        )


def inspect(wall: firewall_port.Firewall, plan: tunnel_guard.TunnelPlan) -> list[tuple[str, str]]:
    assert isinstance(wall, firewall_fake.FirewallFake | firewall_exec.FirewallExec)
    return [(one.place, one.how.value) for one in wall.look(frozenset(), None, plan)]


def test_a_plan_is_written_once_and_again_where_somebody_took_it_away(case: Case) -> None:
    wall, flush = case
    for plan in (ONE, TWO):
        assert wall.tunnels(plan) == ("nft-inet",)
        assert wall.tunnels(plan) == ()
    flush()
    assert wall.tunnels(TWO) == ("nft-inet",)
    assert wall.tunnels(TWO) == ()


def test_an_empty_plan_takes_the_table_away(case: Case) -> None:
    wall, _ = case
    assert wall.tunnels(NOTHING) == ()
    wall.tunnels(ONE)
    assert wall.tunnels(NOTHING) == ("nft-inet",)
    assert wall.tunnels(NOTHING) == ()
    assert inspect(wall, NOTHING) == []


def test_a_look_tells_what_differs_and_changes_nothing(case: Case) -> None:
    wall, flush = case
    wall.tunnels(TWO)
    assert inspect(wall, TWO) == []
    assert inspect(wall, ONE) == [("nft-inet", "changed")]
    assert inspect(wall, NOTHING) == [("nft-inet", "stale")]
    flush()
    assert inspect(wall, TWO) == inspect(wall, TWO) == [("nft-inet", "missing")]


@pytest.mark.contract
def test_what_somebody_changed_is_written_again_and_what_nobody_did_costs_no_program(
    netns: Any, tmp_path: pathlib.Path
) -> None:
    with netns.inside():
        wall = firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock"))
        wall.tunnels(ONE)
        assert wall.tunnels(ONE) == ()
        empty = firewall_exec.FirewallExec(path=str(tmp_path))
        empty._tunnels._quiet, empty._tunnels._quiet_until = wall._tunnels._quiet, wall._tunnels._quiet_until
        assert empty.tunnels(ONE) == (), "nothing was run: there is no nft"
        netns.run("nft flush chain inet flannelpy containers")
        assert wall.tunnels(ONE) == ("nft-inet",)
        assert "docker0" in netns.run("nft list table inet flannelpy")


@pytest.mark.contract
def test_a_kernel_without_such_tables_is_no_error_and_is_told(netns: Any, tmp_path: pathlib.Path) -> None:
    nft = tmp_path / "nft"
    nft.write_text("#!/bin/sh\necho 'Error: Could not process rule: Operation not supported' >&2\nexit 1\n")
    nft.chmod(0o755)
    with netns.inside():
        wall = firewall_exec.FirewallExec(path=str(tmp_path))
        assert wall.tunnels(ONE) == ()
        (told,) = wall.limits()
    assert told.startswith("containers are not kept from the tunnels' port: nft ")


UNDERLAYS = [
    kernel.UnderlayLink(name=IfName(name), index=index, mtu=1500, up=True, addresses=(), has_default_route=index == 2)
    for index, name in enumerate(("eth0", "eth1"), 2)
]


class World:
    """A reconciler on fakes."""

    def __init__(self) -> None:
        self.filters = firewall_fake.FirewallFake()
        self.reconciler = reconciler.Reconciler(kernel_fake.KernelFake(UNDERLAYS), self.filters)

    def set(self, owner: str, *objects: netstate.KernelObject) -> None:
        self.reconciler.set(owner, frozenset(objects))


def test_ports_are_guarded_when_their_tunnel_is_there_and_as_long_as_it_is() -> None:
    world = World()
    world.set("node:/a", tunnel(1))
    assert world.filters.tunnelled == ONE
    world.set("network:b", bridge("blue"))
    world.set("node:/c", tunnel(2, port=4789, underlay="eth1"))
    assert world.filters.tunnelled == TWO
    world.reconciler.forget("node:/c")
    world.reconciler.remove("network:b")
    world.reconciler.glance()
    assert world.filters.tunnelled == ONE
    world.reconciler.remove("node:/a")
    world.reconciler.glance()
    assert world.filters.tunnelled == NOTHING


def test_what_an_earlier_life_guarded_stays_until_this_one_knows_its_tunnels() -> None:
    world = World()
    world.filters.tunnels(TWO)
    world.set("network:b", bridge("blue"))
    world.reconciler.run_pass()
    assert world.filters.tunnelled == TWO
    world.set("node:/a", tunnel(1))
    assert world.filters.tunnelled == tunnel_guard.plan([tunnel(1), bridge("blue")])


def test_another_mtu_or_peer_writes_nothing() -> None:
    world = World()
    world.set("node:/a", tunnel(1))
    world.filters.refusal = "nobody should ask"
    world.set("node:/a", tunnel(1, mtu=1400))
    world.filters.refusal = None
    assert world.reconciler.run_pass().failures == 0


def test_a_tunnel_is_made_even_where_the_packet_filter_refuses() -> None:
    world = World()
    world.filters.refusal = "nft -f -: exit 1"
    world.set("node:/a", tunnel(1))
    world.reconciler.run_pass()
    assert world.reconciler.last_errors == ("nft -f -: exit 1",)
    world.filters.refusal = None
    world.reconciler.run_pass()
    assert world.filters.tunnelled == ONE
    assert world.reconciler.repairs == {}
