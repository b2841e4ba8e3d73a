"""How long a request waits for the kernel's one lock over links (rtnl), beside everything else that goes on.

Every change of a link, by whomever, takes it in turn, all network namespaces of a machine together; moving a link
into a container's namespace holds it for a grace period of RCU, 16 ms here. A request that changes nothing
measures it. Used by `crowd`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from lab import host

_NAME: Final = "kernel-lock"
_PROBE: Final = """
import socket, struct, time

asks = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
link = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, socket.if_nametoindex("lo"), 0, 0)
change = struct.pack("=IHHII", 16 + len(link), 16, 0x5, 1, 0) + link  # RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK
until = time.monotonic() + 120
while time.monotonic() < until:
    began = time.monotonic()
    asks.send(change)
    (refusal,) = struct.unpack_from("=i", asks.recv(4096), 16)
    assert refusal == 0, refusal
    print(time.monotonic() - began, flush=True)
    time.sleep(0.02)
"""


@contextlib.contextmanager
def measured(on: host.Host) -> Iterator[list[float]]:
    """While the block runs, ask fifty times a second; afterwards the list has how long each took, in seconds."""
    took_s: list[float] = []
    on.log_path(_NAME).unlink(missing_ok=True)
    on.spawn(_NAME, ["python3", "-c", _PROBE])
    try:
        yield took_s
    finally:
        on.end(_NAME)
        took_s += map(float, on.log_path(_NAME).read_text().split())
