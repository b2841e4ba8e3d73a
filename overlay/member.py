"""Joining a flannel network: from its config and this host's underlay to a lease that is ours.

Called by `node` from its own thread; keeps nothing. The order is flannel's: config, interface, VTEP, lease.
Source: flannel main.go, pkg/subnet/etcd/local_manager.go (AcquireLease).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Sequence

from overlay import backend as backends
from overlay import (
    claim,
    clones,
    errors,
    flanneld,
    kernel,
    lease,
    netconfig,
    netstate,
    nodestore,
    preflight,
    registry,
    subnets,
    supervisor,
    underlay,
)

log = logging.getLogger(__name__)

CLAIM_TRIES = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the operator chose for this host. `initial_config` is put into the registry when it has none."""

    iface: str = ""
    public_ip: ipaddress.IPv4Address | None = None
    public_ipv6: ipaddress.IPv6Address | None = None
    initial_config: str = ""
    tx_checksum: bool | None = True
    """Whether the tunnel devices leave checksums to the hardware; None: as they are found, on where there is none."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What a node calls. `publish` hands over the node's slice of the desired state under an owner's name."""

    registry: registry.Registry
    store: nodestore.NodeStore
    kernel: kernel.Kernel
    publish: Callable[[str, netstate.NetState], None]
    in_use: Callable[[], bool]
    """Whether addresses were given out of this node's subnet."""
    unless_in_use: Callable[[Callable[[], None]], bool]
    """Call this if they were not, and keep them from being given out meanwhile; tells whether it was called."""
    claim_room: Callable[[str, Sequence[netstate.IPNetwork], str], None]
    """Raises ConfigInvalid where (prefix, networks, device) cannot stand beside the host's other flannel networks."""
    pick: Callable[[int], int]
    """A number from 0 to n - 1 by chance."""
    make_mac: Callable[[], netstate.Mac]
    changed: Callable[[], None] = lambda: None
    """Called when what the rooms above see of the lease has changed: its MTU, its devices, or all of it."""
    flannelds: Callable[[], Sequence[flanneld.Flanneld]] = lambda: ()
    """The flannelds that run on this host."""
    previous: Callable[[], lease.SubnetKey | None] = lambda: None
    """The subnet that a flanneld had on this host."""
    supervisor: supervisor.Supervisor = dataclasses.field(default_factory=supervisor.Supervisor)
    """Who starts the threads."""
    machine: Callable[[], str | None] = lambda: None
    """Names this machine, see `machine`."""
    shared: bool = True
    """Other hosts write to the registry as well."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """This host as a member of one flannel network, from the state file or from the registry.

    `attrs` is what this host wants to publish; `written`, what it wrote last, differs from it where the underlay or a
    MAC has changed since. `own.key` decides whether the member has IPv6: the config may have got it later.
    """

    config_text: str
    config: netconfig.NetworkConfig
    backend: backends.Backend
    own: backends.Own
    attrs: lease.LeaseAttrs
    written: lease.LeaseAttrs | None = None
    copied: bool = False
    """The state file came from another machine, and its subnet with it."""

    @property
    def published(self) -> claim.Published:
        """What this host writes, or wrote, under its key."""
        return claim.Published(key=self.own.key, attrs=self.written or self.attrs)

    def over_underlay_of(self, moved: Membership) -> Membership:
        """The same member over what `moved` found below; as it is where that looked for fewer families."""
        lower = moved.own.underlay
        if self.own.key.v6 is not None and lower.v6 is None:
            return self
        own = dataclasses.replace(
            self.own, underlay=lower, tx_checksum=moved.own.tx_checksum, host_ranges=moved.own.host_ranges
        )
        return dataclasses.replace(self, own=own, attrs=self.backend.attrs(own))

    @property
    def held_v6(self) -> lease.HeldSubnetV6 | None:
        """The IPv6 half of the lease, for the rooms above."""
        if self.own.key.v6 is None or self.config.v6 is None:
            return None
        return lease.HeldSubnetV6(
            network=self.config.v6.network, subnet=self.own.key.v6, device=self.backend.device_v6
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The lease is ours. `former`: the key of the subnet before it, which is to be given back."""

    member: Membership
    former: lease.Lease | None = None
    lease: lease.Lease


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Another host holds the subnet that our containers use."""

    member: Membership
    by: lease.Lease


def join(
    prefix: str, options: Options, ports: Ports, stop: threading.Event, origins: clones.Origins
) -> Joined | Refused:
    """Get the lease. Nothing is written while a flanneld runs, nor before it is known whose the saved subnet is.

    Raises SettingsError, OutOfSubnets, RegistryError, NotReady.
    """
    text = _read_config(options, ports)
    running = ports.flannelds()
    preflight.refuse_rival(prefix, running)
    if text is None:
        text = _put_config(prefix, options, ports)
    saved = ports.store.load(prefix)
    lost: errors.RegistryError | None = None
    for _ in range(CLAIM_TRIES):
        in_use = saved is not None and ports.in_use()
        member = make_membership(prefix, options, ports, text, saved, in_use=in_use)
        preflight.refuse_clash(member.backend.device, running, ports.kernel.list_underlays())
        leases = ports.registry.read_leases()
        if saved is not None and ports.shared:
            member = _find_origin(member, saved, leases, ports, origins)
        last = _published(saved, member, ports, in_use=in_use)
        if lost is not None and not in_use:
            last = None  # a key that is no lease may be in the way of the subnet we had: any other will do
        wish = _choose_claim(member, leases, last, ports, in_use=in_use)
        if isinstance(wish, claim.Taken):
            return Refused(member=member, by=wish.by)
        try:
            held = carry_out(wish, member.attrs, ports.registry)
            if isinstance(wish, claim.Create) and not in_use:
                _yield_to_rival(held, leases, ports.registry)
        except (errors.SubnetTaken, errors.LeaseLost) as exc:
            log.info("lost a race for a subnet, looking again prefix=%s reason=%s", prefix, exc)
            lost = exc
            if stop.wait(0.05 * (1 + ports.pick(10))):
                break
        else:
            return _joined(prefix, member, held, _find_former(saved, member, held, leases))
    raise errors.RegistryUnavailable(f"no subnet under {prefix} after {CLAIM_TRIES} tries: {lost}")


def _published(
    saved: nodestore.SavedNode | None, member: Membership, ports: Ports, *, in_use: bool
) -> claim.Published | None:
    """What we saved ourselves counts more than the subnet that a flanneld left in its file."""
    if saved is None:
        left = ports.previous()
        return None if left is None else claim.Published(key=left, attrs=None)
    if not member.copied:
        return claim.Published(key=saved.key, attrs=saved.attrs)
    return claim.Published(key=saved.key, attrs=None) if in_use else None


def _choose_claim(
    member: Membership,
    leases: registry.Snapshot,
    last: claim.Published | None,
    ports: Ports,
    *,
    in_use: bool,
) -> claim.Claim:
    """See `claim.claim_subnet`; where nothing is free the error says until when the others hold what they have."""
    try:
        return claim.claim_subnet(member.config, leases, member.attrs, last, in_use=in_use, pick=ports.pick)
    except errors.OutOfSubnets as exc:
        holders = subnets.describe_holders(leases, _ends(leases, ports.registry))
        raise errors.OutOfSubnets(exc.reason, holders) from None


def _joined(prefix: str, member: Membership, held: lease.Lease, former: lease.Lease | None) -> Joined:
    for line in member.backend.warnings:
        log.warning("%s prefix=%s", line, prefix)
    if member.copied:
        log.warning("state file is a copy of another machine's, new subnet prefix=%s subnet=%s", prefix, held.key)
    own = dataclasses.replace(member.own, key=held.key)
    settled = dataclasses.replace(member, own=own, written=held.attrs, copied=False)
    return Joined(member=settled, lease=held, former=former)


def make_membership(
    prefix: str,
    options: Options,
    ports: Ports,
    text: str,
    saved: nodestore.SavedNode | None,
    *,
    in_use: bool,
) -> Membership:
    """This host with the subnet of `saved`, or with none yet. Raises ConfigInvalid, UnderlayError.

    A subnet in use keeps the families it has, whatever became of the config, and an underlay that has become too
    narrow: it is made do with.
    """
    config = netconfig.parse_network_config(text)
    backend = backends.choose_backend(config)
    key = lease.SubnetKey(v4=config.require_v4().network, v6=config.v6.network if config.v6 else None)
    if saved is not None and (in_use or (saved.key.v6 is None) == (config.v6 is None)):
        key = saved.key
    networks = [one.network for one in (config.v4, config.v6) if one is not None]
    ports.claim_room(prefix, networks, backend.device)
    links = ports.kernel.list_underlays()
    own = backends.Own(
        key=key,
        underlay=_choose_underlay(links, options, ports, backend, want_v6=key.v6 is not None),
        mac=_mac(backend.device, ports, saved.mac if saved else None),
        mac_v6=_mac(backend.device_v6, ports, saved.mac_v6 if saved else None) if key.v6 else None,
        tx_checksum=_tx_checksum(backend, options, ports),
        networks=tuple(networks),
        host_ranges=_find_ranges(links, networks, backend),
    )
    if saved is None:
        backend.check_underlay(own)
    return Membership(config_text=text, config=config, backend=backend, own=own, attrs=backend.attrs(own))


def move_membership(known: Membership, options: Options, ports: Ports) -> Membership:
    """The same member over what the host's links are now; equal to `known` where nothing changed.

    Raises UnderlayError.
    """
    want_v6 = known.own.key.v6 is not None
    links = ports.kernel.list_underlays()
    chosen = _choose_underlay(links, options, ports, known.backend, want_v6=want_v6)
    own = dataclasses.replace(
        known.own,
        underlay=underlay.stay(links, chosen, known.own.underlay),
        tx_checksum=known.own.tx_checksum if options.tx_checksum is None else options.tx_checksum,
        host_ranges=_find_ranges(links, known.own.networks, known.backend),
    )
    return dataclasses.replace(known, own=own, attrs=known.backend.attrs(own))


def _choose_underlay(
    links: Sequence[kernel.UnderlayLink],
    options: Options,
    ports: Ports,
    backend: backends.Backend,
    *,
    want_v6: bool,
) -> underlay.Underlay:
    """Which link carries the overlay now."""
    routes = ports.kernel.list_routes() if backend.needs_routes else ()
    wish = underlay.Wish(
        iface=options.iface, public_ip=options.public_ip, public_ipv6=options.public_ipv6, want_v6=want_v6
    )
    return underlay.choose_underlay(links, wish, routes)


def _find_ranges(
    links: Sequence[kernel.UnderlayLink], networks: Sequence[netstate.IPNetwork], backend: backends.Backend
) -> tuple[kernel.HostRange, ...]:
    return underlay.find_host_ranges(links, networks, {backend.device, backend.device_v6})


def _mac(device: netstate.IfName, ports: Ports, saved: netstate.Mac | None) -> netstate.Mac:
    """The MAC the peers know, else that of a device which is there (flanneld's), else a new one."""
    return saved or (ports.kernel.vtep_mac(device) if device else None) or ports.make_mac()


def _tx_checksum(backend: backends.Backend, options: Options, ports: Ports) -> bool:
    """A device that an earlier run, or an operator, switched off stays so until somebody knows better."""
    if options.tx_checksum is not None:
        return options.tx_checksum
    return all(ports.kernel.tx_checksum(device) is not False for device in (backend.device, backend.device_v6))


def carry_out(
    wish: claim.Create | claim.Rewrite | claim.Keep, attrs: lease.LeaseAttrs, agreed: registry.Registry
) -> lease.Lease:
    """Write what was decided. Raises SubnetTaken, LeaseLost, RegistryUnavailable, RegistryDenied."""
    match wish:
        case claim.Create():
            return agreed.put_lease(wish.key, attrs, None)
        case claim.Rewrite():
            return agreed.put_lease(wish.over.key, attrs, wish.over)
        case claim.Keep():
            return wish.lease


def look_here(attrs: lease.LeaseAttrs, ports: Ports) -> clones.Here:
    """What tells this host from the one that wrote a state file."""
    links = ports.kernel.list_underlays()
    addresses = frozenset(address.ip for link in links for address in link.all_addresses)
    return clones.Here(attrs=attrs, addresses=addresses, machine=ports.machine())


def rename(member: Membership, ports: Ports) -> Membership:
    """The same member with MACs of its own: those of the state file are another machine's."""
    own = dataclasses.replace(
        member.own, mac=ports.make_mac(), mac_v6=None if member.own.mac_v6 is None else ports.make_mac()
    )
    return dataclasses.replace(member, own=own, attrs=member.backend.attrs(own))


def _find_origin(
    member: Membership,
    saved: nodestore.SavedNode,
    leases: registry.Snapshot,
    ports: Ports,
    origins: clones.Origins,
) -> Membership:
    """`member`, or who it is where `saved` is of another machine. Raises NotReady while nobody knows."""
    here = look_here(member.attrs, ports)
    found = leases.leases.get(saved.key)
    origin = origins.judge(saved, found, here, time.monotonic, ports.registry.time_left)
    if origin is clones.Origin.UNKNOWN:
        raise errors.OriginUnknown(clones.explain_watch(saved, here, origins.watch_s), origins.left_s)
    theirs = origin is clones.Origin.THEIRS
    return dataclasses.replace(
        rename(member, ports) if theirs or clones.is_copy(saved, here) else member, copied=theirs
    )


def _yield_to_rival(held: lease.Lease, seen: registry.Snapshot, agreed: registry.Registry) -> None:
    """Give a new lease back where an older one overlaps it, before Docker networks get it. Raises SubnetTaken.

    All is read again only where somebody has written since `seen`.
    """
    if held.mod_revision == seen.revision + 1:
        return
    rival = claim.find_rival(held, agreed.read_leases())
    if rival is not None:
        agreed.delete_lease(held)
        raise errors.SubnetTaken(f"subnet {held.key} overlaps {rival.key}, which {rival.attrs.host} leased before")


def _find_former(
    saved: nodestore.SavedNode | None, member: Membership, held: lease.Lease, snapshot: registry.Snapshot
) -> lease.Lease | None:
    """The lease this host had before and nothing uses any more: only a key that is word for word ours."""
    if saved is None or saved.key == held.key or member.copied:
        return None
    before = snapshot.leases.get(saved.key)
    return before if before is not None and before.attrs == saved.attrs and before.lease_id else None


def _ends(leases: registry.Snapshot, agreed: registry.Registry) -> dict[lease.SubnetKey, datetime.datetime]:
    """Until when the leases that the error names hold, if nobody renews them; none for reservations, nor in doubt."""
    now = datetime.datetime.now(datetime.UTC)
    ends = {}
    with contextlib.suppress(errors.RegistryError):
        for held in subnets.list_shown(leases):
            left = agreed.time_left(held)
            if left is not None:
                ends[held.key] = now + datetime.timedelta(seconds=left.seconds)
    return ends


def _read_config(options: Options, ports: Ports) -> str | None:
    """None where there is none and the operator chose one."""
    try:
        return ports.registry.read_config()
    except errors.ConfigMissing:
        if not options.initial_config:
            raise
        return None


def _put_config(prefix: str, options: Options, ports: Ports) -> str:
    if ports.registry.create_config(options.initial_config):
        log.info("network config created prefix=%s", prefix)
    return ports.registry.read_config()
