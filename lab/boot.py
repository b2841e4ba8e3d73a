"""The shell program that turns a process into a machine: runs as pid 1 of its namespaces, then becomes tini.

Text only; `machine` runs it under `unshare`. In order: say the pid as this machine's own namespace sees it (the
old /proc is still there), lay an overlay over the root, give it fresh /proc /sys /run, pivot into it (runc refuses
to work in a mere chroot), and make all mounts shared: managed plugins need propagation into the host, while the
namespace stays private against the machine.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
from collections.abc import Sequence

from lab import cgroups


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What a machine boots from.

    root: the read-only root; disk: a directory that holds what outlives a reboot; nameserver: the lines of
    /etc/resolv.conf; shares: (directory of this machine, path inside); isolated: has a network of its own; forwards:
    has ip_forward on before anything runs.
    """

    hostname: str
    root: pathlib.Path
    disk: pathlib.Path
    resolv_conf: str
    shares: Sequence[tuple[pathlib.Path, str]] = ()
    iptables: str = "nft"
    forwards: bool = False
    isolated: bool = True


_IPTABLES_LEGACY = """
ln -sf /usr/sbin/iptables-legacy etc/alternatives/iptables
ln -sf /usr/sbin/ip6tables-legacy etc/alternatives/ip6tables
ln -sf /usr/sbin/iptables-legacy-save etc/alternatives/iptables-save
ln -sf /usr/sbin/iptables-legacy-restore etc/alternatives/iptables-restore
"""


def script(boot: Boot, hierarchies: Sequence[cgroups.Hierarchy]) -> str:
    """Compose the program; on standard output it says its pid, and `ready` at the end."""
    disk, hostname = shlex.quote(str(boot.disk)), shlex.quote(boot.hostname)
    mounts = "\n".join(_bind(source, target) for source, target in boot.shares)
    return f"""
set -eu
read -r pid _ < /proc/self/stat
echo "$pid"
hostname {hostname}
cd {disk}
mkdir -p upper work root docker
mount -t overlay overlay -o lowerdir={shlex.quote(str(boot.root))},upperdir=upper,workdir=work root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
{cgroups.mount_script(hierarchies)}
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/lock run/lab run/docker/plugins
mkdir -p var/lib/docker
mount --bind ../docker var/lib/docker
{mounts}
printf %s {shlex.quote(boot.resolv_conf)} > etc/resolv.conf
echo {hostname} > etc/hostname
printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' {hostname} > etc/hosts
{_IPTABLES_LEGACY if boot.iptables == "legacy" else ""}
{_sysctls(boot) if boot.isolated else ""}
pivot_root . mnt
cd /
umount -l /mnt
mount --make-rshared /
echo ready
exec /usr/bin/tini -- sleep infinity < /dev/null > /dev/null 2>&1
"""


def _bind(source: pathlib.Path, target: str) -> str:
    """Mount a directory or a file; the place must be of the same kind."""
    outer, inside = shlex.quote(str(source)), shlex.quote(target.lstrip("/"))
    return (
        f'mkdir -p "$(dirname {inside})"; [ -d {outer} ] && mkdir -p {inside} || : >> {inside}; '
        f"mount --rbind {outer} {inside}"
    )


def _sysctls(boot: Boot) -> str:
    """A new namespace inherits the machine's values.

    As a rule nobody forwards before dockerd does: it sets FORWARD's policy to DROP only when it is the one who
    switches forwarding on. rp_filter is Debian's value.
    """
    return f"""
echo {int(boot.forwards)} > /proc/sys/net/ipv4/ip_forward
echo 2 > /proc/sys/net/ipv4/conf/default/rp_filter
"""
