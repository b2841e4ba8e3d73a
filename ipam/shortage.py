"""When a pool is nearly used up: from SHORT_PERCENT on, until it is below ENOUGH_PERCENT again.

Pure. Caller: `ipam.service`, which warns once for each time a pool becomes short. Two thresholds, or a container that
comes and goes would warn each time.
"""

from __future__ import annotations

SHORT_PERCENT = 80
ENOUGH_PERCENT = 70


class Shortages:
    """Which pools are short. Not thread-safe."""

    def __init__(self) -> None:
        self._short: set[str] = set()

    def notice(self, pool_id: str, used: int, total: int) -> bool:
        """Take note of a pool's use; whether it has just become short."""
        if used * 100 < ENOUGH_PERCENT * total:
            self._short.discard(pool_id)
        elif used * 100 >= SHORT_PERCENT * total and pool_id not in self._short:
            self._short.add(pool_id)
            return True
        return False

    def is_short(self, pool_id: str) -> bool:
        """Whether a pool was short when last noticed."""
        return pool_id in self._short

    def forget(self, pool_id: str) -> None:
        """A pool is gone; one of the same addresses starts anew."""
        self._short.discard(pool_id)
