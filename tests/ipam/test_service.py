from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ipam import errors, pool, requests, service
from overlay import errors as overlay_errors

if TYPE_CHECKING:
    from overlay import lease
    from tests.ipam.conftest import World

A = ipaddress.IPv4Address
N = ipaddress.IPv4Network
POOL = "flannelpy/10.2.20.0/24"
POOL6 = "flannelpy/fd00:2:0:14::/64"


def grant(ipam: service.Ipam, cidr: str | None = None, **more: Any) -> str:
    return ipam.request_pool(requests.PoolRequest(cidr=N(cidr) if cidr else None, **more)).id


def take(ipam: service.Ipam, pool_id: str = POOL, ip: str | None = None, **more: Any) -> str:
    return str(ipam.request_address(requests.AddressRequest(pool_id=pool_id, ip=A(ip) if ip else None, **more)))


def gateway(ipam: service.Ipam, pool_id: str = POOL, ip: str | None = None) -> str:
    return take(ipam, pool_id, ip, purpose=requests.Purpose.GATEWAY)


def test_pool_is_the_whole_lease_and_waits_for_it_at_most_twenty_seconds(world: World, ipam: service.Ipam) -> None:
    assert ipam.request_pool(requests.PoolRequest()) == requests.GrantedPool(id=POOL, cidr=N("10.2.20.0/24"))
    assert world.holdings.waited == [(None, 20.0)]


def test_without_a_lease_the_reason_comes_through(make_world: Callable[..., World]) -> None:
    ipam = make_world().start()
    with pytest.raises(overlay_errors.NotReady, match=r"no lease under /coreos\.com/network within 20 s: etcd does"):
        ipam.request_pool(requests.PoolRequest())


def test_a_lease_that_becomes_another_one_before_the_grant_is_asked_for_again(
    make_world: Callable[..., World], offer: Callable[..., lease.HeldSubnet]
) -> None:
    before, after = offer("10.2.0.0/16", "10.2.20.0/24"), offer("10.2.0.0/16", "10.2.21.0/24")
    world = make_world(before)
    wait = world.holdings.wait

    def wait_and_move(prefix: str | None, timeout_s: float) -> lease.HeldSubnet:
        told = wait(prefix, timeout_s)
        world.holdings.offered[told.prefix] = after
        return told

    world.holdings.wait = wait_and_move  # type: ignore[method-assign]
    ipam = world.start()
    assert grant(ipam) == "flannelpy/10.2.21.0/24"
    assert [usage.lease for usage in ipam.usage()] == [after.subnet]


def test_a_lease_that_is_never_this_host_s_for_long_is_not_ready(world: World, ipam: service.Ipam) -> None:
    world.holdings.holds = lambda _held: False  # type: ignore[method-assign]
    with pytest.raises(overlay_errors.NotReady, match=r"10\.2\.20\.0/24 is no longer its own"):
        grant(ipam)
    assert ipam.usage() == []


def test_no_pool_is_granted_while_the_lease_becomes_another_one(
    world: World, ipam: service.Ipam, offer: Callable[..., lease.HeldSubnet]
) -> None:
    after = offer("10.2.0.0/16", "10.2.21.0/24")
    granted: list[str] = []
    granting = threading.Thread(target=lambda: granted.append(grant(ipam)))

    def move() -> None:
        granting.start()
        granting.join(0.2)
        assert granted == []
        world.holdings.offered[after.prefix] = after

    assert ipam.unless_in_use(after.prefix, move)
    granting.join(5)
    assert granted == ["flannelpy/10.2.21.0/24"]
    assert ipam.is_in_use(after.prefix)
    assert not ipam.unless_in_use(after.prefix, lambda: pytest.fail("a pool is out of this lease"))
    assert ipam.unless_in_use("/blue/network", lambda: None)


def test_known_pools_need_no_lease(world: World, ipam: service.Ipam) -> None:
    grant(ipam)
    world.holdings.offered.clear()
    world.holdings.joined.clear()
    assert take(world.start()) == "10.2.20.1/24"


def test_networks_with_subnets_share_the_lease(ipam: service.Ipam) -> None:
    assert grant(ipam, "10.2.20.128/25") == "flannelpy/10.2.20.128/25"
    assert grant(ipam, "10.2.20.0/26") == "flannelpy/10.2.20.0/26"
    with pytest.raises(errors.PoolTaken, match=r"take a free slice with --subnet: 10\.2\.20\.64/26$"):
        grant(ipam)


def test_a_released_pool_can_be_granted_again_and_is_empty(ipam: service.Ipam) -> None:
    grant(ipam)
    take(ipam)
    ipam.release_pool(POOL)
    ipam.release_pool(POOL)
    assert ipam.usage() == ipam.addresses() == []
    grant(ipam)
    assert take(ipam) == "10.2.20.1/24"


@pytest.mark.parametrize("cidr", ["10.2.20.0/31", "10.2.20.7/32"])
def test_a_pool_without_room_is_refused_and_nothing_stays(ipam: service.Ipam, cidr: str) -> None:
    with pytest.raises(errors.PoolUnusable, match="the smallest is a /30"):
        grant(ipam, cidr)
    assert ipam.usage() == []


def test_gateway_is_the_pools_first_address_whatever_the_range(ipam: service.Ipam) -> None:
    grant(ipam, subpool=N("10.2.20.128/25"))
    assert (gateway(ipam), take(ipam)) == ("10.2.20.1/24", "10.2.20.128/24")


def test_gateway_may_be_chosen_and_asked_for_again(ipam: service.Ipam) -> None:
    grant(ipam)
    assert gateway(ipam, ip="10.2.20.254") == "10.2.20.254/24"
    assert gateway(ipam, ip="10.2.20.254") == "10.2.20.254/24"
    with pytest.raises(errors.AddressTaken, match=r"10\.2\.20\.254 .* in use \(gateway\)"):
        take(ipam, ip="10.2.20.254")


def test_a_container_never_gets_the_gateways_address(ipam: service.Ipam) -> None:
    grant(ipam)
    gateway(ipam)
    assert take(ipam) == "10.2.20.2/24"
    with pytest.raises(errors.AddressTaken):
        gateway(ipam, ip="10.2.20.2")


@pytest.mark.parametrize("ip", ["10.2.20.0", "10.2.20.255", "10.2.21.5"])
def test_gateway_and_explicit_address_must_be_usable(ipam: service.Ipam, ip: str) -> None:
    grant(ipam)
    for ask in (gateway, take):
        with pytest.raises(errors.AddressOutsidePool) as caught:
            ask(ipam, POOL, ip)
        assert caught.value.status == 400


def test_explicit_address_is_honoured_once(ipam: service.Ipam) -> None:
    grant(ipam)
    assert take(ipam, ip="10.2.20.77") == "10.2.20.77/24"
    with pytest.raises(errors.AddressTaken) as caught:
        take(ipam, ip="10.2.20.77")
    assert caught.value.status == 409
    ipam.release_address(POOL, A("10.2.20.77"))
    assert take(ipam, ip="10.2.20.77") == "10.2.20.77/24"


def test_second_release_is_harmless(ipam: service.Ipam) -> None:
    grant(ipam)
    first, second = A(take(ipam).partition("/")[0]), A(take(ipam).partition("/")[0])
    for ip in (first, second, first, first):
        ipam.release_address(POOL, ip)
    ipam.release_address(POOL, A("192.0.2.1"))
    ipam.release_address("flannelpy/192.0.2.0/24", A("192.0.2.1"))
    rest = [take(ipam) for _ in range(254)]
    assert rest[-2:] == [f"{first}/24", f"{second}/24"]


def test_unknown_pool_says_what_will_happen(ipam: service.Ipam) -> None:
    with pytest.raises(errors.UnknownPool) as caught:
        take(ipam)
    assert caught.value.status == 410
    assert str(caught.value) == (
        "pool flannelpy/10.2.20.0/24 is not known to this plugin; if its network is still in `docker network ls`, it "
        "is adopted within minutes once Docker's API answers; otherwise re-create the network"
    )


def test_a_full_pool_names_pool_lease_used_and_total(ipam: service.Ipam) -> None:
    grant(ipam)
    assert len({take(ipam) for _ in range(254)}) == 254
    with pytest.raises(errors.PoolFull) as caught:
        take(ipam)
    assert str(caught.value) == (
        "pool 10.2.20.0/24 of lease 10.2.20.0/24 (/coreos.com/network) is full: 254 of 254 addresses used; remove "
        "containers of this network, or use another network or host"
    )
    ipam.release_address(POOL, A("10.2.20.33"))
    assert take(ipam) == "10.2.20.33/24"


def test_a_full_range_names_the_range(ipam: service.Ipam) -> None:
    grant(ipam, "10.2.20.0/25", subpool=N("10.2.20.8/31"))
    for _ in range(2):
        take(ipam, "flannelpy/10.2.20.0/25")
    with pytest.raises(
        errors.PoolFull, match=r"^pool 10\.2\.20\.0/25, --ip-range 10\.2\.20\.8/31, of lease .* 2 of 2 "
    ):
        take(ipam, "flannelpy/10.2.20.0/25")


def test_a_subnet_of_the_other_flannel_network_is_told_the_option(ipam: service.Ipam) -> None:
    grant(ipam, prefix="/blue/network")
    with pytest.raises(errors.PoolOutsideLease) as caught:
        grant(ipam, "10.9.7.0/25")
    assert str(caught.value) == (
        "subnet 10.9.7.0/25 is part of this host's lease 10.9.7.0/24 of /blue/network, not of 10.2.20.0/24 of "
        "/coreos.com/network; add --ipam-opt flannelpy.prefix=/blue/network"
    )


def test_overlapping_leases_of_two_flannel_networks_are_refused_and_the_new_one_left(
    world: World, ipam: service.Ipam
) -> None:
    with pytest.raises(errors.LeasesOverlap) as caught:
        grant(ipam, prefix="/clash/network")
    assert caught.value.status == 409
    assert str(caught.value).startswith(
        "lease 10.2.20.0/23 of /clash/network overlaps lease 10.2.20.0/24 of /coreos.com/network: this host"
    )
    assert world.holdings.joined == ["/coreos.com/network"]


def test_a_flannel_network_is_left_with_its_last_pool(world: World, ipam: service.Ipam) -> None:
    one = grant(ipam, "10.9.7.0/25", prefix="/blue/network")
    two = grant(ipam, "10.9.7.128/25", prefix="/blue/network")
    joined = []
    for pool_id in (one, two, grant(ipam)):
        ipam.release_pool(pool_id)
        joined.append(list(world.holdings.joined))
    default, blue = "/coreos.com/network", "/blue/network"
    assert joined == [[default, blue], [default], [default]]


def test_a_registry_that_is_away_does_not_stop_a_release(world: World, ipam: service.Ipam) -> None:
    pool_id = grant(ipam, prefix="/blue/network")

    def leave(prefix: str) -> None:
        raise overlay_errors.RegistryUnavailable("etcd does not answer")

    world.holdings.leave = leave  # type: ignore[method-assign]
    ipam.release_pool(pool_id)
    assert ipam.usage() == []


def test_a_refused_pool_leaves_its_flannel_network_only_if_no_other_pool_is_in_it(
    world: World, ipam: service.Ipam
) -> None:
    with pytest.raises(errors.PoolOutsideLease):
        grant(ipam, "192.0.2.0/24", prefix="/blue/network")
    assert world.holdings.joined == ["/coreos.com/network"]
    grant(ipam, prefix="/blue/network")
    with pytest.raises(errors.PoolOutsideLease):
        grant(ipam, "192.0.2.0/24", prefix="/blue/network")
    assert world.holdings.joined == ["/coreos.com/network", "/blue/network"]


def test_a_pool_asked_for_while_the_last_one_goes_keeps_its_flannel_network(world: World, ipam: service.Ipam) -> None:
    """The release comes while the request waits for the lease: the network must not be left under it."""
    first = grant(ipam, "10.9.7.0/25", prefix="/blue/network")
    wait = world.holdings.wait

    def wait_and_lose_the_other(prefix: str | None, timeout_s: float) -> Any:
        held = wait(prefix, timeout_s)
        ipam.release_pool(first)
        return held

    world.holdings.wait = wait_and_lose_the_other  # type: ignore[method-assign]
    grant(ipam, "10.9.7.128/25", prefix="/blue/network")
    assert "/blue/network" in world.holdings.joined


def test_usage_and_addresses_show_everything(world: World, ipam: service.Ipam) -> None:
    grant(ipam, "10.2.20.128/25", subpool=N("10.2.20.192/29"))
    grant(ipam, prefix="/blue/network")
    it = "flannelpy/10.2.20.128/25"
    gateway(ipam, it)
    take(ipam, it, "10.2.20.130")
    world.clock.advance(5)
    take(ipam, it, purpose=requests.Purpose.ENDPOINT)
    assert ipam.usage() == [
        requests.PoolUsage(
            id=it,
            prefix="/coreos.com/network",
            lease=N("10.2.20.0/24"),
            cidr=N("10.2.20.128/25"),
            subpool=N("10.2.20.192/29"),
            gateway=A("10.2.20.129"),
            used=1,
            total=8,
            short=False,
        ),
        requests.PoolUsage(
            id="flannelpy/10.9.7.0/24",
            prefix="/blue/network",
            lease=N("10.9.7.0/24"),
            cidr=N("10.9.7.0/24"),
            subpool=None,
            gateway=None,
            used=0,
            total=254,
            short=False,
        ),
    ]
    assert ipam.addresses() == [
        requests.AddressInUse(pool_id=it, ip=A("10.2.20.129"), kind=pool.Kind.GATEWAY, age_s=5.0),
        requests.AddressInUse(pool_id=it, ip=A("10.2.20.130"), kind=pool.Kind.EXPLICIT, age_s=5.0),
        requests.AddressInUse(pool_id=it, ip=A("10.2.20.192"), kind=pool.Kind.ENDPOINT, age_s=0.0),
    ]


def test_a_restart_changes_nothing(world: World, ipam: service.Ipam) -> None:
    grant(ipam, "10.2.20.0/29", subpool=N("10.2.20.0/29"))
    it = "flannelpy/10.2.20.0/29"
    gateway(ipam, it)
    for _ in range(5):
        take(ipam, it)
    for number in (5, 3, 4):
        ipam.release_address(it, A(f"10.2.20.{number}"))
    again = world.start()
    assert (again.usage(), again.addresses()) == (ipam.usage(), ipam.addresses())
    assert [take(again, it) for _ in range(3)] == ["10.2.20.5/29", "10.2.20.3/29", "10.2.20.4/29"]


def test_a_slash_16_with_65000_addresses_opens_and_answers_quickly(
    make_world: Callable[..., World], offer: Callable[..., Any]
) -> None:
    world = make_world(offer("10.0.0.0/8", "10.2.0.0/16"))
    first = world.start()
    it = grant(first)
    with world.files[-1].write() as tx:
        tx.run_many(
            "INSERT INTO ipam_addresses (pool_id, ip, kind, since) VALUES (?, ?, 'endpoint', 0)",
            ((it, str(ip)) for ip in list(N("10.2.0.0/16").hosts())[:65_000]),
        )
    started = time.perf_counter()
    ipam = world.start()
    opened = time.perf_counter()
    assert [take(ipam, it) for _ in range(200)][-1] == "10.2.254.176/16"
    assert opened - started < 5
    assert time.perf_counter() - opened < 5


def grant6(ipam: service.Ipam, cidr: str | None = None, **more: Any) -> str:
    wanted = ipaddress.IPv6Network(cidr) if cidr else None
    return ipam.request_pool(requests.PoolRequest(version=6, cidr=wanted, **more)).id


def test_both_families_of_a_lease_are_granted_whole_and_once(dual: service.Ipam) -> None:
    assert [grant(dual), grant6(dual)] == [POOL, POOL6]
    for again in (grant, grant6):
        with pytest.raises(errors.PoolTaken, match="is taken whole by pool"):
            again(dual)
    assert [(use.id, use.lease, use.used, use.total) for use in dual.usage()] == [
        (POOL, N("10.2.20.0/24"), 0, 254),
        (POOL6, ipaddress.IPv6Network("fd00:2:0:14::/64"), 0, 2**64 - 1),
    ]


def test_ipv6_where_the_flannel_network_has_none_is_told_how_to_go_on(ipam: service.Ipam) -> None:
    for cidr in (None, "fd00:2:0:14::/64"):
        with pytest.raises(errors.BadRequest) as caught:
            grant6(ipam, cidr)
        assert caught.value.status == 400
        assert str(caught.value) == (
            "--ipv6: the flannel network /coreos.com/network has no IPv6; leave --ipv6 and IPv6 --subnet away, or "
            "add EnableIPv6 and IPv6Network to its network config (docs/operations.md, Dual stack)"
        )
    assert ipam.usage() == []


def test_an_ipv6_subnet_of_the_other_flannel_network_is_told_the_option(dual: service.Ipam) -> None:
    grant(dual, prefix="/blue/network")
    with pytest.raises(errors.PoolOutsideLease) as caught:
        grant6(dual, "fd00:9:0:7:8000::/65")
    assert str(caught.value) == (
        "subnet fd00:9:0:7:8000::/65 is part of this host's lease fd00:9:0:7::/64 of /blue/network, not of "
        "10.2.20.0/24 and fd00:2:0:14::/64 of /coreos.com/network; add --ipam-opt flannelpy.prefix=/blue/network"
    )


def test_leases_that_overlap_in_ipv6_alone_are_refused_too(dual_world: World, dual: service.Ipam) -> None:
    for ask in (grant, grant6):
        with pytest.raises(errors.LeasesOverlap) as caught:
            ask(dual, prefix="/clash/network")
        assert str(caught.value).startswith(
            "lease fd00:2::/56 of /clash/network overlaps lease fd00:2:0:14::/64 of /coreos.com/network: this host"
        )
    assert dual_world.holdings.joined == ["/coreos.com/network"]


def test_a_flannel_network_is_kept_for_an_ipv6_pool_alone(dual_world: World, dual: service.Ipam) -> None:
    """The engine gives the IPv4 pool back first."""
    four, six = (ask(dual, prefix="/blue/network") for ask in (grant, grant6))
    dual.release_pool(four)
    assert dual_world.holdings.joined == ["/coreos.com/network", "/blue/network"]
    dual.release_pool(six)
    assert dual_world.holdings.joined == ["/coreos.com/network"]


def test_addresses_of_both_families_survive_a_restart_in_order(dual_world: World, dual: service.Ipam) -> None:
    for pool_id in (grant6(dual, subpool=ipaddress.IPv6Network("fd00:2:0:14::f0/124")), grant(dual)):
        gateway(dual, pool_id)
        for _ in range(2):
            take(dual, pool_id)
    dual.release_address(POOL6, ipaddress.IPv6Address("fd00:2:0:14::f0"))
    again = dual_world.start()
    assert (again.usage(), again.addresses()) == (dual.usage(), dual.addresses())
    assert [str(row.ip) for row in again.addresses()] == [
        *(f"10.2.20.{n}" for n in (1, 2, 3)),
        *(f"fd00:2:0:14::{n}" for n in ("1", "f1")),
    ]
    assert [(use.used, use.total, str(use.gateway)) for use in again.usage()] == [
        (3, 254, "10.2.20.1"),
        (1, 16, "fd00:2:0:14::1"),
    ]
    assert take(again, POOL6) == "fd00:2:0:14::f2/64"


def test_an_ipv6_address_by_number_is_honoured_once(dual: service.Ipam) -> None:
    grant6(dual)
    ask = requests.AddressRequest(pool_id=POOL6, ip=ipaddress.IPv6Address("fd00:2:0:14::dead:beef"))
    assert str(dual.request_address(ask)) == "fd00:2:0:14::dead:beef/64"
    with pytest.raises(errors.AddressTaken):
        dual.request_address(ask)
    with pytest.raises(errors.AddressOutsidePool, match=r"10\.2\.20\.5 cannot be used in pool fd00:2:0:14::/64"):
        take(dual, POOL6, "10.2.20.5")


def test_a_full_ipv6_range_counts_right(dual: service.Ipam) -> None:
    grant6(dual, subpool=ipaddress.IPv6Network("fd00:2:0:14::/126"))
    for _ in range(3):
        take(dual, POOL6)
    with pytest.raises(
        errors.PoolFull, match=r"--ip-range fd00:2:0:14::/126, of lease fd00:2:0:14::/64 .* 3 of 3 add"
    ):
        take(dual, POOL6)
