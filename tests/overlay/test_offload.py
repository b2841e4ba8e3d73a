"""Whom to ask about checksum offload, when, and what the answers come to."""

import dataclasses
import ipaddress

import hypothesis
import pytest
from hypothesis import strategies as st

from overlay import netstate, offload
from tests.overlay import nic

ON_OK = offload.Look(tx_checksum=True, answers=offload.Answers(kernel=True, crafted=False))
ON_SUSPECT = offload.Look(tx_checksum=True, answers=offload.Answers(kernel=False, crafted=True))
ON_SILENT = offload.Look(tx_checksum=True, answers=offload.Answers(kernel=False, crafted=False))
OFF_OK = dataclasses.replace(ON_OK, tx_checksum=False)
OFF_SUSPECT = dataclasses.replace(ON_SUSPECT, tx_checksum=False)
OFF_SILENT = dataclasses.replace(ON_SILENT, tx_checksum=False)
LOOK_ON, LOOK_OFF = offload.Ask(tx_checksum=True), offload.Ask(tx_checksum=False)
SOUND, BROKEN = offload.Verdict.SOUND, offload.Verdict.BROKEN
DOUBTFUL, SILENT = offload.Verdict.DOUBTFUL, offload.Verdict.SILENT


def tunnel(third: int, version: int = 4) -> offload.Tunnel:
    return dataclasses.replace(nic.tunnel(version), peer=nic.subnet(version, third).network_address)


def first(_count: int) -> int:
    return 0


# -- what answers mean -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "looks", "expected"),
    [
        (True, [], LOOK_ON),
        (True, [ON_OK], SOUND),
        (True, [ON_SILENT], SILENT),
        (True, [ON_SUSPECT], LOOK_ON),
        (True, [ON_SUSPECT, ON_OK], SOUND),
        (True, [ON_SUSPECT, ON_SILENT], SILENT),
        (True, [ON_SUSPECT, ON_SUSPECT], LOOK_OFF),
        (True, [ON_SUSPECT, ON_SUSPECT, OFF_OK], BROKEN),
        (True, [ON_SUSPECT, ON_SUSPECT, OFF_SUSPECT], DOUBTFUL),
        (True, [ON_SUSPECT, ON_SUSPECT, OFF_SILENT], DOUBTFUL),
        (False, [], LOOK_OFF),
        (False, [OFF_SILENT], SILENT),
        (False, [OFF_SUSPECT], DOUBTFUL),
        (False, [OFF_OK], LOOK_ON),
        (False, [OFF_OK, ON_OK], SOUND),
        (False, [OFF_OK, ON_SUSPECT], BROKEN),
        (False, [OFF_OK, ON_SILENT], SILENT),
    ],
)
def test_an_examination_goes_on_until_it_is_sure(
    before: bool, looks: list[offload.Look], expected: offload.Ask | offload.Verdict
) -> None:
    assert offload.decide(before, looks) == expected


@pytest.mark.parametrize(
    ("verdict", "was_on", "was_off"),
    [(SOUND, True, True), (BROKEN, False, False), (DOUBTFUL, True, False), (SILENT, True, False)],
)
def test_what_teaches_nothing_leaves_the_device_as_it_was(
    verdict: offload.Verdict, was_on: bool, was_off: bool
) -> None:
    assert (offload.switch_after(True, verdict), offload.switch_after(False, verdict)) == (was_on, was_off)


answers = st.builds(offload.Answers, kernel=st.booleans(), crafted=st.booleans())


@hypothesis.given(st.booleans(), st.lists(answers, min_size=4, max_size=4))
def test_every_examination_ends_after_three_looks_at_most(before: bool, told: list[offload.Answers]) -> None:
    looks: list[offload.Look] = []
    while isinstance(step := offload.decide(before, looks), offload.Ask):
        looks.append(offload.Look(tx_checksum=step.tx_checksum, answers=told[len(looks)]))
    assert len(looks) <= 3
    if step is BROKEN:
        assert OFF_OK.answers.kernel in {look.answers.kernel for look in looks if not look.tx_checksum}


# -- whom to ask, and when -------------------------------------------------------------------------------------------


class Asking:
    """Asks second by second, and notes who was asked when."""

    def __init__(self, *verdicts: offload.Verdict) -> None:
        self.memory = offload.Memory()
        self.now = 1000.0
        self.asked: list[tuple[float, netstate.IPAddress]] = []
        self._verdicts = verdicts

    def run(self, tunnels: list[offload.Tunnel], seconds: float, step: float = 1.0) -> None:
        until = self.now + seconds
        while self.now < until:
            chosen = None
            if offload.may_ask(self.memory, self.now):
                self.memory, chosen = offload.choose_tunnel(self.memory, tunnels, self.now, first)
            if chosen is not None:
                verdict = self._verdicts[min(len(self.asked), len(self._verdicts) - 1)]
                self.asked.append((self.now, chosen.peer))
                self.memory = offload.note(self.memory, chosen, verdict, self.now)
            self.now += step

    def take(self) -> list[tuple[float, str]]:
        taken = [(at, str(peer)) for at, peer in self.asked]
        self.asked.clear()
        return taken


def test_without_a_peer_nobody_is_asked() -> None:
    asking = Asking(SOUND)
    asking.run([], 3600)
    assert asking.take() == []


def test_the_first_peer_is_asked_after_three_seconds_and_then_seldom() -> None:
    asking = Asking(SOUND)
    asking.run([tunnel(2)], 24 * 3600)
    hours = [at for at, _ in asking.take()]
    assert hours == [1003.0 + number * offload.SELDOM_S for number in range(4)]


def test_new_peers_are_asked_up_to_a_handful_and_then_seldom() -> None:
    asking = Asking(SOUND)
    asking.run([tunnel(third) for third in range(2, 60)], 3600)
    assert asking.take() == [(1003.0 + 30.0 * number, f"10.2.{2 + number}.0") for number in range(offload.HANDFUL)]
    asking.run([tunnel(third) for third in range(2, 60)], 24 * 3600, step=60)
    assert len(asking.take()) == 4


def test_a_peer_that_comes_later_is_asked_soon() -> None:
    asking = Asking(SOUND)
    asking.run([tunnel(2)], 600)
    asking.run([tunnel(2), tunnel(3)], 600)
    assert asking.take() == [(1003.0, "10.2.2.0"), (1600.0, "10.2.3.0")]


def test_a_silent_peer_is_asked_ever_later() -> None:
    asking = Asking(SILENT)
    asking.run([tunnel(2)], 1000)
    assert [at - 1003.0 for at, _ in asking.take()] == [0, 30, 90, 210, 450, 930]
    asking.run([tunnel(2)], 10 * 24 * 3600, step=60)
    assert asking.memory.pause_s == offload.SELDOM_S


def test_a_doubtful_peer_is_asked_much_later_another_one_soon() -> None:
    asking = Asking(DOUBTFUL, SOUND)
    asking.run([tunnel(2)], 3600)
    assert asking.take() == [(1003.0, "10.2.2.0")]
    asking.run([tunnel(2), tunnel(3)], 3600)
    assert asking.take() == [(4600.0, "10.2.3.0")]


def test_what_is_broken_is_not_asked_about_again() -> None:
    asking = Asking(BROKEN)
    asking.run([tunnel(2)], 24 * 3600, step=60)
    assert len(asking.take()) == 1
    asking.run([tunnel(2), tunnel(3)], 24 * 3600, step=60)
    assert asking.take() == []


def test_the_family_asked_less_comes_first() -> None:
    asking = Asking(SOUND)
    asking.run([tunnel(2), tunnel(3), tunnel(2, 6), tunnel(3, 6)], 120)
    assert [peer for _, peer in asking.take()] == ["10.2.2.0", "fd00:2:2::", "10.2.3.0", "fd00:2:3::"]


def test_silence_does_not_unsay_what_was_learned() -> None:
    memory = offload.note(offload.Memory(), tunnel(2), SOUND, 0.0)
    assert offload.note(memory, tunnel(3), SILENT, 60.0).verdict is SOUND
    assert offload.note(offload.Memory(), tunnel(3), SILENT, 60.0).verdict is SILENT


# -- the kernel state ------------------------------------------------------------------------------------------------


def test_tunnels_are_those_of_the_tunnel_devices_in_both_families() -> None:
    bridge = netstate.IfName("fp-1")
    others: list[netstate.KernelObject] = [
        netstate.Address(link=bridge, interface=ipaddress.ip_interface("10.2.1.1/24")),
        netstate.Neighbour(link=bridge, ip=ipaddress.ip_address("10.2.1.9"), mac=netstate.Mac("02:00:00:00:00:09")),
        netstate.Route(
            destination=ipaddress.ip_network("10.2.9.0/24"),
            gateway=ipaddress.ip_address("198.51.100.9"),
            link=nic.UNDERLAY,
            onlink=False,
        ),
    ]
    both = nic.state(4, nic.HERE, tx_checksum=True) | nic.state(6, nic.HERE, tx_checksum=True)
    found = offload.find_tunnels(both | frozenset(others))
    assert sorted(found, key=lambda one: one.peer.version) == [nic.tunnel(4), nic.tunnel(6)]


def test_a_network_is_on_where_all_its_devices_are() -> None:
    on, off = nic.state(4, nic.HERE, tx_checksum=True), nic.state(6, nic.HERE, tx_checksum=False)
    assert offload.is_on(on)
    assert not offload.is_on(on | off)
