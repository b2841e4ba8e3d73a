"""What is known of this host's networks and endpoints: two tables in memory, and the same rows in the state file.

Owns both, and the one lock over them. A change is in the file before it is in memory, so that whatever is plumbed
outlives a crash. What is free, and whether a row is still there, is asked under the lock that the change is made in.
Callers: `driver.service`, `driver.following` and `driver.publishing`, which plumb what they recorded here, and
`driver.plumbing`. Touches no kernel. Safe to call from any thread.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

from driver import creation, endpoint, errors, names, network, recent, routes, store
from overlay import firewall, netstate


class Rows:
    """See the module. What removes or changes one that is known no more does nothing, and says so."""

    def __init__(self, file: store.DriverStore, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = file
        self._recent = recent.Recent(monotonic)
        self._lock = threading.Lock()  # over the two tables and the file; never held across kernel calls
        self._networks: dict[names.NetworkId, network.Network] = {}
        self._endpoints: dict[names.EndpointId, endpoint.Endpoint] = {}
        self._left: set[names.EndpointId] = set()  # joined once, and left: their pair may be gone

    def load(self) -> tuple[list[network.Network], list[endpoint.Endpoint]]:
        """Know what the state file knows; networks in the order of their creation."""
        networks, endpoints = self._store.load()
        with self._lock:
            self._networks = {net.id: net for net in networks}
            self._endpoints = {end.id: end for end in endpoints}
            self._recent.note([*self._networks, *self._endpoints])
        return networks, endpoints

    def recent(self) -> frozenset[str]:
        """The ids of the networks and endpoints that were made or forgotten a moment ago, see `driver.recent`."""
        with self._lock:
            return self._recent.ids()

    def networks(self) -> list[network.Network]:
        """All networks of this host."""
        with self._lock:
            return list(self._networks.values())

    def endpoints(self) -> list[endpoint.Endpoint]:
        """All endpoints of this host."""
        with self._lock:
            return list(self._endpoints.values())

    def find_network(self, network_id: names.NetworkId) -> network.Network | None:
        """A network, if it is known."""
        with self._lock:
            return self._networks.get(network_id)

    def find_endpoint(self, endpoint_id: names.EndpointId) -> endpoint.Endpoint | None:
        """An endpoint, if it is known."""
        with self._lock:
            return self._endpoints.get(endpoint_id)

    def require_endpoint(
        self, network_id: names.NetworkId, endpoint_id: names.EndpointId
    ) -> tuple[network.Network, endpoint.Endpoint]:
        """An endpoint with its network. Raises UnknownNetwork, UnknownEndpoint."""
        with self._lock:
            net = self._known_network(network_id)
            end = self._known_endpoint(endpoint_id)
        if end.network_id != network_id:
            raise errors.UnknownEndpoint(f"endpoint {endpoint_id[:12]} is not in network {network_id[:12]}")
        return net, end

    def bridge_of(self, request: creation.Request) -> netstate.IfName:
        """What the network's bridge is called, or would be."""
        if request.options.bridge is not None:
            return request.options.bridge
        with self._lock:
            known = self._networks.get(request.id)
            if known is not None:
                return known.bridge
            return names.bridge_name(request.id, {net.bridge for net in self._networks.values()})

    def add_network(self, net: network.Network) -> network.Network:
        """Record a network, at a route level that is free; one that is known stays as it is. Raises Conflict."""
        with self._lock:
            known = self._networks.get(net.id)
            net = dataclasses.replace(net, route_level=self._route_level(net))
            if known not in (None, net):
                raise errors.Conflict(f"network {net.id[:12]} exists with other properties")
            if known is None:
                creation.require_room(net, self._networks.values())
                self._save_network(net)
                self._recent.note([net.id])
        return net

    def change_network(self, after: network.Network) -> list[endpoint.Endpoint] | None:
        """Record what became of a network; its endpoints, or None where it is deleted meanwhile. Raises Conflict."""
        with self._lock:
            if after.id not in self._networks:
                return None
            self._save_network(after)
            return self._endpoints_of(after.id)

    def remove_network(self, network_id: names.NetworkId) -> tuple[network.Network, list[endpoint.Endpoint]] | None:
        """Forget a network and its endpoints; what they were, or None where it is unknown."""
        with self._lock:
            ends = self._endpoints_of(network_id)
            self._store.delete_network(network_id)
            self._recent.note([network_id, *(end.id for end in ends)])
            known = self._networks.pop(network_id, None)
            for end in ends:
                del self._endpoints[end.id]
                self._left.discard(end.id)
        return (known, ends) if known is not None else None

    def add_endpoint(self, end: endpoint.Endpoint) -> tuple[network.Network, endpoint.Endpoint, bool]:
        """Record an endpoint under a name that is free; with its network, and whether it is new.

        Raises UnknownNetwork, BadRequest, Conflict.
        """
        with self._lock:
            net = self._known_network(end.network_id)
            endpoint.require_address(net, end)
            known = self._endpoints.get(end.id)
            if known is not None and not known.is_same(end):
                raise errors.Conflict(f"endpoint {end.id[:12]} exists with address {known.address}")
            if known is not None:
                return net, known, False
            end = dataclasses.replace(end, mtu=net.mtu).named_beside(self._endpoints.values())
            self._recent.note([end.id])
            self._save_endpoint(end)
        return net, end, True

    def adopt_endpoint(self, end: endpoint.Endpoint) -> tuple[network.Network, endpoint.Endpoint] | None:
        """Record an endpoint that is there already; None where it is known, or its network is not."""
        with self._lock:
            if end.id in self._endpoints or end.network_id not in self._networks:
                return None
            end = end.named_beside(self._endpoints.values())
            self._save_endpoint(end)
            return self._networks[end.network_id], end

    def move_endpoint(self, end: endpoint.Endpoint) -> tuple[network.Network, endpoint.Endpoint] | None:
        """Record where an endpoint is, over whatever file and memory have; None where its network is unknown."""
        with self._lock:
            net = self._networks.get(end.network_id)
            if net is None:
                return None
            end = self._endpoints.get(end.id, end).moved_to(end)
            self._save_endpoint(end)
        return net, end

    def remove_endpoint(self, endpoint_id: names.EndpointId) -> endpoint.Endpoint | None:
        """Forget an endpoint; what it was, or None where it is unknown."""
        with self._lock:
            self._recent.note([endpoint_id])
            self._store.delete_endpoint(endpoint_id)
            known = self._endpoints.pop(endpoint_id, None)
            self._left.discard(endpoint_id)
        return known

    def mark_joined(self, end: endpoint.Endpoint, sandbox: str) -> endpoint.Endpoint:
        """Record that the container's end is in `sandbox`; of one that is deleted meanwhile nothing is recorded."""
        with self._lock:
            changed = dataclasses.replace(self._endpoints.get(end.id, end), joined=True, sandbox=sandbox)
            if end.id in self._endpoints:
                self._save_endpoint(changed)
                self._left.discard(end.id)
        return changed

    def mark_left(self, endpoint_id: names.EndpointId) -> None:
        """Record that the container's end is in no sandbox any more."""
        with self._lock:
            end = self._endpoints.get(endpoint_id)
            if end is not None and end.joined:
                self._left.add(endpoint_id)
                self._save_endpoint(dataclasses.replace(end, joined=False, sandbox=""))

    def has_left(self, endpoint_id: names.EndpointId) -> bool:
        """Whether it was joined once, in this process's time, and is no more."""
        with self._lock:
            return endpoint_id in self._left

    def published(self, endpoint_id: names.EndpointId) -> tuple[firewall.PublishedPort, ...]:
        """An endpoint's ports; of an unknown one none."""
        with self._lock:
            end = self._endpoints.get(endpoint_id)
            return end.published if end is not None else ()

    def save_published(
        self, endpoint_id: names.EndpointId, published: tuple[firewall.PublishedPort, ...]
    ) -> tuple[network.Network, endpoint.Endpoint]:
        """Record an endpoint's ports. Raises UnknownEndpoint."""
        with self._lock:
            end = dataclasses.replace(self._known_endpoint(endpoint_id), published=published)
            self._save_endpoint(end)
            return self._networks[end.network_id], end

    def _save_network(self, net: network.Network) -> None:
        """Under the lock, as all that follow."""
        self._store.save_network(net)
        self._networks[net.id] = net

    def _save_endpoint(self, end: endpoint.Endpoint) -> None:
        self._store.save_endpoint(end)
        self._endpoints[end.id] = end

    def _endpoints_of(self, network_id: names.NetworkId) -> list[endpoint.Endpoint]:
        return [end for end in self._endpoints.values() if end.network_id == network_id]

    def _route_level(self, net: network.Network) -> int:
        """The network's own, or one for a new network."""
        known = self._networks.get(net.id)
        if known is not None:
            return known.route_level
        return routes.choose_level(one.route_level for one in self._networks.values() if one.prefix == net.prefix)

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
