from __future__ import annotations

import dataclasses
import ipaddress
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipam import errors, pool

A = ipaddress.IPv4Address
N = ipaddress.IPv4Network
A6 = ipaddress.IPv6Address
N6 = ipaddress.IPv6Network
SUBNET6 = N6("fd00:2:0:14::/64")
USED = pool.Used(kind=pool.Kind.ENDPOINT, since=0.0, stamp=0.0)


DB = pool.Holder(name="db")
WEB = pool.Holder(name="web")
MAC = pool.Holder(mac="02:00:00:00:00:77")


def take(addresses: pool.Pool, holder: pool.Holder = pool.NOBODY, settled: float = math.inf) -> A | A6:
    ip = addresses.propose(holder, settled)
    assert ip is not None
    addresses.put(ip, dataclasses.replace(USED, holder=holder))
    return ip


def release(addresses: pool.Pool, ip: A | A6, stamp: float = 0.0) -> None:
    used = addresses.state(ip)
    assert isinstance(used, pool.Used)
    addresses.put(ip, pool.Rested(order=addresses.next_order, stamp=stamp, holder=used.holder))


def drain(addresses: pool.Pool) -> list[str]:
    taken = []
    while addresses.propose() is not None:
        taken.append(str(take(addresses)))
    return taken


def test_network_and_broadcast_address_are_never_proposed() -> None:
    assert drain(pool.Pool(N("10.2.20.0/29"))) == [f"10.2.20.{n}" for n in range(1, 7)]


def test_ip_range_is_handed_out_whole_where_it_lies_inside() -> None:
    assert drain(pool.Pool(N("10.2.20.0/24"), N("10.2.20.8/30"))) == [f"10.2.20.{n}" for n in range(8, 12)]


@pytest.mark.parametrize(
    ("subpool", "expected"),
    [("10.2.20.0/30", [1, 2, 3]), ("10.2.20.252/30", [252, 253, 254]), ("10.2.20.9/32", [9])],
)
def test_ip_range_at_the_pools_ends_spares_network_and_broadcast(subpool: str, expected: list[int]) -> None:
    assert drain(pool.Pool(N("10.2.20.0/24"), N(subpool))) == [f"10.2.20.{n}" for n in expected]


@pytest.mark.parametrize(
    ("cidr", "subpool", "message"),
    [
        (
            "10.2.20.0/31",
            None,
            "pool 10.2.20.0/31 has no addresses for a gateway and a container besides its network or broadcast",
        ),
        ("10.2.20.7/32", None, "the smallest is a /30"),
        ("10.2.20.0/24", "10.2.21.0/25", "--ip-range 10.2.21.0/25 is not part of the pool 10.2.20.0/24"),
        ("10.2.20.0/24", "10.2.0.0/16", "is not part of the pool"),
        ("10.2.20.0/24", "10.2.20.0/32", "holds only the network or broadcast address of the pool"),
        ("10.2.20.0/24", "10.2.20.255/32", "holds only the network or broadcast address of the pool"),
    ],
)
def test_a_pool_without_addresses_is_refused(cidr: str, subpool: str | None, message: str) -> None:
    with pytest.raises(errors.PoolUnusable) as caught:
        pool.Pool(N(cidr), N(subpool) if subpool else None)
    assert message in str(caught.value)


def test_a_slash_30_holds_two() -> None:
    addresses = pool.Pool(N("10.2.20.4/30"))
    assert (addresses.total, drain(addresses), addresses.used) == (2, ["10.2.20.5", "10.2.20.6"], 2)


def test_released_addresses_come_last_and_the_longest_rested_first() -> None:
    addresses = pool.Pool(N("10.2.20.0/29"))
    first, second, third = take(addresses), take(addresses), take(addresses)
    for ip in (second, third, first):
        release(addresses, ip)
    assert drain(addresses) == [f"10.2.20.{n}" for n in (4, 5, 6, 2, 3, 1)]


def test_an_address_outside_the_range_can_be_taken_and_does_not_count() -> None:
    addresses = pool.Pool(N("10.2.20.0/24"), N("10.2.20.128/30"))
    addresses.require(A("10.2.20.5"))
    addresses.put(A("10.2.20.5"), USED)
    assert (addresses.used, addresses.total) == (0, 4)
    release(addresses, A("10.2.20.5"))
    assert drain(addresses) == [f"10.2.20.{n}" for n in range(128, 132)]


@pytest.mark.parametrize("ip", ["10.2.20.0", "10.2.20.255", "10.2.21.1", "0.0.0.0", "255.255.255.255"])
def test_what_no_container_may_have_is_refused(ip: str) -> None:
    with pytest.raises(errors.AddressOutsidePool) as caught:
        pool.Pool(N("10.2.20.0/24")).require(A(ip))
    assert str(caught.value).endswith("take one of 10.2.20.1-10.2.20.254")


def test_a_used_address_is_refused_and_named() -> None:
    addresses = pool.Pool(N("10.2.20.0/24"))
    addresses.put(A("10.2.20.1"), pool.Used(kind=pool.Kind.GATEWAY, since=0.0, stamp=0.0))
    with pytest.raises(
        errors.AddressTaken, match=r"address 10\.2\.20\.1 of pool 10\.2\.20\.0/24 is in use \(gateway\)"
    ):
        addresses.require(A("10.2.20.1"))


def test_an_address_started_by_number_a_thousand_times_leaves_nothing_behind() -> None:
    addresses = pool.Pool(N("10.2.20.0/24"))
    for _ in range(1000):
        addresses.put(A("10.2.20.9"), USED)
        release(addresses, A("10.2.20.9"))
    assert len(addresses._queue) <= 70
    assert drain(addresses)[-1] == "10.2.20.9"


def test_a_full_slash_16_still_proposes_at_once() -> None:
    """65,534 proposals, then 65,534 more of rested ones: a scan from the start would take minutes."""
    addresses = pool.Pool(N("10.2.0.0/16"))
    started = time.perf_counter()
    everything = [take(addresses) for _ in range(addresses.total)]
    for ip in everything:
        release(addresses, ip)
    again = [take(addresses) for _ in range(addresses.total)]
    assert again == everything
    assert time.perf_counter() - started < 10


def test_several_changes_taken_back_in_reverse_leave_no_gap() -> None:
    addresses = pool.Pool(N("10.2.20.0/29"))
    first, second = take(addresses), take(addresses)
    for ip in (second, first):
        addresses.put(ip, None)
    assert drain(addresses) == [f"10.2.20.{n}" for n in range(1, 7)]


def test_a_slash_64_is_counted_and_served_without_being_gone_through() -> None:
    addresses = pool.Pool(SUBNET6)
    assert (addresses.total, addresses.used, addresses.first) == (2**64 - 1, 0, A6("fd00:2:0:14::1"))
    assert [str(take(addresses)) for _ in range(3)] == [f"fd00:2:0:14::{n}" for n in (1, 2, 3)]
    addresses.require(A6("fd00:2:0:14:ffff:ffff:ffff:ffff"))
    addresses.put(A6("fd00:2:0:14:ffff:ffff:ffff:ffff"), USED)
    assert addresses.used == 4


@pytest.mark.parametrize("ip", ["fd00:2:0:14::", "fd00:2:0:15::1", "::1", "10.2.20.5"])
def test_what_is_no_address_of_an_ipv6_pool_is_refused(ip: str) -> None:
    with pytest.raises(errors.AddressOutsidePool) as caught:
        pool.Pool(SUBNET6).require(ipaddress.ip_address(ip))
    why = "is its network address" if ip == "fd00:2:0:14::" else "is not in it"
    assert str(caught.value) == (
        f"address {ip} cannot be used in pool fd00:2:0:14::/64: it {why}; take one of "
        "fd00:2:0:14::1-fd00:2:0:14:ffff:ffff:ffff:ffff"
    )


def test_an_address_of_the_other_family_with_the_same_number_is_another_one() -> None:
    addresses = pool.Pool(N("10.2.20.0/24"))
    addresses.put(A("10.2.20.5"), USED)
    assert addresses.state(A6(int(A("10.2.20.5")))) is None
    with pytest.raises(errors.AddressOutsidePool):
        addresses.require(A6(int(A("10.2.20.6"))))


def test_the_smallest_ipv6_pool_has_a_gateway_and_two_containers() -> None:
    assert drain(pool.Pool(N6("fd00::4/126"))) == ["fd00::5", "fd00::6", "fd00::7"]
    for small in ("fd00::4/127", "fd00::4/128"):
        with pytest.raises(errors.PoolUnusable) as caught:
            pool.Pool(N6(small))
        assert str(caught.value) == (
            f"pool {small} has no addresses for a gateway and a container besides its network address; the smallest "
            "is a /126"
        )


@pytest.mark.parametrize(
    ("subpool", "expected"),
    [
        ("fd00:2:0:14::f0/126", ["f0", "f1", "f2", "f3"]),
        ("fd00:2:0:14::/126", ["1", "2", "3"]),
        ("fd00:2:0:14:ffff:ffff:ffff:fffe/127", ["ffff:ffff:ffff:fffe", "ffff:ffff:ffff:ffff"]),
    ],
)
def test_an_ipv6_range_spares_the_network_address_alone(subpool: str, expected: list[str]) -> None:
    drained = drain(pool.Pool(SUBNET6, N6(subpool)))
    assert [A6(ip) for ip in drained] == [
        A6(f"fd00:2:0:14:{end}") if end.count(":") else A6(f"fd00:2:0:14::{end}") for end in expected
    ]


@pytest.mark.parametrize(
    ("subpool", "message"),
    [
        ("fd00:2:0:14::/128", "--ip-range fd00:2:0:14::/128 holds only the network address of the pool"),
        ("fd00:2:0:15::/64", "--ip-range fd00:2:0:15::/64 is not part of the pool"),
        ("0.0.0.0/0", "--ip-range 0.0.0.0/0 is not part of the pool"),
    ],
)
def test_an_ipv6_range_without_addresses_is_refused(subpool: str, message: str) -> None:
    with pytest.raises(errors.PoolUnusable) as caught:
        pool.Pool(SUBNET6, ipaddress.ip_network(subpool))
    assert str(caught.value).startswith(message)


def test_a_pool_without_end_reuses_what_rested_long_instead_of_remembering_ever_more() -> None:
    """A container a minute for a year would be half a million rows."""
    addresses = pool.Pool(SUBNET6)
    handed = []
    for _ in range(3 * pool.REST_LIMIT):
        ip = take(addresses)
        handed.append(int(ip) & 0xFFFF)
        release(addresses, ip)
    once = list(range(1, pool.REST_LIMIT + 1))
    assert handed == once * 3
    kept = [take(addresses) for _ in range(3)]  # three are no longer resting: there is room for three fresh ones
    assert [int(ip) & 0xFFFF for ip in kept] == [1, pool.REST_LIMIT + 1, pool.REST_LIMIT + 2]


def test_who_comes_back_while_its_address_rests_gets_it() -> None:
    addresses = pool.Pool(N("10.2.20.0/29"))
    db, web = take(addresses, DB), take(addresses, WEB)
    for ip in (db, web):
        release(addresses, ip, stamp=100.0)
    assert [take(addresses, who, settled=99.0) for who in (WEB, DB)] == [web, db]


def test_who_comes_back_after_its_address_rested_gets_the_next() -> None:
    addresses = pool.Pool(N("10.2.20.0/29"))
    release(addresses, take(addresses, DB), stamp=100.0)
    assert str(take(addresses, DB, settled=100.0)) == "10.2.20.2"


def test_the_last_of_several_addresses_comes_back_and_then_the_one_before() -> None:
    addresses = pool.Pool(N("10.2.20.0/29"))
    first, second = take(addresses, DB), take(addresses, DB)
    for ip in (second, first):
        release(addresses, ip, stamp=1.0)
    addresses.put(first, USED)  # by number, as --ip does
    assert [str(take(addresses, DB, settled=0.0)) for _ in range(2)] == [str(second), "10.2.20.3"]


def test_a_name_is_a_surer_sign_than_a_mac() -> None:
    addresses = pool.Pool(N("10.2.20.0/29"))
    by_name, by_mac = take(addresses, DB), take(addresses, MAC)
    for ip in (by_name, by_mac):
        release(addresses, ip, stamp=1.0)
    both = pool.Holder(name=DB.name, mac=MAC.mac)
    assert [take(addresses, both, settled=0.0) for _ in range(2)] == [by_name, by_mac]


def test_an_address_is_given_away_only_when_no_other_rested_longer() -> None:
    addresses = pool.Pool(N("10.2.20.0/29"))
    db, *others = [take(addresses, DB), *(take(addresses, WEB) for _ in range(5))]
    for ip in (*others, db):
        release(addresses, ip, stamp=1.0)
    assert [take(addresses, settled=0.0) for _ in range(5)] == others
    assert take(addresses, settled=0.0) == db
    assert addresses.propose(DB, settled=0.0) is None


def test_what_lies_outside_the_range_does_not_come_back_by_itself() -> None:
    addresses = pool.Pool(N("10.2.20.0/24"), N("10.2.20.128/30"))
    addresses.put(A("10.2.20.5"), dataclasses.replace(USED, holder=DB))
    release(addresses, A("10.2.20.5"), stamp=1.0)
    assert str(take(addresses, DB, settled=0.0)) == "10.2.20.128"


def test_a_pool_without_end_spares_what_has_not_rested_long_enough() -> None:
    addresses = pool.Pool(SUBNET6)
    handed = []
    for _ in range(pool.REST_MOST + 2):
        ip = take(addresses, settled=0.5)
        handed.append(int(ip) & 0xFFFFF)
        release(addresses, ip, stamp=1.0)
    assert handed == [*range(1, pool.REST_MOST + 1), 1, 2]  # of more than that nothing is remembered
    assert int(take(addresses, settled=1.0)) & 0xFFFFF == 3


class PoolMachine(RuleBasedStateMachine):
    """Against the plainest model: who has what, a list of rested with who had it, a sorted list of the never used."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool.Pool(N("10.2.20.0/28"), N("10.2.20.8/29"))
        self.fresh = [A(f"10.2.20.{n}") for n in range(8, 15)]
        self.rested: list[tuple[A, pool.Holder]] = []
        self.used: dict[A, pool.Holder] = {}

    @rule(undo=st.booleans(), holder=st.sampled_from([pool.NOBODY, DB, WEB, MAC]), late=st.booleans())
    def take_next(self, undo: bool, holder: pool.Holder, late: bool) -> None:
        ip = self.pool.propose(holder, settled=0.0 if late else -1.0)
        own = [ip for ip, had in reversed(self.rested) if had == holder != pool.NOBODY and not late]
        expected = [*own, *self.fresh, *(ip for ip, _ in self.rested)][:1]
        assert [ip] == (expected or [None])
        if ip is not None:
            before = self.pool.put(ip, dataclasses.replace(USED, holder=holder))
            if undo:
                self.pool.put(ip, before)
            else:
                self._now_used(ip, holder)

    @rule(number=st.integers(1, 14), undo=st.booleans(), holder=st.sampled_from([DB, WEB]))
    def take_by_number(self, number: int, undo: bool, holder: pool.Holder) -> None:
        ip = A(f"10.2.20.{number}")
        if ip in self.used:
            with pytest.raises(errors.AddressTaken):
                self.pool.require(ip)
            return
        self.pool.require(ip)
        before = self.pool.put(ip, dataclasses.replace(USED, holder=holder))
        if undo:
            self.pool.put(ip, before)
        else:
            self._now_used(ip, holder)

    @precondition(lambda self: self.used)
    @rule(data=st.data(), undo=st.booleans())
    def release(self, data: st.DataObject, undo: bool) -> None:
        ip = data.draw(st.sampled_from(sorted(self.used)))
        holder = self.used[ip]
        before = self.pool.put(ip, pool.Rested(order=self.pool.next_order, stamp=0.0, holder=holder))
        if undo:
            self.pool.put(ip, before)
            return
        del self.used[ip]
        if ip >= A("10.2.20.8"):
            self.rested.append((ip, holder))

    @rule()
    def restart(self) -> None:
        """A new pool from the states alone, in any order, is the same pool."""
        states = {A(f"10.2.20.{n}"): self.pool.state(A(f"10.2.20.{n}")) for n in range(14, 0, -1)}
        self.pool = pool.Pool(self.pool.cidr, self.pool.subpool)
        for ip, state in states.items():
            self.pool.put(ip, state)

    def _now_used(self, ip: A, holder: pool.Holder) -> None:
        self.used[ip] = holder
        self.fresh = [one for one in self.fresh if one != ip]
        self.rested = [one for one in self.rested if one[0] != ip]

    @invariant()
    def none_doubled_none_lost(self) -> None:
        assert sorted(ip for ip, _ in self.pool.in_use()) == sorted(self.used)
        inside = [ip for ip in self.used if ip >= A("10.2.20.8")]
        assert (self.pool.used, self.pool.total) == (len(inside), 7)
        assert len(inside) + len(self.fresh) + len(self.rested) == 7


TestPoolMachine = PoolMachine.TestCase


@given(
    st.integers(16, 30).flatmap(
        lambda length: st.tuples(st.just(length), st.integers(length, 32), st.integers(0, 2**32 - 1))
    )
)
def test_every_range_is_inside_pool_and_ip_range(shape: tuple[int, int, int]) -> None:
    length, sub_length, number = shape
    cidr = N((number >> (32 - length) << (32 - length), length))
    subpool = N((number >> (32 - sub_length) << (32 - sub_length), sub_length))
    try:
        addresses = pool.Pool(cidr, subpool)
    except errors.PoolUnusable:
        assert {subpool.network_address, subpool.broadcast_address} <= {cidr.network_address, cidr.broadcast_address}
        return
    ip = take(addresses)
    assert ip in subpool
    assert cidr.network_address < ip < cidr.broadcast_address
    edge = {cidr.network_address, cidr.broadcast_address}
    assert addresses.total == subpool.num_addresses - sum(one in subpool for one in edge)
