from __future__ import annotations

import dataclasses
import ipaddress

import pytest

from overlay import claim, errors, lease, netconfig, registry

CONFIG = netconfig.parse_network_config('{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan"}}')
US = ipaddress.IPv4Address("192.0.2.1")
THEM = ipaddress.IPv4Address("192.0.2.2")


def key(subnet: str) -> lease.SubnetKey:
    return lease.SubnetKey(v4=ipaddress.IPv4Network(subnet))


def attrs(public_ip: ipaddress.IPv4Address, data: str = "{}") -> lease.LeaseAttrs:
    return lease.LeaseAttrs(public_ip=public_ip, backend_type="vxlan", backend_data=data)


def snapshot(*leases: lease.Lease) -> registry.Snapshot:
    return registry.Snapshot(revision=1, leases={one.key: one for one in leases})


OURS = attrs(US)
LAST = claim.Published(key=key("10.2.20.0/24"), attrs=OURS)


def wish(*leases: lease.Lease, last: claim.Published | None = LAST, in_use: bool = True) -> claim.Claim:
    return claim.claim_subnet(CONFIG, snapshot(*leases), OURS, last, in_use=in_use, pick=lambda _count: 0)


def test_a_new_host_takes_the_first_free_subnet() -> None:
    assert wish(last=None, in_use=False) == claim.Create(key=key("10.2.1.0/24"))


def test_a_new_host_keeps_the_lease_that_says_what_it_would() -> None:
    """A flanneld's that ran here: taken over without a word to anybody."""
    found = lease.Lease(key=key("10.2.7.0/24"), attrs=OURS)
    assert wish(found, last=None, in_use=False) == claim.Keep(lease=found)


def test_a_new_host_rewrites_the_lease_that_names_its_address() -> None:
    found = lease.Lease(key=key("10.2.7.0/24"), attrs=dataclasses.replace(OURS, backend_data='{"VNI":9}'))
    assert wish(found, last=None, in_use=False) == claim.Rewrite(over=found)


def test_a_host_without_containers_asks_for_the_subnet_it_had() -> None:
    assert wish(in_use=False) == claim.Create(key=LAST.key)


def test_a_host_without_containers_takes_another_where_its_own_is_taken() -> None:
    assert wish(lease.Lease(key=LAST.key, attrs=attrs(THEM)), in_use=False) == claim.Create(key=key("10.2.1.0/24"))


def test_a_host_with_containers_creates_its_key_again() -> None:
    assert wish() == claim.Create(key=LAST.key)


def test_a_host_with_containers_keeps_its_subnet_even_beside_another_lease_of_its_own() -> None:
    assert wish(lease.Lease(key=key("10.2.7.0/24"), attrs=OURS)) == claim.Create(key=LAST.key)


def test_a_key_that_says_what_we_publish_is_kept() -> None:
    found = lease.Lease(key=LAST.key, attrs=OURS)
    assert wish(found) == claim.Keep(lease=found)


def test_a_key_with_our_address_and_another_mac_is_rewritten() -> None:
    found = lease.Lease(key=LAST.key, attrs=attrs(US, '{"VtepMAC":"x"}'))
    assert wish(found) == claim.Rewrite(over=found)


def test_a_key_we_wrote_before_our_address_changed_is_ours() -> None:
    before = attrs(ipaddress.IPv4Address("192.0.2.77"))
    found = lease.Lease(key=LAST.key, attrs=before)
    assert wish(found, last=claim.Published(key=LAST.key, attrs=before)) == claim.Rewrite(over=found)


def test_a_key_of_another_host_is_left_alone() -> None:
    found = lease.Lease(key=LAST.key, attrs=attrs(THEM))
    assert wish(found) == claim.Taken(by=found)


@pytest.mark.parametrize("other", ["10.2.16.0/20", "10.2.20.128/25"])
def test_a_lease_that_overlaps_ours_is_in_the_way(other: str) -> None:
    found = lease.Lease(key=key(other), attrs=attrs(THEM))
    assert wish(found) == claim.Taken(by=found)


def test_a_config_without_room_for_the_subnet_in_use_is_refused_with_the_way_out() -> None:
    smaller = netconfig.parse_network_config('{"Network": "10.3.0.0/16", "Backend": {"Type": "vxlan"}}')
    with pytest.raises(errors.ConfigInvalid, match=r"no subnet 10\.2\.20\.0/24, which this host's containers use"):
        claim.claim_subnet(smaller, snapshot(), OURS, LAST, in_use=True, pick=lambda _count: 0)


def test_an_operator_reads_who_has_the_subnet_and_what_to_do() -> None:
    by = lease.Lease(key=LAST.key, attrs=attrs(THEM))
    assert claim.explain_taken(LAST.key, by, OURS) == (
        "subnet 10.2.20.0/24 is leased by 192.0.2.2, but containers of this host (192.0.2.1) use 10.2.20.0/24: "
        "they keep their addresses and are cut off; remove this host's flannelpy networks, or free the other lease"
    )


def test_an_older_lease_of_another_length_is_a_rival_of_a_new_one() -> None:
    ours = lease.Lease(key=key("10.2.20.0/24"), attrs=OURS, mod_revision=9)
    wide = lease.Lease(key=key("10.2.16.0/20"), attrs=attrs(THEM), mod_revision=8)
    beside = lease.Lease(key=key("10.2.21.0/24"), attrs=attrs(THEM), mod_revision=3)
    assert claim.find_rival(ours, snapshot(beside, ours, wide)) == wide
    assert claim.find_rival(ours, snapshot(beside, ours)) is None


def test_a_younger_one_is_not_since_one_of_the_two_must_stay() -> None:
    ours = lease.Lease(key=key("10.2.20.0/24"), attrs=OURS, mod_revision=9)
    wide = lease.Lease(key=key("10.2.16.0/20"), attrs=attrs(THEM), mod_revision=10)
    assert claim.find_rival(ours, snapshot(ours, wide)) is None


def test_a_subnet_of_ipv4_alone_stays_in_use_where_ipv6_was_switched_on() -> None:
    """Containers have its addresses; IPv6 comes with the next subnet."""
    dual = netconfig.parse_network_config(
        '{"Network": "10.2.0.0/16", "EnableIPv6": true, "IPv6Network": "2001:db8:cafe::/48",'
        ' "Backend": {"Type": "vxlan"}}'
    )

    def wanted(*leases: lease.Lease, in_use: bool) -> claim.Claim:
        return claim.claim_subnet(dual, snapshot(*leases), OURS, LAST, in_use=in_use, pick=lambda _count: 0)

    mine = lease.Lease(key=LAST.key, attrs=OURS, lease_id=7, mod_revision=3)
    assert wanted(in_use=True) == claim.Create(key=LAST.key)
    assert wanted(mine, in_use=True) == claim.Keep(lease=mine)
    fresh = wanted(in_use=False)
    assert isinstance(fresh, claim.Create)
    assert fresh.key.v4 == LAST.key.v4
    assert fresh.key.v6 == ipaddress.IPv6Network("2001:db8:cafe:14::/64")
