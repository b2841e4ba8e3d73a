"""The mutations of `mutations` that tests without a lab must notice: each in seconds, most without root.

Hypothesis makes no example smaller here (profile first-failure in conftest.py); any failure is one.
"""

from __future__ import annotations

from mutation import Edit, Mutation, one

IPAM = "ipam/service.py"
IPAM_ENDPOINTS = "ipam/endpoints.py"
ENDPOINTS = "driver/endpoints.py"
GRAPH = "plugin/graph.py"
ROWS = "driver/rows.py"
NAMES = "driver/names.py"
HTTP = "plugin/http.py"
GUARD = "overlay/guard.py"
TABLE = "overlay/firewall_table.py"
FIREWALL = "overlay/firewall.py"
TUNNELS = "overlay/tunnel_guard.py"
WATCH = "plugin/engine_watch.py"
CLONES = "overlay/clones.py"
NODE = "overlay/node.py"
MEMBER = "overlay/member.py"
STANDING = "overlay/standing.py"
VXLAN = "overlay/backend_vxlan.py"
STATE_FILE = "overlay/statefile.py"
SERVER = "plugin/server.py"
HOST_LOCK = "plugin/host_lock.py"
UNINSTALL = "plugin/uninstall.py"
DOCKER = "driver/engine_docker.py"
PUBLISHING = "driver/publishing.py"
OPERATIONS = "docs/operations.md"

STICKY = "tests/ipam/test_sticky.py"
WIRE = "tests/plugin/test_wire.py"
HOSTILE = "tests/plugin/test_hostile.py"
TEXTS = "tests/plugin/test_hostile_texts.py"
VALUES = "tests/plugin/test_hostile_values.py"
LEAKS = "tests/plugin/test_leaks.py"
LOCKS = "tests/plugin/test_locks.py"
KILLS = "tests/plugin/test_kills_of_containers.py"
GUARDED = "tests/overlay/test_guard_packets.py"
MIXES = "tests/overlay/test_firewall_mixes.py"
PACKETS = "tests/overlay/test_firewall_packets.py"
TUNNEL_PACKETS = "tests/overlay/test_tunnel_packets.py"
HOST_PACKETS = "tests/driver/test_host_packets.py"
NODES = "tests/overlay/test_node.py"
VXLAN_TESTS = "tests/overlay/test_backend_vxlan.py"
STATE_FILES = "tests/overlay/test_statefile.py"
RANGES = "tests/plugin/test_port_ranges.py"
HOST_LOCKS = "tests/plugin/test_host_lock.py"
UNINSTALLS = "tests/plugin/test_uninstall.py"
WATCHES = "tests/plugin/test_engine_watch.py"
DOCKERS = "tests/driver/test_engine_docker.py"
PUBLISHES = "tests/driver/test_publishing.py"

ADDRESSES = (
    Mutation(
        "names-not-heeded",
        "a container re-created under the same name gets its address back (29+ tells names)",
        "made_again_under_its_name",
        one(IPAM_ENDPOINTS, "holder=pool.Holder(name=_mark(options, OPTION_NAME), mac", "holder=pool.Holder(mac"),
        where="tests/plugin/test_sticky_http.py",
    ),
    Mutation(
        "macs-not-heeded",
        "or by MAC",
        "name_and_mac_arrive",
        one(IPAM_ENDPOINTS, ", mac=_mark(options, OPTION_MAC).lower())", ")"),
        where=STICKY,
    ),
    Mutation(
        "half-a-minute",
        "the quarantine is 60 s by default",
        "within_a_minute",
        one(IPAM, "QUARANTINE_S = 60.0", "QUARANTINE_S = 30.0"),
        where=STICKY,
    ),
    Mutation(
        "half-a-minute-set",
        "the quarantine is 60 s by default: as docker plugin set shows it",
        "knows_every_managed_setting_and_its_default",
        one("plugin/settings.py", "address_quarantine_s: int = 60", "address_quarantine_s: int = 30"),
        where="tests/plugin/test_settings.py",
    ),
    Mutation(
        "quarantine-set-for-nothing",
        "the quarantine is a setting",
        "address_rests_as_long_as_set and 0-False",
        one(GRAPH, "        quarantine_s=chosen.address_quarantine_s,\n"),
        where="tests/plugin/test_graph.py",
    ),
    Mutation(
        "released-first-out-again",
        "released addresses rest before re-use",
        "any_other_container_gets_another",
        one("ipam/pool.py", " or self._resting < (REST_LIMIT if ready else REST_MOST):", ":"),
        where=STICKY,
    ),
    Mutation(
        "rests-for-ever",
        "released addresses rest before re-use unless the pool is short",
        "short_pool",
        one(
            "ipam/pool.py",
            "        return self._address(longest) if longest is not None else None\n",
            "        return None\n",
        ),
        where=STICKY,
    ),
    Mutation(
        "short-at-ninety",
        "at 80 % use a warning",
        "nearly_used_pool",
        one("ipam/shortage.py", "SHORT_PERCENT = 80", "SHORT_PERCENT = 90"),
        where=STICKY,
    ),
    Mutation(
        "full-pool-without-network",
        "at 100 % the error names the network",
        "docker_s_name",
        one(
            IPAM,
            "overview.explain_full(entry, self._network_of(entry.addresses.cidr))",
            'overview.explain_full(entry, "")',
        ),
        where=STICKY,
    ),
    Mutation(
        "networks-without-names",
        "the network as Docker calls it",
        "called_by_its_id_until",
        one(WATCH, "        self._names = {net.id: net.name for net in seen.networks if net.ours}\n"),
        where=WATCHES,
    ),
    Mutation(
        "nobody-asked-for-names",
        "the network as Docker calls it",
        "full_pool_names_the_network",
        one(
            GRAPH,
            "        network_of=lambda cidr: watch.network_of(cidr),  # noqa: PLW0108 - the watch is built last\n",
        ),
        where="tests/plugin/test_graph.py",
    ),
)

WIRED = (
    Mutation(
        "gateways-skipped",
        "GwAllocCheck is served",
        "newer_engines_add and GwAllocCheck",
        one(ENDPOINTS, '"SkipIPv4": False', '"SkipIPv4": True'),
        where=WIRE,
    ),
    Mutation(
        "no-gateway-but-ipv4s",
        "dual-stack gateways are served",
        "has_a_gateway_of_each",
        one("driver/endpoint.py", "gateway=net.gateway.ip, gateway_v6=gateway_v6)", "gateway=net.gateway.ip)"),
        where=WIRE,
    ),
    Mutation(
        "gateway-asked-for",
        "a gateway that newer engines leave out is served",
        "gateway_left_out",
        one(ENDPOINTS, '"Gateway", "") or _first_host(pool, "IPv4Data.Pool")', '"Gateway")'),
        where=WIRE,
    ),
    Mutation(
        "names-refused",
        "names in IPAM options are served",
        "what_engines_said and 29",
        one(
            IPAM_ENDPOINTS,
            "    if OPTION_NAME in options or OPTION_MAC in options:\n",
            "    if OPTION_NAME in options:\n"
            '        raise errors.BadRequest(f"unknown option {OPTION_NAME}")\n'
            "    if OPTION_MAC in options:\n",
        ),
        where=WIRE,
    ),
)

HOSTILE_INPUT = (
    Mutation(
        "any-type-is-text",
        "hostile input: never a 500 (wrong types)",
        "ten_thousand",
        one(
            "overlay/fields.py",
            "    if not isinstance(value, str):\n"
            '        raise FieldError(f"{name}: expected a string, got {kind(value)}")\n'
            "    return value\n\n\ndef flag",
            "    return value\n\n\ndef flag",
        ),
        where=HOSTILE,
    ),
    Mutation(
        "deep-json-is-a-bug",
        "hostile input: never a traceback",
        "ten_thousand",
        one("overlay/fields.py", "except (ValueError, RecursionError) as exc", "except ValueError as exc"),
        where=HOSTILE,
    ),
    Mutation(
        "refusals-with-traceback",
        "hostile input: never a traceback",
        "ten_thousand",
        one(
            HTTP,
            'status=%d reason=%s", name, status, message)',
            'status=%d reason=%s", name, status, message, exc_info=True)',
        ),
        where=HOSTILE,
    ),
    Mutation(
        "recorded-before-looked-at",
        "hostile input: never a changed state on an error",
        "value_that_is_refused and CreateEndpoint",
        (
            Edit(ROWS, "            endpoint.require_address(net, end)\n", ""),
            Edit(
                ROWS,
                "            self._save_endpoint(end)\n        return net, end, True\n",
                "            self._save_endpoint(end)\n"
                "            endpoint.require_address(net, end)\n"
                "        return net, end, True\n",
            ),
        ),
        where=VALUES,
    ),
    Mutation(
        "any-text-is-an-id",
        "nothing from a request reaches a tool, the kernel or a row: ids",
        "no_text_of_a_request and CreateNetwork",
        one(NAMES, "    if not _ID.fullmatch(text):\n", "    if not text:\n"),
        where=TEXTS,
    ),
    Mutation(
        "zones-in-addresses",
        "nothing from a request reaches a tool, the kernel or a row: addresses",
        "no_text_of_a_request and CreateEndpoint",
        one("overlay/fields.py", '    if "%" in value:\n        raise ValueError("no zone expected")\n'),
        where=TEXTS,
    ),
    Mutation(
        "tools-in-a-shell",
        "nothing from a request reaches a shell",
        "calls_no_shell and overlay",
        one(
            "overlay/firewall_tools.py",
            "                check=False,\n",
            "                check=False,\n                shell=True,\n",
        ),
        where=TEXTS,
    ),
    Mutation(
        "socket-for-all",
        "sockets are 0660 root",
        "socket_is_roots_alone",
        one("plugin/server.py", '"umask": 0o117', '"umask": 0o111'),
        where="tests/plugin/test_hostile_server.py",
    ),
    Mutation(
        "what-is-no-request-is-an-error-of-ours",
        "hostile input: what is no request at all is refused as all else is",
        "hardly_http",
        one("plugin/server.py", "REFUSED.get(type(exc), 400)", "REFUSED.get(type(exc), 500)"),
        where="tests/plugin/test_hostile_server.py",
    ),
    Mutation(
        "any-text-is-a-bridge",
        "nothing from a request reaches a tool, the kernel or a row: the name of a bridge",
        "no_text_of_a_request and native and CreateNetwork",
        one(NAMES, '_LINK = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,14}")', '_LINK = re.compile(r"(?s).{1,15}")'),
        where=TEXTS,
    ),
    Mutation(
        "any-text-is-a-prefix",
        "nothing from a request reaches a tool, the kernel or a row: what interfaces are called",
        "no_text_of_a_request and native and CreateNetwork",
        one(
            NAMES,
            '_IFACE_PREFIX = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,12}")',
            '_IFACE_PREFIX = re.compile(r"(?s).*")',
        ),
        where=TEXTS,
    ),
    Mutation(
        "zones-in-published-addresses",
        "nothing from a request reaches a tool, the kernel or a row: addresses of the host",
        "no_text_of_a_request and native and ProgramExternalConnectivity",
        (
            Edit("overlay/fields.py", '    if "%" in value:\n        raise ValueError("no zone expected")\n', ""),
            Edit(
                "driver/ports.py",
                "(ip.scope_id is not None or ip.ipv4_mapped is not None)",
                "ip.ipv4_mapped is not None",
            ),
            Edit(
                "driver/host_ports_fake.py",
                "port.ip not in self.addresses",
                "ipaddress.ip_address(str(port.ip).partition('%')[0]) not in self.addresses",
            ),
            Edit("driver/host_ports_fake.py", "import dataclasses\n", "import dataclasses\nimport ipaddress\n"),
        ),
        where=TEXTS,
    ),
    Mutation(
        "published-before-looked-at",
        "hostile input: never a changed state on an error: published ports",
        "value_that_is_refused and again",
        one(
            PUBLISHING,
            "            bindings = ports.parse_bindings(wanted)\n",
            "            self._rows.save_published(end.id, ())\n"
            "            bindings = ports.parse_bindings(wanted)\n",
        ),
        where=VALUES,
    ),
    Mutation(
        "refused-ports-stay-reserved",
        "hostile input: never a changed state on an error: ports of the host",
        "value_that_is_refused and ProgramExternalConnectivity and not again",
        one(PUBLISHING, "            undo.callback(self.release, set(found) - candidates)\n"),
        where=VALUES,
    ),
    Mutation(
        "looking-mends",
        "hostile input: never a changed state: what only looks",
        "what_only_looks",
        one(HTTP, 'repair=flask.request.method == "POST"', "repair=True"),
        where=VALUES,
    ),
    Mutation(
        "any-pause-is-a-number",
        "hostile input: never a 500: the audit's pause",
        "what_only_looks",
        one(
            HTTP,
            "    except ValueError:\n        return math.nan\n",
            "    except KeyError:\n        return math.nan\n",
        ),
        where=VALUES,
    ),
    Mutation(
        "discovery-not-served",
        "hostile input: every endpoint of both APIs",
        "session_is_right or every_call_that_is_served",
        one(ENDPOINTS, '    "NetworkDriver.DiscoverDelete": {},\n'),
        where=HOSTILE,
    ),
    Mutation(
        "names-collide",
        "names made from ids never collide",
        "gives_way_to_another or never_collide",
        one(NAMES, "return next(name for name in made if name not in taken)", "return next(made)"),
        where="tests/driver/test_names.py",
    ),
    Mutation(
        "names-too-long",
        "names never exceed 15 characters",
        "fit_the_kernel",
        one(NAMES, "STEM_LENGTH = 12", "STEM_LENGTH = 13"),
        where="tests/driver/test_names.py",
    ),
)

NO_LEAKS = (
    Mutation(
        "address-leaks",
        "no leak, ever, without root: addresses",
        "TestNothingLeaks",
        one(IPAM, "            change.release(entry, ip, self._clock.now(), now)\n"),
        where=LEAKS,
    ),
    Mutation(
        "endpoint-leaks",
        "no leak, ever, without root: endpoints",
        "TestNothingLeaks",
        one(ENDPOINTS, "    driver.delete_endpoint(_endpoint_id(body))\n"),
        where=LEAKS,
    ),
    Mutation(
        "row-leaks",
        "no leak, ever, without root: rows",
        "TestNothingLeaks",
        one(ROWS, "            self._store.delete_endpoint(endpoint_id)\n"),
        where=LEAKS,
    ),
    Mutation(
        "bridge-leaks",
        "no leak, ever, without root: bridges",
        "TestNothingLeaks",
        one(
            "driver/service.py",
            "        for take_away in (bridge, self._plumbing.write_firewall):\n",
            "        for take_away in (self._plumbing.write_firewall,):\n",
        ),
        where=LEAKS,
    ),
    Mutation(
        "rule-leaks",
        "no leak, ever, without root: rules",
        "TestNothingLeaks",
        one(
            "driver/service.py",
            "        for take_away in (bridge, self._plumbing.write_firewall):\n",
            "        for take_away in (bridge,):\n",
        ),
        where=LEAKS,
    ),
    Mutation(
        "refused-network-leaks",
        "no leak, ever, without root: where the packet filter refuses",
        "leaves_nothing_behind and (bridge or firewall)",
        one(
            "driver/service.py",
            "                if known is None:\n                    self._take_back(request.id)\n",
        ),
        where="tests/driver/test_service.py",
    ),
    Mutation(
        "never-looked",
        "no leak, ever, without root: what the engine never tells",
        "TestNothingLeaks",
        one(WATCH, "            done += self._mend_rows(audit.removals(settled.findings), refused)\n"),
        where=LEAKS,
    ),
)

KILLED = (
    Mutation(
        "killed-endpoint-stays",
        "the plugin killed within every handler: what Docker does not know goes",
        "about_a_container and CreateEndpoint",
        one(WATCH, "            done += self._mend_rows(audit.removals(settled.findings), refused)\n"),
        where=KILLS,
    ),
    Mutation(
        "killed-address-stays",
        "the plugin killed within every handler: its addresses, too",
        "about_a_container and RequestAddress",
        one(WATCH, "            done += self._mend_addresses(settled)\n"),
        where=KILLS,
    ),
    Mutation(
        "killed-pair-stays",
        "the plugin killed within every handler: and what is in the kernel",
        "about_a_container and DeleteEndpoint",
        one("overlay/reconciler.py", "            self._gate_open = True\n"),
        where=KILLS,
    ),
    Mutation(
        "killed-start-takes-away-what-it-forgot",
        "the plugin killed at any moment of its start",
        "any_point_of_the_start",
        (
            Edit(GRAPH, "    driver.restore()\n", ""),
            Edit(GRAPH, "        background = (\n", "        self.reconciler.open_gate()\n        background = (\n"),
        ),
        where="tests/plugin/test_kills_of_networks.py",
    ),
    Mutation(
        "killed-network-stays",
        "the plugin killed within every handler: networks",
        "about_a_network and CreateNetwork",
        one(WATCH, "            done += self._mend_rows(audit.removals(settled.findings), refused)\n"),
        where="tests/plugin/test_kills_of_networks.py",
    ),
    Mutation(
        "killed-host-takes-two-leases",
        "the plugin killed on the way to its first lease",
        "first_lease",
        one(
            "overlay/subnets.py",
            "    own = [held for held in snapshot.leases.values() if attrs.is_same_host(held.attrs)]\n",
            "    own: list[lease.Lease] = []\n",
        ),
        where="tests/plugin/test_kills_of_the_first_lease.py",
    ),
)

UNLOCKED = (
    Mutation(
        "given-back-in-the-handler",
        "no lock or call waits for etcd: a network that is left",
        "etcd_that_hangs",
        one(
            "overlay/nodes.py",
            "                left.leave()\n",
            "                left.leave()\n                left.give_back()\n",
        ),
        where=LOCKS,
    ),
    Mutation(
        "rules-written-under-a-lock",
        "no lock is held across exec calls",
        "firewalls_tools_run or holds_no_other_network_up",
        one(
            "driver/plumbing.py",
            "        self._inner.write_firewall()\n\n    def declare_guard",
            "            self._inner.write_firewall()\n\n    def declare_guard",
        ),
        where=LOCKS,
    ),
    Mutation(
        "written-within-the-condition",
        "no lock is held across exec calls",
        "firewalls_tools_run",
        one(
            "overlay/group_commit.py",
            "            batch.outcome.append(self._write())\n",
            "            with self._changed:\n                batch.outcome.append(self._write())\n",
        ),
        where=LOCKS,
    ),
)

TRANSACTIONS = (
    Mutation(
        "each-writes-for-itself",
        "one transaction for all changes at a time",
        "share_the_next_write",
        one(
            "overlay/group_commit.py", "            batch = self._next\n", "            batch: _Batch[T] = _Batch()\n"
        ),
        where="tests/overlay/test_group_commit.py",
    ),
    Mutation(
        "elements-one-by-one",
        "nftables sets: one transaction for each change",
        "not_done_at_all",
        one(
            "overlay/nft_elements.py",
            "        _send(messages)\n",
            "        for message in reversed(messages):\n            _send([message])\n",
        ),
        where="tests/overlay/test_nft_elements.py",
    ),
    Mutation(
        "guard-in-two-steps",
        "nftables: one transaction for each change",
        "taken_over_from_in_one_transaction",
        one(
            "overlay/guard_exec.py",
            '        run.run("nft", "-f", "-", script=script)\n',
            '        run.run("nft", "-f", "-", script=guard.whole_script(frozenset()))\n'
            '        run.run("nft", "-f", "-", script=script)\n',
        ),
        where="tests/overlay/test_guard_contract.py",
    ),
    Mutation(
        "table-in-two-steps",
        "nftables: one transaction for each change of published ports",
        "comes_with_one_write",
        one(
            "overlay/firewall_exec.py",
            '        work.tools.run("nft", "-f", "-", script=script)\n',
            '        work.tools.run("nft", "-f", "-", script=firewall_table.nft_script(frozenset(), family))\n'
            '        work.tools.run("nft", "-f", "-", script=script)\n',
        ),
        where="tests/overlay/test_firewall_ports.py",
    ),
    Mutation(
        "a-rule-for-each-port",
        "nftables sets and maps for published ports",
        "golden_files and published",
        one(
            "overlay/firewall_ports.py",
            '        rules.append(f"dnat {family.table} to {_KEY} map @ports")\n',
            '        rules += [f"{key} dnat to {way}" for key, way in everywhere.items()]\n',
        ),
        where="tests/overlay/test_firewall.py",
    ),
    Mutation(
        "ports-wherever-their-address-is",
        "a published port answers at addresses of this host alone",
        "moved_to_another_host",
        one(
            "overlay/firewall_ports.py",
            '    here = "fib daddr type local jump publish"\n',
            '    here = "jump publish"\n',
        ),
        where="tests/overlay/test_firewall_ports.py",
    ),
    Mutation(
        "datagrams-kept-on-the-ipv6-loopback",
        "what has no way from the IPv6 loopback is refused at once",
        "ipv6_loopback",
        one("overlay/firewall_ports.py", "elif datagrams := _loopback_datagrams(ports):", "elif datagrams := ():"),
        where="tests/overlay/test_firewall_ports.py",
    ),
    Mutation(
        "routes-of-the-gateway-alone",
        "a container reaches its flannel network whatever its default gateway is",
        "peers_of_both",
        one("driver/endpoint.py", "return NativeExit(routes=static,", "return NativeExit(routes=(),"),
        where="tests/driver/test_ways_of_containers.py",
    ),
    Mutation(
        "routes-over-a-former-pool",
        "Docker refuses no container an address that a route of ours covers",
        "outside_the_lease_of_today",
        one("driver/routes.py", "for one in (pool, *leased) if", "for one in (pool, *leased[:1]) if"),
        where="tests/driver/test_routes.py",
    ),
)

APART = (
    Mutation(
        "ipv6-of-another",
        "spoofed source addresses are dropped: IPv6",
        "anothers_name",
        one(GUARD, "\t\tether type ip6 iifname . @nh,64,128 @v6 accept\n", "\t\tether type ip6 accept\n"),
        where=GUARDED,
    ),
    Mutation(
        "neighbour-of-another",
        "spoofed source addresses are dropped: neighbour advertisements",
        "anothers_name",
        one(GUARD, "\t\ticmpv6 type nd-neighbor-advert jump target\n"),
        where=GUARDED,
    ),
    Mutation(
        "router-of-nobody",
        "spoofed source addresses are dropped: routers that are none",
        "anothers_name",
        one(GUARD, "\t\ticmpv6 type {{ nd-router-advert, nd-redirect }} drop\n"),
        where=GUARDED,
    ),
    Mutation(
        "mac-of-another",
        "spoofed MACs are dropped",
        "anothers_name",
        one(GUARD, "\t\tiifname . ether saddr != @macs drop\n"),
        where=GUARDED,
    ),
    Mutation(
        "ipv6-networks-meet",
        "several flannel networks, isolated: IPv6",
        "open_to_the_outside_never_meet and v6",
        one(
            TABLE,
            "    if drops := list(_drops(domains, family)):\n",
            "    if family is firewall.IPV4 and (drops := list(_drops(domains, family))):\n",
        ),
        where=MIXES,
    ),
    Mutation(
        "ipv6-internal-open",
        "--internal reaches nothing outside: IPv6",
        "needs_nobody_elses_drop and v6",
        one(TABLE, "        if domain.internal:\n", "        if domain.internal and family is firewall.IPV4:\n"),
        where=MIXES,
    ),
    Mutation(
        "outside-let-in",
        "unpublished ports are closed, whatever the policy of FORWARD",
        "nobody_outside_reaches",
        one(TABLE, 'yield f"oifname {nft_text.names(ways)} {origin} goto outside"', "pass"),
        where=PACKETS,
    ),
    Mutation(
        "outside-let-in-over-ipv6",
        "unpublished ports are closed: IPv6",
        "needs_nobody_elses_drop and v6",
        one(
            TABLE,
            "    entrances = list(_entrances(domains, family))\n",
            "    entrances = list(_entrances(domains, family)) if family is firewall.IPV4 else []\n",
        ),
        where=MIXES,
    ),
    Mutation(
        "outside-let-in-without-connection",
        "what conntrack does not know is dropped",
        "no_connection_does_not_come_in",
        one(TABLE, '"ct status dnat accept", "drop")', '"ct status dnat accept", "ct state new drop")'),
        where=PACKETS,
    ),
    Mutation(
        "outside-cut-off",
        "connections of before the rules go on",
        "began_before and world-a",
        one(TABLE, '("ct state established,related accept", ', '("ct direction reply accept", '),
        where=PACKETS,
    ),
    Mutation(
        "answers-to-the-forged-let-in",
        "nobody enters as the answer to what was asked in a container's name",
        "a_port_that_his_friend_has_published",
        one(TABLE, "ct state invalid,new,untracked drop", "ct state invalid,untracked drop"),
        where=PACKETS,
    ),
    Mutation(
        "astray-let-through",
        "two of another bridge begin no connection with a container",
        "two_of_another_bridge",
        one(TABLE, "[*_astray(domains, family), *drops,", "[*drops,"),
        where=PACKETS,
    ),
    Mutation(
        "outside-never-allowed",
        "flannelpy.outside=allow opens a network",
        "may_be_opened or is_then_open",
        one(FIREWALL, "outside=rules.outside and not rules.internal", "outside=False"),
        where=PACKETS,
    ),
    Mutation(
        "vxlan-from-the-engines-bridges",
        "what comes from a container to the VXLAN port is dropped: Docker's own bridges",
        "no_container and none",
        one(TUNNELS, "{*engine, *ENGINE_BRIDGES}", "{*engine}"),
        where=TUNNEL_PACKETS,
    ),
    Mutation(
        "vxlan-to-peers",
        "what comes from a container to the VXLAN port of peers is dropped",
        "reaches_the_ports_of_peers and no_container",
        one(TUNNELS, 'f"oifname {below} goto containers"', 'f"oifname {below} return"'),
        where=TUNNEL_PACKETS,
    ),
    Mutation(
        "vxlan-of-machines",
        "machines on the bridge that tunnels use are flannel nodes",
        "speak_for_themselves",
        one(TUNNELS, 'f"iifname {below} return", ', ""),
        where=TUNNEL_PACKETS,
    ),
    Mutation(
        "reserved-frames-taken-in",
        "spoofed source addresses are dropped: frames to reserved MACs",
        "reaches_no_socket or frame_of_any_kind",
        one("overlay/link_messages.py", 'struct.pack("=H", rtnl.RESERVED_FORWARDED)', 'struct.pack("=H", 0)'),
        where=HOST_PACKETS,
    ),
    Mutation(
        "reserved-frames-let-in-by-hand",
        "ports of before the upgrade take reserved frames in no more",
        "opens_by_hand",
        one("overlay/link_writer.py", "row.master != bridge or row.takes_reserved or", "row.master != bridge or"),
        where=HOST_PACKETS,
    ),
    Mutation(
        "bridge-hears-routers",
        "no container is a router of its host's: the bridge",
        "hears_no_router",
        one("driver/desired.py", "frozenset({bridge, accept_ra, ", "frozenset({bridge, "),
        where="tests/driver/test_desired.py",
    ),
    Mutation(
        "ports-told-to-hear-routers",
        "no container is a router of its host's: what forwarding of IPv6 tells links",
        "told_to_go_on_hearing",
        one("overlay/sysctls.py", '{"all", "default", *routerless}', '{"all", "default"}'),
        where="tests/overlay/test_kernel_netlink.py",
    ),
    Mutation(
        "entered-by-the-gateway-bridge",
        "a network without icc is not entered by docker_gwbridge",
        "not_entered_by_the_gateway_bridge",
        one(TABLE, "if closed := [bridge for domain in domains for bridge in domain.closed]:", "if closed := ():"),
        where=PACKETS,
    ),
    Mutation(
        "vxlan-out-of-a-tunnel",
        "what comes from a container to the VXLAN port is dropped: another host's containers",
        "comes_out_of_a_tunnel",
        one(TUNNELS, 'guard.PORT_PREFIX, "flannel", "br-")', 'guard.PORT_PREFIX, "br-")'),
        where=TUNNEL_PACKETS,
    ),
)

BACKGROUND = (
    Mutation(
        "no-grace-for-endpoints",
        "the background pass mends only what is older than a grace time: endpoints, networks",
        "older_than_the_grace",
        one(WATCH, "sight.Window(options.timing.grace_s)", "sight.Window(0.0)"),
        where=WATCHES,
    ),
    Mutation(
        "no-grace-for-addresses",
        "the background pass mends only what is older than a grace time: addresses",
        "what_is_young or pool_with_a_young_address or before_the_grace_is_over",
        one(
            IPAM,
            "settled=seen_at - grace_s)\n        before",
            "settled=seen_at)\n        before",
        ),
        where="tests/ipam/test_reconcile.py",
    ),
    Mutation(
        "crashed-network-not-left",
        "a flannel network that a crash left without pools is left",
        "crash_left_without_pools",
        one(IPAM, " | {subnet.prefix for subnet in self._holdings.held()}  # a crash may have left some\n", "\n"),
        where="tests/ipam/test_reconcile.py",
    ),
    Mutation(
        "flows-of-a-crash-stay-redirected",
        "published ports are all removed at start: what a crash left redirected over UDP",
        "restarted_plugin_forgets_the_clients",
        one(PUBLISHING, "self._host.forget_stale_flows(", "("),
        where=PUBLISHES,
    ),
    Mutation(
        "flows-of-published-ports-cut-at-start",
        "a restart of the plugin disturbs no client of a published port",
        "what_a_crash_left_redirected",
        one(
            "overlay/conntrack.py",
            " and not any(_redirects(port, flow) for port in by_number.get(flow.target_port, ()))",
        ),
        where="tests/overlay/test_firewall_ports.py",
    ),
    Mutation(
        "names-come-with-looks",
        "a full pool's error and the warning name Docker's network: one made just now, too",
        "has_its_name_long_before",
        one(WATCH, "self._learn_names()", "pass"),
        where=WATCHES,
    ),
    Mutation(
        "each-name-a-look",
        "two looks close together are no two opinions",
        "has_its_name_long_before",
        one(WATCH, "            self._ask(networks)", "            self.look()"),
        where=WATCHES,
    ),
)

LEASES = (
    Mutation(
        "copy-is-believed",
        "a cloned machine takes nothing of its original's",
        "gets_a_subnet_and_a_mac or of_its_own_is_in_conflict or with_the_same_address",
        one(
            CLONES,
            "    return None not in (saved.machine, here.machine) and saved.machine != here.machine\n",
            "    return False\n",
        ),
        where="tests/overlay/test_cloned_hosts.py",
    ),
    Mutation(
        "renewed-key-is-ours",
        "a cloned machine leaves a key alone that its original renews",
        "somebody_renews",
        one(CLONES, "        elif renewed or rewritten:\n", "        elif rewritten:\n"),
        where="tests/overlay/test_clones.py",
    ),
    Mutation(
        "key-made-anew-is-ours",
        "a cloned machine leaves a key alone that its original has made anew",
        "created_anew",
        one(CLONES, "if saved.lease_id is not None and saved.lease_id != found.lease_id:", "if False:"),
        where="tests/overlay/test_clones.py",
    ),
    Mutation(
        "pool-of-a-lease-that-is-gone",
        "no Docker network gets a subnet that this host has just lost",
        "becomes_another_one_before or never_this_host_s",
        one(IPAM, "        if not self._holdings.holds(held):\n            return None\n"),
        where="tests/ipam/test_service.py",
    ),
    Mutation(
        "pools-granted-meanwhile",
        "no Docker network gets a subnet while another one is taken up",
        "no_pool_is_granted_while",
        one(
            IPAM,
            "            if free:\n                act()\n            return free\n",
            "        if free:\n            act()\n        return free\n",
        ),
        where="tests/ipam/test_service.py",
    ),
    Mutation(
        "conflict-for-good",
        "an audit's repair beside docker network create leaves no conflict",
        "conflict_ends",
        one(NODE, "if not anew or not self._standing.is_settled():", "if not anew:"),
        where=NODES,
    ),
    Mutation(
        "saved-subnet-given-at-once",
        "a new network waits for etcd's word on a saved subnet",
        "waits_until_the_registry",
        one(STANDING, "asking = self._begun and not self._settled and not self._failed", "asking = False"),
        where=NODES,
    ),
    Mutation(
        "ipv6-subnets-by-chance",
        "two hosts never have one IPv6 subnet: those that join at once",
        "join_at_once",
        one("overlay/subnets.py", "            wishes.append(config.v6.at(v4.position(chosen_v4)))\n"),
        where=NODES,
    ),
    Mutation(
        "ipv6-rival-unseen",
        "two hosts never have one IPv6 subnet: beside a flanneld",
        "took_a_moment_before",
        one(MEMBER, "                _yield_to_rival(held, leases, ports.registry)\n", "                pass\n"),
        where=NODES,
    ),
    Mutation(
        "ipv6-overlap-untold",
        "an IPv6 subnet that another host has too is told",
        "another_host_has_too",
        one(
            STANDING,
            "self._skipped, self._overlaps = skipped, overlaps",
            "self._skipped, self._overlaps = skipped, ()",
        ),
        where=NODES,
    ),
    Mutation(
        "moved-back-by-a-claim",
        "devices follow the underlay, whatever claim was under way",
        "outlives",
        one(
            STANDING,
            "return outcome if now is None or now is basis else outcome.over_underlay_of(now)",
            "return outcome",
        ),
        where="tests/overlay/test_node_underlay.py",
    ),
    Mutation(
        "take-over-writes",
        "a host is taken over from flanneld without a write to etcd",
        "left_its_file_is_taken_over or file_names_the_one",
        one(
            "overlay/claim.py",
            "case subnets.Reuse() if choice.lease.attrs == attrs:",
            "case subnets.Reuse() if choice.lease.attrs == attrs and last is None:",
        ),
        where="tests/overlay/test_member.py",
    ),
    Mutation(
        "rival-told-for-long",
        "what is amiss no more is told no more",
        "told_no_more",
        one(NODE, "        self._keeper.look_again()\n"),
        where=NODES,
    ),
    Mutation(
        "hung-look-holds-readyz",
        "what is amiss is looked at without a wait for another look",
        "look_that_hangs",
        one("overlay/lookout.py", "acquire(blocking=False)", "acquire()"),
        where=NODES,
    ),
)

PEERS = (
    Mutation(
        "range-not-checked",
        "a lease outside the flannel network, or of a range that this host has, is skipped",
        "(outside_the_network or measured_by) and not None",
        one(VXLAN, "                        sieve.check_range(peer)\n"),
        where=VXLAN_TESTS,
    ),
    Mutation(
        "routes-replaced",
        "no lease replaces a route of the host's own",
        "connected_route and 172",
        one(
            "overlay/rtnl.py",
            "over = NLM_F_EXCL if isinstance(entry, netstate.Route) and not replace else NLM_F_REPLACE",
            "over = NLM_F_REPLACE",
        ),
        where="tests/overlay/test_kernel_netlink.py",
    ),
    Mutation(
        "junk-read-at-each-change",
        "ten thousand keys that are no lease cost nothing",
        "ten_thousand",
        one(
            "overlay/peers.py",
            'if text.endswith(name) and text.rpartition("/")[2] == name}',
            "if _key_of(text) == key}",
        ),
        where="tests/overlay/test_peers.py",
    ),
    Mutation(
        "junk-kept-without-end",
        "keys that are no lease cost no memory without end",
        "endless_nonsense",
        one(
            "overlay/peers.py",
            "if bad.key in self.unreadable or len(self.unreadable) < UNREADABLE_LIMIT:",
            "if True:",
        ),
        where="tests/overlay/test_peers.py",
    ),
    Mutation(
        "junk-of-a-snapshot-kept",
        "ten thousand keys that are no lease cost no memory",
        "ten_thousand",
        one("overlay/peers.py", "event.unreadable[:UNREADABLE_LIMIT]", "event.unreadable"),
        where="tests/overlay/test_peers.py",
    ),
    Mutation(
        "large-values-remembered",
        "large values in etcd leave nothing in memory",
        "large_values",
        one("overlay/parse_cache.py", " if len(text) <= LENGTH else parse(text)"),
        where="tests/overlay/test_lease.py",
    ),
    Mutation(
        "mixed-macs",
        "a VtepMAC is refused where flannel refuses it: mixed separators",
        "kernel_refuses and (d2-32 or 32-6f)",
        one("overlay/vxlan_data.py", r"\1){4}", "[:-]){4}"),
        where=VXLAN_TESTS,
    ),
    Mutation(
        "escaped-macs",
        "a VtepMAC is refused where flannel refuses it: escapes",
        "kernel_refuses and u0063",
        one("overlay/vxlan_data.py", "    if f'\"{mac}\"' not in text:\n", "    if False:\n"),
        where=VXLAN_TESTS,
    ),
)

LASTING = (
    Mutation(
        "thread-not-restarted",
        "no background thread ends because something failed in it",
        "begins_again",
        one(
            "overlay/supervisor.py",
            "            if stop.wait(pause_s):\n                break\n",
            "            break\n",
        ),
        where="tests/overlay/test_supervisor.py",
    ),
    Mutation(
        "state-file-is-a-bug",
        "a failing state file is told as what it is and no bug",
        "on_purpose",
        one("overlay/supervisor.py", 'if isinstance(getattr(exc, "status", None), int):', "if False:"),
        where="tests/overlay/test_supervisor.py",
    ),
    Mutation(
        "watch-never-asked",
        "a watch that is silent is told apart from one that is quiet",
        "a_quiet_watch",
        one("overlay/etcd_channel.py", "        if pulse.is_due():\n", "        if False:\n"),
        where="tests/overlay/test_registry_etcd.py",
    ),
    Mutation(
        "watch-that-is-dead-is-kept",
        "a watch that stopped answering is begun anew",
        "answers_no_longer",
        one("overlay/etcd_channel.py", "if stop.is_set() or pulse.is_lost():", "if stop.is_set():"),
        where="tests/overlay/test_registry_etcd.py",
    ),
    Mutation(
        "silent-watch-untold",
        "a watch that is silent is told though the lease is renewed",
        "watch_that_says_nothing",
        one(STANDING, "if age_s is None or self._within_s is None or age_s <= self._within_s:", "if True:"),
        where="tests/plugin/test_report.py",
    ),
    Mutation(
        "peers-never-saved-again",
        "what a full disk did not take is saved when there is room",
        "disk_is_full_and_are_saved",
        one(
            NODE,
            "        if self._unsaved and time.monotonic() >= self._save_at:\n            self.follow_anew()\n",
        ),
        where=NODES,
    ),
    Mutation(
        "full-disk-not-opened",
        "the plugin starts with a full disk or an unwritable state file",
        "that_cannot_be_written_is_read and False",
        one(STATE_FILE, "(_open_shared, _open_alone, _open_unwritable)", "(_open_shared,)"),
        where=STATE_FILES,
    ),
    Mutation(
        "migrated-without-a-copy",
        "a copy of the state file is kept before a migration",
        "older_version_goes_on or only_in_the_log or without_room",
        one(STATE_FILE, "            self._keep_copy(versions)\n", "            pass\n"),
        where=STATE_FILES,
    ),
    Mutation(
        "metrics-silent-for-ever",
        "METRICS_ADDRESS serves no connection for longer than 5 s",
        "silent_and_slow",
        one("plugin/metrics_server.py", "if ends_at < now:", "if False:"),
        where="tests/plugin/test_metrics_server.py",
    ),
    Mutation(
        "descriptors-called-taken",
        "too few descriptors are said as such",
        "said_as_what_it_is",
        one("driver/host_ports_socket.py", "if exc.errno in _SHORTAGES:", "if False:"),
        where="tests/driver/test_host_ports.py",
    ),
    Mutation(
        "worker-ends-without-descriptors",
        "too few descriptors do not end the worker",
        "out_of_descriptors_the_worker_lives",
        one(SERVER, "            if exc.errno not in SHORTAGES:\n                raise\n", "            raise\n"),
        where="tests/plugin/test_server.py",
    ),
    Mutation(
        "descriptors-left-as-they-are",
        "the limit of descriptors is raised at the start",
        "limit_of_descriptors",
        one(
            SERVER,
            "            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, ceiling))\n",
            "            pass\n",
        ),
        where="tests/plugin/test_server.py",
    ),
    Mutation(
        "large-ranges-refused",
        "all 65,535 ports may be published in one request",
        "every_port",
        one(HTTP, "BODY_LIMIT = 16 << 20", "BODY_LIMIT = 1 << 20"),
        where=RANGES,
    ),
    Mutation(
        "large-bodies-side-by-side",
        "large requests are answered one at a time",
        "one_at_a_time",
        one(
            HTTP,
            "    if not large.acquire(timeout=LARGE_WAIT_S):\n",
            "    large = threading.Lock()\n    if not large.acquire(timeout=LARGE_WAIT_S):\n",
        ),
        where=RANGES,
    ),
    Mutation(
        "a-look-for-each-port",
        "large UDP ranges start and stop in a second",
        "all_at_once",
        one(
            PUBLISHING,
            "            self._host.forget_flows(udp)\n",
            "            for port in udp:\n                self._host.forget_flows([port])\n",
        ),
        where=RANGES,
    ),
)

ONE_PLUGIN = (
    Mutation(
        "second-plugin-takes-the-host",
        "one flannelpy per host: the second touches nothing",
        "second_is_told",
        one(HOST_LOCK, "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),
        where=HOST_LOCKS,
    ),
    Mutation(
        "first-does-not-come-back",
        "one flannelpy per host: the first that crashes has it again",
        "first_that_crashes or after_a_boot",
        one(HOST_LOCK, "        if self._gives_way:\n            now", "        if False:\n            now"),
        where=HOST_LOCKS,
    ),
    Mutation(
        "older-plugin-unseen",
        "one flannelpy per host: an older one knows no lock",
        "file_was_deleted",
        one(HOST_LOCK, "        if is_live(self._classic):\n", "        if False:\n"),
        where=HOST_LOCKS,
    ),
    Mutation(
        "live-socket-unlinked",
        "a socket that answers is never replaced",
        "live_socket_is_never",
        one(SERVER, " and host_lock.is_live(path)", " and False"),
        where=HOST_LOCKS,
    ),
    Mutation(
        "uninstalled-under-containers",
        "uninstall is refused while a network or a pool is there",
        "with_a_network_it_is_refused or being_made_is_one",
        (
            Edit(UNINSTALL, "    if networks:\n", "    if False:\n"),
            Edit(UNINSTALL, "    if pools:\n", "    if False:\n"),
        ),
        where=UNINSTALLS,
    ),
    Mutation(
        "uninstalled-before-docker-spoke",
        "uninstall is refused before Docker has said what runs",
        "before_docker_has_said",
        one(UNINSTALL, "    if built.reconciler.gate_is_open:\n", "    if True:\n"),
        where=UNINSTALLS,
    ),
    Mutation(
        "uninstalled-but-for-the-lease",
        "uninstall gives the lease back",
        "nothing_of_ours_is_left",
        one(UNINSTALL, "    prefixes = built.nodes.leave_all()\n", "    prefixes: list[str] = []\n"),
        where=UNINSTALLS,
    ),
    Mutation(
        "uninstalled-without-a-pass",
        "uninstall leaves no link, route or rule",
        "as_it_was_before or packet_filter_refuses",
        one(UNINSTALL, "    built.reconciler.run_pass()\n"),
        where=UNINSTALLS,
    ),
    Mutation(
        "old-kernel-goes-on",
        "a kernel that is too old is named in every answer",
        "too_old",
        one("plugin/app.py", "        if self._obstacle is not None:\n", "        if self._obstacle is None:\n"),
        where="tests/plugin/test_app.py",
    ),
    Mutation(
        "old-kernel-will-do",
        "a kernel that is too old is named",
        "without_strict_dumps",
        one("overlay/kernel_version.py", "    if has_strict_dumps:\n", "    if release:\n"),
        where="tests/overlay/test_kernel_version.py",
    ),
)

ENGINES_WORD = (
    Mutation(
        "untold-gateway-guessed-wrong",
        "a network of --subnet without --gateway is adopted with the gateway that it has",
        "pools_first_address",
        one("driver/audit.py", "pool.cidr[1])", "pool.cidr[2])"),
        where="tests/driver/test_audit.py",
    ),
    Mutation(
        "untold-gateway-given-away",
        "the gateway's address of an adopted network is not handed out",
        "is_the_first_address_of",
        one(
            "ipam/reconcile.py",
            "        kinds.setdefault(entry.addresses.first, pool.Kind.GATEWAY)\n",
            "        pass\n",
        ),
        where="tests/ipam/test_reconcile.py",
    ),
    Mutation(
        "gone-before-all-is-known",
        "nothing goes before all that Docker lists is known",
        "cannot_be_adopted_is_kept or before_all_that_docker_knows",
        one(WATCH, "if not (left.missing_networks or left.missing_endpoints or unread):", "if not unread:"),
        where=WATCHES,
    ),
    Mutation(
        "gone-before-docker-was-asked",
        "an old copy of the state file takes nothing away",
        "before_docker_was_asked",
        one(GRAPH, "        background = (\n", "        self.reconciler.open_gate()\n        background = (\n"),
        where="tests/plugin/test_graph.py",
    ),
    Mutation(
        "old-state-blinds-the-look",
        "upgraded from 1.0 the look at Docker works",
        "taken_over_whole and 1.0",
        one(
            "driver/audit.py",
            "    if pool.gateway is not None:\n        return pool.gateway\n",
            "    return pool.gateway\n",
        ),
        where="tests/plugin/test_upgrades.py",
    ),
    Mutation(
        "one-network-blinds-the-look",
        "one network that cannot be read does not keep the others from it",
        "keep_the_others_from_it",
        one(DOCKER, "except (ValueError, *_UNREADABLE) as exc:", "except OSError as exc:"),
        where=DOCKERS,
    ),
    Mutation(
        "unreadable-network-goes",
        "a network that cannot be read keeps what it has",
        "one_that_cannot_be_read_is_kept",
        one(WATCH, "unread = any(net.trouble and net.id not in known for net in docker.networks)", "unread = False"),
        where=WATCHES,
    ),
    Mutation(
        "unreadable-network-untold",
        "a network that cannot be read is named",
        "that_cannot_be_read_is_named",
        one(WATCH, '{f"{what} is left as it is": why for what, why in unreadable.items()}', "{}"),
        where=WATCHES,
    ),
    Mutation(
        "any-engines-word",
        "networks go on the word of the engine alone that has this plugin",
        "takes_nothing_away or told_in_status",
        one(
            "driver/confirmation.py",
            "    if identity.has_plugin is not None:\n        return identity.has_plugin\n",
            "    return True\n",
        ),
        where=WATCHES,
    ),
    Mutation(
        "swarms-networks-confirm",
        "a network of a swarm is no word of the engine that has this plugin",
        "network_of_swarm",
        one(
            "driver/confirmation.py",
            "any(len(network_id) == LOCAL_ID_LENGTH for network_id in listed)",
            "any(listed)",
        ),
        where="tests/driver/test_confirmation.py",
    ),
    Mutation(
        "no-network-is-an-answer",
        "a list without any network is no answer",
        "list_without_any",
        one(DOCKER, "        if not summaries:\n", "        if False:\n"),
        where=DOCKERS,
    ),
    Mutation(
        "filtered-list-is-an-answer",
        "a network that a list leaves out is asked for",
        "list_leaves_out",
        one(DOCKER, "            found += self._unlisted(api, set(known) - {net.id for net in found})\n"),
        where=DOCKERS,
    ),
    Mutation(
        "own-alias-unknown",
        "with any --alias the plugin's networks are its own after a lost state file",
        "by_its_own_alias",
        one(DOCKER, "return own | said", "return said"),
        where=DOCKERS,
    ),
    Mutation(
        "another-plugins-networks-taken",
        "networks of another enabled plugin with a name like ours are left alone",
        "of_a_like_name",
        one(DOCKER, "(usual - set(plugins.values()))", "usual"),
        where=DOCKERS,
    ),
    Mutation(
        "any-default-network-will-do",
        "DEFAULT_NETWORK says where a network of that name has another driver",
        "another_driver_is_not",
        one(DOCKER, "        if not is_there:\n", "        if False:\n"),
        where=DOCKERS,
    ),
    Mutation(
        "repaired-while-being-made",
        "audit --repair leaves alone what was made or deleted a moment ago",
        "being_made_is_told or being_deleted or new_process_read",
        one("plugin/audit.py", "        findings = driver_audit.settled(findings, sources.driver.recent())\n"),
        where="tests/plugin/test_audit.py",
    ),
)

CONNECTED = (
    Mutation(
        "unknown-is-no-method",
        "what is unknown is an error to Docker, never 404",
        "never_a_method",
        (
            Edit(
                "driver/errors.py",
                '"""No network of this id is known here."""\n\n    status = 410',
                '"""No network of this id is known here."""\n\n    status = 404',
            ),
            Edit(
                "driver/errors.py",
                '"""No endpoint of this id is known here."""\n\n    status = 410',
                '"""No endpoint of this id is known here."""\n\n    status = 404',
            ),
            Edit("ipam/errors.py", "    status = 410\n", "    status = 404\n"),
        ),
        where="tests/plugin/test_http.py",
    ),
    Mutation(
        "same-routes-twice",
        "a container on many slices of a lease starts",
        "slices_than_there_are_levels",
        one("driver/service.py", "        if self._has_routes(net, others):\n", "        if False:\n"),
        where="tests/driver/test_service.py",
    ),
    Mutation(
        "published-over-ipv6-all-the-same",
        "where another network is the IPv6 gateway IPv4 alone is published",
        "ipv4_alone",
        one(ENDPOINTS, "fields.flag(options, OPTION_IPV4_ALONE, default=False)", "False"),
        where=PUBLISHES,
    ),
    Mutation(
        "advertising-refused",
        "advertise_addr_nmsgs and _ms are taken",
        "engine_does_for_every_driver",
        one("driver/network.py", "(OPTION_IPV4, OPTION_IPV6, *ADVERTISING_OPTIONS)", "(OPTION_IPV4, OPTION_IPV6)"),
        where="tests/driver/test_network.py",
    ),
    Mutation(
        "advertising-unheeded",
        "advertise_addr_nmsgs and _ms are refused where the engine does not heed them",
        "advertises_may_be_told",
        one(ENDPOINTS, "        network.require_heeded(generic)\n", "        pass\n"),
        where="tests/driver/test_endpoints.py",
    ),
    Mutation(
        "connections-options-ignored",
        "what is asked of one connection and cannot be is refused",
        "asked_of_one_connection",
        one(ENDPOINTS, '    endpoint.refuse_options(fields.mapping(body, "Options"))\n'),
        where="tests/driver/test_endpoints.py",
    ),
    Mutation(
        "port-given-back-while-redirected",
        "a port is given back only when the packet filter redirects it no more",
        "still_redirects or could_not_be_undone",
        one(
            PUBLISHING,
            "        with self._lock:\n            self._leaving.update(published)\n",
            "        self.release(published)\n",
        ),
        where=PUBLISHES,
    ),
    Mutation(
        "port-given-back-while-published",
        "an audit gives no port back that is just being published",
        "being_published_is_not",
        one(PUBLISHING, "        if choosing:\n            return\n"),
        where=PUBLISHES,
    ),
    Mutation(
        "ports-of-a-lost-file-stay-lost",
        "after a lost state file native ports are published again",
        "ports_of_a_lost_state_file and there",
        one(PUBLISHING, "ports.of_endpoint(self._former, end)", "()"),
        where=WATCHES,
    ),
)

DOCUMENTS = (
    Mutation(
        "ipv6-chains-left",
        "the move from flanneld leaves nothing of it: its ip6tables chains",
        "document_s_cleaning and dual",
        one(OPERATIONS, "for ipt in iptables ip6tables;", "for ipt in iptables;"),
        where="tests/overlay/test_adoption.py",
    ),
    Mutation(
        "ipv6-cure-untold",
        "a network refused because of docker0's IPv6 address names the cure",
        "second_family",
        one("overlay/preflight.py", "    if address.version == 6:\n", "    if False:\n"),
        where="tests/overlay/test_preflight.py",
    ),
    Mutation(
        "documented-rules-let-all-in",
        "rules of an operator's own do what the documents say",
        "documents_say",
        one(
            OPERATIONS,
            "proto-dst 8080 ip saddr != 198.51.100.0/24 drop",
            "proto-dst 8080 ip saddr 198.51.100.0/24 drop",
        ),
        where="tests/overlay/test_firewall_ports.py",
    ),
    Mutation(
        "unit-without-low-ports",
        "the systemd unit lets the plugin reserve ports below 1024",
        "capabilities_that_it_uses",
        one("docs/flannelpy.service", " CAP_NET_BIND_SERVICE"),
        where="tests/plugin/test_config_json.py",
    ),
    Mutation(
        "elections-make-clones",
        "a host that comes up with another address keeps its subnet, whatever etcd does meanwhile",
        "election_renews_all",
        one(
            "overlay/clones.py",
            "if renewed and not rewritten and now.term != first.term and self._theirs != now.names:",
            "if False:",
        ),
        where="tests/overlay/test_clones.py",
    ),
    Mutation(
        "watch-asked-in-silence-alone",
        "a watch that lives is never told as silent",
        "much_to_tell",
        one(
            "overlay/etcd_channel.py",
            "if now - self._asked_at < self._progress_s:",
            "if now - max(self._asked_at, self._heard_at) < self._progress_s:",
        ),
        where="tests/overlay/test_etcd_channel.py",
    ),
    Mutation(
        "crowded-disk-cuts-the-watch",
        "what a full disk has no room for is tried less and less often",
        "less_and_less",
        one("overlay/node.py", " and time.monotonic() >= self._save_at"),
        where="tests/overlay/test_node.py",
    ),
)

ONE_PER_HOST = (
    Mutation(
        "orphan-is-another-plugin",
        "one flannelpy per host: nobody gives way to the worker of a killed master",
        "worker_has_it",
        one(
            HOST_LOCK,
            "return ENDING if _has_ended(holder) else explain(holder)",
            "return explain(holder)",
        ),
        where=HOST_LOCKS,
    ),
    Mutation(
        "old-notice",
        "a second plugin says who has the host now, on a socket that stays",
        "first_comes_back and managed",
        one(
            "plugin/standby.py",
            "                notice.write(occupant)\n",
            "                notice.write(shown or occupant)\n",
        ),
        where="tests/plugin/test_second_plugin.py",
    ),
    Mutation(
        "uninstall-over-another-engines-containers",
        "uninstall: refused while a container's link is there that Docker has not told of",
        "needs_to_confirm_nothing",
        one(UNINSTALL, " and not built.reconciler.has_container_links()", ""),
        where=UNINSTALLS,
    ),
    Mutation(
        "lease-forgotten-at-the-second-try",
        "uninstall: asking again tries again",
        "without_etcd",
        one("overlay/nodes.py", "for one in (*self._left, *nodes)", "for one in nodes"),
        where=UNINSTALLS,
    ),
)

MUTATIONS = (
    *ADDRESSES,
    *WIRED,
    *HOSTILE_INPUT,
    *NO_LEAKS,
    *KILLED,
    *UNLOCKED,
    *TRANSACTIONS,
    *APART,
    *BACKGROUND,
    *LEASES,
    *PEERS,
    *LASTING,
    *ONE_PLUGIN,
    *ENGINES_WORD,
    *CONNECTED,
    *DOCUMENTS,
    *ONE_PER_HOST,
)
