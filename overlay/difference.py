"""What two of those who should agree say of one thing: Docker, etcd, the state file, this process, the kernel.

Pure values. Each room compares what it knows (`driver.compare`, `ipam.compare`, `overlay.compare_kernel`,
`overlay.compare_lease`); `plugin.audit` looks, shows and mends. Whose word counts, in this order: Docker's own data,
etcd, the state file, memory; the kernel only ever follows. A key of another host in etcd is never written or deleted.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping


class Kind(enum.StrEnum):
    """What differs, and how: `stale` is there and nobody above knows it, `missing` the other way round."""

    NETWORK_STALE = "network:stale"
    NETWORK_MISSING = "network:missing"
    NETWORK_CHANGED = "network:changed"
    ENDPOINT_STALE = "endpoint:stale"
    ENDPOINT_MISSING = "endpoint:missing"
    ENDPOINT_CHANGED = "endpoint:changed"
    POOL_STALE = "pool:stale"
    POOL_MISSING = "pool:missing"
    POOL_DOUBLED = "pool:doubled"
    ADDRESS_STALE = "address:stale"
    ADDRESS_MISSING = "address:missing"
    ADDRESS_CHANGED = "address:changed"
    ADDRESS_DOUBLED = "address:doubled"
    ROW_CHANGED = "row:changed"
    """The state file and this process disagree."""
    KERNEL_STALE = "kernel:stale"
    KERNEL_MISSING = "kernel:missing"
    KERNEL_CHANGED = "kernel:changed"
    PORT_LOST = "port:lost"
    """The host's end of a running container's link is gone, and the container cut off."""
    LINK_LEFT = "link:left"
    """A link with a name of ours that is nobody's: a container's end on the host, one without our mark."""
    FIREWALL_STALE = "firewall:stale"
    FIREWALL_MISSING = "firewall:missing"
    FIREWALL_CHANGED = "firewall:changed"
    PUBLISHED_STALE = "published:stale"
    PUBLISHED_MISSING = "published:missing"
    """A port of the host that an endpoint publishes is not reserved."""
    LEASE_MISSING = "lease:missing"
    LEASE_FOREIGN = "lease:foreign"
    LEASE_CHANGED = "lease:changed"
    LEASE_DOUBLED = "lease:doubled"
    CONFIG_CHANGED = "config:changed"
    PEER_STALE = "peer:stale"
    PEER_MISSING = "peer:missing"
    PEER_CHANGED = "peer:changed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """What each side says of the object; None for a side that has no part in it, ABSENT for one that lacks it."""

    docker: str | None = None
    etcd: str | None = None
    state: str | None = None
    memory: str | None = None
    kernel: str | None = None


ABSENT = "nothing"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference. `repair`: what mends it, and so which side wins; "" where only an operator can.

    `mark` tells two things of one name apart: an address given out again is not the one that was given out before.
    """

    kind: Kind
    thing: str
    says: Says
    repair: str = ""
    mark: str = ""

    def as_json(self) -> Mapping[str, object]:
        """For /audit."""
        says = {side: word for side, word in dataclasses.asdict(self.says).items() if word is not None}
        return {"kind": self.kind.value, "object": self.thing, "says": says, "repair": self.repair}

    def __str__(self) -> str:
        sides = "; ".join(
            f"{side}: {word}" for side, word in dataclasses.asdict(self.says).items() if word is not None
        )
        return f"{self.kind.value} {self.thing} ({sides})"


def agreed(before: Iterable[Difference], now: Iterable[Difference]) -> list[Difference]:
    """What two looks saw alike, as the second one saw it and in its order."""
    known = frozenset(before)
    return [one for one in now if one in known]


def count(differences: Iterable[Difference]) -> dict[str, int]:
    """How many there are of each kind that there is."""
    counts: dict[str, int] = {}
    for one in differences:
        counts[one.kind.value] = counts.get(one.kind.value, 0) + 1
    return counts
