"""Take and release addresses from eight threads for ever, telling each step on standard output. Argument: the file.

`+IP` was granted, `?IP` is about to be released.
"""

import ipaddress
import os
import pathlib
import sys
import threading

from ipam import requests, service, store
from overlay import lease, statefile


class OneLease:
    def __init__(self) -> None:
        self.subnet = lease.HeldSubnet(
            prefix="/coreos.com/network",
            network=ipaddress.IPv4Network("10.2.0.0/16"),
            subnet=ipaddress.IPv4Network("10.2.20.0/22"),
            device="flannel.1",
            overlay_mtu=1450,
        )

    def wait(self, prefix: str | None, timeout_s: float) -> lease.HeldSubnet:
        return self.subnet

    def held(self) -> list[lease.HeldSubnet]:
        return [self.subnet]

    def holds(self, held: lease.HeldSubnet) -> bool:
        return held == self.subnet

    def leave(self, prefix: str) -> None:
        pass


def tell(sign: str, ip: ipaddress.IPv4Address) -> None:
    os.write(1, f"{sign}{ip}\n".encode())


def work(ipam: service.Ipam, pool_id: str) -> None:
    mine: list[ipaddress.IPv4Address] = []
    while True:
        mine.append(ipam.request_address(requests.AddressRequest(pool_id=pool_id)).ip)
        tell("+", mine[-1])
        if len(mine) > 10:
            tell("?", mine[0])
            ipam.release_address(pool_id, mine.pop(0))


def main() -> None:
    ipam = service.Ipam(OneLease(), statefile.StateFile(pathlib.Path(sys.argv[1]), [store.SCHEMA]))
    pools = ipam.usage()
    pool_id = pools[0].id if pools else ipam.request_pool(requests.PoolRequest()).id
    for _ in range(8):
        threading.Thread(target=work, args=(ipam, pool_id)).start()


main()
