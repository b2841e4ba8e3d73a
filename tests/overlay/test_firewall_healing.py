"""The firewall repairs itself: what somebody does to our rules is undone in time, and nothing of theirs is touched.

The reconciler runs with its own timing over the host's tools, in a namespace of its own. Within 2 s where the kernel
tells of the change (nft, iptables-nft, ip6tables-nft), within 10 s where it does not (the legacy kind).
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import pathlib
import re
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from overlay import firewall, firewall_exec, kernel_fake, netstate, reconciler

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

Netns = Any  # the class in conftest.py, which cannot be imported
LISTINGS = pathlib.Path(__file__).parent / "firewall"
NFT = ("iptables-nft", "ip6tables-nft")
LEGACY = ("iptables-legacy", "ip6tables-legacy")
TOLD_S, UNTOLD_S = 2.0, 10.5
"""The latter with what a pass and a look of this test take."""

OPERATORS = """
table inet operator {
	set allowed { type ipv4_addr; elements = { 192.0.2.7 } }
	chain forward { type filter hook forward priority -5; policy accept; ip saddr @allowed counter accept; }
}
table ip6 operator {
	chain input { type filter hook input priority 0; tcp dport 22 accept; }
}
"""
PLAN: firewall.FirewallPlan = frozenset(
    firewall.BridgeRules(
        bridge=netstate.IfName(bridge),
        subnet=ipaddress.IPv4Network(f"10.{number}.20.0/24"),
        overlay=ipaddress.IPv4Network(f"10.{number}.0.0/16"),
        device=netstate.IfName(f"flannel.{number}"),
        internal=internal,
        v6=firewall.BridgeRulesV6(
            subnet=ipaddress.IPv6Network(f"2001:db8:{number}:20::/64"),
            overlay=ipaddress.IPv6Network(f"2001:db8:{number}::/48"),
            device=netstate.IfName(f"flannel-v6.{number}"),
        ),
    )
    for bridge, number, internal in (("fp-a", 2, False), ("fp-b", 9, True))
)


@dataclasses.dataclass
class Host:
    """A namespace in which an engine uses `flavours`, an operator has tables of his own, and the reconciler runs."""

    space: Netns
    flavours: tuple[str, ...]
    reconciler: reconciler.Reconciler

    def listings(self) -> list[str]:
        """Every table: of nft, without its counters, and of the legacy kind."""
        saved = [self.space.run(f"{flavour}-save -t filter") for flavour in self.flavours if "legacy" in flavour]
        tables = re.split(r"(?m)^(?=table )", self.space.run("nft list ruleset"))
        noise = r"(?m)^#.*\n|\[\d+:\d+\]| counter packets \d+ bytes \d+"
        return [re.sub(noise, "", text) for text in (*sorted(tables), *saved)]

    def await_all(self, wanted: list[str], within_s: float) -> float:
        """Until everything is as wanted; how long it took."""
        started = time.monotonic()
        while (seen := self.listings()) != wanted:
            assert time.monotonic() - started < within_s, "\n".join(seen)
        return time.monotonic() - started

    def await_quiet(self) -> None:
        """Until it has looked at what it wrote itself."""
        filters = self.reconciler._keeper._filters
        assert isinstance(filters, firewall_exec.FirewallExec)
        until = time.monotonic() + 5
        while filters._quiet is None or filters._quiet[1].news != filters._journal.mark().news:
            assert time.monotonic() < until
            time.sleep(0.01)

    def await_repairs(self, **wanted: int) -> None:
        """Until it has counted these, and no other; it counts just after it has written."""
        until = time.monotonic() + 2
        while self.reconciler.repairs != {f"firewall:{place}": count for place, count in wanted.items()}:
            assert time.monotonic() < until, self.reconciler.repairs
            time.sleep(0.01)


def engines_rules(flavour: str) -> str:
    """An engine's rules; for IPv6 with addresses of that kind."""
    text = (LISTINGS / "docker-28.rules").read_text()
    return re.sub(r"172\.(\d+)\.0\.0/16", r"2001:db8:ff\1::/64", text) if flavour.startswith("ip6") else text


@contextlib.contextmanager
def running(space: Netns, flavours: tuple[str, ...], lockfile: pathlib.Path) -> Iterator[Host]:
    for flavour in flavours:
        require(space, flavour)
        space.run(f"{flavour}-restore", text=engines_rules(flavour))
    space.run("nft -f -", text=OPERATORS)
    stop = threading.Event()
    with space.inside():
        made = reconciler.Reconciler(kernel_fake.KernelFake(), firewall_exec.FirewallExec(lockfile=str(lockfile)))
        made.open_gate()
        made.set_firewall(PLAN)
        thread = threading.Thread(target=made.run, args=(stop,))
        thread.start()
    try:
        host = Host(space, flavours, made)
        host.await_quiet()
        yield host
    finally:
        stop.set()
        thread.join(timeout=5)
        assert not thread.is_alive()


def require(space: Netns, flavour: str) -> None:
    with space.inside():
        probe = subprocess.run([flavour, "-S"], capture_output=True, check=False, timeout=20)
    if probe.returncode != 0:
        pytest.skip(f"{flavour} does not work with this kernel: {probe.stderr.decode()}")


@pytest.fixture
def host(netns: Netns, tmp_path: pathlib.Path) -> Iterator[Host]:
    with running(netns, NFT, tmp_path / "lock") as made:
        yield made


TABLE_HANDS = {
    "nft": ("ip", "nft"),
    "nft-ip6": ("ip6", "nft-ip6"),
}


@pytest.mark.parametrize(("table", "place"), TABLE_HANDS.values(), ids=TABLE_HANDS)
def test_whatever_is_done_to_a_table_of_ours_is_undone_at_once(host: Host, table: str, place: str) -> None:
    wanted = host.listings()
    hands = (
        f"nft delete table {table} flannelpy",
        f"nft flush table {table} flannelpy",
        f"nft flush chain {table} flannelpy forward",
        f"nft delete chain {table} flannelpy postrouting",
        f"nft delete rule {table} flannelpy forward handle {handle(host, table, 'oifname .* drop')}",
        f"nft insert rule {table} flannelpy forward accept",
        f"nft add table {table} flannelpy {{ flags dormant ; }}",
    )
    for number, hand in enumerate(hands, start=1):
        host.space.run(hand)
        assert host.listings() != wanted, hand
        host.await_all(wanted, TOLD_S)
        host.await_quiet()
        host.await_repairs(**{place: number})


def handle(host: Host, table: str, word: str) -> str:
    found = re.search(rf"{word} # handle (\d+)", host.space.run(f"nft -a list table {table} flannelpy"))
    assert found
    return found[1]


def chain_hands(flavour: str) -> tuple[tuple[str, ...], ...]:
    return (
        (f"{flavour} -F FLANNELPY-FORWARD",),
        (f"{flavour} -D FLANNELPY-FORWARD 3",),
        (f"{flavour} -I FLANNELPY-FORWARD -j DROP",),
        (f"{flavour} -D FORWARD -j FLANNELPY-FORWARD",),
        (
            f"{flavour} -D FORWARD -j FLANNELPY-FORWARD",
            f"{flavour} -F FLANNELPY-FORWARD",
            f"{flavour} -X FLANNELPY-FORWARD",
        ),
        # as an engine that restarts: its jumps come first again
        (
            f"{flavour} -D FORWARD -j DOCKER-FORWARD",
            f"{flavour} -I FORWARD -j DOCKER-FORWARD",
            f"{flavour} -D FORWARD -j DOCKER-USER",
            f"{flavour} -I FORWARD -j DOCKER-USER",
        ),
    )


@pytest.mark.parametrize("flavour", NFT)
def test_whatever_is_done_to_our_chain_is_undone_at_once(host: Host, flavour: str) -> None:
    wanted = host.listings()
    for hand in chain_hands(flavour):
        host.space.run(*hand)
        host.await_all(wanted, TOLD_S)
        host.await_quiet()
    assert set(host.reconciler.repairs) == {f"firewall:{flavour}"}
    assert host.reconciler.repairs[f"firewall:{flavour}"] >= len(chain_hands(flavour))


def test_after_a_flush_of_everything_ours_alone_come_back(host: Host) -> None:
    host.space.run("nft flush ruleset")
    until = time.monotonic() + TOLD_S
    while len(tables(host)) < 2:
        assert time.monotonic() < until
    host.await_quiet()
    assert tables(host) == ["table ip flannelpy", "table ip6 flannelpy"]
    host.space.run("iptables-nft -P FORWARD DROP")  # the engine comes back
    until = time.monotonic() + TOLD_S
    while "-A FORWARD -j FLANNELPY-FORWARD" not in host.space.run("iptables-nft -S FORWARD"):
        assert time.monotonic() < until


def tables(host: Host) -> list[str]:
    return host.space.run("nft list tables").splitlines()


@pytest.mark.parametrize("flavour", NFT)
def test_after_a_flush_of_iptables_our_chain_comes_back_and_the_policy_stays(host: Host, flavour: str) -> None:
    before = "".join(host.listings())
    rules = host.space.run(f"{flavour} -S FLANNELPY-FORWARD")
    host.space.run(f"{flavour} -F")
    until = time.monotonic() + TOLD_S
    while "-j FLANNELPY-FORWARD" not in (seen := host.space.run(f"{flavour} -S FORWARD")):
        assert time.monotonic() < until
    assert seen == "-P FORWARD DROP\n-A FORWARD -j FLANNELPY-FORWARD\n"
    # The engine's bridge with a name of its own is not known any more.
    assert host.space.run(f"{flavour} -S FLANNELPY-FORWARD") == rules.replace(
        "-A FLANNELPY-FORWARD -o shop -j RETURN\n", ""
    )
    assert "table inet operator" in before
    assert operators("".join(host.listings())) == operators(before)


def operators(listing: str) -> list[str]:
    return re.findall(r"(?ms)^table \S+ operator \{.*?^\}", listing)


@pytest.mark.parametrize("flavour", LEGACY)
def test_whatever_is_done_to_our_chain_in_the_legacy_kind_is_undone_by_the_timer(
    netns: Netns, tmp_path: pathlib.Path, flavour: str
) -> None:
    with running(netns, (flavour,), tmp_path / "lock") as host:
        wanted = host.listings()
        for hand in (chain_hands(flavour)[-2], (*chain_hands(flavour)[-1], *chain_hands(flavour)[1])):
            host.space.run(*hand)
            host.await_all(wanted, UNTOLD_S)
        host.await_repairs(**{flavour: 2})


def test_an_idle_host_costs_no_process_and_next_to_no_time(host: Host) -> None:
    host.await_quiet()
    before = used_s()
    assert not threading.Event().wait(3)
    assert used_s() - before < 0.02


def test_a_storm_of_changes_by_others_costs_less_than_a_quarter_of_a_core(host: Host) -> None:
    with host.space.inside():
        storm = subprocess.Popen(["sh", "-c", "while :; do nft add table ip noise; nft delete table ip noise; done"])
    try:
        before = used_s()
        assert not threading.Event().wait(4)
        spent = used_s() - before
        host.space.run("nft delete table ip flannelpy")
        until = time.monotonic() + TOLD_S + 1  # the storm takes a core by itself
        while "table ip flannelpy" not in tables(host):
            assert time.monotonic() < until
    finally:
        storm.kill()
        storm.wait(timeout=10)
    assert spent < 4 * 0.25


def used_s() -> float:
    """CPU time of this process and of the tools that ended; the storm's shell has not."""
    each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in each)
