"""What must hold after a soak, and the line for each thing that does not."""

from __future__ import annotations

import dataclasses

from lab.chaos_converged import HostSeen, complaints
from lab.chaos_etcd import HeldKey
from lab.chaos_kernel import Seen

KEYS = (
    HeldKey(name="10.2.6.0-24", public_ip="198.51.100.11", mac="02:00:00:00:00:06", lease_id=6),
    HeldKey(name="10.2.7.0-24", public_ip="198.51.100.12", mac="02:00:00:00:00:07", lease_id=7),
)
BEFORE = {"h1": "10.2.6.0/24", "h2": "10.2.7.0/24"}


def host(own: HeldKey, peer: HeldKey, name: str) -> HostSeen:
    gateway, mine = peer.name.partition("-")[0], own.name.partition("-")[0]
    return HostSeen(
        name=name,
        ip=own.public_ip,
        ready="",
        subnet=own.name.replace("-", "/"),
        docker=own.name.replace("-", "/"),
        forwarding="1",
        outside=own.public_ip,
        kernel=Seen(
            routes=({"dst": peer.name.replace("-", "/"), "gateway": gateway},),
            neighbours=({"dst": gateway, "lladdr": peer.mac},),
            fdb=({"mac": peer.mac, "dst": peer.public_ip},),
            vxlan={
                "address": own.mac,
                "mtu": 1450,
                "flags": ("BROADCAST", "UP"),
                "addr_info": ({"family": "inet", "local": mine, "prefixlen": 32},),
            },
            bridges={},
            ports=(),
        ),
    )


H1, H2 = host(KEYS[0], KEYS[1], "h1"), host(KEYS[1], KEYS[0], "h2")


def test_hosts_that_agree_give_no_complaint() -> None:
    assert list(complaints((H1, H2), KEYS, BEFORE)) == []


def test_a_host_that_is_not_ready() -> None:
    bad = dataclasses.replace(H1, ready="no lease")
    assert list(complaints((bad, H2), KEYS, BEFORE)) == ["h1: not ready: no lease"]


def test_a_container_that_is_not_seen_as_its_host() -> None:
    bare, silent = dataclasses.replace(H1, outside="10.2.6.2"), dataclasses.replace(H2, outside="")
    assert list(complaints((bare, silent), KEYS, BEFORE)) == [
        "h1: outside its container is 10.2.6.2, must be 198.51.100.11",
        "h2: outside its container is nobody, must be 198.51.100.12",
    ]


def test_forwarding_that_is_off() -> None:
    bad = dataclasses.replace(H1, forwarding="0")
    assert list(complaints((bad, H2), KEYS, BEFORE)) == ["h1: ip_forward is 0"]


def test_a_missing_and_a_stale_route() -> None:
    kernel = dataclasses.replace(H1.kernel, routes=({"dst": "10.2.9.0/24", "gateway": "10.2.9.0"},))
    bad = dataclasses.replace(H1, kernel=kernel)
    assert list(complaints((bad, H2), KEYS, BEFORE)) == [
        "h1: routes missing: 10.2.7.0/24 via 10.2.7.0",
        "h1: routes too many: 10.2.9.0/24 via 10.2.9.0",
    ]


def test_a_neighbour_and_a_forwarding_entry_with_wrong_values() -> None:
    kernel = dataclasses.replace(
        H2.kernel,
        neighbours=({"dst": "10.2.6.0", "lladdr": "02:00:00:00:00:99"},),
        fdb=({"mac": "02:00:00:00:00:06", "dst": "198.51.100.99"},),
    )
    bad = dataclasses.replace(H2, kernel=kernel)
    assert list(complaints((H1, bad), KEYS, BEFORE)) == [
        "h2: neighbours missing: 10.2.6.0 02:00:00:00:00:06",
        "h2: neighbours too many: 10.2.6.0 02:00:00:00:00:99",
        "h2: forwarding entries missing: 02:00:00:00:00:06 198.51.100.11",
        "h2: forwarding entries too many: 02:00:00:00:00:06 198.51.100.99",
    ]


def test_a_device_that_is_gone_or_has_another_mac() -> None:
    assert H1.kernel.vxlan is not None
    gone = dataclasses.replace(H1, kernel=dataclasses.replace(H1.kernel, vxlan=None))
    assert list(complaints((gone, H2), KEYS, BEFORE)) == ["h1: no flannel.1"]
    other = {**H1.kernel.vxlan, "address": "02:00:00:00:00:99"}
    bad = dataclasses.replace(H1, kernel=dataclasses.replace(H1.kernel, vxlan=other))
    [line] = complaints((bad, H2), KEYS, BEFORE)
    assert line.startswith("h1: flannel.1 is {'mac': '02:00:00:00:00:99'")


def test_a_key_without_an_etcd_lease_and_two_with_one() -> None:
    keys = (dataclasses.replace(KEYS[0], lease_id=0), KEYS[1])
    assert list(complaints((H1, H2), keys, BEFORE)) == ["h1: its key 10.2.6.0-24 has no etcd lease"]
    keys = (dataclasses.replace(KEYS[0], lease_id=7), KEYS[1])
    assert list(complaints((H1, H2), keys, BEFORE)) == ["etcd: keys share a lease: 10.2.6.0-24 7, 10.2.7.0-24 7"]


def test_a_key_of_nobody_and_a_host_without_one() -> None:
    foreign = dataclasses.replace(KEYS[1], public_ip="198.51.100.77")
    assert list(complaints((H2,), (foreign,), {})) == [
        "etcd: 10.2.7.0-24 belongs to no host (198.51.100.77)",
        "h2: 0 keys in etcd have its address 198.51.100.12",
    ]


def test_a_subnet_that_changed_under_its_containers() -> None:
    assert list(complaints((H1, H2), KEYS, {"h1": "10.2.5.0/24"})) == [
        "h1: the begin says 10.2.5.0/24, etcd 10.2.6.0/24"
    ]
