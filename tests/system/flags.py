"""Other flags for one dockerd, for as long as a test needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from lab import host

LIVE_RESTORE = "--live-restore"


@contextlib.contextmanager
def other_flags(on: host.Host) -> Iterator[Callable[..., None]]:
    """Gives what restarts dockerd with more flags, live-restore only if named; afterwards it is as before."""
    before = on.dockerd_args

    def restart_with(*more: str) -> None:
        on.dockerd_args = (*(one for one in before if one != LIVE_RESTORE), *more)
        on.restart_dockerd()

    try:
        yield restart_with
    finally:
        on.dockerd_args = before
        on.restart_dockerd()
