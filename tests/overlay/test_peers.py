"""The book of peers: deltas come to what a snapshot would say."""

from __future__ import annotations

import dataclasses
import ipaddress
import time
from collections.abc import Sequence

import hypothesis
import pytest
from hypothesis import strategies as st

from overlay import lease, peers, registry

OWN = lease.SubnetKey(v4=ipaddress.IPv4Network("10.2.1.0/24"))
PEER = lease.SubnetKey(v4=ipaddress.IPv4Network("10.2.2.0/24"))
OTHER = lease.SubnetKey(v4=ipaddress.IPv4Network("10.2.3.0/24"))


def held(key: lease.SubnetKey, last: int, revision: int = 1) -> lease.Lease:
    attrs = lease.LeaseAttrs(public_ip=ipaddress.IPv4Address(f"192.0.2.{last}"), backend_type="vxlan")
    return lease.Lease(key=key, attrs=attrs, lease_id=7, mod_revision=revision)


def delta(*changes: registry.Change, revision: int = 9) -> registry.Delta:
    return registry.Delta(revision=revision, changes=changes)


def bad(key: str) -> registry.Unreadable:
    return registry.Unreadable(key=key, reason="no JSON")


def test_a_snapshot_replaces_the_book_and_says_what_is_new() -> None:
    book = peers.Book(leases={PEER: held(PEER, 2), OTHER: held(OTHER, 3)}, unreadable={"old": "gone"}, revision=3)
    moved = held(OTHER, 4, revision=8)
    told = registry.Snapshot(revision=8, leases={OWN: held(OWN, 1), OTHER: moved}, unreadable=(bad("/p/subnets/x"),))
    assert peers.read_event(book, told, OWN) == peers.News(
        book=peers.Book(leases={OTHER: moved}, unreadable={"/p/subnets/x": "no JSON"}, revision=8),
        put={OTHER: moved},
        gone=frozenset({PEER}),
        own=held(OWN, 1),
        own_told=True,
    )


def test_a_snapshot_without_our_key_says_that_it_is_gone() -> None:
    news = peers.read_event(peers.Book(), registry.Snapshot(revision=1, leases={}), OWN)
    assert (news.own, news.own_told) == (None, True)


def test_a_renewal_is_no_news() -> None:
    book = peers.Book(leases={PEER: held(PEER, 2)})
    news = peers.read_event(book, delta(registry.LeasePut(lease=held(PEER, 2, revision=5))), OWN)
    assert (news.put, news.gone, news.own_told) == ({}, frozenset(), False)
    assert news.book.leases[PEER].mod_revision == 5


def test_our_own_key_is_never_a_peer() -> None:
    news = peers.read_event(peers.Book(), delta(registry.LeasePut(lease=held(OWN, 9))), OWN)
    assert news == peers.News(book=peers.Book(revision=9), put={}, gone=frozenset(), own=held(OWN, 9), own_told=True)


def test_of_several_words_on_our_key_the_last_counts() -> None:
    put = registry.LeasePut(lease=held(OWN, 1, revision=8))
    gone = registry.LeaseGone(key=OWN)
    assert peers.read_event(peers.Book(), delta(gone, put), OWN).own == put.lease
    assert peers.read_event(peers.Book(), delta(put, gone), OWN).own is None


def test_a_peer_that_goes_and_comes_back_is_put_not_gone() -> None:
    book = peers.Book(leases={PEER: held(PEER, 2)})
    back = held(PEER, 2, revision=9)
    news = peers.read_event(book, delta(registry.LeaseGone(key=PEER), registry.LeasePut(lease=back)), OWN)
    assert (news.put, news.gone, news.book.leases) == ({PEER: back}, frozenset(), {PEER: back})


def test_a_peer_that_comes_and_goes_is_nothing() -> None:
    news = peers.read_event(
        peers.Book(), delta(registry.LeasePut(lease=held(PEER, 2)), registry.LeaseGone(key=PEER)), OWN
    )
    assert (news.put, news.gone, news.book.leases) == ({}, frozenset({PEER}), {})


def test_nonsense_beside_the_leases_harms_none_of_them() -> None:
    book = peers.Book(leases={PEER: held(PEER, 2)})
    news = peers.read_event(book, delta(bad("/p/subnets/notes"), bad("/p/subnets/x10.2.2.0-24")), OWN)
    assert news.book.leases == {PEER: held(PEER, 2)}
    assert set(news.book.unreadable) == {"/p/subnets/notes", "/p/subnets/x10.2.2.0-24"}


def test_nonsense_written_over_a_lease_ends_it_until_it_is_readable_again() -> None:
    book = peers.Book(leases={PEER: held(PEER, 2)})
    spoilt = peers.read_event(book, delta(bad("/p/subnets/10.2.2.0-24")), OWN)
    assert (spoilt.gone, spoilt.book.leases) == (frozenset({PEER}), {})
    again = held(PEER, 2, revision=11)
    mended = peers.read_event(spoilt.book, delta(registry.LeasePut(lease=again), revision=11), OWN)
    assert mended.book == peers.Book(leases={PEER: again}, revision=11)


def test_deleted_nonsense_is_forgotten() -> None:
    book = peers.Book(unreadable={"/p/subnets/10.2.2.0-24": "no JSON"})
    assert peers.read_event(book, delta(registry.LeaseGone(key=PEER)), OWN).book.unreadable == {}


def test_nonsense_written_over_our_key_is_told() -> None:
    news = peers.read_event(peers.Book(), delta(bad("10.2.1.0-24")), OWN)
    assert (news.own, news.own_told) == (None, True)
    assert news.book.unreadable == {"10.2.1.0-24": "no JSON"}


def many(*numbers: int) -> dict[lease.SubnetKey, lease.Lease]:
    keys = [lease.SubnetKey(v4=ipaddress.IPv4Network(f"10.2.{number}.0/24")) for number in numbers]
    return {key: held(key, 2) for key in keys}


@pytest.mark.parametrize(
    ("known", "told", "doubtful"),
    [
        ((2, 3, 4, 5), (), True),
        ((2, 3, 4, 5), (2,), True),
        ((2, 3, 4, 5), (2, 3), False),
        ((2, 3, 4, 5), (6, 7, 8, 9), True),
        ((2, 3, 4), (), False),
        ((), (), False),
        ((2, 3, 4, 5, 6), (2, 3), True),
        ((2, 3, 4, 5, 6), (2, 3, 4), False),
    ],
)
def test_a_snapshot_without_most_of_four_or_more_peers_is_doubtful(
    known: tuple[int, ...], told: tuple[int, ...], doubtful: bool
) -> None:
    event = registry.Snapshot(revision=9, leases={**many(*told), OWN: held(OWN, 1)})
    assert peers.is_doubtful(peers.Book(leases=many(*known)), event) is doubtful


def test_of_two_looks_the_later_counts() -> None:
    first, second = registry.Snapshot(revision=5, leases={}), registry.Snapshot(revision=6, leases=many(2))
    assert peers.choose_snapshot(first, second) is second
    assert peers.choose_snapshot(second, first) is second
    same = registry.Snapshot(revision=5, leases=many(3))
    assert peers.choose_snapshot(first, same) is same


def test_our_own_lease_is_no_peer_at_the_second_snapshot_either() -> None:
    """D3: flannel removes its own lease there."""
    told = registry.Snapshot(revision=8, leases={OWN: held(OWN, 1), PEER: held(PEER, 2)})
    first = peers.read_event(peers.Book(), told, OWN)
    second = peers.read_event(first.book, dataclasses.replace(told, revision=9), OWN)
    assert first.book.leases == second.book.leases == {PEER: held(PEER, 2)}
    assert (second.put, second.gone) == ({}, frozenset())


def test_a_peer_that_came_back_as_another_is_news_in_a_snapshot() -> None:
    """D2: flannel's second snapshot tells only who is new and who is gone."""
    book = peers.Book(leases={PEER: held(PEER, 2), OTHER: held(OTHER, 3)}, revision=3)
    moved = held(PEER, 22, revision=8)
    news = peers.read_event(book, registry.Snapshot(revision=8, leases={PEER: moved, OTHER: held(OTHER, 3)}), OWN)
    assert (news.put, news.gone) == ({PEER: moved}, frozenset())


def test_ten_thousand_keys_that_are_no_lease_cost_a_burst_of_events_nothing() -> None:
    """Nearly subnets: to read them costs most."""
    junk = tuple(bad(f"/p/subnets/10.{300 + number // 100}.{number % 100}.0-24") for number in range(10_000))
    leases = {key: held(key, 2) for key in (number_key(number) for number in range(500))}
    book = peers.read_event(peers.Book(), registry.Snapshot(revision=1, leases=leases, unreadable=junk), OWN).book
    assert len(book.unreadable) == peers.UNREADABLE_LIMIT
    began = time.process_time()
    for one in leases.values():
        book = peers.read_event(book, delta(registry.LeasePut(lease=one)), OWN).book
    peers.read_event(book, delta(*(registry.LeasePut(lease=one) for one in leases.values())), OWN)
    assert time.process_time() - began < 1


def test_of_endless_nonsense_a_book_keeps_so_much_and_reads_all_leases() -> None:
    book = peers.Book()
    for number in range(2 * peers.UNREADABLE_LIMIT):
        book = peers.read_event(book, delta(bad(f"/p/subnets/junk-{number}")), OWN).book
    assert len(book.unreadable) == peers.UNREADABLE_LIMIT
    book = dataclasses.replace(book, leases={PEER: held(PEER, 2)})
    spoilt = peers.read_event(
        book, delta(bad("/p/subnets/10.2.2.0-24"), registry.LeasePut(lease=held(OTHER, 3))), OWN
    )
    assert (spoilt.gone, spoilt.book.leases) == (frozenset({PEER}), {OTHER: held(OTHER, 3)})


def number_key(number: int) -> lease.SubnetKey:
    return lease.SubnetKey(v4=ipaddress.IPv4Network(f"10.{number >> 8}.{number & 255}.0/24"))


KEYS = st.sampled_from([OWN, PEER, OTHER])
CHANGES = st.one_of(
    st.builds(lambda key, last: registry.LeasePut(lease=held(key, last)), KEYS, st.integers(1, 3)),
    st.builds(lambda key: registry.LeaseGone(key=key), KEYS),
    st.builds(lambda key: bad(f"/p/subnets/{lease.format_subnet_key(key)}"), KEYS),
)


@hypothesis.given(st.lists(st.lists(CHANGES, min_size=1, max_size=4), max_size=4))
def test_deltas_come_to_what_a_snapshot_says(batches: Sequence[Sequence[registry.Change]]) -> None:
    leases: dict[lease.SubnetKey, lease.Lease] = {}
    unreadable: dict[str, registry.Unreadable] = {}
    book, saved = peers.Book(), dict[lease.SubnetKey, lease.LeaseAttrs]()
    for batch in batches:
        for change in batch:
            match change:
                case registry.LeasePut():
                    leases[change.lease.key] = change.lease
                    unreadable.pop(f"/p/subnets/{lease.format_subnet_key(change.lease.key)}", None)
                case registry.LeaseGone():
                    leases.pop(change.key, None)
                    unreadable.pop(f"/p/subnets/{lease.format_subnet_key(change.key)}", None)
                case registry.Unreadable():
                    leases.pop(lease.parse_subnet_key(change.key), None)
                    unreadable[change.key] = change
        news = peers.read_event(book, delta(*batch), OWN)
        book = news.book
        saved = {key: attrs for key, attrs in saved.items() if key not in news.gone}
        saved |= {key: one.attrs for key, one in news.put.items()}
    whole = registry.Snapshot(revision=book.revision, leases=leases, unreadable=tuple(unreadable.values()))
    news = peers.read_event(book, whole, OWN)
    assert (news.book, news.put, news.gone) == (dataclasses.replace(book), {}, frozenset())
    assert saved == {key: one.attrs for key, one in book.leases.items()}
