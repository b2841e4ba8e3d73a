"""What a random run that failed leaves behind: the hosts as they are, and their logs. Called by `random_run`."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterable
from typing import Final

from lab import errors, host, site

_LOOKS: Final = (
    "ip -d link; ip addr; nft list ruleset; iptables-save; docker ps -a; "
    "docker network inspect $(docker network ls -q)"
)


def keep(directory: pathlib.Path, hosts: Iterable[host.Host]) -> None:
    """Write everything down; what cannot be had is said in its place."""
    directory.mkdir(parents=True, exist_ok=True)
    for on in hosts:
        (directory / f"{on.name}.txt").write_text("\n".join(_describe(on)))
        with contextlib.suppress(OSError):
            (directory / f"{on.name}-dockerd.log").write_bytes(on.log_path(host.DOCKERD).read_bytes())


def _describe(on: host.Host) -> list[str]:
    steps: list[Callable[[], str]] = [
        lambda: on.try_exec(["sh", "-xc", f"exec 2>&1; {_LOOKS}"], timeout_s=20).out,
        *(_asking(on, path) for path in ("/readyz", "/status", "/audit", "/metrics")),
    ]
    told = []
    for step in steps:
        try:
            told.append(step())
        except (errors.LabError, OSError) as exc:
            told.append(str(exc))
    return told


def _asking(on: host.Host, path: str) -> Callable[[], str]:
    return lambda: site.ask(on, path)[1]
