"""`make matrix`: everything that is too long for `make test`, three cells side by side, a table in the end.

What passed on this commit is not run again, so that a matrix cut short goes on where it was; every cell's output is
kept under build/matrix. What the cells are, `matrix_plan` says. Called by `cli`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import json
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

import click

from lab import command, matrix_plan

DIRECTORY: Final = pathlib.Path("build/matrix")
CELL_S: Final = 5400.0
"""After this a cell is ended: the longest takes half an hour on an idle machine."""
_END_S: Final = 60.0
_SAID_LENGTH: Final = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """only: patterns for cells' names, with commas; fresh: run also what passed on this commit; width: at a time."""

    only: str = ""
    fresh: bool = False
    width: int = 3
    directory: pathlib.Path = DIRECTORY


def run(options: Options) -> bool:
    """Run what is left, tell; True if all that was chosen has passed on this commit."""
    return _make(options).run()


def show(options: Options) -> str:
    """The table as it stands, with nothing run."""
    return _make(options).table()


def _make(options: Options) -> Matrix:
    return Matrix(options, _commit(), matrix_plan.choose(matrix_plan.cells(), options.only))


class Matrix:
    """One call of `make matrix`. The results' file is only ever added to."""

    def __init__(self, options: Options, commit: str, wanted: Sequence[matrix_plan.Cell]) -> None:
        self._options = options
        self._commit = commit
        self._wanted = wanted
        self._file = options.directory / "results.jsonl"
        self._lock = threading.Lock()  # over the file and what runs
        self._running: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()

    def run(self) -> bool:
        """See the module. Cells under way are ended as by Ctrl-C if this is interrupted."""
        self._options.directory.mkdir(parents=True, exist_ok=True)
        before = [] if self._options.fresh else self._results()
        todo = matrix_plan.left_over(self._wanted, before, self._commit)
        click.echo(f"commit {self._commit}: {len(todo)} of {len(self._wanted)} cells to run")
        pool = concurrent.futures.ThreadPoolExecutor(max_workers=self._options.width)
        try:
            for future in [pool.submit(self._do, cell) for cell in todo if not cell.alone]:
                future.result()
            for cell in todo:
                if cell.alone:
                    self._do(cell)
        finally:
            self._end()
            pool.shutdown(cancel_futures=True)
        click.echo(self.table())
        return not matrix_plan.left_over(self._wanted, self._results(), self._commit)

    def table(self) -> str:
        """All that was chosen, as it stands."""
        return matrix_plan.format_table(self._wanted, self._results(), self._commit)

    def _do(self, cell: matrix_plan.Cell) -> None:
        log = self._options.directory / f"{cell.name}.log"
        began = time.monotonic()
        with log.open("wb") as out:
            with self._lock:
                if self._over.is_set():
                    return
                # In a group of its own: Ctrl-C reaches it through us, once
                process = subprocess.Popen(
                    [sys.executable, *cell.words], stdout=out, stderr=out, stdin=subprocess.DEVNULL, process_group=0
                )
                self._running.append(process)
            click.echo(f"{_now()} {cell.name} begins")
            code = _wait(process)
        with self._lock:
            self._running.remove(process)
            if self._over.is_set():
                return
            result = matrix_plan.Result(
                cell=cell.name,
                commit=self._commit,
                code=code,
                took_s=time.monotonic() - began,
                said=_last_line(log),
                at=_now(),
            )
            with self._file.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(result)) + "\n")
        click.echo(
            f"{_now()} {cell.name} ended, code {code}: {result.said}" + ("" if result.passed else f"; see {log}")
        )

    def _end(self) -> None:
        with self._lock:
            self._over.set()
            running = list(self._running)
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)

    def _results(self) -> list[matrix_plan.Result]:
        if not self._file.exists():
            return []
        return [matrix_plan.Result(**json.loads(line)) for line in self._file.read_text().splitlines()]


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a cell. One that takes too long is asked to end, so that its lab goes away, and then ended."""
    for timeout_s, number in ((CELL_S, signal.SIGINT), (_END_S, signal.SIGKILL)):
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    return process.wait()


def _commit() -> str:
    """The commit, with a + where files differ from it."""
    head = command.check(command.run(["git", "rev-parse", "--short=10", "HEAD"])).out.strip()
    changed = command.run(["git", "status", "--porcelain", "--untracked-files=no"]).out.strip()
    return f"{head}+" if changed else head


def _last_line(log: pathlib.Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:_SAID_LENGTH] if lines else ""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
