from __future__ import annotations

import ast
import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

from overlay import faults
from tests.overlay import node_host

WALK = """
import pathlib, sys
from overlay import faults
if sys.argv[1:]:
    faults.switch_on(pathlib.Path(sys.argv[1]))
for handler in ("Join", "Leave"):
    with faults.within(handler):
        for step in range(3):
            faults.reached("state.commit.before")
            faults.reached("state.commit.after")
faults.reached("kernel.link.before")
print("whole")
"""
COMMITS = ["state.commit.before", "state.commit.after"] * 3
REPOSITORY = pathlib.Path(faults.__file__).parent.parent
PACKAGES = ("overlay", "ipam", "driver", "plugin")
CHANGES = {
    "transact": ("kernel.link", "kernel.entries", "kernel.flow"),
    "write_text": ("kernel.sysctl",),
    "write_tx_checksum": ("kernel.feature",),
}
"""Calls that change the kernel wherever they stand, and the points one of which is to be on both sides of them."""


def walk(*directory: pathlib.Path) -> tuple[int, str]:
    """The status and output of a process that reaches three commits in each of two handlers."""
    done = subprocess.run(
        [sys.executable, "-c", WALK, *map(str, directory)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout


def give(directory: pathlib.Path, order: faults.Order) -> None:
    (directory / "order").write_text(json.dumps(dataclasses.asdict(order)))


def recorded(directory: pathlib.Path) -> list[str]:
    return (directory / "record").read_text().splitlines()


def test_unless_switched_on_no_order_is_read(tmp_path: pathlib.Path) -> None:
    give(tmp_path, faults.Order(point="state.commit.before"))
    assert walk() == (0, "whole\n")
    assert (tmp_path / "order").exists()


def test_the_record_has_every_point_with_its_handler_or_thread(tmp_path: pathlib.Path) -> None:
    (tmp_path / "record").touch()
    assert walk(tmp_path) == (0, "whole\n")
    expected = [f"{handler} {point}" for handler in ("Join", "Leave") for point in COMMITS]
    assert recorded(tmp_path) == [*expected, "MainThread kernel.link.before"]


def test_kill_strikes_in_the_named_handler_at_the_nth_hit_and_once(tmp_path: pathlib.Path) -> None:
    (tmp_path / "record").touch()
    give(tmp_path, faults.Order(point="state.commit.after", handler="Leave", nth=2))
    assert walk(tmp_path) == (-signal.SIGKILL, "")
    assert recorded(tmp_path) == [f"Join {point}" for point in COMMITS] + [f"Leave {point}" for point in COMMITS[:4]]
    assert walk(tmp_path) == (0, "whole\n"), "an order outlived its execution"


def test_hits_of_an_earlier_order_do_not_count_for_the_next(tmp_path: pathlib.Path) -> None:
    points = faults.Points(tmp_path)
    give(tmp_path, faults.Order(point="state.commit.after", nth=3, action="hold", hold_s=0))
    for _ in range(2):
        points.reached("state.commit.after", "Join")
    give(tmp_path, faults.Order(point="state.commit.after", nth=2, action="hold", hold_s=0))
    points.reached("state.commit.after", "Join")
    assert (tmp_path / "order").exists()
    points.reached("state.commit.after", "Join")
    assert not (tmp_path / "order").exists()


def test_hold_says_where_it_is_and_ends_with_go(tmp_path: pathlib.Path) -> None:
    points = faults.Points(tmp_path)
    give(tmp_path, faults.Order(point="kernel.link.after", action="hold"))
    thread = threading.Thread(target=points.reached, args=("kernel.link.after", "Join"))
    thread.start()
    node_host.until(lambda: (tmp_path / "held").exists() and (tmp_path / "held").read_text())
    assert (tmp_path / "held").read_text() == "Join kernel.link.after\n"
    assert thread.is_alive()
    (tmp_path / "go").touch()
    thread.join(5)
    assert not thread.is_alive()
    assert not (tmp_path / "held").exists()


def test_hold_is_bounded(tmp_path: pathlib.Path) -> None:
    give(tmp_path, faults.Order(point="kernel.link.after", action="hold", hold_s=0.05))
    faults.Points(tmp_path).reached("kernel.link.after", "Join")
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_every_point_is_listed_and_has_its_two_sides() -> None:
    found = {point for function in functions() for _, point in points_in(function)}
    assert found == {f"{name}.{side}" for name in faults.POINTS for side in ("before", "after")}


def test_every_change_of_the_kernel_is_between_two_points() -> None:
    bare = []
    for function in functions():
        points = points_in(function)
        for line, name in calls_in(function):
            before = {point.rpartition(".")[0] for at, point in points if at < line and point.endswith(".before")}
            after = {point.rpartition(".")[0] for at, point in points if at > line and point.endswith(".after")}
            if name in CHANGES and not before & after & set(CHANGES[name]):
                bare.append(f"{name} in {function.name}")
    assert bare == []


def functions() -> Iterator[ast.FunctionDef]:
    """Those of the product, but for what stands in for it in tests and the points' own."""
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).glob("*.py")):
            if path.name == "faults.py" or "fake" in path.name:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    yield node


def calls_in(function: ast.FunctionDef) -> list[tuple[int, str]]:
    """(line, name) of every method that is called."""
    return [
        (node.lineno, node.func.attr)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]


def points_in(function: ast.FunctionDef) -> list[tuple[int, str]]:
    """(line, point) of every one that is passed."""
    return [
        (node.lineno, ast.literal_eval(node.args[0]))
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "faults.reached"
    ]
