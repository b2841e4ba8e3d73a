"""Which snapshot of a network's leases a node believes: one without most peers only if a second says so, too.

Used by `node` alone, from the thread that follows the watch. What is doubtful is decided in `peers`, which is pure.
"""

from __future__ import annotations

import logging
import threading

from overlay import errors, peers, registry, standing, tally

log = logging.getLogger(__name__)


class Doubt:
    """Looks again before anything goes."""

    def __init__(
        self, prefix: str, registry_: registry.Registry, standing_: standing.Standing, doubt_s: float
    ) -> None:
        """Units: `doubt_s`, the seconds between two looks."""
        self._prefix = prefix
        self._registry = registry_
        self._standing = standing_
        self._doubt_s = doubt_s

    def note(self, book: peers.Book, event: registry.Snapshot) -> None:
        """Tell of what a snapshot says about the registry itself."""
        if event.revision < book.revision:
            log.warning(
                "registry went back in time prefix=%s from=%d to=%d", self._prefix, book.revision, event.revision
            )
            self._standing.count(tally.Event.STORE_WENT_BACK)
        if event.compacted:
            log.info("history compacted, all leases read anew prefix=%s revision=%d", self._prefix, event.revision)
            self._standing.count(tally.Event.HISTORY_COMPACTED)

    def settle(self, book: peers.Book, event: registry.Snapshot, cut: threading.Event) -> registry.Snapshot | None:
        """The snapshot to believe: where most peers are missing, one that was read some seconds later.

        None where the watch is to end first, by `cut`. An outage between the two looks keeps everything as it is.
        """
        if not peers.is_doubtful(book, event):
            return event
        log.warning(
            "most peers missing, looking again before anything goes prefix=%s before=%d now=%d",
            self._prefix,
            len(book.leases),
            len(event.leases),
        )
        self._standing.count(tally.Event.SNAPSHOT_DOUBTED)
        while not cut.wait(self._doubt_s):
            try:
                second = self._registry.read_leases()
            except errors.OverlayError as exc:
                self._standing.set_outage(str(exc))
                continue
            chosen = peers.choose_snapshot(event, second)
            if not peers.is_doubtful(book, chosen):
                log.info("most peers are there again prefix=%s now=%d", self._prefix, len(chosen.leases))
                self._standing.count(tally.Event.SNAPSHOT_REFUTED)
            return chosen
        return None
