"""One flannel network on this host: gets the lease, follows the peers, publishes the kernel state.

Two threads: `_run` joins the network and then follows the registry's watch, the `keeper`'s keeps the lease. Both act
on one `standing.Standing`. What to do is decided in `claim`, `peers` and the backend, which are pure. Built and owned
by `nodes`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from overlay import (
    claim,
    clones,
    doubt,
    errors,
    examine,
    keeper,
    lease,
    member,
    netstate,
    peers,
    preflight,
    registry,
    standing,
    statefile,
    tally,
    together,
)

log = logging.getLogger(__name__)

Timing = keeper.Timing

_STOP_S = 5.0
_LEAVE_S = 60.0
"""Longer than any request to a registry takes: what a thread still writes would be taken for a new life's."""


def end_threads(threads: Iterable[threading.Thread], within_s: float) -> None:
    """Wait for threads that were told to end, all together no longer than this."""
    deadline = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


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
        self._keeper = keeper.Keeper(prefix, ports, self._timing, self._standing, self._publish)
        self._origins = clones.Origins(self._timing.watch_s)
        self._doubt = doubt.Doubt(prefix, ports.registry, self._standing, self._timing.doubt_s)
        self._published = netstate.EMPTY
        self._left_with: lease.Lease | None = None
        self._restored = False
        self._unsaved = False  # the state file's peers are behind; the watch's thread alone writes
        self._save_pause_s = self._timing.save_first_s
        self._save_at = 0.0
        self._read_at = 0  # revision of the last snapshot that was believed
        self._stop = threading.Event()
        self._kick = threading.Event()  # try to join now
        self._cut = threading.Event()  # end the watch
        self._anew = threading.Event()  # and begin it again with the lease as it is
        self._threads: list[threading.Thread] = []
        self._changed_at: dict[lease.SubnetKey, float] = {}  # of each peer; the watch's thread alone writes

    def restore(self) -> None:
        """Take up what the state file knows, so that all works without the registry."""
        try:
            self._take_up_saved()
        except errors.OverlayError as exc:
            self._standing.set_trouble(exc)

    def start(self) -> None:
        """Begin to talk to the registry."""
        for run, name in ((self._run, "node"), (lambda: self._keeper.run(self._stop), "beat")):
            thread = self._ports.supervisor.start(f"{name}:{self.prefix}", run, self._stop)
            self._threads.append(thread)  # `stop` may come from another thread, and waits for what runs

    def halt(self) -> None:
        """Tell the threads to end, without waiting for them."""
        self._stop.set()
        self._kick.set()
        self._cut.set()
        self._keeper.wake()

    def stop(self) -> None:
        """End the threads. Lease, device and routes stay: containers are using them."""
        self.halt()
        end_threads(self._threads, _STOP_S)

    def leave(self) -> None:
        """Take the kernel objects away, for good: nothing uses this node any more. Waits for no registry."""
        self.halt()
        self._left_with = self._standing.leave()
        self._publish()

    def give_back(self) -> bool:
        """What remains after `leave`: end the threads, forget, give the subnet back. Waits for the registry.

        Tells whether the registry has nothing of this host any more.
        """
        end_threads(self._threads, _LEAVE_S)
        self._ports.store.forget(self.prefix)
        return self._left_with is None or self._keeper.give_back(self._left_with)

    def held(self) -> lease.HeldSubnet | None:
        """The lease, held or known from the state file; None before the first."""
        return self._standing.held()

    def holds(self, held: lease.HeldSubnet) -> bool:
        """See `holdings.Holdings.holds`."""
        return self._standing.holds(held)

    def wait(self, timeout_s: float) -> lease.HeldSubnet:
        """Wait for the lease; see `holdings.Holdings.wait`."""
        if self._standing.refused() and not self._ports.in_use():
            self._start_over()
        seen = self._standing.attempts()
        self._kick.set()  # what an operator has just put right is looked at now, not after the pause
        held = self._standing.wait(seen, timeout_s, confirmed=not self._ports.in_use())
        preflight.refuse_rival(self.prefix, self._ports.flannelds())
        preflight.refuse_overlap(held, self._ports.kernel.list_underlays())
        return held

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

    def claim(self) -> None:
        """Look at our own key, and create or rewrite it where that is ours to do."""
        self._keeper.claim(rewrite=True)

    def follow_anew(self) -> None:
        """Read all leases again, and write down those that the state file has otherwise."""
        self._anew.set()
        self._cut.set()

    def save_again(self) -> None:
        """The state file can be written again: bring it up to date where it is behind. Raises StateFileError."""
        self._keeper.save_again()
        if self._unsaved and time.monotonic() >= self._save_at:
            self.follow_anew()

    def programmed(self) -> netstate.NetState:
        """The kernel state that was handed to the reconciler last."""
        return self._published

    def now(self) -> tuple[member.Membership | None, lease.Lease | None, peers.Book]:
        """Who this host is, the lease the registry agreed to, and the peers, for the audit to compare."""
        return self._standing.now()

    def desired_with(self, leases: peers.Leases) -> netstate.NetState:
        """The kernel state that these leases come to; nothing before the first of our own."""
        known, _, _ = self._standing.now()
        return known.backend.desired(known.own, leases)[0] if known else netstate.EMPTY

    def status(self) -> standing.Status:
        """What this node is and lacks."""
        self._keeper.look_again()
        return self._standing.status()

    def list_peers(self) -> list[examine.PeerView]:
        """The peers in order of their subnets; none before the first lease."""
        known, _, book = self._standing.now()
        if known is None:
            return []
        return examine.list_peers(known, book, self._changed_at.copy(), time.monotonic())

    def examine(self, subnets: AbstractSet[str]) -> dict[str, str]:
        """What keeps this host and the peers with these subnets apart, a sentence each; unknown ones are left out.

        Raises PermissionError where this process may not send pings.
        """
        known, _, book = self._standing.now()
        asked = [held for key, held in book.leases.items() if subnets & {str(key), *str(key).split(" and ")}]
        said = examine.examine(known, asked) if known is not None else []
        return {str(held.key): sentence for held, sentence in zip(asked, said, strict=False)}

    def _take_up_saved(self) -> None:
        saved = self._ports.store.load(self.prefix)
        if saved is not None:
            known = member.make_membership(self.prefix, self._options, self._ports, saved.config, saved, in_use=True)
            here = member.look_here(known.attrs, self._ports)
            copied, moved = self._ports.shared and clones.is_copy(saved, here), clones.is_moved(saved, here)
            if copied and moved:  # with the old address peers go on sending to the old MAC until they hear of another
                known = member.rename(known, self._ports)
            if self._ports.in_use() or not (copied or moved):
                self._restore(dataclasses.replace(known, written=saved.attrs))
            else:
                self._anew.set()  # whose the subnet is must be found out first; the peers are read anew
        self._restored = True

    def _restore(self, saved: member.Membership) -> None:
        leases = self._ports.store.load_peers(self.prefix)
        self._standing.set_saved(saved, leases)
        log.info("lease restored prefix=%s subnet=%s peers=%d", self.prefix, saved.own.key, len(leases))
        self._publish()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._cut.clear()
            anew = self._anew.is_set()
            if anew:
                self._anew.clear()
                self._save_all_peers()
            if not anew or not self._standing.is_settled():
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
                with self._keeper.deciding:
                    basis, _, _ = self._standing.now()
                    outcome = member.join(self.prefix, self._options, self._ports, self._stop, self._origins)
                    self._keeper.settle(outcome, basis)
                self._restored = True
                self.look_at_underlay()  # which may have changed while the registry was asked
            except errors.OriginUnknown as exc:
                self._standing.set_trouble(exc)
                self._kick.wait(min(exc.left_s, self._timing.watch_pause_s))
                continue
            except errors.OverlayError as exc:
                self._standing.set_trouble(exc)
            except Exception as exc:  # noqa: BLE001 - told by the supervisor
                self._ports.supervisor.note(f"node:{self.prefix}", exc)
                self._standing.set_trouble(errors.OverlayError(f"unexpected {type(exc).__name__}: {exc}"))
            else:
                self._ports.supervisor.well(f"node:{self.prefix}")
                return
            self._kick.wait(pause)
            pause = min(pause * 2, self._timing.retry_cap_s)

    def _save_peers(self, put: peers.Leases, gone: AbstractSet[lease.SubnetKey]) -> None:
        """Write what changed into the state file, which costs nobody a peer where it cannot be written."""
        if self._unsaved:
            return  # until `save_again`: each attempt would be about all peers
        with self._saving():
            self._ports.store.save_peers(self.prefix, put, gone)

    def _save_all_peers(self) -> None:
        """The state file's peers as memory has them: the snapshot that comes next changes both alike."""
        with self._saving():
            _, _, book = self._standing.now()
            saved = self._ports.store.load_peers(self.prefix)
            self._ports.store.save_peers(self.prefix, book.leases, saved.keys() - book.leases.keys())
            self._unsaved, self._save_pause_s = False, self._timing.save_first_s

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Note what fails only when it has: `save_again` may come while a slow disk is still writing."""
        try:
            yield
        except statefile.StateFileError as exc:
            self._put_off()
            log.warning("peers not saved, again when the file can be written prefix=%s: %s", self.prefix, exc)
        except BaseException:
            self._put_off()
            raise

    def _put_off(self) -> None:
        """A disk that has room for a page, and so counts as mended, need not have it for thousands of peers."""
        self._unsaved, self._save_at = True, time.monotonic() + self._save_pause_s
        self._save_pause_s = min(2 * self._save_pause_s, self._timing.save_cap_s)

    def _move(self, known: member.Membership, moved: member.Membership) -> None:
        if not self._standing.set_moved(known, moved):
            return  # joined anew meanwhile, and so by what the underlay is
        link = moved.own.underlay
        if link != known.own.underlay:  # else the devices alone: their checksum offload
            self._standing.count(tally.Event.UNDERLAY_CHANGED)
            log.info(
                "underlay changed prefix=%s link=%s mtu=%d public_ip=%s",
                *(self.prefix, link.name, link.mtu, moved.attrs.host),
            )
        self._publish()
        self._ports.changed()
        if moved.attrs != known.attrs:
            self._keeper.claim_soon()

    def _start_over(self) -> None:
        """Another host has our subnet and nothing here uses it any more: any other will do."""
        if self._standing.forget_refusal():
            log.info("subnet given up, joining anew prefix=%s", self.prefix)
            self._cut.set()

    def _follow(self) -> None:
        """Carry out what the watch tells; what one event left undone is read again, with the lease as it is."""
        events = together.gather(self._ports.registry.watch(self._cut), self._cut)
        try:
            for event in events:
                self._hear(event)
        except Exception:
            self._cut.set()
            events.close()
            self._anew.set()
            raise

    def _hear(self, event: registry.WatchEvent) -> None:
        known, _, book = self._standing.now()
        match event:
            case registry.Outage():
                self._standing.set_outage(event.reason)
            case registry.Progress():
                self._standing.set_progress(event.within_s)
            case registry.Snapshot() if known is not None:
                self._doubt.note(book, event)
                believed = self._doubt.settle(book, event, self._cut)
                if believed is not None:
                    self._read_at = believed.revision
                    self._take_in(peers.read_event(book, believed, known.own.key))
            case registry.Delta() if known is not None and event.revision > self._read_at:  # else read already
                self._take_in(peers.read_event(book, event, known.own.key))

    def _take_in(self, news: peers.News) -> None:
        self._changed_at |= dict.fromkeys(news.put, time.monotonic())
        for key in news.gone:
            self._changed_at.pop(key, None)
        if self._standing.set_book(news.book):
            self._keeper.beat_now()
        if news.put or news.gone:
            self._publish()
        if news.own_told:
            self._keeper.check_own(news.own)
        elif news.gone and self._standing.refused():
            self._keeper.claim()  # the lease in our way need not have our key
        self._save_peers(news.put, news.gone)

    def _publish(self) -> None:
        """Hand the kernel state of the moment to the reconciler, which repeats what the kernel refuses."""
        with self._publishing:
            known, _, book = self._standing.now()
            state, skipped = known.backend.desired(known.own, book.leases) if known else (netstate.EMPTY, ())
            rivals = {one.key for one in skipped if known and one.key.overlaps(known.own.key)}
            overlaps = [claim.explain_overlap(known.own.key, book.leases[key]) for key in sorted(rivals) if known]
            self._standing.set_skipped(tuple(str(one) for one in skipped), tuple(overlaps))
            self._published = state
            try:
                self._ports.publish(f"node:{self.prefix}", state)
            except errors.KernelError as exc:
                log.warning("not all programmed, retrying in the background prefix=%s reason=%s", self.prefix, exc)
