"""Whose a key is that says word for word what our state file says."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable

import pytest

from overlay import clones, lease, nodestore, registry
from tests.overlay import node_host

OURS, THEIRS, UNKNOWN = clones.Origin.OURS, clones.Origin.THEIRS, clones.Origin.UNKNOWN
BEFORE, NOW = node_host.attrs("192.0.2.1", node_host.MAC), node_host.attrs("192.0.2.50", node_host.MAC)
KEY = node_host.key("10.2.20.0/24")
SAVED = nodestore.SavedNode(
    prefix="/p", config="{}", key=KEY, attrs=BEFORE, mac=node_host.MAC, machine="m1", lease_id=7
)
HERE = clones.Here(attrs=NOW, addresses=frozenset({NOW.public_ip}), machine="m1")
FOUND = lease.Lease(key=KEY, attrs=BEFORE, lease_id=7, mod_revision=20)
WATCH_S = 150.0


def last_renewed(age_s: float, term: int = 1) -> Callable[[lease.Lease], registry.TimeLeft]:
    """What the registry says of a lease that was renewed so long ago."""
    return lambda _lease: registry.TimeLeft(seconds=round(registry.SUBNET_TTL_S - age_s), term=term)


def never(_lease: lease.Lease) -> registry.TimeLeft:
    raise AssertionError("the registry was asked for nothing")


def judge(
    saved: nodestore.SavedNode = SAVED, found: lease.Lease | None = FOUND, here: clones.Here = HERE
) -> clones.Origin:
    """Where nobody needs to be watched."""
    return clones.Origins(WATCH_S).judge(saved, found, here, lambda: 0.0, never)


def test_the_address_in_the_lease_is_a_host_s_identity_as_in_flannel() -> None:
    assert judge(here=dataclasses.replace(HERE, attrs=BEFORE, machine="m2")) is OURS


def test_a_host_that_was_told_to_use_another_of_its_addresses_is_the_same() -> None:
    assert judge(here=dataclasses.replace(HERE, addresses=frozenset({NOW.public_ip, BEFORE.public_ip}))) is OURS


def test_a_file_of_another_machine_says_nothing_of_this_one() -> None:
    other = dataclasses.replace(HERE, machine="m2")
    assert judge(here=other) is THEIRS
    assert judge(here=other, found=None) is THEIRS
    assert clones.is_copy(SAVED, other)


@pytest.mark.parametrize(("then", "now"), [(None, "m2"), ("m1", None), (None, None), ("m1", "m1")])
def test_machines_that_are_equal_or_without_a_name_are_no_proof(then: str | None, now: str | None) -> None:
    assert not clones.is_copy(dataclasses.replace(SAVED, machine=then), dataclasses.replace(HERE, machine=now))


@pytest.mark.parametrize("found", [None, dataclasses.replace(FOUND, attrs=node_host.attrs("192.0.2.9"))])
def test_a_key_that_says_something_else_is_not_judged(found: lease.Lease | None) -> None:
    assert judge(found=found) is OURS


def test_a_key_that_somebody_has_created_anew_is_theirs() -> None:
    """A flanneld that runs where the original did: it renews once a day only."""
    assert judge(found=dataclasses.replace(FOUND, lease_id=8)) is THEIRS


@pytest.mark.parametrize(("machine", "expected"), [("m1", OURS), (None, THEIRS)])
def test_a_reservation_follows_the_machine_alone(machine: str | None, expected: clones.Origin) -> None:
    """It has no time that could be watched, and an operator made it for an address."""
    reserved = dataclasses.replace(FOUND, lease_id=0)
    saved = dataclasses.replace(SAVED, lease_id=0)
    here = dataclasses.replace(HERE, machine=machine)
    assert clones.Origins(WATCH_S).judge(saved, reserved, here, lambda: 0.0, lambda _lease: None) is expected


def watch(
    origins: clones.Origins, now: float, renewed_at: float, found: lease.Lease = FOUND, term: int = 1
) -> clones.Origin:
    return origins.judge(SAVED, found, HERE, lambda: now, last_renewed(now - renewed_at, term))


def test_a_key_that_nobody_renews_for_long_enough_is_ours() -> None:
    origins = clones.Origins(WATCH_S)
    assert [watch(origins, now, 1000.0) for now in (1060.0, 1100.0, 1149.0, 1151.0)] == [UNKNOWN] * 3 + [OURS]


def test_a_key_that_nobody_has_renewed_for_long_is_watched_a_moment_all_the_same() -> None:
    """An original that was cut off from etcd renews it as soon as it is back."""
    origins = clones.Origins(WATCH_S)
    assert [watch(origins, now, 0.0) for now in (5000.0, 5009.0, 5011.0)] == [UNKNOWN, UNKNOWN, OURS]


def test_a_key_that_somebody_renews_is_theirs_and_stays_so() -> None:
    origins = clones.Origins(WATCH_S)
    assert watch(origins, 1010.0, 1000.0) is UNKNOWN
    assert watch(origins, 1125.0, 1120.0) is THEIRS
    assert watch(origins, 9000.0, 1120.0) is THEIRS


def test_a_key_that_somebody_rewrites_meanwhile_is_theirs() -> None:
    origins = clones.Origins(WATCH_S)
    assert watch(origins, 1010.0, 1000.0) is UNKNOWN
    assert watch(origins, 1015.0, 1000.0, dataclasses.replace(FOUND, mod_revision=21)) is THEIRS


def test_an_election_renews_all_leases_and_makes_nobody_a_copy() -> None:
    """As after a blackout: etcd's members and this host, with another address, come up together."""
    origins = clones.Origins(WATCH_S)
    assert watch(origins, 1010.0, 1000.0, term=1) is UNKNOWN
    assert watch(origins, 1030.0, 1025.0, term=2) is UNKNOWN
    assert watch(origins, 1100.0, 1090.0, term=3) is UNKNOWN
    assert watch(origins, 1239.0, 1090.0, term=3) is UNKNOWN
    assert watch(origins, 1241.0, 1090.0, term=3) is OURS


def test_an_original_that_renews_after_an_election_is_seen_all_the_same() -> None:
    origins = clones.Origins(WATCH_S)
    assert watch(origins, 1010.0, 1000.0, term=1) is UNKNOWN
    assert watch(origins, 1030.0, 1025.0, term=2) is UNKNOWN
    assert watch(origins, 1125.0, 1120.0, term=2) is THEIRS
    assert watch(origins, 1130.0, 1129.0, term=3) is THEIRS


def test_seconds_told_whole_are_no_renewal() -> None:
    origins = clones.Origins(WATCH_S)
    assert [watch(origins, 1010.0 + 0.3 * step, 1000.0 + 0.7 * (step % 2)) for step in range(5)] == [UNKNOWN] * 5


def test_an_answer_that_took_long_is_no_renewal() -> None:
    """A member that does not answer costs four seconds before another one is asked, and seconds are told whole."""
    origins = clones.Origins(WATCH_S)
    clock = iter([1010.0, 1018.0])  # asked, answered: 18 s after the renewal
    assert origins.judge(SAVED, FOUND, HERE, lambda: next(clock), last_renewed(18)) is UNKNOWN
    assert watch(origins, 1040.0, 1000.0) is UNKNOWN
    assert watch(origins, 1151.0, 1000.0) is OURS


def test_a_new_lease_is_watched_from_its_beginning() -> None:
    origins = clones.Origins(WATCH_S)
    assert watch(origins, 1010.0, 1000.0) is UNKNOWN
    unknown = dataclasses.replace(SAVED, lease_id=None)
    anew = dataclasses.replace(FOUND, lease_id=8, mod_revision=30)
    assert origins.judge(unknown, anew, HERE, lambda: 1300.0, last_renewed(5)) is UNKNOWN


def test_an_operator_reads_why_nothing_is_claimed_yet() -> None:
    assert clones.explain_watch(SAVED, HERE, WATCH_S) == (
        "lease 10.2.20.0/24 says 192.0.2.1, and this host is 192.0.2.50 now: its state file may be a copy of another "
        "machine's, so the lease is this host's once nobody has renewed it for 150 s"
    )


def test_addresses_of_ipv6_alone_are_compared_by_ipv6() -> None:
    none = ipaddress.IPv4Address(0)
    then = dataclasses.replace(BEFORE, public_ip=none, public_ipv6=ipaddress.IPv6Address("2001:db8::1"))
    now = dataclasses.replace(BEFORE, public_ip=none, public_ipv6=ipaddress.IPv6Address("2001:db8::2"))
    saved = dataclasses.replace(SAVED, attrs=then)
    assert not clones.is_moved(saved, dataclasses.replace(HERE, attrs=then))
    assert clones.is_moved(saved, dataclasses.replace(HERE, attrs=now, addresses=frozenset({now.public_ipv6})))
