"""What engines were recorded to say, said again to our own API with our own answers in it.

data/wire has one call a line, in the order in which an engine made them (libnetwork.md, Appendix A, and
wire-20.10.jsonl): `body` as sent, but `$…` where the engine repeats what it was answered; `gives` is what that is
called; `status`, where this plugin refuses what the recorded one granted. The recorded plugin asked for a replay at a
restart of dockerd, ours does not: those calls are left out. What is checked of an answer is what an engine checks
(libnetwork.md §2.2).
"""

from __future__ import annotations

import concurrent.futures
import ipaddress
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.plugin import memory_plugin

RECORDED = sorted((pathlib.Path(__file__).parent / "data" / "wire").glob("*.jsonl"))
WANTED = {
    "p": "10.2.1.0/24",
    "p6": "fd00:2:0:1::/64",
    "p99": "10.2.1.0/26",
    "p97": "10.2.1.64/26",
    "p96": "10.2.1.128/26",
    "p95": "10.2.1.192/26",
}
"""Slices of the one lease where the recorded plugin had ten networks of its own."""

Body = Mapping[str, Any]


class Engine:
    """The engine's end of the socket, as far as it goes on with what it was answered."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.values = {f"{name}.want": cidr for name, cidr in WANTED.items()}
        self.plugin = memory_plugin.MemoryPlugin(directory, saved=True, dual=True)
        self.client = self.plugin.client()

    def restart(self) -> None:
        """A new process of the plugin on the same host."""
        self.plugin.close()
        self.plugin = memory_plugin.MemoryPlugin(self.directory, dual=True, host=self.plugin)
        self.client = self.plugin.client()

    def filled(self, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("$"):
            return self.values[value[1:]]
        if isinstance(value, dict):
            return {key: self.filled(one) for key, one in value.items()}
        return [self.filled(one) for one in value] if isinstance(value, list) else value

    def post(self, call: str, body: Body | None) -> tuple[int, Any]:
        data = b"" if body is None else json.dumps(body).encode() + b"\n"
        response = self.client.post(f"/{call}", data=data)
        return response.status_code, json.loads(response.data)

    def say(self, row: Body) -> Any:
        """One recorded call; its answer, checked as an engine checks it."""
        body = self.filled(row["body"]) if "body" in row else None
        status, answer = self.post(row["call"], body)
        assert status == row.get("status", 200), (row, answer)
        if status != 200:
            assert answer["Err"] == answer["Error"] != ""
            return answer
        check_answer(row["call"], body or {}, answer)
        if name := row.get("gives"):
            self.note(name, answer)
        return answer

    def note(self, name: str, answer: Body) -> None:
        if "PoolID" in answer:
            self.values |= {f"{name}.id": answer["PoolID"], f"{name}.pool": answer["Pool"]}
        else:
            self.values |= {name: answer["Address"], f"{name}.ip": answer["Address"].partition("/")[0]}

    def close(self) -> None:
        self.plugin.close()


def check_answer(call: str, body: Body, answer: Any) -> None:
    """Source: libnetwork.md §2.2, §3.1."""
    assert isinstance(answer, dict)  # an empty body is "EOF" to an engine
    assert not answer.keys() & {"Err", "Error"}
    match call.partition(".")[2]:
        case "RequestPool":
            assert ipaddress.ip_network(answer["Pool"])
            assert answer["PoolID"]
        case "RequestAddress":
            assert ipaddress.ip_interface(answer["Address"]).network.prefixlen < 128
            assert not body["Address"] or answer["Address"].startswith(f"{body['Address']}/")
        case "CreateEndpoint":
            given = {key for key, value in body["Interface"].items() if value}
            assert not given & {key for key, value in answer["Interface"].items() if value}
        case "Join":
            name = answer["InterfaceName"]
            assert 0 < len(name["SrcName"]) <= 15
            assert name["DstPrefix"] == "eth"
            assert all(ipaddress.ip_address(answer[key]) for key in ("Gateway", "GatewayIPv6") if key in answer)
            for route in answer["StaticRoutes"]:
                assert ipaddress.ip_network(route["Destination"]).prefixlen > 0
                assert (route["RouteType"], bool(ipaddress.ip_address(route["NextHop"]))) == (0, True)
        case "EndpointOperInfo":
            assert answer == {"Value": {}}


@pytest.fixture
def engine(tmp_path: pathlib.Path) -> Iterator[Engine]:
    made = Engine(tmp_path)
    yield made
    made.close()


def rows_of(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def left_over(engine: Engine) -> object:
    engine.plugin.reconciler.run_pass()
    return engine.plugin.state_of_all()


@pytest.mark.parametrize("how", ["as recorded", "bodies lost", "said twice", "restarted"])
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_what_engines_said_is_answered_and_leaves_nothing(engine: Engine, path: pathlib.Path, how: str) -> None:
    """In the ways in which an engine or a plugin may break: repeats without a body, repeats, restarts."""
    before = left_over(engine)
    for row in rows_of(path):
        if "event" in row:
            engine.restart()
            continue
        said = engine.say(row)
        if how == "bodies lost" and "body" in row and row["call"] not in memory_plugin.CONSTANTS:
            known = engine.plugin.state_of_all()
            status, answer = engine.post(row["call"], None)
            assert (status, "empty body" in answer["Err"]) == (400, True), row
            assert engine.plugin.state_of_all() == known
        if how == "said twice" and "gives" not in row and row.get("status", 200) == 200:
            assert engine.say(row) == said
        if how == "restarted":
            engine.restart()
    assert left_over(engine) == before


def test_recordings_are_of_both_ends_of_the_engines_and_hold_every_call() -> None:
    calls = {row["call"] for path in RECORDED for row in rows_of(path) if "call" in row}
    assert {path.name.partition("-")[0] for path in RECORDED} == {"20.10", "29"}
    served = {f"NetworkDriver.{name}" for name in (
        "GetCapabilities", "CreateNetwork", "DeleteNetwork", "CreateEndpoint", "DeleteEndpoint", "Join", "Leave",
        "EndpointOperInfo", "ProgramExternalConnectivity", "RevokeExternalConnectivity", "DiscoverNew",
        "AllocateNetwork", "FreeNetwork",
    )}  # fmt: skip
    served |= {f"IpamDriver.{name}" for name in (
        "GetCapabilities", "GetDefaultAddressSpaces", "RequestPool", "ReleasePool", "RequestAddress", "ReleaseAddress"
    )}  # fmt: skip
    assert calls == served


NETWORK_ID, ENDPOINT_ID = memory_plugin.NETWORK_ID, memory_plugin.ENDPOINT_ID
IDS = {"NetworkID": NETWORK_ID, "EndpointID": ENDPOINT_ID}
GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}


def row(call: str, **body: object) -> dict[str, Any]:
    return {"call": call, "body": body}


def pool_rows() -> list[dict[str, Any]]:
    return [
        row("IpamDriver.RequestPool", AddressSpace="flannelpy", Pool="", SubPool="", Options=None, V6=False)
        | {"gives": "p"},
        row("IpamDriver.RequestAddress", PoolID="$p.id", Address="", Options=GATEWAY) | {"gives": "g"},
    ]


def network_row(**change: object) -> dict[str, Any]:
    data = {"AddressSpace": "flannelpy", "Pool": "$p.pool", "Gateway": "$g"}
    return row(
        "NetworkDriver.CreateNetwork",
        **{"NetworkID": NETWORK_ID, "Options": {}, "IPv4Data": [data], "IPv6Data": None} | change,
    )


def address_row(**change: object) -> dict[str, Any]:
    return row("IpamDriver.RequestAddress", **{"PoolID": "$p.id", "Address": "", "Options": None} | change) | {
        "gives": "a"
    }


def endpoint_row(**options: object) -> dict[str, Any]:
    interface = {"Address": "$a", "AddressIPv6": "", "MacAddress": ""}
    return row("NetworkDriver.CreateEndpoint", **IDS, Interface=interface, Options=options)


RELEASE = row("IpamDriver.ReleaseAddress", PoolID="$p.id", Address="$a.ip")
JOIN = row("NetworkDriver.Join", **IDS, SandboxKey="/var/run/docker/netns/x", Options={})
LEAVE = row("NetworkDriver.Leave", **IDS)
DELETE = row("NetworkDriver.DeleteEndpoint", **IDS)
REC = row("NetworkDriver.RevokeExternalConnectivity", **IDS)
PEC = row("NetworkDriver.ProgramExternalConnectivity", **IDS, Options={})
AFTER_THE_FAILURE: dict[str, list[list[dict[str, Any]]]] = {
    # what engines of 20.10 and of today call after which failure: libnetwork.md §2.10
    "CreateEndpoint": [[RELEASE]],
    "Join": [[DELETE, RELEASE], [LEAVE, DELETE, RELEASE]],
    "SrcName missing": [[REC, LEAVE, DELETE, RELEASE], [LEAVE, LEAVE, DELETE, RELEASE]],
    "PEC": [[LEAVE, DELETE, RELEASE], [LEAVE, LEAVE, DELETE, RELEASE]],
}


def reached(step: str) -> list[dict[str, Any]]:
    """The calls that had succeeded by then, or of whose success the engine has not heard."""
    return {
        "CreateEndpoint": [endpoint_row()],
        "Join": [endpoint_row(), JOIN],
        "SrcName missing": [endpoint_row(), JOIN, PEC],
        "PEC": [endpoint_row(), JOIN, PEC],
    }[step]


@pytest.mark.parametrize("answered", [True, False], ids=["done and not heard", "never came"])
@pytest.mark.parametrize(
    ("step", "number"), [(step, number) for step, all_ in AFTER_THE_FAILURE.items() for number in range(len(all_))]
)
def test_after_a_failed_start_nothing_stays(engine: Engine, step: str, number: int, answered: bool) -> None:
    """Also where the engine tells nothing of the endpoint: its background look does, once it is old."""
    for one in (*pool_rows(), network_row()):
        engine.say(one)
    before = left_over(engine)
    calls = [address_row(), *reached(step)]
    for one in calls if answered else calls[:-1]:
        engine.say(one)
    for one in AFTER_THE_FAILURE[step][number]:
        engine.say(one)
    if step == "CreateEndpoint" and answered:
        assert [end.id for end in engine.plugin.driver.endpoints()] == [ENDPOINT_ID]
        next_address = engine.say(address_row(Address=engine.values["a.ip"]))
        assert next_address["Address"] == engine.values["a"]  # the engine may give the address to another at once
        engine.say(RELEASE)
        engine.plugin.driver.delete_endpoint(ENDPOINT_ID)  # as driver.audit does: see test_engine_watch.py
    after = left_over(engine)
    resting = {"ipam_addresses": [row[:3] for row in engine.plugin.rows()["ipam_addresses"] if row[2] is not None]}
    assert (after[:6], len(resting["ipam_addresses"])) == (before[:6], 1)  # type: ignore[index]


def test_ending_what_never_was_is_success(engine: Engine) -> None:
    before = left_over(engine)
    engine.values |= {"p.id": "flannelpy/10.2.1.0/24", "a.ip": "10.2.1.5"}
    for one in (REC, LEAVE, LEAVE, DELETE, RELEASE, row("IpamDriver.ReleasePool", PoolID="$p.id"), PEC):
        engine.say(one)
    engine.say(row("NetworkDriver.DeleteNetwork", NetworkID=NETWORK_ID))
    engine.say(row("NetworkDriver.EndpointOperInfo", **IDS))
    assert left_over(engine) == before


def test_a_third_pool_of_the_same_is_refused_so_that_no_engine_asks_for_ever(engine: Engine) -> None:
    engine.say(pool_rows()[0])
    for _ in range(2):
        status, answer = engine.post("IpamDriver.RequestPool", engine.filled(pool_rows()[0]["body"]))
        assert (status, answer["Err"]) == (409, answer["Error"])
    engine.say(row("IpamDriver.ReleasePool", PoolID="$p.id"))
    assert engine.say(pool_rows()[0])["Pool"] == "10.2.1.0/24"


def test_an_endpoint_leaves_and_joins_again_as_with_legacy_links(engine: Engine) -> None:
    for one in (*pool_rows(), network_row(), address_row(), endpoint_row()):
        engine.say(one)
    first = engine.say(JOIN)
    for one in (LEAVE, LEAVE, PEC, REC):
        engine.say(one)
    assert engine.say(JOIN) == engine.say(JOIN) == first


NEWER = {
    # 28: drivers that say so are asked; any may be
    "GwAllocCheck": row("NetworkDriver.GwAllocCheck", Options={"com.docker.network.enable_ipv4": True}),
    # 28: resolvers and sysctls of an endpoint, driver options of one; 29: no proxy where IPv6 leaves elsewhere
    "dnsservers": endpoint_row(**{"com.docker.network.endpoint.dnsservers": ["192.0.2.53"]}),
    "sysctls": endpoint_row(
        **{"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1", "k": "v"}
    ),
    "no_proxy_6to4": PEC | {"body": {**IDS, "Options": {"com.docker.network.driver.private.no_proxy_6to4": True}}},
    "what is not there yet": endpoint_row(later={"a": [1, None]}) | {"call": "NetworkDriver.CreateEndpoint"},
}


@pytest.mark.parametrize("name", NEWER)
def test_what_newer_engines_add_is_served(engine: Engine, name: str) -> None:
    for one in (*pool_rows(), network_row(), address_row()):
        engine.say(one)
    answer = engine.say(NEWER[name])
    assert name != "GwAllocCheck" or answer == {"SkipIPv4": False, "SkipIPv6": False}


def test_a_gateway_left_out_and_auxiliary_addresses_are_served(engine: Engine) -> None:
    """GwAllocCheck may leave the gateway away; 29 sends AuxAddresses {} for what came from the user."""
    engine.say(pool_rows()[0])
    data = {"AddressSpace": "flannelpy", "Pool": "$p.pool", "AuxAddresses": {}}
    engine.say(network_row(IPv4Data=[data]))
    assert [str(net.gateway) for net in engine.plugin.driver.networks()] == ["10.2.1.1/24"]


def test_a_network_without_ipv4_is_refused_by_name(engine: Engine) -> None:
    body = {"NetworkID": NETWORK_ID, "Options": {"com.docker.network.enable_ipv4": False}, "IPv4Data": []}
    status, answer = engine.post("NetworkDriver.CreateNetwork", body)
    assert (status, answer["Err"]) == (400, "a flannelpy network needs IPv4; leave --ipv4=false away")


def test_a_network_of_both_families_has_a_gateway_of_each(engine: Engine) -> None:
    for one in rows_of(RECORDED[[path.stem for path in RECORDED].index("29-internal-with-both-families")])[:6]:
        engine.say(one if one["call"] != "NetworkDriver.CreateNetwork" else without_internal(one))
    engine.say(address_row())
    network_id = engine.plugin.driver.networks()[0].id
    ids = {"NetworkID": network_id, "EndpointID": ENDPOINT_ID}
    engine.say({**endpoint_row(), "body": {**endpoint_row()["body"], **ids}})
    answer = engine.say({**JOIN, "body": {**JOIN["body"], **ids}})
    assert (answer["Gateway"], answer["GatewayIPv6"]) == ("10.2.1.1", "fd00:2:0:1::1")


def without_internal(one: dict[str, Any]) -> dict[str, Any]:
    options = {key: value for key, value in one["body"]["Options"].items() if not key.endswith("internal")}
    return {**one, "body": {**one["body"], "Options": options}}


def test_forty_starts_at_once_have_addresses_of_their_own(engine: Engine) -> None:
    """Networks are serialized by the engine in RequestAddress and CreateEndpoint only; all else comes in parallel."""
    for one in (*pool_rows(), network_row()):
        engine.say(one)

    def start(number: int) -> str:
        ids = {"NetworkID": NETWORK_ID, "EndpointID": f"{number:064x}"[::-1]}
        client = engine.plugin.client()

        def call(method: str, **body: object) -> Any:
            response = client.post(f"/{method}", data=json.dumps(body))
            assert response.status_code == 200, response.data
            return json.loads(response.data)

        address = call("IpamDriver.RequestAddress", PoolID=engine.values["p.id"], Address="")["Address"]
        call("NetworkDriver.CreateEndpoint", **ids, Interface={"Address": address})
        for _ in range(2):
            call("NetworkDriver.Join", **ids, SandboxKey="/x", Options=None)
        return str(address)

    with concurrent.futures.ThreadPoolExecutor(20) as workers:
        addresses = list(workers.map(start, range(40)))
    assert len(set(addresses)) == 40
    assert len(engine.plugin.driver.endpoints()) == 40
