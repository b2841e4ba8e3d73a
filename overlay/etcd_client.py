"""etcd as the registry needs it: single requests with a deadline, and one watch stream.

Decides which member is asked, when again, and with which token; `etcd_channel` is what talks. Raises `errors` and
nothing else, never with the password in a text. Knows nothing of flannel. Make one after the last fork: gRPC's
threads do not survive it.
Source: etcd api/etcdserverpb/rpc.proto, etcd client/v3/client.go.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from overlay import (
    errors,
    etcd_channel,
    etcd_errors,
    etcd_pool,
    etcd_resolve,
    etcd_settings,
    etcd_values,
    faults,
    tally,
)

log = logging.getLogger(__name__)

T = TypeVar("T")


_RESOLVE_AGAIN_S = 30.0

_POLLS_LATE = 2
"""An answer that a watch lives comes a little late at times."""

REQUESTS = ("read", "list", "write", "delete", "grant", "revoke", "renew", "query", "watch", "login")
"""The kinds of requests that are counted. Every sending counts, a repeated one as well."""


class EtcdClient:
    """One cluster. Safe to call from any thread. Construction dials nothing, and succeeds while etcd is down.

    A call ends after `timeout_s`. A request without an answer after half of that, or cut off sooner, is sent again,
    to another member where there is one: what a dying leader had is lost, and a frozen one keeps its connections.
    Every operation bears being done twice.
    Raises SettingsError for settings that cannot work, RegistryUnavailable and RegistryDenied from every call.
    """

    def __init__(self, settings: etcd_settings.EtcdSettings) -> None:
        self.requests = tally.Tally(REQUESTS)
        self._settings = settings
        self._cluster = etcd_settings.parse_cluster(settings)
        self._resolver = etcd_resolve.Resolver(self._cluster, settings.timeout_s)
        self._pool = etcd_pool.Pool(self._connect)
        self._login_lock = threading.Lock()
        self._lock = threading.Lock()
        self._token: str | None = None  # "" where etcd wants none
        self._turns = 0
        self._resolved_at = 0.0

    def close(self) -> None:
        """Close all channels; running watches end. A second close is harmless."""
        self._pool.close()

    def get(self, key: str) -> etcd_values.KeyValue | None:
        """One key, by a linearizable read."""
        found = self._call(f"read {key}", lambda client: client.get_response(key))
        return etcd_channel.read_item(found.kvs[0]) if found.kvs else None

    def list_prefix(self, prefix: str) -> etcd_values.Listing:
        """All keys that begin with `prefix`, by one linearizable read."""
        found = self._call(f"list {prefix}", lambda client: client.get_prefix_response(prefix))
        return etcd_values.Listing(
            revision=found.header.revision, items=tuple(etcd_channel.read_item(item) for item in found.kvs)
        )

    def put_if(
        self, key: str, value: str, *, lease_id: int, revision: int
    ) -> etcd_values.Stored | etcd_values.Refused:
        """Write `key` if its mod_revision is `revision`, where 0 means: if it does not exist.

        Raises LeaseLost where `lease_id` is no living lease.
        """

        def put(client: Any) -> etcd_values.Stored | etcd_values.Refused:
            tx = client.transactions
            unchanged = tx.mod(key) == revision if revision else tx.version(key) == 0
            return etcd_channel.write(client, unchanged, tx.put(key, value, lease_id), tx.get(key))

        return self._call(f"write {key}", put)

    def create_if_none(
        self, key: str, value: str, *, lease_id: int, among: tuple[str, str]
    ) -> etcd_values.Stored | etcd_values.Refused:
        """Write `key` if no key exists from the first of `among` to before the second, in one transaction.

        Refused names the first that does. Raises LeaseLost where `lease_id` is no living lease. Needs etcd 3.3.
        """
        first, end = among

        def put(client: Any) -> etcd_values.Stored | etcd_values.Refused:
            tx = client.transactions
            none = tx.version(first, end) == 0
            return etcd_channel.write(client, none, tx.put(key, value, lease_id), tx.get(first, end))

        return self._call(f"write {key}", put)

    def delete_if(self, key: str, *, revision: int) -> bool:
        """Delete `key` if its mod_revision is `revision`; tells whether it was."""

        def delete(client: Any) -> bool:
            tx = client.transactions
            done, _ = client.transaction(compare=[tx.mod(key) == revision], success=[tx.delete(key)], failure=[])
            return bool(done)

        return self._call(f"delete {key}", delete)

    def grant(self, ttl_s: int) -> tuple[int, int]:
        """A new lease: its id, and the seconds granted."""
        granted = self._call("grant a lease", lambda client: client.lease(ttl_s))
        return granted.id, granted.ttl

    def revoke(self, lease_id: int) -> None:
        """End a lease, and with it the keys that have it. Raises LeaseLost where there is none."""
        self._call(f"revoke lease {lease_id:016x}", lambda client: client.revoke_lease(lease_id))

    def keep_alive(self, lease_id: int) -> etcd_values.Renewed:
        """Renew a lease once. Raises LeaseLost where it has ended."""
        answers = self._call(f"renew lease {lease_id:016x}", lambda client: list(client.refresh_lease(lease_id)))
        if not answers or answers[0].TTL <= 0:  # how etcd says it: no error, no time
            raise errors.LeaseLost(f"etcd lease {lease_id:016x} has ended")
        return etcd_values.Renewed(ttl_s=answers[0].TTL, revision=answers[0].header.revision)

    def time_left(self, lease_id: int) -> etcd_values.Remaining:
        """When a lease ends."""
        told = self._call(f"query lease {lease_id:016x}", lambda client: client.get_lease_info(lease_id))
        return etcd_values.Remaining(ttl_s=told.TTL, term=told.header.raft_term)

    def watch_prefix(self, prefix: str, after: int, stop: etcd_channel.Stop) -> Iterator[etcd_values.Batch]:
        """What happens under `prefix` after revision `after`; a Batch without events first, once etcd has agreed.

        One stream, never resumed: it ends with an error (RegistryError, Compacted) or, half a second after it at the
        latest and however silent etcd is, with `stop`. A half-dead connection is noticed after 8 s.
        """
        with self._pool.using() as channel:
            yield from self._watch(channel, prefix, after, stop)

    def _watch(
        self, channel: etcd_channel.Channel, prefix: str, after: int, stop: etcd_channel.Stop
    ) -> Iterator[etcd_values.Batch]:
        what = f"watch {prefix}"
        self.requests.add("watch")
        try:
            for response, lives in channel.watch(prefix, after + 1, stop):
                if lives:
                    within_s = _POLLS_LATE * self._settings.progress_s
                    yield etcd_values.Batch(revision=response.header.revision, within_s=within_s)
                else:
                    yield self._read_response(response, what)
            raise errors.RegistryUnavailable(f"etcd at {self._cluster}: the stream to {what} ended")
        except etcd_channel.FAILURES as exc:
            if not stop.is_set():
                failure = etcd_errors.read_failure(exc)
                self._turn(channel, failure)
                raise failure.as_error(what, str(self._cluster)) from exc

    def _read_response(self, response: Any, what: str) -> etcd_values.Batch:
        if response.compact_revision:
            raise etcd_errors.Compacted(f"etcd at {self._cluster}: cannot {what}: history was compacted")
        if response.canceled:  # a refusal is no status: the stream goes on, silent for ever
            self._forget_token(self._token)
            reason = response.cancel_reason or "permission denied, or an old token"
            raise etcd_errors.Failure(code="", details=reason).as_error(what, str(self._cluster))
        return etcd_channel.read_batch(response)

    def _call(self, what: str, run: Callable[[Any], T]) -> T:
        """Make one request; log in where the token has ended, turn to another member where this one is gone."""
        give_up = time.monotonic() + self._settings.timeout_s + 0.1
        tries_left = {"login": 1, "member": len(self._cluster.members)}
        while True:
            with self._pool.using() as channel:
                token = self._token
                try:
                    if self._settings.username and token is None:
                        token = self._log_in(channel)
                    self.requests.add(what.partition(" ")[0])
                    return _request(run, channel)
                except etcd_channel.FAILURES as exc:
                    failure = etcd_errors.read_failure(exc)
                    if failure.asks_for_login and self._settings.username and tries_left["login"]:
                        tries_left["login"] -= 1
                        self._forget_token(token)
                        continue
                    if failure.unanswered:
                        self._turn(channel, failure)
                        if tries_left["member"] and time.monotonic() + self._settings.attempt_s < give_up:
                            tries_left["member"] -= 1
                            continue
                    raise failure.as_error(what, str(self._cluster)) from exc

    def _connect(self) -> list[etcd_channel.Channel]:
        addresses = self._resolver.resolve()
        cluster = self._cluster.starting_at(self._turns)
        targets = etcd_settings.plan_targets(cluster, addresses, self._settings.server_name)
        channels = [etcd_channel.Channel(target, self._settings) for target in targets]
        for channel in channels:
            channel.show(self._token)
        self._resolved_at = time.monotonic()
        self._turns += 1
        return channels

    def _turn(self, failed: etcd_channel.Channel, failure: etcd_errors.Failure) -> None:
        """To the next channel; and to a next member where one channel has them all, for gRPC sees that one alive.

        With fresh addresses where names were resolved long ago.
        """
        stale = self._resolver.has_names and time.monotonic() - self._resolved_at > _RESOLVE_AGAIN_S
        self._pool.turn(failed, anew=stale or (failure.stuck and len(self._cluster.members) > 1))

    def _log_in(self, channel: etcd_channel.Channel) -> str:
        """A token for all channels; its cost is a bcrypt on etcd's side, so threads wait for one another's."""
        with self._login_lock:
            if self._token is not None:
                return self._token
            self.requests.add("login")
            try:
                token = channel.authenticate(self._settings.username, self._settings.password)
                log.info("logged in to etcd user=%s", self._settings.username)
            except etcd_channel.FAILURES as exc:
                if not etcd_errors.read_failure(exc).needs_no_login:
                    raise
                token = ""
            self._token = token
            for one in {channel, *self._pool.all()}:
                one.show(token)
            return token

    def _forget_token(self, token: str | None) -> None:
        with self._lock:
            if self._token == token:
                self._token = None


def _request(run: Callable[[Any], T], channel: etcd_channel.Channel) -> T:
    faults.reached("etcd.request.before")
    answer = run(channel.client)
    faults.reached("etcd.request.after")
    return answer
