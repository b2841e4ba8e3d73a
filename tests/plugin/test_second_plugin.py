"""Two real plugins on one host: the second touches nothing, says who has the host, and takes over at its end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.plugin.test_server import IDS, REPOSITORY, UNDERLAY, Running, UnixConnection, start, until

__all__ = ["start"]  # the fixture

pytestmark = pytest.mark.contract

POOL = {"AddressSpace": "flannelpy", "Pool": "", "SubPool": "", "Options": {}, "V6": False}
GIVES_WAY_S = 2.0


class Second:
    """Another plugin in the network namespace, and with the /run, of the first."""

    def __init__(self, first: Running, *, managed: bool) -> None:
        self.directory = first.directory / "second"
        self.own = self.directory / "run"
        self.own.mkdir(parents=True)
        self.socket = (self.own if managed else first.socket.parent) / "flannelpy.sock"
        own = str(self.own) if managed else ""
        env = {**first.env, "STATE_DIR": str(self.directory / "state"), "OWN_DIR": own}
        program = str(pathlib.Path(__file__).with_name("managed_plugin.py"))
        with (self.directory / "output").open("wb") as output:
            self.process = subprocess.Popen(
                ["nsenter", f"--net=/proc/{first.process.pid}/ns/net", sys.executable, program],
                cwd=REPOSITORY,
                env={**env, "PYTHONPATH": str(REPOSITORY), "GIVES_WAY_S": str(GIVES_WAY_S)},
                stdout=output,
                stderr=output,
            )

    def ask(self, verb: str, path: str, body: object = None) -> tuple[int, str]:
        with contextlib.closing(UnixConnection(self.socket)) as connection:
            connection.request(verb, path, None if body is None else json.dumps(body) + "\n")
            response = connection.getresponse()
            return response.status, response.read().decode()

    def call(self, method: str, body: object = None) -> tuple[int, Any]:
        status, text = self.ask("POST", f"/{method}", body)
        return status, json.loads(text)

    def answers(self, path: str = "/healthz") -> bool:
        try:
            return self.ask("GET", path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def is_ready(self) -> bool:
        return self.answers("/readyz")

    def log(self) -> str:
        return (self.directory / "output").read_text()

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(12)
        finally:
            self.process.kill()


@pytest.fixture
def first(start: Callable[..., Running]) -> Running:
    """A plugin with a network and an endpoint."""
    plugin = start({}, UNDERLAY)
    until(plugin.ready, within_s=30)
    pool = plugin.call("IpamDriver.RequestPool", POOL)[1]
    gateway = {"PoolID": pool["PoolID"], "Options": {"RequestAddressType": "com.docker.network.gateway"}}
    address = plugin.call("IpamDriver.RequestAddress", gateway)[1]["Address"]
    data = [{"AddressSpace": "flannelpy", "Pool": pool["Pool"], "Gateway": address}]
    assert plugin.call("NetworkDriver.CreateNetwork", {**IDS, "IPv4Data": data}) == (200, {})
    address = plugin.call("IpamDriver.RequestAddress", {"PoolID": pool["PoolID"]})[1]["Address"]
    interface = {"Address": address, "AddressIPv6": "", "MacAddress": ""}
    assert plugin.call("NetworkDriver.CreateEndpoint", {**IDS, "Interface": interface})[0] == 200
    return plugin


@pytest.fixture
def install(first: Running) -> Iterator[Callable[..., Second]]:
    with contextlib.ExitStack() as stack:

        def run(*, managed: bool = True) -> Second:
            second = Second(first, managed=managed)
            stack.callback(second.close)
            return second

        yield run


def host(first: Running) -> Mapping[str, object]:
    """What a second plugin could touch."""
    inside = ["nsenter", f"--net=/proc/{first.process.pid}/ns/net"]
    listings = ("ip -o link", "ip -o -4 addr", "ip route", "nft list ruleset", "ip neigh", "bridge fdb show nomaster")
    told = {}
    for words in listings:
        done = subprocess.run([*inside, *words.split()], capture_output=True, text=True, check=True, timeout=10)
        lines = [re.sub(r": <.*| linkdown", "", line).rstrip() for line in done.stdout.splitlines()]
        told[words] = lines  # of links number and name, and not the carrier, which comes and goes by itself
    return {**told, "socket": first.socket.stat().st_ino, "status": status(first)["networks"]}


def status(plugin: Running | Second) -> Any:
    return json.loads(plugin.ask("GET", "/status")[1])


def test_the_second_says_who_has_the_host_and_touches_nothing(first: Running, install: Callable[..., Second]) -> None:
    before = host(first)
    second = install()
    until(second.answers, "the second answers", 10)
    assert second.call("Plugin.Activate") == (200, {"Implements": ["NetworkDriver", "IpamDriver"]})
    assert second.call("NetworkDriver.GetCapabilities")[0] == 200
    named = f"another flannelpy serves this host: pid {first.process.pid}, version "
    refused = second.call("IpamDriver.RequestPool", POOL)
    assert (refused[0], refused[1]["Err"][: len(named)]) == (503, named)
    code, text = second.ask("GET", "/readyz")
    assert (code, text[: len(named)]) == (503, named)
    assert status(second)["missing"][0].startswith(named)
    assert second.ask("POST", "/audit?settle=0")[0] == 503
    assert status(first)["repairs"] == {}
    os.kill(first.worker(), signal.SIGKILL)  # the master has the lock
    assert first.call("NetworkDriver.Leave", IDS) == (200, {})
    until(first.ready, within_s=20)
    assert status(second)["missing"][0].startswith(named)
    assert host(first) == before
    assert [path.name for path in (second.directory / "state").iterdir()] == ["standby"]
    assert f"error plugin.standby: standing by: {named}" in second.log()
    assert "Traceback" not in second.log()


def test_it_leaves_when_it_is_disabled(first: Running, install: Callable[..., Second]) -> None:
    second = install()
    until(second.answers, "the second answers", 10)
    second.process.terminate()
    assert second.process.wait(9) == 0
    assert list(second.own.iterdir()) == []
    assert first.ask("GET", "/readyz") == (200, "ready\n")


@pytest.mark.parametrize("managed", [True, False], ids=["a managed plugin", "the systemd unit"])
def test_the_first_comes_back_from_a_crash_and_at_its_end_the_second_takes_over(
    first: Running, start: Callable[..., Running], install: Callable[..., Second], managed: bool
) -> None:
    second = install(managed=managed)
    until(lambda: "standing by" in second.log(), "the second has noticed", 10)
    if managed:
        until(second.answers, "the second answers", 10)
    inode = second.socket.stat().st_ino
    worker = first.worker()
    first.process.kill()
    os.kill(worker, signal.SIGKILL)
    again = start({}, UNDERLAY)  # as Docker does at once
    until(again.ready, within_s=20)
    assert "taking over" not in second.log()
    named = f"another flannelpy serves this host: pid {again.process.pid}, "
    until(lambda: named in second.log(), "the second has noticed again", 10)
    if managed:  # on its socket all the time: dockerd would find nobody, and begin again three seconds later
        assert second.socket.stat().st_ino == inode
        assert second.ask("GET", "/readyz")[1].startswith(named)
        assert second.call("IpamDriver.RequestPool", POOL)[1]["Err"].startswith(named)
    began = time.monotonic()
    again.process.terminate()
    assert again.process.wait(10) == 0
    until(lambda: "taking over" in second.log(), "the host is free", 30)
    assert time.monotonic() - began > GIVES_WAY_S - 0.5
    for socket in {again.socket, second.socket}:
        second.socket = socket
        until(second.is_ready, f"it serves at {socket}", 20)
    assert status(second)["networks"] == []  # its own state file: what runs here, Docker tells
    inside = ["nsenter", f"--net=/proc/{second.process.pid}/ns/net", "ip", "-o", "link"]
    links = subprocess.run(inside, capture_output=True, text=True, check=True, timeout=10).stdout
    assert "fp-4d5d70de7705" in links  # nothing is removed before Docker has said what is its
