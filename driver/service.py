"""Networks and endpoints of this host: record first, then plumb, so that a crash leaves nothing unknown.

Owns the order of what is done for the engine. What is known is in `driver.rows`, the way to the kernel in
`driver.plumbing`; how networks follow their leases is `driver.following`'s.
Callers: `driver.endpoints` (the engine's calls, from many threads) and `driver.audit` (the background look at the
engine). Calls no Engine API and waits for no etcd but where a lease is truly needed.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable

from driver import (
    creation,
    desired,
    endpoint,
    errors,
    following,
    host_ports,
    names,
    network,
    plumbing,
    publishing,
    rows,
    store,
)
from overlay import errors as overlay_errors
from overlay import holdings, netstate, supervisor, turns

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """`guard_wait_s`: how long an endpoint waits for its guard, in seconds; `monotonic`: the clock."""

    guard_wait_s: float = plumbing.GUARD_WAIT_S
    monotonic: Callable[[], float] = time.monotonic


class Driver:
    """The network driver. Every method may be called again with the same arguments.

    Some are those of what it is made of: `networks`, `endpoints` and `recent` of `rows.Rows`, `refresh`,
    `learn_chosen_mtu` and `correct_endpoint` of `following.Follower`.
    """

    def __init__(
        self,
        file: store.DriverStore,
        leases: holdings.Holdings,
        inner: plumbing.Plumbing,
        host: host_ports.HostPorts,
        *,
        timing: Timing | None = None,
        supervisor_: supervisor.Supervisor | None = None,
    ) -> None:
        timing = timing or Timing()
        watched = supervisor_ or supervisor.Supervisor()
        self._rows = rows.Rows(file, timing.monotonic)
        self._plumbing = plumbing.Plumber(inner, self._rows, watched, timing.guard_wait_s)
        self._follower = following.Follower(self._rows, self._plumbing, leases)
        self.publisher = publishing.Publisher(self._rows, self._plumbing, host)
        self._creations = turns.Turns()  # one network is made by one caller at a time; others are not held up
        self.networks = self._rows.networks
        self.endpoints = self._rows.endpoints
        self.recent = self._rows.recent
        self.refresh = self._follower.refresh
        self.learn_chosen_mtu = self._follower.learn_chosen_mtu
        self.correct_endpoint = self._follower.correct_endpoint

    def restore(self) -> None:
        """Load the state file and declare all of it desired. Kernel failures are left to the reconciler's passes.

        With no network nothing is declared: rules of an earlier life are the reconciler's to remove, and may be those
        of containers that run and whose state file was lost.
        """
        networks, endpoints = self._rows.load()
        for net in networks:
            self._plumbing.set_again(desired.network_owner(net.id), desired.network_state(net))
        by_id = {net.id: net for net in networks}
        for end in endpoints:
            self._plumbing.plumb_endpoint_again(by_id[end.network_id], end)
        if networks:
            self._plumbing.write_firewall_again()
            self._plumbing.write_guard_again()
        self.publisher.restore(networks, endpoints)
        self.refresh()  # the lease may have changed while nobody looked, or the rows be of a version that knew less

    def create_network(self, request: creation.Request) -> network.Network:
        """Record and build a network. Raises BadRequest, WrongIpam, Conflict, NotReady, KernelError.

        After an error nothing of the network stays: the engine calls no DeleteNetwork then.
        """
        with self._creations.of(request.id):
            known = self._rows.find_network(request.id)
            try:
                net = self._follower.build_network(request)
                self._plumbing.declare_guard()  # written when the kernel tells of the rules that follow
                self._plumbing.write_firewall()
                self._plumbing.write_guard()
            except overlay_errors.KernelError as exc:
                if known is None:
                    self._take_back(request.id)
                if isinstance(exc, overlay_errors.NameTaken):
                    raise errors.Conflict(_explain_taken(self._rows.bridge_of(request))) from exc
                raise
        log.info("network created id=%s pool=%s bridge=%s", net.id[:12], net.pools, net.bridge)
        return net

    def delete_network(self, network_id: names.NetworkId) -> None:
        """Take a network away with what is left of its endpoints; unknown is success.

        Raises KernelError where the kernel refused: all of it is forgotten even so, and goes in the background.
        """
        removed = self._rows.remove_network(network_id)
        if removed is None:
            return
        known, ends = removed
        self._plumbing.declare_guard()
        for end in ends:
            self._plumbing.forget(desired.endpoint_owner(end.id))
        self._plumbing.forget(desired.loopback_owner(network_id))
        refused: list[str] = []
        bridge = functools.partial(self._plumbing.remove, desired.network_owner(network_id))
        for take_away in (bridge, self._plumbing.write_firewall):
            try:
                take_away()
            except overlay_errors.KernelError as exc:
                refused += exc.failures
        give_back = self.publisher.release_later if refused else self.publisher.release
        for end in ends:
            give_back(end.published)
        log.info("network deleted id=%s bridge=%s", network_id[:12], known.bridge)
        if refused:
            raise overlay_errors.KernelError(refused)

    def create_endpoint(self, end: endpoint.Endpoint) -> None:
        """Record an endpoint and make its veth pair.

        Raises UnknownNetwork, BadRequest, Conflict, KernelError. After an error nothing stays: the engine frees the
        address and calls no DeleteEndpoint then.
        """
        net, end, is_new = self._rows.add_endpoint(end)
        self.allow_forwarding()
        try:
            guard = self._plumbing.begin_guard()
            self._plumbing.plumb_endpoint(net, end)
            self._plumbing.await_guard(guard)
        except overlay_errors.KernelError:
            if is_new:
                self.delete_endpoint(end.id)
            raise

    def join(
        self, network_id: names.NetworkId, endpoint_id: names.EndpointId, *, publishes: bool, sandbox: str = ""
    ) -> endpoint.Joined:
        """Give the container's end to Docker, for it to go into `sandbox`.

        Raises UnknownNetwork, UnknownEndpoint, BadRequest, KernelError.
        """
        net, end = self._rows.require_endpoint(network_id, endpoint_id)
        again = self._rows.has_left(endpoint_id)
        others = [one for one in self.endpoints() if one.sandbox == sandbox != "" and one.id != end.id]
        way = endpoint.choose_exit(net, self._follower.leased(net), publishes=publishes)
        if self._has_routes(net, others):
            way = dataclasses.replace(way, routes=())
        answer = endpoint.Joined(container_end=end.container_end, way=way, iface_prefix=net.iface_prefix)
        if end.joined:
            return answer
        if again:
            # The pair may have died with the container's namespace. Forgotten first, so that it is really looked for.
            self._plumbing.forget(desired.endpoint_owner(endpoint_id))
            self._plumbing.plumb_endpoint(net, end)
        end = self._rows.mark_joined(end, sandbox)
        if others:
            self._plumbing.write_guard()  # each of them may now speak for all
        self._plumbing.plumb_endpoint(net, end)
        return answer

    def _has_routes(self, net: network.Network, others: list[endpoint.Endpoint]) -> bool:
        """Whether a container has the network's very routes through another one, which Docker would not add again.

        Only where a lease has more slices than there are levels, or slices of before levels were recorded.
        """
        joined = {one.network_id for one in others}
        return any(
            one.id in joined and (one.prefix, one.route_level) == (net.prefix, net.route_level)
            for one in (self.networks() if others else ())
        )

    def leave(self, endpoint_id: names.EndpointId) -> None:
        """Docker brings the container's end back, for a Join or a DeleteEndpoint to follow; unknown is success."""
        self.publisher.withdraw(endpoint_id)  # newer engines do not always revoke
        self._rows.mark_left(endpoint_id)

    def delete_endpoint(self, endpoint_id: names.EndpointId) -> None:
        """Forget an endpoint; unknown is success.

        The veth pair goes in the background: deleting it takes the kernel some 25 ms, and `docker run --rm` waits.
        What it could send goes with it: a port that nobody declares may send nothing.
        """
        known = self._rows.remove_endpoint(endpoint_id)
        if known is not None:
            self._plumbing.declare_guard()
            self._plumbing.forget(desired.endpoint_owner(endpoint_id))
        if known is not None and known.published:
            self.publisher.forget(known)

    def adopt_endpoint(self, end: endpoint.Endpoint) -> None:
        """Record an endpoint that Docker knows and we do not, with the ports that it publishes."""
        adopted = self._follower.adopt_endpoint(end)
        if adopted is not None:
            self.publisher.adopt(*adopted)

    def correct_network(self, request: creation.Request) -> None:
        """Record what Docker says of a network, over whatever the state file and memory have. As `create_network`."""
        known = self._rows.find_network(request.id)
        if known is None:
            self.create_network(request)
        else:
            self._follower.correct_network(known, request)

    def allow_forwarding(self) -> None:
        """Let the host route.

        Not at start: a dockerd that finds ip_forward on leaves the FORWARD policy at ACCEPT, and a plugin starts
        before dockerd looks.
        """
        self._plumbing.set_again("forwarding", desired.forwarding(self.networks()))

    def _take_back(self, network_id: names.NetworkId) -> None:
        """Undo a creation that failed; what the kernel refuses now goes in the background."""
        try:
            self.delete_network(network_id)
        except overlay_errors.KernelError as exc:
            log.warning("not taken back whole, retrying in the background id=%s reason=%s", network_id[:12], exc)


def _explain_taken(bridge: netstate.IfName) -> str:
    return (
        f"a link {bridge} is there that is not flannelpy's; choose another name with "
        f"-o {network.OPTION_BRIDGE}=NAME, or take it away with: ip link del {bridge}"
    )
