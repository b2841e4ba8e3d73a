"""The kernel port over rtnetlink and /proc/sys.

Acts on the network namespace of the calling thread. Every call opens its own socket and closes it: no state is shared
between threads but the numbers and names of links, by which events are sorted. Recognises what is ours after a
restart: links by their alias, what hangs on them, and routes by their protocol.

A route of another protocol to a desired destination is not ours and not shown; so ours is planned anew. The other
stays, and ours is refused, unless it is flanneld's: `standing_routes`. Those on a device of ours are shown, see
`observation`.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from overlay import (
    diff,
    errors,
    ethtool,
    faults,
    kernel,
    kernel_events,
    link_messages,
    link_writer,
    netstate,
    observation,
    rtnl,
    rtnl_links,
    rtnl_socket,
    rtnl_underlay,
    standing_routes,
    sysctls,
)

PROC_SYS = pathlib.Path("/proc/sys")
GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
Entry = netstate.Address | netstate.Neighbour | netstate.FdbEntry | netstate.Route


class KernelNetlink:
    """See the module. Safe to call from any thread."""

    def __init__(self, proc_sys: pathlib.Path = PROC_SYS) -> None:
        self._sysctls = sysctls.Sysctls(proc_sys)
        self._links: kernel_events.Links | None = None

    def observe(self, desired: netstate.NetState) -> netstate.NetState:
        """See `kernel.Kernel.observe`."""
        try:
            with rtnl_socket.open_socket() as sock:
                found = observation.Observation(sock, desired)
        except OSError as exc:
            raise errors.KernelError([f"cannot read the kernel's tables: {exc.strerror or exc}"]) from exc
        self._links = found.links
        return frozenset(found.objects) | self.observe_silent(desired)

    def apply(self, ops: Sequence[netstate.Op]) -> list[kernel.Failure]:
        """See `kernel.Kernel.apply`."""
        failures: list[kernel.Failure] = []
        try:
            with rtnl_socket.open_socket() as sock:
                failures += self._refuse_strange(sock, ops)
                refused = {failure.op for failure in failures}
                may = [op for op in ops if op not in refused]
                for bulk, group in itertools.groupby(may, lambda op: _entry_of(op) is not None):
                    if bulk:
                        failures += _apply_bulk(sock, list(group))
                    else:
                        failures += self._apply_each(sock, group)
        except OSError as exc:  # the socket itself: what became of the changes is not known
            known = {failure.op for failure in failures}
            failures += [_failure(op, exc) for op in ops if op not in known]
        return failures

    def list_underlays(self) -> list[kernel.UnderlayLink]:
        """See `kernel.Kernel.list_underlays`."""
        try:
            with rtnl_socket.open_socket() as sock:
                return rtnl_underlay.list_links(sock)
        except OSError as exc:
            raise errors.KernelError([f"cannot list this host's links: {exc.strerror or exc}"]) from exc

    def list_routes(self) -> list[kernel.UnderlayRoute]:
        """See `kernel.Kernel.list_routes`."""
        try:
            with rtnl_socket.open_socket() as sock:
                return rtnl_underlay.list_routes(sock)
        except OSError as exc:
            raise errors.KernelError([f"cannot list this host's routes: {exc.strerror or exc}"]) from exc

    def list_links(self) -> list[kernel.HostLink]:
        """See `kernel.Kernel.list_links`."""
        try:
            with rtnl_socket.open_socket() as sock:
                rows = [rtnl_links.parse_link(*one) for one in sock.dump(rtnl.RTM_GETLINK, rtnl.link_request())]
        except OSError as exc:
            raise errors.KernelError([f"cannot list this host's links: {exc.strerror or exc}"]) from exc
        return [kernel.HostLink(name=row.name, kind=row.kind, ours=row.is_ours) for row in rows]

    def vtep_mac(self, name: netstate.IfName) -> netstate.Mac | None:
        """See `kernel.Kernel.vtep_mac`."""
        try:
            with rtnl_socket.open_socket() as sock:
                row = link_writer.LinkWriter(sock, self._sysctls).find(name)
        except OSError as exc:
            raise errors.KernelError([f"cannot look at {name}: {exc.strerror or exc}"]) from exc
        return row.mac if row is not None and row.kind == "vxlan" else None

    def tx_checksum(self, name: netstate.IfName) -> bool | None:
        """See `kernel.Kernel.tx_checksum`."""
        try:
            return ethtool.read_tx_checksum(name)
        except OSError:
            return None

    def observe_silent(self, desired: netstate.NetState) -> netstate.NetState:
        """See `kernel.Kernel.observe_silent`."""
        return frozenset(
            dataclasses.replace(obj, value=value)
            for obj in desired
            if isinstance(obj, netstate.Sysctl) and (value := self._read(obj)) is not None
        )

    def events(
        self, stop: threading.Event, is_wanted: Callable[[netstate.Op], bool] = lambda _op: False
    ) -> Iterator[None]:
        """See `kernel.Kernel.events`."""
        return kernel_events.Listener(lambda: self._links, is_wanted).events(stop)

    def _read(self, parameter: netstate.Sysctl) -> str | None:
        value = self._sysctls.read(parameter.key)
        return parameter.value if value is None and _may_lack(parameter) else value

    def _refuse_strange(self, sock: rtnl_socket.RtnlSocket, ops: Sequence[netstate.Op]) -> list[kernel.Failure]:
        """What would be given to a bridge that only has the name of one of ours; nothing where all names are ours."""
        writer = link_writer.LinkWriter(sock, self._sysctls)
        carriers = {op: netstate.carrier_of(diff.target_of(op)) for op in ops if not isinstance(op, netstate.Remove)}
        strange: dict[netstate.IfName, OSError] = {}
        for name in {name for name in carriers.values() if name and not name.startswith(netstate.BRIDGE_PREFIX)}:
            try:
                writer.refuse_strange(name)
            except link_writer.NameTaken as exc:
                strange[name] = exc
        return [_failure(op, strange[name]) for op, name in carriers.items() if name in strange]

    def _apply_each(self, sock: rtnl_socket.RtnlSocket, ops: Iterator[netstate.Op]) -> Iterator[kernel.Failure]:
        writer = link_writer.LinkWriter(sock, self._sysctls)
        for op in ops:
            try:
                self._apply_one(writer, op)
            except OSError as exc:
                yield _failure(op, exc)

    def _apply_one(self, writer: link_writer.LinkWriter, op: netstate.Op) -> None:
        match op:
            case netstate.Add(obj=netstate.Sysctl() as new) | netstate.Change(new=netstate.Sysctl() as new):
                if not (self._sysctls.read(new.key) is None and _may_lack(new)):
                    routerless = writer.find_routerless() if new.key == sysctls.IPV6_FORWARDING else frozenset()
                    self._sysctls.write(new.key, new.value, routerless=routerless)
            case netstate.Remove(obj=old) if isinstance(old, netstate.Link):
                writer.remove(old)
            case netstate.Add(obj=new) | netstate.Change(new=new) if isinstance(new, netstate.Link):
                writer.ensure(new)
            case _:
                pass  # what a kernel parameter was before is not known


def _apply_bulk(sock: rtnl_socket.RtnlSocket, ops: Sequence[netstate.Op]) -> list[kernel.Failure]:
    """Entries and addresses: all messages at once, then see which were refused."""
    many = len(ops) > standing_routes.MANY
    stopped = standing_routes.find_standing(sock, ops) if many else {}
    failures = [_failure(op, exc) for op, exc in stopped.items()]
    indexes: dict[netstate.IfName, int] = {}
    messages: list[bytes] = []
    sent: dict[int, netstate.Op] = {}
    for op in [op for op in ops if op not in stopped] if stopped else ops:
        remove = isinstance(op, netstate.Remove)
        obj = _entry_of(op)
        if obj is None:
            continue
        if obj.link not in indexes:
            indexes[obj.link] = link_writer.index_of(obj.link)
        index = indexes[obj.link]
        if not index:
            if not remove:
                failures.append(kernel.Failure(op=op, reason=f"there is no {obj.link}"))
            continue
        sequence = sock.next_sequence()
        if isinstance(obj, netstate.Address):
            messages.append(link_messages.pack_address(obj, index, sequence, remove=remove))
        else:
            messages.append(rtnl.pack_entry(obj, index, sequence, remove=remove, replace=many))
        sent[sequence] = op
    faults.reached("kernel.entries.before")
    refusals = sock.transact(messages)
    faults.reached("kernel.entries.after")
    return failures + _read_refusals(sock, {sent[sequence]: refusal for sequence, refusal in refusals.items()})


def _read_refusals(
    sock: rtnl_socket.RtnlSocket, refusals: Mapping[netstate.Op, rtnl_socket.Refusal]
) -> list[kernel.Failure]:
    """What is left of them when what is gone anyway counts as removed, and routes in the way of ours have gone."""
    gone = {op for op, refusal in refusals.items() if isinstance(op, netstate.Remove) and refusal.errno in GONE}
    stopped = dict.fromkeys(op for op, refusal in refusals.items() if standing_routes.may_stand(op, refusal))
    left: dict[netstate.Op, OSError] = {
        op: refusal for op, refusal in refusals.items() if op not in gone and op not in stopped
    }
    return [_failure(op, exc) for op, exc in (left | standing_routes.replace(sock, list(stopped))).items()]


def _entry_of(op: netstate.Op) -> Entry | None:
    """What a change is about, if it is one message that can go with many others."""
    obj = diff.target_of(op)
    return obj if isinstance(obj, Entry) else None


def _may_lack(parameter: netstate.Sysctl) -> bool:
    """Whether there is a link that need not have it."""
    link = parameter.link if parameter.optional else None
    return link is not None and link_writer.index_of(link) != 0


def _failure(op: netstate.Op, exc: OSError) -> kernel.Failure:
    taken = isinstance(exc, link_writer.NameTaken)
    return kernel.Failure(op=op, reason=exc.strerror or str(exc), name_taken=taken)
