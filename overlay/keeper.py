"""This host's own key in the registry: claimed, kept alive, rewritten now and then, and never under another subnet.

Built by `node`, which joins; runs in the thread `beat`. What to do is decided in `claim`, which is pure, under one
lock and from a fresh look at the registry, never from an event: an event says that there is something to see, and may
be older than our own last word. All times are monotonic: a wall clock that is set moves no lease.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
import time
from collections.abc import Callable

from overlay import claim, errors, lease, lookout, member, nodestore, standing, statefile, tally

log = logging.getLogger(__name__)

_CLOCK_JUMP_S = 60.0
"""A wall clock that moves by more than this against the monotonic one was set; less is what NTP does."""

_SOONER = 12
"""A keepalive that failed is tried again after this part of `beat_s`: a clone takes a lease that nobody has renewed
for `watch_s`, and one request that is lost must not be enough."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Units: seconds. `beat_s` lies between keepalives: a lost key is seen long before its day is over.

    `heal_first_s` and `heal_s` are the pauses before the first and every later rewrite of our own key, of which
    between half and all is waited; `slow_s` is how long a keepalive may take before it is worth a word; `doubt_s`
    passes between the two looks at a snapshot that misses most peers, `feud_s` between two answers to a host that
    publishes our address; what is told as amiss was looked at `findings_s` ago at most. Who moved while it was down
    claims its key when nobody has renewed it for `watch_s`, which is longer than `beat_s`, and reads all leases every
    `watch_pause_s` meanwhile: after a blackout it may be all hosts that moved. Peers that could not be saved are
    saved whole after `save_first_s`, and twice as long after each further failure up to `save_cap_s`.
    """

    beat_s: float = 120.0
    retry_first_s: float = 0.5
    retry_cap_s: float = 5.0
    heal_first_s: float = 10.0
    heal_s: float = 6 * 3600.0
    slow_s: float = 1.0
    doubt_s: float = 3.0
    feud_s: float = 60.0
    findings_s: float = 5.0
    watch_s: float = 150.0
    watch_pause_s: float = 30.0
    save_first_s: float = 2.0
    save_cap_s: float = 60.0


class Keeper:
    """The lease of one node.

    `deciding` is held from a look at the registry to what is said and saved of it, by the node's own threads and by
    those that watch the underlay and Docker: by none that the engine waits for.
    """

    def __init__(
        self,
        prefix: str,
        ports: member.Ports,
        timing: Timing,
        here: standing.Standing,
        publish: Callable[[], None],
    ) -> None:
        self.deciding = threading.Lock()
        self._prefix = prefix
        self._ports = ports
        self._timing = timing
        self._standing = here
        self._publish = publish
        self._random = random.SystemRandom()
        self._unclaimed = False  # our own key is still to be claimed
        self._outdated = False  # it says where this host was
        self._slow = False
        self._unsaved: nodestore.SavedNode | None = None  # what the state file should say; under `deciding`
        self._lookout = lookout.Lookout(prefix, ports, here, feud_s=timing.feud_s, findings_s=timing.findings_s)
        self._wake = threading.Event()
        self._beat_at = time.monotonic() + timing.beat_s
        self._beat_again_s = timing.beat_s / _SOONER  # after a keepalive that failed; then twice as long
        self._heal_at = self._beat_at + timing.heal_s
        self._clock_offset = time.time() - time.monotonic()

    def wake(self) -> None:
        """Look at what is due: the thread is to end, or there is something to claim."""
        self._wake.set()

    def look_again(self) -> None:
        """Take back what was amiss around this network and is no more."""
        self._lookout.look_again()

    def claim_soon(self) -> None:
        """Claim the subnet in the thread of `run`: who calls must not wait for a registry."""
        self._outdated = True
        self._wake.set()

    def beat_now(self) -> None:
        """Keep alive at once: how long the lease has left is unknown."""
        self._beat_at = time.monotonic()
        self._wake.set()

    def save_again(self) -> None:
        """The state file can be written again: save what it did not take. Waits for nobody: it is called again."""
        if not self.deciding.acquire(blocking=False):
            return
        try:
            if self._unsaved is not None and not self._standing.has_left():
                self._ports.store.save(self._unsaved)
            self._unsaved = None
        finally:
            self.deciding.release()

    def give_back(self, held: lease.Lease) -> bool:
        """Delete our key; where that fails, which is told, it ends by itself."""
        try:
            self._ports.registry.delete_lease(held)
        except errors.OverlayError as exc:
            log.warning("lease left to expire prefix=%s subnet=%s reason=%s", self._prefix, held.key, exc)
            return False
        return True

    def check_own(self, told: lease.Lease | None) -> None:
        """Something happened to our key, perhaps by ourselves. `told`: the lease under it now, None: it is gone."""
        _, held, _ = self._standing.now()
        if told is None and held is not None:
            log.warning("own key is gone, claiming it again prefix=%s subnet=%s", self._prefix, held.key)
            self._standing.count(tally.Event.KEY_GONE)
        self.claim(told)

    def claim(self, told: lease.Lease | None = None, *, rewrite: bool = False) -> None:
        """Claim the subnet we used, or nothing: never another one under running containers.

        `told` is what the registry said of our key: nothing to do if that is what we hold. `rewrite`: also where the
        key is as it should be, since the etcd lease behind it has ended. What fails now is tried again by `run`.
        """
        with self.deciding:
            known, held, _ = self._standing.now()
            if known is None or not self._standing.is_settled():
                return  # joining decides about the key
            if told is not None and held is not None and not self._is_news(told, held, known):
                return
            try:
                self.settle(self._claim_now(known, rewrite=rewrite), known)
            except errors.OverlayError as exc:
                self._fail(exc)

    def _is_news(self, told: lease.Lease, held: lease.Lease, known: member.Membership) -> bool:
        """Whether what stands under our key is looked at now: not our own writing, and a feud's only now and then."""
        if told.mod_revision == held.mod_revision:
            return False
        wait_s = self._lookout.hold_back(known.attrs, told)
        if wait_s > 0:
            self._heal_at = time.monotonic() + wait_s
            self._wake.set()
        return wait_s <= 0

    def settle(
        self,
        outcome: member.Joined | member.Refused,
        basis: member.Membership | None,
        event: tally.Event = tally.Event.LEASE_HELD,
    ) -> None:
        """Remember the outcome on disk, then say so. Called under `deciding`; `basis`: who we were when it began.

        Raises NotReady where a Docker network got the subnet of `basis` meanwhile, and this is another one.
        """
        if isinstance(outcome, member.Refused):
            self._standing.set_refused(outcome, basis)
            self._publish()
            return
        if not self._standing.has_left():
            self._take_over(outcome, basis)
        known, held, _ = self._standing.now()
        if known is not None and held is outcome.lease:
            if outcome.former is not None:
                self.give_back(outcome.former)
            self._tell(known, held, event)
        elif self._standing.has_left():
            self.give_back(outcome.lease)

    def _take_over(self, joined: member.Joined, basis: member.Membership | None) -> None:
        """Be who has this lease. Where its subnet is new, no Docker network may have the one before it."""
        held = joined.lease
        if basis is None or basis.own.key == held.key:
            self._remember(joined, basis)
        elif not self._ports.unless_in_use(lambda: self._remember(joined, basis)):
            if held.ttl_s is not None:  # created just now
                self.give_back(held)
            raise errors.NotReady(f"a Docker network got subnet {basis.own.key} while {held.key} was claimed")

    def _remember(self, joined: member.Joined, basis: member.Membership | None) -> None:
        """On disk first: what Docker networks get from now on is of this subnet, also after a crash.

        Where it is there already, a disk that is full keeps nobody from the lease and the peers.
        """
        known, held = joined.member, joined.lease
        saved = nodestore.SavedNode(
            prefix=self._prefix,
            config=known.config_text,
            key=held.key,
            attrs=held.attrs,
            mac=known.own.mac,
            mac_v6=known.own.mac_v6,
            machine=self._ports.machine(),
            lease_id=held.lease_id,
        )
        self._unsaved = None
        try:
            self._ports.store.save(saved)
        except statefile.StateFileError as exc:
            before = self._ports.store.load(self._prefix)
            if before is None or (before.key, before.mac, before.mac_v6) != (saved.key, saved.mac, saved.mac_v6):
                raise
            self._unsaved = saved
            log.warning("lease not saved, again when the file can be written prefix=%s: %s", self._prefix, exc)
        self._standing.set_joined(joined, basis)

    def _tell(self, known: member.Membership, held: lease.Lease, event: tally.Event) -> None:
        self._standing.count(event)
        log.info("%s prefix=%s subnet=%s public_ip=%s", _SAID[event], self._prefix, held.key, held.attrs.host)
        self._heal_at = self._later(self._timing.heal_first_s)
        if held.ttl_s is None:
            self._beat_at = time.monotonic()  # a key taken over may have been about to expire
        if known.attrs != held.attrs:
            self.claim_soon()  # the underlay has changed while the registry was asked
        self._wake.set()
        self._publish()
        self._ports.changed()
        self._lookout.look()

    def run(self, stop: threading.Event) -> None:
        """Keep the lease until `stop`, whose setter calls `wake`."""
        pause = self._timing.retry_first_s
        while not stop.is_set():
            self._wake.wait(self._left_s())
            self._wake.clear()
            self._look_at_clock()
            if self._unclaimed and not stop.wait(pause):
                self._claim_again()
                pause = min(pause * 2, self._timing.retry_cap_s)
            elif not stop.is_set():
                pause = self._timing.retry_first_s
                self._do_due(time.monotonic())

    def _claim_again(self) -> None:
        self._unclaimed = False
        try:
            self.claim()
        except Exception:
            self._unclaimed = True
            raise

    def _left_s(self) -> float:
        return (
            0.0
            if self._unclaimed or self._outdated
            else max(0.0, min(self._beat_at, self._heal_at) - time.monotonic())
        )

    def _do_due(self, now: float) -> None:
        if self._outdated:
            self._outdated = False
            self.claim()
        if now >= self._heal_at:
            self._heal_at = self._later(self._timing.heal_s)
            self._heal()
        if now >= self._beat_at:
            self._beat_at = now + self._timing.beat_s
            try:
                self._keep_alive()
            except Exception:
                self._beat_at = now  # due until it has come to an answer
                raise
            self._lookout.look()

    def _later(self, pause_s: float) -> float:
        """When part of the pause is over: hosts that start together shall not go on together."""
        return time.monotonic() + pause_s * self._random.uniform(0.5, 1.0)

    def _claim_now(self, known: member.Membership, *, rewrite: bool) -> member.Joined | member.Refused:
        wish = claim.reclaim(known.published, self._ports.registry.read_leases(), known.attrs)
        if isinstance(wish, claim.Taken):
            return member.Refused(member=known, by=wish.by)
        if rewrite and isinstance(wish, claim.Keep):
            wish = claim.Rewrite(over=wish.lease)
        held = member.carry_out(wish, known.attrs, self._ports.registry)
        return member.Joined(member=dataclasses.replace(known, written=held.attrs, copied=False), lease=held)

    def _fail(self, exc: errors.OverlayError) -> None:
        self._standing.count(tally.Event.CLAIM_FAILED)
        self._standing.set_unclaimed(exc)
        self._unclaimed = True
        self._wake.set()

    def _heal(self) -> None:
        """Rewrite our key as it is, by compare-and-set: flannel v0.20 loses events, and hears of us by this.

        Costs each peer one event in which nothing has changed.
        """
        with self.deciding:
            known, held, _ = self._standing.now()
            if known is None or held is None:
                return
            try:
                self.settle(self._claim_now(known, rewrite=True), known, tally.Event.KEY_HEALED)
            except (errors.SubnetTaken, errors.LeaseLost) as exc:
                self._fail(exc)
            except errors.OverlayError as exc:
                log.warning("own key not rewritten, later prefix=%s reason=%s", self._prefix, exc)
                self._standing.count(tally.Event.HEAL_FAILED)
            self._heal_at = self._later(self._timing.heal_s)

    def _keep_alive(self) -> None:
        _, held, _ = self._standing.now()
        if held is None:
            return
        began = time.monotonic()
        try:
            ttl_s = self._ports.registry.keep_alive(held)
        except errors.LeaseLost as exc:
            log.warning("lease expired, claiming it again prefix=%s reason=%s", self._prefix, exc)
            self._standing.count(tally.Event.LEASE_EXPIRED)
            self.claim(rewrite=True)
        except errors.OverlayError as exc:  # also: a TLS file that is away, a state file that cannot be read
            wait_s = self._beat_again_s
            self._beat_at, self._beat_again_s = time.monotonic() + wait_s, min(2 * wait_s, self._timing.beat_s)
            log.warning("keepalive failed, next in %d s prefix=%s reason=%s", wait_s, self._prefix, exc)
            self._standing.count(tally.Event.KEEPALIVE_FAILED)
            self._run_out(exc)
        else:
            self._beat_again_s = self._timing.beat_s / _SOONER
            self._standing.set_ttl(held, ttl_s)
            self._note_pace(time.monotonic() - began)

    def _run_out(self, exc: errors.OverlayError) -> None:
        """Where the lease must have ended meanwhile, nobody agrees to it any more: claim it until somebody does."""
        if self._standing.has_run_out():
            log.warning("lease has run out unrenewed, subnet kept, claiming it again prefix=%s", self._prefix)
            self._standing.count(tally.Event.LEASE_EXPIRED)
            self._fail(exc)

    def _note_pace(self, took_s: float) -> None:
        slow = took_s > self._timing.slow_s
        if slow:
            self._standing.count(tally.Event.REGISTRY_SLOW)
        if slow and not self._slow:
            log.warning("registry answers slowly prefix=%s seconds=%.1f", self._prefix, took_s)
        self._slow = slow

    def _look_at_clock(self) -> None:
        """A word on a wall clock that was set: times in logs no longer compare, leases are as they were."""
        offset = time.time() - time.monotonic()
        jump_s, self._clock_offset = offset - self._clock_offset, offset
        if abs(jump_s) > _CLOCK_JUMP_S:
            log.warning("wall clock was set, lease unaffected prefix=%s jump_s=%.0f", self._prefix, jump_s)
            self._standing.count(tally.Event.CLOCK_JUMPED)


_SAID = {
    tally.Event.LEASE_HELD: "lease held",
    tally.Event.KEY_HEALED: "own key rewritten for peers that missed it",
}
