"""The plugin's HTTP face, through flask's own client, over the whole plugin in memory."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from overlay import errors
from plugin import http
from tests.overlay import node_host
from tests.plugin import memory_plugin

NETWORK_ID = "4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e"
ENDPOINT_ID = "1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809"
MIMETYPE = "application/vnd.docker.plugins.v1.2+json"
POOL_ID = "flannelpy/10.2.1.0/24"

CONSTANTS = {
    "Plugin.Activate": {"Implements": ["NetworkDriver", "IpamDriver"]},
    "NetworkDriver.GetCapabilities": {"Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": False},
    "NetworkDriver.DiscoverNew": {},
    "NetworkDriver.DiscoverDelete": {},
    "NetworkDriver.EndpointOperInfo": {"Value": {}},
    "IpamDriver.GetCapabilities": {"RequiresMACAddress": False, "RequiresRequestReplay": False},
    "IpamDriver.GetDefaultAddressSpaces": {
        "LocalDefaultAddressSpace": "flannelpy",
        "GlobalDefaultAddressSpace": "flannelpy",
    },
}
METHODS = [
    f"{driver}.{name}"
    for driver, names in {
        "NetworkDriver": (
            "GwAllocCheck", "AllocateNetwork", "FreeNetwork", "CreateNetwork", "DeleteNetwork", "CreateEndpoint",
            "DeleteEndpoint", "Join", "Leave", "ProgramExternalConnectivity",
            "RevokeExternalConnectivity",
        ),
        "IpamDriver": ("RequestPool", "ReleasePool", "RequestAddress", "ReleaseAddress"),
    }.items()
    for name in names
]  # fmt: skip

Plugin = memory_plugin.MemoryPlugin


def post(plugin: Plugin, method: str, body: object = None) -> tuple[int, Any]:
    """One call as dockerd makes it: no Content-Type, JSON and a newline, an empty body for no arguments."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode() + b"\n"
    response = plugin.client().post(f"/{method}", data=data)
    assert response.mimetype == MIMETYPE
    answer = json.loads(response.data)
    if response.status_code != 200:
        assert answer.keys() == {"Err", "Error"}
        assert answer["Err"] == answer["Error"] != ""
    return response.status_code, answer


@pytest.mark.parametrize("method", CONSTANTS)
def test_constants_answer_before_anything_else_is_there(plugin: Plugin, method: str) -> None:
    plugin.not_ready = errors.NotReady("still starting")
    assert post(plugin, method) == (200, CONSTANTS[method])
    assert post(plugin, method, b"\xff not JSON") == (200, CONSTANTS[method])


@pytest.mark.parametrize("method", METHODS)
def test_what_needs_the_core_says_when_it_is_not_there(plugin: Plugin, method: str) -> None:
    plugin.not_ready = errors.NotReady("still starting")
    assert post(plugin, method, {}) == (503, {"Err": "still starting", "Error": "still starting"})


def test_every_method_of_both_apis_is_served(plugin: Plugin) -> None:
    assert {*plugin.methods(), *memory_plugin.CONSTANTS, "Plugin.Activate"} == {*METHODS, *CONSTANTS}


@pytest.mark.parametrize("data", [b"", b"\n", b"  \r\n"])
@pytest.mark.parametrize("method", METHODS)
def test_the_engines_repeat_without_a_body_is_refused(plugin: Plugin, method: str, data: bytes) -> None:
    before = plugin.state_of_all()
    status, answer = post(plugin, method, data)
    assert (status, answer["Err"]) == (
        400,
        "expected a JSON object, got an empty body: the engine's repeat of a broken call",
    )
    assert plugin.state_of_all() == before


@pytest.mark.parametrize(
    "data",
    [
        b"{", b"null", b"[]", b'"x"', b"7", b"{} {}", b"\xff\xfe", b"{'a': 1}", b"[" * 100_000,
        b'{"a":' * 50_000, b'{"NetworkID": 1' + b"0" * 5000 + b"}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["NetworkDriver.CreateNetwork", "IpamDriver.RequestPool", "NetworkDriver.Leave"])
def test_what_is_no_json_object_is_refused_without_a_traceback(
    plugin: Plugin, method: str, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = plugin.state_of_all()
    status, _ = post(plugin, method, data)
    assert status == 400
    assert plugin.state_of_all() == before
    assert [record for record in caplog.records if record.exc_info] == []


def test_a_huge_body_is_refused(plugin: Plugin) -> None:
    status, answer = post(plugin, "NetworkDriver.CreateNetwork", b'{"a": "' + b"x" * http.BODY_LIMIT + b'"}')
    assert (status, answer["Err"]) == (
        413,
        "POST /NetworkDriver.CreateNetwork: the body has more than 16777216 bytes",
    )


def test_an_unknown_method_is_404_as_json(plugin: Plugin) -> None:
    status, answer = post(plugin, "NetworkDriver.Fly", {})
    assert (status, answer["Err"]) == (404, "NetworkDriver.Fly: no such method of NetworkDriver or IpamDriver")
    status, answer = post(plugin, "a/b", {})
    assert (status, answer["Err"]) == (404, "POST /a/b: Not Found")
    status, answer = post(plugin, "x" * 10_000, {})
    assert status == 404
    assert len(answer["Err"]) < 200


@pytest.mark.parametrize("method", [*METHODS, *CONSTANTS])
@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_verb_is_405_as_json(plugin: Plugin, method: str, verb: str) -> None:
    response = plugin.client().open(f"/{method}", method=verb)
    assert response.status_code == 405
    assert response.get_json(force=True) == {
        "Err": f"{verb} /{method}: Method Not Allowed",
        "Error": f"{verb} /{method}: Method Not Allowed",
    }


def test_a_session_from_pool_to_container_and_back(plugin: Plugin) -> None:
    start = plugin.state_of_all()
    assert post(plugin, "IpamDriver.RequestPool", {"AddressSpace": "flannelpy", "Pool": "", "V6": False}) == (
        200,
        {"PoolID": POOL_ID, "Pool": "10.2.1.0/24", "Data": {}},
    )
    gateway = {"PoolID": POOL_ID, "Options": {"RequestAddressType": "com.docker.network.gateway"}}
    assert post(plugin, "IpamDriver.RequestAddress", gateway) == (200, {"Address": "10.2.1.1/24", "Data": {}})
    data = [{"AddressSpace": "flannelpy", "Pool": "10.2.1.0/24", "Gateway": "10.2.1.1/24"}]
    ids = {"NetworkID": NETWORK_ID, "EndpointID": ENDPOINT_ID}
    assert post(plugin, "NetworkDriver.CreateNetwork", {**ids, "IPv4Data": data}) == (200, {})
    status, told = post(plugin, "IpamDriver.RequestAddress", {"PoolID": POOL_ID})
    assert status == 200
    interface = {"Address": told["Address"], "AddressIPv6": "", "MacAddress": ""}
    status, answer = post(plugin, "NetworkDriver.CreateEndpoint", {**ids, "Interface": interface})
    assert (status, list(answer["Interface"])) == (200, ["MacAddress"])
    status, answer = post(plugin, "NetworkDriver.Join", {**ids, "SandboxKey": "/x", "Options": {}})
    assert (status, answer["Gateway"]) == (200, "10.2.1.1")
    for method in ("Leave", "DeleteEndpoint", "DeleteNetwork"):
        assert post(plugin, f"NetworkDriver.{method}", ids) == (200, {})
    for address in (told["Address"].partition("/")[0], "10.2.1.1"):
        assert post(plugin, "IpamDriver.ReleaseAddress", {"PoolID": POOL_ID, "Address": address}) == (200, {})
    assert post(plugin, "IpamDriver.ReleasePool", {"PoolID": POOL_ID}) == (200, {})
    plugin.reconciler.run_pass()
    assert plugin.state_of_all() == start


def test_an_error_has_its_status_and_a_line_in_the_log(plugin: Plugin, caplog: pytest.LogCaptureFixture) -> None:
    status, answer = post(plugin, "NetworkDriver.Join", {"NetworkID": NETWORK_ID, "EndpointID": ENDPOINT_ID})
    assert status == 410
    assert "docker network rm it and create it anew" in answer["Err"]
    (record,) = [record for record in caplog.records if record.name == "plugin.http"]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("refused call=NetworkDriver.Join status=410 reason=network 4d5d70de7705")
    assert record.exc_info is None


WISH = {"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080}
UNKNOWN = {
    "NetworkDriver.CreateEndpoint": {"Interface": {"Address": "10.2.1.5/24"}},
    "NetworkDriver.Join": {},
    "NetworkDriver.ProgramExternalConnectivity": {"Options": {"com.docker.network.portmap": [WISH]}},
    "IpamDriver.RequestAddress": {"PoolID": "flannelpy/192.0.2.0/24"},
}


@pytest.mark.parametrize("method", UNKNOWN)
@pytest.mark.parametrize("missing", ["network", "endpoint"])
def test_what_is_unknown_is_an_error_and_never_a_method_that_is_not_there(
    plugin: Plugin, method: str, missing: str
) -> None:
    """Engines take 404 for "not implemented" and go on: the container would run without its ports."""
    if missing == "endpoint":
        memory_plugin.fill(plugin)
    ids = {"NetworkID": NETWORK_ID if method != "NetworkDriver.CreateEndpoint" else "e" * 64, "EndpointID": "f" * 64}
    status, answer = post(plugin, method, {**ids, **UNKNOWN[method]})
    assert status == 410
    assert "is not known to" in answer["Err"]


def test_a_bug_is_500_with_one_traceback_in_the_log(plugin: Plugin, caplog: pytest.LogCaptureFixture) -> None:
    plugin.table["NetworkDriver.Leave"] = lambda body: {}[body["NetworkID"]]
    status, answer = post(plugin, "NetworkDriver.Leave", {"NetworkID": "x"})
    assert (status, answer["Err"]) == (500, "NetworkDriver.Leave: unexpected KeyError; see the plugin's log")
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]


def test_calls_are_counted_by_method_and_status(plugin: Plugin) -> None:
    post(plugin, "Plugin.Activate")
    post(plugin, "NetworkDriver.Leave", {"NetworkID": NETWORK_ID, "EndpointID": ENDPOINT_ID})
    post(plugin, "NetworkDriver.Leave", {})
    assert plugin.observed == [("Plugin.Activate", 200), ("NetworkDriver.Leave", 200), ("NetworkDriver.Leave", 400)]
    text = plugin.client().get("/metrics").text
    assert 'flannelpy_call_seconds_count{method="NetworkDriver.Leave",status="400"} 1.0' in text


def test_healthz_says_that_the_process_answers(plugin: Plugin) -> None:
    response = plugin.client().get("/healthz")
    assert (response.status_code, response.text) == (200, "ok\n")


def test_readyz_names_what_is_missing_and_ends_at_ready(plugin: Plugin) -> None:
    response = plugin.client().get("/readyz")
    assert (response.status_code, response.text) == (
        503,
        "/coreos.com/network: lease 10.2.1.0/24 not confirmed yet: starting\nkernel: the first pass has not ended\n",
    )
    plugin.join()
    plugin.reconciler.run_pass()
    response = plugin.client().get("/readyz")
    assert (response.status_code, response.text) == (200, "ready\n")


def test_status_is_json(plugin: Plugin) -> None:
    told = plugin.client().get("/status").get_json()
    assert told["flannel_networks"][0]["subnet"] == "10.2.1.0/24"


def test_peers_are_listed_with_what_is_wrong_with_them(plugin: Plugin) -> None:
    plugin.join()
    plugin.registry.put_peer(node_host.key("10.2.9.0/24"), node_host.attrs("192.0.2.9"))
    plugin.registry.put_peer(node_host.key("10.2.8.0/24"), node_host.attrs("192.0.2.8", vni=7))
    node_host.until(lambda: len(plugin.client().get("/peers").get_json()["peers"]) == 2)
    bad, good = plugin.client().get("/peers").get_json()["peers"]
    assert (bad["subnet"], bad["public_ip"], bad["problem"]) == ("10.2.8.0/24", "192.0.2.8", "VNI is 7, ours is 1")
    assert (good["subnet"], good["backend_type"], good["problem"]) == ("10.2.9.0/24", "vxlan", None)
    assert 0 <= good["age_s"] < 60


@pytest.mark.parametrize("query", ["", "?peer=", "?other=1", "?" + "&".join(f"peer=10.2.{n}.0/24" for n in range(9))])
def test_diagnose_wants_one_to_eight_peers(plugin: Plugin, query: str) -> None:
    response = plugin.client().get(f"/diagnose{query}")
    assert response.status_code == (200 if query == "?peer=" else 400)
    if response.status_code == 400:
        assert "expected 1 to 8 times peer=SUBNET" in response.get_json()["Err"]


@pytest.mark.parametrize("subnet", ["10.2.77.0/24", "None", "and", "0", "10.2.9.0", "", "\n"])
def test_diagnose_says_what_is_no_peer(plugin: Plugin, subnet: str) -> None:
    plugin.join()
    plugin.registry.put_peer(node_host.key("10.2.9.0/24"), node_host.attrs("192.0.2.9"))
    node_host.until(lambda: plugin.client().get("/peers").get_json()["peers"])
    told = plugin.client().get("/diagnose", query_string={"peer": subnet}).get_json()
    assert told == {"peers": {subnet: "no peer has this subnet"}}


def test_text_that_no_encoding_can_hold_is_refused_like_any_other(
    plugin: Plugin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "plugin.http")  # pytest-xdist could not carry the line: see test_logs.py
    status, answer = post(plugin, "IpamDriver.RequestAddress", b'{"PoolID": "\\ud800\\n"}')
    assert status == 410
    assert answer["Err"].startswith("pool \ud800\n is not known to this plugin")
