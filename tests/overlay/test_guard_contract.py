"""What both firewall adapters promise of the guard, and what the real one does with nft; in namespaces of its own."""

from __future__ import annotations

import concurrent.futures
import ipaddress
import pathlib
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
    firewall_exec,
    firewall_fake,
    firewall_keeper,
    firewall_port,
    firewall_tools,
    guard,
    kernel_fake,
    netstate,
    nft_events,
    reconciler,
)

Netns = Any  # the class in conftest.py, which cannot be imported
Case = tuple[firewall_port.Firewall, Callable[[], object]]


def port(number: int) -> guard.GuardedPort:
    return guard.GuardedPort(
        name=netstate.IfName(f"fph{number:012x}"),
        mac=netstate.Mac(f"02:42:0a:02:14:{number:02x}"),
        addresses=(ipaddress.ip_address(f"10.2.20.{number}"), ipaddress.ip_address(f"2001:db8::{number:x}")),
    )


BRIDGE = guard.GuardedBridge(name=netstate.IfName("fp-a"), mac=netstate.Mac("02:42:0a:02:14:fe"))
PLAN: guard.GuardPlan = frozenset({BRIDGE, port(5), port(6)})
MORE: guard.GuardPlan = PLAN | {port(7)}
NOTHING: guard.GuardPlan = frozenset()
RULES: firewall.FirewallPlan = frozenset(
    {
        firewall.BridgeRules(
            bridge=netstate.IfName("fp-a"),
            subnet=ipaddress.IPv4Network("10.2.20.0/24"),
            overlay=ipaddress.IPv4Network("10.2.0.0/16"),
            device=netstate.IfName("flannel.1"),
        )
    }
)


@pytest.fixture(params=["fake", pytest.param("exec", marks=pytest.mark.contract)])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """A firewall, and the operator's hand that empties it."""
    if request.param == "fake":
        fake = firewall_fake.FirewallFake()
        yield fake, fake.flush
        return
    space: Netns = request.getfixturevalue("netns")
    with space.inside():
        yield (
            firewall_exec.FirewallExec(),
            lambda: subprocess.run(["nft", "flush", "ruleset"], check=True, timeout=20),
        )


def test_a_plan_is_written_once(case: Case) -> None:
    wall, _ = case
    assert wall.guard(PLAN) == ("nft-bridge",)
    assert wall.guard(PLAN) == ()
    assert wall.guard(MORE) == ("nft-bridge",)
    assert wall.guard(MORE) == ()
    assert wall.guard(PLAN - {port(5)}) == ("nft-bridge",)
    assert wall.guard(PLAN - {port(5)}) == ()
    assert wall.limits() == ()


def test_what_was_flushed_by_hand_comes_back(case: Case) -> None:
    wall, flush = case
    wall.guard(PLAN)
    flush()
    assert wall.guard(PLAN) == ("nft-bridge",)
    assert wall.guard(PLAN) == ()
    flush()
    assert wall.guard(MORE) == ("nft-bridge",)
    assert wall.guard(MORE) == ()


def test_an_empty_plan_removes_what_is_there_and_is_harmless_where_nothing_is(case: Case) -> None:
    wall, flush = case
    assert wall.guard(NOTHING) == ()
    wall.guard(PLAN)
    assert wall.guard(NOTHING) == ("nft-bridge",)
    assert wall.guard(NOTHING) == ()
    wall.guard(PLAN)
    flush()
    assert wall.guard(NOTHING) == ()


def test_nobody_is_told_of_it_but_of_what_others_do(case: Case) -> None:
    wall, flush = case
    stop = threading.Event()
    news = wall.events(stop)
    next(news)
    wall.guard(PLAN)
    for number in range(8, 20):
        wall.guard(PLAN | {port(number)})
    ended = threading.Timer(0.7, stop.set)
    ended.start()
    assert list(news) == []
    ended.join()
    stop.clear()
    news = wall.events(stop)
    next(news)
    wall.guard(PLAN)
    flush()
    next(news)
    assert wall.guard(PLAN) == ("nft-bridge",)
    stop.set()
    assert len(list(news)) <= 1


@pytest.fixture
def wall(netns: Netns) -> Iterator[firewall_exec.FirewallExec]:
    with netns.inside():
        yield firewall_exec.FirewallExec()


def logging_nft(folder: pathlib.Path) -> tuple[str, Callable[[], list[str]]]:
    """A PATH whose nft notes how it was called, and the reading of what it noted since the last."""
    notes = folder / "notes"
    real = shutil.which("nft", path=firewall_tools.PATH)
    (folder / "nft").write_text(f'#!/bin/sh\necho "$1" >>{notes}\nexec {real} "$@"\n')
    (folder / "nft").chmod(0o755)

    def read() -> list[str]:
        said = notes.read_text().split() if notes.exists() else []
        notes.write_text("")
        return said

    return f"{folder}:{firewall_tools.PATH}", read


@pytest.mark.contract
def test_a_container_more_or_less_runs_no_program_and_looks_at_nothing(netns: Netns, tmp_path: pathlib.Path) -> None:
    path, noted = logging_nft(tmp_path)
    with netns.inside():
        made = firewall_exec.FirewallExec(path=path)
        made.guard(PLAN)
        for _ in range(2):
            made.ensure(RULES)
        made.guard(PLAN)
        noted()
        for plan in (MORE, PLAN, PLAN - {port(5)}, PLAN):
            assert made.guard(plan) == ("nft-bridge",)
            assert (made.guard(plan), made.ensure(RULES)) == ((), ())
        assert noted() == []
        netns.run("nft add table ip somebody")
        assert (made.guard(PLAN), made.ensure(RULES)) == ((), ())
        assert "list" in noted()


@pytest.mark.contract
def test_the_table_has_what_the_plan_says_after_any_number_of_changes(netns: Netns, wall: Any) -> None:
    for plan in (PLAN, MORE, PLAN - {port(5)}, frozenset({BRIDGE}), frozenset({BRIDGE, port(9)})):
        wall.guard(plan)
        assert listing(netns).elements == guard.elements(plan)


def listing(netns: Netns) -> guard.Listing:
    return guard.parse_listing(netns.run("nft list table bridge flannelpy"))


HANDS = (
    "nft delete table bridge flannelpy",
    "nft flush table bridge flannelpy",
    "nft flush set bridge flannelpy macs",
    "nft flush chain bridge flannelpy prerouting",
    "nft flush chain bridge flannelpy target",
    "nft insert rule bridge flannelpy port accept",
    "nft add element bridge flannelpy free { fph000000000005 . ether }",
    "nft add element bridge flannelpy v4 { fph000000000005 . 10.2.20.1 }",
    "nft delete element bridge flannelpy local { ether . 0xfe8000000000000000420afffe0214fe }",
    "nft add table bridge flannelpy { flags dormant ; }",
)


@pytest.mark.contract
@pytest.mark.parametrize("hand", HANDS)
def test_whatever_is_done_to_the_table_is_undone(netns: Netns, wall: Any, hand: str) -> None:
    wall.guard(PLAN)
    wanted = netns.run("nft list table bridge flannelpy")
    for plan in (PLAN, MORE, PLAN):  # a look, and on the way to a change
        netns.run(hand)
        assert wall.guard(plan) == ("nft-bridge",)
        assert listing(netns).elements == guard.elements(plan)
    seen = guard.parse_listing(netns.run("nft list table bridge flannelpy"))
    assert seen == guard.parse_listing(wanted)


@pytest.mark.contract
def test_whatever_is_done_to_the_table_is_undone_in_time(netns: Netns) -> None:
    stop = threading.Event()
    with netns.inside():
        made = reconciler.Reconciler(kernel_fake.KernelFake(), firewall_exec.FirewallExec())
        made.declare_guard(PLAN)
        made.write_guard()
        made.open_gate()
        thread = threading.Thread(target=made.run, args=(stop,))
        thread.start()
    try:
        until = time.monotonic() + 10
        while made.last_pass is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        for number, hand in enumerate(("nft flush ruleset", *HANDS[:6]), start=1):
            netns.run(hand)
            until = time.monotonic() + 10
            while made.repairs.get("firewall:nft-bridge", 0) < number:
                assert time.monotonic() < until, hand
                time.sleep(0.01)
            assert listing(netns).elements == guard.elements(PLAN)
    finally:
        stop.set()
        thread.join(10)


@pytest.mark.contract
def test_an_earlier_process_is_taken_over_from_in_one_transaction(netns: Netns, wall: Any) -> None:
    wall.guard(PLAN)
    before = nft_events.read_generation()
    later = firewall_exec.FirewallExec()
    assert later.guard(PLAN) == ("nft-bridge",)
    assert before is not None
    assert nft_events.read_generation() == before + 1
    assert later.guard(NOTHING) == ("nft-bridge",)
    assert netns.run("nft list tables") == ""


@pytest.mark.contract
def test_many_containers_at_once_share_few_transactions(netns: Netns, tmp_path: pathlib.Path) -> None:
    path, noted = logging_nft(tmp_path)
    with netns.inside():
        keeper = firewall_keeper.PlanKeeper(firewall_exec.FirewallExec(path=path).guard)
        lock = threading.Lock()
        ports: set[guard.GuardedPort | guard.GuardedBridge] = {BRIDGE}
        start = threading.Barrier(40)

        def come(number: int) -> None:
            start.wait(10)
            with lock:
                ports.add(port(number))
                keeper.declare(frozenset(ports))
            keeper.write()
            assert guard.elements(frozenset({port(number)})) <= listing(netns).elements

        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            list(pool.map(come, range(40)))
        assert noted().count("-f") <= 3
        assert listing(netns).elements == guard.elements(frozenset(ports))


@pytest.mark.contract
@pytest.mark.parametrize("said", ["Operation not supported", "Address family not supported by protocol"])
def test_a_kernel_that_cannot_do_it_is_told_once_and_nothing_fails(
    netns: Netns, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, said: str
) -> None:
    (tmp_path / "nft").write_text(
        f'#!/bin/sh\n[ "$1" = list ] && said="No such file or directory" || said="{said}"\n'
        'echo "Error: Could not process rule: $said" >&2\nexit 1\n'
    )
    (tmp_path / "nft").chmod(0o755)
    with netns.inside():
        old = firewall_exec.FirewallExec(path=str(tmp_path))
        for plan in (PLAN, MORE, PLAN):
            assert old.guard(plan) == ()
    told = f"nft -f -: exit 1: Error: Could not process rule: {said}"
    assert old.limits() == (f"forged addresses are not dropped: {told}",)
    assert caplog.text.count(f"this kernel cannot keep containers from forging addresses: {told}") == 1


@pytest.mark.contract
def test_a_tool_that_fails_for_another_reason_is_an_error(netns: Netns, tmp_path: pathlib.Path) -> None:
    (tmp_path / "nft").write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    (tmp_path / "nft").chmod(0o755)
    with netns.inside(), pytest.raises(errors.KernelError, match="broken"):
        firewall_exec.FirewallExec(path=str(tmp_path)).guard(PLAN)


def test_the_audit_finds_whatever_is_not_as_planned(case: Case) -> None:
    wall, flush = case
    look = wall.look  # type: ignore[attr-defined]  # both adapters have it

    def found(plan: guard.GuardPlan) -> list[tuple[str, str]]:
        return [(one.place, one.how.value) for one in look(frozenset(), plan)]

    assert found(NOTHING) == []
    assert found(PLAN) == [("nft-bridge", "missing")]
    wall.guard(PLAN)
    assert found(PLAN) == []
    assert look(frozenset()) == ()
    assert found(MORE) == found(PLAN - {port(5)}) == [("nft-bridge", "changed")]
    assert found(NOTHING) == [("nft-bridge", "stale")]
    flush()
    assert found(PLAN) == [("nft-bridge", "missing")]


@pytest.mark.contract
def test_the_audit_names_what_is_missing_and_what_is_strange(netns: Netns, wall: Any) -> None:
    wall.guard(PLAN)
    netns.run(
        "nft delete element bridge flannelpy macs { fph000000000005 . 02:42:0a:02:14:05 }",
        "nft add element bridge flannelpy free { fph000000000006 . ether }",
    )
    assert wall.look(frozenset(), PLAN) == (
        firewall_port.Finding(
            place="nft-bridge",
            how=firewall_port.How.CHANGED,
            wanted='macs { "fph000000000005" . 02:42:0a:02:14:05 }',
            seen='free { "fph000000000006" . ether }',
        ),
    )
    wall.guard(PLAN)
    netns.run("nft flush chain bridge flannelpy prerouting")
    assert [(one.wanted, one.seen) for one in wall.look(frozenset(), PLAN)] == [("its rules", "others")]
