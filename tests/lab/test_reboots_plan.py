"""The schedule of reboots: reproducible, and with every kind in a few rounds."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from lab import reboots, reboots_plan


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert reboots_plan.plan(7, 20) == reboots_plan.plan(7, 20)
    assert reboots_plan.plan(7, 20) != reboots_plan.plan(8, 20)


def test_a_longer_schedule_begins_like_a_shorter_one() -> None:
    assert reboots_plan.plan(7, 50)[:12] == reboots_plan.plan(7, 12)


@pytest.mark.parametrize("seed", range(10))
def test_every_kind_comes_soon(seed: int) -> None:
    made = reboots_plan.plan(seed, 10)
    assert [one.number for one in made] == list(range(1, 11))
    assert sorted(one.cut for one in made) == sorted(typing.get_args(reboots_plan.Cut) * 2)
    assert sorted(one.etcd for one in made) == ["down"] * 4 + ["late"] + ["up"] * 5


@pytest.mark.parametrize("seed", range(10))
def test_only_an_idle_host_is_cut_off_at_once(seed: int) -> None:
    for one in reboots_plan.plan(seed, 50):
        assert (one.after_s == 0) == (one.cut == "idle")
        assert 0 <= one.after_s <= 6
        assert 0 <= one.off_s <= 2


def test_a_late_etcd_is_late_by_more_than_the_wait_for_a_first_lease() -> None:
    assert reboots_plan.LATE_S > 60


def test_a_round_is_a_line_of_the_table_and_its_troubles_stand_below() -> None:
    which = reboots_plan.Round(number=3, hosts=("h1", "h2"), etcd="late", cut="rm", after_s=0.5, off_s=1.0)
    passed = reboots.Outcome(round=which, back_s=12.34, clean_s=80.0, troubles=())
    assert (
        reboots.format_outcome(passed)
        == "    3  h1,h2  late  rm            0.50    12.3     80.0  all back, nothing left"
    )
    assert reboots.format_outcome(dataclasses.replace(passed, remark=", but")).endswith("nothing left, but")
    failed = dataclasses.replace(passed, troubles=("h1: plain has None",))
    assert reboots.format_outcome(failed).splitlines()[1] == "       h1: plain has None"
    assert reboots.format_outcome(failed).splitlines()[0].endswith("FAILED")
