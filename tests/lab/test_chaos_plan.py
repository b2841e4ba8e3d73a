"""The schedule of a soak: reproducible, bounded, and no two faults at one thing."""

from __future__ import annotations

import itertools

import pytest

from lab import chaos_plan

HOSTS = ("h1", "h2", "h3", "h4")
MEMBERS = ("etcd1", "etcd2", "etcd3")


def plan(seed: int, seconds: float = 1800) -> tuple[chaos_plan.Fault, ...]:
    return chaos_plan.plan(seed, seconds, HOSTS, MEMBERS)


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert plan(7) == plan(7)
    assert plan(7) != plan(8)


def test_a_longer_soak_begins_like_a_shorter_one() -> None:
    short = plan(7, 180)
    assert plan(7, 1800)[: len(short)] == short


@pytest.mark.parametrize("seed", range(20))
def test_every_fault_is_within_its_bounds(seed: int) -> None:
    made = plan(seed)
    assert [fault.number for fault in made] == list(range(1, len(made) + 1))
    for fault in made:
        low, high = fault.kind.lasts_s
        assert 0 < fault.at_s < 1800
        assert low <= fault.lasts_s <= high <= 20
        assert 0 <= fault.draw < 1
        assert fault.target in {"host": HOSTS, "member": MEMBERS, "cluster": ("etcd",)}[fault.kind.where]
    assert all(one.at_s < other.at_s for one, other in itertools.pairwise(made))


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_held_by_two_faults_at_once(seed: int) -> None:
    free_s: dict[str, float] = {}
    for fault in plan(seed):
        for name in fault.resources:
            assert free_s.get(name, 0.0) <= fault.at_s, f"{fault} takes {name}, which is free from {free_s[name]}"
            free_s[name] = fault.free_s


def test_a_fault_of_a_host_holds_the_host_and_others_hold_none() -> None:
    for fault in plan(1):
        assert fault.resources & set(HOSTS) == ({fault.target} if fault.kind.where == "host" else set())


def test_half_an_hour_has_every_kind_and_many_at_a_time() -> None:
    made = [fault for seed in range(4) for fault in plan(seed)]
    assert {fault.kind.name for fault in made} == {kind.name for kind in chaos_plan.KINDS}
    one = plan(0)
    at_once = [sum(other.at_s <= fault.at_s < other.free_s for other in one) for fault in one]
    assert max(at_once) >= 4


def test_three_minutes_have_something_of_every_lane() -> None:
    made = {fault.kind for fault in plan(3, 180)}
    assert all(made & set(kinds) for kinds, _ in chaos_plan.LANES)


def test_every_kind_is_in_one_lane() -> None:
    in_lanes = [kind.name for kinds, _ in chaos_plan.LANES for kind in kinds]
    assert sorted(in_lanes) == sorted(kind.name for kind in chaos_plan.KINDS)


def test_only_what_cuts_a_host_off_excuses_it() -> None:
    excusing = {fault.kind.name for fault in plan(1) if fault.excused is not None}
    assert excusing <= {"cable-pulled", "nic-bounced", "left-and-joined", "left-for-good", "rebooted"}
    assert all(fault.excused in (None, fault.target) for fault in plan(1))
