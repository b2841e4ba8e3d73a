"""Who comes back gets the address it had: by name, by MAC, in both families, after a restart; and nobody else's."""

from __future__ import annotations

import ipaddress
import json
import logging
import pathlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ipam import endpoints, errors, pool, requests, service

if TYPE_CHECKING:
    from tests.ipam.conftest import World

POOL = "flannelpy/10.2.20.0/24"
POOL6 = "flannelpy/fd00:2:0:14::/64"
WIRE_29 = pathlib.Path(__file__).parent / "data" / "wire-29-ipam.jsonl"
MAC = "02:00:00:00:0a:77"


def take(ipam: service.Ipam, name: str = "", mac: str = "", ip: str = "", pool_id: str = POOL) -> str:
    request = requests.AddressRequest(
        pool_id=pool_id,
        ip=ipaddress.ip_address(ip) if ip else None,
        purpose=requests.Purpose.ENDPOINT,
        holder=pool.Holder(name=name, mac=mac),
    )
    return str(ipam.request_address(request).ip)


def release(ipam: service.Ipam, *ips: str, pool_id: str = POOL) -> None:
    for ip in ips:
        ipam.release_address(pool_id, ipaddress.ip_address(ip))


@pytest.fixture
def granted(ipam: service.Ipam) -> service.Ipam:
    """With the whole lease as a pool, and its gateway."""
    ipam.request_pool(requests.PoolRequest())
    ipam.request_address(requests.AddressRequest(pool_id=POOL, purpose=requests.Purpose.GATEWAY))
    return ipam


def test_a_container_made_again_under_its_name_gets_its_address_within_a_minute(
    world: World, granted: service.Ipam
) -> None:
    db, web = take(granted, "db"), take(granted, "web")
    release(granted, db, web)
    world.clock.advance(59)
    assert (take(granted, "web"), take(granted, "db")) == (web, db)
    release(granted, db)
    world.clock.advance(60)
    assert take(granted, "db") not in (db, web)


def test_a_mac_does_where_the_engine_tells_no_name(granted: service.Ipam) -> None:
    had = take(granted, mac=MAC)
    release(granted, had)
    assert take(granted, mac="02:00:00:00:00:78") != had
    assert take(granted, mac=MAC) == had


def test_any_other_container_gets_another_address(granted: service.Ipam) -> None:
    db = take(granted, "db")
    release(granted, db)
    assert db not in {take(granted, "web"), take(granted, mac=MAC), take(granted)}
    assert take(granted, "db") == db


def test_two_of_one_name_never_have_one_address(granted: service.Ipam) -> None:
    db = take(granted, "db")
    release(granted, db)
    both = {take(granted, "db"), take(granted, "db")}
    assert len(both) == 2
    assert db in both


def test_an_address_asked_for_by_number_is_given_though_it_is_kept(granted: service.Ipam) -> None:
    db = take(granted, "db")
    release(granted, db)
    assert take(granted, "web", ip=db) == db
    other = take(granted, "db")
    assert other != db
    release(granted, db)
    assert take(granted, "db") != db  # it is web's now


def test_who_asks_for_another_number_gets_that_one(granted: service.Ipam) -> None:
    release(granted, take(granted, "db"))
    assert take(granted, "db", ip="10.2.20.99") == "10.2.20.99"


def test_a_name_in_one_pool_says_nothing_in_another(ipam: service.Ipam) -> None:
    low, high = (
        ipam.request_pool(requests.PoolRequest(cidr=ipaddress.IPv4Network(cidr))).id
        for cidr in ("10.2.20.0/25", "10.2.20.128/25")
    )
    take(ipam, pool_id=low)
    had = take(ipam, "db", pool_id=low)
    release(ipam, had, pool_id=low)
    assert take(ipam, "db", pool_id=high) == "10.2.20.129"
    assert take(ipam, "db", pool_id=low) == had


def test_a_short_pool_gives_away_what_rested_longest(granted: service.Ipam) -> None:
    db, web, *_ = [take(granted, "db"), take(granted, "web"), *(take(granted) for _ in range(251))]
    release(granted, db, web)
    assert take(granted, "new") == db
    assert take(granted, "web") == web
    with pytest.raises(errors.PoolFull):
        take(granted, "db")


def test_both_families_come_back(dual: service.Ipam) -> None:
    pools = [dual.request_pool(requests.PoolRequest(version=version)).id for version in (4, 6)]
    had = [take(dual, "db", pool_id=it) for it in pools]
    for it, ip in zip(pools, had, strict=True):
        take(dual, "web", pool_id=it)
        release(dual, ip, pool_id=it)
    assert [take(dual, "db", pool_id=it) for it in pools] == had


def test_after_a_restart_an_address_is_kept_anew_for_who_had_it(world: World, granted: service.Ipam) -> None:
    """A reboot takes longer than a minute, and no clock outlives it: the plugin's start counts."""
    db, by_mac, running = take(granted, "db"), take(granted, mac=MAC), take(granted, "running")
    release(granted, db, by_mac)
    world.clock.advance(3600)
    again = world.start()
    release(again, running)
    world.clock.advance(59)
    assert [take(again, "running"), take(again, "db"), take(again, mac=MAC)] == [running, db, by_mac]


def test_after_a_restart_an_address_is_its_last_holders(world: World, granted: service.Ipam) -> None:
    had = take(granted, "db", MAC)
    release(granted, had)
    take(granted, "web", ip=had)
    again = world.start()
    release(again, had)
    assert had not in {take(again, "db"), take(again, mac=MAC)}
    assert take(again, "web") == had


def test_what_docker_forgot_comes_back_too(world: World, granted: service.Ipam) -> None:
    db = take(granted, "db")
    world.clock.advance(600)
    network = requests.KnownPool(
        prefix="/coreos.com/network",
        cidr=ipaddress.IPv4Network("10.2.20.0/24"),
        subpool=None,
        gateway=ipaddress.IPv4Address("10.2.20.1"),
        aux=frozenset(),
        endpoints=frozenset(),
    )
    (line,) = granted.release_unknown([network], world.clock.mono)
    assert line.startswith(f"address {db} of pool {POOL} released")
    assert take(granted, "db") == db


@pytest.mark.parametrize("seconds", [0.0, 5.0])
def test_the_setting_says_how_long(world: World, seconds: float) -> None:
    world.start()
    ipam = service.Ipam(world.holdings, world.files[-1], clock=world.clock.clock(), quarantine_s=seconds)
    ipam.request_pool(requests.PoolRequest())
    db = take(ipam, "db")
    release(ipam, db)
    world.clock.advance(max(0.0, seconds - 1))
    assert (take(ipam, "db") == db) is (seconds > 0)


def wire(ipam: service.Ipam) -> Callable[..., Any]:
    table = endpoints.methods(ipam)
    return lambda name, **body: table[f"IpamDriver.{name}"](body)


def ask(name: str = "", mac: str = "", pool_id: str = POOL) -> dict[str, Any]:
    """What engines from 29 on send; older ones only the MAC, and only where STICKY_MAC is on."""
    options = {"com.docker.network.endpoint.name": name, "com.docker.network.endpoint.macaddress": mac}
    return {"PoolID": pool_id, "Address": "", "Options": {key: value for key, value in options.items() if value}}


def test_name_and_mac_arrive_from_the_wire(granted: service.Ipam) -> None:
    call = wire(granted)
    db = call("RequestAddress", **ask("db"))["Address"]
    by_mac = call("RequestAddress", **ask(mac=MAC.upper()))["Address"]
    for address in (db, by_mac):
        call("ReleaseAddress", PoolID=POOL, Address=address.removesuffix("/24"))
    call("RequestAddress", **ask("web", "02:00:00:00:00:78"))
    assert call("RequestAddress", **ask("new", MAC))["Address"] == by_mac
    assert call("RequestAddress", **ask("db", "02:00:00:00:00:79"))["Address"] == db


def test_a_recorded_engine_of_29_gets_both_addresses_back(
    make_world: Callable[..., World], offer: Callable[..., Any]
) -> None:
    """libnetwork.md A.5, up to the end of its container, which comes again after another one."""
    call = wire(make_world(offer("10.64.0.0/10", "10.93.0.0/24", "fd93::/64")).start())
    asked = []
    for line in map(json.loads, WIRE_29.read_text().splitlines()[:8]):
        body = json.loads(json.dumps(line["req"]).replace("reclocal", "flannelpy"))
        if line["call"].endswith("ReleaseAddress"):
            body["Address"] = body["Address"].replace("10.93.0.10", "10.93.0.2").replace("fd93::a", "fd93::2")
        if "com.docker.network.endpoint.name" in (body.get("Options") or {}):
            asked.append(body)
        call(line["call"].removeprefix("IpamDriver."), **body)
    told = []
    for name, mac in (("c2", "da:2a:cb:d7:17:44"), ("c1", "da:2a:cb:d7:17:45")):
        for body in asked:
            options = {"com.docker.network.endpoint.name": name, "com.docker.network.endpoint.macaddress": mac}
            told.append(call("RequestAddress", **(body | {"Options": options}))["Address"])
    assert told == ["10.93.0.3/24", "fd93::3/64", "10.93.0.2/24", "fd93::2/64"]


def test_of_many_that_ask_at_once_under_one_name_one_gets_the_address(granted: service.Ipam) -> None:
    db = take(granted, "db")
    release(granted, db)
    taken: list[str] = []
    together = threading.Barrier(8)

    def ask_once() -> None:
        together.wait(10)
        taken.append(take(granted, "db"))

    threads = [threading.Thread(target=ask_once) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(taken)) == 8
    assert db in taken


@pytest.mark.parametrize("name", ["\ud800", "\x00", "ü", "a" * 256, "a\nb"])
def test_a_name_that_docker_does_not_make_is_served_and_not_kept(
    world: World, granted: service.Ipam, name: str
) -> None:
    call = wire(granted)
    assert call("RequestAddress", **ask(name))["Address"] == "10.2.20.2/24"
    assert world.rows("SELECT ip FROM ipam_addresses WHERE holder_name IS NOT NULL") == []


def test_a_nearly_used_pool_is_warned_of_once_on_the_way_up(
    granted: service.Ipam, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="ipam.service"):
        taken = [take(granted) for _ in range(202)]
        assert caplog.messages == []
        assert [use.short for use in granted.usage()] == [False]
        taken += [take(granted) for _ in range(10)]
        release(granted, *taken[:20])
        taken += [take(granted) for _ in range(20)]
    (line,) = caplog.messages
    assert line == (
        "pool nearly used up pool=flannelpy/10.2.20.0/24 lease=10.2.20.0/24 prefix=/coreos.com/network network=? "
        "used=204 total=254"
    )
    assert [use.short for use in granted.usage()] == [True]
    release(granted, *taken[20:])
    assert [use.short for use in granted.usage()] == [False]


def test_a_pool_that_is_short_at_the_start_is_warned_of_at_the_first_look(
    world: World, granted: service.Ipam, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(203):
        take(granted)
    caplog.clear()
    again = world.start()
    with caplog.at_level(logging.WARNING, logger="ipam.service"):
        assert [use.short for use in again.usage()] == [True]
    assert len(caplog.messages) == 1


def test_docker_s_name_for_the_network_is_in_warning_and_error(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.start()
    ipam = service.Ipam(
        world.holdings, world.files[-1], clock=world.clock.clock(), network_of=lambda cidr: f"mynet on {cidr}"
    )
    ipam.request_pool(requests.PoolRequest())
    with caplog.at_level(logging.WARNING, logger="ipam.service"):
        for _ in range(254):
            take(ipam)
    assert " network=mynet on 10.2.20.0/24 used=204 total=254" in caplog.messages[0]
    with pytest.raises(errors.PoolFull) as caught:
        take(ipam)
    assert str(caught.value) == (
        "network mynet on 10.2.20.0/24: pool 10.2.20.0/24 of lease 10.2.20.0/24 (/coreos.com/network) is full: 254 "
        "of 254 addresses used; remove containers of this network, or use another network or host"
    )
