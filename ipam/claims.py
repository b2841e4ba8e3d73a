"""Who uses which flannel network, so that its lease is given back when nobody does.

Caller: `ipam.service`. Without this a network being created could lose the lease it waits for to one being removed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator

from overlay import errors, holdings, turns

log = logging.getLogger(__name__)


class Claims:
    """Counts the requests under way by prefix; `in_use` tells the prefixes that have pools. Thread-safe."""

    def __init__(self, holdings_: holdings.Holdings, in_use: Callable[[], set[str]]) -> None:
        self._holdings = holdings_
        self._in_use = in_use
        self._lock = threading.Lock()  # over the counter; never held while a network is left
        self._turns = turns.Turns()  # of each prefix: a request that comes while it is left joins again afterwards
        self._waiting: Counter[str] = Counter()

    @contextlib.contextmanager
    def hold(self, prefix: str | None) -> Iterator[None]:
        """Keep `prefix` from being left inside the block; afterwards leave it if it has no pool."""
        if prefix is None:  # the default one is never left
            yield
            return
        with self._turns.of(prefix), self._lock:
            self._waiting[prefix] += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting[prefix] -= 1
            self.leave_if_unused(prefix)

    def leave_if_unused(self, prefix: str) -> None:
        """Give the subnet back unless a pool or a request needs it. Never raises: the engine asks only once."""
        with self._turns.of(prefix):
            with self._lock:
                if self._waiting[prefix] or prefix in self._in_use():
                    return
                del self._waiting[prefix]
            try:
                self._holdings.leave(prefix)
            except errors.OverlayError as exc:
                log.warning("cannot give the subnet back prefix=%s reason=%s", prefix, exc)
