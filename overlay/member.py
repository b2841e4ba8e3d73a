"""Joining a flannel network: from its config and this host's underlay to a lease that is ours.

Called by `node` from its own thread; keeps nothing. The order is flannel's: config, interface, VTEP, lease.
Source: flannel main.go, pkg/subnet/etcd/local_manager.go (AcquireLease).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import threading
from collections.abc import Callable

from overlay import backend as backends
from overlay import claim, errors, kernel, lease, netconfig, netstate, nodestore, registry, underlay

log = logging.getLogger(__name__)

CLAIM_TRIES = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the operator chose for this host. `initial_config` is put into the registry when it has none."""

    iface: str = ""
    public_ip: ipaddress.IPv4Address | None = None
    initial_config: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What a node calls. `publish` hands over the node's slice of the desired state under an owner's name."""

    registry: registry.Registry
    store: nodestore.NodeStore
    kernel: kernel.Kernel
    publish: Callable[[str, netstate.NetState], None]
    in_use: Callable[[], bool]
    """Whether addresses were given out of this node's subnet."""
    claim_room: Callable[[str, ipaddress.IPv4Network, str], None]
    """Raises ConfigInvalid where (prefix, network, device) cannot stand beside this host's other flannel networks."""
    pick: Callable[[int], int]
    """A number from 0 to n - 1 by chance."""
    make_mac: Callable[[], netstate.Mac]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """This host as a member of one flannel network, from the state file or from the registry."""

    config_text: str
    config: netconfig.NetworkConfig
    backend: backends.Backend
    own: backends.Own
    attrs: lease.LeaseAttrs

    @property
    def published(self) -> claim.Published:
        """What this host writes, or wrote, under its key."""
        return claim.Published(key=self.own.key, attrs=self.attrs)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The lease is ours."""

    member: Membership
    lease: lease.Lease


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Another host holds the subnet that our containers use."""

    member: Membership
    by: lease.Lease


def join(prefix: str, options: Options, ports: Ports, stop: threading.Event) -> Joined | Refused:
    """Get the lease. Raises SettingsError, OutOfSubnets, RegistryError."""
    text = _read_config(prefix, options, ports)
    config = netconfig.parse_network_config(text)
    saved = ports.store.load(prefix)
    last = claim.Published(key=saved.key, attrs=saved.attrs) if saved else None
    lost: errors.RegistryError | None = None
    for _ in range(CLAIM_TRIES):
        member = make_membership(prefix, options, ports, text, saved)
        in_use = last is not None and ports.in_use()
        wish = claim.claim_subnet(
            config, ports.registry.read_leases(), member.attrs, last, in_use=in_use, pick=ports.pick
        )
        if isinstance(wish, claim.Taken):
            return Refused(member=member, by=wish.by)
        try:
            held = carry_out(wish, member.attrs, ports.registry)
        except (errors.SubnetTaken, errors.LeaseLost) as exc:
            log.info("lost a race for a subnet, looking again prefix=%s reason=%s", prefix, exc)
            lost = exc
            if not in_use:
                last = None  # a key that is no lease may be in the way of the subnet we had: any other will do
            if stop.wait(0.05 * (1 + ports.pick(10))):
                break
        else:
            own = dataclasses.replace(member.own, key=held.key)
            return Joined(member=dataclasses.replace(member, own=own), lease=held)
    raise errors.RegistryUnavailable(f"no subnet under {prefix} after {CLAIM_TRIES} tries: {lost}")


def make_membership(
    prefix: str, options: Options, ports: Ports, text: str, saved: nodestore.SavedNode | None
) -> Membership:
    """This host with the subnet of `saved`, or with none yet. Raises ConfigInvalid, UnderlayError."""
    config = netconfig.parse_network_config(text)
    backend = backends.choose_backend(config)
    network = config.require_v4().network
    if config.v6 is not None:
        raise errors.ConfigInvalid("EnableIPv6 is true: flannelpy has no IPv6 yet; use a network config without it")
    ports.claim_room(prefix, network, backend.device)
    lower = underlay.choose_underlay(ports.kernel.list_underlays(), options.iface, options.public_ip)
    mac = saved.mac if saved else ports.kernel.vtep_mac(backend.device)
    own = backends.Own(
        key=saved.key if saved else lease.SubnetKey(v4=network),
        underlay=lower,
        mac=mac or ports.make_mac(),
    )
    return Membership(config_text=text, config=config, backend=backend, own=own, attrs=backend.attrs(own))


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


def _read_config(prefix: str, options: Options, ports: Ports) -> str:
    try:
        return ports.registry.read_config()
    except errors.ConfigMissing:
        if not options.initial_config:
            raise
    if ports.registry.create_config(options.initial_config):
        log.info("network config created prefix=%s", prefix)
    return ports.registry.read_config()
