"""What a random run says in the end."""

from __future__ import annotations

import dataclasses

from lab import random_hand, random_oracle, random_plan, random_report


def outcome(kind: str, took_s: float, refused: str = "") -> random_hand.Outcome:
    operation = random_plan.Operation(host="h1", kind=kind, target="c0")
    return random_hand.Outcome(operation=operation, began_s=0.0, took_s=took_s, refused=refused)


GOOD = random_report.Report(
    outcomes=[outcome("run", 0.4), outcome("run", 1.2), outcome("run", 0.5), outcome("kill", 0.1, "404 No such")],
    refusals={"it is not there": 1},
    found=[],
    troubles=[],
    looks=5,
    settled_s=(0.4, 61.0),
    took_s=2.0,
)


def test_a_run_without_differences_passes_and_tells_what_it_did() -> None:
    assert GOOD.passed
    assert random_report.format_report(GOOD).splitlines() == [
        "",
        "operation            times  refused  median and longest, s",
        "kill                     1        1  0.10 0.10",
        "run                      3        0  0.50 1.20",
        "in all                   4        1  2.00 operations a second",
        "",
        "refused, as it should be: 1 times because it is not there",
        "5 looks; all agreed within 0.4 s, after kills within 61.0 s",
        "leaked 0, missing 0, doubled 0, docker 0, audit 0",
        "passed",
    ]


def test_a_difference_fails_it_and_is_told() -> None:
    found = random_oracle.Difference(sort=random_oracle.Sort.LEAKED, text="h1: address in use: 10.2.5.9")
    report = dataclasses.replace(GOOD, found=[found])
    assert not report.passed
    assert random_report.format_report(report).splitlines()[-3:] == [
        "leaked 1, missing 0, doubled 0, docker 0, audit 0",
        "FAILED: leaked: h1: address in use: 10.2.5.9",
        "not passed",
    ]


def test_a_refusal_out_of_order_fails_it() -> None:
    report = dataclasses.replace(GOOD, troubles=["0.1: h1 run c0: 500 unexpected"])
    assert not report.passed
    assert "FAILED: 0.1: h1 run c0: 500 unexpected" in random_report.format_report(report)
