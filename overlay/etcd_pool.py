"""The channels to one cluster: which of them is in use, and when one that is no longer wanted may be closed.

Called by `etcd_client`, which makes the channels. Knows nothing of gRPC. Safe to call from any thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from overlay import errors


class Closable(Protocol):
    """A channel."""

    def close(self) -> None:
        """End it, and what runs over it; a second time is harmless."""
        ...


C = TypeVar("C", bound=Closable)


class Pool(Generic[C]):
    """One channel for all who ask, until it fails. `connect` makes them when one is needed, without waiting long."""

    def __init__(self, connect: Callable[[], list[C]]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._channels: list[C] = []
        self._current = 0
        self._users: dict[C, int] = {}
        self._closed = False

    @contextlib.contextmanager
    def using(self) -> Iterator[C]:
        """The channel of the moment, which lives at least until this ends. Raises RegistryUnavailable if closed."""
        with self._lock:
            if self._closed:
                raise errors.RegistryUnavailable("the etcd client was closed")
            if not self._channels:
                self._channels = self._connect()
            channel = self._channels[self._current % len(self._channels)]
            self._users[channel] = self._users.get(channel, 0) + 1
        try:
            yield channel
        finally:
            with self._lock:
                self._users[channel] -= 1
                unused = self._sweep()
            for one in unused:
                one.close()

    def turn(self, failed: C, *, anew: bool) -> None:
        """Leave a channel that failed for the next one, unless others did; `anew`: all are made again."""
        with self._lock:
            if failed not in self._channels or self._channels[self._current % len(self._channels)] is not failed:
                return
            self._current += 1
            if anew:
                for one in self._channels:
                    self._users.setdefault(one, 0)
                self._channels = []
            unused = self._sweep()
        for one in unused:
            one.close()

    def all(self) -> list[C]:
        """The channels that may be chosen."""
        with self._lock:
            return list(self._channels)

    def close(self) -> None:
        """Close all channels, with what runs over them. A second close is harmless."""
        with self._lock:
            self._closed = True
            closing = {*self._channels, *self._users}
            self._channels = []
        for one in closing:
            one.close()

    def _sweep(self) -> list[C]:
        """The channels that nobody uses, nor will."""
        idle = [one for one, users in self._users.items() if not users]
        for one in idle:
            del self._users[one]
        return [one for one in idle if one not in self._channels]
