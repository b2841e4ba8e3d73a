"""Break the product on purpose, one way at a time, and see whether the tests notice. Not a test: run by hand.

    .venv/bin/python tests/mutations.py --list
    .venv/bin/python tests/mutations.py                      # all of them, an hour on two cores
    .venv/bin/python tests/mutations.py --only mtu-overhead --only no-masquerade --engine 20.10
    .venv/bin/python tests/mutations.py --jobs 2 --report docs/mutations.md
    .venv/bin/python tests/mutations.py --no-lab             # those of tests that need no lab (mutations_no_lab.py)

Works in worktrees of HEAD that it makes below /tmp and removes again: what is not committed is neither used nor
touched. Each mutation of the system suite gets a lab of its own, since a broken plugin leaves anything behind.
"caught" means that every test named ran and failed; "in setup" that the lab's own fixture failed already, which
counts only where the table says that no subtler way exists; "NOT CAUGHT" that a test named passed. The audit after
each test is a part of it. Exits 1 unless all were caught.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import datetime
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET  # our own pytest wrote what it reads
from collections.abc import Iterator, Sequence

import mutations_no_lab
from mutation import Edit, Mutation
from mutation import one as _one

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
LIMIT_S = 900
"""Of one mutation; pytest is then asked to end, so that it takes its lab down."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mutation. `reasons` are the first lines of the failures."""

    mutation: Mutation
    result: str
    tests: tuple[str, ...]
    reasons: tuple[str, ...]
    seconds: float

    @property
    def caught(self) -> bool:
        return self.result == "caught" or (self.result == "in setup" and self.mutation.setup)


VXLAN = "overlay/backend_vxlan.py"
FIREWALL = "overlay/firewall.py"
TABLE = "overlay/firewall_table.py"
CHAIN = "overlay/firewall_chain.py"
OUTSIDE_LET_IN = Edit(TABLE, 'yield f"oifname {nft_text.names(ways)} {origin} goto outside"', "pass")
"""What keeps two flannel networks apart, too."""
SERVICE = "driver/service.py"
ROWS = "driver/rows.py"
PUBLISHING = "driver/publishing.py"
ENDPOINT = "driver/endpoint.py"
GRAPH = "plugin/graph.py"
FIREWALLD = "overlay/firewalld.py"
NODE = "overlay/node.py"
RECONCILER = "overlay/reconciler.py"
IPAM = "ipam/service.py"
OVERVIEW = "ipam/overview.py"

PUBLISHED = "docker_shows_the_port or third_host or both_hosts or own_loopback or publishing_container"
PLAN = "ops = [op for op in diff.plan(desired, observed) if work.may(op)]"


def _unrepaired(kind: str) -> tuple[Edit, ...]:
    """A reconciler whose full passes are blind for one kind of object."""
    return _one(RECONCILER, PLAN, PLAN[:-1] + f" and not isinstance(diff.target_of(op), netstate.{kind})]")


TALK = (
    Mutation(
        "no-neighbours",
        "ping both ways",
        "they_ping_each_other",
        _one(VXLAN, "            yield netstate.Neighbour(link=device, ip=peer.gateway, mac=peer.mac)\n"),
    ),
    Mutation(
        "no-fdb-entries",
        "ping both ways",
        "they_ping_each_other",
        _one(VXLAN, "            yield netstate.FdbEntry(link=device, mac=peer.mac, vtep_ip=peer.public_ip)\n"),
    ),
    Mutation(
        "route-not-onlink",
        "ping both ways",
        "they_ping_each_other",
        _one(
            VXLAN,
            "netstate.Route(destination=peer.subnet, gateway=peer.gateway, link=device)",
            "netstate.Route(destination=peer.subnet, gateway=peer.gateway, link=device, onlink=False)",
        ),
    ),
    Mutation(
        "links-not-permitted",
        "ping both ways (permission to forward)",
        "they_ping_each_other",
        _one(CHAIN, "        *inside,\n        *(f", "        *(f"),
    ),
    Mutation(
        "lease-elsewhere",
        "by lease address: the key that flannel reads",
        "own_lease",
        _one("overlay/registry_etcd.py", '_join(self._prefix, "subnets")', '_join(self._prefix, "subnet")'),
    ),
    Mutation(
        "no-device-address",
        "the host itself reaches the other host's containers",
        "host_reaches or traceroute",
        _one(
            VXLAN,
            "objects += (device, netstate.Address(link=device.name, interface=_host_interface(half.subnet)))",
            "objects.append(device)",
        ),
    ),
    Mutation(
        "masquerade-inside",
        "the peer sees the container's own address",
        "containers_own_address",
        _one(
            TABLE,
            "{outside} {elsewhere} masquerade",
            "{target} != {family.multicast} masquerade",
        ),
    ),
    Mutation(
        "processes-not-mounted",
        "a live flanneld is refused",
        "no_other_host_notices",
        _one("plugin/graph.py", 'pathlib.Path("/host/procfs")', 'pathlib.Path("/host/proc")'),
    ),
    Mutation(
        "bip-not-refused",
        "a lease that docker0 still has is refused",
        "no_other_host_notices",
        _one("overlay/node.py", "        preflight.refuse_overlap(held, self._ports.kernel.list_underlays())\n"),
    ),
    Mutation(
        "mac-not-adopted",
        "adoption: no other host notices",
        "no_other_host_notices",
        _one("overlay/member.py", "ports.kernel.vtep_mac(device)", "None"),
    ),
    Mutation("mtu-overhead", "MTU 1450", "full_packet", _one(VXLAN, "halves.V4: 50,", "halves.V4: 40,")),
    Mutation(
        "mtu-not-on-container-end",
        "MTU 1450",
        "full_packet",
        _one(
            "overlay/link_messages.py",
            '["IFLA_IFNAME", pair.peer], ["IFLA_MTU", pair.mtu]',
            '["IFLA_IFNAME", pair.peer]',
        ),
    ),
    Mutation(
        "mtu-of-device-too-small",
        "a full-size DF packet passes",
        "full_packet",
        _one(VXLAN, "mtu=self._device_mtu(own, half.ip.version),", "mtu=self._device_mtu(own, half.ip.version) - 1,"),
    ),
    Mutation(
        "device-address-not-dot-0",
        "traceroute: the peer host's .0 address",
        "traceroute",
        _one(VXLAN, "ip_interface((subnet.network_address.packed,", "ip_interface((subnet[254].packed,"),
    ),
    Mutation(
        "no-masquerade",
        "a container without -p reaches a server outside",
        "one_interface",
        _one(TABLE, "        if subnets:\n", "        if not subnets:\n"),
    ),
    Mutation(
        "no-permission-outside",
        "a container without -p reaches a server outside",
        "one_interface",
        _one(CHAIN, '        *(f"-A {chain} -i {name} -j ACCEPT" for name in open_bridges),\n'),
    ),
    Mutation(
        "no-permission-for-answers",
        "a container without -p reaches a server outside",
        "one_interface",
        _one(
            CHAIN,
            '        *(f"-A {chain} -o {name} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT" '
            "for name in open_bridges),\n",
        ),
    ),
    Mutation(
        "join-never-answers-a-gateway",
        "a container without -p has exactly one NIC",
        "one_interface",
        _one(ENDPOINT, "    if (publishes and auto) or net.gateway_mode", "    if True or net.gateway_mode"),
    ),
    Mutation(
        "pair-not-in-bridge",
        "containers of one host reach each other by name",
        "find_each_other_by_name",
        (
            Edit(
                "overlay/link_messages.py",
                '["IFLA_MTU", pair.mtu], ["IFLA_MASTER", bridge]]',
                '["IFLA_MTU", pair.mtu]]',
            ),
            Edit(RECONCILER, PLAN, PLAN[:-1] + " and not isinstance(diff.target_of(op), netstate.BridgePort)]"),
            Edit(
                RECONCILER,
                "failures = self._kernel.apply(ops) if ops else []",
                "ports = netstate.BridgePort\n"
                "        ops = [op for op in ops if not isinstance(diff.target_of(op), ports)]\n"
                "        failures = self._kernel.apply(ops) if ops else []",
            ),
        ),
    ),
    Mutation(
        "mac-not-told",
        "the MAC that Docker shows",
        "mac_that_docker_shows",
        _one("driver/endpoints.py", '{} if given_mac else {"MacAddress": mac}', "{}"),
    ),
    Mutation(
        "chosen-ip-ignored",
        "--ip is kept",
        "chosen_address",
        _one(IPAM, "free = request.ip or entry.addresses.propose(", "free = entry.addresses.propose("),
    ),
    Mutation(
        "chosen-mac-ignored",
        "--mac-address is kept",
        "chosen_address",
        _one(
            "driver/endpoints.py",
            '{"Interface": {} if given_mac else {"MacAddress": mac}}',
            '{"Interface": {"MacAddress": names.mac_of(address.ip)}}',
        ),
    ),
)

PUBLISH = (
    Mutation(
        "publishing-joins-natively",
        "published ports are shown and answer everywhere",
        PUBLISHED,
        _one(ENDPOINT, "    if (publishes and auto) or net.gateway_mode", "    if net.gateway_mode"),
    ),
    Mutation(
        "publishing-without-docker-gateway",
        "a container with -p reaches outside",
        f"{PUBLISHED} or test_it_reaches",
        _one(
            ENDPOINT,
            "        case DockerExit():\n            return answer\n",
            '        case DockerExit():\n            return answer | {"DisableGatewayService": True}\n',
        ),
    ),
    Mutation(
        "gwbridge-closed",
        "a published port answers a third host and containers of both hosts",
        "third_host or both_hosts",
        _one(CHAIN, '-j RETURN" for name in (*_DOCKER_PATTERNS', '-j DROP" for name in (*_DOCKER_PATTERNS'),
    ),
    Mutation(
        "no-static-route",
        "a container with -p keeps its address over the overlay",
        "over_the_overlay",
        _one(
            ENDPOINT,
            "for route in joined.way.routes]",
            "for route in joined.way.routes if not isinstance(joined.way, DockerExit)]",
        ),
    ),
)

NATIVE = (
    Mutation(
        "native-ports-not-reserved",
        "a port of Docker's or of another process is seen in both directions",
        "test_publish_native and both_directions",
        _one(PUBLISHING, "if not self._host.reserve(ports.host_port(one)):", "if not one:"),
    ),
    Mutation(
        "native-ports-stay",
        "a stopped container gives its ports back; so does one that dockerd lost",
        "test_publish_native and (gives_its_ports_back or rebooted)",
        (
            Edit(
                PUBLISHING,
                "self._rows.save_published(endpoint_id, ())",
                "self._rows.save_published(endpoint_id, published)",
            ),
            Edit(PUBLISHING, "            self.release(published)\n", ""),
            Edit(SERVICE, "self.publisher.forget(known)", "pass"),
        ),
    ),
    Mutation(
        "native-ports-forgotten-at-start",
        "a killed plugin has its ports again",
        "test_publish_native and kill_9",
        _one("driver/store.py", "published=ports.decode_published(published)", "published=()"),
    ),
    Mutation(
        "native-clients-rewritten",
        "clients of published ports keep their addresses",
        "test_publish_native and keeps_its_address",
        _one("overlay/firewall_ports.py", 'neighbours = f"{family.table} saddr {half.subnet}"', 'neighbours = ""'),
    ),
    Mutation(
        "native-without-hairpin",
        "the publishing container reaches its own port",
        "test_publish_native and publishing_container",
        _one("driver/desired.py", "hairpin = bool(end.published)", "hairpin = False"),
    ),
    Mutation(
        "native-without-loopback",
        "a published port answers at 127.0.0.1",
        "test_publish_native and host_itself",
        _one("driver/desired.py", 'value="1" if on else "0"', 'value="0"'),
    ),
)

GUARD = (
    Mutation(
        "guard-without-mac",
        "forged MACs are dropped",
        "test_guard and forger",
        _one("overlay/guard.py", "iifname . ether saddr != @macs drop", "iifname . ether saddr != @macs continue"),
    ),
    Mutation(
        "guard-without-arp",
        "forged addresses are dropped, in ARP too",
        "test_guard and unless_the_operator",
        _one("overlay/guard.py", "iifname . arp saddr ip @v4 accept", "accept"),
    ),
    Mutation(
        "guard-not-healed",
        "the guard comes back after nft flush ruleset",
        "test_guard and flushed",
        _one("overlay/firewall_keeper.py", "(self.rules, self.guard, self.tunnels)]", "(self.rules, self.tunnels)]"),
    ),
    Mutation(
        "guard-option-ignored",
        "flannelpy.spoofing=allow allows it",
        "test_guard and unless_the_operator",
        _one("driver/desired.py", "free=by_id[end.network_id].spoofing", "free=False"),
    ),
    Mutation(
        "icc-ports-not-isolated",
        "without icc containers of one host do not reach each other",
        "test_guard and icc",
        _one("driver/desired.py", "hairpin=hairpin, isolated=not net.icc", "hairpin=hairpin"),
    ),
    Mutation(
        "icc-open-across-hosts",
        "without icc containers of two hosts do not reach each other",
        "test_guard and icc",
        _one("overlay/firewall_table.py", 'yield f"oifname {closed} iifname {links} drop"', "pass"),
    ),
)

NETWORKS = (
    Mutation(
        "bridge-stays",
        "network rm leaves no device",
        "network_rm",
        _one(
            SERVICE,
            "for take_away in (bridge, self._plumbing.write_firewall):",
            "for take_away in (self._plumbing.write_firewall,):",
        ),
    ),
    Mutation(
        "rules-stay",
        "network rm leaves no rule",
        "network_rm",
        _one(SERVICE, "for take_away in (bridge, self._plumbing.write_firewall):", "for take_away in (bridge,):"),
    ),
    Mutation(
        "network-row-stays",
        "network rm leaves no row",
        "network_rm",
        _one(ROWS, "            self._store.delete_network(network_id)\n"),
    ),
    Mutation(
        "network-row-stays-hidden",
        "network rm leaves no row (one that is seen after a restart only)",
        "network_rm",
        _one(
            "driver/store.py",
            'tx.run("DELETE FROM networks WHERE id = ?", (network_id,))',
            "tx.run(\"UPDATE networks SET pool = '10.250.' || rowid || '.0/24', bridge = 'fp-' || rowid \"\n"
            '                "WHERE id = ?", (network_id,))',
        ),
    ),
    Mutation(
        "endpoint-row-stays",
        "a removed container leaves no row",
        "kill_9_of_the_worker",
        _one(
            ROWS,
            "            self._store.delete_endpoint(endpoint_id)\n            known = self._endpoints.pop",
            "            known = self._endpoints.pop",
        ),
    ),
    Mutation(
        "pool-stays",
        "network rm leaves no pool",
        "network_rm",
        _one("ipam/endpoints.py", '    ipam.release_pool(fields.text(body, "PoolID"))\n'),
    ),
    Mutation(
        "address-stays",
        "a removed container leaves no address",
        "kill_9_of_the_worker",
        _one(
            "ipam/endpoints.py",
            '    ipam.release_address(fields.text(body, "PoolID"), _address(fields.text(body, "Address")))\n',
        ),
    ),
    Mutation(
        "no-classic-socket",
        "-d flannelpy, without a tag",
        "both_names",
        _one(
            "plugin/server.py",
            "return [PLUGIN_SOCKET_DIR / SOCKET_NAME, classic]",
            "return [PLUGIN_SOCKET_DIR / SOCKET_NAME]",
        ),
        setup=True,
    ),
    Mutation(
        "no-default-network",
        "the default network",
        "default_network",
        _one(
            "plugin/engine_watch.py",
            "        if not name:\n            return True\n",
            "        if name:\n            return True\n",
        ),
    ),
    Mutation(
        "standalone-without-config",
        "standalone mode without etcd",
        "standalone_needs",
        _one(GRAPH, "config = chosen.network_config or STANDALONE_CONFIG", "config = chosen.network_config"),
    ),
    Mutation(
        "standalone-ignores-config",
        "standalone mode with NETWORK_CONFIG",
        "standalone_takes",
        _one(GRAPH, "config = chosen.network_config or STANDALONE_CONFIG", "config = STANDALONE_CONFIG"),
    ),
    Mutation(
        "slice-is-whole-lease",
        "several networks share one lease",
        "share_one_lease",
        _one("ipam/slices.py", "    return wanted\n", "    return lease\n"),
    ),
    Mutation(
        "taken-slices-not-told",
        "several networks share one lease: the refusal names them",
        "share_one_lease",
        _one("ipam/slices.py", "is taken in part by {_pools(taken)};", "is taken in part;"),
    ),
    Mutation(
        "slices-do-not-meet",
        "networks of one lease reach each other",
        "share_one_lease",
        _one(
            FIREWALL,
            "found.setdefault(_domain_key(rules), [])",
            "found.setdefault(rules.bridge, [])",
        ),
    ),
    Mutation(
        "internal-ignored",
        "--internal reaches nothing outside",
        "internal_network",
        _one(
            "driver/endpoints.py",
            "internal=fields.flag(options, OPTION_INTERNAL, default=False)",
            "internal=False",
        ),
    ),
    Mutation(
        "internal-not-isolated",
        "--internal: nothing gets in or out whatever else is permitted",
        "stays_shut",
        _one(FIREWALL, "rules.bridge for rules in bridges if rules.internal)", "rules.bridge for rules in ())"),
    ),
    Mutation(
        "flannel-networks-meet",
        "two flannel networks never meet",
        "never_meet",
        (Edit(TABLE, "[other for other in domains if other is not domain]", "[]"), OUTSIDE_LET_IN),
    ),
    Mutation(
        "unused-flannel-network-stays",
        "the last network of a prefix takes its device along",
        "never_meet",
        _one(IPAM, "            self._claims.leave_if_unused(dropped.prefix)\n", "            pass\n"),
    ),
    Mutation(
        "lease-not-given-back",
        "the last network of a prefix gives the lease back",
        "never_meet",
        _one(
            NODE,
            "return self._left_with is None or",
            "return self._left_with is not None or",
        ),
    ),
)

RESTORE = "    driver.restore()\n    return Graph("
INTERRUPTIONS = (
    Mutation(
        "sockets-stay-at-stop",
        "disable leaves no socket",
        "disable_and_enable",
        _one(
            "plugin/server.py",
            '            "worker_exit": lambda',
            '            "when_ready": lambda server: setattr(server, "systemd", True),\n'
            '            "worker_exit": lambda',
        ),
    ),
    Mutation(
        "state-not-restored",
        "disable/enable and a restart of dockerd lose nothing",
        "disable_and_enable or restarted_dockerd",
        _one(GRAPH, RESTORE, "    return Graph("),
    ),
    Mutation(
        "lost-state-is-no-state",
        "a lost state file costs no container its network",
        "lost_state_file",
        _one(GRAPH, "        background = (\n", "        self.reconciler.open_gate()\n        background = (\n"),
    ),
    Mutation(
        "bridge-goes-at-stop",
        "disable/enable lose no connection",
        "disable_and_enable",
        _one(
            GRAPH,
            "        self.halt.set()\n",
            "        self.halt.set()\n        for net in self.driver.networks():\n"
            '            self.reconciler.remove(f"network:{net.id}")\n',
        ),
    ),
    Mutation(
        "device-goes-at-stop",
        "disable/enable lose no connection",
        "disable_and_enable",
        _one(
            GRAPH,
            "        self.halt.set()\n",
            "        self.halt.set()\n        for one in self.nodes.all():\n"
            '            self.reconciler.remove(f"node:{one.prefix}")\n',
        ),
    ),
    Mutation(
        "lease-given-back-at-stop",
        "disable/enable lose no connection",
        "disable_and_enable",
        _one(
            NODE,
            "        end_threads(self._threads, _STOP_S)\n",
            "        end_threads(self._threads, _STOP_S)\n"
            "        if (held := self._standing.now()[1]) is not None:\n            self._keeper.give_back(held)\n",
        ),
    ),
    Mutation(
        "endpoints-not-restored",
        "kill -9 loses no endpoint",
        "kill_9",
        _one(ROWS, "self._endpoints = {end.id: end for end in endpoints}", "self._endpoints = {}"),
    ),
    Mutation(
        "addresses-not-restored",
        "kill -9 loses no address",
        "kill_9_of_the_worker",
        _one(
            "ipam/rows.py",
            "        entries[pool_id].addresses.put(\n",
            "        pool.Pool(ipaddress.ip_network('192.0.2.0/24')).put(\n",
        ),
    ),
    Mutation(
        "lease-forgotten",
        "kill -9 keeps the lease",
        "kill_9",
        (
            Edit("overlay/member.py", "saved = ports.store.load(prefix)\n", "saved = None\n"),
            Edit("overlay/subnets.py", "    if fitting:\n", "    if fitting and saved:\n"),
        ),
    ),
    Mutation(
        "mac-made-anew",
        "kill -9 keeps the VTEP's MAC",
        "kill_9",
        _one(
            "overlay/member.py",
            "return saved or (ports.kernel.vtep_mac(device) if device else None) or ports.make_mac()",
            "return ports.make_mac()",
        ),
    ),
    Mutation(
        "restore-publishes-nothing",
        "works while etcd is down",
        "etcd_is_down",
        _one(
            NODE,
            "saved.own.key, len(leases))\n        self._publish()\n",
            "saved.own.key, len(leases))\n",
        ),
    ),
    Mutation(
        "peers-not-remembered",
        "works while etcd is down",
        "etcd_is_down",
        _one(NODE, "leases = self._ports.store.load_peers(self.prefix)", "leases = {}"),
    ),
    Mutation("routes-not-repaired", "what is deleted by hand comes back", "deleted_by_hand", _unrepaired("Route")),
    Mutation(
        "neighbours-not-repaired", "what is deleted by hand comes back", "deleted_by_hand", _unrepaired("Neighbour")
    ),
    Mutation("fdb-not-repaired", "what is deleted by hand comes back", "deleted_by_hand", _unrepaired("FdbEntry")),
    Mutation(
        "addresses-not-repaired", "what is deleted by hand comes back", "deleted_by_hand", _unrepaired("Address")
    ),
    Mutation("links-not-repaired", "what is deleted by hand comes back", "deleted_by_hand", _unrepaired("VxlanLink")),
    Mutation(
        "rules-not-repaired",
        "what is deleted by hand comes back",
        "deleted_by_hand",
        _one(
            "overlay/firewall_keeper.py",
            "            if self._plan is None and not gate_open:\n",
            "            if self._plan or not gate_open:\n",
        ),
    ),
    Mutation(
        "jump-not-repaired",
        "what is deleted by hand comes back",
        "deleted_by_hand",
        _one(CHAIN, "if present and in_place and rules ==", "if present and rules =="),
    ),
    Mutation(
        "repairs-not-counted",
        "repairs are told",
        "deleted_by_hand",
        _one("overlay/passes.py", "        if work.repairing:\n", "        if not work.repairing:\n"),
    ),
    Mutation(
        "engine-never-looked-at",
        "after a crash nothing stays that Docker does not know",
        "crash_leaves",
        _one("plugin/engine_watch.py", "                    self.look()\n", "                    pass\n"),
    ),
    Mutation(
        "stale-addresses-stay",
        "after a crash no address stays that Docker does not know",
        "crash_leaves",
        _one(
            "plugin/engine_watch.py",
            " + self._ipam.release_unknown(used, settled.seen_at, self._timing.grace_s)",
        ),
    ),
    Mutation(
        "address-not-taken",
        "containers started at once have addresses of their own",
        "started_at_once",
        _one(IPAM, "        change.take(entry, ip, used)\n", "        del used\n"),
    ),
)

BAD_REQUEST = """asks for what cannot be; the message says what was expected.\"""\n\n    status = """
BAD_INPUT = (
    Mutation(
        "wrong-ipam-without-command",
        "no --ipam-driver: the exact command",
        "without_ipam_driver",
        _one(
            "driver/creation.py",
            "create the network with: docker network create -d flannelpy --ipam-driver flannelpy {ipv6}NAME",
            "create the network with our own IPAM",
        ),
    ),
    Mutation(
        "foreign-subnet-accepted",
        "foreign subnet",
        "foreign_subnet",
        (
            Edit("ipam/slices.py", "    if not netstate.is_part(wanted, lease):\n", "    if False:\n"),
            Edit(
                "driver/creation.py",
                "if any(netstate.is_part(pool, own) for own in holding.subnets)), None)",
                "if pool), None)",
            ),
        ),
    ),
    Mutation(
        "foreign-subnet-without-lease",
        "foreign subnet: the message names the lease",
        "foreign_subnet",
        _one("ipam/slices.py", "is not part of this host's lease {lease};", "is not part of this host's lease;"),
    ),
    Mutation(
        "whole-lease-twice",
        "a second network on the whole lease",
        "second_network",
        _one(
            "ipam/slices.py", "        if taken:\n            raise errors.PoolTaken(_explain_shared(lease, taken))\n"
        ),
    ),
    Mutation(
        "unknown-option-accepted",
        "unknown options",
        "unknown_options",
        _one(
            "driver/network.py",
            "        if foreign is None:\n",
            "        if foreign is None:\n            continue\n",
        ),
    ),
    Mutation(
        "ipv6-refused-without-reason",
        "IPv6",
        "unknown_options",
        _one(
            "ipam/leases.py",
            'f"--ipv6: the flannel network {held.prefix} has no IPv6; leave --ipv6 and IPv6 --subnet away, or add "\n'
            '        "EnableIPv6 and IPv6Network to its network config (docs/operations.md, Dual stack)"',
            '"no"',
        ),
    ),
    Mutation(
        "config-missing-without-key",
        "config missing in etcd: the message names the key",
        "config_missing",
        _one(
            "overlay/registry_etcd.py",
            'f"etcd has no network config at {self._config_key}; write one with etcdctl put {self._config_key} "',
            '"etcd has no network config; write one with etcdctl "',
        ),
    ),
    Mutation(
        "config-read-once",
        "config missing in etcd: it may come later",
        "may_come_later",
        _one(NODE, "            self._kick.wait(pause)\n", "            self._stop.wait()\n"),
    ),
    Mutation(
        "broken-config-is-default",
        "invalid JSON in etcd",
        "invalid_json",
        _one(
            "overlay/netconfig.py",
            "    except fields.FieldError as exc:\n"
            "        raise errors.ConfigInvalid(str(exc)) from exc\n    return draft",
            "    except fields.FieldError:\n"
            '        return _read_draft(\'{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan"}}\')\n'
            "    return draft",
        ),
    ),
    Mutation(
        "no-backend-is-vxlan",
        "a config without Backend",
        "without_backend",
        (
            Edit(
                "overlay/netconfig.py",
                "    if draft.backend is None:\n",
                "    if draft.backend is None and not v4:\n",
            ),
            Edit(
                "overlay/netconfig.py",
                '    backend_type = ""\n    if member is None:',
                '    backend_type = "vxlan"\n    if member is None:',
            ),
        ),
    ),
    Mutation(
        "wrong-setting-not-named",
        "a wrong setting is said in every answer",
        "wrong_setting",
        _one(
            "plugin/app.py",
            'errors.SettingsError("; ".join(str(problem) for problem in self._problems))',
            'errors.SettingsError("wrong")',
        ),
    ),
    Mutation(
        "wrong-setting-ignored",
        "a wrong setting is said in every answer",
        "wrong_setting",
        _one("plugin/app.py", "        if self._problems:\n", "        if not self._recent:\n"),
    ),
    Mutation(
        "broadcast-handed-out",
        "full pool: never network or broadcast address",
        "full_pool",
        _one(
            "ipam/pool.py",
            "int(cidr.broadcast_address) + (cidr.version == 6))",
            "int(cidr.broadcast_address) + 1)",
        ),
    ),
    Mutation(
        "full-pool-without-counts",
        "full pool: the message has used and total",
        "full_pool",
        _one(
            OVERVIEW,
            'is full: {addresses.used} of "\n        f"{addresses.total} addresses used; remove',
            'is full; "\n        f"remove',
        ),
    ),
    Mutation(
        "full-pool-without-lease",
        "full pool: the message has the lease",
        "full_pool",
        _one(OVERVIEW, "of lease {entry.lease} ({entry.prefix}) is full", "({entry.prefix}) is full"),
    ),
    Mutation(
        "malformed-body-is-500",
        "malformed request bodies: 400",
        "malformed_body and CreateNetwork",
        (
            Edit(
                "plugin/http.py", "        return _error(str(exc), 400)\n", "        return _error(str(exc), 500)\n"
            ),
            Edit("driver/errors.py", BAD_REQUEST + "400", BAD_REQUEST + "500"),
        ),
    ),
    Mutation(
        "malformed-body-is-200",
        "malformed request bodies: 400",
        "malformed_body and (Leave or DeleteEndpoint)",
        (
            Edit("plugin/http.py", "        return _error(str(exc), 400)\n", "        return _json({}, 200)\n"),
            Edit("driver/errors.py", BAD_REQUEST + "400", BAD_REQUEST + "200"),
        ),
    ),
    Mutation(
        "one-error-key",
        "malformed request bodies: both error keys",
        "malformed_body and Join",
        _one("plugin/server.py", '{"Err": message, "Error": message}', '{"Err": message}'),
    ),
    Mutation(
        "path-as-id",
        "malformed request bodies: an id is an id",
        "malformed_body and DeleteNetwork and etc",
        _one("driver/names.py", 're.compile(r"[0-9a-z]{12,64}")', 're.compile(r".*")'),
    ),
)

DUAL_STACK = (
    Mutation(
        "no-ipv6-neighbours",
        "containers of two hosts talk over IPv6",
        "talk_over_both_families",
        _one(
            VXLAN,
            "            yield netstate.Neighbour(link=device, ip=peer.gateway, mac=peer.mac)\n",
            "            if peer.gateway.version == 4:\n"
            "                yield netstate.Neighbour(link=device, ip=peer.gateway, mac=peer.mac)\n",
        ),
    ),
    Mutation(
        "no-ipv6-overhead",
        "an IPv6 packet of the overlay's MTU passes",
        "full_packet_passes_over_ipv6",
        _one(VXLAN, "halves.V6: 70", "halves.V6: 50"),
    ),
    Mutation(
        "ipv6-not-masqueraded",
        "what leaves the overlay over IPv6 leaves as the host",
        "leaves_as_the_host",
        _one(TABLE, "        if subnets:\n", "        if subnets and family.table == 'ip':\n"),
    ),
    Mutation(
        "ipv6-not-forwarded",
        "the host forwards IPv6",
        "talk_over_both_families or leaves_as_the_host",
        _one(
            "driver/desired.py",
            'key="net.ipv6.conf.all.forwarding", value="1"',
            'key="net.ipv6.conf.all.forwarding", value="0"',
        ),
    ),
    Mutation(
        "ipv6-row-forgotten",
        "a restarted plugin knows both families",
        "goes_on_with_both_families",
        _one(
            "driver/store.py", "        v6=_network_v6(*v6) if v6[0] is not None else None,\n", "        v6=None,\n"
        ),
    ),
    Mutation(
        "ipv6-bridge-rules-stay",
        "removal leaves nothing of IPv6",
        "removal_leaves_nothing",
        _one(
            TABLE,
            "    if not domains:\n        return fresh\n",
            '    if not domains:\n        return fresh if family.table == "ip" else f"{name}\\n"\n',
        ),
    ),
)

FOLLOWING = (
    Mutation(
        "mtu-not-followed",
        "networks follow the MTU of the wire below",
        "mtu_of_the_wire_below",
        _one("driver/following.py", "        self._follow(lambda net: net)\n", "        pass\n"),
    ),
    Mutation(
        "offload-not-examined",
        "checksum offload is examined",
        "offload_is_examined",
        _one(
            GRAPH, 'if self.settings.tx_checksum == "auto" else []', 'if self.settings.tx_checksum == "off" else []'
        ),
    ),
    Mutation(
        "gateway-bridge-open",
        "no packet passes from one flannel network to another, through the second interface neither",
        "each_reaches_its_own",
        _one(TABLE, "        yield from _gateway_drops(domains, family)\n"),
    ),
    Mutation(
        "foreign-bridge-taken",
        "a bridge that somebody else has is left alone",
        "somebody_else_has",
        _one(
            "overlay/rtnl_links.py",
            'return row.is_ours or row.kind != "bridge" or row.name.startswith(netstate.BRIDGE_PREFIX)',
            "return True",
        ),
    ),
    Mutation(
        "chosen-names-ignored",
        "options of a network: the names of its bridge and interfaces",
        "names_mtu",
        _one("driver/endpoint.py", '"DstPrefix": joined.iface_prefix', '"DstPrefix": "eth"'),
    ),
    Mutation(
        "network-among-leases",
        "networks that collide are refused: prefixes",
        "collides_is_refused and lies",
        _one("overlay/nodes.py", "if inner := _nested(prefix, other):", "if inner := None:"),
    ),
    Mutation(
        "firewalld-not-asked",
        "networks work beside firewalld",
        "beside_firewalld",
        _one(FIREWALLD, "missing = set(wanted) - there", "missing: set[str] = set()"),
    ),
    Mutation(
        "firewalld-bindings-stay",
        "a network that went leaves nothing in firewalld",
        "beside_firewalld",
        _one(FIREWALLD, "sorted(stale - set(wanted))", "()"),
    ),
    Mutation(
        "firewalld-forgotten-by-a-killed-plugin",
        "a killed plugin leaves nothing in firewalld",
        "beside_firewalld",
        _one(
            FIREWALLD,
            "if name in self._bound[kind] or name.startswith(netstate.BRIDGE_PREFIX)",
            "if name in self._bound[kind]",
        ),
    ),
    Mutation(
        "firewalld-robs-the-operator",
        "what somebody else bound in firewalld stays",
        "beside_firewalld",
        _one(FIREWALLD, "name.startswith(netstate.BRIDGE_PREFIX)", "name.startswith(('fp-', 'flannel'))"),
    ),
    Mutation(
        "names-with-the-next-look",
        "a full pool's error and the warning at 80 % name Docker's network, one made just now, too",
        "a_full_pool_says_so",
        _one("plugin/engine_watch.py", "self._learn_names()", "pass"),
    ),
    Mutation(
        "firewalld-asked-once",
        "networks work again after a reload of firewalld",
        "beside_firewalld",
        _one(FIREWALLD, "missing = set(wanted) - there", "missing = set(wanted) - self._bound[kind]"),
    ),
)

UPGRADE = (
    Mutation(
        "device-goes-at-stop-of-an-upgrade",
        "an upgrade loses no packet",
        "an_upgrade_loses_nothing",
        _one(
            GRAPH,
            "        self.halt.set()\n",
            "        self.halt.set()\n"
            "        for one in self.nodes.all():\n"
            '            self.reconciler.remove(f"node:{one.prefix}")\n',
        ),
    ),
)

ORCHESTRATED = (
    Mutation(
        "names-stay-on-their-node",
        "swarm: tasks of two nodes find each other by name",
        "tasks_of_two_nodes",
        _one("driver/endpoints.py", '"ConnectivityScope": "global"', '"ConnectivityScope": "local"'),
    ),
    Mutation(
        "pool-kept-by-a-network-that-went",
        "compose: networks go without a trace and can come again",
        "documents_file",
        _one("ipam/service.py", "            change.drop_pool(pool_id)\n", "            pass\n"),
    ),
    Mutation(
        "macs-not-asked-for",
        "a container made again with its MAC gets its address",
        "its_mac_gets_its_address",
        _one("ipam/endpoints.py", '"RequiresMACAddress": sticky_mac', '"RequiresMACAddress": False'),
    ),
    Mutation(
        "released-addresses-come-first",
        "a released address rests",
        "released_address_rests",
        _one(
            "ipam/pool.py",
            "        if self._fresh in self._range:\n",
            "        if self._fresh in self._range and longest is None:\n",
        ),
    ),
)

CROWDS = (
    Mutation(
        "join-sluggish",
        "handlers answer within 100 ms where a hundred containers start at once",
        "a_hundred_containers",
        _one(SERVICE, "        if end.joined:\n", '        __import__("time").sleep(0.6)\n        if end.joined:\n'),
    ),
)

CONFIG = "plugin/config.json"
PRIVILEGES = (
    Mutation(
        "no-net-admin",
        "least privileges: CAP_NET_ADMIN",
        "standalone_needs_no_etcd",
        _one(CONFIG, '"capabilities": ["CAP_NET_ADMIN"]', '"capabilities": []'),
        setup=True,
    ),
    Mutation(
        "no-host-network",
        "least privileges: network host",
        "standalone_needs_no_etcd",
        _one(CONFIG, '"network": {"type": "host"}', '"network": {"type": "none"}'),
        setup=True,
    ),
    Mutation(
        "run-not-mounted",
        "least privileges: the mount of /run",
        "standalone_needs_no_etcd",
        _one(CONFIG, '"destination": "/host/run"', '"destination": "/elsewhere"'),
        setup=True,
    ),
    Mutation(
        "sysctl-not-mounted",
        "least privileges: the mount of /proc/sys/net",
        "talk_over_both_families",
        _one(CONFIG, '"destination": "/host/proc/sys/net"', '"destination": "/elsewhere"'),
        setup=True,
    ),
    Mutation(
        "etcd-tls-not-mounted",
        "least privileges: the mount of etcd's TLS files",
        "mounted_files_open_an_etcd",
        _one(CONFIG, '"destination": "/etcd-tls"', '"destination": "/elsewhere"'),
    ),
    Mutation(
        "no-propagated-mount",
        "least privileges: the propagated mount",
        "an_upgrade_loses_nothing",
        _one(CONFIG, '  "propagatedmount": "/data",\n'),
    ),
)

AUDIT = (
    Mutation(
        "audit-believes-memory",
        "the audit reads the state file itself",
        "test_a_row_lost_under_the_running_plugin_is_written_again",
        (
            Edit(
                "plugin/sight.py",
                "rows = compare.Known(networks=tuple(networks), endpoints=tuple(endpoints))",
                "rows = memory",
            ),
        ),
    ),
    Mutation(
        "audit-mends-no-rows",
        "--repair makes the rows what Docker says",
        "test_rows_that_docker_contradicts_are_told_and_mended",
        (Edit("plugin/audit.py", "driver_audit.mend(sources.driver, findings)", "driver_audit.Mending()"),),
    ),
    Mutation(
        "audit-looks-once",
        "no false alarm while containers come and go",
        "test_no_false_alarm_while_containers_come_and_go",
        (Edit("plugin/audit.py", "LOOKS if settle_s else 1", "1"),),
    ),
    Mutation(
        "audit-knows-links-by-mark-alone",
        "a link with a name like ours is told",
        "test_a_link_of_nobodys_with_a_name_like_ours_is_told",
        (Edit("overlay/compare_kernel.py", "(link.ours or link.name.startswith(OUR_NAMES))", "link.ours"),),
    ),
)

RESTARTS = (
    Mutation(
        "crash-leaves-what-it-left",
        "a kill within any call leaves no address, endpoint or network",
        "kills_within_the_engines_calls",
        _one(
            "plugin/engine_watch.py",
            "            done += self._mend_rows(audit.removals(settled.findings), refused)\n"
            "            done += self._mend_addresses(settled)\n",
            "            pass\n",
        ),
    ),
    Mutation(
        "repeat-without-body-succeeds",
        "a call that broke is not answered with success when it comes again without its body",
        "kills_within_the_engines_calls",
        _one(
            "plugin/http.py",
            "        return _error(str(exc), 400)\n    except http_errors",
            '        return _json({}, 200) if "an empty body" in str(exc) else _error(str(exc), 400)\n'
            "    except http_errors",
        ),
    ),
    Mutation(
        "address-stays-over-a-restart",
        "without live-restore containers come back with their own address",
        "without_live_restore",
        _one(
            "ipam/endpoints.py",
            '    ipam.release_address(fields.text(body, "PoolID"), _address(fields.text(body, "Address")))\n',
        ),
    ),
    Mutation(
        "pair-stays-after-live-restore",
        "containers that dockerd was away from are removed whole",
        "with_live_restore",
        _one(
            SERVICE,
            "            self._plumbing.forget(desired.endpoint_owner(endpoint_id))\n"
            "        if known is not None and known.published",
            "            pass\n        if known is not None and known.published",
        ),
    ),
)

KEEPER = "overlay/firewall_keeper.py"
DRIVER_COMPARE = "driver/compare.py"
IPAM_COMPARE = "ipam/compare.py"
KERNEL_COMPARE = "overlay/compare_kernel.py"


def _finds_nothing(file: str, first: str) -> tuple[Edit, ...]:
    """A generator that ends before its first line, which is `first`."""
    return _one(file, f"    {first}\n", f"    return\n    {first}\n")


APART = (
    Mutation(
        "gateway-bridge-forges",
        "spoofed source addresses are dropped, on a container's second interface too",
        "through_its_second_interface",
        _one(TABLE, '    yield f"{forged} drop"\n'),
    ),
    Mutation(
        "flannel-networks-meet-over-ipv6",
        "no packet passes from one flannel network to another, of IPv6 neither",
        "each_reaches_its_own",
        (
            Edit(
                TABLE,
                "if drops := list(_drops(domains, family)):",
                "if family is firewall.IPV4 and (drops := list(_drops(domains, family))):",
            ),
            OUTSIDE_LET_IN,
        ),
    ),
    Mutation(
        "flannel-networks-meet-across-hosts",
        "no packet passes from one flannel network to another across hosts, beside firewalld neither",
        "beside_firewalld or each_reaches_its_own",
        (
            Edit(TABLE, "for link in other.links]", "for link in other.links if link[:7] != 'flannel']"),
            Edit(
                TABLE,
                'origins = [f"iifname {nft_text.names(domain.links)}"]',
                "origins = [f\"iifname {nft_text.names(x for x in domain.links if x[:7] != 'flannel')}\"]",
            ),
            OUTSIDE_LET_IN,
        ),
    ),
    Mutation(
        "internal-open-over-ipv6",
        "--internal: nothing gets in or out, over IPv6 neither",
        "stays_shut",
        _one(
            TABLE,
            "*_internal_drops(domains, family)",
            "*(_internal_drops(domains, family) if family is firewall.IPV4 else ())",
        ),
    ),
    Mutation(
        "rules-stay-flushed",
        "flannel networks are apart again after nft flush ruleset and iptables -F",
        "again_after_the_packet_filter_was_flushed",
        _one(KEEPER, "(self.rules, self.guard, self.tunnels)]", "(self.guard, self.tunnels)]"),
    ),
    Mutation(
        "jump-stays-flushed",
        "each reaches its own network again after iptables -F",
        "again_after_the_packet_filter_was_flushed and iptables",
        _one(
            CHAIN,
            '*removal, f"-I FORWARD {place + 1} -j {chain}", *rules',
            '*([] if present else [*removal, f"-I FORWARD {place + 1} -j {chain}"]), *rules',
        ),
    ),
)

RANDOM = (
    Mutation(
        "random-addresses-stay",
        "no address leaks over random operations",
        "nothing_leaks",
        _one(
            "ipam/endpoints.py",
            '    ipam.release_address(fields.text(body, "PoolID"), _address(fields.text(body, "Address")))\n',
        ),
    ),
    Mutation(
        "random-native-ports-stay",
        "no published port leaks over random operations",
        "nothing_leaks",
        (
            Edit(
                PUBLISHING,
                "self._rows.save_published(endpoint_id, ())",
                "self._rows.save_published(endpoint_id, published)",
            ),
            Edit(PUBLISHING, "            self.release(published)\n", ""),
            Edit(SERVICE, "self.publisher.forget(known)", "pass"),
        ),
    ),
    Mutation(
        "random-native-ports-not-redirected",
        "published ports are there over random operations",
        "nothing_leaks",
        _one(FIREWALL, "published=() if rules.internal else _published(rules, family)", "published=()"),
    ),
)

COMPARED = (
    Mutation(
        "audit-blind-to-docker",
        "the audit tells networks and endpoints that Docker contradicts",
        "docker_contradicts",
        _finds_nothing(DRIVER_COMPARE, "seen = list(seen)"),
    ),
    Mutation(
        "audit-blind-to-rows",
        "the audit tells rows that were lost under the running plugin",
        "row_lost",
        _finds_nothing(DRIVER_COMPARE, "for what, rows, objects in ("),
    ),
    Mutation(
        "audit-blind-to-reserved-ports",
        "the audit tells ports that are reserved for nobody",
        "networks_of_every_kind_agree",
        _finds_nothing(DRIVER_COMPARE, "for port in sorted(missing_ports(file, reserved), key=str):"),
    ),
    Mutation(
        "audit-blind-to-addresses",
        "the audit tells pools and addresses that Docker contradicts",
        "docker_contradicts",
        _finds_nothing(IPAM_COMPARE, "told = {reconcile.pool_id(item.cidr): item for item in known}"),
    ),
    Mutation(
        "audit-blind-to-address-rows",
        "the audit tells rows of addresses that were lost under the running plugin",
        "row_lost",
        _finds_nothing(IPAM_COMPARE, "for pool_id in sorted(file.pools.keys() | memory.pools.keys()):"),
    ),
    Mutation(
        "audit-blind-to-doubled-pools",
        "the audit tells pools that overlap",
        "docker_contradicts",
        _finds_nothing(
            IPAM_COMPARE,
            "for one, other in itertools.combinations(sorted(rows.pools.values(), key=str), 2):",
        ),
    ),
    Mutation(
        "audit-blind-without-docker",
        "the audit tells addresses that are free and in use while Docker is away",
        "docker_is_away",
        _finds_nothing(IPAM_COMPARE, "for endpoint_id, addresses in sorted(endpoints.items()):"),
    ),
    Mutation(
        "audit-blind-to-the-kernel",
        "the audit tells what differs in the kernel",
        "differs_in_the_kernel",
        _finds_nothing(KERNEL_COMPARE, "for op in diff.plan(desired, seen.observed):"),
    ),
    Mutation(
        "audit-blind-to-links",
        "the audit tells links that are nobody's, and those that are lost",
        "lost_its_link or link_of_nobodys",
        _finds_nothing(KERNEL_COMPARE, "links = list(links)"),
    ),
    Mutation(
        "audit-blind-to-the-packet-filter",
        "the audit tells what differs in the packet filter",
        "differs_in_the_kernel",
        _finds_nothing(KERNEL_COMPARE, "for one in found:"),
    ),
    Mutation(
        "audit-blind-to-etcd",
        "the audit tells what differs in etcd",
        "key_of_another_host or config_that_changed",
        _finds_nothing("overlay/compare_lease.py", "yield from _own_row(sides)"),
    ),
)

REVIEWED = (
    Mutation(
        "gateway-docker-ignored",
        "-o flannelpy.gateway=docker",
        "all_its_containers_through_docker",
        _one(ENDPOINT, " or net.gateway_mode is network.GatewayMode.DOCKER:", ":"),
    ),
    Mutation(
        "sockets-open-to-all",
        "sockets are 0660 root",
        "both_sockets",
        _one("plugin/server.py", '"umask": 0o117,', '"umask": 0o111,'),
    ),
    Mutation(
        "state-in-memory",
        "a rebooted host brings its containers back, with etcd up and down",
        "test_interruptions and rebooted_host",
        _one(GRAPH, "pathlib.Path(chosen.state_dir) / STATE_FILE", 'pathlib.Path("/dev/shm") / STATE_FILE'),
    ),
    Mutation(
        "lease-forgotten-at-boot",
        "a rebooted host has its lease and key again, with etcd up and down",
        "test_interruptions and rebooted_host",
        (
            Edit("overlay/member.py", "saved = ports.store.load(prefix)\n", "saved = None\n"),
            Edit("overlay/subnets.py", "    if fitting:\n", "    if fitting and saved:\n"),
        ),
    ),
    Mutation(
        "quarantine-not-set",
        "ADDRESS_QUARANTINE says how long an address is kept",
        "its_mac_gets_its_address",
        _one(GRAPH, "        quarantine_s=chosen.address_quarantine_s,\n"),
    ),
    Mutation(
        "name-of-the-network-unknown",
        "a short pool's warning and error have the network's name",
        "released_address_rests",
        _one("plugin/engine_watch.py", "name = self._names.get(net.id)", 'name = ""'),
    ),
    Mutation(
        "shortage-not-warned-of",
        "at 80 % use a warning",
        "released_address_rests",
        _one(IPAM, "        if news:\n", "        if news and not used:\n"),
    ),
    Mutation(
        "udp-published-as-tcp",
        "published ports: UDP",
        "test_publish_native and udp_is_published",
        _one("driver/ports.py", "17: firewall.Protocol.UDP}", "17: firewall.Protocol.TCP}"),
    ),
    Mutation(
        "udp-not-published-over-ipv6",
        "published ports: UDP over IPv6",
        "test_publish_native and udp_is_published and ip_v6",
        _one(
            "driver/ports.py",
            "    if end.address_v6 is not None:\n",
            "    if end.address_v6 is not None and binding.protocol is firewall.Protocol.TCP:\n",
        ),
    ),
    Mutation(
        "sctp-published-as-tcp",
        "published ports: SCTP refused with an error",
        "sctp_is_refused",
        _one("driver/ports.py", "PROTOCOLS.get(number)", "PROTOCOLS.get(number, firewall.Protocol.TCP)"),
    ),
    Mutation(
        "ranges-lead-elsewhere",
        "published ports: ranges",
        "each_port_of_a_range",
        _one("overlay/firewall_ports.py", "{port.address} . {port.port}", "{port.address} . {min(port.port, 83)}"),
    ),
    Mutation(
        "host-ip-ignored",
        "published ports: host IP",
        "port_of_one_address",
        _one("driver/ports.py", "host_ip=_host_ip(host_ip) if host_ip else None", "host_ip=None"),
    ),
    Mutation(
        "taken-port-passed-over",
        "published ports: a conflict gives Docker's usual words",
        "test_publish_native and (engines_words or both_directions)",
        _one(
            PUBLISHING,
            "        if not found:\n            raise errors.PortTaken(ports.explain_taken(binding, wanted[0][0]))\n",
        ),
    ),
    Mutation(
        "native-ports-lost-by-an-upgrade",
        "ports that the plugin published are there after an upgrade",
        "an_upgrade_loses_nothing",
        _one("driver/store.py", "published=ports.decode_published(published)", "published=()"),
    ),
)

OPTIONS = (
    Mutation(
        "mtu-option-ignored",
        "-o com.docker.network.driver.mtu",
        "names_mtu",
        _one("driver/network.py", "mtu=_mtu(values[OPTION_MTU]) if OPTION_MTU in values else None", "mtu=None"),
    ),
    Mutation(
        "masquerade-option-ignored",
        "-o com.docker.network.bridge.enable_ip_masquerade",
        "names_mtu",
        _one("driver/creation.py", "        masquerade=request.options.masquerade,\n"),
    ),
    Mutation(
        "bridge-name-ignored",
        "-o com.docker.network.bridge.name",
        "names_mtu",
        _one("driver/network.py", "(name := values.get(OPTION_BRIDGE))", '(name := "")'),
    ),
    Mutation(
        "ip-range-ignored",
        "--ip-range",
        "come_from_where",
        _one(
            "ipam/endpoints.py", 'subpool=parse(subpool, "SubPool (--ip-range)") if subpool else None', "subpool=None"
        ),
    ),
    Mutation(
        "aux-address-dropped",
        "--aux-address",
        "come_from_where",
        _one(
            IPAM,
            "        change.take(entry, ip, used)\n",
            "        if used.kind is not pool.Kind.EXPLICIT:\n            change.take(entry, ip, used)\n",
        ),
    ),
    Mutation(
        "chosen-gateway-ignored",
        "--gateway",
        "come_from_where",
        _one(IPAM, "ip = request.ip or entry.addresses.first", "ip = entry.addresses.first"),
    ),
    Mutation(
        "chosen-ip6-ignored",
        "--ip6",
        "a_second_family",
        _one(
            IPAM,
            "free = request.ip or entry.addresses.propose(",
            "asked = request.ip if entry.addresses.cidr.version == 4 else None\n"
            "            free = asked or entry.addresses.propose(",
        ),
    ),
    Mutation(
        "vni-twice",
        "networks that collide are refused: VNI",
        "collides_is_refused and twin",
        _one("overlay/nodes.py", "if device and name == device:", "if not name and device:"),
    ),
    Mutation(
        "cidr-twice",
        "networks that collide are refused: CIDR",
        "collides_is_refused and wide",
        _one("overlay/nodes.py", "clash := _overlap(networks, taken)", "clash := _overlap((), taken)"),
    ),
)

MUTATIONS = (
    *TALK,
    *PUBLISH,
    *NATIVE,
    *GUARD,
    *NETWORKS,
    *INTERRUPTIONS,
    *BAD_INPUT,
    *DUAL_STACK,
    *FOLLOWING,
    *UPGRADE,
    *RESTARTS,
    *ORCHESTRATED,
    *CROWDS,
    *PRIVILEGES,
    *AUDIT,
    *REVIEWED,
    *OPTIONS,
    *mutations_no_lab.MUTATIONS,
    *APART,
    *RANDOM,
    *COMPARED,
)


@contextlib.contextmanager
def worktrees(count: int) -> Iterator[list[pathlib.Path]]:
    """Scratch copies of HEAD, removed in the end."""
    base = pathlib.Path(tempfile.mkdtemp(prefix="flannelpy-mutations-"))
    (base / "logs").mkdir()
    print(f"pytest's output: {base}/logs", flush=True)
    paths = [base / str(number) for number in range(count)]
    try:
        for path in paths:
            _git("worktree", "add", "--quiet", "--detach", str(path), "HEAD")
        yield paths
    finally:
        for path in paths:
            _git("worktree", "remove", "--force", str(path))


def _git(*words: str) -> None:
    subprocess.run(["git", "-C", str(CHECKOUT), *words], check=True)


def check_edits() -> list[str]:
    """What in the table does not fit the sources any more; a line each."""
    troubles = []
    for mutation in MUTATIONS:
        for edit in mutation.edits:
            found = (CHECKOUT / edit.file).read_text().count(edit.old)
            if found != 1:
                troubles.append(f"{mutation.name}: {edit.file} has {found} times {edit.old!r}")
            elif edit.old == edit.new:
                troubles.append(f"{mutation.name}: changes nothing")
    return troubles


def try_one(mutation: Mutation, tree: pathlib.Path, engine: str) -> Outcome:
    """Apply a mutation in `tree`, run its tests, take it back."""
    started = time.monotonic()
    before = {edit.file: (tree / edit.file).read_text() for edit in mutation.edits}
    try:
        for edit in mutation.edits:
            path = tree / edit.file
            path.write_text(path.read_text().replace(edit.old, edit.new, 1))
        result, tests, reasons = _judge(_run_pytest(mutation, tree, engine), tree / "mutation.xml")
    finally:
        for file, text in before.items():
            (tree / file).write_text(text)
        (tree / "mutation.xml").unlink(missing_ok=True)
    return Outcome(mutation, result, tests, reasons, time.monotonic() - started)


def _run_pytest(mutation: Mutation, tree: pathlib.Path, engine: str) -> int:
    argv = [sys.executable, "-m", "pytest", mutation.where, "-q", "-p", "no:cacheprovider", "--timeout", "300"]
    argv += ["--engine", engine] if mutation.needs_lab else ["--hypothesis-profile", "first-failure"]
    argv += ["-k", mutation.tests, "--junitxml", "mutation.xml"]
    with (tree.parent / "logs" / f"{mutation.name}-{engine}.log").open("w") as log:
        running = subprocess.Popen(argv, cwd=tree, stdout=log, stderr=log)
        try:
            return running.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGINT)
            running.wait(120)
            return -1


def _judge(code: int, report: pathlib.Path) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    if code == -1:
        return "NOT CAUGHT: took too long", (), ()
    if not report.exists():
        return f"NOT CAUGHT: pytest ended with {code}", (), ()
    failed: list[str] = []
    broken: list[str] = []
    passed: list[str] = []
    reasons: list[str] = []
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - as above
        name = case.get("name", "")
        bad = case.find("failure")
        error = case.find("error")
        afterwards = error is not None and error.get("message", "").startswith("failed on teardown")
        if afterwards and name in failed:
            continue  # the test itself had noticed already
        (failed if bad is not None or afterwards else broken if error is not None else passed).append(name)
        told = [found.get("message", "") for found in (bad, error) if found is not None]
        reasons += [f"{name}: {(message.splitlines() or [''])[0][:300]}" for message in told]
    if passed:
        return f"NOT CAUGHT by {', '.join(passed)}", tuple(failed), tuple(reasons)
    if failed and not broken:
        return "caught", tuple(failed), tuple(reasons)
    return ("in setup" if broken else "NOT CAUGHT: no tests"), tuple(broken), tuple(reasons)


def try_all(chosen: Sequence[Mutation], engine: str, jobs: int) -> list[Outcome]:
    """All of them, `jobs` at a time; each is printed as soon as it is known."""
    free: queue.Queue[pathlib.Path] = queue.Queue()
    with worktrees(jobs) as trees, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for tree in trees:
            free.put(tree)

        def run(mutation: Mutation) -> Outcome:
            tree = free.get()
            try:
                outcome = try_one(mutation, tree, engine)
            finally:
                free.put(tree)
            print(f"{outcome.mutation.name:32} {outcome.result}  ({outcome.seconds:.0f} s)", flush=True)
            for reason in outcome.reasons:
                print(f"    {reason}", flush=True)
            return outcome

        return list(pool.map(run, chosen))


def format_table(outcomes: Sequence[Outcome], engine: str) -> str:
    """Markdown."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    lines = ["| mutation | stands for | tests | result | engine | date | s |", "|---|---|---|---|---|---|---|"]
    for one in outcomes:
        tests = ", ".join(dict.fromkeys(name.partition("[")[0].removeprefix("test_") for name in one.tests))
        lines.append(
            f"| `{one.mutation.name}` | {one.mutation.requirement} | {tests} | {one.result} "
            f"| {engine if one.mutation.needs_lab else 'none'} | {today} "
            f"| {one.seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description="Break the product on purpose and see whether the suite notices.")
    parser.add_argument("--engine", default="28.5", choices=("20.10", "26.1", "28.5"))
    parser.add_argument("--only", action="append", metavar="NAME", help="only this mutation; may be repeated")
    parser.add_argument("--no-lab", action="store_true", help="only those whose tests need no lab")
    parser.add_argument("--jobs", type=int, default=1, help="how many labs side by side")
    parser.add_argument("--report", type=pathlib.Path, help="append the table to this file")
    parser.add_argument("--list", action="store_true", help="only show the names")
    chosen = parser.parse_args()
    troubles = check_edits()
    unknown = sorted(set(chosen.only or ()) - {mutation.name for mutation in MUTATIONS})
    troubles += [f"no mutation {name}" for name in unknown]
    if troubles:
        print("\n".join(troubles), file=sys.stderr)
        return 2
    mutations = [one for one in MUTATIONS if not chosen.only or one.name in chosen.only]
    if chosen.no_lab:
        mutations = [one for one in mutations if not one.needs_lab]
    if chosen.list:
        print("\n".join(f"{one.name:32} {one.requirement}" for one in mutations))
        return 0
    outcomes = try_all(mutations, chosen.engine, chosen.jobs)
    table = format_table(outcomes, chosen.engine)
    print(table)
    if chosen.report:
        with chosen.report.open("a") as file:
            file.write(table)
    return 0 if all(one.caught for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
