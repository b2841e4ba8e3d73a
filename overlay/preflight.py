"""What else on this host stands in the way of a flannel network: a flanneld, a link with addresses of its range.

Pure: judges what `processes` and the kernel port have found. `member` asks before anything is written, `node` before
the subnet is given to a Docker network, `lookout` now and then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from overlay import errors, flanneld, kernel, lease, netstate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is amiss around a network, a line each: a flanneld here, a host with our address, links in its range."""

    rival: str | None = None
    twin: str | None = None
    overlaps: tuple[str, ...] = ()


def refuse_rival(prefix: str, running: Iterable[flanneld.Flanneld]) -> None:
    """Raises FlanneldRunning where one of them has our prefix: a lease's PublicIP is all that says whose it is."""
    rival = find_rival(prefix, running)
    if rival is not None:
        raise errors.FlanneldRunning(rival)


def refuse_clash(device: str, running: Sequence[flanneld.Flanneld], links: Iterable[kernel.UnderlayLink]) -> None:
    """Raises FlanneldRunning where the device is one that a flanneld of another registry or prefix has made.

    `links` are those that are not ours. Without a flanneld the device was left behind, and is adopted.
    """
    if not running or not any(link.name == device for link in links):
        return
    told = ", ".join(f"pid {one.pid} with {_describe_home(one)}" for one in running)
    raise errors.FlanneldRunning(
        f"flanneld ({told}) runs on this host and {device} is its device: stop it (systemctl disable --now flanneld) "
        "or give one of the two networks another VNI"
    )


def refuse_overlap(held: lease.HeldSubnet, links: Iterable[kernel.UnderlayLink]) -> None:
    """Raises AddressTaken where another link has addresses of the subnet that Docker networks are about to get."""
    for link, address, half in _overlapping(held, links):
        if address.ip in half.subnet:
            raise errors.AddressTaken(
                f"{link} has {address}, and {half.subnet} is this host's flannel subnet: its containers could not "
                f"be reached through two links; {_describe_cure(link, address)}"
            )


def find_overlaps(held: lease.HeldSubnet, links: Iterable[kernel.UnderlayLink]) -> tuple[str, ...]:
    """Addresses in the range of the flannel network, a line each. `links` are those that are not ours."""
    return tuple(
        f"{link} has {address} of this host's flannel subnet {half.subnet}: {_describe_cure(link, address)}"
        if address.ip in half.subnet
        else f"{link} has {address}, which overlaps the flannel network {half.network}: what is there becomes "
        "unreachable where a host has its subnet; give the flannel network another range"
        for link, address, half in _overlapping(held, links)
    )


def find_rival(prefix: str, running: Iterable[flanneld.Flanneld]) -> str | None:
    """The flanneld with our prefix, and what to do about it."""
    wanted = lease.clean_prefix(prefix)
    for one in running:
        if one.prefix == wanted:
            return (
                f"flanneld (pid {one.pid}) runs on this host with prefix {wanted} and would fight for this host's "
                "lease: stop it (systemctl disable --now flanneld), then flannelpy takes over its lease and device "
                "by itself"
            )
    return None


def _overlapping(
    held: lease.HeldSubnet, links: Iterable[kernel.UnderlayLink]
) -> list[tuple[str, netstate.IPInterface, lease.HeldSubnet | lease.HeldSubnetV6]]:
    """Addresses in the range of the flannel network, in either family; its own devices left out."""
    v6 = held.v6
    devices = {held.device, v6.device if v6 else ""}
    found: list[tuple[str, netstate.IPInterface, lease.HeldSubnet | lease.HeldSubnetV6]] = []
    for link in links:
        if link.name in devices:
            continue
        found += [(link.name, one, held) for one in link.addresses if one.network.overlaps(held.network)]
        if v6 is not None:
            found += [(link.name, one, v6) for one in link.addresses_v6 if one.network.overlaps(v6.network)]
    return found


def _describe_home(one: flanneld.Flanneld) -> str:
    return "leases in Kubernetes" if one.prefix is None else f"prefix {one.prefix}"


def _describe_cure(link: str, address: netstate.IPInterface) -> str:
    options = "in dockerd's options (daemon.json, or the unit that reads mk-docker-opts.sh)"
    if link != "docker0":
        return f"take the address away (ip addr del {address} dev {link}) or the link"
    if address.version == 6:
        return (
            f"{options} take away ipv6 and fixed-cidr-v6, or give the latter another range, restart docker, and take "
            f"the address away, which Docker leaves (ip addr del {address} dev {link})"
        )
    return (
        f"{options} take away mtu, give bip another range such as 172.17.0.1/16 (without any, Docker keeps the old "
        "one) and restart docker"
    )
