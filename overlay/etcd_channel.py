"""One gRPC channel to etcd: etcd3's client, and the stubs that it keeps to itself.

The only module that imports etcd3 and grpc. etcd3's client makes the single requests; what it does badly is replaced,
here and in `etcd_client`, which calls: its watcher (spins while etcd is down, loses events, never notices a silent
server), its log-in (once, in the constructor, refused without TLS) and its errors (without the reason).
Source: etcd api/etcdserverpb/rpc.proto, grpc doc/keepalive.md.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grpc

from overlay import errors, etcd_settings, etcd_shim, etcd_values

etcd_shim.install()

import etcd3  # noqa: E402  # only after the shim
from etcd3 import etcdrpc  # noqa: E402

FAILURES = (grpc.RpcError, etcd3.Etcd3Exception, ValueError)
"""What a request may raise; `etcd_errors.read_failure` reads all of them."""

_POLL_S = 0.5
"""How often a silent watch looks at its stop event."""

_MISSED = 3
"""Answers of a watch in a row that may stay away; then it is broken, though gRPC's pings reach etcd all the same."""


class Silent(etcd3.Etcd3Exception):  # type: ignore[misc]  # etcd3 has no types
    """A watch that has answered before no longer does."""


class Stop(Protocol):
    """What ends a watch; a threading.Event is one."""

    def is_set(self) -> bool:
        """Whether it is to end."""
        ...


class Channel:
    """One gRPC channel with etcd3's client and the stubs that it keeps to itself or does not make."""

    def __init__(self, target: etcd_settings.Target, settings: etcd_settings.EtcdSettings) -> None:
        host, _, port = target.address.rpartition(":")  # etcd3 joins them again
        options: list[tuple[str, int | str]] = list(etcd_settings.CHANNEL_OPTIONS)
        files: dict[str, str | None] = {}
        if target.tls_name:
            options.append(("grpc.ssl_target_name_override", target.tls_name))
            files["ca_cert"] = settings.ca_file or _system_authorities()
            files["cert_cert"] = settings.cert_file or None
            files["cert_key"] = settings.key_file or None
            if files["ca_cert"] is None:
                raise errors.SettingsError("https etcd endpoints need a file of authorities: this system has none")
        try:
            self.client = etcd3.client(
                host=host, port=port, timeout=settings.attempt_s, grpc_options=options, **files
            )
        except OSError as exc:
            raise errors.SettingsError(
                f"cannot read etcd's TLS file {exc.filename}: {exc.strerror}; the managed plugin sees the host's "
                "as /etcd-tls/NAME, their directory is given with etcd-tls.source"
            ) from exc
        self._attempt_s = settings.attempt_s
        self._progress_s = settings.progress_s
        self._auth = etcdrpc.AuthStub(self.client.channel)
        self._watch = etcdrpc.WatchStub(self.client.channel)

    def authenticate(self, user: str, password: str) -> str:
        """A token. Raises FAILURES."""
        token: str = self._auth.Authenticate(
            etcdrpc.AuthenticateRequest(name=user, password=password), self._attempt_s
        ).token
        return token

    def watch(self, prefix: str, start_revision: int, stop: Stop) -> Iterator[tuple[Any, bool]]:
        """The responses of one stream; it ends half a second after `stop` at the latest. Raises FAILURES.

        With each comes whether it only tells that the stream lives. It is asked that now and then, by a second watch
        on it that is cancelled at once: etcd has a request for it, of which its own proxy died (before 3.4.19).
        Where that is refused, as when a token has ended that the watch does not need any more, the stream lives, too.
        One that stops answering is cancelled.
        """
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        requests.put(_watch_request(prefix, start_revision))
        over = threading.Event()
        pulse = _Pulse(self._progress_s)
        # Without a leader a member would accept the watch and stay silent: "hasleader" makes it say so.
        metadata = (*(self.client.metadata or ()), ("hasleader", "true"))
        try:
            stream = self._watch.Watch(iter(requests.get, None), metadata=metadata)
            ask = functools.partial(requests.put, _probe_request(prefix))
            args = (stream, stop, over, pulse, ask)
            threading.Thread(target=_look_after, args=args, name="etcd-watch", daemon=True).start()
            watch_id: int | None = None
            for response in stream:
                # Some versions of etcd give a refused probe the number of the watch itself.
                is_probe = watch_id is not None and (response.created or response.watch_id != watch_id)
                watch_id = response.watch_id if watch_id is None else watch_id
                if is_probe and not response.created:
                    continue
                if is_probe and not response.canceled:
                    requests.put(_cancel_request(response.watch_id))
                with pulse.told(is_answer=is_probe):
                    yield response, is_probe
        except grpc.RpcError:
            if not pulse.is_lost():
                raise
        finally:
            over.set()
            requests.put(None)  # ends gRPC's thread that reads our requests
        if pulse.is_lost():  # said here, or the reason read from it would be that we cancelled it
            raise Silent(f"no answer from the watch for {_MISSED * self._progress_s:g} s")

    def show(self, token: str | None) -> None:
        """Send this token with every request."""
        self.client.metadata = (("token", token),) if token else None

    def close(self) -> None:
        """Implements `etcd_pool.Closable`."""
        self.client.close()


def _system_authorities() -> str | None:
    import ssl  # costs 10 ms, and hardly anybody asks

    return ssl.get_default_verify_paths().cafile


def _watch_request(prefix: str, start_revision: int) -> Any:
    return etcdrpc.WatchRequest(
        create_request=etcdrpc.WatchCreateRequest(
            key=prefix.encode(),
            range_end=etcd3.utils.increment_last_byte(prefix.encode()),
            start_revision=start_revision,
            progress_notify=True,
        )
    )


def _probe_request(prefix: str) -> Any:
    """A watch of the one key that no lease can have, and whoever may watch the leases may watch."""
    return etcdrpc.WatchRequest(create_request=etcdrpc.WatchCreateRequest(key=prefix.encode()))


def _cancel_request(watch_id: int) -> Any:
    return etcdrpc.WatchRequest(cancel_request=etcdrpc.WatchCancelRequest(watch_id=watch_id))


class _Pulse:
    """When a watch was asked last whether it lives, and whether it has answered. Units: seconds."""

    def __init__(self, progress_s: float) -> None:
        self._progress_s = progress_s
        self._asked_at = self._heard_at = time.monotonic()
        self._answers = False
        self._busy = False

    @contextlib.contextmanager
    def told(self, *, is_answer: bool) -> Iterator[None]:
        """A response has come; while it is worked on no other is waited for."""
        self._busy = True
        self._answers = self._answers or is_answer
        yield
        self._heard_at = time.monotonic()
        self._busy = False

    def is_due(self) -> bool:
        """Whether to ask now; counts as asked then. Whatever else the watch tells, its answers come evenly."""
        now = time.monotonic()
        if now - self._asked_at < self._progress_s:
            return False
        self._asked_at = now
        return True

    def is_lost(self) -> bool:
        """Whether it has answered before and does so no longer."""
        silent_s = time.monotonic() - self._heard_at
        return self._answers and not self._busy and silent_s > _MISSED * self._progress_s


def _look_after(stream: Any, stop: Stop, over: threading.Event, pulse: _Pulse, ask: Callable[[], object]) -> None:
    """Ask a stream whether it lives, and cancel it when it is to end, or does not."""
    while not over.wait(_POLL_S):
        if stop.is_set() or pulse.is_lost():
            break
        if pulse.is_due():
            ask()
    stream.cancel()


def write(client: Any, compare: Any, put: Any, look: Any) -> etcd_values.Stored | etcd_values.Refused:
    """One transaction; `look` is what finds the key that was put, or what was in its way."""
    done, answers = client.transaction(compare=[compare], success=[put, look], failure=[look])
    found = [
        etcd_values.KeyValue(
            key=_text(meta.key), value=_text(data), mod_revision=meta.mod_revision, lease_id=meta.lease_id
        )
        for data, meta in answers[-1]
    ]
    return etcd_values.Stored(item=found[0]) if done else etcd_values.Refused(found=next(iter(found), None))


def read_batch(response: Any) -> etcd_values.Batch:
    """The events of a watch's response."""
    events = tuple(
        etcd_values.Deleted(key=_text(event.kv.key)) if event.type else read_item(event.kv)
        for event in response.events
    )
    return etcd_values.Batch(revision=response.header.revision, events=events)


def read_item(item: Any) -> etcd_values.KeyValue:
    """One key."""
    return etcd_values.KeyValue(
        key=_text(item.key), value=_text(item.value), mod_revision=item.mod_revision, lease_id=item.lease
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
