"""kill -9 in the middle of it: what was answered is on disk, and no address was answered twice."""

from __future__ import annotations

import itertools
import os
import pathlib
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.ipam.conftest import World

SCRIPT = pathlib.Path(__file__).parent / "data" / "allocate_until_killed.py"
ROOT = pathlib.Path(__file__).parents[2]
THREADS = 8


def run_and_kill(path: pathlib.Path, after: int) -> list[str]:
    """What the script told until it was killed after so many lines; a line cut short was not told."""
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        told = list(itertools.islice(process.stdout, after))
        process.kill()
        told += list(process.stdout)
    return [line.strip() for line in told if line.endswith("\n")]


def test_acknowledged_addresses_survive_kill_9_and_are_never_doubled(
    tmp_path: pathlib.Path, world_in: Callable[[pathlib.Path], World]
) -> None:
    granted: set[str] = set()  # told, and no release begun
    unsure: set[str] = set()  # the process died while it released them
    for after in (1, 50, 333, 1000, 1001):
        told = run_and_kill(tmp_path / "state.db", after)
        assert len(told) >= after
        for line in told:
            sign, ip = line[0], line[1:]
            if sign == "+":
                assert ip not in granted, f"{ip} was granted twice"
                granted.add(ip)
                unsure.discard(ip)
            else:
                granted.remove(ip)
                unsure.add(ip)
        world = world_in(tmp_path)
        on_disk = {str(row.ip) for row in world.start().addresses()}
        assert world.rows("PRAGMA integrity_check") == [("ok",)]
        world.files.pop().close()
        assert granted <= on_disk
        unheard = on_disk - granted - unsure
        assert len(unheard) <= THREADS, "more rows than answers under way"
        granted |= unheard
        granted |= unsure & on_disk
        unsure.clear()
