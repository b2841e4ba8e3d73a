"""Pools and addresses, in memory and in the state file, always the same in both.

Owns the pools in memory and, by way of `ipam.rows`, the tables of the room; runs no policy: `ipam.service` hands in
work that decides and changes in one go. Work that waits while a transaction is being written goes into the next one
together: a commit costs the same for one change as for sixteen, and 16 callers at once each wait for two commits, not
for sixteen.
An answer leaves only after its commit; a commit that fails is taken back in memory.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from ipam import errors, pool, requests, rows
from overlay import netstate, statefile

T = TypeVar("T")

SCHEMA = rows.SCHEMA
PoolEntry = rows.PoolEntry
Pools = Mapping[str, PoolEntry]


class Disagreement(RuntimeError):
    """A bug: file and memory differ, or would. The transaction is undone, in both."""


class Change:
    """What a piece of work sees and may change. Valid only while the work runs."""

    def __init__(
        self, pools: dict[str, PoolEntry], tx: statefile.Transaction, undo: list[Callable[[], object]]
    ) -> None:
        self.pools: Pools = pools
        self._pools = pools
        self._tx = tx
        self._undo = undo

    def add_pool(self, entry: PoolEntry) -> None:
        """Add a pool without addresses in use."""
        rows.insert_pool(self._tx, entry)
        self._pools[entry.id] = entry
        self._undo.append(functools.partial(self._pools.pop, entry.id))

    def drop_pool(self, pool_id: str) -> None:
        """Remove a pool with all its addresses."""
        self._expect_one(rows.delete_pool(self._tx, pool_id), pool_id)
        entry = self._pools.pop(pool_id)
        self._undo.append(functools.partial(self._pools.__setitem__, pool_id, entry))

    def take(self, entry: PoolEntry, ip: netstate.IPAddress, used: pool.Used) -> None:
        """Put an address that is not in use into use."""
        self._expect_one(rows.take(self._tx, entry.id, ip, used), f"{entry.id} {ip}")
        self._put(entry, ip, used)

    def rename(self, entry: PoolEntry, ip: netstate.IPAddress, used: pool.Used) -> None:
        """Change what an address in use is in use for."""
        self._expect_one(rows.rename(self._tx, entry.id, ip, used.kind), f"{entry.id} {ip}")
        self._put(entry, ip, used)

    def release(self, entry: PoolEntry, ip: netstate.IPAddress, since: float, stamp: float) -> None:
        """Let an address in use rest. Units: `since` and `stamp` as in `pool.Used`."""
        before = entry.addresses.state(ip)
        holder = before.holder if isinstance(before, pool.Used) else pool.NOBODY
        rested = pool.Rested(order=entry.addresses.next_order, stamp=stamp, holder=holder)
        self._expect_one(rows.release(self._tx, entry.id, ip, rested.order, since), f"{entry.id} {ip}")
        self._put(entry, ip, rested)

    def rows(self) -> requests.KnownRows:
        """What the state file holds in this transaction."""
        return rows.read(self._tx)

    def overwrite(self, entry: PoolEntry, ip: netstate.IPAddress, used: pool.Used | None) -> None:
        """Make an address in use or free (None), in file and memory, whatever either says now."""
        rows.delete_address(self._tx, entry.id, ip)
        self._put(entry, ip, None)
        if used is not None:
            self.take(entry, ip, used)

    def delete_row(self, pool_id: str) -> None:
        """Delete a pool that the file alone has, with its addresses."""
        rows.delete_addresses(self._tx, pool_id)
        rows.delete_pool(self._tx, pool_id)

    def forget(self, pool_id: str) -> None:
        """Forget a pool that memory alone has."""
        entry = self._pools.pop(pool_id)
        self._undo.append(functools.partial(self._pools.__setitem__, pool_id, entry))

    def _put(self, entry: PoolEntry, ip: netstate.IPAddress, state: pool.State) -> None:
        before = entry.addresses.put(ip, state)
        self._undo.append(functools.partial(entry.addresses.put, ip, before))

    def _expect_one(self, changed: int, what: str) -> None:
        if changed != 1:
            raise Disagreement(f"state file and memory disagree about {what}: {changed} rows changed, expected 1")


class _Job(Generic[T]):
    """One piece of work and what became of it. Its caller sleeps until it is done, or until it is to write."""

    def __init__(self, work: Callable[[Change], T]) -> None:
        self._work = work
        self._answers: list[T] = []
        self._error: Exception | None = None
        self._asleep = threading.Lock()
        self._asleep.acquire()
        self.done = False

    def sleep(self) -> None:
        """Wait for `wake`; returns at once if that came first."""
        self._asleep.acquire()

    def wake(self) -> None:
        """Let the caller go on. Call once."""
        self._asleep.release()

    def run(self, change: Change, undo: list[Callable[[], object]]) -> None:
        """Run the work. A refusal is its caller's alone; any other error ends the transaction, so raise it."""
        mark = len(undo)
        try:
            self._answers.append(self._work(change))
        except errors.IpamError as exc:
            if len(undo) != mark:
                raise Disagreement(f"work refused after its first change: {exc}") from exc
            self._error = exc

    def fail(self, exc: BaseException) -> None:
        """The transaction did not happen: no answer may leave. A refusal stays what it is."""
        self._answers.clear()
        if self._error is None:
            self._error = statefile.StateFileError(f"nothing was changed: {exc}")
            self._error.__cause__ = exc

    def outcome(self) -> T:
        """The work's answer, or raise what stood in its way."""
        if self._error is not None:
            raise self._error
        return self._answers[0]


class Store:
    """All pools. One caller at a time writes, for all that wait, and then names the next writer.

    Plain locks are not fair: with 16 callers one of them keeps getting it, and others wait for 100 ms and more.
    Units: `stamp`, the monotonic time that rows read from the file get.
    """

    def __init__(self, state: statefile.StateFile, stamp: float) -> None:
        self._state = state
        self._lock = threading.Lock()  # over the pools
        self._queue_lock = threading.Lock()  # over the two below; never held while anything else is waited for
        self._queue: list[_Job[Any]] = []
        self._writing = False
        self._pools = rows.load(state, stamp)

    @contextlib.contextmanager
    def read(self) -> Iterator[Pools]:
        """The pools as they are on disk, unchanged while the block runs."""
        with self._lock:
            yield self._pools

    def change(self, work: Callable[[Change], T]) -> T:
        """Run `work` in a transaction and answer what it returned, once that is on disk.

        `work` may refuse with an IpamError before its first change, not after. Raises that, and StateFileError.
        """
        job = _Job(work)
        with self._queue_lock:
            self._queue.append(job)
            follow, self._writing = self._writing, True
        if follow:
            job.sleep()
        if not job.done:
            self._write_queued(job)
        return job.outcome()

    def _write_queued(self, own: _Job[Any]) -> None:
        with self._queue_lock:
            jobs, self._queue = self._queue, []
        try:
            with self._lock:
                self._write(jobs)
        finally:
            for job in jobs:
                job.done = True
            with self._queue_lock:
                self._writing = bool(self._queue)
                successor = self._queue[:1]
            for job in (*successor, *jobs):
                if job is not own:
                    job.wake()

    def _write(self, jobs: list[_Job[Any]]) -> None:
        undo: list[Callable[[], object]] = []
        try:
            with self._state.write() as tx:
                change = Change(self._pools, tx, undo)
                for job in jobs:
                    job.run(change, undo)
        except BaseException as exc:
            for step in reversed(undo):
                step()
            for job in jobs:
                job.fail(exc)
            if not isinstance(exc, statefile.StateFileError):
                raise  # a bug: one caller shows the traceback
