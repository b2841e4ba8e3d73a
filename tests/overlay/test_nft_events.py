"""News of nftables, from a real kernel in a namespace of its own."""

from __future__ import annotations

import resource
import subprocess
import threading
import time
from typing import Any

import pytest

from overlay import nft_events

pytestmark = pytest.mark.contract

Netns = Any  # the class in conftest.py, which cannot be imported

CHANGES = (
    "nft add table ip somebody",
    "nft add chain ip somebody forward { type filter hook forward priority 0 ; }",
    "nft add rule ip somebody forward accept",
    "nft delete table ip somebody",
    "iptables-nft -P FORWARD DROP",
    "iptables-nft -A FORWARD -j ACCEPT",
    "iptables-nft -D FORWARD 1",
    "ip6tables-nft -A FORWARD -j ACCEPT",
    "ip6tables-nft -F",
    "nft flush ruleset",
)
READS = (
    "nft list ruleset",
    "iptables-nft-save -t filter",
    "ip6tables-nft-save -t filter",
    "ip link add br9 type bridge",
)


def test_the_generation_grows_with_every_change_and_with_nothing_else(netns: Netns) -> None:
    with netns.inside():
        before = nft_events.read_generation()
        assert before is not None
        for line in CHANGES:
            netns.run(line)
            after = nft_events.read_generation()
            assert after is not None, line
            assert after > before, line
            before = after
        for line in READS:
            netns.run(line)
        assert nft_events.read_generation() == before


def test_every_change_is_heard_soon_and_nothing_else_is(netns: Netns) -> None:
    stop = threading.Event()
    with netns.inside():
        news = nft_events.changes(stop)
        next(news)
        for line in CHANGES:
            netns.run(line)
            asked = time.monotonic()
            next(news)
            assert time.monotonic() - asked < 0.5, line
        for line in READS:
            netns.run(line)
        threading.Timer(0.3, stop.set).start()
        assert list(news) == []


def test_each_namespace_has_its_own_news(netns: Netns, make_netns: Any) -> None:
    other = make_netns()
    with other.inside():
        before = nft_events.read_generation()
    netns.run("nft add table ip somebody")
    with other.inside():
        assert nft_events.read_generation() == before
    other.close()


def test_what_changes_while_nobody_asks_is_one_event_however_much_it_is(netns: Netns) -> None:
    stop = threading.Event()
    with netns.inside():
        news = nft_events.changes(stop)
        next(news)
        netns.run("nft add table ip somebody")
        rules = "".join(f"add set ip somebody s{number} {{ type ipv4_addr ; }}\n" for number in range(2000))
        netns.run("nft -f -", text=rules)  # more than the buffer takes
        next(news)
        netns.run("nft delete table ip somebody")
        next(news)
        threading.Timer(0.3, stop.set).start()
        assert list(news) == []


def test_listening_in_a_storm_costs_little(netns: Netns) -> None:
    stop = threading.Event()
    with netns.inside():
        storm = subprocess.Popen(["sh", "-c", "while :; do nft add table ip noise; nft delete table ip noise; done"])
        try:
            before = resource.getrusage(resource.RUSAGE_SELF)
            threading.Timer(2, stop.set).start()
            heard = sum(1 for _ in nft_events.changes(stop))
            after = resource.getrusage(resource.RUSAGE_SELF)
        finally:
            storm.kill()
            storm.wait(timeout=10)
    assert 5 <= heard <= 2 / nft_events.COALESCE_S + 2
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.2


def test_changes_are_told_with_their_numbers_unless_some_were_missed(netns: Netns) -> None:
    stop = threading.Event()
    with netns.inside():
        news = nft_events.changes(stop)
        assert next(news) is None
        before = nft_events.read_generation()
        assert before is not None
        netns.run("nft add table ip somebody", "nft add set ip somebody s { type ipv4_addr ; }")
        assert next(news) == {before + 1, before + 2}
        rules = "".join(f"add set ip somebody s{number} {{ type ipv4_addr ; }}\n" for number in range(2000))
        netns.run("nft -f -", text=rules)  # more than the buffer takes
        assert next(news) is None


def test_what_was_ours_alone_needs_no_look(netns: Netns) -> None:
    with netns.inside():
        journal = nft_events.Journal()
        then = journal.mark()
        assert journal.is_ours(then, journal.mark())
        before = nft_events.read_generation()
        netns.run("nft add table ip ours")
        after = nft_events.read_generation()
        assert before is not None
        assert after == before + 1
        assert not journal.is_ours(then, journal.mark())
        assert journal.note_ours(before, after)
        assert journal.is_ours(then, journal.mark())
        assert not journal.hear(frozenset({after}))
        assert journal.is_ours(then, journal.mark())
        netns.run("nft add table ip theirs", "nft add table ip ours-too")
        assert not journal.note_ours(after, nft_events.read_generation())
        assert not journal.is_ours(then, journal.mark())


def test_news_of_others_and_lost_news_are_a_reason_to_look(netns: Netns) -> None:
    """Even with the same number: the kernel counts a change a moment before it shows it, and tells of it after."""
    with netns.inside():
        for heard in (None, frozenset({7}), frozenset({7, 8})):
            journal = nft_events.Journal()
            journal.note_ours(7, 8)
            then = journal.mark()
            assert journal.hear(heard)
            assert not journal.is_ours(then, journal.mark())


def test_a_kernel_that_tells_no_numbers_is_never_quiet() -> None:
    journal = nft_events.Journal()
    assert not journal.note_ours(None, None)
    assert not journal.is_ours(nft_events.Mark(number=None, news=0), nft_events.Mark(number=None, news=0))
