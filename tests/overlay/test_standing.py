"""Waiting for the lease."""

from __future__ import annotations

import dataclasses
import ipaddress
import threading
import time

import pytest

from overlay import (
    backend,
    errors,
    kernel,
    lease,
    member,
    netconfig,
    netstate,
    peers,
    preflight,
    standing,
    tally,
    underlay,
)
from tests.overlay import node_host

CONFIG = netconfig.parse_network_config(node_host.CONFIG)
BACKEND = backend.choose_backend(CONFIG)
OWN = backend.Own(
    key=node_host.key("10.2.20.0/24"),
    underlay=underlay.Underlay(
        name=netstate.IfName("eth0"),
        ip=ipaddress.IPv4Address("192.0.2.1"),
        mtu=1500,
        public_ip=ipaddress.IPv4Address("192.0.2.1"),
    ),
    mac=node_host.MAC,
)
MEMBER = member.Membership(
    config_text=node_host.CONFIG, config=CONFIG, backend=BACKEND, own=OWN, attrs=BACKEND.attrs(OWN)
)
LEASE = lease.Lease(key=OWN.key, attrs=MEMBER.attrs, lease_id=7, mod_revision=3)
HELD = lease.HeldSubnet(
    prefix="/p",
    network=ipaddress.IPv4Network("10.2.0.0/16"),
    subnet=ipaddress.IPv4Network("10.2.20.0/24"),
    device="flannel.1",
    overlay_mtu=1450,
)
BY = lease.Lease(key=OWN.key, attrs=node_host.attrs("192.0.2.9"))


@pytest.fixture
def here() -> standing.Standing:
    return standing.Standing("/p")


def test_nothing_is_known_at_first(here: standing.Standing) -> None:
    assert (here.now(), here.held(), here.refused()) == ((None, None, peers.Book()), None, False)
    assert here.status() == standing.Status(
        prefix="/p",
        subnet=None,
        subnet_v6=None,
        device=None,
        public_ip=None,
        public_ipv6=None,
        underlay=None,
        mtu=None,
        confirmed=False,
        conflict=None,
        trouble=None,
        outage=None,
        underlay_trouble=None,
        followed=False,
        peers=0,
        skipped=(),
        revision=0,
        expires_in_s=None,
        heard_s=None,
        watch_heard_s=None,
        silence=None,
        renewed_s=None,
        events=dict.fromkeys(tally.Event, 0),
        findings=preflight.Findings(),
    )


def test_a_saved_lease_is_held_but_not_confirmed(here: standing.Standing) -> None:
    here.set_saved(MEMBER, {})
    assert here.wait(0, 0) == here.held() == HELD
    assert not here.status().confirmed


@pytest.mark.parametrize(
    ("options", "device", "direct"),
    [
        ('"Type": "vxlan"', "flannel.1", False),
        ('"Type": "vxlan", "DirectRouting": true', "flannel.1", True),
        ('"Type": "host-gw"', "", True),
    ],
)
def test_it_is_told_whether_packets_cross_the_underlay_as_they_are(
    here: standing.Standing, options: str, device: str, *, direct: bool
) -> None:
    config = netconfig.parse_network_config(f'{{"Network": "10.2.0.0/16", "Backend": {{{options}}}}}')
    here.set_saved(dataclasses.replace(MEMBER, config=config, backend=backend.choose_backend(config)), {})
    held = here.held()
    assert held is not None
    assert (held.device, held.direct) == (device, direct)


def test_a_joined_lease_is_confirmed_and_expires(here: standing.Standing) -> None:
    here.set_trouble(errors.NotReady("starting"))
    here.set_joined(member.Joined(member=MEMBER, lease=LEASE))
    seen = here.status()
    assert (seen.subnet, seen.device, seen.public_ip, seen.confirmed, seen.trouble) == (
        "10.2.20.0/24",
        "flannel.1",
        "192.0.2.1",
        True,
        None,
    )
    assert seen.expires_in_s is not None
    assert 86_000 < seen.expires_in_s <= 86_400
    assert seen.heard_s is not None
    assert 0 <= seen.heard_s < 60


def test_a_reservation_never_expires(here: standing.Standing) -> None:
    here.set_joined(member.Joined(member=MEMBER, lease=dataclasses.replace(LEASE, lease_id=0)))
    assert here.status().expires_in_s is None


def test_waiting_ends_with_the_lease(here: standing.Standing) -> None:
    told: list[lease.HeldSubnet] = []
    waiting = threading.Thread(target=lambda: told.append(here.wait(0, 10)))
    waiting.start()
    here.begin()
    here.set_joined(member.Joined(member=MEMBER, lease=LEASE))
    waiting.join(5)
    assert told == [HELD]


@pytest.mark.parametrize("exc", [None, errors.RegistryUnavailable("etcd gave no answer in 5 s")])
def test_waiting_in_vain_names_the_reason(here: standing.Standing, exc: errors.OverlayError | None) -> None:
    if exc is not None:
        here.set_trouble(exc)
    began = time.monotonic()
    with pytest.raises(errors.NotReady) as caught:
        here.wait(0, 0.05)
    assert str(caught.value) == f"no flannel lease under /p yet: {exc or 'starting'}"
    assert 0.05 <= time.monotonic() - began < 2


@pytest.mark.parametrize(
    "exc",
    [
        errors.ConfigMissing("no config"),
        errors.ConfigInvalid("bad"),
        errors.UnderlayError("no link"),
        errors.RegistryDenied("wrong password"),
        errors.OutOfSubnets("full"),
    ],
)
def test_what_waiting_cannot_cure_is_said_at_once(here: standing.Standing, exc: errors.OverlayError) -> None:
    here.begin()
    here.set_trouble(exc)
    began = time.monotonic()
    with pytest.raises(type(exc)):
        here.wait(0, 10)
    assert time.monotonic() - began < 2


def test_the_failure_of_an_attempt_that_began_before_does_not_count(here: standing.Standing) -> None:
    """The operator has put the config right a moment after that attempt read it."""
    here.begin()
    seen = here.attempts()
    told: list[lease.HeldSubnet] = []
    waiting = threading.Thread(target=lambda: told.append(here.wait(seen, 10)))
    waiting.start()
    here.set_trouble(errors.ConfigMissing("no config"))
    here.begin()
    here.set_joined(member.Joined(member=MEMBER, lease=LEASE))
    waiting.join(5)
    assert told == [HELD]


def test_a_lost_subnet_is_said_at_once_and_still_known(here: standing.Standing) -> None:
    here.set_joined(member.Joined(member=MEMBER, lease=LEASE))
    here.set_refused(member.Refused(member=MEMBER, by=BY))
    with pytest.raises(errors.LeaseLost, match=r"subnet 10\.2\.20\.0/24 is leased by 192\.0\.2\.9"):
        here.wait(0, 10)
    assert (here.held(), here.refused()) == (HELD, True)
    seen = here.status()
    assert (seen.confirmed, seen.expires_in_s) == (False, None)


def test_a_lost_subnet_can_come_back(here: standing.Standing) -> None:
    here.set_refused(member.Refused(member=MEMBER, by=BY))
    here.set_joined(member.Joined(member=MEMBER, lease=LEASE))
    assert here.wait(0, 0) == HELD
    assert not here.refused()


def test_a_refusal_is_forgotten_once(here: standing.Standing) -> None:
    assert not here.forget_refusal()
    here.set_refused(member.Refused(member=MEMBER, by=BY))
    assert here.forget_refusal()
    assert not here.forget_refusal()
    assert (here.held(), here.refused()) == (None, False)


def test_a_key_that_is_being_claimed_is_held_but_not_confirmed(here: standing.Standing) -> None:
    here.set_joined(member.Joined(member=MEMBER, lease=LEASE))
    here.set_unclaimed(errors.RegistryUnavailable("etcd gave no answer"))
    seen = here.status()
    assert (seen.confirmed, seen.trouble, here.held()) == (False, "etcd gave no answer", HELD)


def test_news_of_peers_end_an_outage(here: standing.Standing) -> None:
    here.set_outage("connection refused")
    assert (here.status().outage, here.status().followed) == ("connection refused", False)
    here.set_book(peers.Book(leases={BY.key: BY}, unreadable={"x": "no JSON"}, revision=9))
    seen = here.status()
    assert (seen.outage, seen.followed, seen.peers, seen.revision, seen.skipped) == (
        None,
        True,
        1,
        9,
        ("x: no JSON",),
    )


def test_an_outage_keeps_what_is_known(here: standing.Standing) -> None:
    here.set_joined(member.Joined(member=MEMBER, lease=LEASE))
    here.set_book(peers.Book(leases={BY.key: BY}))
    here.set_outage("connection refused")
    assert (here.held(), here.status().peers, here.status().confirmed) == (HELD, 1, True)


def test_a_skipped_peer_is_logged_once(here: standing.Standing, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        here.set_skipped(("10.2.9.0-24: PublicIP 192.0.2.1 is our own",))
    assert [record.getMessage() for record in caplog.records] == [
        "peer skipped prefix=/p 10.2.9.0-24: PublicIP 192.0.2.1 is our own"
    ]


def test_one_trouble_is_logged_once(here: standing.Standing, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        here.set_trouble(errors.RegistryUnavailable("down"))
    here.set_trouble(errors.RegistryDenied("wrong password"))
    assert [record.getMessage() for record in caplog.records] == [
        "no lease yet, retrying prefix=/p reason=down",
        "no lease yet, retrying prefix=/p reason=wrong password",
    ]


def test_who_has_left_holds_nothing(here: standing.Standing) -> None:
    here.set_joined(member.Joined(member=MEMBER, lease=LEASE))
    assert here.leave() == LEASE
    assert here.leave() is None
    assert here.has_left()
    assert (here.now(), here.held()) == ((None, None, peers.Book()), None)


def test_who_joins_anew_has_no_trouble_with_the_link_of_before(here: standing.Standing) -> None:
    """The attempt to join says what is wrong now; nobody looks at the link below before it has succeeded."""
    here.set_joined(member.Joined(member=MEMBER, lease=LEASE))
    here.set_underlay_trouble(errors.UnderlayError("no default route on this host"))
    here.set_refused(member.Refused(member=MEMBER, by=LEASE))
    assert here.forget_refusal()
    assert here.status().underlay_trouble is None


def test_what_comes_after_leaving_changes_nothing(here: standing.Standing) -> None:
    here.leave()
    here.set_saved(MEMBER, {})
    here.set_refused(member.Refused(member=MEMBER, by=LEASE))
    assert not here.set_joined(member.Joined(member=MEMBER, lease=LEASE))
    assert (here.now(), here.held(), here.refused()) == ((None, None, peers.Book()), None, False)


def test_every_word_of_the_registry_counts_as_heard(here: standing.Standing) -> None:
    here.set_saved(MEMBER, {})
    assert here.status().heard_s is None
    here.set_book(peers.Book(revision=7))
    first = here.status().heard_s
    assert first is not None
    here.set_ttl(LEASE, 60)
    second = here.status().heard_s
    assert second is not None
    here.set_outage("gone")
    assert here.status().heard_s is not None


def test_the_watch_and_the_keepalive_are_heard_each_for_itself(here: standing.Standing) -> None:
    """A keepalive is answered by an etcd whose watch is broken, too."""
    here.set_joined(member.Joined(member=MEMBER, lease=LEASE))
    here.set_book(peers.Book())
    here.set_progress(0.05)
    assert here.status().silence is None
    node_host.until(lambda: here.status().silence)
    here.set_ttl(LEASE, 86_400)
    seen = here.status()
    assert seen.silence == "nothing heard for 0 s, where a word is due every 0 s"
    assert seen.heard_s is not None
    assert seen.renewed_s is not None
    assert seen.watch_heard_s is not None
    assert max(seen.renewed_s, seen.heard_s) < 0.05 < seen.watch_heard_s
    here.set_book(peers.Book())
    assert here.status().silence is None
    here.set_outage("gone")
    assert (here.status().silence, here.status().watch_heard_s) == (None, None)


def test_a_registry_that_tells_no_progress_is_never_silent(here: standing.Standing) -> None:
    here.set_book(peers.Book())
    assert (here.status().silence, here.status().watch_heard_s) == (None, None)


def test_what_the_links_of_this_host_got_meanwhile_outlives_a_claim() -> None:
    """A bridge may get a range of the network while the registry is asked."""
    taken = kernel.HostRange(network=ipaddress.IPv4Network("10.2.13.0/24"), link=netstate.IfName("br-db"))
    moved = dataclasses.replace(MEMBER, own=dataclasses.replace(MEMBER.own, host_ranges=(taken,)))
    assert MEMBER.over_underlay_of(moved).own.host_ranges == (taken,)
