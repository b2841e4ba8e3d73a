"""The IPAM of this host: pools out of its leases, addresses out of pools.

Called by `ipam.endpoints` for the engine, and by `plugin` for status and for the background look at Docker. Policy
is here and in the pure modules; `ipam.store` makes it durable. Thread-safe: everything that decides and changes is
one piece of work for the store.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Iterable

from ipam import claims, errors, leases, overview, pool, reconcile, requests, shortage, slices, store
from overlay import errors as overlay_errors
from overlay import holdings, lease, netstate, statefile

log = logging.getLogger(__name__)

LEASE_WAIT_S = 20.0
"""How long a new network may wait for this host's lease: the engine gives up after 30 s."""

GRACE_S = 20.0
"""How old a grant must be before Docker's not knowing it means anything.

A start that goes on calls again soon: the engine repeats a broken call after 1, 2, 4 and 8 s, then gives it up.
Source: moby pkg/plugins/client.go (backoff, abort)."""

_GRANT_TRIES = 5
"""How often a new network asks for the lease again where it has become another one meanwhile."""

QUARANTINE_S = 60.0
"""How long an address is kept for who had it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Both clocks, in seconds: `now` is the wall's, for showing; `monotonic` is for deciding."""

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


class Ipam:
    """Pools and addresses of this host. `state` must have been opened with `ipam.store.SCHEMA`."""

    def __init__(
        self,
        holdings_: holdings.Holdings,
        state: statefile.StateFile,
        *,
        clock: Clock | None = None,
        lease_wait_s: float = LEASE_WAIT_S,
        quarantine_s: float = QUARANTINE_S,
        network_of: Callable[[netstate.IPNetwork], str] = lambda _cidr: "",
    ) -> None:
        """`network_of`: what Docker calls the network on a pool, for messages; empty where nobody knows."""
        self._holdings = holdings_
        self._clock = clock or Clock()
        self._lease_wait_s = lease_wait_s
        self._quarantine_s = quarantine_s
        self._network_of = network_of
        self._store = store.Store(state, stamp=self._clock.monotonic())
        self._freed: dict[tuple[str, netstate.IPAddress | None], float] = {}  # under the store's lock
        self._claims = claims.Claims(holdings_, self._prefixes)
        self._shortages = shortage.Shortages()
        self._shortages_lock = threading.Lock()

    def request_pool(self, request: requests.PoolRequest) -> requests.GrantedPool:
        """Grant the lease or a slice of it; joins the flannel network `request.prefix` first where need be.

        Not idempotent: a second grant of the same pool must fail, or engines before 27 ask for ever.
        Raises NotReady and SettingsError (overlay), LeasesOverlap, BadRequest where the flannel network has no IPv6,
        PoolOutsideLease, PoolTaken, PoolUnusable.
        """
        with self._claims.hold(request.prefix):
            deadline = self._clock.monotonic() + self._lease_wait_s
            for _ in range(_GRANT_TRIES):
                held = self._holdings.wait(request.prefix, max(0.0, deadline - self._clock.monotonic()))
                others = [other for other in self._holdings.held() if other.prefix != held.prefix]
                leases.refuse_overlap(held, others)
                leases.hint_other_prefix(request, held, others)
                granted = self._store.change(functools.partial(self._grant, request, held))
                if granted is not None:
                    log.info("pool granted pool=%s prefix=%s subpool=%s", granted.id, held.prefix, request.subpool)
                    return granted
        raise overlay_errors.NotReady(
            f"this host's subnet {held.subnet} is no longer its own, and no other one is yet"
        )

    def is_in_use(self, prefix: str) -> bool:
        """Whether a pool was granted out of the lease under `prefix`."""
        return prefix in self._prefixes()

    def unless_in_use(self, prefix: str, act: Callable[[], None]) -> bool:
        """Call `act` if there is no such pool, and grant none meanwhile; tells whether it was called."""
        with self._store.read() as pools:
            free = all(entry.prefix != prefix for entry in pools.values())
            if free:
                act()
            return free

    def release_pool(self, pool_id: str) -> None:
        """Free a pool with all its addresses. What is unknown is released already."""
        dropped = self._store.change(functools.partial(self._drop, pool_id))
        if dropped is not None:
            log.info("pool released pool=%s prefix=%s", pool_id, dropped.prefix)
            with self._shortages_lock:
                self._shortages.forget(pool_id)
            self._claims.leave_if_unused(dropped.prefix)

    def request_address(self, request: requests.AddressRequest) -> netstate.IPInterface:
        """Grant an address; it is on disk when this returns. The answer has the pool's prefix length.

        The gateway alone may be asked for twice. Raises UnknownPool, AddressOutsidePool, AddressTaken, PoolFull.
        """
        entry, ip = self._store.change(functools.partial(self._take, request))
        self._note_use(entry)
        if ip is None:
            raise errors.PoolFull(overview.explain_full(entry, self._network_of(entry.addresses.cidr)))
        return ipaddress.ip_interface((ip, entry.addresses.cidr.prefixlen))

    def release_address(self, pool_id: str, ip: netstate.IPAddress) -> None:
        """Free an address; it is handed out again after all others that are free, or to who had it.

        Unknown ones are free already.
        """
        entry = self._store.change(functools.partial(self._release, pool_id, ip))
        if entry is not None:
            self._note_use(entry)

    def usage(self) -> list[requests.PoolUsage]:
        """Every pool, in order of address."""
        with self._store.read() as pools:
            entries = sorted(pools.values(), key=lambda entry: slices.order_of(entry.addresses.cidr))
            seen = [overview.usage_of(entry) for entry in entries]
        return [
            dataclasses.replace(one, short=self._note_use(entry)) for entry, one in zip(entries, seen, strict=True)
        ]

    def addresses(self) -> list[requests.AddressInUse]:
        """Every address in use, in order of pool and address."""
        now = self._clock.now()
        with self._store.read() as pools:
            rows = [(entry, ip, used) for entry in pools.values() for ip, used in entry.addresses.in_use()]
        rows.sort(key=lambda row: (slices.order_of(row[0].addresses.cidr), int(row[1])))
        return [
            requests.AddressInUse(pool_id=entry.id, ip=ip, kind=used.kind, age_s=max(0.0, now - used.since))
            for entry, ip, used in rows
        ]

    def rows(self) -> requests.KnownRows:
        """What is kept in memory, for the audit to compare with the state file."""
        with self._store.read() as pools:
            return reconcile.rows_of(pools)

    def release_unknown(
        self, known: Iterable[requests.KnownPool], seen_at: float, grace_s: float = GRACE_S
    ) -> list[str]:
        """Release what Docker does not know. A line for each thing done, for the caller to log.

        Shape: `known` is all of Docker's networks with our IPAM, as asked for from `seen_at` (time.monotonic) on; an
        incomplete list releases what is in use. What is younger than `grace_s` before that is left alone, and so is
        all that was read from the state file until the process is that old.
        """
        look = reconcile.Look(known=tuple(known), settled=seen_at - grace_s)
        before = self._prefixes() | {subnet.prefix for subnet in self._holdings.held()}  # a crash may have left some
        lines = self._store.change(
            lambda change: reconcile.release_unknown(change, look, self._clock.now(), self._clock.monotonic()),
        )
        for prefix in before - self._prefixes():
            self._claims.leave_if_unused(prefix)
        return lines

    def adopt(self, known: Iterable[requests.KnownPool], seen_at: float, grace_s: float = GRACE_S) -> list[str]:
        """Re-create pools and addresses that Docker knows and this host lost. A line for each, for the caller to log.

        Shape: as for `release_unknown`. What was freed less than `grace_s` before `seen_at`, or after it, stays free.
        Call after `release_unknown`: a pool that only we know may be in the way of one that Docker knows.
        """
        look = reconcile.Look(known=tuple(known), settled=seen_at - grace_s)
        held = self._holdings.held()
        make = functools.partial(self._entry_of_known, held)
        lines = self._store.change(lambda change: reconcile.adopt(change, look, self._settle(look), make))
        for prefix in self._prefixes() - {subnet.prefix for subnet in held}:
            self._join(prefix)
        return lines

    def settle_rows(self, known: Iterable[requests.KnownPool]) -> list[str]:
        """Make state file and memory agree again; call `adopt` right after. Shape: as for `release_unknown`."""
        look = reconcile.Look(known=tuple(known), settled=self._clock.monotonic())
        return self._store.change(lambda change: reconcile.settle_rows(change, look, self._clock.now()))

    def _grant(
        self, request: requests.PoolRequest, held: lease.HeldSubnet, change: store.Change
    ) -> requests.GrantedPool | None:
        """None where the lease has become another one since it was told."""
        if not self._holdings.holds(held):
            return None
        taken = [entry.addresses.cidr for entry in change.pools.values()]
        leased = leases.of_family(held, request.version)
        cidr = slices.plan(leased, taken, request.cidr)
        entry = self._entry(cidr, request.subpool, held.prefix, leased)
        change.add_pool(entry)
        return requests.GrantedPool(id=entry.id, cidr=cidr)

    def _drop(self, pool_id: str, change: store.Change) -> store.PoolEntry | None:
        entry = change.pools.get(pool_id)
        if entry is not None:
            change.drop_pool(pool_id)
            self._freed[pool_id, None] = self._clock.monotonic()
        return entry

    def _take(
        self, request: requests.AddressRequest, change: store.Change
    ) -> tuple[store.PoolEntry, netstate.IPAddress | None]:
        entry, now = _find(change.pools, request.pool_id), self._clock.monotonic()
        if request.purpose is requests.Purpose.GATEWAY:
            ip = request.ip or entry.addresses.first
            if _is_gateway(entry, ip):
                return entry, ip
        else:
            free = request.ip or entry.addresses.propose(request.holder, now - self._quarantine_s)
            if free is None:
                return entry, None
            ip = free
        entry.addresses.require(ip)
        used = pool.Used(kind=_kind(request), since=self._clock.now(), stamp=now, holder=request.holder)
        change.take(entry, ip, used)
        return entry, ip

    def _release(self, pool_id: str, ip: netstate.IPAddress, change: store.Change) -> store.PoolEntry | None:
        entry = change.pools.get(pool_id)
        if entry is not None and isinstance(entry.addresses.state(ip), pool.Used):
            now = self._clock.monotonic()
            change.release(entry, ip, self._clock.now(), now)
            self._freed[pool_id, ip] = now
        return entry

    def _note_use(self, entry: store.PoolEntry) -> bool:
        """Warn where a pool has just become short; whether it is."""
        used, total = entry.addresses.used, entry.addresses.total
        with self._shortages_lock:
            news = self._shortages.notice(entry.id, used, total)
            short = self._shortages.is_short(entry.id)
        if news:
            log.warning(
                "pool nearly used up pool=%s lease=%s prefix=%s network=%s used=%d total=%d",
                *(entry.id, entry.lease, entry.prefix, self._network_of(entry.addresses.cidr) or "?", used, total),
            )
        return short

    def _settle(self, look: reconcile.Look) -> reconcile.Freed:
        self._freed = {key: stamp for key, stamp in self._freed.items() if stamp > look.settled}
        return self._freed

    def _entry(
        self,
        cidr: netstate.IPNetwork,
        subpool: netstate.IPNetwork | None,
        prefix: str,
        lease_: netstate.IPNetwork,
    ) -> store.PoolEntry:
        return store.PoolEntry(
            id=reconcile.pool_id(cidr),
            prefix=prefix,
            lease=lease_,
            since=self._clock.now(),
            stamp=self._clock.monotonic(),
            addresses=pool.Pool(cidr, subpool),
        )

    def _entry_of_known(self, held: list[lease.HeldSubnet], item: requests.KnownPool) -> store.PoolEntry:
        around = [leased for one in held for leased in one.subnets if netstate.is_part(item.cidr, leased)]
        return self._entry(item.cidr, item.subpool, item.prefix, around[0] if around else item.cidr)

    def _prefixes(self) -> set[str]:
        with self._store.read() as pools:
            return {entry.prefix for entry in pools.values()}

    def _join(self, prefix: str) -> None:
        try:
            self._holdings.wait(prefix, 0.0)
        except overlay_errors.OverlayError as exc:
            log.warning("no lease yet for pools in use prefix=%s reason=%s", prefix, exc)


def _find(pools: store.Pools, pool_id: str) -> store.PoolEntry:
    entry = pools.get(pool_id)
    if entry is None:
        raise errors.UnknownPool(
            f"pool {pool_id} is not known to this plugin; if its network is still in `docker network ls`, it is "
            "adopted within minutes once Docker's API answers; otherwise re-create the network"
        )
    return entry


def _kind(request: requests.AddressRequest) -> pool.Kind:
    match request.purpose:
        case requests.Purpose.GATEWAY:
            return pool.Kind.GATEWAY
        case requests.Purpose.ENDPOINT:
            return pool.Kind.ENDPOINT
        case requests.Purpose.UNSAID:
            return pool.Kind.EXPLICIT if request.ip else pool.Kind.ENDPOINT


def _is_gateway(entry: store.PoolEntry, ip: netstate.IPAddress) -> bool:
    state = entry.addresses.state(ip)
    return isinstance(state, pool.Used) and state.kind is pool.Kind.GATEWAY
