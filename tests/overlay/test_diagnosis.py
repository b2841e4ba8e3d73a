from __future__ import annotations

import itertools

import pytest

from overlay import diagnosis

PATH = diagnosis.Path(public_ip="192.0.2.9", link="eth0", mtu=1450, udp_port=8472)
ROUTED = diagnosis.Path(public_ip="192.0.2.9", link="eth0", mtu=1500, udp_port=None)


def seen(underlay: int, tunnel: int, full: int, tcp: int) -> diagnosis.Evidence:
    return diagnosis.Evidence(underlay=bool(underlay), tunnel=bool(tunnel), full=bool(full), tcp=bool(tcp))


@pytest.mark.parametrize(
    ("evidence", "path", "words"),
    [
        (seen(1, 1, 1, 1), PATH, "reachable"),
        (seen(0, 1, 1, 1), PATH, "reachable"),  # a host that drops pings to itself
        (seen(1, 1, 0, 1), PATH, "packets of 1450 bytes do not"),
        (seen(1, 1, 0, 0), PATH, "packets of 1450 bytes do not"),
        (seen(1, 1, 1, 0), PATH, "TX_CHECKSUM=off"),
        (seen(1, 0, 0, 0), PATH, "UDP port 8472 is filtered"),
        (seen(1, 0, 0, 0), ROUTED, "a router between drops packets"),
        (seen(0, 0, 0, 0), PATH, "192.0.2.9 does not answer a ping over eth0"),
        (seen(0, 0, 0, 0), ROUTED, "does not answer a ping over eth0"),
    ],
)
def test_each_fault_has_its_words(evidence: diagnosis.Evidence, path: diagnosis.Path, words: str) -> None:
    assert words in diagnosis.conclude(evidence, path)


def test_only_a_peer_that_answers_everything_is_reachable() -> None:
    for bits in itertools.product((0, 1), repeat=4):
        reachable = diagnosis.conclude(seen(*bits), PATH) == "reachable"
        assert reachable == (bits[1:] == (1, 1, 1)), bits
