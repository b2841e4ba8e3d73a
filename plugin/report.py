"""What the running plugin says of itself: /status, /readyz and what /metrics reads, out of one look at the graph.

Reads only. No secret is in any setting shown: none is shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from driver import ports
from overlay import netstate, node, offload, standing

if TYPE_CHECKING:
    from plugin import graph, metrics


def missing(built: graph.Graph) -> Iterator[str]:
    """A line for each thing without which containers are not fully connected."""
    for one in built.nodes.all():
        yield from _missing_of(one.status())
    yield from built.supervisor.troubles()
    if built.state.trouble:
        yield built.state.trouble
    yield from _stray_pools(built)
    if built.reconciler.last_errors:
        yield f"kernel: {built.reconciler.last_errors[0]}"
    elif built.reconciler.last_pass is None:
        yield "kernel: the first pass has not ended"


def _missing_of(seen: standing.Status) -> Iterator[str]:
    if seen.conflict:
        yield f"{seen.prefix}: {seen.conflict}"
    elif seen.subnet is None:
        yield f"{seen.prefix}: no lease yet: {seen.trouble or 'starting'}"
    elif not seen.confirmed:
        yield f"{seen.prefix}: lease {seen.subnet} not confirmed yet: {seen.trouble or 'starting'}"
    elif not seen.followed:
        yield f"{seen.prefix}: peers not read from the registry yet: {seen.outage or 'starting'}"
    if not seen.conflict:
        yield from (f"{seen.prefix}: {line}" for line in seen.overlaps)
    if seen.silence and not seen.outage:
        yield f"{seen.prefix}: watch of the peers: {seen.silence}"
    if seen.underlay_trouble:
        yield f"{seen.prefix}: underlay: {seen.underlay_trouble}"
    for one in (seen.findings.rival, seen.findings.twin):
        if one:
            yield f"{seen.prefix}: {one}"


def _stray_pools(built: graph.Graph) -> Iterator[str]:
    """Pools that Docker has and the lease has not: the state file was lost, and the subnet went to another host."""
    leased = {one.prefix: one.subnets for one in built.nodes.held()}
    for usage in built.ipam.usage():
        subnets = leased.get(usage.prefix, (usage.cidr,))
        if not any(netstate.is_part(usage.cidr, subnet) for subnet in subnets):
            ours = " and ".join(map(str, subnets))
            yield (
                f"{usage.prefix}: pool {usage.cidr} is no part of {ours}, which this host has, and no other host "
                "routes to it; remove its Docker network and create it anew"
            )


def status(built: graph.Graph) -> dict[str, Any]:
    """The graph as JSON."""
    last = built.reconciler.last_pass
    return {
        "flannel_networks": [dataclasses.asdict(one.status()) for one in built.nodes.all()],
        "networks": [
            {
                "id": net.id,
                "bridge": net.bridge,
                "pool": str(net.pool),
                "gateway": str(net.gateway.ip),
                "pool_v6": str(net.v6.pool) if net.v6 is not None else None,
                "gateway_v6": str(net.v6.gateway.ip) if net.v6 is not None else None,
                "prefix": net.prefix,
                "mtu": net.mtu,
                "internal": net.internal,
            }
            for net in built.driver.networks()
        ],
        "endpoints": [
            {
                "id": end.id,
                "network_id": end.network_id,
                "address": str(end.address.ip),
                "address_v6": str(end.address_v6.ip) if end.address_v6 is not None else None,
                "joined": end.joined,
                "published": [ports.format_published(port) for port in end.published],
            }
            for end in built.driver.endpoints()
        ],
        "addresses": [
            {
                "pool": str(usage.cidr),
                "prefix": usage.prefix,
                "used": usage.used,
                "total": usage.total,
                "short": usage.short,
            }
            for usage in built.ipam.usage()
        ],
        "etcd_requests": built.etcd_requests(),
        "repairs": dict(built.reconciler.repairs),
        "kernel": {
            "failures": list(built.reconciler.last_errors),
            "limits": list(built.reconciler.limits()),
            "last_pass": dataclasses.asdict(last) if last is not None else None,
        },
        "offload": {
            "setting": built.settings.tx_checksum,
            "on": {one.prefix: offload.is_on(one.programmed()) for one in built.nodes.all()},
            "examined": [dataclasses.asdict(one) for one in built.offload.status()],
        },
        "engine": built.watch.status(),
        "threads": {"failing": list(built.supervisor.troubles()), "failures": dict(built.supervisor.failures())},
    }


def peers(built: graph.Graph) -> list[dict[str, Any]]:
    """All peers of all flannel networks as JSON."""
    return [
        {"prefix": one.prefix, **dataclasses.asdict(view)} for one in built.nodes.all() for view in one.list_peers()
    ]


def examine(built: graph.Graph, subnets: frozenset[str]) -> dict[str, str]:
    """What keeps this host and these peers apart, a sentence by subnet; one for what is no peer's, too."""
    said: dict[str, str] = {}
    for one in built.nodes.all():
        try:
            said |= one.examine(subnets)
        except PermissionError:
            return dict.fromkeys(sorted(subnets), "this process may not send pings: CAP_NET_RAW is missing")
    known = {part for key in said for part in (key, *key.split(" and "))}
    return said | {subnet: "no peer has this subnet" for subnet in sorted(subnets) if subnet not in known}


def _samples_of(one: node.Node) -> Iterator[metrics.Sample]:
    """What one flannel network has."""
    seen = one.status()
    of = {"prefix": seen.prefix}
    held = seen.confirmed and not seen.conflict
    yield "flannelpy_lease_held", "1 while the registry agrees to this host's lease.", of, float(held)
    yield "flannelpy_peers", "Peers known.", of, float(seen.peers)
    yield "flannelpy_peers_skipped", "Peers that cannot be used.", of, float(len(seen.skipped))
    yield "flannelpy_registry_up", "0 while the registry does not answer.", of, float(seen.outage is None)
    on = offload.is_on(one.programmed())
    yield "flannelpy_tx_checksum", "1 while checksums are left to the hardware below.", of, float(on)
    if seen.heard_s is not None:
        yield "flannelpy_registry_heard_seconds", "Since the registry's last word.", of, seen.heard_s
    if seen.watch_heard_s is not None:
        yield "flannelpy_watch_heard_seconds", "Since the last word of the watch.", of, seen.watch_heard_s
    if seen.renewed_s is not None:
        yield "flannelpy_lease_renewed_seconds", "Since the last keepalive's answer.", of, seen.renewed_s
    yield "flannelpy_registry_revision", "Revision of the last news.", of, float(seen.revision)
    for event, count in seen.events.items():
        labels = {**of, "event": event}
        yield "flannelpy_events_total", "What happened to leases and registries.", labels, float(count)


def samples(built: graph.Graph) -> Iterator[metrics.Sample]:
    """The gauges of the moment, and the counters so far (…_total)."""
    for one in built.nodes.all():
        yield from _samples_of(one)
    for kind, count in built.etcd_requests().items():
        yield "flannelpy_etcd_requests_total", "Requests sent to etcd.", {"kind": kind}, float(count)
    for looked in built.offload.status():
        of = {"prefix": looked.prefix}
        broken = looked.verdict == offload.Verdict.BROKEN.value
        yield "flannelpy_offload_broken", "1 where checksum offload was found broken.", of, float(broken)
        yield "flannelpy_offload_questions", "Questions to peers about checksum offload.", of, float(looked.questions)
    for usage in built.ipam.usage():
        of = {"pool": str(usage.cidr), "prefix": usage.prefix}
        yield "flannelpy_addresses_used", "Addresses handed out.", of, float(usage.used)
        yield "flannelpy_addresses", "Addresses of the pool.", of, float(usage.total)
        yield "flannelpy_addresses_short", "1 while few addresses of the pool are left.", of, float(usage.short)
    yield "flannelpy_networks", "Docker networks.", {}, float(len(built.driver.networks()))
    yield "flannelpy_endpoints", "Endpoints of containers.", {}, float(len(built.driver.endpoints()))
    for kind, count in sorted(built.reconciler.repairs.items()):
        yield "flannelpy_repairs", "Kernel objects put right since the start.", {"kind": kind}, float(count)
    for kind, count in sorted(built.watch.differences.items()):
        yield "flannelpy_differences", "What the last looks found to differ.", {"kind": kind}, float(count)
    for thread, count in sorted(built.supervisor.failures().items()):
        help_text = "How often a background thread failed and began again."
        yield "flannelpy_thread_failures_total", help_text, {"thread": thread}, float(count)
    failures = len(built.reconciler.last_errors)
    yield "flannelpy_kernel_failures", "Changes the kernel refuses at the moment.", {}, float(failures)
