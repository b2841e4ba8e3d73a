"""The plan last declared is the one that is written, and what others changed is told once."""

from __future__ import annotations

import concurrent.futures
import ipaddress
import threading

import pytest

from overlay import errors, firewall, firewall_fake, firewall_keeper, netstate


def plan(number: int) -> firewall.FirewallPlan:
    return frozenset(
        {
            firewall.BridgeRules(
                bridge=netstate.IfName(f"fp-{number}"),
                subnet=ipaddress.IPv4Network(f"10.2.{number}.0/24"),
                overlay=ipaddress.IPv4Network("10.2.0.0/16"),
                device=netstate.IfName("flannel.1"),
            )
        }
    )


class SlowFirewall(firewall_fake.FirewallFake):
    """A firewall whose every look waits for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.plans: list[firewall.FirewallPlan] = []
        self.began, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    def ensure(self, plan: firewall.FirewallPlan) -> tuple[str, ...]:
        self.plans.append(plan)
        self.began.release()
        assert self.go_on.acquire(timeout=10)
        return super().ensure(plan)


def test_plans_declared_while_one_is_written_cost_one_write_of_the_last() -> None:
    slow = SlowFirewall()
    keeper = firewall_keeper.PlanKeeper(slow.ensure)
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        keeper.declare(plan(0))
        writes = [pool.submit(keeper.write)]
        assert slow.began.acquire(timeout=10)
        for number in range(1, 16):
            keeper.declare(plan(number))
            writes.append(pool.submit(keeper.write))
        slow.go_on.release(16)
        for one in writes:
            one.result(10)
    assert slow.plans[:2] == [plan(0), plan(15)]
    assert slow.plan == plan(15)


def test_a_refusal_reaches_all_whose_plan_was_in_it() -> None:
    slow = SlowFirewall()
    keeper = firewall_keeper.PlanKeeper(slow.ensure)
    keeper.declare(plan(1))
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        first = pool.submit(keeper.write)
        assert slow.began.acquire(timeout=10)
        keeper.declare(plan(2))
        others = [pool.submit(keeper.write) for _ in range(8)]
        slow.go_on.release()
        first.result(10)
        slow.refusal = "nft: busy"
        slow.go_on.release(8)
        failures = [one.exception(10) for one in others]
    assert [str(failure) for failure in failures] == ["nft: busy"] * 8
    assert all(isinstance(failure, errors.KernelError) for failure in failures)
    assert len({id(failure) for failure in failures}) == 8


def test_what_is_declared_while_somebody_looks_is_no_repair() -> None:
    slow = SlowFirewall()
    keeper = firewall_keeper.PlanKeeper(slow.ensure)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        look = pool.submit(keeper.check, gate_open=True)
        assert slow.began.acquire(timeout=10)
        keeper.declare(plan(1))
        slow.go_on.release(3)
        assert look.result(10) == firewall_keeper.Check()
    assert keeper.check(gate_open=True) == firewall_keeper.Check()
    slow.flush()
    slow.go_on.release()
    assert keeper.check(gate_open=True) == firewall_keeper.Check(repaired=("nft",))


def test_two_who_look_at_once_count_a_repair_once() -> None:
    slow = SlowFirewall()
    keeper = firewall_keeper.PlanKeeper(slow.ensure)
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        keeper.declare(plan(1))
        slow.go_on.release()
        keeper.write()
        assert slow.began.acquire(timeout=10)
        looks = [pool.submit(keeper.check, gate_open=True)]
        assert slow.began.acquire(timeout=10)
        looks += [pool.submit(keeper.check, gate_open=True) for _ in range(4)]
        slow.go_on.release()
        assert looks[0].result(10) == firewall_keeper.Check()
        assert slow.began.acquire(timeout=10)
        slow.flush()
        slow.go_on.release(4)
        found = [one.result(10) for one in looks[1:]]
    assert sorted(found, key=lambda one: one.repaired) == [
        *[firewall_keeper.Check()] * 3,
        firewall_keeper.Check(repaired=("nft",)),
    ]


def test_nothing_is_looked_at_before_the_gate_is_open_or_a_plan_is_there() -> None:
    fake = firewall_fake.FirewallFake()
    keeper = firewall_keeper.PlanKeeper(fake.ensure)
    fake.refusal = "looked at"
    assert keeper.check(gate_open=False) == firewall_keeper.Check()
    assert keeper.check(gate_open=True) == firewall_keeper.Check(troubles=("looked at",))
    with pytest.raises(errors.KernelError, match="looked at"):
        keeper.write()
