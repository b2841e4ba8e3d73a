"""The table that keeps containers from speaking VXLAN, on nft.

Used by `firewall_exec`, for one thread at a time, as `guard_exec` is. No program runs as long as the kernel's numbers
say that nobody has changed nftables since the table was last found whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from overlay import errors, firewall_tools, nft_events, tunnel_guard

log = logging.getLogger(__name__)

PLACE = "nft-inet"

_UNSUPPORTED = ("Operation not supported", "Address family not supported", "Protocol not supported")


class TunnelExec:
    """See the module."""

    def __init__(self, tools: firewall_tools.Tools, journal: nft_events.Journal, look_every_s: float) -> None:
        self._tools = tools
        self._journal = journal
        self._look_every_s = look_every_s
        self._quiet: tuple[str, nft_events.Mark] | None = None  # the script that was last found written, and when
        self._quiet_until = 0.0
        self._written = ("", "")  # what we wrote, and what nft lists of it
        self.unsupported = ""
        """Why this kernel has no such table, as nft said it."""

    def ensure(self, plan: tunnel_guard.TunnelPlan, engine: Collection[str]) -> tuple[str, ...]:
        """Make the table that of `plan`, with the engine's bridges; the place if it had to be written.

        A kernel that cannot is no error: `unsupported` says so, and it is tried again now and then.
        Raises KernelError.
        """
        now = self._journal.mark()
        script = tunnel_guard.script(plan, engine)
        if self._is_quiet(script, now):
            return ()
        try:
            written = self._look(script, wanted=bool(plan))
        except errors.KernelError as exc:
            self._quiet = None
            if not any(said in str(exc) for said in _UNSUPPORTED):
                raise
            self._give_up(str(exc), script, now)
            return ()
        self.unsupported = ""
        self._quiet = None if written else (script, now)
        self._quiet_until = time.monotonic() + self._look_every_s
        return (PLACE,) if written else ()

    def _is_quiet(self, script: str, now: nft_events.Mark) -> bool:
        if self._quiet is None or time.monotonic() >= self._quiet_until:
            return False
        found, then = self._quiet
        return found == script and (bool(self.unsupported) or self._journal.is_ours(then, now))

    def _look(self, script: str, *, wanted: bool) -> bool:
        """List the table, and write it where it is not as wanted; whether that was so."""
        run = self._tools.begin()
        listing = run.list_nft("table", "inet", tunnel_guard.TABLE)
        if (listing is None and not wanted) or (listing is not None and self._written == (script, listing)):
            return False
        run.run("nft", "-f", "-", script=script)
        listing = run.list_nft("table", "inet", tunnel_guard.TABLE) if wanted else None
        if listing is not None and tunnel_guard.shape(listing) == tunnel_guard.shape(script):
            self._written = (script, listing)
        return True

    def _give_up(self, said: str, script: str, now: nft_events.Mark) -> None:
        if not self.unsupported:
            log.warning("this kernel cannot keep containers from the tunnels' port: %s", said)
        self.unsupported = said
        self._quiet, self._quiet_until = (script, now), time.monotonic() + self._look_every_s
