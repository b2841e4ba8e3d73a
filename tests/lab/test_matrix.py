"""Running a matrix: cells side by side, results kept, what passed not run again."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from lab import matrix, matrix_plan


def cell(name: str, code: int) -> matrix_plan.Cell:
    words = ("-c", f"import sys; print('begun'); print('{name} says so'); sys.exit({code})")
    return matrix_plan.Cell(scenario=name, words=words)


def make(path: pathlib.Path, *cells: matrix_plan.Cell, fresh: bool = False, commit: str = "c1") -> matrix.Matrix:
    return matrix.Matrix(matrix.Options(directory=path, fresh=fresh, width=2), commit, cells)


def test_all_cells_are_run_and_a_failed_one_fails_the_matrix(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not make(tmp_path, cell("good", 0), cell("bad", 3)).run()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["good", "-", "-", "off", "passed", "0.0", "good", "says", "so"] in rows
    assert ["bad", "-", "-", "off", "code", "3", "0.0", "bad", "says", "so"] in rows
    assert (tmp_path / "bad.log").read_text() == "begun\nbad says so\n"


def test_what_passed_is_not_run_again_on_the_same_commit(tmp_path: pathlib.Path) -> None:
    good, bad = cell("good", 0), cell("bad", 3)
    make(tmp_path, good, bad).run()
    (tmp_path / "good.log").unlink()
    assert make(tmp_path, good, dataclasses.replace(bad, words=("-c", ""))).run()
    assert not (tmp_path / "good.log").exists()
    assert make(tmp_path, good, commit="c2").run()
    assert (tmp_path / "good.log").exists()


def test_all_is_run_again_where_it_shall_be_fresh(tmp_path: pathlib.Path) -> None:
    good = cell("good", 0)
    make(tmp_path, good).run()
    (tmp_path / "good.log").unlink()
    assert make(tmp_path, good, fresh=True).run()
    assert (tmp_path / "good.log").exists()


def test_what_measures_runs_when_all_others_have_ended(tmp_path: pathlib.Path) -> None:
    ended = tmp_path / "ended"
    slow = cell("slow", 0)
    slow = dataclasses.replace(slow, words=("-c", f"import time; time.sleep(0.5); open({str(ended)!r}, 'w')"))
    look = f"import os, sys; sys.exit(not os.path.exists({str(ended)!r}))"
    assert make(tmp_path, dataclasses.replace(slow, scenario="crowd", words=("-c", look), alone=True), slow).run()
