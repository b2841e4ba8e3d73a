from __future__ import annotations

import json
import pathlib
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ipam import endpoints, errors, pool, service

if TYPE_CHECKING:
    from tests.ipam.conftest import World

WIRE = pathlib.Path(__file__).parent / "data" / "wire-20.10-ipam.jsonl"
WIRE_29 = WIRE.with_name("wire-29-ipam.jsonl")
GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def call(ipam: service.Ipam) -> Call:
    return caller(ipam)


def caller(ipam: service.Ipam) -> Call:
    table = endpoints.methods(ipam)

    def call(name: str, **body: Any) -> dict[str, Any]:
        answer = table[f"IpamDriver.{name}"](body)
        assert json.loads(json.dumps(answer)) == answer
        return answer

    return call


def pool_request(**changes: Any) -> dict[str, Any]:
    return {"AddressSpace": "flannelpy", "Pool": "", "SubPool": "", "Options": {}, "V6": False, **changes}


@pytest.mark.parametrize("sticky_mac", [False, True])
def test_what_needs_no_lease_is_constant(sticky_mac: bool) -> None:
    assert endpoints.constants(sticky_mac=sticky_mac) == {
        "IpamDriver.GetCapabilities": {"RequiresMACAddress": sticky_mac, "RequiresRequestReplay": False},
        "IpamDriver.GetDefaultAddressSpaces": {
            "LocalDefaultAddressSpace": "flannelpy",
            "GlobalDefaultAddressSpace": "flannelpy",
        },
    }


def test_the_life_of_a_network_on_the_wire(call: Call) -> None:
    assert call("RequestPool", **pool_request()) == {
        "PoolID": "flannelpy/10.2.20.0/24",
        "Pool": "10.2.20.0/24",
        "Data": {},
    }
    it = {"PoolID": "flannelpy/10.2.20.0/24"}
    assert call("RequestAddress", **it, Address="", Options=GATEWAY) == {"Address": "10.2.20.1/24", "Data": {}}
    assert call("RequestAddress", **it, Address="10.2.20.9", Options=None) == {"Address": "10.2.20.9/24", "Data": {}}
    assert call("RequestAddress", **it, Address="", Options={}) == {"Address": "10.2.20.2/24", "Data": {}}
    assert call("ReleaseAddress", **it, Address="10.2.20.2") == {}
    assert call("ReleaseAddress", **it, Address="10.2.20.2") == {}
    assert call("ReleasePool", **it) == {}
    assert call("ReleasePool", **it) == {}
    assert call("ReleaseAddress", **it, Address="10.2.20.9") == {}


def test_the_life_of_an_ipv6_pool_on_the_wire(dual: service.Ipam) -> None:
    call = caller(dual)
    it = {"PoolID": "flannelpy/fd00:2:0:14::/64"}
    assert call("RequestPool", **pool_request(V6=True)) == {**it, "Pool": "fd00:2:0:14::/64", "Data": {}}
    assert call("RequestAddress", **it, Address="", Options=GATEWAY) == {"Address": "fd00:2:0:14::1/64", "Data": {}}
    assert call("RequestAddress", **it, Address="FD00:2:0:14:0::9", Options=None)["Address"] == "fd00:2:0:14::9/64"
    assert call("RequestAddress", **it, Address="", Options={})["Address"] == "fd00:2:0:14::2/64"
    for _ in range(2):
        assert call("ReleaseAddress", **it, Address="fd00:2:0:14::2") == {}
        assert call("ReleaseAddress", **it, Address="10.2.20.2") == {}
    assert call("RequestAddress", **it, Address="", Options={})["Address"] == "fd00:2:0:14::3/64"
    assert call("ReleasePool", **it) == {}


def test_an_ipv6_slice_and_range_arrive(dual: service.Ipam) -> None:
    call = caller(dual)
    request = pool_request(V6=True, Pool="FD00:2:0:14:8000::/65", SubPool="fd00:2:0:14:8000::f0/124")
    it = {"PoolID": "flannelpy/fd00:2:0:14:8000::/65"}
    assert call("RequestPool", **request) == {**it, "Pool": "fd00:2:0:14:8000::/65", "Data": {}}
    assert call("RequestAddress", **it, Options=GATEWAY)["Address"] == "fd00:2:0:14:8000::1/65"
    assert call("RequestAddress", **it)["Address"] == "fd00:2:0:14:8000::f0/65"


def test_engine_loop_with_the_same_pool_ends_at_the_second_call(call: Call) -> None:
    call("RequestPool", **pool_request())
    for _ in range(2):
        with pytest.raises(errors.PoolTaken) as caught:
            call("RequestPool", **pool_request())
        assert caught.value.status == 409


def test_nulls_and_absent_fields_are_the_empty_ones(call: Call) -> None:
    granted = call("RequestPool", AddressSpace=None, Pool=None, SubPool=None, Options=None, V6=None)
    assert granted["Pool"] == "10.2.20.0/24"
    assert call("RequestAddress", PoolID=granted["PoolID"]) == {"Address": "10.2.20.1/24", "Data": {}}


def test_subnet_and_ip_range_arrive(call: Call) -> None:
    request = pool_request(Pool="10.2.20.128/25", SubPool="10.2.20.192/28")
    assert call("RequestPool", **request)["PoolID"] == "flannelpy/10.2.20.128/25"
    it = {"PoolID": "flannelpy/10.2.20.128/25", "Address": ""}
    assert call("RequestAddress", **it, Options=GATEWAY)["Address"] == "10.2.20.129/25"
    assert call("RequestAddress", **it, Options={})["Address"] == "10.2.20.192/25"


def test_prefix_option_chooses_the_flannel_network(call: Call) -> None:
    options = {"flannelpy.prefix": "/blue/network/", "x": "y", "com.docker.network.ipam.serial": "true"}
    assert call("RequestPool", **pool_request(Options=options))["Pool"] == "10.9.7.0/24"


@pytest.mark.parametrize(
    "prefix", ["", "/", "blue/network", "/blue/../network", "/a//b", "/.", "/a b", "/a\n", "/ü", "/" + 255 * "a"]
)
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(
        errors.BadRequest, match="expected the etcd prefix of a flannel network, such as /blue/network"
    ):
        endpoints.parse_prefix({"flannelpy.prefix": prefix})


def test_an_unknown_option_of_ours_is_refused_and_the_known_are_named(call: Call) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        call("RequestPool", **pool_request(Options={"flannelpy.prefx": "/blue/network"}))
    assert str(caught.value) == (
        "--ipam-opt flannelpy.prefx: no such option; known are: flannelpy.prefix=/etcd/prefix"
    )


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("RequestPool", pool_request(V6=True), "--ipv6: the flannel network /coreos.com/network has no IPv6"),
        (
            "RequestPool",
            pool_request(V6=True, Pool="fd00::/64"),
            "--ipv6: the flannel network /coreos.com/network has",
        ),
        ("RequestPool", pool_request(V6=True, Pool="10.2.20.0/24"), "Pool (--subnet): expected an IPv6 prefix such"),
        ("RequestPool", pool_request(V6=True, Pool="fd00::1/64"), "Pool (--subnet): expected an IPv6 prefix such as"),
        ("RequestPool", pool_request(V6=True, SubPool="10.0.0.0/8"), "SubPool (--ip-range): expected an IPv6 prefix"),
        ("RequestPool", pool_request(Pool="fd00::/64"), "Pool (--subnet): expected an IPv4 prefix such as"),
        ("RequestPool", pool_request(V6="true"), "V6: expected true or false, got a string"),
        ("RequestPool", pool_request(AddressSpace="LocalDefault"), "AddressSpace: expected 'flannelpy', got 'Local"),
        ("RequestPool", pool_request(AddressSpace=7), "AddressSpace: expected a string, got a number"),
        ("RequestPool", pool_request(Pool=["10.2.20.0/24"]), "Pool: expected a string, got a list"),
        ("RequestPool", pool_request(Pool="10.2.20.5/24"), "Pool (--subnet): expected an IPv4 prefix such as"),
        ("RequestPool", pool_request(Pool="mynet"), "Pool (--subnet): expected an IPv4 prefix such as"),
        ("RequestPool", pool_request(SubPool="fd00::/64"), "SubPool (--ip-range): expected an IPv4 prefix such as"),
        ("RequestPool", pool_request(SubPool="10.7.0.0/24"), "--ip-range 10.7.0.0/24 is not part of the pool"),
        ("RequestPool", pool_request(Options=[]), "Options: expected an object, got a list"),
        ("RequestPool", pool_request(Options={"x": 1}), "x: expected a string, got a number"),
        ("ReleasePool", {}, "PoolID: expected a string, got nothing"),
        ("RequestAddress", {"Address": ""}, "PoolID: expected a string, got nothing"),
        ("RequestAddress", {"PoolID": "p", "Address": "10.2.20.5/24"}, "Address: expected an IP address, got"),
        ("RequestAddress", {"PoolID": "p", "Address": "::1/64"}, "Address: expected an IP address, got"),
        ("RequestAddress", {"PoolID": "p", "Address": 5}, "Address: expected a string, got a number"),
        ("ReleaseAddress", {"PoolID": "p"}, "Address: expected a string, got nothing"),
        ("ReleaseAddress", {"PoolID": "p", "Address": ""}, "Address: expected an IP address, got ''"),
        ("ReleaseAddress", {"PoolID": None, "Address": "10.2.20.5"}, "PoolID: expected a string, got nothing"),
    ],
)
def test_malformed_requests_are_400_and_change_nothing(
    call: Call, world: World, name: str, body: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        call(name, **body)
    assert str(caught.value).startswith(message)
    assert caught.value.status == 400
    assert world.rows("SELECT count(*) FROM ipam_pools") == [(0,)]


def test_purposes_are_read_from_what_each_engine_sends(call: Call, ipam: service.Ipam) -> None:
    it = {"PoolID": call("RequestPool", **pool_request())["PoolID"]}
    call("RequestAddress", **it, Address="10.2.20.1", Options=GATEWAY)
    call("RequestAddress", **it, Address="10.2.20.2", Options=None)
    call("RequestAddress", **it, Address="10.2.20.3", Options={"com.docker.network.endpoint.name": "c1"})
    call("RequestAddress", **it, Address="", Options=None)
    assert [(str(row.ip), row.kind) for row in ipam.addresses()] == [
        ("10.2.20.1", pool.Kind.GATEWAY),
        ("10.2.20.2", pool.Kind.EXPLICIT),
        ("10.2.20.3", pool.Kind.ENDPOINT),
        ("10.2.20.4", pool.Kind.ENDPOINT),
    ]


@pytest.mark.parametrize(("lease", "peak"), [("10.96.0.0/14", 6), ("10.95.0.0/24", 3)])
def test_a_recorded_engine_is_served(
    make_world: Callable[..., World], offer: Callable[..., Any], lease: str, peak: int
) -> None:
    """Every answer is right, and the engine's own clean-up leaves no row.

    The recorder handed out .20, .21, … (10.99) or .10, .11, …: the n-th endpoint's address there is the n-th here.
    """
    world = make_world(offer("10.64.0.0/10", lease))
    ipam = world.start()
    call = caller(ipam)
    handed: dict[str, list[str]] = defaultdict(list)
    highest = 0
    for line in map(json.loads, WIRE.read_text().splitlines()):
        if line["lease"] != lease:
            continue
        body = json.loads(json.dumps(line["req"]).replace("reclocal", "flannelpy"))
        name = line["call"].removeprefix("IpamDriver.")
        pool_id = body.get("PoolID", "")
        number = int(body.get("Address", "").rpartition(".")[2] or 0)
        if name == "ReleaseAddress" and number > 1:
            body["Address"] = handed[pool_id][number - (20 if "10.99" in pool_id else 10)]
        answer = call(name, **body)
        match name:
            case "RequestPool":
                assert answer["PoolID"] == f"flannelpy/{answer['Pool']}"
                assert answer["Pool"] == (body["Pool"] or lease)
            case "RequestAddress" if "RequestAddressType" in body["Options"]:
                assert answer["Address"] == pool_id.removeprefix("flannelpy/").replace("0/24", "1/24")
            case "RequestAddress":
                handed[pool_id].append(answer["Address"].removesuffix("/24"))
            case _:
                assert answer == {}
        highest = max(highest, len(ipam.addresses()))
    assert highest == peak
    assert all(len(set(ips)) == len(ips) for ips in handed.values())
    assert world.rows("SELECT * FROM ipam_pools") == []
    assert world.rows("SELECT * FROM ipam_addresses") == []


def test_a_recorded_engine_is_served_both_families(
    make_world: Callable[..., World], offer: Callable[..., Any]
) -> None:
    """`docker network create --internal --ipv6 --subnet … --subnet …`, a container, and the end of both.

    Recorded on dockerd's master of 2026-08 (libnetwork.md A.5); its driver handed out .10 and ::a where we hand out
    the second address. The last lines, the network's end, are the engine's order with both families.
    """
    world = make_world(offer("10.64.0.0/10", "10.93.0.0/24", "fd93::/64"))
    call = caller(world.start())
    told = []
    for line in map(json.loads, WIRE_29.read_text().splitlines()):
        body = json.loads(json.dumps(line["req"]).replace("reclocal", "flannelpy"))
        if line["call"].endswith("ReleaseAddress"):
            body["Address"] = body["Address"].replace("10.93.0.10", "10.93.0.2").replace("fd93::a", "fd93::2")
        answer = call(line["call"].removeprefix("IpamDriver."), **body)
        told += [answer.get("Pool") or answer.get("Address")]
    assert told == [
        "10.93.0.0/24",
        "10.93.0.1/24",
        "fd93::/64",
        "fd93::1/64",
        "10.93.0.2/24",
        "fd93::2/64",
        *[None] * 6,
    ]
    assert world.rows("SELECT * FROM ipam_pools") == []
    assert world.rows("SELECT * FROM ipam_addresses") == []
