"""A node as a process of its own, for what a test cannot do to itself: set its clock, measure its CPU.

    python -m tests.overlay.node_process ENDPOINTS FOLDER TTL_S

Prints its status as a line of JSON twice a second until it is killed, and logs to stderr. The kernel is in memory.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
import sys
import threading
import time

from overlay import etcd_client, etcd_settings, registry_etcd
from tests.overlay import node_host


def main(endpoints: str, folder: str, ttl_s: str) -> None:
    """Run for ever."""
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(name)s %(message)s")
    client = etcd_client.EtcdClient(etcd_settings.EtcdSettings(endpoints=tuple(endpoints.split(","))))
    agreed = registry_etcd.EtcdRegistry(client, node_host.PREFIX, ttl_s=int(ttl_s))
    host = node_host.NodeHost(pathlib.Path(folder), agreed)  # type: ignore[arg-type]  # any registry will do
    host.in_use = True
    host.timing = dataclasses.replace(type(host.timing)(), beat_s=min(120.0, int(ttl_s) / 3))
    one = host.start()
    while not threading.Event().wait(0.5):
        told = {"clock": time.time(), "requests": client.requests.read(), **dataclasses.asdict(one.status())}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
