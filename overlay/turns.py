"""One lock per owner, kept no longer than somebody uses it: endpoints come and go.

Used by `reconciler`, `nodes`, `ipam.claims` and `driver.service`. Safe to call from any thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator


class Turns:
    """Serialises the changes of each owner, and lets different owners pass."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[str, _Turn] = {}

    def __len__(self) -> int:
        """How many owners are at it or wait."""
        with self._lock:
            return len(self._turns)

    @contextlib.contextmanager
    def of(self, owner: str) -> Iterator[None]:
        """Wait until nobody else has the owner's turn, and have it."""
        with self._lock:
            turn = self._turns.setdefault(owner, _Turn())
            turn.users += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._lock:
                turn.users -= 1
                if not turn.users:
                    del self._turns[owner]


@dataclasses.dataclass(slots=True)
class _Turn:
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    users: int = 0
