"""What both firewall adapters promise, and what the real one does with the host's tools; in namespaces of its own."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import pathlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from overlay import (
    errors,
    firewall,
    firewall_chain,
    firewall_exec,
    firewall_fake,
    firewall_keeper,
    firewall_port,
    firewall_tools,
    netstate,
)

LISTINGS = pathlib.Path(__file__).parent / "firewall"
FLAVOURS = ("iptables-nft", "iptables-legacy")
FLAVOURS_V6 = ("ip6tables-nft", "ip6tables-legacy")
ALL_FLAVOURS = FLAVOURS + FLAVOURS_V6
Netns = Any  # the class in conftest.py, which cannot be imported


def rules(bridge: str, subnet: str, *, device: str = "flannel.1", internal: bool = False) -> firewall.BridgeRules:
    return firewall.BridgeRules(
        bridge=netstate.IfName(bridge),
        subnet=ipaddress.IPv4Network(subnet),
        overlay=ipaddress.IPv4Network(subnet).supernet(new_prefix=16),
        device=netstate.IfName(device),
        internal=internal,
    )


OPEN = rules("fp-0123456789ab", "10.2.20.0/25")
INTERNAL = rules("fp-int", "10.2.20.128/25", internal=True)
BLUE = rules("fp-blue", "10.9.20.0/24", device="flannel.9")
PLAN = frozenset({OPEN, INTERNAL, BLUE})
DUAL = frozenset(
    {
        dataclasses.replace(
            OPEN,
            v6=firewall.BridgeRulesV6(
                subnet=ipaddress.IPv6Network("2001:db8:2:20::/64"),
                overlay=ipaddress.IPv6Network("2001:db8:2::/48"),
                device=netstate.IfName("flannel-v6.1"),
            ),
        ),
        dataclasses.replace(
            BLUE,
            device=netstate.IfName(""),
            prefix="/blue",
            v6=firewall.BridgeRulesV6(
                subnet=ipaddress.IPv6Network("2001:db8:0:9::/64"),
                overlay=ipaddress.IPv6Network("2001:db8::/48"),
                device=netstate.IfName(""),
            ),
        ),
        INTERNAL,
    }
)
NOTHING: firewall.FirewallPlan = frozenset()

Case = tuple[firewall_port.Firewall, Callable[[], object]]


@pytest.fixture(params=["fake", pytest.param("exec", marks=pytest.mark.contract)])
def case(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Case]:
    """A firewall, and the operator's hand that empties it."""
    if request.param == "fake":
        fake = firewall_fake.FirewallFake()
        yield fake, fake.flush
        return
    space: Netns = request.getfixturevalue("netns")
    with space.inside():
        yield (
            firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock")),
            lambda: subprocess.run(["nft", "flush", "ruleset"], check=True, timeout=20),
        )


def test_a_plan_is_written_once(case: Case) -> None:
    wall, _ = case
    assert "nft" in wall.ensure(PLAN)
    assert wall.ensure(PLAN) == ()
    assert wall.ensure(frozenset({OPEN})) != ()
    assert wall.ensure(frozenset({OPEN})) == ()


def test_what_is_published_is_read_back(case: Case) -> None:
    """By a process that did not write it, and whose state file was lost."""
    wall, flush = case
    assert wall.list_published() == frozenset()
    texts = (
        "tcp 0.0.0.0 8080 10.2.20.5 80",
        "udp 0.0.0.0 53 10.2.20.5 5353",
        "tcp 192.0.2.1 8080 10.2.20.6 80",
        "tcp :: 8080 2001:db8:2:20::5 80",
        "udp 2001:db8::1 49152 2001:db8:2:20::5 53",
    )
    ports = frozenset(
        firewall.PublishedPort(
            protocol=firewall.Protocol(protocol),
            host_ip=ipaddress.ip_address(host_ip),
            host_port=int(host_port),
            address=ipaddress.ip_address(address),
            port=int(port),
        )
        for protocol, host_ip, host_port, address, port in map(str.split, texts)
    )
    (dual,) = (one for one in DUAL if one.bridge == OPEN.bridge)
    wall.ensure(frozenset({dataclasses.replace(dual, published=ports), BLUE}))
    assert wall.list_published() == ports
    flush()
    assert wall.list_published() == frozenset()


@pytest.mark.contract
def test_a_table_that_somebody_else_filled_is_a_failure_like_any_other(netns: Netns) -> None:
    netns.run("nft -f -", text='table ip flannelpy { chain c { counter comment "1.2.3. . tcp . 1 : 1.2. . 1"; }; }')
    with netns.inside(), pytest.raises(errors.KernelError, match=r"nft list table flannelpy: '1\.2\.3\.' does not"):
        firewall_exec.FirewallExec().list_published()


def test_what_was_flushed_by_hand_comes_back(case: Case) -> None:
    wall, flush = case
    wall.ensure(PLAN)
    flush()
    assert wall.ensure(PLAN) != ()
    assert wall.ensure(PLAN) == ()


def test_an_empty_plan_removes_what_is_there_and_is_harmless_where_nothing_is(case: Case) -> None:
    wall, flush = case
    assert wall.ensure(NOTHING) == ()
    wall.ensure(PLAN)
    assert wall.ensure(NOTHING) != ()
    assert wall.ensure(NOTHING) == ()
    wall.ensure(PLAN)
    flush()
    assert wall.ensure(NOTHING) == ()


def test_a_look_finds_nothing_where_the_plan_is_written(case: Case) -> None:
    wall, _ = case
    assert inspect(wall, NOTHING) == []
    port = firewall.PublishedPort(
        protocol=firewall.Protocol.TCP,
        host_ip=ipaddress.ip_address("0.0.0.0"),
        host_port=8080,
        address=ipaddress.ip_address("10.2.20.5"),
        port=80,
    )
    publishing = frozenset({dataclasses.replace(OPEN, published=frozenset({port}))})
    for plan in (PLAN, DUAL, publishing, frozenset({OPEN}), NOTHING):
        wall.ensure(plan)
        assert inspect(wall, plan) == []


def test_a_look_tells_what_is_missing_and_what_is_left_and_changes_nothing(case: Case) -> None:
    wall, flush = case
    wall.ensure(PLAN)
    assert ("nft", "stale") in inspect(wall, NOTHING)
    assert ("nft", "changed") in inspect(wall, frozenset({OPEN}))
    assert inspect(wall, PLAN) == []
    flush()
    assert inspect(wall, PLAN) == inspect(wall, PLAN) == [("nft", "missing")]


def inspect(wall: firewall_port.Firewall, plan: firewall.FirewallPlan) -> list[tuple[str, str]]:
    assert isinstance(wall, firewall_fake.FirewallFake | firewall_exec.FirewallExec)
    return [(one.place, one.how.value) for one in wall.look(plan)]


def test_every_change_is_told_to_who_listens(case: Case) -> None:
    wall, flush = case
    stop = threading.Event()
    news = wall.events(stop)
    next(news)
    wall.ensure(PLAN)
    next(news)
    assert wall.ensure(PLAN) == ()
    flush()
    next(news)
    assert wall.ensure(PLAN) != ()
    stop.set()
    assert len(list(news)) <= 1


def test_listening_ends_within_a_second(case: Case) -> None:
    wall, _ = case
    stop = threading.Event()
    news = wall.events(stop)
    next(news)
    ended = threading.Timer(0.1, stop.set)
    ended.start()
    asked = time.monotonic()
    assert list(news) == []
    assert time.monotonic() - asked < 1.1
    ended.join()


def filter_of(space: Netns, flavour: str) -> str:
    return re.sub(r"^#.*\n", "", space.run(f"{flavour}-save -t filter"), flags=re.MULTILINE)


@pytest.fixture
def wall(netns: Netns, tmp_path: pathlib.Path) -> Iterator[firewall_exec.FirewallExec]:
    with netns.inside():
        yield firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock"))


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest, netns: Netns) -> str:
    """A flavour that an engine uses in the test's namespace."""
    name: str = request.param
    require(netns, name)
    netns.run(f"{name}-restore", text=(LISTINGS / "docker-28.rules").read_text())
    return name


@pytest.mark.contract
@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("nft add rule ip flannelpy forward counter drop", "nft"),
        ("nft flush chain ip flannelpy postrouting", "nft"),
        ("nft add chain ip flannelpy more", "nft"),
        ("FLAVOUR -F FLANNELPY-FORWARD", "FLAVOUR"),
        ("FLAVOUR -D FORWARD -j FLANNELPY-FORWARD", "FLAVOUR"),
        ("FLAVOUR -A FLANNELPY-FORWARD -j DROP", "FLAVOUR"),
    ],
)
def test_a_look_tells_the_place_that_somebody_changed(
    netns: Netns, wall: firewall_exec.FirewallExec, flavour: str, change: str, place: str
) -> None:
    wall.ensure(PLAN)
    stranger = firewall_exec.FirewallExec(lockfile="/dev/null")  # which has written nothing, and so remembers nothing
    before = netns.run("nft list ruleset")
    assert inspect(stranger, PLAN) == []
    assert netns.run("nft list ruleset") == before
    netns.run(change.replace("FLAVOUR", flavour))
    assert inspect(stranger, PLAN) == [(place.replace("FLAVOUR", flavour), "changed")]


@pytest.mark.contract
def test_what_a_killed_look_left_is_harmless_and_gone_with_the_next(
    netns: Netns, wall: firewall_exec.FirewallExec
) -> None:
    wall.ensure(PLAN)
    netns.run("nft add table ip flannelpy-audit { flags dormant; }")
    netns.run("nft add chain ip flannelpy-audit old { type filter hook forward priority 0; policy drop; }")
    assert inspect(wall, PLAN) == []
    assert netns.run("nft list tables") == "table ip flannelpy\n"


def require(space: Netns, flavour: str) -> None:
    with space.inside():
        probe = subprocess.run([flavour, "-S"], capture_output=True, check=False, timeout=20)
    if probe.returncode != 0:
        pytest.skip(f"{flavour} does not work with this kernel: {probe.stderr.decode()}")


@pytest.mark.contract
def test_only_flavours_in_use_are_touched(netns: Netns, wall: firewall_exec.FirewallExec) -> None:
    assert wall.ensure(PLAN) == ("nft",)
    assert netns.run("nft list tables") == "table ip flannelpy\n"
    assert netns.run("cat /proc/thread-self/net/ip_tables_names") == ""


@pytest.mark.contract
def test_both_flavours_are_written_where_both_are_in_use(netns: Netns, wall: firewall_exec.FirewallExec) -> None:
    for name in FLAVOURS:
        require(netns, name)
        netns.run(f"{name} -P FORWARD DROP")
    assert wall.ensure(PLAN) == ("nft", "iptables-nft", "iptables-legacy")
    assert wall.ensure(PLAN) == ()
    assert wall.ensure(NOTHING) == ("iptables-legacy", "iptables-nft", "nft")


@pytest.mark.contract
def test_a_family_that_no_bridge_has_is_not_touched(netns: Netns, wall: firewall_exec.FirewallExec) -> None:
    for name in FLAVOURS_V6:
        require(netns, name)
        netns.run(f"{name} -P FORWARD DROP")
    before = [filter_of(netns, name) for name in FLAVOURS_V6]
    assert wall.ensure(PLAN) == ("nft",)
    assert "table ip6 flannelpy" not in netns.run("nft list tables")
    assert [filter_of(netns, name) for name in FLAVOURS_V6] == before


@pytest.mark.contract
def test_what_was_written_for_ipv6_goes_with_the_last_bridge_that_has_it(
    netns: Netns, wall: firewall_exec.FirewallExec
) -> None:
    for name in FLAVOURS_V6:
        require(netns, name)
        netns.run(f"{name} -P FORWARD DROP")
    before = [filter_of(netns, name) for name in FLAVOURS_V6]
    assert wall.ensure(DUAL) == ("nft", "nft-ip6", *FLAVOURS_V6)
    assert wall.ensure(DUAL) == ()
    for name in FLAVOURS_V6:
        written = [line for line in filter_of(netns, name).splitlines() if line.startswith("-A FLANNELPY-FORWARD ")]
        assert written == firewall_chain.forward_rules(DUAL, firewall.IPV6, ())
    assert set(wall.ensure(PLAN)) == {"nft", "nft-ip6", *FLAVOURS_V6}
    assert netns.run("nft list tables").count("flannelpy") == 1
    assert [filter_of(netns, name) for name in FLAVOURS_V6] == before


@pytest.mark.contract
def test_what_an_earlier_process_left_for_ipv6_goes_too(netns: Netns, tmp_path: pathlib.Path) -> None:
    for name in FLAVOURS_V6:
        require(netns, name)
        netns.run(f"{name} -P FORWARD DROP")
    with netns.inside():
        firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock")).ensure(DUAL)
        later = firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock"))
        assert later.ensure(NOTHING) == ("nft", "ip6tables-legacy", "ip6tables-nft", "nft-ip6")
    assert "flannelpy" not in netns.run("nft list tables").lower()


@pytest.mark.contract
def test_removal_leaves_nothing(netns: Netns, flavour: str, wall: firewall_exec.FirewallExec) -> None:
    before = netns.run("nft list ruleset"), filter_of(netns, flavour)
    assert wall.ensure(PLAN) == ("nft", flavour)
    assert wall.ensure(NOTHING) == (flavour, "nft")
    assert (netns.run("nft list ruleset"), filter_of(netns, flavour)) == before


@pytest.mark.contract
def test_what_others_do_to_the_chain_is_undone(netns: Netns, flavour: str, wall: firewall_exec.FirewallExec) -> None:
    wall.ensure(PLAN)
    wanted = filter_of(netns, flavour)
    docker_restarts = (
        f"{flavour} -D FORWARD -j DOCKER-FORWARD",
        f"{flavour} -I FORWARD -j DOCKER-FORWARD",
        f"{flavour} -D FORWARD -j DOCKER-USER",
        f"{flavour} -I FORWARD -j DOCKER-USER",
    )
    hands = (
        docker_restarts,
        (f"{flavour} -F FLANNELPY-FORWARD",),
        (f"{flavour} -D FLANNELPY-FORWARD 2",),
        (f"{flavour} -D FORWARD -j FLANNELPY-FORWARD",),
        (f"{flavour} -A FORWARD -j FLANNELPY-FORWARD",),
    )
    for lines in hands:
        netns.run(*lines)
        assert wall.ensure(PLAN) == (flavour,), lines
        assert wall.ensure(PLAN) == (), lines
        assert filter_of(netns, flavour) == wanted
    netns.run(f"{flavour} -F")
    assert wall.ensure(PLAN) == (flavour,)
    left = [line for line in filter_of(netns, flavour).splitlines() if line.startswith("-A ")]
    assert left == ["-A FORWARD -j FLANNELPY-FORWARD", *firewall_chain.forward_rules(PLAN, firewall.IPV4, ())]


@pytest.mark.contract
def test_a_rule_put_into_the_table_is_taken_out(netns: Netns, wall: firewall_exec.FirewallExec) -> None:
    wall.ensure(PLAN)
    wanted = netns.run("nft list table ip flannelpy")
    netns.run("nft insert rule ip flannelpy forward accept")
    assert wall.ensure(PLAN) == ("nft",)
    assert netns.run("nft list table ip flannelpy") == wanted


@pytest.mark.contract
def test_after_a_restart_the_same_rules_are_kept(netns: Netns, flavour: str, tmp_path: pathlib.Path) -> None:
    with netns.inside():
        firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock")).ensure(PLAN)
        assert firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock")).ensure(PLAN) == ("nft",)


@pytest.mark.contract
def test_many_who_write_at_once_share_few_transactions(netns: Netns, flavour: str, tmp_path: pathlib.Path) -> None:
    path, noted = logging_tools(tmp_path)
    with netns.inside():
        wall = firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock"), path=path)
        keeper = firewall_keeper.PlanKeeper(wall.ensure)
        start = threading.Barrier(40)

        def write(number: int) -> None:
            start.wait(10)
            keeper.declare(frozenset({OPEN, rules("fp-many", f"10.2.{number}.0/24")}))
            keeper.write()

        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            list(pool.map(write, range(40)))
        assert noted().count(f"{flavour}-restore") <= 10
        assert keeper.check(gate_open=True) == firewall_keeper.Check()


@pytest.mark.contract
def test_all_tools_of_one_look_together_end_in_time(netns: Netns, tmp_path: pathlib.Path) -> None:
    (tmp_path / "nft").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "nft").chmod(0o755)
    hung = firewall_exec.FirewallExec(path=str(tmp_path), timeout_s=0.5, budget_s=0.8)
    began = time.monotonic()
    with netns.inside(), pytest.raises(errors.KernelError) as caught:
        hung.ensure(DUAL)
    assert time.monotonic() - began < 2
    first, second = caught.value.failures
    assert first == "nft list table ip flannelpy: no answer within 0.5 s"
    assert re.fullmatch(r"nft list table ip6 flannelpy: no answer within 0\.[0-3]\d* s", second)
    with netns.inside(), pytest.raises(errors.KernelError, match=r"not run, the tools before took 0 s"):
        firewall_exec.FirewallExec(path=str(tmp_path), budget_s=0).ensure(PLAN)


def tools(folder: pathlib.Path, *names: str) -> str:
    """A PATH with nothing but these."""
    for name in names:
        found = shutil.which(name, path=firewall_tools.PATH)
        assert found, name
        (folder / name).symlink_to(found)
    return str(folder)


def logging_tools(folder: pathlib.Path) -> tuple[str, Callable[[], list[str]]]:
    """A PATH whose tools note that they were run, and the reading of what they noted since the last."""
    notes = folder / "notes"
    for name in ("nft", *(f"{flavour}-{verb}" for flavour in ALL_FLAVOURS for verb in ("save", "restore"))):
        real = shutil.which(name, path=firewall_tools.PATH)
        (folder / name).write_text(f'#!/bin/sh\necho {name} >>{notes}\nexec {real} "$@"\n')
        (folder / name).chmod(0o755)

    def read() -> list[str]:
        said = notes.read_text().split() if notes.exists() else []
        notes.write_text("")
        return said

    return f"{folder}:{firewall_tools.PATH}", read


@pytest.mark.contract
def test_no_tool_is_run_while_nftables_is_quiet(netns: Netns, flavour: str, tmp_path: pathlib.Path) -> None:
    path, noted = logging_tools(tmp_path)
    wall = firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock"), path=path)
    with netns.inside():
        for plan in (DUAL, PLAN):
            wall.ensure(plan)
            wall.ensure(plan)
            noted()
            assert (wall.ensure(plan), wall.ensure(plan)) == ((), ())
            assert noted() == (["iptables-legacy-save"] * 2 if flavour == "iptables-legacy" else [])
        netns.run("nft add table ip somebody")
        wall.ensure(PLAN)
        assert "nft" in noted()


@pytest.mark.contract
def test_a_late_event_is_a_reason_to_look_again(netns: Netns, tmp_path: pathlib.Path) -> None:
    """The kernel counts a change a moment before it shows it: who lists in between has the new number, old rules."""
    path, noted = logging_tools(tmp_path)
    wall = firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock"), path=path)
    with netns.inside():
        news = wall.events(threading.Event())
        next(news)
        wall.ensure(PLAN)
        wall.ensure(PLAN)
        noted()
        wall.ensure(PLAN)
        assert noted() == []
        next(news)
        wall.ensure(PLAN)
        assert "nft" in noted()


@pytest.mark.contract
def test_now_and_then_it_looks_all_the_same(netns: Netns, tmp_path: pathlib.Path) -> None:
    path, noted = logging_tools(tmp_path)
    wall = firewall_exec.FirewallExec(lockfile=str(tmp_path / "lock"), path=path, look_every_s=0)
    with netns.inside():
        for _ in range(2):
            wall.ensure(PLAN)
        noted()
        wall.ensure(PLAN)
        assert "nft" in noted()


@pytest.mark.contract
def test_a_missing_tool_is_named_with_its_package(netns: Netns, tmp_path: pathlib.Path) -> None:
    with netns.inside():
        bare = firewall_exec.FirewallExec(path=str(tmp_path))
        with pytest.raises(errors.KernelError, match="nft: not found; install the package nftables"):
            bare.ensure(PLAN)
        some = firewall_exec.FirewallExec(path=tools(tmp_path, "nft"))
        assert some.ensure(PLAN) == ("nft",)
        netns.run("iptables-nft -P FORWARD DROP")
        with pytest.raises(errors.KernelError, match="iptables-nft-save: not found; install the package iptables"):
            some.ensure(PLAN)


@pytest.mark.contract
def test_an_error_carries_what_the_tool_said(netns: Netns, tmp_path: pathlib.Path) -> None:
    require(netns, "iptables-legacy")
    netns.run("iptables-legacy -P FORWARD DROP")
    with netns.inside(), pytest.raises(errors.KernelError, match=r"exit 4: Fatal: can't open lock file .*/none/lock"):
        firewall_exec.FirewallExec(lockfile=str(tmp_path / "none" / "lock")).ensure(PLAN)


@pytest.mark.contract
def test_a_tool_that_hangs_is_ended(netns: Netns, tmp_path: pathlib.Path) -> None:
    (tmp_path / "nft").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "nft").chmod(0o755)
    hung = firewall_exec.FirewallExec(path=str(tmp_path), timeout_s=0.2)
    with (
        netns.inside(),
        pytest.raises(errors.KernelError, match=r"nft list table ip flannelpy: no answer within 0\.2 s"),
    ):
        hung.ensure(PLAN)


@pytest.mark.contract
def test_a_filter_table_that_iptables_cannot_read_is_said_so(netns: Netns, wall: firewall_exec.FirewallExec) -> None:
    netns.run(
        "nft add table ip filter",
        "nft add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }",
        "nft add rule ip filter FORWARD ct state established,related log accept",
    )
    assert wall.ensure(NOTHING) == ()
    with pytest.raises(errors.KernelError, match="Table `filter' is incompatible"):
        wall.ensure(PLAN)
    assert wall.ensure(NOTHING) == ("nft",)
