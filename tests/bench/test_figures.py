"""From samples to figures, the file and the table."""

from __future__ import annotations

import json

import pytest

from bench import figures

FIGURE = figures.Figure(name="listen_s", value=0.4, unit="s", rounds=10, spread=(0.3, 0.5))


def test_a_median_shows_its_quartiles() -> None:
    made = figures.median("start_vs_bridge", "", [1.0, 1.3, 1.1, 1.2])
    assert made == figures.Figure(name="start_vs_bridge", value=1.15, unit="", rounds=4, spread=(1.0, 1.2))


def test_a_tail_shows_the_calmest_and_the_wildest_quarter() -> None:
    made = figures.tail("handlers_start_p99_ms", "ms", [1.0] * 50 + [2.0] * 50 + [9.0] * 50 + [3.0] * 50)
    assert (made.value, made.rounds, made.spread) == (9.0, 200, (1.0, 9.0))


def test_the_usual_tail_forgives_one_bad_batch_and_shows_it() -> None:
    made = figures.usual_tail("request_address_p99_ms", "ms", [[1.0, 2.0], [1.0, 3.0], [1.0, 90.0]])
    assert (made.value, made.rounds, made.spread) == (3.0, 6, (2.0, 90.0))


def test_figures_have_four_digits() -> None:
    assert figures.median("x", "ms", [0.123456]).value == 0.1235


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [("listen_s", 1.0, "met"), ("listen_s", 1.01, "missed"), ("rtt_vs_vxlan_host", 9.0, "")],
)
def test_a_limit_may_be_reached_and_not_passed(name: str, value: float, verdict: str) -> None:
    assert figures.Figure(name=name, value=value, unit="s", rounds=1, spread=(value, value)).verdict == verdict


def test_the_file_has_the_promised_form() -> None:
    text = figures.format_results("2 x CPU", "2026-11-23T23:00:00+00:00", [FIGURE])
    assert json.loads(text) == {
        "machine": "2 x CPU",
        "date": "2026-11-23T23:00:00+00:00",
        "figures": [{"name": "listen_s", "value": 0.4, "unit": "s", "rounds": 10, "spread": [0.3, 0.5]}],
    }


def test_the_table_names_target_and_verdict() -> None:
    assert figures.format_table([FIGURE]).splitlines() == [
        "figure    value  spread      rounds  target",
        "listen_s  0.4 s  0.3 .. 0.5  10      <= 1    met",
    ]
