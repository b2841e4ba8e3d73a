"""The reconciler over the fake kernel: slices, the gate, repairs, errors, and its thread."""

import collections
import contextlib
import dataclasses
import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from overlay import diff, errors, firewall, firewall_fake, kernel, kernel_fake, netstate, pace, reconciler

UNDERLAY = kernel.UnderlayLink(
    name=netstate.IfName("ens33"), index=2, mtu=1500, up=True, addresses=(), has_default_route=True
)
DEVICE = netstate.IfName("flannel.1")
VXLAN = netstate.VxlanLink(
    name=DEVICE,
    vni=1,
    port=8472,
    local=ipaddress.ip_address("198.51.100.1"),
    underlay=UNDERLAY.name,
    mac=netstate.Mac("02:00:00:00:00:01"),
    mtu=1450,
)
BRIDGE = netstate.BridgeLink(name=netstate.IfName("br-a"), mac=netstate.Mac("02:00:00:00:00:02"), mtu=1450)
PAIR = netstate.VethPair(name=netstate.IfName("v1"), peer=netstate.IfName("c1"), bridge=BRIDGE.name, mtu=1450)
PORT = diff.host_end(PAIR)
ROUTE = netstate.Route(
    destination=ipaddress.ip_network("10.2.21.0/24"), gateway=ipaddress.ip_address("10.2.21.0"), link=DEVICE
)
NEIGHBOUR = netstate.Neighbour(link=DEVICE, ip=ROUTE.gateway, mac=netstate.Mac("02:00:00:00:00:12"))
FDB = netstate.FdbEntry(link=DEVICE, mac=NEIGHBOUR.mac, vtep_ip=ipaddress.ip_address("198.51.100.2"))
NODE: netstate.NetState = frozenset({VXLAN, NEIGHBOUR, FDB, ROUTE})
PLAN: firewall.FirewallPlan = frozenset(
    {
        firewall.BridgeRules(
            bridge=BRIDGE.name,
            subnet=ipaddress.IPv4Network("10.2.20.0/24"),
            overlay=ipaddress.IPv4Network("10.2.0.0/16"),
            device=DEVICE,
        )
    }
)
FAST = reconciler.Timing(interval_s=0.2, gap_s=0.02, gap_cap_s=0.02, settle_s=0.01, tick_s=0.02)


class World:
    """A host with a reconciler that passed once with its gate open."""

    def __init__(self, timing: reconciler.Timing = FAST) -> None:
        self.kernel = kernel_fake.KernelFake([UNDERLAY])
        self.filters = firewall_fake.FirewallFake()
        self.reconciler = reconciler.Reconciler(self.kernel, self.filters, timing=timing)

    def settle(self) -> None:
        self.reconciler.open_gate()
        self.reconciler.run_pass()

    def holds(self, *objects: netstate.KernelObject) -> bool:
        return self.kernel.observe(netstate.EMPTY) == frozenset(objects)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self.reconciler.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=5)
            assert not thread.is_alive()


@pytest.fixture
def world() -> World:
    made = World()
    made.settle()
    return made


def eventually(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "not within the time allowed"
        time.sleep(0.005)


# -- slices ---------------------------------------------------------------------------------------------------------


def test_a_slice_is_applied_at_once(world: World) -> None:
    world.reconciler.set("node", NODE)
    assert world.holds(*NODE)


def test_a_later_slice_changes_only_what_differs(world: World) -> None:
    world.reconciler.set("node", NODE)
    world.reconciler.set("node", NODE - {ROUTE})
    assert world.holds(VXLAN, NEIGHBOUR, FDB)


def test_setting_the_same_twice_is_harmless(world: World) -> None:
    world.reconciler.set("node", NODE)
    world.reconciler.set("node", frozenset(NODE))
    assert world.holds(*NODE)


def test_removing_takes_away_at_once_and_twice_is_harmless(world: World) -> None:
    world.reconciler.set("node", NODE)
    world.reconciler.remove("node")
    world.reconciler.remove("node")
    assert world.holds()


def test_forgetting_leaves_the_kernel_to_the_next_pass(world: World) -> None:
    world.reconciler.set("network", frozenset({BRIDGE}))
    world.reconciler.set("endpoint", frozenset({PAIR}))
    world.reconciler.forget("endpoint")
    assert world.holds(BRIDGE, PORT)
    world.reconciler.run_pass()
    assert world.holds(BRIDGE)
    assert world.reconciler.repairs == {}


def test_what_another_owner_wants_too_stays(world: World) -> None:
    world.reconciler.set("a", frozenset({BRIDGE}))
    world.reconciler.set("b", frozenset({BRIDGE}))
    world.reconciler.remove("a")
    assert world.holds(BRIDGE)
    world.reconciler.remove("b")
    assert world.holds()


def test_the_owner_that_spoke_last_has_its_way(world: World) -> None:
    wider = dataclasses.replace(BRIDGE, mtu=1500)
    world.reconciler.set("a", frozenset({BRIDGE}))
    world.reconciler.set("b", frozenset({wider}))
    world.reconciler.run_pass()
    assert world.holds(wider)
    world.reconciler.remove("b")
    world.reconciler.run_pass()
    assert world.holds(BRIDGE)


def test_a_pair_becomes_a_port_without_any_change(world: World) -> None:
    world.reconciler.set("network", frozenset({BRIDGE}))
    world.reconciler.set("endpoint", frozenset({PAIR}))
    world.kernel.take_away(PAIR.peer)
    world.kernel.refuse(PAIR)
    world.reconciler.set("endpoint", frozenset({PORT}))
    assert world.holds(BRIDGE, PORT)


def test_a_refused_slice_raises_and_a_pass_retries_it(world: World) -> None:
    world.kernel.refuse(ROUTE, "network is unreachable")
    with pytest.raises(errors.KernelError, match=r"ip route replace 10\.2\.21\.0/24 .*: network is unreachable"):
        world.reconciler.set("node", NODE)
    assert world.holds(VXLAN, NEIGHBOUR, FDB)
    world.kernel.refuse(ROUTE, None)
    world.reconciler.run_pass()
    assert world.holds(*NODE)
    assert world.reconciler.repairs == {}


def test_a_refused_slice_set_again_is_tried_again(world: World) -> None:
    world.kernel.refuse(ROUTE)
    for _ in range(2):
        with pytest.raises(errors.KernelError):
            world.reconciler.set("node", NODE)
    world.kernel.refuse(ROUTE, None)
    world.reconciler.set("node", NODE)
    assert world.holds(*NODE)


def test_a_refused_removal_is_retried_by_the_next_pass(world: World) -> None:
    world.reconciler.set("node", NODE)
    world.kernel.refuse(ROUTE)
    with pytest.raises(errors.KernelError):
        world.reconciler.set("node", NODE - {ROUTE})
    world.kernel.refuse(ROUTE, None)
    world.reconciler.run_pass()
    assert world.holds(VXLAN, NEIGHBOUR, FDB)


# -- passes ---------------------------------------------------------------------------------------------------------


def test_nothing_is_removed_before_the_gate_is_open() -> None:
    world = World()
    world.kernel.apply([netstate.Add(obj=BRIDGE)])
    world.reconciler.set("node", NODE)
    world.kernel.delete(ROUTE)
    world.reconciler.run_pass()
    assert world.holds(BRIDGE, *NODE)
    world.reconciler.open_gate()
    world.reconciler.run_pass()
    assert world.holds(*NODE)
    assert world.reconciler.repairs == {}


def test_what_is_deleted_by_hand_comes_back_and_is_counted(world: World) -> None:
    world.reconciler.set("node", NODE)
    world.reconciler.run_pass()
    world.kernel.delete(ROUTE)
    world.kernel.delete(FDB)
    world.reconciler.run_pass()
    assert world.holds(*NODE)
    assert world.reconciler.repairs == {"route": 1, "fdb": 1}


def test_a_deleted_device_comes_back_with_all_that_hung_on_it(world: World) -> None:
    world.reconciler.set("node", NODE)
    world.reconciler.run_pass()
    world.kernel.delete(VXLAN)
    stats = world.reconciler.run_pass()
    assert world.holds(*NODE)
    assert stats.ops == 4
    assert world.reconciler.repairs == {"link": 1, "neighbour": 1, "fdb": 1, "route": 1}


def test_what_somebody_adds_to_our_device_is_taken_away(world: World) -> None:
    ours = netstate.Address(link=DEVICE, interface=ipaddress.ip_interface("10.2.20.0/32"))
    world.reconciler.set("node", NODE | {ours})
    world.reconciler.run_pass()
    world.kernel.add_foreign(netstate.Address(link=DEVICE, interface=ipaddress.ip_interface("192.0.2.7/32")))
    world.reconciler.run_pass()
    assert world.holds(ours, *NODE)
    assert world.reconciler.repairs == {"address": 1}


def test_one_refused_object_does_not_stop_the_others(world: World) -> None:
    world.reconciler.set("node", NODE)
    world.reconciler.run_pass()
    for obj in (NEIGHBOUR, FDB, ROUTE):
        world.kernel.delete(obj)
    world.kernel.refuse(NEIGHBOUR, "no buffer space")
    stats = world.reconciler.run_pass()
    assert world.holds(VXLAN, FDB, ROUTE)
    assert stats.failures == 1
    assert world.reconciler.last_errors == (f"{diff.format_op(netstate.Add(obj=NEIGHBOUR))}: no buffer space",)


def test_an_error_is_logged_once_until_it_changes(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for reason in ("no buffer space", "no buffer space", "not permitted", "not permitted", None, "not permitted"):
        world.kernel.refuse(ROUTE, reason)
        if reason is None:
            world.reconciler.run_pass()
            world.reconciler.forget("node")
            world.reconciler.run_pass()
        with contextlib.suppress(errors.KernelError):
            world.reconciler.set("node", NODE)
        world.reconciler.run_pass()
        if reason is None:
            world.kernel.delete(ROUTE)
    refused = [record.getMessage().rsplit(": ", 1)[1] for record in caplog.records]
    assert refused == ["no buffer space", "not permitted", "not permitted"]


def test_a_kernel_that_cannot_be_observed_is_an_error_and_no_change(world: World) -> None:
    world.reconciler.set("node", NODE)
    world.reconciler.forget("node")
    world.kernel.break_observe("dump was interrupted")
    assert world.reconciler.run_pass().failures == 1
    assert world.reconciler.last_errors == ("observe: dump was interrupted",)
    world.kernel.break_observe(None)
    assert world.reconciler.run_pass().failures == 0
    assert world.holds()
    assert world.reconciler.repairs == {}


def test_changes_are_logged_as_commands_up_to_a_cap(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    many = [
        netstate.Neighbour(link=DEVICE, ip=ipaddress.ip_address(f"10.2.{n}.0"), mac=NEIGHBOUR.mac) for n in range(25)
    ]
    world.reconciler.set("node", frozenset({VXLAN, *many}))
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].startswith("applied: ip link add flannel.1 up")
    assert messages[-1] == "applied: and 6 more"
    assert len(messages) == 21


# -- the firewall ---------------------------------------------------------------------------------------------------


def test_rules_are_written_at_once_and_rewritten_when_flushed(world: World) -> None:
    world.reconciler.set_firewall(PLAN)
    assert world.filters.plan == PLAN
    world.reconciler.run_pass()
    world.filters.flush()
    world.reconciler.run_pass()
    assert world.filters.plan == PLAN
    assert world.reconciler.repairs == {"firewall:nft": 1}


def test_a_refused_firewall_raises_and_a_pass_retries_it(world: World) -> None:
    world.filters.refusal = "nft: not found"
    with pytest.raises(errors.KernelError, match="nft: not found"):
        world.reconciler.set_firewall(PLAN)
    world.reconciler.run_pass()
    assert world.reconciler.last_errors == ("nft: not found",)
    world.filters.refusal = None
    world.reconciler.run_pass()
    assert world.filters.plan == PLAN
    assert world.reconciler.repairs == {}


def test_rules_of_an_earlier_life_stay_until_the_gate_is_open() -> None:
    world = World()
    world.filters.ensure(PLAN)
    world.reconciler.run_pass()
    assert world.filters.plan == PLAN
    world.settle()
    assert world.filters.plan == frozenset()


# -- passes and owners at the same time -----------------------------------------------------------------------------


class Interrupted(kernel_fake.KernelFake):
    """Runs `between` once, at the moment when a pass is about to apply what it planned."""

    def __init__(self) -> None:
        super().__init__([UNDERLAY])
        self.after_observe: Callable[[], None] | None = None
        self.applied: list[list[str]] = []

    def observe(self, desired: netstate.NetState) -> netstate.NetState:
        observed = super().observe(desired)
        hook, self.after_observe = self.after_observe, None
        if hook is not None:
            hook()
        return observed

    def apply(self, ops: Sequence[netstate.Op]) -> list[kernel.Failure]:
        self.applied.append([diff.format_op(op) for op in ops])
        return super().apply(ops)


@pytest.fixture
def interrupted() -> tuple[Interrupted, reconciler.Reconciler]:
    fake = Interrupted()
    made = reconciler.Reconciler(fake, firewall_fake.FirewallFake(), timing=FAST)
    made.open_gate()
    made.run_pass()
    return fake, made


def test_a_pass_does_not_remove_what_an_owner_asked_for_meanwhile(
    interrupted: tuple[Interrupted, reconciler.Reconciler],
) -> None:
    fake, made = interrupted
    made.set("a", frozenset({BRIDGE}))
    made.forget("a")
    fake.after_observe = lambda: made.set("b", frozenset({BRIDGE}))
    made.run_pass()
    assert fake.observe(netstate.EMPTY) == frozenset({BRIDGE})


def test_a_pass_does_not_bring_back_what_an_owner_removed_meanwhile(
    interrupted: tuple[Interrupted, reconciler.Reconciler],
) -> None:
    fake, made = interrupted
    made.set("a", frozenset({BRIDGE}))
    fake.after_observe = lambda: made.remove("a")
    made.run_pass()
    assert fake.observe(netstate.EMPTY) == netstate.EMPTY
    assert made.repairs == {}


def test_what_an_owner_does_during_a_pass_is_no_repair(
    interrupted: tuple[Interrupted, reconciler.Reconciler],
) -> None:
    fake, made = interrupted
    made.set("node", NODE)
    made.run_pass()
    fake.after_observe = lambda: made.set("a", frozenset({BRIDGE}))
    made.run_pass()
    assert made.repairs == {}


def test_each_change_is_checked_against_the_desired_state_of_its_moment(
    interrupted: tuple[Interrupted, reconciler.Reconciler],
) -> None:
    fake, made = interrupted
    bridges = [dataclasses.replace(BRIDGE, name=netstate.IfName(f"br-{n}")) for n in range(3)]
    made.set("all", frozenset(bridges))
    for one in bridges:
        fake.delete(one)
    plain_apply = fake.apply

    class Dropping(kernel_fake.KernelFake):
        def apply(self, ops: Sequence[netstate.Op]) -> list[kernel.Failure]:
            failures = plain_apply(ops)
            made.forget("all")
            return failures

        def observe(self, desired: netstate.NetState) -> netstate.NetState:
            return fake.observe(desired)

    made._kernel = Dropping()
    made._timing = dataclasses.replace(FAST, rounds=1)
    fake.applied.clear()
    made.run_pass()
    assert len(fake.applied) == 1  # the second and third bridge were no longer desired


def test_many_owners_at_once_all_get_their_slice(world: World) -> None:
    bridges = [dataclasses.replace(BRIDGE, name=netstate.IfName(f"br-{n}")) for n in range(8)]

    def work(mine: netstate.BridgeLink) -> None:
        for mtu in range(1400, 1430):
            world.reconciler.set(mine.name, frozenset({dataclasses.replace(mine, mtu=mtu)}))
        world.reconciler.set(mine.name, frozenset({mine}))

    with world.running():
        threads = [threading.Thread(target=work, args=(mine,)) for mine in bridges]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
    assert world.holds(*bridges)
    assert world.reconciler.repairs == {}
    assert len(world.reconciler._turns) == 0


# -- the thread -----------------------------------------------------------------------------------------------------


def test_a_deletion_is_repaired_on_its_event() -> None:
    world = World(dataclasses.replace(FAST, interval_s=60))
    world.reconciler.open_gate()
    world.reconciler.set("node", NODE)
    with world.running():
        eventually(lambda: world.reconciler.last_pass is not None)
        world.kernel.delete(ROUTE)
        eventually(lambda: world.reconciler.repairs == {"route": 1}, within_s=2)
    assert world.holds(*NODE)


def test_a_pass_comes_on_time_without_any_event() -> None:
    world = World()
    world.reconciler.open_gate()
    with world.running():
        world.reconciler.set_firewall(PLAN)
        eventually(lambda: world.reconciler.last_pass is not None)
        world.filters.flush_unheard()
        eventually(lambda: world.filters.plan == PLAN)


def test_forgotten_objects_go_soon() -> None:
    world = World(dataclasses.replace(FAST, interval_s=60))
    world.reconciler.open_gate()
    with world.running():
        world.reconciler.set("network", frozenset({BRIDGE}))
        world.reconciler.forget("network")
        eventually(world.holds, within_s=2)


def test_a_storm_of_events_does_not_make_it_spin() -> None:
    passes: collections.Counter[str] = collections.Counter()

    class Counting(kernel_fake.KernelFake):
        def observe(self, desired: netstate.NetState) -> netstate.NetState:
            passes["all"] += 1
            return super().observe(desired)

    fake = Counting([UNDERLAY])
    timing = dataclasses.replace(FAST, interval_s=60, gap_s=0.2, gap_cap_s=0.2)
    made = reconciler.Reconciler(fake, firewall_fake.FirewallFake(), timing=timing)
    stop = threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,))
    thread.start()
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        fake.add_foreign_link(netstate.IfName("noise"))
        time.sleep(0.001)
    stop.set()
    thread.join(timeout=5)
    assert not thread.is_alive()
    assert 2 <= passes["all"] <= 7


class Deaf(kernel_fake.KernelFake):
    """A kernel that tells nothing, so that full passes come on time alone; it counts them."""

    passes = 0

    def observe(self, desired: netstate.NetState) -> netstate.NetState:
        self.passes += 1
        return super().observe(desired)

    def events(
        self, stop: threading.Event, is_wanted: Callable[[netstate.Op], bool] = lambda _op: False
    ) -> Iterator[None]:
        stop.wait()
        yield from ()


class Busy(firewall_fake.FirewallFake):
    """A firewall that counts how often it is looked at."""

    looks = 0

    def ensure(self, plan: firewall.FirewallPlan) -> tuple[str, ...]:
        self.looks += 1
        return super().ensure(plan)


def quiet_world() -> tuple[World, Deaf, Busy]:
    """A world in which nothing but the firewall is ever heard of."""
    world, deaf, busy = World(), Deaf([UNDERLAY]), Busy()
    world.kernel, world.filters = deaf, busy
    timing = dataclasses.replace(FAST, interval_s=60, gap_s=0.2, gap_cap_s=0.2)
    world.reconciler = reconciler.Reconciler(deaf, busy, timing=timing)
    world.settle()
    return world, deaf, busy


def test_a_change_of_the_firewall_is_repaired_on_its_event_without_a_full_pass() -> None:
    world, deaf, busy = quiet_world()
    with world.running():
        world.reconciler.set_firewall(PLAN)
        eventually(lambda: deaf.passes == 2)  # this one and the one that settled
        eventually(lambda: not world.reconciler._keeper.rules._touched)  # what we wrote was looked at
        busy.flush()
        eventually(lambda: busy.plan == PLAN)
        eventually(lambda: world.reconciler.repairs == {"firewall:nft": 1})
        assert deaf.passes == 2


def test_our_own_writing_of_rules_is_looked_at_once_more_and_then_all_is_quiet() -> None:
    world, _, busy = quiet_world()
    with world.running():
        world.reconciler.set_firewall(PLAN)
        eventually(lambda: not world.reconciler._keeper.rules._touched)
        assert not threading.Event().wait(0.5)
        assert busy.looks <= 5


def test_a_firewall_that_refuses_on_its_event_is_told_by_a_full_pass() -> None:
    world, deaf, busy = quiet_world()
    with world.running():
        world.reconciler.set_firewall(PLAN)
        eventually(lambda: deaf.passes == 2)
        eventually(lambda: not world.reconciler._keeper.rules._touched)
        busy.refusal = "nft: busy"
        busy.flush()
        eventually(lambda: world.reconciler.last_errors == ("nft: busy",))
        busy.refusal = None
        busy.flush()
        eventually(lambda: busy.plan == PLAN)


def test_a_storm_of_firewall_changes_does_not_make_it_spin() -> None:
    world, _, busy = quiet_world()
    with world.running():
        world.reconciler.set_firewall(PLAN)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            busy.flush()
            time.sleep(0.001)
    assert 3 <= busy.looks <= 11


def test_firewall_events_that_are_lost_are_listened_for_again(caplog: pytest.LogCaptureFixture) -> None:
    class Cut(Busy):
        cuts = 1

        def events(self, stop: threading.Event) -> Iterator[None]:
            if self.cuts:
                self.cuts -= 1
                raise errors.KernelError(["nftables events: gone"])
            yield from super().events(stop)

    world, _, _ = quiet_world()
    world.filters = Cut()
    world.reconciler = reconciler.Reconciler(world.kernel, world.filters, timing=world.reconciler._timing)
    world.settle()
    with world.running():
        world.reconciler.set_firewall(PLAN)
        eventually(lambda: world.reconciler.last_pass is not None and "listening again" in caplog.text)
        world.filters.flush()
        eventually(lambda: world.filters.plan == PLAN)
    assert "firewall events lost, listening again: nftables events: gone" in caplog.text


def test_a_bug_in_a_pass_is_logged_and_the_thread_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(kernel_fake.KernelFake):
        bugs = 1

        def observe(self, desired: netstate.NetState) -> netstate.NetState:
            if self.bugs:
                self.bugs -= 1
                raise ZeroDivisionError
            return super().observe(desired)

    made = reconciler.Reconciler(Buggy([UNDERLAY]), firewall_fake.FirewallFake(), timing=FAST)
    stop = threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,))
    thread.start()
    eventually(lambda: made.last_pass is not None)
    stop.set()
    thread.join(timeout=5)
    assert "bug: unexpected error in a thread, trying again thread=reconciler" in caplog.text


def test_what_an_owner_wrote_and_somebody_deletes_is_a_repair_at_once(world: World) -> None:
    world.reconciler.set("node", NODE)
    world.kernel.delete(ROUTE)
    world.reconciler.run_pass()
    assert world.reconciler.repairs == {"route": 1}


def test_a_pass_that_forgetting_made_necessary_is_no_repair_whatever_others_write_meanwhile(world: World) -> None:
    world.reconciler.set("network", frozenset({BRIDGE}))
    world.reconciler.set("endpoint", frozenset({PAIR}))
    world.reconciler.forget("endpoint")
    world.reconciler.set("node", NODE)
    world.reconciler.run_pass()
    assert world.holds(BRIDGE, *NODE)
    assert world.reconciler.repairs == {}


# -- when it looks ---------------------------------------------------------------------------------------------------

FORWARDING = netstate.Sysctl(key="net.ipv4.ip_forward", value="1")


class Counting(kernel_fake.KernelFake):
    """Counts the looks at everything."""

    looks = 0

    def observe(self, desired: netstate.NetState) -> netstate.NetState:
        self.looks += 1
        return super().observe(desired)


class Unheard(Counting):
    """Tells of nothing that happens after the first look."""

    def events(
        self, stop: threading.Event, is_wanted: Callable[[netstate.Op], bool] = lambda _op: False
    ) -> Iterator[None]:
        yield
        stop.wait()


class Slow(kernel_fake.KernelFake):
    """Writes entries when it is told to."""

    def __init__(self) -> None:
        super().__init__([UNDERLAY])
        self.begun, self.go_on = threading.Event(), threading.Event()

    def apply(self, ops: Sequence[netstate.Op]) -> list[kernel.Failure]:
        if any(diff.target_of(op) == ROUTE for op in ops):
            self.begun.set()
            assert self.go_on.wait(5)
        return super().apply(ops)


def made_of(host: kernel_fake.KernelFake, **timing: float) -> World:
    world = World()
    world.kernel = host
    quick = dataclasses.replace(FAST, **timing)  # type: ignore[arg-type]  # all but one are seconds
    world.reconciler = reconciler.Reconciler(host, world.filters, timing=quick)
    world.reconciler.open_gate()
    return world


def quiet(host: Counting, for_s: float = 0.4) -> int:
    """Wait until it has not looked for a while; how often it looked so far."""
    seen, since = host.looks, time.monotonic()
    while time.monotonic() - since < for_s:
        if host.looks != seen:
            seen, since = host.looks, time.monotonic()
        time.sleep(0.01)
    return seen


def test_what_an_owner_does_to_entries_is_no_reason_to_look() -> None:
    host = Counting([UNDERLAY])
    world = made_of(host, interval_s=60)
    with world.running():
        world.reconciler.set("node", frozenset({VXLAN}))
        before = quiet(host)
        world.reconciler.set("node", NODE)
        assert quiet(host) == before
        world.reconciler.set("node", NODE - {ROUTE})
        assert quiet(host) == before
        host.delete(NEIGHBOUR)
        eventually(lambda: world.holds(VXLAN, NEIGHBOUR, FDB))
        eventually(lambda: world.reconciler.repairs == {"neighbour": 1})


def test_a_pass_leaves_to_an_owner_what_it_is_just_writing() -> None:
    host = Slow()
    world = made_of(host)
    owner = threading.Thread(target=world.reconciler.set, args=("node", NODE))
    owner.start()
    assert host.begun.wait(5)
    assert world.reconciler.run_pass().ops == 0
    host.go_on.set()
    owner.join(timeout=5)
    assert world.holds(*NODE)
    host.delete(ROUTE)
    assert world.reconciler.run_pass().ops == 1


def test_what_was_refused_beside_a_pass_is_no_repair_when_it_works() -> None:
    host = Slow()
    world = made_of(host)

    def write() -> None:
        with contextlib.suppress(errors.KernelError):
            world.reconciler.set("node", NODE)

    owner = threading.Thread(target=write)
    owner.start()
    assert host.begun.wait(5)
    world.reconciler.run_pass()
    host.refuse(ROUTE)
    host.go_on.set()
    owner.join(timeout=5)
    host.refuse(ROUTE, None)
    assert world.reconciler.run_pass().ops == 1
    assert world.reconciler.repairs == {}


def test_an_owner_that_writes_does_not_keep_others_from_being_repaired() -> None:
    host = Slow()
    world = made_of(host)
    world.reconciler.set("network", frozenset({BRIDGE}))
    owner = threading.Thread(target=world.reconciler.set, args=("node", NODE))
    owner.start()
    assert host.begun.wait(5)
    host.delete(BRIDGE)
    assert world.reconciler.run_pass().ops == 1
    host.go_on.set()
    owner.join(timeout=5)
    assert world.holds(BRIDGE, *NODE)


def test_a_sysctl_is_put_right_by_a_glance() -> None:
    world = made_of(Counting([UNDERLAY]))
    with world.running():
        world.reconciler.set("network", frozenset({FORWARDING}))
        quiet(world.kernel)  # type: ignore[arg-type]  # as made above
        off = dataclasses.replace(FORWARDING, value="0")
        world.kernel.apply([netstate.Change(old=FORWARDING, new=off)])
        eventually(lambda: world.kernel.observe_silent(frozenset({FORWARDING})) == {FORWARDING})
        eventually(lambda: world.reconciler.repairs == {"sysctl": 1})


def test_the_packet_filter_is_put_right_by_a_glance_and_nothing_else_is_looked_at() -> None:
    host = Counting([UNDERLAY])
    world = made_of(host)
    world.reconciler.set_firewall(PLAN)
    with world.running():
        before = quiet(host)
        world.filters.flush()
        eventually(lambda: world.filters.plan == PLAN)
        eventually(lambda: world.reconciler.repairs == {"firewall:nft": 1})
        assert quiet(host) == before


def test_a_packet_filter_that_refuses_is_in_the_errors_after_a_glance() -> None:
    world = made_of(Counting([UNDERLAY]))
    world.reconciler.set_firewall(PLAN)
    with world.running():
        quiet(world.kernel)  # type: ignore[arg-type]  # as made above
        world.filters.flush()
        world.filters.refusal = "no nft here"
        eventually(lambda: world.reconciler.last_errors == ("no nft here",))
        world.filters.refusal = None
        eventually(lambda: world.reconciler.last_errors == ())


def test_what_no_event_told_is_found_in_the_end() -> None:
    world = made_of(Unheard([UNDERLAY]), interval_s=0.05, whole_s=0.5)
    with world.running():
        world.reconciler.set("node", NODE)
        quiet(world.kernel, for_s=0.2)  # type: ignore[arg-type]  # as made above
        world.kernel.delete(ROUTE)
        eventually(lambda: world.holds(*NODE))


def test_what_was_refused_is_tried_again_at_every_interval() -> None:
    host = Unheard([UNDERLAY])
    world = made_of(host)
    host.refuse(ROUTE)
    with world.running():
        with pytest.raises(errors.KernelError):
            world.reconciler.set("node", NODE)
        eventually(lambda: world.reconciler.last_errors != ())
        host.refuse(ROUTE, None)
        eventually(lambda: world.holds(*NODE))


def test_a_pass_waits_while_thousands_of_entries_are_written() -> None:
    bulk = pace.Bulk()
    with bulk.write(pace.BULK):
        began = time.monotonic()
        bulk.wait()
        assert time.monotonic() - began >= 0.9 * pace.BULK_WAIT_S  # and not for ever
    with bulk.write(pace.BULK - 1):
        began = time.monotonic()
        bulk.wait()
        assert time.monotonic() - began < 0.5
