"""Small programs that run in a network namespace of the lab, with this machine's Python: containers have none.

`python -m bench.inside routes COUNT SECONDS` prints the monotonic time at which the kernel listed that many of our
routes; `keys ADDRESS PREFIX COUNT SECONDS` the last one at which etcd had no more than that many keys under a prefix;
`entries COUNT SECONDS` the time at which that many routes, neighbours and forwarding entries were there;
`serve ADDRESS PORT` answers each byte with a byte; `ask ADDRESS PORT SECONDS` prints the median time of one
byte there and one back over one TCP connection, in microseconds; `deltas ETCD PREFIX PEERS CHANGES` changes peers and
prints how long it took until the kernel had what came of it; `put-peers ETCD PREFIX COUNT`, `keep-peers ETCD PREFIX`
and `delete ETCD PREFIX` make a flannel network, take all leases but the peers' away, and unmake it; `requests ETCD`
prints how many etcd has served. All end by themselves.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import lab
from bench import changes, peers
from overlay import netstate, rtnl, rtnl_socket

POLL_S = 0.005
LIFE_S = 120.0
BEGIN_S = 1.0
"""How long a program takes to begin on a busy machine."""


@contextlib.contextmanager
def running(net: pathlib.Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of them in a network namespace, given as a file; it has ended when the block has."""
    argv = ["nsenter", f"--net={net}", "--", sys.executable, "-m", "bench.inside", *words]
    checkout = pathlib.Path(__file__).parent.parent
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=checkout) as process:
        try:
            yield process
        finally:
            process.kill()


def answer(process: subprocess.Popen[bytes], timeout_s: float) -> float:
    """Wait for its end and give the number that it printed. Raises LabError, subprocess.TimeoutExpired."""
    return float(finish(process, timeout_s))


def finish(process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    """Wait for its end and give what it printed. Raises LabError, subprocess.TimeoutExpired."""
    out, _ = process.communicate(timeout=timeout_s)
    if process.returncode != 0:
        raise lab.LabError(f"{process.args!r} ended with {process.returncode}, see above")
    return out


def watch_routes(count: int, seconds: float) -> float:
    """The moment at which they are all there. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    with rtnl_socket.open_socket() as sock:
        while True:
            found = len(sock.dump(rtnl.RTM_GETROUTE, rtnl.route_request(rtnl.AF_INET, netstate.ROUTE_PROTOCOL)))
            now = time.monotonic()
            if found >= count:
                return now
            if now > deadline:
                raise TimeoutError(f"{found} of {count} routes after {seconds:g} s")
            time.sleep(POLL_S)


def watch_entries(count: int, seconds: float) -> float:
    """The moment at which every peer has its route, neighbour and forwarding entry. Raises TimeoutError.

    Routes, which the plugin writes last, are looked at first, by their number alone.
    """
    deadline = time.monotonic() + seconds
    watch_routes(count, seconds)
    with rtnl_socket.open_socket() as sock:
        index = socket.if_nametoindex("flannel.1")
        while True:
            found = [
                len(sock.dump(rtnl.RTM_GETNEIGH, rtnl.neighbour_request(index))),
                len(sock.dump(rtnl.RTM_GETNEIGH, rtnl.fdb_request(index))),
                len(sock.dump(rtnl.RTM_GETROUTE, rtnl.route_request(rtnl.AF_INET, netstate.ROUTE_PROTOCOL))),
            ]
            now = time.monotonic()
            if min(found) >= count:
                return now
            if now > deadline:
                raise TimeoutError(f"{found} of {count} entries after {seconds:g} s")
            time.sleep(POLL_S)


def watch_keys(etcd: str, prefix: str, count: int, seconds: float) -> float:
    """When the last look began that found no more than `count`. Raises TimeoutError, OSError.

    Asks etcd's JSON gateway: a watch tells of a key when its reader gets the processor, which may be much later.
    """
    deadline = time.monotonic() + seconds
    gateway = peers.Gateway(etcd)
    absent = time.monotonic()
    while True:
        began = time.monotonic()
        if gateway.count(prefix) > count:
            return absent
        absent = began
        if began > deadline:
            raise TimeoutError(f"no more than {count} keys under {prefix} after {seconds:g} s")
        time.sleep(POLL_S)


def serve(address: str, port: int) -> None:
    """Answer one connection until it ends."""
    with socket.create_server((address, port)) as listener:
        listener.settimeout(LIFE_S)
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(LIFE_S)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := peer.recv(1):
                peer.sendall(data)


def ask(address: str, port: int, seconds: float) -> float:
    """The median round trip in microseconds."""
    took: list[float] = []
    with socket.create_connection((address, port), timeout=10) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.perf_counter() + seconds
        before = time.perf_counter()
        while before < end:
            peer.sendall(b"x")
            peer.recv(1)
            now = time.perf_counter()
            took.append(now - before)
            before = now
    return 1e6 * statistics.median(took)


def keep_peers(etcd: str, prefix: str) -> None:
    """Delete the lease of the host that was measured: whatever has no peer's key."""
    gateway = peers.Gateway(etcd)
    subnets = f"{prefix}/subnets/"
    found = gateway.keys(subnets)
    known = {subnets + peers.lease(number)[0] for number in range(len(found))}
    for key in set(found) - known:
        gateway.delete(key)


def put_peers(etcd: str, prefix: str, count: int) -> None:
    """A flannel network's config and its leases."""
    gateway = peers.Gateway(etcd)
    gateway.put(f"{prefix}/config", peers.CONFIG)
    gateway.put_peers(prefix, 0, count)


def main(words: Sequence[str]) -> None:  # noqa: C901 - one line per program
    """Run one of them."""
    match words:
        case ["routes", count, seconds]:
            print(watch_routes(int(count), float(seconds)))
        case ["entries", count, seconds]:
            print(watch_entries(int(count), float(seconds)))
        case ["keys", etcd, prefix, count, seconds]:
            print(watch_keys(etcd, prefix, int(count), float(seconds)))
        case ["serve", address, port]:
            serve(address, int(port))
        case ["ask", address, port, seconds]:
            print(ask(address, int(port), float(seconds)))
        case ["deltas", etcd, prefix, count, number]:
            print(json.dumps(changes.measure(etcd, prefix, int(count), int(number))))
        case ["put-peers", etcd, prefix, count]:
            put_peers(etcd, prefix, int(count))
        case ["keep-peers", etcd, prefix]:
            keep_peers(etcd, prefix)
        case ["delete", etcd, prefix]:
            peers.Gateway(etcd).delete_all(f"{prefix}/")
        case ["requests", etcd]:
            print(peers.Gateway(etcd).requests())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
