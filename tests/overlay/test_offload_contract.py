"""Checksum offload for real: a NIC that never finishes checksums, a firewall, and a sound wire."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from overlay import offload, offload_watch, probe
from tests.overlay import nic

pytestmark = pytest.mark.contract


class Lookout:
    """The watch over one host, by a clock that the test moves."""

    def __init__(self, host: nic.Host) -> None:
        self.now = 1000.0
        self.watch = offload_watch.OffloadWatch(
            lambda: [host], probe.Probe(), lambda _count: 0, monotonic=lambda: self.now
        )

    def run(self, seconds: float) -> None:
        """As many looks as there are in so many seconds."""
        until = self.now + seconds
        while self.now < until:
            self.watch.look(threading.Event())
            self.now += 60.0 if seconds > 3600 else 1.0

    @property
    def verdict(self) -> str:
        (status,) = self.watch.status()
        return status.verdict


@contextlib.contextmanager
def site(make_netns: Any, *, broken: bool, version: int = 4) -> Iterator[nic.Site]:
    made = nic.Site(make_netns, broken=broken, version=version)
    try:
        with made.here.inside():
            yield made
    finally:
        made.close()


@pytest.mark.parametrize("version", [4, 6])
def test_a_nic_that_never_finishes_checksums_is_found_out_and_tcp_works(make_netns: Any, version: int) -> None:
    with site(make_netns, broken=True, version=version) as made:
        host = nic.Host(version)
        assert probe.Probe().ask(nic.tunnel(version)) == offload.Answers(kernel=False, crafted=True)
        assert not made.speak()
        lookout = Lookout(host)
        lookout.run(10)
        assert (lookout.verdict, host.switched, host.device.tx_checksum) == ("broken", [False], False)
        assert made.speak()

        made.here.run(f"ip link del {nic.DEVICES[version]}")
        host.reconciler.run_pass()
        nic.await_address(version, nic.HERE)
        assert not host.device.tx_checksum
        assert made.speak()


def test_a_broken_nic_is_not_asked_about_again(make_netns: Any) -> None:
    with site(make_netns, broken=True):
        host = nic.Host(4)
        lookout = Lookout(host)
        lookout.run(10)
        tap = nic.Tap(nic.DEVICES[4])
        with contextlib.closing(tap):
            lookout.run(48 * 3600)
            assert (tap.count(), lookout.verdict, host.switched) == (0, "broken", [False])


def test_a_device_found_off_below_a_broken_nic_stays_off(make_netns: Any) -> None:
    with site(make_netns, broken=True) as made:
        host = nic.Host(4)
        host.set_tx_checksum(False)
        lookout = Lookout(host)
        lookout.run(10)
        assert (lookout.verdict, host.device.tx_checksum) == ("broken", False)
        assert made.speak()


@pytest.mark.parametrize("version", [4, 6])
def test_a_sound_wire_costs_a_few_packets_and_stays_on(make_netns: Any, version: int) -> None:
    with site(make_netns, broken=False, version=version) as made:
        host = nic.Host(version)
        with contextlib.closing(nic.Tap(nic.DEVICES[version])) as tap:
            lookout = Lookout(host)
            lookout.run(24 * 3600)
            assert 1 <= tap.count() <= 5
        assert (lookout.verdict, host.switched, host.device.tx_checksum) == ("sound", [], True)
        assert made.speak()


def test_a_firewall_that_drops_all_tcp_is_no_broken_nic(make_netns: Any) -> None:
    with site(make_netns, broken=False) as made:
        made.drop_tcp()
        host = nic.Host(4)
        lookout = Lookout(host)
        lookout.run(10)
        assert (lookout.verdict, host.switched, host.device.tx_checksum) == ("silent", [], True)


def test_a_firewall_that_tells_the_two_segments_apart_is_no_broken_nic_either(make_netns: Any) -> None:
    """It drops what has TCP options: the kernel's segments have, ours have not. The device is switched for a test."""
    with site(make_netns, broken=False) as made:
        made.drop_tcp("tcp option timestamp exists")
        host = nic.Host(4)
        lookout = Lookout(host)
        lookout.run(10)
        assert (lookout.verdict, host.switched, host.device.tx_checksum) == ("doubtful", [False, True], True)


def test_a_reset_and_a_connection_are_both_an_answer(make_netns: Any) -> None:
    with site(make_netns, broken=False) as made:
        nic.Host(4)
        heard = offload.Answers(kernel=True, crafted=False)
        assert probe.Probe().ask(nic.tunnel(4)) == heard
        with made.there.inside():
            server = nic.socket.create_server((str(nic.tunnel(4).peer), probe.PORT))
        with server:
            assert probe.Probe().ask(nic.tunnel(4)) == heard


def test_an_accepted_crafted_segment_is_an_answer_and_leaves_no_connection(make_netns: Any) -> None:
    with site(make_netns, broken=True) as made:
        nic.Host(4)
        with made.there.inside():
            server = nic.socket.create_server((str(nic.tunnel(4).peer), probe.PORT))
        with server:
            assert probe.Probe().ask(nic.tunnel(4)) == offload.Answers(kernel=False, crafted=True)


def test_without_a_way_to_the_peer_there_is_an_error(netns: Any) -> None:
    with netns.inside(), pytest.raises(OSError):
        probe.Probe().ask(nic.tunnel(4))
