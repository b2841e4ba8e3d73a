"""A flannel network that is being left holds up who wants that one, and nobody else."""

from __future__ import annotations

import concurrent.futures
import threading

from ipam import claims
from overlay import lease


class SlowHoldings:
    """Leaving waits for the test, as for an etcd that does not answer."""

    def __init__(self) -> None:
        self.left: list[str] = []
        self.began, self.go_on = threading.Event(), threading.Event()

    def wait(self, prefix: str | None, timeout_s: float) -> lease.HeldSubnet:
        raise NotImplementedError(prefix, timeout_s)

    def held(self) -> list[lease.HeldSubnet]:
        return []

    def holds(self, held: lease.HeldSubnet) -> bool:
        raise NotImplementedError(held)

    def leave(self, prefix: str) -> None:
        self.began.set()
        assert self.go_on.wait(10)
        self.left.append(prefix)


def test_leaving_one_flannel_network_holds_nobody_up_who_wants_another() -> None:
    slow = SlowHoldings()
    made = claims.Claims(slow, lambda: {"/green"})
    entered: list[str] = []

    def enter(prefix: str) -> None:
        with made.hold(prefix):
            entered.append(f"{prefix} after {slow.left}")

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        leaving = pool.submit(made.leave_if_unused, "/blue")
        assert slow.began.wait(10)
        again = pool.submit(enter, "/blue")
        pool.submit(enter, "/green").result(10)
        assert entered == ["/green after []"]
        slow.go_on.set()
        for one in (leaving, again):
            one.result(10)
    assert entered == ["/green after []", "/blue after ['/blue']"]
    assert slow.left == ["/blue", "/blue"]
