"""The registry in etcd, shared with real flannelds under one prefix.

Called by `node`. Writes one subnet key in each transaction (M3), by compare-and-set only (M4, M13), and never any
other key below `<prefix>/subnets` (M1). Asks for no lease's remaining time, which would cost one request per key.
Source: flannel pkg/subnet/etcd/registry.go; the numbers M… are those of docs/flannel.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
import threading
from collections.abc import Iterator

from overlay import errors, etcd_client, etcd_errors, etcd_values, lease, registry

log = logging.getLogger(__name__)

_BACKOFF_FIRST_S = 0.2
_BACKOFF_CAP_S = 5.0
_TEXT_LIMIT = 200


class EtcdRegistry:
    """One prefix. Several may share one client. Safe to call from any thread."""

    def __init__(self, client: etcd_client.EtcdClient, prefix: str, *, ttl_s: int = registry.SUBNET_TTL_S) -> None:
        self._client = client
        self._ttl_s = ttl_s
        self._followed = 0  # the highest revision that the watch has told
        self._anew = threading.Event()  # the watch is to start over
        self._prefix = lease.clean_prefix(prefix)
        self._config_key = _join(self._prefix, "config")
        self._subnets = _join(self._prefix, "subnets") + "/"

    def read_config(self) -> str:
        """See `Registry.read_config`."""
        found = self._client.get(self._config_key)
        if found is None:
            raise errors.ConfigMissing(
                f"etcd has no network config at {self._config_key}; write one with etcdctl put {self._config_key} "
                '\'{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan"}}\''
            )
        return found.value

    def create_config(self, text: str) -> bool:
        """See `Registry.create_config`."""
        result = self._client.put_if(self._config_key, text, lease_id=0, revision=0)
        return isinstance(result, etcd_values.Stored)

    def read_leases(self) -> registry.Snapshot:
        """See `Registry.read_leases`."""
        listing = self._client.list_prefix(self._subnets)
        leases: dict[lease.SubnetKey, lease.Lease] = {}
        unreadable = []
        for item in listing.items:
            match self._read(item):
                case registry.Unreadable() as bad:
                    unreadable.append(bad)
                case held:
                    leases[held.key] = held
        return registry.Snapshot(revision=listing.revision, leases=leases, unreadable=tuple(unreadable))

    def put_lease(self, key: lease.SubnetKey, attrs: lease.LeaseAttrs, over: lease.Lease | None) -> lease.Lease:
        """See `Registry.put_lease`."""
        wanted = lease.Lease(key=key, attrs=attrs)
        if over is None:
            return self._create(wanted)
        if over.lease_id:
            with contextlib.suppress(_GrantGone):
                return self._rewrite(dataclasses.replace(wanted, lease_id=over.lease_id), over)
            return self._rewrite_anew(wanted, over)
        return self._rewrite(wanted, over)

    def keep_alive(self, held: lease.Lease) -> int:
        """See `Registry.keep_alive`.

        The answer tells the store's revision. Where that is below what the watch has told, the watch waits for
        revisions of another store, silently and for ever, and starts over. It may be a member that lags behind:
        then it starts over for nothing.
        """
        if not held.lease_id:
            return self._ttl_s
        renewed = self._client.keep_alive(held.lease_id)
        if 0 < renewed.revision < self._followed:
            log.warning(
                "etcd is behind its own watch, lease watch starts over from=%d to=%d",
                self._followed,
                renewed.revision,
            )
            self._anew.set()
        return renewed.ttl_s

    def time_left(self, held: lease.Lease) -> registry.TimeLeft | None:
        """See `Registry.time_left`."""
        if not held.lease_id:
            return None
        left = self._client.time_left(held.lease_id)
        return registry.TimeLeft(seconds=max(0, left.ttl_s), term=left.term)

    def delete_lease(self, held: lease.Lease) -> None:
        """See `Registry.delete_lease`."""
        if self._client.delete_if(self._key(held.key), revision=held.mod_revision) and held.lease_id:
            self._revoke(held.lease_id)

    def watch(self, stop: threading.Event) -> Iterator[registry.WatchEvent]:
        """See `Registry.watch`.

        After every loss of contact all is read anew: the store that comes back may be another one, or an older one,
        and only a snapshot tells that the outage is over when nothing has changed meanwhile.
        """
        backoff = _Backoff()
        told = compacted = False
        while not stop.is_set():
            try:
                snapshot = dataclasses.replace(self.read_leases(), compacted=compacted)
                told = compacted = False
                self._followed = snapshot.revision
                yield snapshot
                yield from self._follow(snapshot.revision, stop, backoff)
            except etcd_errors.Compacted:
                compacted = True
            except errors.OverlayError as exc:  # a SettingsError too: a TLS file may be away while it is replaced
                if not told:
                    told = True
                    yield registry.Outage(reason=str(exc))
                stop.wait(backoff.next_s())

    def _follow(
        self, since: int, stop: threading.Event, backoff: _Backoff
    ) -> Iterator[registry.Delta | registry.Progress]:
        self._anew.clear()
        for batch in self._client.watch_prefix(self._subnets, since, _Either(stop, self._anew)):
            if batch.within_s is not None:  # its revision may be ahead of events that are still to come
                yield registry.Progress(within_s=batch.within_s)
                continue
            if batch.revision < since:  # restored from a backup, or a member that lags behind
                log.warning("etcd went back in time, lease watch starts over from=%d to=%d", since, batch.revision)
                stop.wait(backoff.next_s())
                return
            backoff.reset()
            since = self._followed = batch.revision
            changes = tuple(change for event in batch.events if (change := self._read_event(event)) is not None)
            if changes:
                yield registry.Delta(revision=since, changes=changes)

    def _create(self, wanted: lease.Lease) -> lease.Lease:
        granted = self._grant(wanted)
        try:
            result = self._put_new(granted)
        except errors.RegistryUnavailable:
            # The key may have been written all the same. Its PublicIP is ours, so the next try finds and takes it;
            # without a key the lease just ends.
            raise
        except errors.RegistryError:
            self._revoke(granted.lease_id)
            raise
        match result:
            case etcd_values.Stored(item=item):
                return _stored(granted, item)
            # A lost answer makes the client ask twice: the key with our new lease can only be our own.
            case etcd_values.Refused(found=etcd_values.KeyValue() as item) if item.lease_id == granted.lease_id:
                return _stored(granted, item)
            case etcd_values.Refused(found=found):
                self._revoke(granted.lease_id)
                raise errors.SubnetTaken(f"subnet {wanted.key.v4} is {self._holder(found)}")

    def _rewrite_anew(self, wanted: lease.Lease, over: lease.Lease) -> lease.Lease:
        granted = self._grant(wanted)
        try:
            return self._rewrite(granted, over)
        except errors.LeaseLost:
            self._revoke(granted.lease_id)
            raise

    def _rewrite(self, wanted: lease.Lease, over: lease.Lease) -> lease.Lease:
        value = lease.format_attrs(wanted.attrs)
        result = self._put(wanted, revision=over.mod_revision)
        match result:
            case etcd_values.Stored(item=item):
                return _stored(wanted, item)
            # As above; after a lost answer it is our text with our lease.
            case etcd_values.Refused(found=etcd_values.KeyValue(value=text, lease_id=lease_id) as item) if (
                text == value and lease_id == wanted.lease_id and item.mod_revision > over.mod_revision
            ):
                return _stored(wanted, item)
            case etcd_values.Refused(found=found):
                raise errors.LeaseLost(f"the lease of subnet {wanted.key.v4} is {self._holder(found)}")

    def _put_new(self, wanted: lease.Lease) -> etcd_values.Stored | etcd_values.Refused:
        """Create the key unless the IPv4 subnet has one, in either form: `10.2.20.0-24`, `10.2.20.0-24&fd00::-64`."""
        plain = self._key(lease.SubnetKey(v4=wanted.key.v4))
        forms = (plain, plain + chr(ord("&") + 1))
        return self._client.create_if_none(
            self._key(wanted.key), lease.format_attrs(wanted.attrs), lease_id=wanted.lease_id, among=forms
        )

    def _put(self, wanted: lease.Lease, *, revision: int) -> etcd_values.Stored | etcd_values.Refused:
        value = lease.format_attrs(wanted.attrs)
        try:
            return self._client.put_if(self._key(wanted.key), value, lease_id=wanted.lease_id, revision=revision)
        except errors.LeaseLost as exc:
            raise _GrantGone(str(exc)) from exc

    def _grant(self, wanted: lease.Lease) -> lease.Lease:
        lease_id, ttl_s = self._client.grant(self._ttl_s)
        return dataclasses.replace(wanted, lease_id=lease_id, ttl_s=ttl_s)

    def _revoke(self, lease_id: int) -> None:
        """Tidy up; a lease without a key harms nobody, so that failing is fine."""
        with contextlib.suppress(errors.RegistryError):
            self._client.revoke(lease_id)

    def _key(self, key: lease.SubnetKey) -> str:
        return self._subnets + lease.format_subnet_key(key)

    def _holder(self, found: etcd_values.KeyValue | None) -> str:
        if found is None:
            return "gone"
        match self._read(found):
            case registry.Unreadable(reason=reason):
                return f"taken by a key that is no lease: {reason}"
            case held:
                return f"leased by {held.attrs.public_ip}"

    def _read_event(self, event: etcd_values.KeyValue | etcd_values.Deleted) -> registry.Change | None:
        if isinstance(event, etcd_values.KeyValue):
            match self._read(event):
                case registry.Unreadable() as bad:
                    return bad
                case held:
                    return registry.LeasePut(lease=held)
        try:
            return registry.LeaseGone(key=self._read_key(event.key))
        except errors.CodecError:
            return None  # it never was a lease

    def _read(self, item: etcd_values.KeyValue) -> lease.Lease | registry.Unreadable:
        try:
            return lease.Lease(
                key=self._read_key(item.key),
                attrs=lease.parse_attrs(item.value),
                lease_id=item.lease_id,
                mod_revision=item.mod_revision,
            )
        except errors.CodecError as exc:
            return registry.Unreadable(key=_cut(item.key), reason=_cut(str(exc)))

    def _read_key(self, text: str) -> lease.SubnetKey:
        """The subnet of a whole key, which must be the one way to write it: else two keys would be one lease."""
        key = lease.parse_subnet_key(text)
        if text != self._key(key):
            raise errors.CodecError(f"{_cut(text)!r} is not how flannel writes {self._key(key)!r}")
        return key


class _Either:
    """Set as soon as one of the events is."""

    def __init__(self, *events: threading.Event) -> None:
        self._events = events

    def is_set(self) -> bool:
        return any(event.is_set() for event in self._events)


class _GrantGone(errors.LeaseLost):
    """The etcd lease to attach a key to has ended."""


class _Backoff:
    """Growing pauses with jitter, so that a cluster's hosts do not come back all at once. Units: seconds."""

    def __init__(self) -> None:
        self._next_s = _BACKOFF_FIRST_S
        self._random = random.SystemRandom()

    def reset(self) -> None:
        self._next_s = _BACKOFF_FIRST_S

    def next_s(self) -> float:
        pause_s = self._next_s * self._random.uniform(0.5, 1.0)
        self._next_s = min(_BACKOFF_CAP_S, self._next_s * 2)
        return pause_s


def _join(prefix: str, name: str) -> str:
    return f"{prefix.rstrip('/')}/{name}" if prefix else name


def _cut(text: str) -> str:
    """What is remembered of a text that is not flannel's: etcd takes keys and values of more than a megabyte."""
    return text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + "…"


def _stored(wanted: lease.Lease, item: etcd_values.KeyValue) -> lease.Lease:
    return dataclasses.replace(wanted, mod_revision=item.mod_revision, lease_id=item.lease_id)
