"""One flannel network on this host: gets the lease, keeps it, follows the peers, publishes the kernel state.

Two threads: `_run` joins the network and then follows the registry's watch, `_beat` keeps the lease alive. Both act
on one `standing.Standing`. What to do is decided in `claim`, `peers` and the backend, which are pure; no lock is held
across a registry call. Built and owned by `nodes`.
"""

from __future__ import annotations

import dataclasses
import logging
import threading

from overlay import claim, errors, lease, member, netstate, nodestore, peers, registry, standing

log = logging.getLogger(__name__)

BEAT_S = 120.0
"""Seconds between keepalives: often enough that a lost key is seen long before its day is over."""
RETRY_FIRST_S = 0.5
RETRY_CAP_S = 5.0


class Node:
    """This host in the flannel network under `prefix`."""

    def __init__(self, prefix: str, options: member.Options, ports: member.Ports) -> None:
        self.prefix = prefix
        self._options = options
        self._ports = ports
        self._standing = standing.Standing(prefix)
        self._publishing = threading.Lock()  # slices reach the reconciler in the order in which they were made
        self._settling = threading.Lock()  # one decision about our own key at a time
        self._stop = threading.Event()
        self._kick = threading.Event()
        self._threads: list[threading.Thread] = []

    def restore(self) -> None:
        """Take up what the state file knows, so that all works without the registry."""
        saved = self._ports.store.load(self.prefix)
        if saved is None:
            return
        try:
            known = member.make_membership(self.prefix, self._options, self._ports, saved.config, saved)
        except errors.OverlayError as exc:
            self._standing.set_trouble(exc)
            return
        leases = self._ports.store.load_peers(self.prefix)
        self._standing.set_saved(dataclasses.replace(known, attrs=saved.attrs), leases)
        log.info("lease restored prefix=%s subnet=%s peers=%d", self.prefix, saved.key.v4, len(leases))
        self._publish()

    def start(self) -> None:
        """Begin to talk to the registry."""
        for target, name in ((self._run, "node"), (self._beat, "beat")):
            thread = threading.Thread(target=target, name=f"{name}:{self.prefix}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads. Lease, device and routes stay: containers are using them."""
        self._stop.set()
        self._kick.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def leave(self) -> None:
        """Give the subnet back and take the kernel objects away: for a node that nothing uses any more."""
        self.stop()
        held = self._standing.set_left()
        self._publish()
        self._ports.store.forget(self.prefix)
        if held is None:
            return
        try:
            self._ports.registry.delete_lease(held)
        except errors.RegistryError as exc:
            log.warning("lease left to expire prefix=%s subnet=%s reason=%s", self.prefix, held.key.v4, exc)

    def held(self) -> lease.HeldSubnet | None:
        """The lease, held or known from the state file; None before the first."""
        return self._standing.held()

    def wait(self, timeout_s: float) -> lease.HeldSubnet:
        """Wait for the lease; see `holdings.Holdings.wait`."""
        seen = self._standing.attempts()
        self._kick.set()  # what an operator has just put right is looked at now, not after the pause
        return self._standing.wait(seen, timeout_s)

    def status(self) -> standing.Status:
        """What this node is and lacks."""
        return self._standing.status()

    def _run(self) -> None:
        pause = RETRY_FIRST_S
        while not self._stop.is_set():
            self._kick.clear()
            try:
                self._settle(member.join(self.prefix, self._options, self._ports, self._stop))
                break
            except errors.OverlayError as exc:
                self._standing.set_trouble(exc)
            except Exception as exc:
                log.exception("bug: unexpected error while joining prefix=%s", self.prefix)
                self._standing.set_trouble(errors.OverlayError(f"unexpected {type(exc).__name__}: {exc}"))
            self._kick.wait(pause)
            pause = min(pause * 2, RETRY_CAP_S)
        if not self._stop.is_set():
            self._follow()

    def _follow(self) -> None:
        for event in self._ports.registry.watch(self._stop):
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
            self._ports.store.save_peers(self.prefix, news.put, news.gone)
        if news.own_told:
            self._check_own(news.own)

    def _check_own(self, told: lease.Lease | None) -> None:
        """Something happened to our key, perhaps by ourselves."""
        known, held, _ = self._standing.now()
        if known is None:
            return
        if told is None:
            log.warning("own lease is gone, claiming it again prefix=%s subnet=%s", self.prefix, known.own.key.v4)
            self._reclaim()
            return
        if held is not None and told.mod_revision < held.mod_revision:
            return  # an echo of what was rewritten since
        match claim.judge(told, known.attrs, known.published):
            case claim.Taken():
                self._settle(member.Refused(member=known, by=told))
            case claim.Keep() if held is None or held.mod_revision != told.mod_revision:
                self._settle(member.Joined(member=known, lease=told))
            case claim.Keep():
                pass
            case claim.Rewrite():
                self._reclaim()

    def _reclaim(self) -> None:
        """The subnet we used, or nothing: never another one under running containers."""
        with self._settling:
            known, _, _ = self._standing.now()
            if known is None:
                return
            wish = claim.reclaim(known.published, self._ports.registry.read_leases(), known.attrs)
            if isinstance(wish, claim.Taken):
                outcome: member.Joined | member.Refused = member.Refused(member=known, by=wish.by)
            else:
                try:
                    held = member.carry_out(wish, known.attrs, self._ports.registry)
                except (errors.SubnetTaken, errors.LeaseLost) as exc:
                    log.warning("own lease not claimed, the watch will tell prefix=%s reason=%s", self.prefix, exc)
                    return
                outcome = member.Joined(member=known, lease=held)
        self._settle(outcome)

    def _settle(self, outcome: member.Joined | member.Refused) -> None:
        """Remember the outcome on disk, then say so."""
        if isinstance(outcome, member.Refused):
            self._standing.set_refused(outcome)
            return
        known, held = outcome.member, outcome.lease
        self._ports.store.save(
            nodestore.SavedNode(
                prefix=self.prefix, config=known.config_text, key=held.key, attrs=known.attrs, mac=known.own.mac
            )
        )
        self._standing.set_joined(outcome)
        log.info("lease held prefix=%s subnet=%s public_ip=%s", self.prefix, held.key.v4, held.attrs.public_ip)
        self._publish()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            _, held, _ = self._standing.now()
            if held is None:
                continue
            try:
                self._standing.set_ttl(held, self._ports.registry.keep_alive(held))
            except errors.LeaseLost as exc:
                log.warning("lease expired, claiming it again prefix=%s reason=%s", self.prefix, exc)
                self._reclaim_quietly()
            except errors.RegistryError as exc:
                log.warning("keepalive failed, next in %d s prefix=%s reason=%s", BEAT_S, self.prefix, exc)

    def _reclaim_quietly(self) -> None:
        try:
            self._reclaim()
        except errors.RegistryError as exc:
            log.warning("own lease not claimed yet prefix=%s reason=%s", self.prefix, exc)

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
