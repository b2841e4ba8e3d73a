"""The file and the memory agree, whatever fails; and one commit serves all that wait."""

from __future__ import annotations

import contextlib
import ipaddress
import pathlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ipam import errors, pool, requests, service, store
from overlay import statefile

if TYPE_CHECKING:
    from tests.ipam.conftest import World

A = ipaddress.IPv4Address
POOL = "flannelpy/10.2.20.0/24"
MAC = "02:00:00:00:00:77"
HOLDERS = (pool.NOBODY, pool.Holder(name="db"), pool.Holder(mac=MAC), pool.Holder(name="web", mac=MAC))

FAIL_STATEMENT = """
    CREATE TRIGGER fail BEFORE {on} BEGIN SELECT RAISE(ABORT, 'no space left'); END
"""
FAIL_COMMIT = """
    CREATE TRIGGER fail AFTER {on} BEGIN INSERT INTO orphans VALUES (1); END
"""
ORPHANS = """
    CREATE TABLE orphans (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)
"""
CHANGES = {
    "grant": ("INSERT ON ipam_pools", lambda it: it.request_pool(requests.PoolRequest())),
    "take": ("INSERT ON ipam_addresses", lambda it: take(it, None)),
    "retake": ("UPDATE ON ipam_addresses", lambda it: take(it, "10.2.20.3")),
    "release": ("UPDATE ON ipam_addresses", lambda it: it.release_address(POOL, A("10.2.20.2"))),
    "drop": ("DELETE ON ipam_pools", lambda it: it.release_pool(POOL)),
}


def take(ipam: service.Ipam, ip: str | None = None) -> A:
    return ipam.request_address(requests.AddressRequest(pool_id=POOL, ip=A(ip) if ip else None)).ip


def memory(ipam: service.Ipam) -> object:
    """All that later answers depend on."""
    with ipam._store.read() as pools:
        return {
            entry.id: (
                entry.prefix,
                entry.lease,
                entry.addresses.subpool,
                [entry.addresses.state(ip) for ip in entry.addresses.cidr],
                (entry.addresses.propose(), entry.addresses.used),
                [entry.addresses.propose(holder, settled=0.0) for holder in HOLDERS],
            )
            for entry in pools.values()
        }


def run_sql(world: World, *statements: str) -> None:
    with world.files[-1].write() as tx:
        for statement in statements:
            tx.run(statement)


@pytest.mark.parametrize("failure", [FAIL_STATEMENT, FAIL_COMMIT], ids=["statement", "commit"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_cannot_be_written_did_not_happen(
    world: World, ipam: service.Ipam, change: str, failure: str
) -> None:
    on, act = CHANGES[change]
    if change != "grant":
        ipam.request_pool(requests.PoolRequest())
        assert [str(take(ipam)) for _ in range(3)] == ["10.2.20.1", "10.2.20.2", "10.2.20.3"]
        ipam.release_address(POOL, A("10.2.20.3"))
    run_sql(world, "CREATE TABLE parents (id INTEGER PRIMARY KEY)", ORPHANS, failure.format(on=on))
    before = memory(ipam)
    with pytest.raises(statefile.StateFileError):
        act(ipam)
    assert memory(ipam) == before
    run_sql(world, "DROP TRIGGER fail")
    act(ipam)
    assert memory(ipam) != before
    assert memory(world.start()) == memory(ipam)


def test_a_full_disk_is_an_error_and_no_address(world: World, ipam: service.Ipam) -> None:
    ipam.request_pool(requests.PoolRequest())
    run_sql(world, "PRAGMA max_page_count = 1")
    granted = []
    with pytest.raises(statefile.StateFileError, match=r"nothing was changed: cannot write the state file .* full"):
        granted.extend(take(ipam) for _ in range(254))
    assert [row.ip for row in world.start().addresses()] == [row.ip for row in ipam.addresses()]


def test_one_refusal_does_not_spoil_the_transaction_it_shares(ipam: service.Ipam) -> None:
    ipam.request_pool(requests.PoolRequest())
    answers: list[object] = []

    def ask(ip: str) -> None:
        try:
            answers.append(str(take(ipam, ip)))
        except errors.IpamError as exc:
            answers.append(type(exc).__name__)

    run_together(ipam, [lambda: ask("10.2.20.7"), lambda: ask("10.2.20.7"), lambda: ask("10.2.20.0")])
    assert sorted(map(str, answers)) == ["10.2.20.7", "AddressOutsidePool", "AddressTaken"]


def test_a_transaction_that_fails_fails_all_that_share_it_and_no_other(world: World, ipam: service.Ipam) -> None:
    ipam.request_pool(requests.PoolRequest())
    run_sql(world, "CREATE TABLE parents (id INTEGER PRIMARY KEY)", ORPHANS)
    on = "INSERT ON ipam_addresses WHEN new.ip = '10.2.20.9'"
    run_sql(world, FAIL_COMMIT.format(on=on))
    failed: list[str] = []

    def ask(ip: str) -> None:
        with pytest.raises(statefile.StateFileError):
            take(ipam, ip)
        failed.append(ip)

    run_together(ipam, [lambda: ask("10.2.20.8"), lambda: ask("10.2.20.9")])
    assert sorted(failed) == ["10.2.20.8", "10.2.20.9"]
    assert ipam.addresses() == []
    assert str(take(ipam)) == "10.2.20.1"


def run_together(ipam: service.Ipam, acts: list[Callable[[], object]]) -> None:
    """Run all in one transaction: none can be written before all wait."""
    inside = ipam._store
    threads = [threading.Thread(target=act) for act in acts]
    first = threading.Thread(target=lambda: inside.change(lambda _change: None))
    with inside._lock:
        first.start()
        while not inside._writing:
            pass
        for thread in threads:
            thread.start()
        while len(inside._queue) < len(acts):
            pass
    for thread in (first, *threads):
        thread.join(10)
        assert not thread.is_alive()


def test_a_bug_in_one_piece_of_work_leaves_no_trace_and_no_waiting_caller(ipam: service.Ipam) -> None:
    ipam.request_pool(requests.PoolRequest())
    before = memory(ipam)

    def broken(change: store.Change) -> None:
        entry = change.pools[POOL]
        change.take(entry, A("10.2.20.1"), pool.Used(kind=pool.Kind.AUX, since=0.0, stamp=0.0))
        raise errors.BadRequest("too late")

    with pytest.raises(store.Disagreement, match="work refused after its first change: too late"):
        ipam._store.change(broken)
    assert memory(ipam) == before
    assert str(take(ipam)) == "10.2.20.1"


def test_rows_that_memory_does_not_have_are_found_out(world: World, ipam: service.Ipam) -> None:
    ipam.request_pool(requests.PoolRequest())
    run_sql(
        world,
        "INSERT INTO ipam_addresses SELECT pool_id, '10.2.20.1', 'endpoint', 0, NULL, NULL, NULL FROM ipam_pools",
    )
    with pytest.raises(store.Disagreement, match=r"state file and memory disagree about .*10\.2\.20\.1"):
        take(ipam)


def test_sixteen_callers_get_sixteen_addresses_each_time(world: World, ipam: service.Ipam) -> None:
    ipam.request_pool(requests.PoolRequest())
    taken: list[list[A]] = [[] for _ in range(16)]
    together = threading.Barrier(16)

    def caller(mine: list[A]) -> None:
        together.wait(10)
        for turn in range(60):
            mine.append(take(ipam))
            if turn % 4 == 3:  # every fourth time give two back
                for ip in (mine.pop(), mine.pop(0)):
                    ipam.release_address(POOL, ip)
            if len(mine) > 12:
                ipam.release_address(POOL, mine.pop())

    threads = [threading.Thread(target=caller, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    held = sorted(ip for mine in taken for ip in mine)
    assert len(set(held)) == len(held)
    assert [row.ip for row in ipam.addresses()] == held
    assert memory(world.start()) == memory(ipam)


def test_a_file_of_before_1_2_is_read_and_its_holders_are_nobody(world: World) -> None:
    old = statefile.Schema(room="ipam", steps=store.SCHEMA.steps[:1])
    with contextlib.closing(statefile.StateFile(world.path, [old])) as state, state.write() as tx:
        tx.run("INSERT INTO ipam_pools VALUES (?, '/x', '10.2.20.0/24', '10.2.20.0/24', NULL, 0)", (POOL,))
        tx.run("INSERT INTO ipam_addresses VALUES (?, '10.2.20.1', 'endpoint', 0, NULL)", (POOL,))
        tx.run("INSERT INTO ipam_addresses VALUES (?, '10.2.20.2', NULL, 0, 7)", (POOL,))
    with world.start()._store.read() as pools:
        states = [pools[POOL].addresses.state(A(f"10.2.20.{n}")) for n in (1, 2)]
    assert states == [
        pool.Used(kind=pool.Kind.ENDPOINT, since=0.0, stamp=world.clock.mono),
        pool.Rested(order=7, stamp=world.clock.mono),
    ]


def test_schema_has_the_rooms_name() -> None:
    assert store.SCHEMA.room == "ipam"


class RestartMachine(RuleBasedStateMachine):
    """Any order of changes and refusals: a process started now would know exactly what this one knows."""

    make: Callable[[], World]

    @initialize()
    def begin(self) -> None:
        self.world = self.make()
        self.ipam = self.world.start()
        self.pools: set[str] = set()

    @rule(subnet=st.sampled_from(["10.2.20.0/29", "10.2.20.8/29", "10.2.20.0/28", None]))
    def grant(self, subnet: str | None) -> None:
        cidr = ipaddress.IPv4Network(subnet) if subnet else None
        try:
            self.pools.add(self.ipam.request_pool(requests.PoolRequest(cidr=cidr)).id)
        except errors.PoolTaken:
            assert self.pools

    @precondition(lambda self: self.pools)
    @rule(
        data=st.data(),
        number=st.none() | st.integers(0, 16),
        purpose=st.sampled_from(requests.Purpose),
        holder=st.sampled_from(HOLDERS),
    )
    def take(self, data: st.DataObject, number: int | None, purpose: requests.Purpose, holder: pool.Holder) -> None:
        ip = None if number is None else A(f"10.2.20.{number}")
        pool_id = data.draw(st.sampled_from(sorted(self.pools)))
        held = {row.ip: row.kind for row in self.ipam.addresses()}
        try:
            request = requests.AddressRequest(pool_id=pool_id, ip=ip, purpose=purpose, holder=holder)
            granted = self.ipam.request_address(request)
        except (errors.AddressTaken, errors.AddressOutsidePool, errors.PoolFull):
            return
        assert granted.ip not in held or held[granted.ip] is pool.Kind.GATEWAY

    @precondition(lambda self: self.pools)
    @rule(data=st.data(), number=st.integers(0, 16))
    def release(self, data: st.DataObject, number: int) -> None:
        self.ipam.release_address(data.draw(st.sampled_from(sorted(self.pools))), A(f"10.2.20.{number}"))

    @precondition(lambda self: self.pools)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        pool_id = data.draw(st.sampled_from(sorted(self.pools)))
        self.pools.remove(pool_id)
        self.ipam.release_pool(pool_id)

    @invariant()
    def a_new_process_would_know_the_same(self) -> None:
        other = self.world.start()
        assert memory(other) == memory(self.ipam)
        self.world.files.pop().close()

    def teardown(self) -> None:
        self.world.files.pop().close()


def test_restart_at_any_point(
    world_in: Callable[[pathlib.Path], World], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def make() -> World:
        return world_in(tmp_path_factory.mktemp("restart"))

    machine = type("Machine", (RestartMachine,), {"make": staticmethod(make)}).TestCase
    machine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
    machine().runTest()
