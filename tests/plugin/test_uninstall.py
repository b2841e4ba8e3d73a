"""Everything of ours off the host, where nothing uses it: in memory, then the real process on a real kernel."""

from __future__ import annotations

import json
import pathlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping

import flask.testing
import pytest
from click import testing

from overlay import netstate, nodestore
from plugin import __main__ as command_line
from plugin import app, graph, uninstall
from tests.overlay import node_host
from tests.plugin import engine_model, kills, machine, memory_plugin
from tests.plugin.test_server import IDS

until = node_host.until
Plugin = memory_plugin.MemoryPlugin


@pytest.fixture
def joined(make_plugin: Callable[..., Plugin]) -> Plugin:
    """With its lease, and a network that was removed again."""
    plugin = make_plugin().join()
    plugin.reconciler.run_pass()
    pool = memory_plugin.fill_network(plugin)
    plugin.driver.delete_network(memory_plugin.NETWORK_ID)
    plugin.ipam.release_pool(pool)
    assert plugin.kernel.observe(netstate.EMPTY)
    return plugin


@pytest.fixture
def client(joined: Plugin, monkeypatch: pytest.MonkeyPatch) -> Iterator[flask.testing.FlaskClient]:
    """Of the application as it runs, over that plugin."""
    monkeypatch.setattr(graph, "build", lambda *_args: joined.graph)
    one = app.App({"ETCD_ENDPOINTS": "http://127.0.0.1:1"})
    client = one.start().test_client()  # type: ignore[attr-defined]
    one.methods()
    for thread in threading.enumerate():
        if thread.name == "build":
            thread.join(10)
    yield client
    one.stop()


def fall_silent(joined: Plugin) -> None:
    """Docker has told what it has, and no more: what it does not list would be taken away at once here."""
    until(lambda: joined.watch._complete is None, "Docker has told")
    joined.engine.failure = "connection refused"
    until(lambda: not joined.watch.lists_none, "it does not answer")


def test_nothing_of_ours_is_left_and_the_lease_is_given_back(
    client: flask.testing.FlaskClient, joined: Plugin
) -> None:
    assert joined.firewall.tunnelled
    answer = client.post("/uninstall")
    assert (answer.status_code, answer.get_json()) == (200, {"left": []})
    assert joined.kernel.observe(netstate.EMPTY) == netstate.EMPTY
    written = joined.firewall
    assert (written.plan, written.guarded, written.tunnelled) == (frozenset(),) * 3
    assert joined.registry.read_leases().leases == {}
    assert nodestore.NodeStore(joined.state).prefixes() == []
    assert not any(thread.is_alive() for thread in joined.graph.threads)


def test_from_then_on_every_call_is_refused_and_nothing_comes_back(
    client: flask.testing.FlaskClient, joined: Plugin
) -> None:
    client.post("/uninstall")
    said = "flannelpy was uninstalled from this host: "
    refused = client.post("/IpamDriver.RequestPool", data='{"AddressSpace": "flannelpy", "Pool": ""}')
    assert (refused.status_code, refused.get_json(force=True)["Err"][: len(said)]) == (503, said)
    ready = client.get("/readyz")
    assert (ready.status_code, ready.get_data(as_text=True)[: len(said)]) == (503, said)
    assert client.post("/NetworkDriver.GetCapabilities").status_code == 200
    assert client.get("/status").get_json()["missing"][0].startswith(said)
    assert joined.kernel.observe(netstate.EMPTY) == netstate.EMPTY
    again = client.post("/uninstall")
    assert (again.status_code, again.get_json()) == (200, {"left": []})


def test_with_a_network_it_is_refused_and_nothing_changes(client: flask.testing.FlaskClient, joined: Plugin) -> None:
    fall_silent(joined)
    memory_plugin.fill(joined)
    before = joined.state_of_all()
    answer = client.post("/uninstall")
    said = "not uninstalled: networks 4d5d70de7705; docker network rm them first"
    assert (answer.status_code, answer.get_json(force=True)["Err"]) == (409, said)
    assert joined.state_of_all() == before
    assert client.post("/NetworkDriver.Leave", json=IDS).status_code == 200
    assert client.get("/readyz").status_code == 200


def test_a_network_that_is_being_made_is_one(client: flask.testing.FlaskClient, joined: Plugin) -> None:
    fall_silent(joined)
    joined.ipam.request_pool(memory_plugin.POOL)
    answer = client.post("/uninstall")
    said = "not uninstalled: pools 10.2.1.0/24 belong to networks that are being made"
    assert (answer.status_code, answer.get_json(force=True)["Err"]) == (409, said)


def test_before_docker_has_said_what_runs_nothing_is_removed(
    client: flask.testing.FlaskClient, joined: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uninstall, "DOCKER_WAIT_S", 0.3)
    fall_silent(joined)
    joined.reconciler._gate_open = False
    answer = client.post("/uninstall")
    assert answer.status_code == 503
    assert "Docker has not told yet" in answer.get_json(force=True)["Err"]
    assert joined.kernel.observe(netstate.EMPTY) != netstate.EMPTY


def test_an_engine_that_never_had_a_network_of_ours_needs_to_confirm_nothing(
    client: flask.testing.FlaskClient, joined: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside a plugin that is a service of the host: but a container's link is another engine's, then."""
    monkeypatch.setattr(uninstall, "DOCKER_WAIT_S", 0.3)
    until(lambda: joined.watch._complete is None, "Docker has told")
    joined.reconciler._gate_open = False
    port = netstate.BridgePort(name=netstate.IfName("fph1"), bridge=netstate.IfName(""), mtu=1450)
    pair = netstate.VethPair(name=port.name, peer=netstate.IfName("fpc1"), bridge=netstate.IfName("fp-1"), mtu=1450)
    bridge = netstate.BridgeLink(name=pair.bridge, mac=netstate.Mac("02:42:0a:02:01:01"), mtu=1450)
    joined.kernel.apply([netstate.Add(obj=bridge), netstate.Add(obj=pair)])
    assert client.post("/uninstall").status_code == 503
    joined.kernel.apply([netstate.Remove(obj=pair), netstate.Remove(obj=bridge)])
    answer = client.post("/uninstall")
    assert (answer.status_code, answer.get_json()) == (200, {"left": []})
    assert joined.kernel.observe(netstate.EMPTY) == netstate.EMPTY


def test_a_network_that_cannot_be_taken_up_is_named(client: flask.testing.FlaskClient, joined: Plugin) -> None:
    joined.watch._refused = {"network shop (4d5d70de7705) cannot be adopted": "the pool is another host's"}
    answer = client.post("/uninstall")
    said = (
        "not uninstalled: network shop (4d5d70de7705) cannot be adopted: the pool is another host's; "
        "docker network rm it first"
    )
    assert (answer.status_code, answer.get_json(force=True)["Err"]) == (409, said)


def test_without_etcd_the_lease_is_left_to_end_and_that_is_said(
    client: flask.testing.FlaskClient, joined: Plugin
) -> None:
    joined.registry.go_down()
    answer = client.post("/uninstall")
    line = f"lease of {node_host.PREFIX}: not given back (the log says why); it ends by itself within a day"
    assert (answer.status_code, answer.get_json()) == (200, {"left": [line]})
    assert joined.kernel.observe(netstate.EMPTY) == netstate.EMPTY
    assert client.post("/uninstall").get_json() == {"left": [line]}
    joined.registry.come_back()
    assert client.post("/uninstall").get_json() == {"left": []}
    assert joined.registry.read_leases().leases == {}


def test_what_the_packet_filter_refuses_is_said_and_tried_again(
    client: flask.testing.FlaskClient, joined: Plugin
) -> None:
    joined.firewall.refusal = "nft: no"
    assert client.post("/uninstall").get_json()["left"] == ["nft: no"]
    joined.firewall.refusal = None
    assert client.post("/uninstall").get_json() == {"left": []}


def test_only_an_order_uninstalls(client: flask.testing.FlaskClient) -> None:
    assert client.get("/uninstall").status_code == 405


LISTINGS = (
    "ip -o link", "ip -o addr", "ip -4 route show table all", "ip -6 route show table all", "nft list ruleset",
    "iptables-save", "ip6tables-save",
)  # fmt: skip


def look(host: machine.Machine) -> Mapping[str, list[str]]:
    """The host as an operator would compare it; of links number and name, of counters nothing."""
    listed = {words: host.run(*words.split()).splitlines() for words in LISTINGS}
    return {
        words: [
            re.sub(r" mtu .*|\[\d+:\d+\]|counter packets \d+ bytes \d+", "", line)
            for line in lines
            if line[:1] != "#"
        ]
        for words, lines in listed.items()
    }


@pytest.fixture
def host() -> Iterator[machine.Machine]:
    with tempfile.TemporaryDirectory() as directory:  # a socket's path has at most 107 characters
        made = machine.Machine(pathlib.Path(directory), NETWORK_CONFIG=kills.DUAL)
        made.run(
            "sh", "-c", "ip6tables -P FORWARD DROP && ip6tables -N DOCKER-USER && ip6tables -A FORWARD -j DOCKER-USER"
        )
        for key in (
            "net.ipv4.ip_forward",
            "net.ipv6.conf.all.forwarding",
        ):  # stays on, and brings anycast routes along
            made.run("sysctl", "-q", "-w", f"{key}=1")
        yield made
        made.close()


@pytest.mark.contract
def test_the_host_is_as_it_was_before(host: machine.Machine) -> None:
    until(lambda: "tentative" not in host.run("ip", "addr"), "addresses are usable")
    before = look(host)
    host.start()
    dockerd = engine_model.Engine(host.directory / "run", host.netns)
    try:
        until(host.ready, "ready", 30)
        assert "table inet flannelpy" in host.run("nft", "list", "ruleset")
        (lease,) = json.loads(host.get("/status"))["flannel_networks"]
        net = dockerd.network_create(lease["subnet"], kills.NATIVE, pool_v6=lease["subnet_v6"])
        container = dockerd.run(net)
        told = run_uninstall(host)
        assert (told.exit_code, "not uninstalled: networks" in told.output) == (2, True), told.output
        dockerd.rm(net, container)
        dockerd.network_rm(net)
        assert look(host) != before
        told = run_uninstall(host)
        assert told.output == "nothing is left; now: docker plugin disable, rm\n"
        assert told.exit_code == 0
        assert look(host) == before
        until(lambda: not host.ready(), "it says so")
    finally:
        dockerd.close()
    plugin = host.plugin
    assert plugin is not None
    plugin.terminate()
    assert plugin.wait(10) == 0
    host.plugin = None
    assert look(host) == before
    assert list((host.directory / "run").rglob("flannelpy*")) == []
    assert "Traceback" not in host.log()


@pytest.mark.contract
def test_a_host_that_never_had_a_network_is_as_before_too(host: machine.Machine) -> None:
    until(lambda: "tentative" not in host.run("ip", "addr"), "addresses are usable")
    before = look(host)
    host.start()
    dockerd = engine_model.Engine(host.directory / "run", host.netns)
    try:
        until(host.ready, "ready", 30)
        told = run_uninstall(host)
        assert (told.exit_code, told.output) == (0, "nothing is left; now: docker plugin disable, rm\n")
        assert look(host) == before
    finally:
        dockerd.close()


def run_uninstall(host: machine.Machine) -> testing.Result:
    path = host.directory / "run/docker/plugins/flannelpy.sock"
    return testing.CliRunner().invoke(command_line.main, ["uninstall", "--socket", str(path)])
