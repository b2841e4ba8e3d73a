"""How a second host with our address is answered. Times are seconds of a clock that stands still by itself."""

from __future__ import annotations

import pytest

from overlay import feud, lease
from tests.overlay import node_host

OURS = node_host.attrs("192.0.2.1", node_host.MAC)
THEIRS = lease.Lease(key=node_host.key("10.2.1.0/24"), attrs=node_host.attrs("192.0.2.1", "0e:00:00:00:00:02"))
TOLD = (
    "subnet 10.2.1.0/24 is published again and again with our PublicIP 192.0.2.1 and other data, "
    '{"VNI":1,"VtepMAC":"0e:00:00:00:00:02"}: a second host has this address, and peers reach only one of the two; '
    "set IFACE or PUBLIC_IP so that each host has its own"
)


@pytest.fixture
def quarrel() -> feud.Feud:
    return feud.Feud(60.0)


def test_the_first_time_is_put_right_at_once_and_not_told(quarrel: feud.Feud) -> None:
    assert quarrel.hold_back(1000.0, OURS, THEIRS) == 0.0
    assert quarrel.told(1000.0, OURS) is None


def test_again_it_waits_until_a_pause_after_the_last_answer(quarrel: feud.Feud) -> None:
    waits = [quarrel.hold_back(at, OURS, THEIRS) for at in (1000.0, 1010.0, 1059.0, 1060.0, 1061.0)]
    assert waits == [0.0, 50.0, 1.0, 0.0, 59.0]


def test_it_is_told_until_five_pauses_have_passed_in_peace(quarrel: feud.Feud) -> None:
    for at in (1000.0, 1010.0):
        quarrel.hold_back(at, OURS, THEIRS)
    assert [quarrel.told(at, OURS) for at in (1010.0, 1310.0, 1311.0)] == [TOLD, TOLD, None]


def test_our_own_words_and_another_host_s_are_no_feud(quarrel: feud.Feud) -> None:
    ours = lease.Lease(key=THEIRS.key, attrs=OURS)
    thiefs = lease.Lease(key=THEIRS.key, attrs=node_host.attrs("192.0.2.66"))
    for one in (ours, thiefs) * 3:
        assert quarrel.hold_back(1000.0, OURS, one) == 0.0
    assert quarrel.told(1000.0, OURS) is None


def test_a_host_that_moved_away_from_the_address_has_no_feud(quarrel: feud.Feud) -> None:
    for at in (1000.0, 1010.0):
        quarrel.hold_back(at, OURS, THEIRS)
    assert quarrel.told(1010.0, node_host.attrs("192.0.2.7", node_host.MAC)) is None
