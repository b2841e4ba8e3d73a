"""The port of the host's packet filter: whoever implements it writes a plan's rules, and tells when others did.

Used by `firewall_keeper` for `reconciler`, which calls `ensure` from one thread at a time. What the rules are is not
said here: see `firewall`.
"""

from __future__ import annotations

import dataclasses
import enum
import threading
from collections.abc import Iterator
from typing import Protocol

from overlay import firewall, guard, tunnel_guard


class How(enum.Enum):
    """In what a place is not as the plan has it."""

    STALE = "stale"
    MISSING = "missing"
    CHANGED = "changed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place that is not as the plan has it: what is wanted there and what is seen, only where they differ."""

    place: str
    how: How
    wanted: str = ""
    seen: str = ""


class Firewall(Protocol):
    """The firewall port. Adapters: `firewall_exec` (nft and iptables) and `firewall_fake`."""

    def ensure(self, plan: firewall.FirewallPlan) -> tuple[str, ...]:
        """Make the host's rules be those of `plan`; names each place that had to be written ("nft", "ip6tables-nft").

        Idempotent, and cheap when nothing is to do. An empty plan removes all that is ours. Raises KernelError,
        within ten seconds even where the tools hang.
        """
        ...

    def guard(self, plan: guard.GuardPlan) -> tuple[str, ...]:
        """Keep containers from sending under other names than `plan` says; otherwise as `ensure`.

        Called from one thread at a time, which need not be that of `ensure`. Where the kernel cannot do it nothing
        is done and nothing raised: see `limits`.
        """
        ...

    def list_published(self) -> frozenset[firewall.PublishedPort]:
        """What the host's rules publish now, whoever wrote them. Raises KernelError."""
        ...

    def tunnels(self, plan: tunnel_guard.TunnelPlan) -> tuple[str, ...]:
        """Keep containers from the ports of `plan`; otherwise as `guard`."""
        ...

    def limits(self) -> tuple[str, ...]:
        """What this host's packet filter cannot do for us, a line each."""
        ...

    def events(self, stop: threading.Event) -> Iterator[None]:
        """Yields whenever somebody, `ensure` too, may have changed rules; ends within a second of `stop`.

        The first comes at once: from then on nothing is missed that the kernel tells. It is silent about the legacy
        iptables. Many events may come as one. Raises KernelError.
        """
        ...


class Inspector(Protocol):
    """What the audit asks of the packet filter. Adapters: as of `Firewall`."""

    def look(
        self,
        plan: firewall.FirewallPlan,
        guarded: guard.GuardPlan | None = None,
        tunnels: tunnel_guard.TunnelPlan | None = None,
    ) -> tuple[Finding, ...]:
        """Where the host's rules are not those of `plan`, without a change of them and past all that is remembered.

        And where its guards are not those of `guarded` and `tunnels`; None to leave one out, as where the kernel has
        none.
        Raises KernelError where a place could not be looked at.
        """
        ...
