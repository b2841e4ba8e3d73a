"""The addresses of one pool: which are in use, which rest, and which comes next.

Pure. Owned by `ipam.store`, which writes each change to the state file and takes it back here when that fails.
Who comes back soon enough gets the address it had. Otherwise addresses never used come first, in order; then those
released, the longest rested first: a peer's ARP or ND entry or a client's open connection may still mean the
container that had the address a moment ago. Of an IPv6 pool no end would be reached, and each start of a container
would leave a row: so from REST_LIMIT on those released come first, unless they rest for too short a time.
Nothing here goes through a pool's addresses one by one: a /64 has more than a `len` can count.
"""

from __future__ import annotations

import bisect
import dataclasses
import enum
import heapq
import ipaddress
import math
from collections.abc import Iterator

from ipam import errors
from overlay import netstate

REST_LIMIT = 4096
"""How many addresses rest before the one that rested longest is handed out instead of one never used."""

REST_MOST = 65_536
"""As REST_LIMIT, where not even that one rested long enough: as many as the largest IPv4 pool has."""


class Kind(enum.StrEnum):
    """What an address is in use for."""

    GATEWAY = "gateway"
    ENDPOINT = "endpoint"
    AUX = "aux"
    EXPLICIT = "explicit"
    """Asked for by number: an aux address or an endpoint's --ip. Engines before 29 ask for both in the same words."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Whom an address is for, as far as the engine says: a container's name, a MAC; empty where it does not."""

    name: str = ""
    mac: str = ""

    @property
    def marks(self) -> Iterator[str]:
        """By what it is known again, the surest first. No name looks like a MAC: it may not hold a colon."""
        return (mark for mark in (self.name, self.mac) if mark)


NOBODY = Holder()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """An address in use. Units: `since` seconds of wall clock; `stamp` seconds of this process's monotonic clock."""

    kind: Kind
    since: float
    stamp: float
    holder: Holder = NOBODY


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rested:
    """A released address. `order` grows with every release of the pool; `holder` had it last. Units: as in `Used`."""

    order: int
    stamp: float
    holder: Holder = NOBODY


State = Used | Rested | None
"""Of one address; None: never used."""


class Pool:
    """One pool's addresses. Not thread-safe.

    Shape: `subpool` lies in `cidr`; without `subpool`, addresses are handed out from all of `cidr`.
    Raises PoolUnusable where nothing could be handed out.
    """

    def __init__(self, cidr: netstate.IPNetwork, subpool: netstate.IPNetwork | None = None) -> None:
        self.cidr = cidr
        self.subpool = subpool
        self._address = ipaddress.IPv4Address if cidr.version == 4 else ipaddress.IPv6Address
        self._usable = _usable(cidr)
        self._range = _narrow(self._usable, cidr, subpool) if subpool else self._usable
        self._used: dict[int, Used] = {}
        self._rested: dict[int, Rested] = {}
        self._last: dict[str, list[tuple[int, int]]] = {}  # what rests of the range, by mark: (order, address)
        self._queue: list[tuple[int, int]] = []  # heap of (order, address); one that _rested contradicts is void
        self._fresh = self._range.start  # no address of the range below this one was never used
        self._next_order = 1
        self._resting = 0  # of the range, as `used`
        self.used = 0

    @property
    def total(self) -> int:
        """How many addresses can be handed out; `used` counts the same range."""
        return self._range.stop - self._range.start

    @property
    def next_order(self) -> int:
        """The order of the next release."""
        return self._next_order

    @property
    def first(self) -> netstate.IPAddress:
        """The gateway's address where nobody asks for another: the first of the whole pool, whatever the range."""
        return self._address(self._usable.start)

    def state(self, ip: netstate.IPAddress) -> State:
        """What is known of an address."""
        if ip.version != self.cidr.version:
            return None
        number = int(ip)
        return self._rested.get(number) or self._used.get(number)

    def in_use(self) -> Iterator[tuple[netstate.IPAddress, Used]]:
        """The addresses in use, in no order."""
        return ((self._address(number), used) for number, used in self._used.items())

    def require(self, ip: netstate.IPAddress) -> None:
        """Raise AddressOutsidePool or AddressTaken unless `ip` can be granted now."""
        if ip.version != self.cidr.version or int(ip) not in self._usable:
            why = f"is its {_spared(self.cidr)}" if ip in self.cidr else "is not in it"
            raise errors.AddressOutsidePool(
                f"address {ip} cannot be used in pool {self.cidr}: it {why}; take one of {self._span()}"
            )
        used = self._used.get(int(ip))
        if used is not None:
            raise errors.AddressTaken(
                f"address {ip} of pool {self.cidr} is in use ({used.kind}); take another. If Docker knows no "
                "container that has it, it is freed within minutes"
            )

    def propose(self, holder: Holder = NOBODY, settled: float = math.inf) -> netstate.IPAddress | None:
        """The address to hand out next, or None if all are in use. Changes nothing that can be seen.

        Units: `settled` as `Rested.stamp`; what was released later is kept for who had it, while there is another.
        """
        for mark in holder.marks:
            for _order, number in self._last.get(mark, ())[-1:]:
                if self._rested[number].stamp > settled:
                    return self._address(number)
        return self._next(settled)

    def _next(self, settled: float) -> netstate.IPAddress | None:
        while self._fresh in self._range and (self._fresh in self._used or self._fresh in self._rested):
            self._fresh += 1
        self._drop_void()
        longest = self._queue[0][1] if self._queue else None
        if self._fresh in self._range:
            ready = longest is not None and self._rested[longest].stamp <= settled
            if longest is None or self._resting < (REST_LIMIT if ready else REST_MOST):
                return self._address(self._fresh)
        return self._address(longest) if longest is not None else None

    def put(self, ip: netstate.IPAddress, state: State) -> State:
        """Set what is known of an address; what was known before, so that `put(ip, before)` takes it back."""
        before, number = self.state(ip), int(ip)
        here = number in self._range
        self.used += here * (isinstance(state, Used) - isinstance(before, Used))
        self._resting += here * (isinstance(state, Rested) - isinstance(before, Rested))
        self._used.pop(number, None)
        self._rested.pop(number, None)
        if here and isinstance(before, Rested):
            self._forget(before, number)
        match state:
            case Used():
                self._used[number] = state
            case Rested(order=order):
                self._rested[number] = state
                self._next_order = max(self._next_order, order + 1)
                if here:
                    self._enqueue(order, number)
                    self._remember(state, number)
            case None if here:
                self._fresh = min(self._fresh, number)
        return before

    def _enqueue(self, order: int, number: int) -> None:
        if len(self._queue) > 2 * len(self._rested) + 64:  # one --ip started again and again leaves void entries
            self._queue = [(one.order, number) for number, one in self._rested.items() if number in self._range]
            heapq.heapify(self._queue)
        else:
            heapq.heappush(self._queue, (order, number))

    def _drop_void(self) -> None:
        while self._queue and not self._rests(*self._queue[0]):
            heapq.heappop(self._queue)

    def _rests(self, order: int, number: int) -> bool:
        rested = self._rested.get(number)
        return rested is not None and rested.order == order

    def _remember(self, rested: Rested, number: int) -> None:
        for mark in rested.holder.marks:
            bisect.insort(self._last.setdefault(mark, []), (rested.order, number))

    def _forget(self, rested: Rested, number: int) -> None:
        for mark in rested.holder.marks:
            had = self._last[mark]
            had.remove((rested.order, number))
            if not had:
                del self._last[mark]

    def _span(self) -> str:
        return f"{self._address(self._usable[0])}-{self._address(self._usable[-1])}"


def _usable(cidr: netstate.IPNetwork) -> range:
    """What containers and the gateway may have: not the network address, nor IPv4's broadcast address.

    An IPv6 subnet has no broadcast address; its first one means any router of it (RFC 4291 §2.6.1).
    """
    usable = range(int(cidr.network_address) + 1, int(cidr.broadcast_address) + (cidr.version == 6))
    if usable.stop - usable.start < 2:
        raise errors.PoolUnusable(
            f"pool {cidr} has no addresses for a gateway and a container besides its {_spared(cidr)}; the smallest "
            f"is a /{cidr.max_prefixlen - 2}"
        )
    return usable


def _spared(cidr: netstate.IPNetwork) -> str:
    return "network or broadcast address" if cidr.version == 4 else "network address"


def _narrow(usable: range, cidr: netstate.IPNetwork, subpool: netstate.IPNetwork) -> range:
    if not netstate.is_part(subpool, cidr):
        raise errors.PoolUnusable(f"--ip-range {subpool} is not part of the pool {cidr}")
    narrow = range(
        max(usable.start, int(subpool.network_address)), min(usable.stop, int(subpool.broadcast_address) + 1)
    )
    if not narrow:
        raise errors.PoolUnusable(
            f"--ip-range {subpool} holds only the {_spared(cidr)} of the pool {cidr}; take a larger one"
        )
    return narrow
