"""The engine's words: recorded sessions of real engines, every method's errors, and repetition of everything.

data/wire-20.10.jsonl was recorded on dockerd 20.10.24, data/wire-29.jsonl on its master of 2026-08; the recording
driver's address space is replaced by ours, and the ids of the second are filled up with zeros.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from driver import endpoints, errors
from overlay import fields, lease

Host = Any  # the fixture's class lives in conftest.py
Answer = Mapping[str, Any]

DATA = pathlib.Path(__file__).parent / "data"
NETWORK_ID = "4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e"
ENDPOINT_ID = "1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809"
IDS = {"NetworkID": NETWORK_ID, "EndpointID": ENDPOINT_ID}
POOL = {"AddressSpace": "flannelpy", "Pool": "10.2.20.0/24", "Gateway": "10.2.20.1/24"}
POOL6 = {"AddressSpace": "flannelpy", "Pool": "fd00:2:0:14::/64", "Gateway": "fd00:2:0:14::1/64"}
INTERFACE = {"Address": "10.2.20.5/24", "AddressIPv6": "", "MacAddress": ""}
OVERLAY = "10.64.0.0/10"
OVERLAY_V6 = "fd93::/32"
"""Hold all recorded pools."""


def widen(host: Host) -> None:
    """This host's lease becomes OVERLAY, and OVERLAY_V6."""
    cidr, v6 = ipaddress.IPv4Network(OVERLAY), ipaddress.IPv6Network(OVERLAY_V6)
    host.holdings.leases[0] = dataclasses.replace(
        host.holdings.leases[0],
        network=cidr,
        subnet=cidr,
        v6=lease.HeldSubnetV6(network=v6, subnet=v6, device="flannel-v6.1"),
    )


def read_records(name: str) -> Iterator[Mapping[str, Any]]:
    text = (DATA / name).read_text().replace('"reclocal"', '"flannelpy"')
    return (json.loads(line) for line in text.splitlines())


def replay(host: Host, record: Mapping[str, Any]) -> tuple[str, Answer | type[Exception]]:
    """One recorded call: its method, and the answer or the kind of error."""
    name = record["call"]
    method = name.removeprefix("NetworkDriver.")
    if name in endpoints.CONSTANT:
        return method, endpoints.CONSTANT[name]
    try:
        return method, host.call(method, record["req"])
    except errors.DriverError as exc:
        return method, type(exc)


@pytest.mark.parametrize("times", [1, 2])
def test_a_session_with_engine_20_10_leaves_nothing_behind(host: Host, times: int) -> None:
    """Each call once, and each call twice."""
    widen(host)
    host.create_network(NETWORK_ID, "10.99.0.0/24")  # before the recording began
    refused = []
    for record in read_records("wire-20.10.jsonl"):
        if "event" in record:
            host.start()
            continue
        answers = [replay(host, record) for _ in range(times)]
        assert answers == answers[:1] * times
        refused += [answers[0]] if not isinstance(answers[0][1], Mapping) else []
    assert refused == [("CreateNetwork", errors.WrongIpam), ("AllocateNetwork", errors.BadRequest)]
    assert (host.known(), host.links()) == (([], []), set())


def test_a_session_with_engine_29_is_answered_word_for_word(host: Host) -> None:
    widen(host)
    answers: dict[str, list[Any]] = {}
    for record in read_records("wire-29.jsonl"):
        if record.get("event") == "plugin start":
            host.start()
        elif "event" in record:
            part = answers.setdefault(record["event"], [])
        else:
            part.append(replay(host, record))
    capabilities = {"Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": False}
    first, second = ({"SrcName": f"fpc{short}", "DstPrefix": "eth"} for short in ("1b2027e50000", "977b6e330000"))
    assert answers == {
        "A.1": [  # docker run -p 8081:80 -p 127.0.0.1:8082:81/udp; docker rm -f
            ("CreateNetwork", {}),
            ("CreateEndpoint", {"Interface": {}}),
            ("Join", {"InterfaceName": first, "StaticRoutes": []}),  # the lease is all of the overlay
            ("ProgramExternalConnectivity", {}),
            ("EndpointOperInfo", {"Value": {}}),
            ("RevokeExternalConnectivity", {}),
            ("Leave", {}),
            ("DeleteEndpoint", {}),
        ],
        "A.4": [  # systemctl restart docker: a leaked endpoint goes, a restart=always container comes
            ("GetCapabilities", capabilities),
            ("DeleteEndpoint", {}),
            ("CreateEndpoint", {"Interface": {}}),
            (
                "Join",
                {
                    "InterfaceName": second,
                    "StaticRoutes": [],
                    "Gateway": "10.99.0.1",
                    "DisableGatewayService": True,
                },
            ),
            ("ProgramExternalConnectivity", {}),
            ("EndpointOperInfo", {"Value": {}}),
        ],
        "A.4b": [  # kill -9 dockerd: the endpoint of the running container is torn down
            ("GetCapabilities", capabilities),
            ("Leave", {}),
            ("DeleteEndpoint", {}),
        ],
        "A.5": [  # docker network create --internal --ipv6 --subnet … --subnet …; docker run -p 99:99
            ("CreateNetwork", {}),
            ("CreateEndpoint", {"Interface": {}}),
            (
                "Join",
                {
                    "InterfaceName": {"SrcName": "fpc5cb89ac40000", "DstPrefix": "eth"},
                    "StaticRoutes": [],
                    "DisableGatewayService": True,
                },
            ),
            ("ProgramExternalConnectivity", {}),
            ("EndpointOperInfo", {"Value": {}}),
            ("RevokeExternalConnectivity", {}),
            ("Leave", {}),
            ("DeleteEndpoint", {}),
        ],
    }
    networks, ends = host.known()
    assert [(net.pools, net.internal) for net in networks] == [
        ("10.99.0.0/24", False),
        ("10.93.0.0/24,fd93::/64", True),
    ]
    assert (ends, host.links()) == ([], {"fp-a3d445df0000", "fp-2df7fa310000"})


def test_an_internal_network_gets_no_way_out_even_for_published_ports(host: Host) -> None:
    options = {"com.docker.network.internal": True, "com.docker.network.generic": {}}
    host.call("CreateNetwork", {"NetworkID": NETWORK_ID, "Options": options, "IPv4Data": [POOL], "IPv6Data": []})
    host.create_endpoint()
    assert host.join(ports=1) == {
        "InterfaceName": {"SrcName": "fpc1a2299da1bc9", "DstPrefix": "eth"},
        "StaticRoutes": [{"Destination": "10.2.0.0/16", "RouteType": 0, "NextHop": "10.2.20.1"}],
        "DisableGatewayService": True,
    }
    assert [rules.internal for rules in host.firewall.plan] == [True]


def test_only_a_mac_that_docker_left_open_is_answered(host: Host) -> None:
    host.create_network()
    assert host.create_endpoint() == {"Interface": {"MacAddress": "02:42:0a:02:14:05"}}
    given = {**INTERFACE, "Address": "10.2.20.6/24", "MacAddress": "02:00:00:00:00:77"}
    other = {**IDS, "EndpointID": "2" * 64}
    assert host.call("CreateEndpoint", {**other, "Interface": given}) == {"Interface": {}}
    assert [end.mac for end in host.driver.endpoints()] == ["02:42:0a:02:14:05", "02:00:00:00:00:77"]


def test_null_is_as_good_as_absent(host: Host) -> None:
    host.call(
        "CreateNetwork", {"NetworkID": NETWORK_ID, "Options": None, "IPv4Data": [POOL], "IPv6Data": None, "New": [1]}
    )
    host.call("CreateEndpoint", {**IDS, "Interface": {**INTERFACE, "MacAddress": None}, "Options": None})
    answer = host.call("Join", {**IDS, "SandboxKey": None, "Options": None})
    assert answer["Gateway"] == "10.2.20.1"


def test_a_network_without_a_gateway_in_the_request_takes_the_first_address(host: Host) -> None:
    data = {key: value for key, value in POOL.items() if key != "Gateway"}
    host.call("CreateNetwork", {"NetworkID": NETWORK_ID, "IPv4Data": [data]})
    assert host.driver.networks()[0].gateway == ipaddress.IPv4Interface("10.2.20.1/24")


def test_an_ipv6_network_without_a_gateway_in_the_request_takes_the_first_address(host: Host) -> None:
    host.give_ipv6()
    data = {key: value for key, value in POOL6.items() if key != "Gateway"}
    host.call("CreateNetwork", {"NetworkID": NETWORK_ID, "IPv4Data": [POOL], "IPv6Data": [data]})
    assert host.driver.networks()[0].v6.gateway == ipaddress.IPv6Interface("fd00:2:0:14::1/64")


def test_ipv6_without_a_pool_is_told_the_command(host: Host) -> None:
    host.give_ipv6()
    options = {"com.docker.network.enable_ipv6": True, "com.docker.network.generic": {}}
    with pytest.raises(errors.BadRequest, match=r"--ipv6 --subnet fd00:2:0:14::/64 NAME$"):
        host.call("CreateNetwork", {"NetworkID": NETWORK_ID, "Options": options, "IPv4Data": [POOL], "IPv6Data": []})
    assert (host.known(), host.links()) == (([], []), set())


def test_docker_must_ask_for_a_gateway() -> None:
    body = {"Options": {"com.docker.network.generic": {}}}
    methods = endpoints.methods(None)  # type: ignore[arg-type]  # it never looks
    assert methods["NetworkDriver.GwAllocCheck"](body) == {"SkipIPv4": False, "SkipIPv6": False}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"NetworkID": None}, "NetworkID: expected a string, got nothing"),
        ({"NetworkID": 7}, "NetworkID: expected a string, got a number"),
        ({"NetworkID": "../../x"}, "NetworkID: expected a Docker id"),
        ({"IPv4Data": []}, "IPv4Data: expected one pool, got 0"),
        ({"IPv4Data": [POOL, POOL]}, "IPv4Data: expected one pool, got 2; a flannelpy network has one --subnet"),
        ({"IPv4Data": [7]}, "IPv4Data: expected a list of objects"),
        ({"IPv4Data": [{**POOL, "Pool": ""}]}, "IPv4Data.Pool: expected an IPv4 prefix"),
        ({"IPv4Data": [{**POOL, "Pool": "10.2.20.5/24"}]}, "IPv4Data.Pool: expected an IPv4 prefix"),
        ({"IPv4Data": [{**POOL, "Pool": "fd00::/64"}]}, "IPv4Data.Pool: expected an IPv4 prefix"),
        ({"IPv4Data": [{**POOL, "Gateway": "gw"}]}, "IPv4Data.Gateway: expected an address such as"),
        ({"IPv4Data": [{**POOL, "Gateway": "10.9.9.9/24"}]}, "IPv4Data.Gateway: 10.9.9.9 is not in pool"),
        (
            {"IPv4Data": [{"AddressSpace": "flannelpy", "Pool": "255.255.255.255/32"}]},
            "IPv4Data.Pool: 255.255.255.255/32 has no address for a gateway",
        ),
        ({"IPv6Data": [POOL6]}, "--ipv6: the flannel network /coreos.com/network has no IPv6; leave --ipv6"),
        ({"IPv6Data": [{**POOL6, "Pool": "10.2.20.0/24"}]}, "IPv6Data.Pool: expected an IPv6 prefix"),
        ({"IPv6Data": [{**POOL6, "Gateway": "10.2.20.1/24"}]}, "IPv6Data.Gateway: expected an address such as fd00"),
        (
            {"IPv6Data": [{"Pool": "fd00::/127"}]},
            "IPv6Data.Pool: fd00::/127 has no address for a gateway; expected a",
        ),
        ({"Options": []}, "Options: expected an object, got a list"),
        (
            {"Options": {"com.docker.network.enable_ipv6": True}},
            "--ipv6: the flannel network /coreos.com/network has",
        ),
        ({"Options": {"com.docker.network.enable_ipv4": False}}, "a flannelpy network needs IPv4"),
        ({"Options": {"com.docker.network.internal": "yes"}}, "com.docker.network.internal: expected true or false"),
        ({"Options": {"com.docker.network.generic": {"parent": "eth0"}}}, "unknown option 'parent'"),
        (
            {"Options": {"com.docker.network.generic": {"com.docker.network.enable_ipv6": "true"}}},
            "com.docker.network.enable_ipv6=true: this engine does not heed it; use --ipv6",
        ),
        (
            {"Options": {"com.docker.network.generic": {"com.docker.network.enable_ipv4": "false"}}},
            "com.docker.network.enable_ipv4=false: this engine does not heed it; leave it away",
        ),
    ],
)
def test_a_wrong_create_network_is_refused_and_changes_nothing(
    host: Host, change: dict[str, Any], expected: str
) -> None:
    body = {"NetworkID": NETWORK_ID, "Options": {}, "IPv4Data": [POOL], "IPv6Data": [], **change}
    with pytest.raises((errors.BadRequest, fields.FieldError)) as caught:
        host.call("CreateNetwork", body)
    assert str(caught.value).startswith(expected)
    assert (host.known(), host.links()) == (([], []), set())


def test_the_families_may_be_told_twice(host: Host) -> None:
    """As 28 does with -o com.docker.network.enable_ipv6=true, and with default-network-opts of dockerd."""
    host.give_ipv6()
    families = {"com.docker.network.enable_ipv4": True, "com.docker.network.enable_ipv6": True}
    generic = dict.fromkeys(families, "true")
    options = {**families, "com.docker.network.generic": generic}
    body = {"NetworkID": NETWORK_ID, "Options": options, "IPv4Data": [POOL], "IPv6Data": [POOL6]}
    assert host.call("CreateNetwork", body) == {}
    assert host.known()[0][0].v6 is not None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"EndpointID": ""}, "EndpointID: expected a Docker id"),
        ({"NetworkID": "x"}, "NetworkID: expected a Docker id"),
        ({"Interface": None}, "Interface.Address: expected an address such as 10.2.20.5/24, got ''"),
        ({"Interface": "eth0"}, "Interface: expected an object, got a string"),
        ({"Interface": {**INTERFACE, "Address": "10.2.20"}}, "Interface.Address: expected an address such as"),
        ({"Interface": {**INTERFACE, "Address": 7}}, "Address: expected a string, got a number"),
        (
            {"Interface": {**INTERFACE, "AddressIPv6": "fd00::5/64"}},
            "Interface.AddressIPv6: network 4d5d70de7705 has",
        ),
        ({"Interface": {**INTERFACE, "AddressIPv6": "fd00::5"}}, "Interface.AddressIPv6: network 4d5d70de7705 has"),
        (
            {"Interface": {**INTERFACE, "AddressIPv6": "10.2.20.5/24"}},
            "Interface.AddressIPv6: expected an address such",
        ),
        ({"Interface": {**INTERFACE, "MacAddress": "01:00:5e:00:00:01"}}, "Interface.MacAddress: expected a unicast"),
        (
            {"Interface": {**INTERFACE, "Address": "10.2.20.1/24"}},
            "Interface.Address: 10.2.20.1/24 is not a container",
        ),
    ],
)
def test_a_wrong_create_endpoint_is_refused_and_changes_nothing(
    host: Host, change: dict[str, Any], expected: str
) -> None:
    host.create_network()
    before = host.known(), host.links()
    with pytest.raises((errors.BadRequest, fields.FieldError)) as caught:
        host.call("CreateEndpoint", {**IDS, "Interface": INTERFACE, "Options": {}, **change})
    assert str(caught.value).startswith(expected)
    assert (host.known(), host.links()) == before


@pytest.mark.parametrize(
    "option", ["com.docker.network.advertise_addr_nmsgs", "com.docker.network.advertise_addr_ms"]
)
def test_an_engine_that_advertises_may_be_told_how_and_an_older_one_would_not_heed_it(
    host: Host, option: str
) -> None:
    """Engines before 28 tell of no IPv4 option, and have never heard of these."""
    body = {"NetworkID": NETWORK_ID, "IPv4Data": [POOL], "IPv6Data": []}
    options = {"com.docker.network.generic": {option: "0"}}
    with pytest.raises(errors.BadRequest) as caught:
        host.call("CreateNetwork", {**body, "Options": options})
    assert str(caught.value) == f"{option}=0: this engine does not heed it; leave it away"
    options |= {"com.docker.network.enable_ipv4": True}
    assert host.call("CreateNetwork", {**body, "Options": options}) == {}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"com.docker.network.endpoint.ifname": "lan0"},
            (
                "com.docker.network.endpoint.ifname=lan0: engines let no network plugin name an interface; leave it "
                "away, or create the network with -o com.docker.network.container_iface_prefix=PREFIX"
            ),
        ),
        (
            {"flannelpy.gateway": "native"},
            "flannelpy.gateway is an option of a network and not of one container; use docker network create -o",
        ),
        ({"com.docker.network.endpoint.ifname": 7}, "com.docker.network.endpoint.ifname: expected a string, got a n"),
    ],
)
def test_what_is_asked_of_one_connection_and_cannot_be_is_refused(
    host: Host, options: dict[str, Any], expected: str
) -> None:
    host.create_network()
    before = host.known(), host.links()
    with pytest.raises((errors.BadRequest, fields.FieldError)) as caught:
        host.call("CreateEndpoint", {**IDS, "Interface": INTERFACE, "Options": options})
    assert str(caught.value).startswith(expected)
    assert (host.known(), host.links()) == before


def test_what_engines_ask_of_a_connection_is_taken_and_so_is_what_newer_ones_may_add(host: Host) -> None:
    host.create_network()
    options = {
        "com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 80}],
        "com.docker.network.portmap": [],
        "com.docker.network.endpoint.macaddress": "AgAAAAB3",
        "com.docker.network.endpoint.dnsservers": ["192.0.2.53"],
        "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1",
        "com.docker.network.endpoint.ifname": "",
        "com.docker.network.endpoint.new": {"a": 1},
    }
    assert host.call("CreateEndpoint", {**IDS, "Interface": INTERFACE, "Options": options})["Interface"]


@pytest.mark.parametrize("portmap", ["80", [80], {"80": 80}])
def test_a_join_with_a_broken_portmap_is_refused(host: Host, portmap: object) -> None:
    host.create_network()
    host.create_endpoint()
    with pytest.raises(fields.FieldError, match="portmap: expected a list of objects"):
        host.call("Join", {**IDS, "Options": {"com.docker.network.portmap": portmap}})
    assert not host.driver.endpoints()[0].joined


@pytest.mark.parametrize(
    "method", ["DeleteNetwork", "DeleteEndpoint", "Leave", "RevokeExternalConnectivity", "FreeNetwork"]
)
def test_ending_what_is_unknown_is_success(host: Host, method: str) -> None:
    assert host.call(method, IDS) == {}


def test_external_connectivity_may_be_programmed_twice_late_and_for_the_unknown(host: Host) -> None:
    assert host.call("ProgramExternalConnectivity", {**IDS, "Options": {}}) == {}
    host.create_network()
    host.create_endpoint()
    host.join()
    host.leave()
    for _ in range(2):
        assert host.call("ProgramExternalConnectivity", {**IDS, "Options": {}}) == {}


def test_swarm_managers_are_told_what_to_do_instead(host: Host) -> None:
    with pytest.raises(errors.BadRequest, match="use --config-only and --config-from"):
        host.call("AllocateNetwork", {"NetworkID": NETWORK_ID})


def test_every_method_of_the_remote_api_is_there(host: Host) -> None:
    told = {*endpoints.methods(host.driver), *endpoints.CONSTANT}
    assert told == {
        f"NetworkDriver.{name}"
        for name in (
            "GetCapabilities", "GwAllocCheck", "AllocateNetwork", "FreeNetwork", "CreateNetwork", "DeleteNetwork",
            "CreateEndpoint", "EndpointOperInfo", "DeleteEndpoint", "Join", "Leave", "DiscoverNew", "DiscoverDelete",
            "ProgramExternalConnectivity", "RevokeExternalConnectivity",
        )
    }  # fmt: skip
