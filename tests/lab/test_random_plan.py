"""The plan of a random run: reproducible, whole, and with something of everything."""

from __future__ import annotations

import collections
import functools

import pytest

from lab import random_plan

HOSTS = ("h1", "h2")


@functools.cache
def plan(seed: int, operations: int = 200) -> tuple[random_plan.Burst, ...]:
    return random_plan.plan(seed, operations, HOSTS)


def operations(bursts: tuple[random_plan.Burst, ...]) -> list[random_plan.Operation]:
    return [operation for burst in bursts for step in burst for operation in step]


def test_the_same_seed_gives_the_same_plan() -> None:
    assert plan(7) == random_plan.plan(7, 200, HOSTS)
    assert plan(7) != plan(8)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    assert plan(7)[:2] == random_plan.plan(7, 130, HOSTS)[:2]


def test_no_two_bursts_are_alike() -> None:
    assert len(set(plan(7))) == len(plan(7))


@pytest.mark.parametrize("count", [1, 60, 200])
def test_there_are_as_many_operations_as_asked_for(count: int) -> None:
    assert len(operations(plan(7, count))) == count


def test_a_burst_is_of_fifty_operations_and_a_few_more() -> None:
    sizes = [len(operations((burst,))) for burst in plan(7)[:-1]]
    assert all(random_plan.BURST <= size < random_plan.BURST + 6 for size in sizes)


def test_every_kind_comes_about() -> None:
    seen = collections.Counter(operation.kind for operation in operations(plan(7, 600)))
    usual = {"run", "create", "start", "stop", "kill", "remove", "restart", "pause", "unpause"}
    assert set(seen) == usual | {"connect", "disconnect", "network-create", "network-remove"} | set(
        random_plan.FAULTS
    )
    faults = sum(seen[kind] for kind in random_plan.FAULTS)
    assert 20 <= faults <= 80


def test_every_way_to_make_things_comes_about() -> None:
    made = [operation.made for operation in operations(plan(7, 600))]
    networks = [spec for spec in made if isinstance(spec, random_plan.NetworkSpec)]
    containers = [spec for spec in made if isinstance(spec, random_plan.ContainerSpec)]
    assert {spec.quarter for spec in networks} == {None, 0, 1, 2, 3}
    assert {spec.gateway for spec in networks} == {"auto", "native", "docker"}
    assert {spec.v6 for spec in networks} == {spec.internal for spec in networks} == {True, False}
    assert {spec.port for spec in containers} == {None, *random_plan.PORTS}
    assert {spec.always for spec in containers} == {spec.brief for spec in containers} == {True, False}
    assert any(spec.ip for spec in containers)


@pytest.mark.parametrize(("seed", "count", "hosts"), [(7, 1000, HOSTS), (8, 1000, HOSTS), (38, 60, ("h3",))])
def test_containers_publish_on_networks_that_do_so_natively(seed: int, count: int, hosts: tuple[str, ...]) -> None:
    """Of the long runs, and of the short one in the system suite. Far from tight: hypothesis also draws numbers that
    it finds in whatever modules of ours are imported, so that a plan differs a little from process to process."""
    published = [
        operation
        for burst in random_plan.plan(seed, count, hosts)
        for operation in publishing_natively(operations((burst,)))
    ]
    assert len(published) >= max(1, count // 100)


def publishing_natively(written: list[random_plan.Operation]) -> list[random_plan.Operation]:
    native: dict[tuple[str, str], bool] = {}
    found = []
    for one in written:
        match one.made:
            case random_plan.NetworkSpec(gateway=gateway, internal=internal):
                native[one.host, one.target] = gateway == "native" and not internal
            case random_plan.ContainerSpec(port=int(), brief=False) if native.get((one.host, one.network)):
                found.append(one)
    return found


def test_kills_come_by_themselves_and_while_something_is_being_done() -> None:
    steps = [step for burst in plan(7, 600) for step in burst if any(operation.is_fault for operation in step)]
    assert {len(step) > 1 for step in steps} == {True, False}
    assert all(sum(operation.is_fault for operation in step) == 1 for step in steps)


def test_an_operation_says_what_it_is() -> None:
    made = random_plan.ContainerSpec(ip=7, always=True)
    operation = random_plan.Operation(host="h1", kind="run", target="c3", network="n0", made=made, after_s=0.2)
    assert str(operation) == "h1 run c3 n0 ip=7 always after=0.2"
    network = random_plan.Operation(
        host="h2", kind="network-create", target="n0", made=random_plan.NetworkSpec(quarter=0)
    )
    assert str(network) == "h2 network-create n0 quarter=0 gateway=auto"
