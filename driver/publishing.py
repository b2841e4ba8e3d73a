"""Published ports of endpoints whose network publishes by itself (`flannelpy.gateway=native`).

Owns which port of the host is reserved for whom. An endpoint's ports stand in its row: recorded first, then
programmed, so that after a crash the same ports come back, ephemeral ones too. A port is given back only when the
packet filter redirects it no more, or its next owner would lose packets to ours.
Used by `driver.service`, which keeps the endpoints. Safe to call from any thread: one endpoint's ports
change in turn, and nobody waits for another's.
Source: libnetwork.md §2.5 (ProgramExternalConnectivity replaces; Revoke may never come).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence

from driver import desired, endpoint, errors, host_ports, names, network, plumbing, ports, rows
from overlay import errors as overlay_errors
from overlay import fields, firewall, turns

log = logging.getLogger(__name__)

Published = tuple[firewall.PublishedPort, ...]

TRIES = 32
"""How many ephemeral ports are tried until one is free in both families."""


class Publisher:
    """See the module."""

    def __init__(self, known: rows.Rows, plumber: plumbing.Plumber, host: host_ports.HostPorts) -> None:
        self._rows = known
        self._plumbing = plumber
        self._host = host
        self._turns = turns.Turns()
        self._loopbacks = turns.Turns()
        self._lock = threading.Lock()
        self._lost: set[ports.HostPort] = set()  # ours by the rows, but somebody else listens there
        self._leaving: set[firewall.PublishedPort] = set()  # in no row, but the packet filter may redirect it still
        self._choosing = 0  # calls that reserve ports which are in no row yet
        self._former: frozenset[firewall.PublishedPort] = frozenset()  # what a lost state file may have had

    def restore(self, networks: Collection[network.Network], endpoints: Iterable[endpoint.Endpoint]) -> None:
        """Have again what was published before a restart; the packet filter is written already.

        Without any network it is not, and may be that of containers that run and whose state file was lost.
        """
        if not networks:
            self._former = self._list_former()
        published = [port for end in endpoints for port in end.published]
        publishers = [net for net in networks if ports.is_publisher(net)]
        with self._lock:
            self._lost.update(map(ports.host_port, published))
        self.retry()
        for net in publishers:
            self._follow_loopback(net, on=False)
            self._follow_loopback(net, on=True)
        self._host.forget_stale_flows([pool for net in publishers for pool in net.all_pools], published)

    def publish(
        self,
        network_id: names.NetworkId,
        endpoint_id: names.EndpointId,
        wanted: Sequence[fields.JsonObject],
        *,
        ipv4_alone: bool = False,
    ) -> None:
        """Make what the engine wants the endpoint's ports, instead of those it has. Twice is as once.

        Nothing where the engine publishes itself; with `ipv4_alone` nothing over IPv6. Raises UnknownNetwork,
        UnknownEndpoint, BadRequest, PortTaken, OutOfDescriptors, KernelError, and FieldError: after an error it has
        what it had.
        """
        if not wanted:
            self.withdraw(endpoint_id)
            return
        self._release_leaving()
        with self._turns.of(endpoint_id), self._choice():
            net, end = self._rows.require_endpoint(network_id, endpoint_id)
            if not ports.is_publisher(net):
                return
            bindings = ports.parse_bindings(wanted)
            if ipv4_alone:
                bindings = ports.over_ipv4(bindings)
            with contextlib.ExitStack() as undo:
                reached = dataclasses.replace(end, address_v6=None) if ipv4_alone else end
                chosen = self._choose(reached, bindings, undo)
                if chosen != end.published:
                    undo.callback(self._take_back, end, chosen)
                    self._program(*self._rows.save_published(end.id, chosen))
                    self._forget_flows(set(chosen) ^ set(end.published))
                undo.pop_all()
            self.release(set(end.published) - set(chosen))
        log.info("ports published endpoint=%s ports=%s", endpoint_id[:12], ports.format_all(chosen))
        if unreachable := [port for port in chosen if port.host_ip == ports.LOOPBACK_V6]:
            log.warning(
                "port is published on the IPv6 loopback, from where nothing is routed; publish it on 127.0.0.1 "
                "endpoint=%s port=%s",
                endpoint_id[:12],
                ports.format_all(unreachable),
            )

    def adopt(self, net: network.Network, end: endpoint.Endpoint) -> None:
        """Publish what the packet filter had for an endpoint whose row was lost; Docker knows none of it."""
        if not ports.is_publisher(net):
            return
        with self._turns.of(end.id):
            found = ports.of_endpoint(self._former, end)
            if not found:
                log.warning(
                    "what a container published is not known: its row was lost; if it did, start it anew endpoint=%s",
                    end.id[:12],
                )
                return
            with self._lock:
                self._former = self._former.difference(found)
                self._lost.update(map(ports.host_port, found))
            self.retry()
            with contextlib.suppress(errors.UnknownEndpoint):
                self._program_again(*self._rows.save_published(end.id, found))
            self._forget_flows(found)
        log.warning(
            "ports published again as the packet filter had them: their row was lost endpoint=%s ports=%s",
            end.id[:12],
            ports.format_all(found),
        )

    def withdraw(self, endpoint_id: names.EndpointId) -> None:
        """Publish nothing of an endpoint any more; unknown is success.

        What the kernel refuses is retried in the background. Costs nothing where nothing is published.
        """
        if not self._rows.published(endpoint_id):
            return
        with self._turns.of(endpoint_id):
            published = self._rows.published(endpoint_id)
            written = True
            with contextlib.suppress(errors.UnknownEndpoint):
                written = self._program_again(*self._rows.save_published(endpoint_id, ()))
            self._give_back(published, written=written)
        log.info("ports withdrawn endpoint=%s ports=%s", endpoint_id[:12], ports.format_all(published))

    def forget(self, end: endpoint.Endpoint) -> None:
        """The same for an endpoint that is known no more."""
        for net in self._rows.networks():
            if net.id == end.network_id:
                self._follow_loopback(net, on=False)
        try:
            self._plumbing.write_firewall()
        except overlay_errors.KernelError as exc:
            _log_not_withdrawn(end, exc)
            self._give_back(end.published, written=False)
        else:
            self._give_back(end.published, written=True)

    def release_later(self, published: Iterable[firewall.PublishedPort]) -> None:
        """Give the host's ports back once the packet filter, which has refused, redirects them no more."""
        with self._lock:
            self._leaving.update(published)

    def release(self, published: Iterable[firewall.PublishedPort]) -> None:
        """Give the host's ports back, but for those that are to be later."""
        for port in published:
            with self._lock:
                if port in self._leaving:
                    continue
                self._lost.discard(ports.host_port(port))
            self._host.release(ports.host_port(port))

    def reserved(self) -> frozenset[ports.HostPort]:
        """What is reserved now, whosoever's rows have it."""
        return self._host.list_held()

    def settle(self, missing: Iterable[ports.HostPort], stale: Iterable[ports.HostPort]) -> None:
        """Reserve what a row has and nobody reserved; give back what is reserved for no row.

        Not what is being published now, and is in a row soon, nor what the packet filter may redirect still.
        """
        with self._lock:
            self._lost.update(missing)
        self.retry()
        with self._lock:
            choosing, needed = self._choosing, {ports.host_port(port) for port in self._leaving}
        if choosing:
            return
        needed |= {ports.host_port(port) for end in self._rows.endpoints() for port in end.published}
        for port in set(stale) - needed:
            self._host.release(port)

    def retry(self) -> None:
        """Reserve what could not be reserved before, and give back what could not be given back."""
        self._release_leaving()
        with self._lock:
            lost = sorted(self._lost, key=lambda port: (port.protocol, port.number, port.ip.packed))
        for port in lost:
            try:
                held = self._host.reserve_again(port)
            except errors.OutOfDescriptors as exc:
                log.warning("%d published ports not reserved, trying again: %s", len(self._lost), exc)
                return
            except errors.PortTaken as exc:
                log.warning("published port not reserved, trying again: %s", exc)
                continue
            where = f"{ports.format_host(port.ip)}:{port.number}/{port.protocol}"
            if not held:
                log.warning("published port is another process's, too, which hears nothing there port=%s", where)
                continue
            with self._lock:
                self._lost.discard(port)

    @contextlib.contextmanager
    def _choice(self) -> Iterator[None]:
        with self._lock:
            self._choosing += 1
        try:
            yield
        finally:
            with self._lock:
                self._choosing -= 1

    def _give_back(self, published: Published, *, written: bool) -> None:
        """`written`: the packet filter redirects them no more; else their next owner would lose packets to ours."""
        self._forget_flows(published)
        if written:
            self.release(published)
        else:
            self.release_later(published)

    def _release_leaving(self) -> None:
        with self._lock:
            leaving = tuple(self._leaving)
        if not leaving:
            return
        try:
            self._plumbing.write_firewall()
        except overlay_errors.KernelError:
            return  # said already, and in /readyz while it lasts
        with self._lock:
            self._leaving.difference_update(leaving)
        self._give_back(leaving, written=True)

    def _list_former(self) -> frozenset[firewall.PublishedPort]:
        try:
            return self._plumbing.list_published()
        except overlay_errors.KernelError as exc:
            log.warning("what was published before is not known: %s", exc)
            return frozenset()

    def _choose(
        self, end: endpoint.Endpoint, bindings: Sequence[ports.Binding], undo: contextlib.ExitStack
    ) -> Published:
        """A port for each binding, those that leave least choice first; what is reserved for it goes with `undo`."""
        chosen: dict[int, Published] = {}
        left = ports.by_target(end.published)
        for place in sorted(range(len(bindings)), key=lambda place: bindings[place].choice):
            binding = bindings[place]
            candidates = left.get((binding.protocol, binding.port), set())
            found = ports.kept(binding, end, candidates) or self._grow(binding, end, candidates)
            found = found or self._reserve(binding, end)
            undo.callback(self.release, set(found) - candidates)
            candidates.difference_update(found)
            chosen[place] = found
        return tuple(port for place in sorted(chosen) for port in chosen[place])

    def _grow(
        self, binding: ports.Binding, end: endpoint.Endpoint, published: Collection[firewall.PublishedPort]
    ) -> Published:
        """The port that serves this binding in one family already, in the other as well; () if there is none."""
        wanted = ports.addresses(binding, end)
        for number in sorted({port.host_port for port in published if binding.allows(port.host_port)}):
            found = ports.publish(binding, wanted, number)
            missing = tuple(port for port in found if port not in published)
            if len(missing) < len(found) and self._reserve_all(missing):
                return found
        return ()

    def _reserve(self, binding: ports.Binding, end: endpoint.Endpoint) -> Published:
        wanted = ports.addresses(binding, end)
        found = self._reserve_in_range(binding, wanted) if binding.first else self._reserve_any(binding, wanted)
        if not found:
            raise errors.PortTaken(ports.explain_taken(binding, wanted[0][0]))
        return found

    def _reserve_in_range(self, binding: ports.Binding, wanted: ports.Ends) -> Published:
        for number in range(binding.first, binding.last + 1):
            found = ports.publish(binding, wanted, number)
            if self._reserve_all(found):
                return found
        return ()

    def _reserve_any(self, binding: ports.Binding, wanted: ports.Ends) -> Published:
        """One that is free in every family; those that are not are held until it is found, or they'd come again."""
        tried: list[ports.HostPort] = []
        try:
            for _ in range(TRIES):
                first = self._host.reserve_any(binding.protocol, wanted[0][0])
                if first is None:
                    break
                tried.append(first)
                found = ports.publish(binding, wanted, first.number)
                if self._reserve_all(found[1:]):
                    tried.pop()
                    return found
        finally:
            for port in tried:
                self._host.release(port)
        return ()

    def _reserve_all(self, found: Published) -> bool:
        """All or none."""
        with contextlib.ExitStack() as undo:
            for one in found:
                if not self._host.reserve(ports.host_port(one)):
                    return False
                undo.callback(self._host.release, ports.host_port(one))
            undo.pop_all()
        return True

    def _program(self, net: network.Network, end: endpoint.Endpoint) -> None:
        """The loopback last when it opens and first when it closes: never without the rules that guard it."""
        self._follow_loopback(net, on=False)
        self._plumbing.write_firewall()
        if end.joined:  # or the pair may be gone, and would be made anew
            self._plumbing.plumb_endpoint(net, end)
        self._follow_loopback(net, on=True)

    def _program_again(self, net: network.Network, end: endpoint.Endpoint) -> bool:
        """Whether the kernel took it; else it is retried in the background."""
        try:
            self._program(net, end)
        except overlay_errors.KernelError as exc:
            _log_not_withdrawn(end, exc)
            return False
        return True

    def _follow_loopback(self, net: network.Network, *, on: bool) -> None:
        """Open, or close, a bridge's way to the host's loopback if that is what its endpoints want now."""
        owner = desired.loopback_owner(net.id)
        with self._loopbacks.of(net.id):
            published = [port for end in self._rows.endpoints() if end.network_id == net.id for port in end.published]
            if ports.needs_loopback(published) is on:
                self._plumbing.set_again(owner, desired.loopback(net, on=on))
        if net.id not in {known.id for known in self._rows.networks()}:
            self._plumbing.forget(owner)

    def _forget_flows(self, changed: Iterable[firewall.PublishedPort]) -> None:
        """After the rules: what is looked at anew must find them."""
        if udp := [port for port in changed if port.protocol is firewall.Protocol.UDP]:
            self._host.forget_flows(udp)

    def _take_back(self, end: endpoint.Endpoint, chosen: Published) -> None:
        """Back to what it had before."""
        with contextlib.suppress(errors.UnknownEndpoint):
            if not self._program_again(*self._rows.save_published(end.id, end.published)):
                self.release_later(set(chosen) - set(end.published))


def _log_not_withdrawn(end: endpoint.Endpoint, exc: overlay_errors.KernelError) -> None:
    log.warning("ports not withdrawn yet, retrying in the background endpoint=%s: %s", end.id[:12], exc)
