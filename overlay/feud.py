"""A second host with our PublicIP: noticed by what it writes under our key, and answered seldom.

flannel knows a host by its PublicIP alone. Of two with one address (Vagrant's first interface is the same everywhere)
each takes the key of the other for its own and writes its own VTEP MAC into it; answered at once, both would write
hundreds of times a second. Pure; kept by `keeper`. Units: seconds of one monotonic clock.
"""

from __future__ import annotations

from overlay import lease

_REMEMBERED = 5
"""For so many pauses after the last sign of it a second host is told of."""


class Feud:
    """One for each network. `pause_s` lies between two answers."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._answered_at: float | None = None
        self._seen_at: float | None = None
        self._host = ""
        self._told = ""

    def hold_back(self, now: float, ours: lease.LeaseAttrs, found: lease.Lease) -> float:
        """How long to wait before our key, which somebody wrote, is put right: not at all at first.

        A host that is not ours by its address has taken our subnet, and is no matter of a feud.
        """
        if found.attrs == ours or not ours.is_same_host(found.attrs):
            return 0.0
        left_s = 0.0 if self._answered_at is None else self._answered_at + self._pause_s - now
        if left_s <= 0:
            self._answered_at = now
            return 0.0
        self._seen_at = now
        self._host = ours.host
        self._told = (
            f"subnet {found.key} is published again and again with our PublicIP {ours.host} and other data, "
            f"{found.attrs.backend_data}: a second host has this address, and peers reach only one of the two; "
            "set IFACE or PUBLIC_IP so that each host has its own"
        )
        return left_s

    def told(self, now: float, ours: lease.LeaseAttrs) -> str | None:
        """The line for an operator, while the other host gives signs of life and our address is still the one."""
        if self._seen_at is None or now > self._seen_at + _REMEMBERED * self._pause_s or ours.host != self._host:
            return None
        return self._told
