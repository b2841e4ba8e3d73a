"""Whether all hosts agree with etcd, with each other and with the kernel: what must hold when the faults are over.

`complaints` is pure and compares; `look` asks. Called by `chaos`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence

from lab import chaos_etcd, chaos_hosts, chaos_kernel, command, host, lab, site


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostSeen:
    """One host. ready: "" or what /readyz lacks; subnet: what the plugin says it holds; docker: what Docker says.

    outside: as whom the world outside sees the host's container, which must be the host.
    """

    name: str
    ip: str
    ready: str
    subnet: str
    docker: str
    forwarding: str
    outside: str
    kernel: chaos_kernel.Seen


def look(built: lab.Lab, etcd: chaos_etcd.EtcdFaults) -> tuple[list[HostSeen], list[chaos_etcd.HeldKey]]:
    """Ask all hosts, and etcd. Raises LabError where something does not even answer."""
    return command.each(lambda on: _look_at(on, built.outside_url), built.hosts.values()), etcd.keys()


def complaints(
    hosts: Sequence[HostSeen], keys: Sequence[chaos_etcd.HeldKey], before: Mapping[str, str]
) -> Iterator[str]:
    """A line for everything that is not as it must be. before: the subnets of hosts that never gave theirs up."""
    yield from _of_keys(hosts, keys)
    for seen in hosts:
        if seen.ready:
            yield f"{seen.name}: not ready: {seen.ready}"
        if seen.outside != seen.ip:
            yield f"{seen.name}: outside its container is {seen.outside or 'nobody'}, must be {seen.ip}"
        own = [key for key in keys if key.public_ip == seen.ip]
        if len(own) != 1:
            yield f"{seen.name}: {len(own)} keys in etcd have its address {seen.ip}"
            continue
        if not own[0].lease_id:
            yield f"{seen.name}: its key {own[0].name} has no etcd lease"
        subnet = own[0].name.replace("-", "/")
        for who, told in (("the plugin", seen.subnet), ("Docker", seen.docker), ("the begin", before.get(seen.name))):
            if told is not None and told != subnet:
                yield f"{seen.name}: {who} says {told}, etcd {subnet}"
        yield from _of_kernel(seen, own[0], [key for key in keys if key.public_ip not in ("", seen.ip)])


def _of_keys(hosts: Sequence[HostSeen], keys: Sequence[chaos_etcd.HeldKey]) -> Iterator[str]:
    known = {seen.ip for seen in hosts}
    for key in keys:
        if key.public_ip not in known:
            yield f"etcd: {key.name} belongs to no host ({key.public_ip or 'no lease'})"
    leases = [key.lease_id for key in keys if key.lease_id]
    if len(set(leases)) < len(leases):
        yield f"etcd: keys share a lease: {', '.join(f'{key.name} {key.lease_id:x}' for key in keys)}"


def _of_kernel(seen: HostSeen, own: chaos_etcd.HeldKey, peers: Sequence[chaos_etcd.HeldKey]) -> Iterator[str]:
    if seen.forwarding != "1":
        yield f"{seen.name}: ip_forward is {seen.forwarding}"
    vxlan = seen.kernel.vxlan
    if vxlan is None:
        yield f"{seen.name}: no {chaos_kernel.VXLAN}"
        return
    address = f"{_gateway(own)}/32"
    addresses = [
        f"{entry['local']}/{entry['prefixlen']}" for entry in vxlan["addr_info"] if entry["family"] == "inet"
    ]
    state = {"mac": vxlan["address"], "mtu": vxlan["mtu"], "addresses": addresses, "up": "UP" in vxlan["flags"]}
    wanted = {"mac": own.mac, "mtu": chaos_kernel.MTU, "addresses": [address], "up": True}
    if state != wanted:
        yield f"{seen.name}: {chaos_kernel.VXLAN} is {state}, must be {wanted}"
    yield from _difference(
        f"{seen.name}: routes",
        {f"{route['dst']} via {route.get('gateway')}" for route in seen.kernel.routes},
        {f"{peer.name.replace('-', '/')} via {_gateway(peer)}" for peer in peers},
    )
    yield from _difference(
        f"{seen.name}: neighbours",
        {f"{entry['dst']} {entry.get('lladdr')}" for entry in seen.kernel.neighbours},
        {f"{_gateway(peer)} {peer.mac}" for peer in peers},
    )
    yield from _difference(
        f"{seen.name}: forwarding entries",
        {f"{entry['mac']} {entry['dst']}" for entry in seen.kernel.fdb},
        {f"{peer.mac} {peer.public_ip}" for peer in peers},
    )


def _difference(what: str, there: set[str], wanted: set[str]) -> Iterator[str]:
    if missing := wanted - there:
        yield f"{what} missing: {', '.join(sorted(missing))}"
    if extra := there - wanted:
        yield f"{what} too many: {', '.join(sorted(extra))}"


def _gateway(key: chaos_etcd.HeldKey) -> str:
    return str(ipaddress.ip_network(key.name.replace("-", "/"), strict=False).network_address)


def _look_at(on: host.Host, url: str) -> HostSeen:
    try:
        code, text = site.ask(on, "/readyz")
        subnet = str(json.loads(site.ask(on, "/status")[1])["flannel_networks"][0]["subnet"])
    except (OSError, ValueError, LookupError) as exc:  # it is not there, or starting
        code, text, subnet = 0, f"the plugin does not tell its status: {exc!r}", ""
    return HostSeen(
        name=on.name,
        ip=on.ip,
        ready="" if code == 200 else text.strip() or f"code {code}",
        subnet=subnet,
        docker=site.subnet_of(on, chaos_hosts.NETWORK),
        forwarding=on.exec(["cat", "/proc/sys/net/ipv4/ip_forward"]),
        outside=on.try_docker("exec", chaos_hosts.CONTAINER, "timeout", "2", "wget", "-qO-", url).out.strip(),
        kernel=chaos_kernel.observe(on),
    )
