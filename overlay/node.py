"""One flannel network on this host: gets the lease, keeps it, follows the peers, publishes the kernel state.

Two threads: `_run` joins the network and then follows the registry's watch, `_beat` keeps the lease alive, and claims
it again where that failed at first. Both act on one `standing.Standing`. What to do is decided in `claim`, `peers`
and the backend, which are pure. Whatever concerns our own key is decided under one lock and from a fresh look at the
registry, never from an event: an event says that there is something to see, and may be older than our own last word.
Built and owned by `nodes`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading

from overlay import claim, errors, lease, member, netstate, nodestore, peers, registry, standing

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Units: seconds. `beat_s` lies between keepalives: a lost key is seen long before its day is over."""

    beat_s: float = 120.0
    retry_first_s: float = 0.5
    retry_cap_s: float = 5.0


class Node:
    """This host in the flannel network under `prefix`."""

    def __init__(
        self, prefix: str, options: member.Options, ports: member.Ports, *, timing: Timing | None = None
    ) -> None:
        self.prefix = prefix
        self._options = options
        self._ports = ports
        self._timing = timing or Timing()
        self._standing = standing.Standing(prefix)
        self._publishing = threading.Lock()  # slices reach the reconciler in the order in which they were made
        self._deciding = threading.Lock()  # over our own key, from the look at the registry to what is said of it
        self._restored = False
        self._leaving = False  # under _deciding
        self._stop = threading.Event()
        self._kick = threading.Event()  # try to join now
        self._cut = threading.Event()  # end the watch
        self._due = threading.Event()  # our own key is still to be claimed
        self._threads: list[threading.Thread] = []

    def restore(self) -> None:
        """Take up what the state file knows, so that all works without the registry."""
        try:
            self._take_up_saved()
        except errors.OverlayError as exc:
            self._standing.set_trouble(exc)

    def start(self) -> None:
        """Begin to talk to the registry."""
        for target, name in ((self._run, "node"), (self._beat, "beat")):
            thread = threading.Thread(target=target, name=f"{name}:{self.prefix}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def halt(self) -> None:
        """Tell the threads to end, without waiting for them."""
        self._stop.set()
        for event in (self._kick, self._cut, self._due):
            event.set()

    def stop(self) -> None:
        """End the threads. Lease, device and routes stay: containers are using them."""
        self.halt()
        for thread in self._threads:
            thread.join(timeout=5)

    def leave(self) -> None:
        """Give the subnet back and take the kernel objects away: for a node that nothing uses any more."""
        self.stop()
        with self._deciding:  # an attempt under way may still get a lease
            self._leaving = True
            held = self._standing.set_left()
        self._publish()
        self._ports.store.forget(self.prefix)
        if held is not None:
            self._give_back(held)

    def held(self) -> lease.HeldSubnet | None:
        """The lease, held or known from the state file; None before the first."""
        return self._standing.held()

    def wait(self, timeout_s: float) -> lease.HeldSubnet:
        """Wait for the lease; see `holdings.Holdings.wait`."""
        if self._standing.refused() and not self._ports.in_use():
            self._start_over()
        seen = self._standing.attempts()
        self._kick.set()  # what an operator has just put right is looked at now, not after the pause
        return self._standing.wait(seen, timeout_s)

    def look_at_underlay(self) -> None:
        """Take up what became of the link below: another address, MTU or route. Called after kernel events.

        While the link or its address is missing all stays as it is: it may come back.
        """
        known, _, _ = self._standing.now()
        if known is None:
            self._kick.set()  # what the first attempt lacked may be there now
            return
        try:
            moved = member.move_membership(known, self._options, self._ports)
        except errors.OverlayError as exc:
            self._standing.set_underlay_trouble(exc)
            return
        self._standing.set_underlay_trouble(None)
        if moved != known:
            self._move(known, moved)

    def set_tx_checksum(self, on: bool) -> None:
        """Whether the tunnel devices leave checksums to the hardware below."""
        self._options = dataclasses.replace(self._options, tx_checksum=on)
        self.look_at_underlay()

    def status(self) -> standing.Status:
        """What this node is and lacks."""
        return self._standing.status()

    def _take_up_saved(self) -> None:
        saved = self._ports.store.load(self.prefix)
        if saved is not None:
            known = member.make_membership(self.prefix, self._options, self._ports, saved.config, saved, in_use=True)
            leases = self._ports.store.load_peers(self.prefix)
            self._standing.set_saved(dataclasses.replace(known, written=saved.attrs), leases)
            log.info("lease restored prefix=%s subnet=%s peers=%d", self.prefix, saved.key, len(leases))
            self._publish()
        self._restored = True

    def _run(self) -> None:
        while not self._stop.is_set():
            self._cut.clear()
            self._join()
            if not self._stop.is_set():  # looked at after the clear, which may have undone halt's set
                self._follow()

    def _join(self) -> None:
        pause = self._timing.retry_first_s
        while not self._stop.is_set():
            self._kick.clear()
            self._standing.begin()
            if not self._restored:  # the underlay may have come up since; the registry may still be away
                with contextlib.suppress(errors.OverlayError):
                    self._take_up_saved()
            try:
                with self._deciding:
                    self._settle(member.join(self.prefix, self._options, self._ports, self._stop))
                self._restored = True
            except errors.OverlayError as exc:
                self._standing.set_trouble(exc)
            except Exception as exc:
                log.exception("bug: unexpected error while joining prefix=%s", self.prefix)
                self._standing.set_trouble(errors.OverlayError(f"unexpected {type(exc).__name__}: {exc}"))
            else:
                return
            self._kick.wait(pause)
            pause = min(pause * 2, self._timing.retry_cap_s)

    def _move(self, known: member.Membership, moved: member.Membership) -> None:
        if not self._standing.set_moved(known, moved):
            return  # joined anew meanwhile, and so by what the underlay is
        log.info(
            "underlay changed prefix=%s link=%s mtu=%d public_ip=%s",
            self.prefix,
            moved.own.underlay.name,
            moved.own.underlay.mtu,
            moved.attrs.host,
        )
        self._publish()
        self._ports.changed()
        if moved.attrs != known.attrs:
            self._claim()

    def _start_over(self) -> None:
        """Another host has our subnet and nothing here uses it any more: any other will do."""
        if self._standing.forget_refusal():
            log.info("subnet given up, joining anew prefix=%s", self.prefix)
            self._cut.set()

    def _follow(self) -> None:
        for event in self._ports.registry.watch(self._cut):
            try:
                self._hear(event)
            except errors.OverlayError as exc:
                log.warning("event not carried out whole prefix=%s reason=%s", self.prefix, exc)
            except Exception:
                log.exception("bug: unexpected error in a watch event prefix=%s", self.prefix)

    def _hear(self, event: registry.Snapshot | registry.Delta | registry.Outage) -> None:
        if isinstance(event, registry.Outage):
            log.warning("registry lost, working from what is known prefix=%s reason=%s", self.prefix, event.reason)
            self._standing.set_outage(event.reason)
            return
        known, _, book = self._standing.now()
        if known is None:
            return
        news = peers.read_event(book, event, known.own.key)
        self._standing.set_book(news.book)
        if news.put or news.gone:
            self._publish()
        if news.own_told:
            self._check_own(news.own)
        elif news.gone and self._standing.refused():
            self._claim()  # the lease in our way need not have our key
        self._ports.store.save_peers(self.prefix, news.put, news.gone)

    def _check_own(self, told: lease.Lease | None) -> None:
        """Something happened to our key, perhaps by ourselves."""
        _, held, _ = self._standing.now()
        if told is None and held is not None:
            log.warning("own lease is gone, claiming it again prefix=%s subnet=%s", self.prefix, held.key.v4)
        self._claim(told)

    def _claim(self, told: lease.Lease | None = None, *, renew: bool = False) -> None:
        """Claim the subnet we used, or nothing: never another one under running containers.

        `told` is what the registry said of our key: nothing to do if that is what we hold. `renew`: the etcd lease
        behind the key has ended. What fails now is tried again by `_beat`.
        """
        with self._deciding:
            known, held, _ = self._standing.now()
            if known is None or self._leaving:
                return
            if told is not None and held is not None and told.mod_revision == held.mod_revision:
                return
            try:
                self._settle(self._claim_now(known, renew=renew))
            except errors.OverlayError as exc:
                self._standing.set_unclaimed(exc)
                self._due.set()

    def _claim_now(self, known: member.Membership, *, renew: bool) -> member.Joined | member.Refused:
        wish = claim.reclaim(known.published, self._ports.registry.read_leases(), known.attrs)
        if isinstance(wish, claim.Taken):
            return member.Refused(member=known, by=wish.by)
        if renew and isinstance(wish, claim.Keep):
            wish = claim.Rewrite(over=wish.lease)
        held = member.carry_out(wish, known.attrs, self._ports.registry)
        return member.Joined(member=dataclasses.replace(known, written=held.attrs), lease=held)

    def _settle(self, outcome: member.Joined | member.Refused) -> None:
        """Remember the outcome on disk, then say so. Called under `_deciding`."""
        if self._leaving:
            if isinstance(outcome, member.Joined):
                self._give_back(outcome.lease)
            return
        if isinstance(outcome, member.Refused):
            self._standing.set_refused(outcome)
            return
        known, held = outcome.member, outcome.lease
        self._ports.store.save(
            nodestore.SavedNode(
                prefix=self.prefix,
                config=known.config_text,
                key=held.key,
                attrs=held.attrs,
                mac=known.own.mac,
                mac_v6=known.own.mac_v6,
            )
        )
        self._standing.set_joined(outcome)
        log.info("lease held prefix=%s subnet=%s public_ip=%s", self.prefix, held.key, held.attrs.host)
        self._publish()
        self._ports.changed()

    def _give_back(self, held: lease.Lease) -> None:
        try:
            self._ports.registry.delete_lease(held)
        except errors.RegistryError as exc:
            log.warning("lease left to expire prefix=%s subnet=%s reason=%s", self.prefix, held.key.v4, exc)

    def _beat(self) -> None:
        first_s, cap_s = self._timing.retry_first_s, self._timing.retry_cap_s
        pause = first_s
        while not self._stop.is_set():
            try:
                if not self._due.wait(self._timing.beat_s):
                    self._keep_alive()
                elif not self._stop.wait(pause):
                    self._due.clear()
                    self._claim()
                    pause = min(pause * 2, cap_s) if self._due.is_set() else first_s
            except Exception:
                log.exception("bug: unexpected error while keeping the lease prefix=%s", self.prefix)

    def _keep_alive(self) -> None:
        _, held, _ = self._standing.now()
        if held is None:
            return
        try:
            self._standing.set_ttl(held, self._ports.registry.keep_alive(held))
        except errors.LeaseLost as exc:
            log.warning("lease expired, claiming it again prefix=%s reason=%s", self.prefix, exc)
            self._claim(renew=True)
        except errors.RegistryError as exc:
            wait_s = self._timing.beat_s
            log.warning("keepalive failed, next in %d s prefix=%s reason=%s", wait_s, self.prefix, exc)

    def _publish(self) -> None:
        """Hand the kernel state of the moment to the reconciler, which repeats what the kernel refuses."""
        with self._publishing:
            known, _, book = self._standing.now()
            state, skipped = known.backend.desired(known.own, book.leases) if known else (netstate.EMPTY, ())
            self._standing.set_skipped(tuple(str(one) for one in skipped))
            try:
                self._ports.publish(f"node:{self.prefix}", state)
            except errors.KernelError as exc:
                log.warning("not all programmed, retrying in the background prefix=%s reason=%s", self.prefix, exc)
