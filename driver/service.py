"""Networks and endpoints of this host: record first, then plumb, so that a crash leaves nothing unknown.

Owns what the driver knows, in memory and in the state file, and the driver's slices of the desired kernel state.
Callers: `driver.endpoints` (the engine's calls, from many threads) and `driver.audit` (the background look at the
engine). Calls no Engine API and waits for no etcd but where a lease is truly needed.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Callable

from driver import (
    creation,
    desired,
    endpoint,
    errors,
    host_ports,
    names,
    network,
    plumbing,
    publishing,
    routes,
    store,
)
from overlay import errors as overlay_errors
from overlay import holdings, netstate, turns

log = logging.getLogger(__name__)


class Driver:
    """The network driver. Every method may be called again with the same arguments."""

    def __init__(
        self,
        rows: store.DriverStore,
        leases: holdings.Holdings,
        inner: plumbing.Plumbing,
        host: host_ports.HostPorts,
        *,
        guard_wait_s: float = plumbing.GUARD_WAIT_S,
    ) -> None:
        self._store = rows
        self._leases = leases
        self._plumbing = plumbing.Plumber(inner, self.networks, self.endpoints, guard_wait_s)
        self.publisher = publishing.Publisher(self, self._plumbing, host)
        self._lock = threading.Lock()  # over the two tables and the file; never held across kernel calls
        self._turn = threading.Lock()  # networks are recorded, and follow their leases, one at a time
        self._creations = turns.Turns()  # one network is made by one caller at a time; others are not held up
        self._networks: dict[names.NetworkId, network.Network] = {}
        self._endpoints: dict[names.EndpointId, endpoint.Endpoint] = {}
        self._left: set[names.EndpointId] = set()  # joined once, and left: their pair may be gone

    def restore(self) -> None:
        """Load the state file and declare all of it desired. Kernel failures are left to the reconciler's passes."""
        networks, endpoints = self._store.load()
        with self._lock:
            self._networks = {net.id: net for net in networks}
            self._endpoints = {end.id: end for end in endpoints}
        for net in networks:
            self._plumbing.set_again(desired.network_owner(net.id), desired.network_state(net))
        for end in endpoints:
            state = desired.endpoint_state(self._networks[end.network_id], end)
            self._plumbing.set_again(desired.endpoint_owner(end.id), state)
        self._plumbing.write_firewall_again()
        self._plumbing.write_guard_again()
        self.publisher.restore(networks, endpoints)
        self.refresh()  # the lease may have changed while nobody looked, or the rows be of a version that knew less

    def create_network(self, request: creation.Request) -> network.Network:
        """Record and build a network. Raises BadRequest, WrongIpam, Conflict, NotReady, KernelError.

        After an error nothing of the network stays: the engine calls no DeleteNetwork then.
        """
        with self._creations.of(request.id):
            with self._lock:
                known = request.id in self._networks
            try:
                net = self._build_network(request)
                self._plumbing.declare_guard()  # written when the kernel tells of the rules that follow
                self._plumbing.write_firewall()
                self._plumbing.write_guard()
            except overlay_errors.KernelError as exc:
                if not known:
                    self._take_back(request.id)
                if isinstance(exc, overlay_errors.NameTaken):
                    raise errors.Conflict(_explain_taken(self._bridge_of(request))) from exc
                raise
        log.info("network created id=%s pool=%s bridge=%s", net.id[:12], net.pools, net.bridge)
        return net

    def refresh(self) -> None:
        """Let networks follow what became of their leases: the overlay's MTU, its devices, its ranges.

        Cheap where nothing changed. What the kernel refuses is retried in the background.
        """
        self._follow(lambda net: net)

    def learn_chosen_mtu(self, network_id: names.NetworkId, chosen_mtu: int | None) -> None:
        """Docker's word on which MTU a network was created with: rows of before 1.1 do not tell."""
        self._follow(lambda net: dataclasses.replace(net, chosen_mtu=chosen_mtu) if net.id == network_id else net)

    def delete_network(self, network_id: names.NetworkId) -> None:
        """Take a network away with what is left of its endpoints; unknown is success.

        Raises KernelError where the kernel refused: all of it is forgotten even so, and goes in the background.
        """
        with self._lock:
            ends = {end.id: end for end in self._endpoints.values() if end.network_id == network_id}
            self._store.delete_network(network_id)
            known = self._networks.pop(network_id, None)
            for endpoint_id in ends:
                del self._endpoints[endpoint_id]
                self._left.discard(endpoint_id)
        if known is None:
            return
        self._plumbing.declare_guard()
        for endpoint_id in ends:
            self._plumbing.forget(desired.endpoint_owner(endpoint_id))
        self._plumbing.forget(desired.loopback_owner(network_id))
        refused: list[str] = []
        bridge = functools.partial(self._plumbing.remove, desired.network_owner(network_id))
        for take_away in (bridge, self._plumbing.write_firewall):
            try:
                take_away()
            except overlay_errors.KernelError as exc:
                refused += exc.failures
        for end in ends.values():
            self.publisher.release(end.published)
        log.info("network deleted id=%s bridge=%s", network_id[:12], known.bridge)
        if refused:
            raise overlay_errors.KernelError(refused)

    def create_endpoint(self, end: endpoint.Endpoint) -> None:
        """Record an endpoint and make its veth pair.

        Raises UnknownNetwork, BadRequest, Conflict, KernelError. After an error nothing stays: the engine frees the
        address and calls no DeleteEndpoint then.
        """
        with self._lock:
            net = self._known_network(end.network_id)
            endpoint.require_address(net, end)
            known = self._endpoints.get(end.id)
            if known is not None and not known.is_same(end):
                raise errors.Conflict(f"endpoint {end.id[:12]} exists with address {known.address}")
            if known is None:
                end = dataclasses.replace(end, mtu=net.mtu).named_beside(self._endpoints.values())
                self._store.save_endpoint(end)
                self._endpoints[end.id] = end
        self.allow_forwarding()
        try:
            guard = self._plumbing.begin_guard()
            self.plumb_endpoint(net, known or end)
            self._plumbing.await_guard(guard)
        except overlay_errors.KernelError:
            if known is None:
                self.delete_endpoint(end.id)
            raise

    def join(
        self, network_id: names.NetworkId, endpoint_id: names.EndpointId, *, publishes: bool, sandbox: str = ""
    ) -> endpoint.Joined:
        """Give the container's end to Docker, for it to go into `sandbox`.

        Raises UnknownNetwork, UnknownEndpoint, BadRequest, KernelError.
        """
        net, end = self.find_endpoint(network_id, endpoint_id)
        with self._lock:
            again = endpoint_id in self._left
        answer = endpoint.Joined(
            container_end=end.container_end,
            way=endpoint.choose_exit(net, self._leased(net), publishes=publishes),
            iface_prefix=net.iface_prefix,
        )
        if end.joined:
            return answer
        if again:
            # The pair may have died with the container's namespace. Forgotten first, so that it is really looked for.
            self._plumbing.forget(desired.endpoint_owner(endpoint_id))
            self.plumb_endpoint(net, end)
        end = self._save_joined(end, joined=True, sandbox=sandbox)
        if any(other.sandbox == sandbox != "" for other in self.endpoints() if other.id != end.id):
            self._plumbing.write_guard()  # each of them may now speak for all
        self.plumb_endpoint(net, end)
        return answer

    def leave(self, endpoint_id: names.EndpointId) -> None:
        """Docker brings the container's end back, for a Join or a DeleteEndpoint to follow; unknown is success."""
        self.publisher.withdraw(endpoint_id)  # newer engines do not always revoke
        with self._lock:
            end = self._endpoints.get(endpoint_id)
            if end is not None and end.joined:
                self._left.add(endpoint_id)
        if end is not None and end.joined:
            self._save_joined(end, joined=False)

    def delete_endpoint(self, endpoint_id: names.EndpointId) -> None:
        """Forget an endpoint; unknown is success.

        The veth pair goes in the background: deleting it takes the kernel some 25 ms, and `docker run --rm` waits.
        What it could send goes with it: a port that nobody declares may send nothing.
        """
        with self._lock:
            self._store.delete_endpoint(endpoint_id)
            known = self._endpoints.pop(endpoint_id, None)
            self._left.discard(endpoint_id)
        if known is not None:
            self._plumbing.declare_guard()
            self._plumbing.forget(desired.endpoint_owner(endpoint_id))
        if known is not None and known.published:
            self.publisher.forget(known)

    def networks(self) -> list[network.Network]:
        """All networks of this host."""
        with self._lock:
            return list(self._networks.values())

    def endpoints(self) -> list[endpoint.Endpoint]:
        """All endpoints of this host."""
        with self._lock:
            return list(self._endpoints.values())

    def published(self, endpoint_id: names.EndpointId) -> publishing.Published:
        """See `publishing.Rows`."""
        with self._lock:
            end = self._endpoints.get(endpoint_id)
            return end.published if end is not None else ()

    def find_endpoint(
        self, network_id: names.NetworkId, endpoint_id: names.EndpointId
    ) -> tuple[network.Network, endpoint.Endpoint]:
        """See `publishing.Rows`."""
        with self._lock:
            net = self._known_network(network_id)
            end = self._known_endpoint(endpoint_id)
        if end.network_id != network_id:
            raise errors.UnknownEndpoint(f"endpoint {endpoint_id[:12]} is not in network {network_id[:12]}")
        return net, end

    def save_published(
        self, endpoint_id: names.EndpointId, published: publishing.Published
    ) -> tuple[network.Network, endpoint.Endpoint]:
        """See `publishing.Rows`."""
        with self._lock:
            end = dataclasses.replace(self._known_endpoint(endpoint_id), published=published)
            self._store.save_endpoint(end)
            self._endpoints[endpoint_id] = end
            return self._networks[end.network_id], end

    def adopt_endpoint(self, end: endpoint.Endpoint) -> None:
        """Record an endpoint that Docker knows and we do not; its veth pair is there or is Docker's loss."""
        with self._lock:
            if end.id in self._endpoints or end.network_id not in self._networks:
                return
            end = end.named_beside(self._endpoints.values())
            self._store.save_endpoint(end)
            self._endpoints[end.id] = end
            net = self._networks[end.network_id]
        self._plumbing.write_guard_again()
        self._plumbing.set_again(desired.endpoint_owner(end.id), desired.endpoint_state(net, end))

    def correct_network(self, request: creation.Request) -> None:
        """Record what Docker says of a network, over whatever the state file and memory have. As `create_network`."""
        with self._lock:
            known = self._networks.get(request.id)
        if known is None:
            self.create_network(request)
            return
        with self._turn:
            after = creation.plan(request, self._leases.held(), self._bridge_of(request))
            self._change_network(known, dataclasses.replace(after, route_level=known.route_level))
        self._plumbing.write_firewall_again()
        self._plumbing.write_guard_again()

    def correct_endpoint(self, end: endpoint.Endpoint) -> None:
        """Record what Docker says of an endpoint, over whatever the state file and memory have."""
        with self._lock:
            net = self._networks.get(end.network_id)
            if net is None:
                return
            known = self._endpoints.get(end.id, end)
            end = known.moved_to(end)
            self._store.save_endpoint(end)
            self._endpoints[end.id] = end
        self._plumbing.write_guard_again()
        self._plumbing.set_again(desired.endpoint_owner(end.id), desired.endpoint_state(net, end))
        if end.published:
            self._plumbing.write_firewall_again()

    def allow_forwarding(self) -> None:
        """Let the host route.

        Not at start: a dockerd that finds ip_forward on leaves the FORWARD policy at ACCEPT, and a plugin starts
        before dockerd looks.
        """
        self._plumbing.set_again("forwarding", desired.forwarding(self.networks()))

    def _bridge_of(self, request: creation.Request) -> netstate.IfName:
        """What the network's bridge is called, or would be."""
        if request.options.bridge is not None:
            return request.options.bridge
        with self._lock:
            known = self._networks.get(request.id)
            if known is not None:
                return known.bridge
            return names.bridge_name(request.id, {net.bridge for net in self._networks.values()})

    def _build_network(self, request: creation.Request) -> network.Network:
        """Record a network and make its bridge."""
        with self._turn:
            net = creation.plan(request, self._leases.held(), self._bridge_of(request))
            with self._lock:
                known = self._networks.get(net.id)
                net = dataclasses.replace(net, route_level=self._route_level(net))
                if known not in (None, net):
                    raise errors.Conflict(f"network {net.id[:12]} exists with other properties")
                if known is None:
                    creation.require_room(net, self._networks.values())
                    self._store.save_network(net)
                    self._networks[net.id] = net
            self._plumbing.set(desired.network_owner(net.id), desired.network_state(net))
        return net

    def _route_level(self, net: network.Network) -> int:
        """The network's own, or one for a new network."""
        known = self._networks.get(net.id)
        if known is not None:
            return known.route_level
        return routes.choose_level(one.route_level for one in self._networks.values() if one.prefix == net.prefix)

    def _leased(self, net: network.Network) -> list[netstate.IPNetwork]:
        """This host's subnets in the network's flannel network, as far as they are known."""
        return [subnet for held in self._leases.held() if held.prefix == net.prefix for subnet in held.subnets]

    def _save_joined(self, end: endpoint.Endpoint, *, joined: bool, sandbox: str = "") -> endpoint.Endpoint:
        with self._lock:
            changed = dataclasses.replace(self._endpoints.get(end.id, end), joined=joined, sandbox=sandbox)
            if end.id in self._endpoints:
                self._store.save_endpoint(changed)
                self._endpoints[end.id] = changed
                if joined:
                    self._left.discard(end.id)
        return changed

    def plumb_endpoint(self, net: network.Network, end: endpoint.Endpoint) -> None:
        """Declare an endpoint's slice, unless it is deleted meanwhile: the slice would stay for ever then."""
        owner = desired.endpoint_owner(end.id)
        try:
            self._plumbing.set(owner, desired.endpoint_state(net, end))
        finally:
            with self._lock:
                gone = end.id not in self._endpoints
            if gone:
                self._plumbing.forget(owner)

    def _follow(self, correct: Callable[[network.Network], network.Network]) -> None:
        with self._turn:
            leases = {held.prefix: held for held in self._leases.held()}
            changed = [
                (net, after)
                for net in self.networks()
                if (after := network.follow(correct(net), leases.get(net.prefix))) != net
            ]
            for before, after in changed:
                self._change_network(before, after)
        if changed:
            self._plumbing.write_firewall_again()

    def _change_network(self, before: network.Network, after: network.Network) -> None:
        """Record and plumb what became of a network, unless it is deleted meanwhile."""
        with self._lock:
            if before.id not in self._networks:
                return
            self._store.save_network(after)
            self._networks[after.id] = after
            ends = [end for end in self._endpoints.values() if end.network_id == after.id]
        log.info("network follows its lease id=%s %s", after.id[:12], network.format_change(before, after))
        for doubt in network.doubts(after) if after.mtu != before.mtu else ():
            log.warning("%s id=%s", doubt, after.id[:12])
        self._plumbing.set_again(desired.network_owner(after.id), desired.network_state(after))
        for end in ends:
            self._plumbing.set_again(desired.endpoint_owner(end.id), desired.endpoint_state(after, end))
        with self._lock:
            gone = [desired.network_owner(after.id)] if after.id not in self._networks else []
            gone += [desired.endpoint_owner(end.id) for end in ends if end.id not in self._endpoints]
        for owner in gone:
            self._plumbing.forget(owner)

    def _take_back(self, network_id: names.NetworkId) -> None:
        """Undo a creation that failed; what the kernel refuses now goes in the background."""
        try:
            self.delete_network(network_id)
        except overlay_errors.KernelError as exc:
            log.warning("not taken back whole, retrying in the background id=%s reason=%s", network_id[:12], exc)

    def _known_network(self, network_id: names.NetworkId) -> network.Network:
        net = self._networks.get(network_id)
        if net is None:
            raise errors.UnknownNetwork(
                f"network {network_id[:12]} is not known to flannelpy; docker network rm it and create it anew"
            )
        return net

    def _known_endpoint(self, endpoint_id: names.EndpointId) -> endpoint.Endpoint:
        end = self._endpoints.get(endpoint_id)
        if end is None:
            raise errors.UnknownEndpoint(
                f"endpoint {endpoint_id[:12]} is not known to flannelpy; start the container anew"
            )
        return end


def _explain_taken(bridge: netstate.IfName) -> str:
    return (
        f"a link {bridge} is there that is not flannelpy's; choose another name with "
        f"-o {network.OPTION_BRIDGE}=NAME, or take it away with: ip link del {bridge}"
    )
