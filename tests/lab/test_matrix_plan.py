"""What the matrix runs, what of it is left, and its table."""

from __future__ import annotations

import dataclasses

from lab import config, matrix_plan

CELL = matrix_plan.Cell(
    scenario="suite", engine="28.5", firewall="nftables", live_restore=True, words=("-m", "pytest")
)
OTHER = matrix_plan.Cell(scenario="hypothesis", words=("-m", "pytest"))
RESULT = matrix_plan.Result(
    cell=CELL.name, commit="c1", code=0, took_s=600, said="90 passed in 600.00s", at="2026-11-25T03:00:00+00:00"
)


def test_every_cell_has_a_name_of_its_own_that_a_file_may_have() -> None:
    names = [cell.name for cell in matrix_plan.cells()]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").replace(".", "").replace("-", "").isalnum() for name in names)


def test_every_engine_runs_the_suite_with_every_firewall_it_has_and_with_live_restore() -> None:
    suites = {
        (cell.engine, cell.firewall, cell.live_restore) for cell in matrix_plan.cells() if cell.scenario == "suite"
    }
    both = {(engine, "iptables-nft", live) for engine in config.ENGINES for live in (False, True)}
    legacy = {(engine, "iptables-legacy", False) for engine in config.ENGINES}
    assert suites == both | legacy | {("28.5", "nftables", False), ("28.5", "nftables", True)}


def test_every_engine_operates_at_random_with_two_seeds() -> None:
    seeds = {
        (cell.engine, cell.words[cell.words.index("--seed") + 1])
        for cell in matrix_plan.cells()
        if cell.scenario.startswith("random")
    }
    assert seeds == {(engine, str(seed)) for engine in config.ENGINES for seed in matrix_plan.SEEDS}


def test_cells_are_chosen_by_patterns() -> None:
    assert matrix_plan.choose([CELL, OTHER], "") == [CELL, OTHER]
    assert matrix_plan.choose([CELL, OTHER], "suite_28.5_*, crowd_*") == [CELL]
    assert matrix_plan.choose([CELL, OTHER], "hypo*,*_live") == [CELL, OTHER]
    assert matrix_plan.choose([CELL, OTHER], "suite") == []


def test_what_passed_on_this_commit_is_not_left_over() -> None:
    wanted = [CELL, OTHER]
    assert matrix_plan.left_over(wanted, [], "c1") == wanted
    assert matrix_plan.left_over(wanted, [RESULT], "c1") == [OTHER]
    assert matrix_plan.left_over(wanted, [RESULT], "c2") == wanted
    failed = dataclasses.replace(RESULT, code=1)
    assert matrix_plan.left_over(wanted, [failed], "c1") == wanted
    assert matrix_plan.left_over(wanted, [failed, RESULT], "c1") == [OTHER]


def test_the_table_shows_the_last_result_of_each_cell_on_this_commit() -> None:
    failed = dataclasses.replace(RESULT, code=1, said="1 failed, 89 passed", took_s=630)
    elsewhere = dataclasses.replace(RESULT, commit="c0", cell=OTHER.name)
    assert matrix_plan.format_table([CELL, OTHER], [failed, RESULT, elsewhere], "c1").splitlines() == [
        "scenario    engine  firewall         live-restore  result    minutes  said",
        "suite       28.5    nftables         on            passed       10.0  90 passed in 600.00s",
        "hypothesis  -       -                off           not run",
        "1 of 2 passed, commit c1",
    ]
    assert "on            code 1       10.5  1 failed, 89 passed" in matrix_plan.format_table(
        [CELL], [RESULT, failed], "c1"
    )
