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
from typing import Protocol

from driver import desired, endpoint, errors, names, network, store
from overlay import errors as overlay_errors
from overlay import firewall, holdings, netstate

log = logging.getLogger(__name__)


class Plumbing(Protocol):
    """What the driver needs of `overlay.reconciler.Reconciler`."""

    def set(self, owner: str, state: netstate.NetState) -> None: ...

    def forget(self, owner: str) -> None: ...

    def remove(self, owner: str) -> None: ...

    def set_firewall(self, plan: firewall.FirewallPlan) -> None: ...


class Driver:
    """The network driver. Every method may be called again with the same arguments."""

    def __init__(self, rows: store.DriverStore, leases: holdings.Holdings, plumbing: Plumbing) -> None:
        self._store = rows
        self._leases = leases
        self._plumbing = plumbing
        self._lock = threading.Lock()  # over the two tables and the file; never held across kernel calls
        self._firewall_lock = threading.Lock()  # plans reach the firewall in the order in which they were made
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
            self._plumb_again(desired.network_owner(net.id), desired.network_state(net))
        for end in endpoints:
            state = desired.endpoint_state(self._networks[end.network_id], end)
            self._plumb_again(desired.endpoint_owner(end.id), state)
        try:
            self._write_firewall()
        except overlay_errors.KernelError as exc:
            log.warning("firewall not written yet, retrying in the background: %s", exc)

    def create_network(
        self, network_id: names.NetworkId, pools: list[network.PoolData], options: network.Options, *, internal: bool
    ) -> network.Network:
        """Record and build a network. Raises BadRequest, WrongIpam, Conflict, NotReady, KernelError.

        After an error nothing of the network stays: the engine calls no DeleteNetwork then.
        """
        data = _single_pool(pools)
        held = self._leases.held()
        if data.address_space != network.ADDRESS_SPACE:
            raise errors.WrongIpam(network.explain_wrong_ipam(data, held))
        holding = network.find_holding(data.pool, held)
        if holding is None:
            raise errors.BadRequest(
                f"pool {data.pool} is not part of a lease of this host "
                f"({', '.join(str(known.subnet) for known in held) or 'none held'})"
            )
        net = network.make_network(network_id, data, options, holding, internal=internal)
        with self._lock:
            known = self._networks.get(network_id)
            if known not in (None, net):
                raise errors.Conflict(f"network {network_id[:12]} exists with other properties")
            if known is None:
                self._store.save_network(net)
                self._networks[network_id] = net
        try:
            self._plumbing.set(desired.network_owner(network_id), desired.network_state(net))
            self._write_firewall()
        except overlay_errors.KernelError:
            if known is None:
                self._take_back(network_id)
            raise
        log.info("network created id=%s pool=%s bridge=%s", network_id[:12], net.pool, net.bridge)
        return net

    def delete_network(self, network_id: names.NetworkId) -> None:
        """Take a network away with what is left of its endpoints; unknown is success.

        Raises KernelError where the kernel refused: all of it is forgotten even so, and goes in the background.
        """
        with self._lock:
            ends = [end.id for end in self._endpoints.values() if end.network_id == network_id]
            self._store.delete_network(network_id)
            known = self._networks.pop(network_id, None)
            for endpoint_id in ends:
                del self._endpoints[endpoint_id]
                self._left.discard(endpoint_id)
        if known is None:
            return
        for endpoint_id in ends:
            self._plumbing.forget(desired.endpoint_owner(endpoint_id))
        refused: list[str] = []
        bridge = functools.partial(self._plumbing.remove, desired.network_owner(network_id))
        for take_away in (bridge, self._write_firewall):
            try:
                take_away()
            except overlay_errors.KernelError as exc:
                refused += exc.failures
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
            _check_address(net, end)
            known = self._endpoints.get(end.id)
            if known is not None and (known.network_id, known.address, known.mac) != (
                end.network_id,
                end.address,
                end.mac,
            ):
                raise errors.Conflict(f"endpoint {end.id[:12]} exists with address {known.address}")
            if known is None:
                self._store.save_endpoint(end)
                self._endpoints[end.id] = end
        self.allow_forwarding()
        try:
            self._plumb_endpoint(net, known or end)
        except overlay_errors.KernelError:
            if known is None:
                self.delete_endpoint(end.id)
            raise

    def join(self, network_id: names.NetworkId, endpoint_id: names.EndpointId, *, publishes: bool) -> endpoint.Exit:
        """Give the container's end to Docker; how the container gets out.

        Raises UnknownNetwork, UnknownEndpoint, BadRequest, KernelError.
        """
        with self._lock:
            net = self._known_network(network_id)
            end = self._known_endpoint(endpoint_id)
            if end.network_id != network_id:
                raise errors.UnknownEndpoint(f"endpoint {endpoint_id[:12]} is not in network {network_id[:12]}")
            again = endpoint_id in self._left
        way = endpoint.choose_exit(net, publishes=publishes)
        if end.joined:
            return way
        if again:
            # The pair may have died with the container's namespace. Forgotten first, so that it is really looked for.
            self._plumbing.forget(desired.endpoint_owner(endpoint_id))
            self._plumb_endpoint(net, end)
        self._plumb_endpoint(net, self._save_joined(end, joined=True))
        return way

    def leave(self, endpoint_id: names.EndpointId) -> None:
        """Docker brings the container's end back, for a Join or a DeleteEndpoint to follow; unknown is success."""
        with self._lock:
            end = self._endpoints.get(endpoint_id)
            if end is not None and end.joined:
                self._left.add(endpoint_id)
        if end is not None and end.joined:
            self._save_joined(end, joined=False)

    def delete_endpoint(self, endpoint_id: names.EndpointId) -> None:
        """Forget an endpoint; unknown is success.

        The veth pair goes in the background: deleting it takes the kernel some 25 ms, and `docker run --rm` waits.
        """
        with self._lock:
            self._store.delete_endpoint(endpoint_id)
            known = self._endpoints.pop(endpoint_id, None)
            self._left.discard(endpoint_id)
        if known is not None:
            self._plumbing.forget(desired.endpoint_owner(endpoint_id))

    def networks(self) -> list[network.Network]:
        """All networks of this host."""
        with self._lock:
            return list(self._networks.values())

    def endpoints(self) -> list[endpoint.Endpoint]:
        """All endpoints of this host."""
        with self._lock:
            return list(self._endpoints.values())

    def adopt_endpoint(self, end: endpoint.Endpoint) -> None:
        """Record an endpoint that Docker knows and we do not; its veth pair is there or is Docker's loss."""
        with self._lock:
            if end.id in self._endpoints or end.network_id not in self._networks:
                return
            self._store.save_endpoint(end)
            self._endpoints[end.id] = end
            net = self._networks[end.network_id]
        self._plumb_again(desired.endpoint_owner(end.id), desired.endpoint_state(net, end))

    def allow_forwarding(self) -> None:
        """Let the host route.

        Not at start: a dockerd that finds ip_forward on leaves the FORWARD policy at ACCEPT, and a plugin starts
        before dockerd looks.
        """
        self._plumb_again("forwarding", desired.FORWARDING)

    def _save_joined(self, end: endpoint.Endpoint, *, joined: bool) -> endpoint.Endpoint:
        changed = dataclasses.replace(end, joined=joined)
        with self._lock:
            if end.id in self._endpoints:
                self._store.save_endpoint(changed)
                self._endpoints[end.id] = changed
                if joined:
                    self._left.discard(end.id)
        return changed

    def _plumb_endpoint(self, net: network.Network, end: endpoint.Endpoint) -> None:
        """Declare an endpoint's slice, unless it is deleted meanwhile: the slice would stay for ever then."""
        owner = desired.endpoint_owner(end.id)
        try:
            self._plumbing.set(owner, desired.endpoint_state(net, end))
        finally:
            with self._lock:
                gone = end.id not in self._endpoints
            if gone:
                self._plumbing.forget(owner)

    def _take_back(self, network_id: names.NetworkId) -> None:
        """Undo a creation that failed; what the kernel refuses now goes in the background."""
        try:
            self.delete_network(network_id)
        except overlay_errors.KernelError as exc:
            log.warning("not taken back whole, retrying in the background id=%s reason=%s", network_id[:12], exc)

    def _write_firewall(self) -> None:
        with self._firewall_lock:
            self._plumbing.set_firewall(desired.firewall_plan(self.networks()))

    def _plumb_again(self, owner: str, state: netstate.NetState) -> None:
        try:
            self._plumbing.set(owner, state)
        except overlay_errors.KernelError as exc:
            log.warning("not plumbed yet, retrying in the background owner=%s reason=%s", owner, exc)

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


def _single_pool(pools: list[network.PoolData]) -> network.PoolData:
    if len(pools) != 1:
        raise errors.BadRequest(
            f"IPv4Data: expected one pool, got {len(pools)}; a flannelpy network has one --subnet at most"
        )
    return pools[0]


def _check_address(net: network.Network, end: endpoint.Endpoint) -> None:
    if end.address.ip not in net.pool or end.address.ip == net.gateway.ip:
        raise errors.BadRequest(
            f"Interface.Address: {end.address} is not a container's address in network {net.id[:12]} ({net.pool})"
        )
