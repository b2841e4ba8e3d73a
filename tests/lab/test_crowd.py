"""How a crowd is judged: the plugin's own histogram, and that all run."""

from __future__ import annotations

import dataclasses

from lab import crowd

TEXT = """\
# TYPE flannelpy_call_seconds histogram
flannelpy_call_seconds_bucket{le="0.05",method="NetworkDriver.Join",status="200"} 90.0
flannelpy_call_seconds_bucket{le="0.1",method="NetworkDriver.Join",status="200"} 99.0
flannelpy_call_seconds_bucket{le="+Inf",method="NetworkDriver.Join",status="200"} 99.0
flannelpy_call_seconds_bucket{le="0.05",method="NetworkDriver.Join",status="400"} 0.0
flannelpy_call_seconds_bucket{le="0.1",method="NetworkDriver.Join",status="400"} 0.0
flannelpy_call_seconds_bucket{le="+Inf",method="NetworkDriver.Join",status="400"} 1.0
flannelpy_call_seconds_count{method="NetworkDriver.Join",status="200"} 99.0
"""
CALLS = {
    ("NetworkDriver.Join", 0.05): 90.0,
    ("NetworkDriver.Join", 0.1): 99.0,
    ("NetworkDriver.Join", float("inf")): 100.0,
}
GOOD = crowd.Seen(containers=20, took_s=4.0, calls=CALLS, troubles=[])


def test_the_histogram_is_read_for_all_statuses_together() -> None:
    assert crowd.parse_calls(TEXT) == CALLS


def test_99_calls_of_100_must_be_quick() -> None:
    assert crowd.is_quick(CALLS)
    assert not crowd.is_quick({**CALLS, ("NetworkDriver.Join", 0.1): 98.0})


def test_a_method_is_sluggish_if_half_of_its_calls_take_more_than_half_a_second() -> None:
    leave = {("NetworkDriver.Leave", 0.1): 0.0, ("NetworkDriver.Leave", float("inf")): 100.0}
    calls = {**CALLS, ("NetworkDriver.Join", 0.5): 99.0, **leave}
    assert crowd.list_sluggish({**calls, ("NetworkDriver.Leave", 0.5): 49.0}) == ["NetworkDriver.Leave"]
    assert crowd.list_sluggish({**calls, ("NetworkDriver.Leave", 0.5): 50.0}) == []


def test_a_good_crowd_passes_and_says_how_long_calls_took() -> None:
    assert GOOD.passed
    assert crowd.format_seen(GOOD).splitlines() == [
        "20 containers started at once, all in 4.0 s",
        "call                                           times  within 100 ms; 99 of 100 within",
        "NetworkDriver.Join                               100  99.0%; 100 ms",
        "all                                              100  99.0%; 100 ms",
        "passed",
    ]


def test_a_container_that_does_not_run_fails_it() -> None:
    bad = dataclasses.replace(GOOD, troubles=["19 of 20 run"])
    assert not bad.passed
    assert crowd.format_seen(bad).splitlines()[-2:] == ["FAILED: 19 of 20 run", "not passed"]


def test_slow_calls_fail_it() -> None:
    bad = dataclasses.replace(GOOD, calls={**CALLS, ("NetworkDriver.Join", 0.1): 90.0})
    assert crowd.format_seen(bad).splitlines()[-2:] == [
        "FAILED: less than 99 of 100 calls took at most 100 ms",
        "not passed",
    ]


def test_the_kernels_own_share_is_told_and_judges_nothing() -> None:
    seen = dataclasses.replace(GOOD, lock_s=[0.2] * 3 + [0.01] * 97)
    assert (
        "(the kernel's lock alone)                        100  97.0%; 200 ms" in crowd.format_seen(seen).splitlines()
    )
    assert seen.passed
