"""Names of etcd members to addresses. gRPC takes several members in one channel only as literal addresses.

Called by `etcd_client`. The system's resolver has no deadline, so it runs in a thread that may be left behind.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
from collections.abc import Mapping

from overlay import errors, etcd_settings

Addresses = tuple[etcd_settings.IPAddress, ...]


class Resolver:
    """The members of one cluster. Units: `timeout_s` seconds for all names together."""

    def __init__(self, cluster: etcd_settings.Cluster, timeout_s: float) -> None:
        hosts = dict.fromkeys(member.host for member in cluster.members)
        self._known = {host: _literal(host) for host in hosts}
        self._timeout_s = timeout_s

    @property
    def has_names(self) -> bool:
        """Whether a later answer may differ."""
        return not all(self._known.values())

    def resolve(self) -> Mapping[str, Addresses]:
        """The addresses of every host; a name without any is left to the others. Raises RegistryUnavailable."""
        names = [host for host, known in self._known.items() if not known]
        answers: queue.SimpleQueue[tuple[str, Addresses]] = queue.SimpleQueue()
        for name in names:
            threading.Thread(target=_look_up, args=(name, answers), name="etcd-resolve", daemon=True).start()
        found = dict(self._known)
        for _ in names:
            try:
                name, addresses = answers.get(timeout=self._timeout_s / len(names))
            except queue.Empty:
                break
            found[name] = addresses
        if not any(found.values()):
            raise errors.RegistryUnavailable(f"cannot resolve the etcd endpoints {', '.join(names)}")
        return found


def _literal(host: str) -> Addresses:
    try:
        return (ipaddress.ip_address(host),)
    except ValueError:
        return ()


def _look_up(name: str, answers: queue.SimpleQueue[tuple[str, Addresses]]) -> None:
    try:
        infos = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        infos = []
    # A link-local address needs an interface, which a channel's target cannot name.
    texts = dict.fromkeys(str(info[4][0]) for info in infos if "%" not in str(info[4][0]))
    answers.put((name, tuple(ipaddress.ip_address(text) for text in texts)))
