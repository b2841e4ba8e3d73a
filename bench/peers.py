"""Peers that exist in etcd alone: their leases as flanneld writes them, put there by the thousand.

Used by `converge` and `scale`, and by the programs of `inside`. Talks to etcd's JSON gateway, so that it works in any
network namespace with this machine's Python.
"""

from __future__ import annotations

import base64
import http.client
import json
import time
from typing import Any, Final

CONFIG: Final = '{"Network": "10.0.0.0/8", "Backend": {"Type": "vxlan"}}'
BATCH: Final = 100
"""Puts in one transaction: etcd takes 128 operations."""

MAX: Final = 56_000
"""As many as there are subnets from FIRST on, and public addresses."""

_FIRST: Final = 10 << 24 | 17 << 16
_PER_NET: Final = 250


def lease(number: int, generation: int = 0) -> tuple[str, str]:
    """The last part of a peer's key, and its value. Peers are 10.17.0.0/24 and on; a generation has its own MAC."""
    high, low = divmod(number, _PER_NET)
    subnet = _FIRST + (number << 8)
    value: dict[str, Any] = {
        "PublicIP": f"198.51.{high}.{low + 1}" if high < 256 else f"198.52.{high - 256}.{low + 1}",
        "PublicIPv6": None,
        "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": mac(number, generation)},
    }
    return f"{subnet >> 24}.{subnet >> 16 & 255}.{subnet >> 8 & 255}.0-24", json.dumps(value, separators=(",", ":"))


def mac(number: int, generation: int = 0) -> str:
    """The MAC of a peer's device."""
    return f"02:{generation:02x}:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


class Gateway:
    """etcd's JSON gateway at ADDRESS:PORT; one connection. Raises OSError."""

    def __init__(self, etcd: str) -> None:
        self._connection = http.client.HTTPConnection(etcd, timeout=30)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def put(self, key: str, value: str) -> None:
        """Write one key."""
        self._ask("/v3/kv/put", {"key": _encode(key), "value": _encode(value)})

    def put_peers(self, prefix: str, first: int, last: int) -> None:
        """The leases of peers from `first` up to `last`, in transactions of a hundred."""
        for at in range(first, last, BATCH):
            puts = [lease(number) for number in range(at, min(at + BATCH, last))]
            operations = [
                {"requestPut": {"key": _encode(f"{prefix}/subnets/{key}"), "value": _encode(value)}}
                for key, value in puts
            ]
            self._ask("/v3/kv/txn", {"success": operations})

    def delete_all(self, prefix: str) -> None:
        """Every key that begins with `prefix`."""
        self._ask("/v3/kv/deleterange", {"key": _encode(prefix), "range_end": _encode(_end(prefix))})

    def count(self, prefix: str) -> int:
        """How many keys begin with `prefix`."""
        asked = {"key": _encode(prefix), "range_end": _encode(_end(prefix)), "count_only": True}
        return int(self._ask("/v3/kv/range", asked).get("count", 0))

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin with `prefix`."""
        asked = {"key": _encode(prefix), "range_end": _encode(_end(prefix)), "keys_only": True}
        return [base64.b64decode(item["key"]).decode() for item in self._ask("/v3/kv/range", asked).get("kvs", [])]

    def delete(self, key: str) -> None:
        """One key."""
        self._ask("/v3/kv/deleterange", {"key": _encode(key)})

    def requests(self) -> float:
        """The requests and streams that etcd has begun to serve since it started, those of this gateway included.

        Source: etcd's metrics, grpc_server_started_total.
        """
        self._connection.request("GET", "/metrics")
        text = self._connection.getresponse().read().decode()
        rows = (line for line in text.splitlines() if line.startswith("grpc_server_started_total"))
        return sum(float(line.rpartition(" ")[2]) for line in rows)

    def _connect(self) -> None:
        """An etcd that was started just now does not listen yet."""
        give_up = time.monotonic() + 10
        while self._connection.sock is None:
            try:
                self._connection.connect()
            except ConnectionRefusedError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.05)

    def _ask(self, path: str, body: Any) -> Any:  # Any: JSON
        self._connect()
        self._connection.request("POST", path, json.dumps(body))
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise OSError(f"{path}: {response.status} {answer.decode(errors='replace')[:400]}")
        return json.loads(answer)


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _end(prefix: str) -> str:
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
