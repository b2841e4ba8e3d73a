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
        where="tests/plugin/test_engine_watch.py",
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
            "driver/publishing.py",
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
        one("driver/publishing.py", "            undo.callback(self.release, set(found) - candidates)\n"),
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
)

BACKGROUND = (
    Mutation(
        "no-grace-for-endpoints",
        "the background pass mends only what is older than a grace time: endpoints, networks",
        "older_than_the_grace",
        one(WATCH, "sight.Window(options.timing.grace_s)", "sight.Window(0.0)"),
        where="tests/plugin/test_engine_watch.py",
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
        one("driver/publishing.py", "self._host.forget_stale_flows(", "("),
        where="tests/driver/test_publishing.py",
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
        where="tests/plugin/test_engine_watch.py",
    ),
    Mutation(
        "each-name-a-look",
        "two looks close together are no two opinions",
        "has_its_name_long_before",
        one(WATCH, "            self._ask(networks)", "            self.look()"),
        where="tests/plugin/test_engine_watch.py",
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
)
