"""Where this host stands in one flannel network: what it holds, what it lacks, and waiting for a change of that.

Passive and thread-safe: `node` sets, everybody asks. Talks to nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Mapping, Sequence

from overlay import claim, errors, lease, member, peers, preflight, registry, tally

log = logging.getLogger(__name__)

_LINES = 20
"""Of what is skipped at once, so many are named in the log."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A node at one moment, for /status and /readyz. Units: those that end in _s seconds."""

    prefix: str
    subnet: str | None
    subnet_v6: str | None
    device: str | None
    public_ip: str | None
    public_ipv6: str | None
    underlay: str | None
    mtu: int | None
    """What containers may send, in bytes."""
    confirmed: bool
    """The registry agreed to the lease in this run; False while it is only known from the state file."""
    conflict: str | None
    trouble: str | None
    outage: str | None
    underlay_trouble: str | None
    followed: bool
    """The peers were read from the registry in this run."""
    peers: int
    skipped: tuple[str, ...]
    overlaps: tuple[str, ...] = ()
    """Leases of other hosts that have addresses of ours, each with what to do."""
    revision: int
    expires_in_s: float | None
    heard_s: float | None
    """Since the registry's last word: news of the watch, or an answer to a keepalive."""
    watch_heard_s: float | None
    """Since the watch's last word; None where the registry does not say when the next one is due."""
    silence: str | None
    """The watch's last word is older than it may be: peers that came and went are not known."""
    renewed_s: float | None
    """Since the last answer to a keepalive."""
    events: Mapping[str, int]
    """How often what happened since the start; see `tally.Event`."""
    findings: preflight.Findings


class Standing:
    """What a node knows. `trouble` is the last reason why there is no lease, `conflict` why there cannot be one."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._tally = tally.Tally(tally.Event)
        self._changed = threading.Condition()
        self._member: member.Membership | None = None
        self._lease: lease.Lease | None = None
        self._conflict: str | None = None
        self._trouble: errors.OverlayError | None = None
        self._begun = 0
        self._failed = 0
        self._outage: str | None = None
        self._book = peers.Book()
        self._followed = False
        self._skipped: tuple[str, ...] = ()
        self._overlaps: tuple[str, ...] = ()
        self._heard_at: float | None = None
        self._followed_at: float | None = None
        self._renewed_at: float | None = None
        self._within_s: float | None = None  # in which the watch's next word is due
        self._expires_at: float | None = None
        self._underlay_trouble: str | None = None
        self._findings = preflight.Findings()
        self._settled = False
        self._left = False

    def now(self) -> tuple[member.Membership | None, lease.Lease | None, peers.Book]:
        """Who we are, the lease the registry agreed to, and the peers."""
        with self._changed:
            return self._member, self._lease, self._book

    def count(self, event: tally.Event) -> None:
        """It happened once more; who calls has logged it."""
        self._tally.add(event)

    def set_saved(self, known: member.Membership, leases: peers.Leases) -> None:
        """Known from the state file; nobody has confirmed it yet."""
        with self._changed:
            if self._left:
                return
            self._member = known
            self._book = peers.Book(leases=leases)
            self._changed.notify_all()

    def set_joined(self, joined: member.Joined, basis: member.Membership | None = None) -> bool:
        """The lease is ours. False where we are nobody any more: this host has left, or joins anew.

        `basis`: who we were when the registry was asked. What has moved since stays moved.
        """
        with self._changed:
            known = self._update(joined.member, basis)
            if known is None:
                return False
            if self._conflict is not None:
                log.info("subnet regained prefix=%s subnet=%s", self._prefix, joined.lease.key.v4)
                self.count(tally.Event.SUBNET_REGAINED)
            self._member, self._lease, self._settled = known, joined.lease, True
            self._conflict = self._trouble = None
            self._changed.notify_all()
        ttl_s = joined.lease.ttl_s
        self.set_ttl(joined.lease, registry.SUBNET_TTL_S if ttl_s is None else ttl_s)
        return True

    def set_moved(self, known: member.Membership, moved: member.Membership) -> bool:
        """The underlay has changed under `known`; False where we are another member by now."""
        with self._changed:
            if self._member != known:
                return False
            self._member = moved
            self._changed.notify_all()
            return True

    def set_underlay_trouble(self, exc: errors.OverlayError | None) -> None:
        """The link below is not what it was, and cannot be used as it is now; None: it can."""
        text = None if exc is None else str(exc)
        with self._changed:
            fresh = text != self._underlay_trouble
            self._underlay_trouble = text
        if fresh and text is not None:
            log.warning("underlay lost, waiting for it prefix=%s reason=%s", self._prefix, text)
        elif fresh:
            log.info("underlay back prefix=%s", self._prefix)

    def set_refused(self, refused: member.Refused, basis: member.Membership | None = None) -> None:
        """Another host has our subnet. `basis`: as for `set_joined`."""
        with self._changed:
            known = self._update(refused.member, basis)
            if known is None:
                return
            conflict = claim.explain_taken(known.own.key, refused.by, known.attrs, copied=known.copied)
            if self._conflict != conflict:
                log.error("subnet lost prefix=%s: %s", self._prefix, conflict)
                self.count(tally.Event.SUBNET_LOST)
            self._member, self._lease, self._settled = known, None, True
            self._expires_at, self._conflict, self._trouble = None, conflict, None
            self._changed.notify_all()

    def begin(self) -> None:
        """An attempt to get the lease begins."""
        with self._changed:
            self._begun += 1

    def set_trouble(self, exc: errors.OverlayError) -> None:
        """The attempt that began last failed."""
        with self._changed:
            self._note(exc, "no lease yet, retrying")
            self._failed = self._begun
            self._changed.notify_all()

    def set_unclaimed(self, exc: errors.OverlayError) -> None:
        """Our key is gone, or not as we wrote it, and could not be claimed: the registry agrees to nothing now."""
        with self._changed:
            self._note(exc, "own lease not claimed yet, retrying")
            self._lease = self._expires_at = None

    def set_ttl(self, held: lease.Lease, ttl_s: int) -> None:
        """The lease lives for so long from now; a reservation for ever."""
        with self._changed:
            self._heard_at = self._renewed_at = time.monotonic()
            self._expires_at = self._heard_at + ttl_s if held.lease_id else None

    def has_run_out(self) -> bool:
        """Whether the lease must have ended, since nobody renewed it in time."""
        with self._changed:
            return self._expires_at is not None and time.monotonic() >= self._expires_at

    def set_outage(self, reason: str) -> None:
        """The registry is gone; what was known stays."""
        with self._changed:
            if self._outage is None:
                log.warning("registry lost, working from what is known prefix=%s reason=%s", self._prefix, reason)
                self.count(tally.Event.REGISTRY_LOST)
            self._outage = reason
            self._within_s = None

    def set_progress(self, within_s: float) -> None:
        """The watch lives, and its next word is due so soon."""
        with self._changed:
            self._heard_at = self._followed_at = time.monotonic()
            self._within_s = within_s

    def set_book(self, book: peers.Book) -> bool:
        """News of the peers, and so of the registry; tells whether that ended an outage."""
        with self._changed:
            lost = self._outage is not None
            before = self._book.unreadable
            fresh = [] if book.unreadable is before else sorted(book.unreadable.keys() - before.keys())
            self._book, self._outage, self._followed = book, None, True
            self._heard_at = self._followed_at = time.monotonic()
        if lost:
            log.info("registry back prefix=%s revision=%d", self._prefix, book.revision)
            self.count(tally.Event.REGISTRY_BACK)
        if fresh:
            self._tally.add(tally.Event.KEY_UNREADABLE, len(fresh))
            self._warn("key", [f"key={key} reason={book.unreadable[key]}" for key in fresh[:_LINES]], len(fresh))
        return lost

    def set_skipped(self, skipped: tuple[str, ...], overlaps: tuple[str, ...] = ()) -> None:
        """The peers that the backend cannot use, each with the reason, and those with our addresses. New: logged."""
        with self._changed:
            fresh = sorted(set(skipped) - set(self._skipped))
            doubled = [one for one in overlaps if one not in self._overlaps]
            self._skipped, self._overlaps = skipped, overlaps
        self._warn("peer", fresh[:_LINES], len(fresh))
        for one in doubled:
            log.error("subnet overlaps prefix=%s: %s", self._prefix, one)
            self.count(tally.Event.OVERLAPPED)

    def set_findings(self, found: preflight.Findings) -> None:
        """What is amiss around this network."""
        with self._changed:
            self._findings = found

    def leave(self) -> lease.Lease | None:
        """This host leaves for good: what an attempt under way comes to changes nothing. The lease to give back."""
        with self._changed:
            held = self._lease
            self._left = True
            self._forget()
            return held

    def has_left(self) -> bool:
        """Whether `leave` was called."""
        with self._changed:
            return self._left

    def is_settled(self) -> bool:
        """Whether an attempt to join has ended with a lease or a conflict, and nothing was forgotten since."""
        with self._changed:
            return self._settled

    def holds(self, held: lease.HeldSubnet) -> bool:
        """Whether these subnets are still this host's, as far as it knows."""
        with self._changed:
            now = self._held()
            return self._conflict is None and now is not None and now.subnets == held.subnets

    def refused(self) -> bool:
        """Whether another host has our subnet."""
        with self._changed:
            return self._conflict is not None

    def forget_refusal(self) -> bool:
        """Where another host has our subnet: let it go, so that an attempt may get any; tells whether it was so."""
        with self._changed:
            if self._conflict is None:
                return False
            self._forget()
            return True

    def attempts(self) -> int:
        """How many attempts have begun."""
        with self._changed:
            return self._begun

    def held(self) -> lease.HeldSubnet | None:
        """The lease, held or known from the state file; None before the first."""
        with self._changed:
            return self._held()

    def wait(self, seen: int, timeout_s: float, *, confirmed: bool = False) -> lease.HeldSubnet:
        """Wait for the lease. An error that waiting cannot cure counts from an attempt that began after `seen`.

        `confirmed`: what the state file alone says does not count while the registry is asked for the first time.
        Raises LeaseLost, SettingsError, RegistryDenied, OutOfSubnets, NotReady.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                if self._conflict is not None:
                    raise errors.LeaseLost(self._conflict)
                held = self._held()
                left = deadline - time.monotonic()
                asking = self._begun and not self._settled and not self._failed  # the first attempt is under way
                if held is not None and (not asking or not confirmed or left <= 0):
                    return held
                match self._trouble:
                    case errors.SettingsError() | errors.RegistryDenied() | errors.OutOfSubnets() as hopeless:
                        if self._failed > seen:
                            raise hopeless
                if left <= 0:
                    raise errors.NotReady(f"no flannel lease under {self._prefix} yet: {self._trouble or 'starting'}")
                self._changed.wait(left)

    def status(self) -> Status:
        """All of it."""
        with self._changed:
            known = self._member
            held = self._held()
            unreadable = tuple(f"{key}: {reason}" for key, reason in sorted(self._book.unreadable.items()))
            return Status(
                prefix=self._prefix,
                subnet=str(known.own.key.v4) if known else None,
                subnet_v6=str(held.v6.subnet) if held and held.v6 else None,
                device=known.backend.device if known else None,
                public_ip=str(known.attrs.public_ip) if known else None,
                public_ipv6=str(known.attrs.public_ipv6) if known and known.attrs.public_ipv6 else None,
                underlay=known.own.underlay.name if known else None,
                mtu=held.overlay_mtu if held else None,
                confirmed=self._lease is not None,
                conflict=self._conflict,
                trouble=str(self._trouble) if self._trouble else None,
                outage=self._outage,
                underlay_trouble=self._underlay_trouble,
                followed=self._followed,
                peers=len(self._book.leases),
                skipped=self._skipped + unreadable,
                overlaps=self._overlaps,
                revision=self._book.revision,
                expires_in_s=self._expires_at - time.monotonic() if self._expires_at else None,
                heard_s=_age(self._heard_at),
                watch_heard_s=_age(self._followed_at) if self._within_s is not None else None,
                silence=self._silence(),
                renewed_s=_age(self._renewed_at),
                events=self._tally.read(),
                findings=self._findings,
            )

    def _warn(self, what: str, lines: Sequence[str], total: int) -> None:
        for line in lines:
            log.warning("%s skipped prefix=%s %s", what, self._prefix, line)
        if total > len(lines):
            log.warning("%s skipped prefix=%s and %d more, see /status", what, self._prefix, total - len(lines))

    def _silence(self) -> str | None:
        age_s = _age(self._followed_at)
        if age_s is None or self._within_s is None or age_s <= self._within_s:
            return None
        return f"nothing heard for {age_s:.0f} s, where a word is due every {self._within_s:.0f} s"

    def _note(self, exc: errors.OverlayError, what: str) -> None:
        if str(exc) != str(self._trouble):
            log.warning("%s prefix=%s reason=%s", what, self._prefix, exc)
        self._trouble = exc

    def _update(self, outcome: member.Membership, basis: member.Membership | None) -> member.Membership | None:
        """What an attempt that began with `basis` makes of who we are now; None: nothing."""
        now = self._member
        if self._left or (now is None and basis is not None):
            return None
        return outcome if now is None or now is basis else outcome.over_underlay_of(now)

    def _forget(self) -> None:
        self._member = self._lease = self._conflict = self._expires_at = self._underlay_trouble = None
        self._settled = False
        self._book = peers.Book()

    def _held(self) -> lease.HeldSubnet | None:
        known = self._member
        if known is None:
            return None
        return lease.HeldSubnet(
            prefix=self._prefix,
            network=known.config.require_v4().network,
            subnet=known.own.key.v4,
            device=known.backend.device,
            overlay_mtu=known.backend.overlay_mtu(known.own),
            direct=known.backend.needs_routes,
            v6=known.held_v6,
        )


def _age(at: float | None) -> float | None:
    return None if at is None else time.monotonic() - at
