"""Keeps an eye on what else would harm a flannel network of this host: told in the log and in /readyz, never touched.

One for each network, kept by `keeper` in the thread `beat`: looks when the lease is settled and at every keepalive.
What is amiss is judged in `preflight` and `feud`, which are pure.
"""

from __future__ import annotations

import dataclasses
import logging
import time

from overlay import errors, feud, lease, member, preflight, standing

log = logging.getLogger(__name__)


class Lookout:
    """See the module. `feud_s` lies between two answers to a host that publishes our address."""

    def __init__(self, prefix: str, ports: member.Ports, here: standing.Standing, feud_s: float) -> None:
        self._prefix = prefix
        self._ports = ports
        self._standing = here
        self._feud = feud.Feud(feud_s)
        self._seen = preflight.Findings()

    def look(self) -> None:
        """Say what is amiss now; a kernel that cannot be asked changes nothing."""
        held = self._standing.held()
        if held is None:
            return
        try:
            links = self._ports.kernel.list_underlays()
        except errors.KernelError:
            return
        found = preflight.look_around(self._prefix, held, self._ports.flannelds(), links)
        found = dataclasses.replace(found, twin=self._feud.told(time.monotonic()))
        before, self._seen = self._seen, found
        if found.rival is not None and found.rival != before.rival:
            log.error("flanneld runs beside us prefix=%s: %s", self._prefix, found.rival)
        if found.twin is not None and before.twin is None:
            log.error("another host has our address prefix=%s: %s", self._prefix, found.twin)
        for one in sorted(set(found.overlaps) - set(before.overlaps)):
            log.warning("addresses overlap prefix=%s %s", self._prefix, one)
        self._standing.set_findings(found)

    def hold_back(self, ours: lease.LeaseAttrs, told: lease.Lease) -> float:
        """How long to wait before our key, which somebody wrote, is put right. Units: seconds."""
        wait_s = self._feud.hold_back(time.monotonic(), ours, told)
        if wait_s > 0:
            self.look()
        return wait_s
