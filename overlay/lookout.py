"""Keeps an eye on what else would harm a flannel network of this host: told in the log and in /readyz, never touched.

One for each network, kept by `keeper`, whose thread `beat` looks when the lease is settled and at every keepalive.
What was amiss then is looked at again by whoever is about to show it: that thread may be waiting for a registry. What
is amiss is judged in `preflight` and `feud`, which are pure.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from overlay import errors, feud, flanneld, lease, member, preflight, standing

log = logging.getLogger(__name__)


class Lookout:
    """See the module; for all threads. Units: seconds.

    `feud_s` lies between two answers to a host that publishes our address, `findings_s` at least between two looks
    of `look_again`.
    """

    def __init__(
        self, prefix: str, ports: member.Ports, here: standing.Standing, *, feud_s: float, findings_s: float
    ) -> None:
        self._prefix = prefix
        self._ports = ports
        self._standing = here
        self._feud = feud.Feud(feud_s)
        self._findings_s = findings_s
        self._looking = threading.Lock()
        self._looked_at = 0.0
        self._findings = preflight.Findings()

    def look(self) -> None:
        """Say what is amiss now."""
        with self._looking:
            self._look(time.monotonic(), self._ports.flannelds())

    def look_again(self) -> None:
        """Take back what is amiss no more.

        Costs nothing where nothing was; processes are read for a flanneld's sake alone, for an overlap may stay.
        Waits for no look of another thread: one process that hangs can hold up whoever reads /proc.
        """
        if not self._looking.acquire(blocking=False):
            return
        try:
            now = time.monotonic()
            if self._findings != preflight.Findings() and now >= self._looked_at + self._findings_s:
                self._look(now, self._ports.flannelds() if self._findings.rival is not None else ())
        finally:
            self._looking.release()

    def hold_back(self, ours: lease.LeaseAttrs, told: lease.Lease) -> float:
        """How long to wait before our key, which somebody wrote, is put right. Units: seconds."""
        wait_s = self._feud.hold_back(time.monotonic(), ours, told)
        if wait_s > 0:
            self.look()
        return wait_s

    def _look(self, now: float, running: Sequence[flanneld.Flanneld]) -> None:
        found = self._find(now, running)
        before, self._findings, self._looked_at = self._findings, found, now
        if found.rival is not None and found.rival != before.rival:
            log.error("flanneld runs beside us prefix=%s: %s", self._prefix, found.rival)
        if found.rival is None and before.rival is not None:
            log.info("flanneld beside us has ended prefix=%s", self._prefix)
        if found.twin is not None and before.twin is None:
            log.error("another host has our address prefix=%s: %s", self._prefix, found.twin)
        for one in sorted(set(found.overlaps) - set(before.overlaps)):
            log.warning("addresses overlap prefix=%s %s", self._prefix, one)
        self._standing.set_findings(found)

    def _find(self, now: float, running: Sequence[flanneld.Flanneld]) -> preflight.Findings:
        """Nothing without a lease: then the attempt to join says what is in its way."""
        known, _, _ = self._standing.now()
        held = self._standing.held()
        if known is None or held is None:
            return preflight.Findings()
        return preflight.Findings(
            rival=preflight.find_rival(self._prefix, running),
            twin=self._feud.told(now, known.attrs),
            overlaps=self._find_overlaps(held),
        )

    def _find_overlaps(self, held: lease.HeldSubnet) -> tuple[str, ...]:
        """Those of the last look where the kernel cannot be asked."""
        try:
            links = self._ports.kernel.list_underlays()
        except errors.KernelError:
            return self._findings.overlaps
        return preflight.find_overlaps(held, links)
