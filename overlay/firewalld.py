"""firewalld's consent: where it runs, our links are in its zone `trusted`, as the engine's bridges are in `docker`.

firewalld rejects what passes between links of no zone of its own, in a table that no rule of ours can overrule. So it
is asked, over the host's system bus; only for its memory, so that nothing of ours is in its files. Whatever the
operator has put into another zone is left there. Not done: opening the port of the tunnel, which is the operator's.
Used by `firewall_exec`'s owner through `Consenting`, on the reconciler's timer and after every change of nftables,
which a reload of firewalld is. Source: firewalld.dbus(5), moby daemon/libnetwork/iptables/firewalld.go.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import threading
from collections.abc import Collection, Iterator
from typing import Any

import jeepney
from jeepney.io import blocking

from overlay import errors, faults, firewall, firewall_port, guard, netstate, tunnel_guard

log = logging.getLogger(__name__)

ZONE = "trusted"
"""Built in, and it accepts everything: what is to be kept apart our own table drops."""

_NAME = "org.fedoraproject.FirewallD1"
_ZONES = jeepney.DBusAddress("/org/fedoraproject/FirewallD1", _NAME, f"{_NAME}.zone")
_AS_WANTED = ("ALREADY_ENABLED", "NOT_ENABLED", "ZONE_ALREADY_SET", "UNKNOWN_INTERFACE", "UNKNOWN_SOURCE")
_ELSEWHERE = ("ZONE_CONFLICT",)


class Zones:
    """The zone's bindings that are ours. Not safe for two threads at once: the writer of the firewall calls it."""

    def __init__(self, bus: pathlib.Path, *, timeout_s: float = 1.0) -> None:
        """`bus` is the system bus's socket as seen from here. Units: `timeout_s` seconds for each answer."""
        self._bus = bus
        self._timeout_s = timeout_s
        self._bound: dict[str, frozenset[str]] = {"Interface": frozenset(), "Source": frozenset()}
        self._elsewhere: set[str] = set()

    def ensure(self, links: Collection[str], sources: Collection[str]) -> bool:
        """Bind these and nothing else that is ours; tells whether there was anything to do.

        Ours is what we bound, and every link of our bridges' names, which an earlier life may have bound. Where no
        firewalld runs there is nothing. Raises KernelError.
        """
        if not self._bus.is_socket():
            return False
        try:
            with self._connected() as bus:
                if not blocking.Proxy(jeepney.message_bus, bus, timeout=self._timeout_s).NameHasOwner(_NAME)[0]:
                    return False
                return any([self._bind(bus, "Interface", links), self._bind(bus, "Source", sources)])
        except (OSError, jeepney.DBusErrorResponse) as exc:
            raise errors.KernelError([f"firewalld: {_said(exc)}"]) from exc

    def _bind(self, bus: blocking.DBusConnection, kind: str, wanted: Collection[str]) -> bool:
        there = set(self._call(bus, f"get{kind}s", "s", (ZONE,))[0])
        missing = set(wanted) - there
        stale = {name for name in there if name in self._bound[kind] or name.startswith(netstate.BRIDGE_PREFIX)}
        done = [self._change(bus, f"add{kind}", name) for name in sorted(missing)]
        done += [self._change(bus, f"remove{kind}", name) for name in sorted(stale - set(wanted))]
        self._bound[kind] = frozenset(wanted)
        return any(done)

    def _change(self, bus: blocking.DBusConnection, method: str, name: str) -> bool:
        """One binding more or less; tells whether it was changed, and leaves alone what is in another zone."""
        faults.reached("firewall.consent.before")
        try:
            self._call(bus, method, "ss", (ZONE, name))
        except jeepney.DBusErrorResponse as exc:
            said = _said(exc)
            if said.startswith(_AS_WANTED):
                return False
            if not said.startswith(_ELSEWHERE):
                raise
            if name not in self._elsewhere:
                self._elsewhere.add(name)
                log.warning("firewalld has it in another zone, which decides name=%s said=%s", name, said)
            return False
        faults.reached("firewall.consent.after")
        return True

    def _call(self, bus: blocking.DBusConnection, method: str, signature: str, body: tuple[str, ...]) -> Any:
        message = jeepney.new_method_call(_ZONES, method, signature, body)
        answer = bus.send_and_get_reply(message, timeout=self._timeout_s)
        if answer.header.message_type is jeepney.MessageType.error:
            raise jeepney.DBusErrorResponse(answer)
        return answer.body

    @contextlib.contextmanager
    def _connected(self) -> Iterator[blocking.DBusConnection]:
        connection = blocking.open_dbus_connection(f"unix:path={self._bus}", auth_timeout=self._timeout_s)
        try:
            yield connection
        finally:
            connection.close()


class Consenting:
    """A firewall, and firewalld's consent to what it lets through. Safe to call as the firewall within is."""

    def __init__(self, inner: firewall_port.Firewall, zones: Zones) -> None:
        self._inner = inner
        self._zones = zones

    def ensure(self, plan: firewall.FirewallPlan) -> tuple[str, ...]:
        """See `firewall_port.Firewall.ensure`; the place here is "firewalld". Drops come before consent."""
        written = self._inner.ensure(plan)
        links, sources = bindings(plan)
        return (*written, "firewalld") if self._zones.ensure(links, sources) else written

    def guard(self, plan: guard.GuardPlan) -> tuple[str, ...]:
        """See `firewall_port.Firewall.guard`: firewalld does not see what one bridge forwards."""
        return self._inner.guard(plan)

    def list_published(self) -> frozenset[firewall.PublishedPort]:
        """See `firewall_port.Firewall.list_published`."""
        return self._inner.list_published()

    def tunnels(self, plan: tunnel_guard.TunnelPlan) -> tuple[str, ...]:
        """See `firewall_port.Firewall.tunnels`: a drop needs nobody's consent."""
        return self._inner.tunnels(plan)

    def limits(self) -> tuple[str, ...]:
        """See `firewall_port.Firewall.limits`."""
        return self._inner.limits()

    def events(self, stop: threading.Event) -> Iterator[None]:
        """See `firewall_port.Firewall.events`: firewalld's own changes are changes of nftables."""
        return self._inner.events(stop)


def bindings(plan: firewall.FirewallPlan) -> tuple[list[str], list[str]]:
    """The links to bind, and the overlays whose packets come in on the underlay's, known by their source alone."""
    domains = [domain for family in firewall.FAMILIES for domain in firewall.domains(plan, family)]
    links = {link for domain in domains for link in domain.links}
    sources = {str(overlay) for domain in domains for overlay in domain.direct_overlays}
    return sorted(links), sorted(sources)


def _said(exc: Exception) -> str:
    if isinstance(exc, jeepney.DBusErrorResponse):
        return " ".join(str(part) for part in exc.data or (exc.name,))
    return str(exc) or type(exc).__name__
