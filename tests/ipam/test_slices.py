from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam import errors, slices

N = ipaddress.IPv4Network
LEASE = N("10.2.20.0/24")
N6 = ipaddress.IPv6Network
LEASE6 = N6("fd00:2:0:14::/64")

parts = st.integers(24, 30).flatmap(
    lambda length: st.integers(0, 2 ** (length - 24) - 1).map(
        lambda index: N((int(LEASE.network_address) + index * 2 ** (32 - length), length))
    )
)


def refusal(taken: list[str], wanted: str | None, lease: str = "10.2.20.0/24") -> str:
    net = ipaddress.ip_network
    with pytest.raises(errors.IpamError) as caught:
        slices.plan(net(lease), [net(item) for item in taken], net(wanted) if wanted else None)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_first_network_without_subnet_gets_the_whole_lease() -> None:
    assert slices.plan(LEASE, [], None) == LEASE


def test_pools_outside_the_lease_are_in_nobodys_way() -> None:
    assert slices.plan(LEASE, [N("10.9.0.0/24")], None) == LEASE


def test_whole_lease_or_a_slice_may_be_named() -> None:
    assert slices.plan(LEASE, [], LEASE) == LEASE
    assert slices.plan(LEASE, [N("10.2.20.0/25")], N("10.2.20.192/26")) == N("10.2.20.192/26")


def test_second_network_without_subnet_is_told_how_both_can_be() -> None:
    assert refusal(["10.2.20.0/24"], None) == (
        "PoolTaken: lease 10.2.20.0/24 of this host is taken whole by pool 10.2.20.0/24; remove that network, or "
        "re-create both with --subnet, for example 10.2.20.0/25 and 10.2.20.128/25"
    )


def test_a_slice_of_a_lease_taken_whole_gets_the_same_advice() -> None:
    assert refusal(["10.2.20.0/24"], "10.2.20.0/26") == (
        "PoolTaken: subnet 10.2.20.0/26: lease 10.2.20.0/24 of this host is taken whole by pool 10.2.20.0/24; remove "
        "that network, or re-create both with --subnet, for example 10.2.20.0/25 and 10.2.20.128/25"
    )


def test_network_without_subnet_on_a_shared_lease_is_told_the_free_slices() -> None:
    assert refusal(["10.2.20.128/26", "10.2.20.0/26"], None) == (
        "PoolTaken: lease 10.2.20.0/24 of this host is taken in part by pools 10.2.20.0/26, 10.2.20.128/26; take a "
        "free slice with --subnet: 10.2.20.64/26, 10.2.20.192/26"
    )


def test_overlapping_slice_is_told_who_has_it_and_what_is_free() -> None:
    assert refusal(["10.2.20.0/26", "10.2.20.64/26"], "10.2.20.0/25") == (
        "PoolTaken: subnet 10.2.20.0/25 overlaps pools 10.2.20.0/26, 10.2.20.64/26 of this host's lease "
        "10.2.20.0/24; take a free slice with --subnet: 10.2.20.128/25"
    )


def test_the_same_slice_twice_is_refused() -> None:
    assert refusal(["10.2.20.0/26"], "10.2.20.0/26").startswith("PoolTaken: subnet 10.2.20.0/26 overlaps pool ")


def test_a_lease_full_of_slices_says_so() -> None:
    assert refusal(["10.2.20.0/25", "10.2.20.128/25"], None).endswith("no slice is free: remove a network first")


@pytest.mark.parametrize("wanted", ["10.9.0.0/24", "10.2.0.0/16", "10.2.20.0/23", "0.0.0.0/0"])
def test_foreign_or_larger_subnet_is_refused(wanted: str) -> None:
    assert refusal([], wanted) == (
        f"PoolOutsideLease: subnet {wanted} is not part of this host's lease 10.2.20.0/24; leave --subnet away or "
        "take a slice of the lease"
    )


def test_many_slices_are_counted_not_listed() -> None:
    taken = [f"10.2.20.{n}/28" for n in range(0, 256, 32)]
    assert refusal(taken, None).endswith("10.2.20.176/28 and 2 more")


def test_a_tiny_lease_offers_no_halves() -> None:
    assert refusal(["10.2.20.0/30"], None, "10.2.20.0/30").endswith("10.2.20.0/30; remove that network first")


def test_an_ipv6_lease_is_shared_by_the_same_rules() -> None:
    assert slices.plan(LEASE6, [LEASE], None) == LEASE6
    assert slices.plan(LEASE, [LEASE6], None) == LEASE
    half = N6("fd00:2:0:14:8000::/65")
    assert slices.plan(LEASE6, [N6("fd00:2:0:14::/65")], half) == half
    lease = str(LEASE6)
    assert refusal([lease], None, lease) == (
        "PoolTaken: lease fd00:2:0:14::/64 of this host is taken whole by pool fd00:2:0:14::/64; remove that "
        "network, or re-create both with --subnet, for example fd00:2:0:14::/65 and fd00:2:0:14:8000::/65"
    )
    assert refusal([str(half)], "fd00:2:0:14:8000::/66", lease).endswith("with --subnet: fd00:2:0:14::/65")
    assert refusal(["fd00:2:0:14::/66"], "fd00:2:0:14::/66", lease).endswith(
        "take a free slice with --subnet: fd00:2:0:14:4000::/66, fd00:2:0:14:8000::/65"
    )
    assert refusal(["fd00::8/126"], "fd00::8/126", "fd00::8/126").endswith("fd00::8/126; remove that network first")


@pytest.mark.parametrize("wanted", ["10.2.20.0/24", "fd00:2:0:15::/64", "fd00:2::/48"])
def test_a_subnet_outside_an_ipv6_lease_is_refused(wanted: str) -> None:
    assert refusal([], wanted, str(LEASE6)).startswith(
        f"PoolOutsideLease: subnet {wanted} is not part of this host's lease fd00:2:0:14::/64;"
    )


@given(st.lists(parts, max_size=8))
def test_free_and_taken_make_up_the_lease(taken: list[N]) -> None:
    free = slices.free(LEASE, taken)
    assert list(ipaddress.collapse_addresses([*free, *taken])) == ([LEASE] if taken or free else [])
    assert not any(one.overlaps(other) for one in free for other in taken)
    assert sum(one.num_addresses for one in free) == sum(
        one.num_addresses for one in ipaddress.collapse_addresses(free)
    )


@given(st.lists(parts, max_size=12))
def test_granted_slices_never_overlap(wanted: list[N]) -> None:
    granted: list[N] = []
    for item in wanted:
        try:
            granted.append(slices.plan(LEASE, granted, item))
        except errors.PoolTaken:
            assert any(item.overlaps(other) for other in granted)
    assert all(not a.overlaps(b) for i, a in enumerate(granted) for b in granted[:i])
