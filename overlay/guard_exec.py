"""The guard of our bridges' ports on nft: one table, of which each container is a few elements.

Used by `firewall_exec`, for one thread at a time. A container more or less is a few netlink messages, no program and
no look at anything else, as long as the kernel's numbers say that nobody but us has changed nftables since the table
was last seen whole. Otherwise it is listed, and written anew where somebody has touched it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator

from overlay import errors, firewall_port, firewall_tools, guard, nft_elements, nft_events

log = logging.getLogger(__name__)

PLACE = "nft-bridge"
SHOWN = 3
"""How many elements of a difference are told."""

_UNSUPPORTED = ("Operation not supported", "Address family not supported", "Protocol not supported")

_Elements = frozenset[guard.Element] | None
"""Those of the table; None: there is none."""


class GuardExec:
    """See the module."""

    def __init__(self, tools: firewall_tools.Tools, journal: nft_events.Journal, look_every_s: float) -> None:
        self._tools = tools
        self._journal = journal
        self._look_every_s = look_every_s
        self._have: _Elements = None
        self._rest = ""  # what nft lists of the table beside its elements
        self._quiet: nft_events.Mark | None = None  # when the table was last known to be `_have` and `_rest`
        self._quiet_until = 0.0
        self.unsupported = ""
        """Why this kernel has no guard, as nft said it."""

    def ensure(self, plan: guard.GuardPlan) -> tuple[str, ...]:
        """Make the table that of `plan`; the place if it had to be written.

        A kernel that cannot is no error: `unsupported` says so, and it is tried again now and then.
        Raises KernelError.
        """
        if self.unsupported and time.monotonic() < self._quiet_until:
            return ()
        want = guard.elements(plan) if plan else None
        run = self._tools.begin()
        try:
            written = self._ensure_quickly(want)
            if written is None:
                written = self._look(run, plan, want)
        except errors.KernelError as exc:
            self._quiet = None
            if not any(said in str(exc) for said in _UNSUPPORTED):
                raise
            self._give_up(str(exc))
            return ()
        self.unsupported = ""
        return (PLACE,) if written else ()

    def _ensure_quickly(self, want: _Elements) -> bool | None:
        """Whether the elements had to be changed; None where that takes a look at the table."""
        now = self._journal.mark()
        if (
            self._quiet is None
            or time.monotonic() >= self._quiet_until
            or not self._journal.is_ours(self._quiet, now)
        ):
            return None
        self._quiet = now
        if want == self._have:
            return False
        if want is None or self._have is None:
            return None
        try:
            ours = self._change(self._have, want)
        except errors.KernelError as exc:
            log.info("guard not changed, looking at all of it: %s", exc)
            return None
        self._have = want
        if not ours:
            self._quiet = None
        return True

    def _look(self, run: firewall_tools.Run, plan: guard.GuardPlan, want: _Elements) -> bool:
        """List the table, and write it whole where it is not as wanted."""
        now = self._journal.mark()
        seen = self._list(run)
        if seen is None and want is None:
            self._remember(now, want)
            return False
        if seen is not None and want is not None and (seen.rest, seen.elements) == (self._rest, want):
            self._remember(now, want)
            return False
        self._quiet = None
        ours = self._write(run, guard.whole_script(plan))
        now = self._journal.mark()
        seen = self._list(run)
        if seen is not None and guard.is_whole(seen):
            self._rest = seen.rest
            if ours and seen.elements == want:
                self._remember(now, want)
        elif ours and seen is None and want is None:
            self._remember(now, want)
        return True

    def _list(self, run: firewall_tools.Run) -> guard.Listing | None:
        listing = run.list_nft("table", "bridge", guard.TABLE)
        return None if listing is None else guard.parse_listing(listing)

    def _change(self, have: frozenset[guard.Element], want: frozenset[guard.Element]) -> bool:
        """Turn the elements into others; whether nobody else has written in the meantime."""
        before = nft_events.read_generation()
        nft_elements.change(guard.TABLE, remove=guard.keys(have - want), add=guard.keys(want - have))
        return self._journal.note_ours(before, nft_events.read_generation())

    def _write(self, run: firewall_tools.Run, script: str) -> bool:
        """Write in one transaction; whether nobody else has written in the meantime."""
        before = nft_events.read_generation()
        run.run("nft", "-f", "-", script=script)
        return self._journal.note_ours(before, nft_events.read_generation())

    def _remember(self, now: nft_events.Mark, have: _Elements) -> None:
        self._have, self._quiet = have, now
        self._quiet_until = time.monotonic() + self._look_every_s

    def _give_up(self, said: str) -> None:
        if not self.unsupported:
            log.warning("this kernel cannot keep containers from forging addresses: %s", said)
        self.unsupported = said
        self._quiet_until = time.monotonic() + self._look_every_s


def look(run: firewall_tools.Run, plan: guard.GuardPlan) -> Iterator[firewall_port.Finding]:
    """In what the table is not that of `plan`, without trusting anything that was remembered. Raises KernelError."""
    listing = run.list_nft("table", "bridge", guard.TABLE)
    want = guard.elements(plan)
    if listing is None:
        if plan:
            yield firewall_port.Finding(place=PLACE, how=firewall_port.How.MISSING, wanted=_shown(want))
        return
    seen = guard.parse_listing(listing)
    if not plan:
        yield firewall_port.Finding(place=PLACE, how=firewall_port.How.STALE, seen=_shown(seen.elements))
    elif seen.elements != want or not guard.is_whole(seen):
        missing, strange = _shown(want - seen.elements), _shown(seen.elements - want)
        how = firewall_port.How.CHANGED
        yield firewall_port.Finding(place=PLACE, how=how, wanted=missing or "its rules", seen=strange or "others")


def _shown(found: Iterable[guard.Element]) -> str:
    lines = [f"{name} {{ {text} }}" for name, text in sorted(found)]
    return "; ".join(lines[:SHOWN]) + (f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else "")
