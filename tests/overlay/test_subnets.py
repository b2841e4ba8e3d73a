from __future__ import annotations

import datetime
import ipaddress
import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import errors, lease, netconfig, registry, subnets

MINE = ipaddress.IPv4Address("192.0.2.1")
OURS = lease.LeaseAttrs(public_ip=MINE)
THEIRS = ipaddress.IPv4Address("192.0.2.2")


def config(**members: object) -> netconfig.NetworkConfig:
    return netconfig.parse_network_config(
        json.dumps({"Network": "10.3.0.0/16", "Backend": {"Type": "vxlan"}} | members)
    )


DUAL = {"EnableIPv6": True, "IPv6Network": "fc00::/48"}


def key(text: str) -> lease.SubnetKey:
    return lease.parse_subnet_key(text)


def held(text: str, public_ip: ipaddress.IPv4Address = THEIRS, lease_id: int = 7) -> lease.Lease:
    return lease.Lease(key=key(text), attrs=lease.LeaseAttrs(public_ip=public_ip), lease_id=lease_id)


def snapshot(*leases: lease.Lease) -> registry.Snapshot:
    return registry.Snapshot(revision=9, leases={one.key: one for one in leases})


def first(_count: int) -> int:
    return 0


def test_own_lease_is_taken_again() -> None:
    mine = held("10.3.9.0-24", MINE)
    assert subnets.choose_subnet(config(), snapshot(held("10.3.8.0-24"), mine), OURS, None, first) == subnets.Reuse(
        lease=mine
    )


def test_of_two_own_leases_the_saved_one_is_taken_then_the_first_in_key_order() -> None:
    low, high = held("10.3.10.0-24", MINE), held("10.3.9.0-24", MINE)
    both = snapshot(high, low)
    assert subnets.choose_subnet(config(), both, OURS, None, first) == subnets.Reuse(lease=low)
    assert subnets.choose_subnet(config(), both, OURS, high.key, first) == subnets.Reuse(lease=high)


@pytest.mark.parametrize("outgrown", ["10.4.9.0-24", "10.3.9.0-25", "10.3.0.0-24", "10.3.9.0-24&fc00:0:0:1::-64"])
def test_an_own_lease_that_the_config_outgrew_is_left_alone(outgrown: str) -> None:
    mine = held(outgrown, MINE)
    choice = subnets.choose_subnet(config(), snapshot(mine), OURS, mine.key, first)
    assert isinstance(choice, subnets.Fresh)
    assert not choice.key.v4.overlaps(mine.key.v4)
    assert subnets.list_outgrown(config(), snapshot(mine), OURS) == [mine]


def test_a_later_own_lease_that_fits_beats_an_earlier_one_that_does_not() -> None:
    fitting = held("10.3.9.0-24", MINE)
    both = snapshot(held("10.2.9.0-24", MINE), fitting)
    assert subnets.choose_subnet(config(), both, OURS, None, first) == subnets.Reuse(lease=fitting)


def test_reservations_and_other_hosts_leases_are_never_outgrown() -> None:
    assert subnets.list_outgrown(config(), snapshot(held("10.4.9.0-24", MINE, 0), held("10.4.8.0-24")), OURS) == []


def test_the_saved_subnet_is_taken_when_free() -> None:
    choice = subnets.choose_subnet(config(), snapshot(held("10.3.1.0-24")), OURS, key("10.3.6.0-24"), first)
    assert choice == subnets.Fresh(key=key("10.3.6.0-24"))


@pytest.mark.parametrize("other", ["10.3.6.0-24", "10.3.6.128-25", "10.3.0.0-20", "10.3.6.0-24&fc00:0:0:1::-64"])
def test_a_saved_subnet_that_overlaps_a_lease_is_not_taken(other: str) -> None:
    choice = subnets.choose_subnet(config(), snapshot(held(other)), OURS, key("10.3.6.0-24"), first)
    assert isinstance(choice, subnets.Fresh)
    assert not choice.key.v4.overlaps(key(other).v4)


@pytest.mark.parametrize("saved", ["10.4.1.0-24", "10.3.6.0-25", "10.3.0.0-24"])
def test_a_saved_subnet_outside_the_config_is_not_taken(saved: str) -> None:
    assert subnets.choose_subnet(config(), snapshot(), OURS, key(saved), first) == subnets.Fresh(
        key=key("10.3.1.0-24")
    )


def test_one_of_the_first_hundred_free_is_picked() -> None:
    asked = []

    def last(count: int) -> int:
        asked.append(count)
        return count - 1

    choice = subnets.choose_subnet(config(), snapshot(held("10.3.50.0-24")), OURS, None, last)
    assert (asked, choice) == ([100], subnets.Fresh(key=key("10.3.101.0-24")))


def test_a_new_ipv6_subnet_has_the_number_of_the_ipv4_one_beside_plain_leases() -> None:
    """Two hosts that join at once never have one number: etcd compares the keys of IPv4 subnets."""
    taken = snapshot(held("10.3.1.0-24"), held("10.3.2.0-24&fc00:0:0:1::-64"))
    assert subnets.choose_subnet(config(**DUAL), taken, OURS, None, first) == subnets.Fresh(
        key=key("10.3.3.0-24&fc00:0:0:3::-64")
    )


def test_a_number_that_is_taken_in_ipv6_is_left_for_a_free_one() -> None:
    """By a flanneld, which chooses each family for itself."""
    taken = snapshot(held("10.3.2.0-24&fc00:0:0:1::-64"))
    assert subnets.choose_subnet(config(**DUAL), taken, OURS, None, first) == subnets.Fresh(
        key=key("10.3.1.0-24&fc00:0:0:2::-64")
    )


def test_a_number_that_ipv6_does_not_have_is_left_for_a_free_one() -> None:
    narrow = config(**DUAL, IPv6SubnetMax="fc00:0:0:2::")
    choice = subnets.choose_subnet(narrow, snapshot(held("10.3.1.0-24"), held("10.3.2.0-24")), OURS, None, first)
    assert choice == subnets.Fresh(key=key("10.3.3.0-24&fc00:0:0:1::-64"))


@pytest.mark.parametrize(("taken", "expected"), [("10.3.9.0-24", "fc00:0:0:40::"), ("10.3.6.0-24", "fc00:0:0:1::")])
def test_the_saved_ipv6_subnet_is_kept_beside_the_saved_ipv4_one_alone(taken: str, expected: str) -> None:
    saved = key("10.3.6.0-24&fc00:0:0:40::-64")
    choice = subnets.choose_subnet(config(**DUAL), snapshot(held(taken)), OURS, saved, first)
    assert isinstance(choice, subnets.Fresh)
    assert str(choice.key.v6) == f"{expected}/64"


def test_the_saved_ipv4_subnet_is_kept_when_ipv6_comes_in() -> None:
    choice = subnets.choose_subnet(config(**DUAL), snapshot(), OURS, key("10.3.6.0-24"), first)
    assert choice == subnets.Fresh(key=key("10.3.6.0-24&fc00:0:0:6::-64"))


def test_a_full_network_names_who_holds_what() -> None:
    full = snapshot(held("10.3.64.0-18"), held("10.3.128.0-18", lease_id=0), held("10.3.192.0-18"))
    with pytest.raises(errors.OutOfSubnets) as caught:
        subnets.choose_subnet(config(SubnetLen=18), full, OURS, None, first)
    assert str(caught.value).startswith(
        "out of subnets in 10.3.0.0/16: none of the 3 subnets of /18 from 10.3.64.0/18 to 10.3.192.0/18 is free: "
        "3 leases: 10.3.64.0/18 by 192.0.2.2, 10.3.128.0/18 reserved for 192.0.2.2, 10.3.192.0/18 by 192.0.2.2"
    )


def test_the_holders_are_named_with_the_time_until_which_each_holds() -> None:
    full = snapshot(held("10.3.64.0-18"), held("10.3.128.0-18", lease_id=0), held("10.3.192.0-18"))
    ends = {key("10.3.64.0-18"): datetime.datetime(2026, 11, 24, 14, 2, 31, tzinfo=datetime.UTC)}
    assert subnets.describe_holders(full, ends).startswith(
        "3 leases: 10.3.64.0/18 by 192.0.2.2 until 2026-11-24 14:02 UTC, 10.3.128.0/18 reserved for 192.0.2.2, "
        "10.3.192.0/18 by 192.0.2.2; "
    )


def test_no_more_than_five_holders_are_asked_for() -> None:
    full = snapshot(*(held(f"10.3.{number}.0-24") for number in range(8, 0, -1)))
    assert [str(one.key) for one in subnets.list_shown(full)] == [f"10.3.{number}.0/24" for number in range(1, 6)]


def test_a_long_list_of_holders_is_cut() -> None:
    full = snapshot(*(held(f"10.3.{number}.0-24") for number in range(256)))
    with pytest.raises(errors.OutOfSubnets, match=r"256 leases: .* and 251 more"):
        subnets.choose_subnet(config(), full, OURS, None, first)


def test_a_range_without_subnets_says_so() -> None:
    with pytest.raises(errors.OutOfSubnets, match="SubnetMax lies before SubnetMin"):
        subnets.choose_subnet(config(SubnetMin="10.3.9.0", SubnetMax="10.3.8.0"), snapshot(), OURS, None, first)


def test_the_top_of_the_address_space_is_no_special_place() -> None:
    taken = [held(f"255.255.{number}.0-24") for number in range(1, 255)]
    choice = subnets.choose_subnet(config(Network="255.255.0.0/16"), snapshot(*taken), OURS, None, first)
    assert choice == subnets.Fresh(key=key("255.255.255.0-24"))


def test_ten_thousand_leases_in_a_slash_8_take_no_time() -> None:
    wide = config(Network="10.0.0.0/8")
    taken = snapshot(
        *(
            lease.Lease(
                key=lease.SubnetKey(v4=wide.require_v4().at(number)), attrs=lease.LeaseAttrs(public_ip=THEIRS)
            )
            for number in range(10_000)
        )
    )
    began = time.process_time()
    choice = subnets.choose_subnet(wide, taken, OURS, None, first)
    assert time.process_time() - began < 1.0
    assert choice == subnets.Fresh(key=lease.SubnetKey(v4=wide.require_v4().at(10_000)))


LEASES = st.builds(
    lambda address, length: ipaddress.IPv4Network(
        ((int(ipaddress.IPv4Address("10.3.0.0")) + address) >> (32 - length) << (32 - length), length)
    ),
    st.integers(0, 2**16 - 1),
    st.integers(14, 30),
)


@given(st.lists(LEASES, max_size=40, unique=True), st.integers(20, 28), st.randoms(), st.none() | LEASES)
def test_the_choice_is_in_range_and_overlaps_no_lease(
    taken: list[ipaddress.IPv4Network],
    subnet_len: int,
    chance: random.Random,
    saved: ipaddress.IPv4Network | None,
) -> None:
    asked = config(SubnetLen=subnet_len)
    leases = [
        lease.Lease(key=lease.SubnetKey(v4=net), attrs=lease.LeaseAttrs(public_ip=THEIRS), lease_id=7)
        for net in taken
    ]
    before = lease.SubnetKey(v4=saved) if saved else None
    wanted = asked.require_v4()
    try:
        choice = subnets.choose_subnet(asked, snapshot(*leases), OURS, before, chance.randrange)
    except errors.OutOfSubnets:
        assert all(any(subnet.overlaps(net) for net in taken) for subnet in wanted.iter_subnets())
        return
    assert isinstance(choice, subnets.Fresh)
    assert wanted.holds(choice.key.v4)
    assert not any(choice.key.v4.overlaps(net) for net in taken)
