"""Sixteen threads that ask the IPAM for an address at the same moment: runs inside the installed plugin's root.

`python3 - CALLERS ROUNDS < this file` there, by `bench.addresses`; prints the seconds of each call as JSON. Only
the lease is made up; handler, service, store and state file are the plugin's.
"""

from __future__ import annotations

import ipaddress
import json
import pathlib
import sys
import tempfile
import threading
import time

sys.path.insert(0, "/app")

from ipam import endpoints, service, store
from overlay import fields, lease, statefile

DATA = pathlib.Path("/data")
HELD = lease.HeldSubnet(
    prefix="/bench/probe",
    network=ipaddress.IPv4Network("10.2.0.0/16"),
    subnet=ipaddress.IPv4Network("10.2.20.0/24"),
    device="flannel.1",
    overlay_mtu=1450,
)
WAIT_S = 30.0


class Held:
    """One lease that is always there; implements `overlay.holdings.Holdings`."""

    def wait(self, prefix: str | None, timeout_s: float) -> lease.HeldSubnet:
        """The lease."""
        del prefix, timeout_s
        return HELD

    def held(self) -> list[lease.HeldSubnet]:
        """The lease."""
        return [HELD]

    def holds(self, held: lease.HeldSubnet) -> bool:
        """Always."""
        return held == HELD

    def leave(self, prefix: str) -> None:
        """Nothing."""


def main(callers: int, rounds: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=DATA, prefix="bench-") as directory:
        state = statefile.StateFile(pathlib.Path(directory) / "probe.db", (store.SCHEMA,))
        methods = endpoints.methods(service.Ipam(Held(), state))
        pool_id = methods["IpamDriver.RequestPool"]({"AddressSpace": "flannelpy"})["PoolID"]
        gate = threading.Barrier(callers)
        took: list[float] = []

        def call() -> None:
            for _ in range(rounds):
                gate.wait(WAIT_S)
                began = time.perf_counter()
                body = fields.parse_object(json.dumps({"PoolID": pool_id, "Address": "", "Options": None}).encode())
                answer = methods["IpamDriver.RequestAddress"](body)
                json.dumps(answer)
                took.append(time.perf_counter() - began)
                gate.wait(WAIT_S)
                ip = answer["Address"].partition("/")[0]
                methods["IpamDriver.ReleaseAddress"]({"PoolID": pool_id, "Address": ip})

        threads = [threading.Thread(target=call, daemon=True) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        state.close()
        if len(took) != callers * rounds:
            sys.exit(f"{len(took)} of {callers * rounds} calls ended")
    print(json.dumps(took))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
