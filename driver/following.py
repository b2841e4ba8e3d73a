"""Networks on this host's leases: made on what these are, and changed with them, or by Docker's word.

Owns whose turn it is: a network that is recorded while its lease changes would miss the change. Record first, then
plumb; for what is there already nobody waits, so what the kernel refuses of it is retried in the background.
Used by `driver.service`, through which `overlay.nodes` tells of leases and `driver.audit` of Docker.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable

from driver import creation, desired, endpoint, names, network, plumbing, rows
from overlay import holdings, netstate, statefile

log = logging.getLogger(__name__)


class Follower:
    """See the module. Safe to call from any thread."""

    def __init__(self, known: rows.Rows, plumber: plumbing.Plumber, leases: holdings.Holdings) -> None:
        self._rows = known
        self._plumbing = plumber
        self._leases = leases
        self._turn = threading.Lock()  # networks are recorded, and follow their leases, one at a time

    def build_network(self, request: creation.Request) -> network.Network:
        """Record a network and make its bridge. Raises BadRequest, WrongIpam, Conflict, KernelError."""
        with self._turn:
            net = self._rows.add_network(self._plan(request))
            self._plumbing.set(desired.network_owner(net.id), desired.network_state(net))
        return net

    def leased(self, net: network.Network) -> list[netstate.IPNetwork]:
        """What this host has of the network's flannel network: its subnets, as far as known, and its networks' pools.

        Pools lie outside the subnet after it was lost, or before it is known.
        """
        subnets = [subnet for held in self._leases.held() if held.prefix == net.prefix for subnet in held.subnets]
        return subnets + [pool for one in self._rows.networks() if one.prefix == net.prefix for pool in one.all_pools]

    def refresh(self) -> None:
        """Let networks follow what became of their leases: the overlay's MTU, its devices, its ranges.

        Cheap where nothing changed. What the kernel refuses is retried in the background, and so is what a state file
        that cannot be written does not take: networks stay as they are recorded until then.
        """
        try:
            self._follow(lambda net: net)
        except statefile.StateFileError as exc:
            log.warning("networks do not follow their leases yet: %s", exc)

    def learn_chosen_mtu(self, network_id: names.NetworkId, chosen_mtu: int | None) -> None:
        """Docker's word on which MTU a network was created with: rows of before 1.1 do not tell."""
        self._follow(lambda net: dataclasses.replace(net, chosen_mtu=chosen_mtu) if net.id == network_id else net)

    def correct_network(self, known: network.Network, request: creation.Request) -> None:
        """Record what Docker says of a network, over whatever the state file and memory have.

        Raises BadRequest, WrongIpam, Conflict.
        """
        with self._turn:
            self._change(known, dataclasses.replace(self._plan(request), route_level=known.route_level))
        self._plumbing.write_firewall_again()
        self._plumbing.write_guard_again()

    def adopt_endpoint(self, end: endpoint.Endpoint) -> tuple[network.Network, endpoint.Endpoint] | None:
        """Record an endpoint that Docker knows and we do not; its veth pair is there or is Docker's loss.

        What was recorded; None where nothing was, since it is known, or its network is not.
        """
        adopted = self._rows.adopt_endpoint(end)
        if adopted is not None:
            self._plumbing.write_guard_again()
            self._plumbing.plumb_endpoint_again(*adopted)
        return adopted

    def correct_endpoint(self, end: endpoint.Endpoint) -> None:
        """Record what Docker says of an endpoint, over whatever the state file and memory have."""
        corrected = self._rows.move_endpoint(end)
        if corrected is None:
            return
        self._plumbing.write_guard_again()
        self._plumbing.plumb_endpoint_again(*corrected)
        if corrected[1].published:
            self._plumbing.write_firewall_again()

    def _plan(self, request: creation.Request) -> network.Network:
        return creation.plan(request, self._leases.held(), self._rows.bridge_of(request))

    def _follow(self, correct: Callable[[network.Network], network.Network]) -> None:
        with self._turn:
            leases = {held.prefix: held for held in self._leases.held()}
            changed = [
                (net, after)
                for net in self._rows.networks()
                if (after := network.follow(correct(net), leases.get(net.prefix))) != net
            ]
            for before, after in changed:
                self._change(before, after)
        if changed:
            self._plumbing.write_firewall_again()

    def _change(self, before: network.Network, after: network.Network) -> None:
        """Record and plumb what became of a network, unless it is deleted meanwhile."""
        ends = self._rows.change_network(after)
        if ends is None:
            return
        log.info("network follows its lease id=%s %s", after.id[:12], network.format_change(before, after))
        for doubt in network.doubts(after) if after.mtu != before.mtu else ():
            log.warning("%s id=%s", doubt, after.id[:12])
        self._plumbing.set_again(desired.network_owner(after.id), desired.network_state(after))
        for end in ends:
            self._plumbing.plumb_endpoint_again(after, end)
        if self._rows.find_network(after.id) is None:
            self._plumbing.forget(desired.network_owner(after.id))
