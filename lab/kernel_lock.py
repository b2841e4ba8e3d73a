"""How long a request waits for the kernel's one lock over links (rtnl), beside everything else that goes on.

Every change of a link, by whomever, takes it in turn, all network namespaces of a machine together; moving a link
into a container's namespace holds it for a grace period of RCU, 16 ms here. A request that changes nothing
measures it.
Used by `crowd`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

from lab import host

_STOP: Final = "/run/lab/kernel-lock.stop"
_LONGEST_S: Final = 120.0
_PROBE: Final = f"""
import os, socket, struct, time

asks = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
link = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, socket.if_nametoindex("lo"), 0, 0)
change = struct.pack("=IHHII", 16 + len(link), 16, 0x5, 1, 0) + link  # RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK
until = time.monotonic() + {_LONGEST_S}
while time.monotonic() < until and not os.path.exists("{_STOP}"):
    began = time.monotonic()
    asks.send(change)
    (refusal,) = struct.unpack_from("=i", asks.recv(4096), 16)
    assert refusal == 0, refusal
    print(time.monotonic() - began)
    time.sleep(0.02)
"""


@contextlib.contextmanager
def measured(on: host.Host) -> Iterator[list[float]]:
    """While the block runs, ask fifty times a second; afterwards the list has how long each took, in seconds."""
    took_s: list[float] = []
    on.exec(["rm", "-f", _STOP])
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        asking = pool.submit(on.exec, ["python3", "-c", _PROBE], timeout_s=_LONGEST_S + 30)
        try:
            yield took_s
        finally:
            on.exec(["touch", _STOP])
            took_s += map(float, asking.result().split())


def share_within(took_s: Sequence[float], limit_s: float) -> float:
    """How many of them took at most that, 0 to 1; 1 for none."""
    return sum(one <= limit_s for one in took_s) / len(took_s) if took_s else 1.0
