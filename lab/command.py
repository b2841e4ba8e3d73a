"""One way to run a command: bounded in time, output kept, failure as an error that shows the whole line.

Called by every part of the lab that touches the machine. Knows no namespaces; `machine` puts those in front.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO, TypeVar

from lab import errors

T = TypeVar("T")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a command answered."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        """Whether the command ended with code 0."""
        return self.code == 0

    @property
    def line(self) -> str:
        """The command as one would type it."""
        return shlex.join(self.argv)


def run(
    argv: Sequence[str],
    *,
    stdin: bytes | BinaryIO | None = None,
    timeout_s: float = 60,
    env: Mapping[str, str] | None = None,
    shown: Sequence[str] | None = None,
) -> Result:
    """Run a command to its end; a non-zero code is an answer, not an error.

    `shown` is what errors print in place of `argv`, for commands with a long prefix of no interest.
    Raises: Timeout; LabError if the program does not exist.
    """
    given = stdin if isinstance(stdin, bytes) else None
    source = None if isinstance(stdin, bytes) else stdin or subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if source is None else source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
        )
        with process:
            try:
                out, err = process.communicate(given, timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
    except subprocess.TimeoutExpired as exc:
        raise errors.Timeout(f"`{shlex.join(shown or argv)}` did not end within {timeout_s:g} s") from exc
    except FileNotFoundError as exc:
        raise errors.LabError(f"{argv[0]}: not installed on this machine") from exc
    return Result(
        argv=tuple(shown or argv),
        code=process.returncode,
        out=out.decode(errors="replace"),
        err=err.decode(errors="replace"),
    )


def check(result: Result) -> Result:
    """Give the result back if its code is 0.

    Raises: CommandFailed.
    """
    if not result.ok:
        raise errors.CommandFailed(result)
    return result


def wait_until(what: str, ready: Callable[[], bool], *, timeout_s: float, interval_s: float = 0.02) -> None:
    """Ask again and again until `ready()`; at least once, at most for `timeout_s`.

    Raises: Timeout, which names `what`.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise errors.Timeout(f"{what}: not within {timeout_s:g} s")
        time.sleep(interval_s)


def now() -> float:
    """Give the clock that waits are measured by, seconds."""
    return time.monotonic()


def each(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do the work for all items at once and give the answers in their order.

    All are run to their end before the first error is raised: whoever cleans up then finds nothing moving.
    """
    todo = list(items)
    if not todo:
        return []
    with concurrent.futures.ThreadPoolExecutor(max_workers=len(todo)) as pool:
        futures = [pool.submit(work, item) for item in todo]
    return [future.result() for future in futures]


def require_root(doing: str) -> None:
    """Refuse early and clearly.

    Raises: LabError.
    """
    if os.geteuid() != 0:
        raise errors.LabError(f"{doing} needs root: run it with `sudo`")
