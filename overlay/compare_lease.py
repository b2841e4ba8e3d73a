"""What etcd, the state file and this process say of a lease, the network config and the peers, compared.

Pure. Caller: `plugin.audit`, which hands in what it has just read. etcd's word counts for peers and the config; for
the lease this host's own, unless another host has it: a foreign key is only reported (flannel.md §9.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from overlay import difference, lease, nodestore, peers, registry

Kind = difference.Kind
Difference = difference.Difference


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """One flannel network. `attrs` is what this process would publish, None before the first lease.

    `snapshot`, `config` None: etcd was not reached. `ttl_s`: what etcd says is left of our lease, None where there
    is none to ask for.
    """

    prefix: str
    saved: nodestore.SavedNode | None
    saved_peers: peers.Leases
    key: lease.SubnetKey | None
    attrs: lease.LeaseAttrs | None
    held: lease.Lease | None
    peers: peers.Leases
    config: str | None
    snapshot: registry.Snapshot | None
    ttl_s: int | None = None


def compare(sides: Sides) -> Iterator[Difference]:
    """All that differs in one flannel network."""
    yield from _own_row(sides)
    if sides.snapshot is not None:
        yield from _own_key(sides, sides.snapshot)
        yield from _peers(sides, sides.snapshot)
    if sides.saved is not None and sides.config is not None and sides.saved.config != sides.config:
        yield Difference(
            kind=Kind.CONFIG_CHANGED,
            thing=f"{sides.prefix}/config",
            says=difference.Says(etcd=sides.config, state=sides.saved.config),
            repair="restart the plugin, which reads it anew: docker plugin disable -f, docker plugin enable",
        )


def _own_row(sides: Sides) -> Iterator[Difference]:
    saved = sides.saved
    if (saved.key if saved else None) != sides.key:
        yield Difference(
            kind=Kind.ROW_CHANGED,
            thing=f"lease of {sides.prefix}",
            says=difference.Says(
                state=str(saved.key) if saved else difference.ABSENT,
                memory=str(sides.key) if sides.key else difference.ABSENT,
            ),
        )


def _own_key(sides: Sides, snapshot: registry.Snapshot) -> Iterator[Difference]:
    if sides.key is None or sides.attrs is None:
        return
    name, told = f"{sides.prefix}/subnets/{lease.format_subnet_key(sides.key)}", snapshot.leases.get(sides.key)
    state = _text(sides.saved.attrs) if sides.saved else difference.ABSENT
    ours = lease.format_attrs(sides.attrs)
    if told is None:
        says = difference.Says(etcd=difference.ABSENT, state=state)
        yield Difference(kind=Kind.LEASE_MISSING, thing=name, says=says, repair="create it, if nobody else did")
    elif not sides.attrs.is_same_host(told.attrs):
        says = difference.Says(etcd=_text(told.attrs), state=state)
        yield Difference(kind=Kind.LEASE_FOREIGN, thing=name, says=says)
    elif lease.format_attrs(told.attrs) != ours:
        says = difference.Says(etcd=_text(told.attrs), memory=ours)
        yield Difference(kind=Kind.LEASE_CHANGED, thing=name, says=says, repair="write what this host publishes")
    elif sides.held is None or told.lease_id != sides.held.lease_id:
        held = f"etcd lease {sides.held.lease_id:x}" if sides.held else "not confirmed"
        says = difference.Says(etcd=f"etcd lease {told.lease_id:x}", memory=held)
        yield Difference(kind=Kind.LEASE_CHANGED, thing=name, says=says, repair="look at the key again")
    elif told.lease_id and sides.ttl_s == 0:
        says = difference.Says(etcd=f"etcd lease {told.lease_id:x} has ended", memory=f"etcd lease {told.lease_id:x}")
        yield Difference(kind=Kind.LEASE_CHANGED, thing=name, says=says, repair="look at the key again")
    yield from _doubled(sides, sides.key, sides.attrs, snapshot)


def _doubled(
    sides: Sides, key: lease.SubnetKey, attrs: lease.LeaseAttrs, snapshot: registry.Snapshot
) -> Iterator[Difference]:
    """Other keys over our subnet, and other subnets under our address: somebody has two, or two have one."""
    for other, told in sorted(snapshot.leases.items(), key=lambda item: str(item[0])):
        if other != key and (other.overlaps(key) or attrs.is_same_host(told.attrs)):
            yield Difference(
                kind=Kind.LEASE_DOUBLED,
                thing=f"{sides.prefix}/subnets/{lease.format_subnet_key(other)}",
                says=difference.Says(etcd=_text(told.attrs), state=f"this host ({attrs.host}) has {key}"),
            )


def _peers(sides: Sides, snapshot: registry.Snapshot) -> Iterator[Difference]:
    theirs = {key: one.attrs for key, one in snapshot.leases.items() if key != sides.key}
    state = {key: one.attrs for key, one in sides.saved_peers.items()}
    memory = {key: one.attrs for key, one in sides.peers.items()}
    for key in sorted(theirs.keys() | state.keys() | memory.keys(), key=str):
        told, row, known = theirs.get(key), state.get(key), memory.get(key)
        if told == row == known:
            continue
        kind = Kind.PEER_CHANGED if row is not None and known is not None else Kind.PEER_MISSING
        yield Difference(
            kind=Kind.PEER_STALE if told is None else kind,
            thing=f"{sides.prefix}/subnets/{lease.format_subnet_key(key)}",
            says=difference.Says(etcd=_text(told), state=_text(row), memory=_text(known)),
            repair="read all leases again",
        )


def _text(attrs: lease.LeaseAttrs | None) -> str:
    return difference.ABSENT if attrs is None else lease.format_attrs(attrs)
