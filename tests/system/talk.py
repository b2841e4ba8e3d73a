"""Traffic between two containers on two hosts, watched over an interruption: a ping every 10 ms, TCP, and iperf3."""

from __future__ import annotations

import itertools
import re

from lab import host, site

GAP_S = 1.0
"""In which packets may be held up."""
_LOST = 2
"""Echoes that may be on their way when the ping ends."""


class Talk:
    """From a container of one host to one of another. Both have the image flannelpy-tools."""

    def __init__(self, near: host.Host, client: str, far: host.Host, server: str) -> None:
        self.near, self.client, self.far, self.server = near, client, far, server
        self.address = site.ip_of(far, server)

    def start(self) -> None:
        self._inside_server("socat -u TCP-LISTEN:9000 OPEN:/tmp/got,creat & iperf3 -s -D; echo ok")
        site.wait_for("listeners", lambda: {":2328 ", ":1451 "} <= self._listening())
        self._inside_client(f"ping -D -i 0.01 {self.address} > /tmp/ping & echo $! > /tmp/ping.pid")
        loop = "i=0; while [ $i -lt 900 ]; do i=$((i+1)); echo $i; sleep 0.1; done"
        self._inside_client(f"({loop}) | socat -u - TCP:{self.address}:9000 & echo ok")
        iperf = f"iperf3 -c {self.address} -t 300 -b 50M --forceflush -i 1"
        self._inside_client(f"({iperf}; echo ended) > /tmp/iperf 2>&1 & echo ok")
        site.wait_for("bytes over TCP", lambda: self.received() > 3 and len(self._rates()) > 1)

    def received(self) -> int:
        """How many lines have come over the one connection."""
        return int(self._inside_server("cat /tmp/got 2>/dev/null | wc -l"))

    def check(self, lost: int = _LOST) -> None:
        """No more echoes than that were lost, nothing repeated, reset or held up; the ping has ended afterwards."""
        count, rates = self.received(), len(self._rates())
        site.wait_for("the connection goes on", lambda: self.received() > count + 5)
        site.wait_for("iperf3 goes on", lambda: len(self._rates()) > rates + 1)
        got = [int(word) for word in self._inside_server("cat /tmp/got").split()]
        assert got == list(range(1, len(got) + 1)), "the connection lost or repeated something"
        told = self._inside_client("cat /tmp/iperf")
        assert "ended" not in told, told[-300:]
        assert "error" not in told, told[-300:]
        self._inside_client("kill -INT $(cat /tmp/ping.pid)")
        echoes = self._inside_client("sleep 0.5; cat /tmp/ping")
        assert self._longest_gap_s(echoes) <= GAP_S
        sent, back = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", echoes).groups())
        assert sent > 100
        assert sent - back <= lost, echoes[-300:]

    def longest_gap_s(self) -> float:
        """The longest time so far between two echoes."""
        return self._longest_gap_s(self._inside_client("cat /tmp/ping"))

    @staticmethod
    def _longest_gap_s(echoes: str) -> float:
        times = [float(word) for word in re.findall(r"^\[(\d+\.\d+)\] \d+ bytes from", echoes, re.MULTILINE)]
        return max(later - sooner for sooner, later in itertools.pairwise(times))

    def _rates(self) -> list[str]:
        """iperf3's intervals in which bytes went."""
        told = self._inside_client("cat /tmp/iperf 2>/dev/null; true")
        return [rate for rate in re.findall(r" ([\d.]+) [KMG]?bits/sec", told) if float(rate) > 0]

    def _listening(self) -> set[str]:
        told = self._inside_server("cat /proc/net/tcp /proc/net/tcp6")
        return set(re.findall(r":[0-9A-F]{4} ", told))

    def _inside_client(self, words: str) -> str:
        return site.inside(self.near, self.client, words)

    def _inside_server(self, words: str) -> str:
        return site.inside(self.far, self.server, words)
