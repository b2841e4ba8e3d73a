"""The kernel's notices, and which of them are a reason to look again.

Used by `kernel_netlink` alone. Hears the network namespace of the calling thread. Of thousands of notices that follow
closely one event is made. Source: rtnetlink(7), linux/rtnetlink.h.
"""

from __future__ import annotations

import dataclasses
import errno
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from overlay import errors, netstate, rtnl, rtnl_notices, rtnl_socket

GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400 | 1 << 23 | 1 << 24
"""RTMGRP_*: links, neighbours, addresses and routes of both families; RTNLGRP_IPV4_NETCONF and its IPv6 twin:
forwarding and others of its parameters. Source: linux/rtnetlink.h."""

EVENT_BUFFER = 1 << 20
COALESCE_S = 0.1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Names by index, as observed last: of all links, and of our VXLAN devices."""

    names: Mapping[int, netstate.IfName]
    vxlan: Mapping[int, netstate.IfName]


class Listener:
    """For one thread. `links` gives the links of the moment, None before the first observation."""

    def __init__(self, links: Callable[[], Links | None], is_wanted: Callable[[netstate.Op], bool]) -> None:
        self._links = links
        self._is_wanted = is_wanted

    def events(self, stop: threading.Event) -> Iterator[None]:
        """See `kernel.Kernel.events`."""
        while not stop.is_set():
            try:
                with rtnl_socket.open_socket(GROUPS, EVENT_BUFFER) as sock:
                    yield  # what happened before anybody listened
                    while not stop.is_set():
                        if self._hear_burst(sock):
                            yield
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise errors.KernelError([f"kernel events: {exc.strerror or exc}"]) from exc
                # events were lost, and the socket stays broken: on with a new one

    def _hear_burst(self, sock: rtnl_socket.RtnlSocket) -> bool:
        """Whether anything relevant happened within half a second; what follows closely counts as the same."""
        if not any(self._is_relevant(*notice) for notice in sock.wait(0.5)):
            return False
        until = time.monotonic() + COALESCE_S
        while (left_s := until - time.monotonic()) > 0:
            sock.wait(left_s)
        return True

    def _is_relevant(self, data: bytes, kind: int, at: int, end: int) -> bool:
        """Of neighbours only those of our VXLAN devices, and nothing that the kernel makes by itself.

        Hosts resolve addresses all the time, and the kernel gives every new link IPv6 addresses and routes. What is
        wanted anyway is no reason either: most of it are our own changes, three for each peer.
        """
        known = self._links()
        match kind:
            case rtnl.RTM_NEWADDR | rtnl.RTM_DELADDR:
                return not rtnl.is_link_scope(data, at)
            case rtnl.RTM_NEWROUTE | rtnl.RTM_DELROUTE:
                if rtnl.is_kernel_route(data, at):
                    return False
                op = rtnl_notices.parse_route_notice(data, kind, at, end, known.names) if known else None
            case rtnl.RTM_NEWNEIGH | rtnl.RTM_DELNEIGH:
                link = known.vxlan.get(rtnl.event_index(data, at)) if known else None
                if known and link is None:
                    return False
                op = rtnl_notices.parse_neighbour_notice(data, kind, at, end, link) if link else None
            case _:
                return True
        return op is None or not self._is_wanted(op)
