"""What a soak says in the end."""

from __future__ import annotations

from lab import chaos_plan
from lab.chaos_report import Done, Report, format_report
from lab.chaos_verdict import Loss, Piece

KIND = {kind.name: kind for kind in chaos_plan.KINDS}


def done(name: str, target: str, begin_s: float, end_s: float) -> Done:
    fault = chaos_plan.Fault(number=1, kind=KIND[name], target=target, at_s=begin_s, lasts_s=0, draw=0)
    return Done(fault=fault, begin_s=begin_s, end_s=end_s)


def report(*pieces: Piece, troubles: tuple[str, ...] = ()) -> Report:
    return Report(
        done=(done("route-deleted", "h1", 103, 103), done("member-killed", "etcd1", 150, 160)),
        pieces=pieces,
        troubles=troubles,
        zero_s=100,
        worst_pause_s=0.3,
        sent=900,
        answered=890,
    )


def piece(begin_s: float, end_s: float) -> Piece:
    loss = Loss(source="h1", target="h2", begin_s=begin_s, end_s=end_s)
    return Piece(loss=loss, begin_s=begin_s, end_s=end_s)


def test_a_run_without_a_long_loss_passes() -> None:
    assert format_report(report(piece(103.2, 104.7))).splitlines() == [
        "",
        "fault                      times  worst loss nearby, s",
        "member-killed                  1  0.0",
        "route-deleted                  1  1.5",
        "",
        "probes sent 900, answered 890",
        "the watcher itself waited 0.3 s for a processor at worst",
        "the longest losses that nothing excuses (at most 10 s are allowed):",
        "    1.5 s  h1 > h2  from 3.2",
        "passed",
    ]


def test_a_long_loss_fails_and_names_the_faults_near_it() -> None:
    assert not report(piece(103.2, 115.2)).passed
    assert format_report(report(piece(103.2, 115.2))).splitlines()[-3:] == [
        "FAILED:  12.0 s  h1 > h2  from 3.2; near it:",
        "    route-deleted h1, 3.0 to 3.0",
        "not passed",
    ]


def test_a_fault_that_was_over_long_before_is_not_near() -> None:
    assert format_report(report(piece(116, 130))).splitlines()[-2:] == [
        "FAILED:  14.0 s  h1 > h2  from 16.0; near it:",
        "not passed",
    ]


def test_a_trouble_fails() -> None:
    assert not report(troubles=("h1: not ready",)).passed
    assert format_report(report(troubles=("h1: not ready",))).splitlines()[-2:] == [
        "FAILED: h1: not ready",
        "not passed",
    ]
