"""The docker SDK against an engine of a few lines behind a unix socket."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import http.server
import ipaddress
import json
import pathlib
import socketserver
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from driver import engine, engine_docker, errors, names
from overlay import netstate

OURS = "a" * 64
OTHER = "b" * 64
DETAIL: dict[str, Any] = {
    "Id": OURS,
    "Name": "flannel",
    "Driver": "flannelpy",
    "Internal": True,
    "IPAM": {
        "Driver": "flannelpy",
        "Options": {"flannelpy.prefix": "/blue/network"},
        "Config": [
            {
                "Subnet": "10.2.20.0/24",
                "IPRange": "10.2.20.128/25",
                "Gateway": "10.2.20.1",
                "AuxiliaryAddresses": {"router": "10.2.20.2"},
            }
        ],
    },
    "Options": {"flannelpy.gateway": "docker"},
    "ConfigOnly": False,
    "Containers": {
        "c1": {
            "Name": "c1",
            "EndpointID": "1" * 64,
            "MacAddress": "02:42:0A:02:14:05",
            "IPv4Address": "10.2.20.5/24",
        },
        "ep-2": {"Name": "c2", "EndpointID": "2" * 64, "MacAddress": "", "IPv4Address": "10.2.20.6/24"},
        "c3": {"Name": "c3", "EndpointID": "3" * 64, "MacAddress": "", "IPv4Address": ""},
    },
}
BRIDGE = {"Id": OTHER, "Name": "bridge", "Driver": "bridge", "IPAM": {"Driver": "default", "Config": []}}
OURS_SEEN = engine.EngineNetwork(
    id=names.NetworkId(OURS),
    name="flannel",
    ours=True,
    ipam_ours=True,
    pools=(
        engine.EnginePool(
            cidr=ipaddress.IPv4Network("10.2.20.0/24"),
            gateway=ipaddress.IPv4Address("10.2.20.1"),
            ip_range=ipaddress.IPv4Network("10.2.20.128/25"),
            aux=frozenset({ipaddress.IPv4Address("10.2.20.2")}),
        ),
    ),
    internal=True,
    options={"flannelpy.gateway": "docker"},
    ipam_options={"flannelpy.prefix": "/blue/network"},
    endpoints=(
        engine.EngineEndpoint(
            id=names.EndpointId("1" * 64),
            address=ipaddress.IPv4Interface("10.2.20.5/24"),
            mac=netstate.Mac("02:42:0a:02:14:05"),
        ),
        engine.EngineEndpoint(
            id=names.EndpointId("2" * 64), address=ipaddress.IPv4Interface("10.2.20.6/24"), mac=None
        ),
    ),
)
OTHER_SEEN = engine.EngineNetwork(id=names.NetworkId(OTHER), name="", ours=False)


class Dockerd:
    """Answers /version, /info, /plugins, /networks, /networks/{id} and /networks/create.

    `failure` is every answer while it is set; `plugins` None: it has no such thing, as podman. `odd` are answers
    that no engine gives, by the first part of the path.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.networks: list[Mapping[str, Any]] = []
        self.hidden: set[str] = set()
        self.unlisted: set[str] = set()
        self.info: Mapping[str, Any] = {"ID": "ENGINE"}
        self.plugins: list[Mapping[str, Any]] | None = []
        self.failure: tuple[int, str] | None = None
        self.odd: dict[str, object] = {}
        self.created: list[Mapping[str, Any]] = []
        self.inspected: list[str] = []
        self._server: socketserver.ThreadingUnixStreamServer | None = None

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        path = path.partition("?")[0]
        parts = [part for part in path.split("/") if part and not part.startswith("v1.")]
        if parts == ["version"]:
            return 200, {"ApiVersion": "1.41", "Version": "20.10.24"}
        if self.failure is not None:
            return self.failure[0], {"message": self.failure[1]}
        told = {"info": self.info} | ({} if self.plugins is None else {"plugins": self.plugins}) | self.odd
        if parts[0] in told:
            return 200, told[parts[0]]
        if parts == ["networks", "create"]:
            self.created.append(json.loads(body))
            return 201, {"Id": OURS, "Warning": ""}
        if parts == ["networks"]:
            return 200, [{**one, "Containers": {}} for one in self.networks if one["Id"] not in self.unlisted]
        self.inspected += parts[1:]
        found = [one for one in self.networks if one["Id"] == parts[-1] and one["Id"] not in self.hidden]
        return (200, found[0]) if found else (404, {"message": f"{path} not found"})

    def start(self) -> None:
        dockerd = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = dockerd.answer(self.command, self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = handle_any  # noqa: N815 - the base class's names

            def address_string(self) -> str:
                return "unix"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            block_on_close = False

        self._server = Server(str(self.path), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self.path.unlink()
            self._server = None


@pytest.fixture
def dockerd() -> Iterator[Dockerd]:
    with tempfile.TemporaryDirectory() as directory:  # a socket's path has at most 107 characters
        one = Dockerd(pathlib.Path(directory) / "docker.sock")
        one.start()
        yield one
        with contextlib.suppress(FileNotFoundError):
            one.stop()


@pytest.fixture
def client(dockerd: Dockerd) -> Iterator[engine_docker.DockerEngine]:
    one = engine_docker.DockerEngine(f"unix://{dockerd.path}")
    yield one
    one.close()


PLUGIN_ID = "f" * 64


@pytest.fixture
def managed(dockerd: Dockerd) -> Iterator[engine_docker.DockerEngine]:
    """As a managed plugin, which knows its id."""
    one = engine_docker.DockerEngine(f"unix://{dockerd.path}", PLUGIN_ID)
    yield one
    one.close()


def test_our_networks_are_read_whole_and_others_as_an_id(
    dockerd: Dockerd, client: engine_docker.DockerEngine
) -> None:
    dockerd.networks = [BRIDGE, DETAIL]
    assert client.list_networks(()) == [OTHER_SEEN, OURS_SEEN]
    assert dockerd.inspected == [OURS]


def test_ipv6_is_read_as_docker_shows_it(dockerd: Dockerd, client: engine_docker.DockerEngine) -> None:
    v6 = {
        "Subnet": "FD00:2:0:14:0::/64",
        "IPRange": "fd00:2:0:14::f0/124",
        "Gateway": "fd00:2:0:14::1",
        "AuxiliaryAddresses": {"router": "fd00:2:0:14::9"},
    }
    (v4,) = DETAIL["IPAM"]["Config"]
    one = {**DETAIL["Containers"]["c1"], "IPv6Address": "fd00:2:0:14::5/64"}
    two = {**DETAIL["Containers"]["ep-2"], "IPv6Address": ""}
    dockerd.networks = [
        {**DETAIL, "IPAM": {**DETAIL["IPAM"], "Config": [v4, v6]}, "Containers": {"c1": one, "ep-2": two}}
    ]
    (seen,) = client.list_networks(())
    assert seen == dataclasses.replace(
        OURS_SEEN,
        pools=(
            *OURS_SEEN.pools,
            engine.EnginePool(
                cidr=ipaddress.IPv6Network("fd00:2:0:14::/64"),
                gateway=ipaddress.IPv6Address("fd00:2:0:14::1"),
                ip_range=ipaddress.IPv6Network("fd00:2:0:14::f0/124"),
                aux=frozenset({ipaddress.IPv6Address("fd00:2:0:14::9")}),
            ),
        ),
        endpoints=(
            dataclasses.replace(OURS_SEEN.endpoints[0], address_v6=ipaddress.IPv6Interface("fd00:2:0:14::5/64")),
            OURS_SEEN.endpoints[1],
        ),
    )


def test_a_network_of_our_ipam_alone_is_read_too(dockerd: Dockerd, client: engine_docker.DockerEngine) -> None:
    dockerd.networks = [{**DETAIL, "Driver": "macvlan"}]
    (seen,) = client.list_networks(())
    assert (seen.ours, seen.ipam_ours, seen.pools) == (False, True, OURS_SEEN.pools)


def test_the_operators_alias_is_learned_from_the_networks_we_know(
    dockerd: Dockerd, client: engine_docker.DockerEngine
) -> None:
    """`docker plugin install --alias overlay:1`: nobody tells the plugin."""
    alias = {"Driver": "overlay:1", "IPAM": {**DETAIL["IPAM"], "Driver": "overlay:1"}}
    dockerd.networks = [{**DETAIL, **alias}, {**DETAIL, **alias, "Id": "c" * 64}, BRIDGE]
    assert [net.ours for net in client.list_networks(())] == [False, False, False]
    assert [net.ours for net in client.list_networks({names.NetworkId(OURS)})] == [True, True, False]
    assert [net.ipam_ours for net in client.list_networks({names.NetworkId(OURS)})] == [True, True, False]


def of_driver(name: str, network_id: str = OURS) -> Mapping[str, Any]:
    return {**DETAIL, "Id": network_id, "Driver": name, "IPAM": {**DETAIL["IPAM"], "Driver": name}}


def plugin(name: str, plugin_id: str = "e" * 64, *, enabled: bool = True) -> Mapping[str, Any]:
    return {"Id": plugin_id, "Name": name, "Enabled": enabled}


def test_a_managed_plugin_knows_its_networks_by_its_own_alias(
    dockerd: Dockerd, managed: engine_docker.DockerEngine
) -> None:
    """With no network known, as after the loss of the state file."""
    dockerd.plugins = [plugin("overlaynet:2", PLUGIN_ID), plugin("other:1")]
    drivers = ("overlaynet:2", "overlaynet:1", "other:1", "flannelpy")
    dockerd.networks = [of_driver(name, f"{number}" * 64) for number, name in enumerate(drivers)]
    seen = managed.list_networks(())
    assert [net.ours for net in seen] == [True, False, False, True]
    assert [net.trouble for net in seen] == [""] * 4


def test_a_plugin_of_a_like_name_that_is_enabled_is_another_one(
    dockerd: Dockerd, managed: engine_docker.DockerEngine
) -> None:
    """Its networks are not taken over, and said, since their links are not to be lost.

    A name of ours whose plugin is off or gone is still ours: it was installed anew under another tag.
    """
    dockerd.plugins = [plugin("flannelpy:2", PLUGIN_ID), plugin("team/flannelpy:1")]
    dockerd.plugins += [plugin("flannelpy:0", "d" * 64, enabled=False)]
    drivers = ("team/flannelpy:1", "flannelpy:2", "flannelpy:0", "flannelpy:00")
    dockerd.networks = [of_driver(name, f"{number}" * 64) for number, name in enumerate(drivers)]
    seen = managed.list_networks(())
    assert [net.ours for net in seen] == [False, True, True, True]
    assert seen[0] == engine.EngineNetwork(
        id=names.NetworkId("0" * 64),
        name="flannel",
        ours=False,
        trouble="its driver team/flannelpy:1 is another plugin that is enabled; a host has one flannelpy: disable "
        "one of them",
    )


def test_an_engine_is_told_by_its_id_and_by_our_plugin(
    dockerd: Dockerd, client: engine_docker.DockerEngine, managed: engine_docker.DockerEngine
) -> None:
    dockerd.plugins = [plugin("flannelpy:1", PLUGIN_ID, enabled=False)]  # it is being enabled
    assert client.identify() == engine.Identity(id="ENGINE")
    assert managed.identify() == engine.Identity(id="ENGINE", has_plugin=True)
    for without in ([plugin("flannelpy:1")], [], None):
        dockerd.plugins = without
        assert managed.identify() == engine.Identity(id="ENGINE", has_plugin=False)
    dockerd.info = {}
    assert client.identify() == engine.Identity(id="")


def test_an_engine_that_does_not_say_who_it_is_is_quoted(
    dockerd: Dockerd, client: engine_docker.DockerEngine
) -> None:
    dockerd.failure = (403, "forbidden by the proxy")
    with pytest.raises(errors.EngineError, match="forbidden by the proxy"):
        client.identify()


def test_a_list_without_any_network_is_no_answer(dockerd: Dockerd, client: engine_docker.DockerEngine) -> None:
    with pytest.raises(errors.EngineError, match="lists no network at all"):
        client.list_networks(())


def test_a_network_that_a_list_leaves_out_is_asked_for_by_its_id(
    dockerd: Dockerd, client: engine_docker.DockerEngine
) -> None:
    """A proxy may filter lists: only the engine's own 404 says that a network is gone."""
    dockerd.networks, dockerd.unlisted = [BRIDGE, DETAIL], {OURS}
    known = {names.NetworkId(OURS), names.NetworkId("c" * 64)}
    assert client.list_networks(known) == [OTHER_SEEN, OURS_SEEN]
    assert set(dockerd.inspected) == known


def test_a_form_for_networks_is_no_pool(dockerd: Dockerd, client: engine_docker.DockerEngine) -> None:
    """`--config-only --ipam-driver flannelpy --subnet …`: nobody asked us for a pool."""
    dockerd.networks = [{**DETAIL, "Driver": "null", "ConfigOnly": True, "Containers": {}}]
    (seen,) = client.list_networks(())
    assert (seen.ours, seen.ipam_ours) == (False, False)


def test_host_bits_and_missing_parts_break_nothing(dockerd: Dockerd, client: engine_docker.DockerEngine) -> None:
    config = [{}, {"Subnet": "10.2.20.5/24", "IPRange": "10.2.20.200/25"}]
    dockerd.networks = [
        {
            "Id": OURS,
            "Driver": "flannelpy:1",
            "IPAM": {"Driver": "flannelpy:1", "Config": config},
            "Containers": None,
        },
        {"Id": OTHER, "Driver": "localhost:5000/flannelpy:1", "IPAM": None, "Options": None},
    ]
    first, second = client.list_networks(())
    assert first.pools == (
        engine.EnginePool(
            cidr=ipaddress.IPv4Network("10.2.20.0/24"), ip_range=ipaddress.IPv4Network("10.2.20.128/25")
        ),
    )
    assert second == engine.EngineNetwork(id=names.NetworkId(OTHER), name="", ours=True)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("info", []),
        ("info", None),
        ("plugins", {"message": "denied"}),
        ("plugins", [{"Id": PLUGIN_ID}]),
        ("networks", {"message": "denied"}),
        ("networks", ["bridge"]),
        ("networks", [{"Name": "flannel"}]),
        ("networks", [{**DETAIL, "IPAM": "flannelpy"}]),
    ],
)
def test_what_no_engine_answers_is_said_and_no_bug(
    dockerd: Dockerd, managed: engine_docker.DockerEngine, asked: str, answer: object
) -> None:
    """Whatever listens at DOCKER_HOST: a proxy of one's own, another program."""
    dockerd.plugins, dockerd.networks = [plugin("flannelpy:1", PLUGIN_ID)], [DETAIL]
    dockerd.odd = {asked: answer}
    says = f"^Engine API at unix://{dockerd.path}: it answers as no engine does: "
    with pytest.raises(errors.EngineError, match=says):
        _ = managed.identify(), managed.list_networks(())
    with pytest.raises(errors.EngineError, match=says):
        _ = managed.identify(), managed.create_network("flannel")
    dockerd.odd = {}
    assert managed.list_networks(()) == [OURS_SEEN]


def test_a_network_that_goes_during_the_look_is_looked_for_again(
    dockerd: Dockerd, client: engine_docker.DockerEngine
) -> None:
    dockerd.networks, dockerd.hidden = [DETAIL], {OURS}
    with pytest.raises(errors.EngineError, match="a network was removed during the look"):
        client.list_networks(())
    dockerd.hidden.clear()
    assert client.list_networks(()) == [OURS_SEEN]


def test_an_engine_that_refuses_is_quoted(dockerd: Dockerd, client: engine_docker.DockerEngine) -> None:
    dockerd.failure = (500, "containerd is gone")
    with pytest.raises(errors.EngineError) as caught:
        client.list_networks(())
    assert str(caught.value) == f"Engine API at unix://{dockerd.path}: containerd is gone"


def test_a_network_that_cannot_be_read_does_not_keep_the_others_from_it(
    dockerd: Dockerd, client: engine_docker.DockerEngine
) -> None:
    config = [{"Subnet": "10.2.21.0/24", "Gateway": "nowhere"}, {"Subnet": "nothing"}]
    odd = {**DETAIL, "Id": "c" * 64, "Name": "odd", "IPAM": {"Driver": "flannelpy", "Config": config}}
    dockerd.networks = [odd, DETAIL]
    first, second = client.list_networks(())
    assert second == OURS_SEEN
    assert first == engine.EngineNetwork(
        id=names.NetworkId("c" * 64),
        name="odd",
        ours=False,
        ipam_ours=True,
        pools=(engine.EnginePool(cidr=ipaddress.IPv4Network("10.2.21.0/24")),),
        trouble="ValueError: 'nowhere' does not appear to be an IPv4 or IPv6 interface",
    )


def test_an_engine_that_is_down_is_reached_when_it_is_back(
    dockerd: Dockerd, client: engine_docker.DockerEngine
) -> None:
    dockerd.networks = [BRIDGE]
    dockerd.stop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK leaves a socket that was refused to the collector
        with pytest.raises(errors.EngineError, match=r"Engine API at unix://.*docker\.sock"):
            client.list_networks(())
        gc.collect()
    dockerd.start()
    assert client.list_networks(()) == [OTHER_SEEN]
    dockerd.stop()
    dockerd.start()  # systemctl restart docker: the old connection is dead
    with contextlib.suppress(errors.EngineError):
        client.list_networks(())
    assert client.list_networks(()) == [OTHER_SEEN]


def test_a_network_is_created_with_our_ipam(dockerd: Dockerd, client: engine_docker.DockerEngine) -> None:
    client.create_network("net-1")
    (body,) = dockerd.created
    assert (body["Name"], body["Driver"], body["IPAM"]["Driver"], body["CheckDuplicate"]) == (
        "net-1",
        "flannelpy",
        "flannelpy",
        True,
    )


def test_a_network_of_that_name_is_left_alone(dockerd: Dockerd, client: engine_docker.DockerEngine) -> None:
    dockerd.networks = [{**DETAIL, "Name": "net.1"}]
    client.create_network("net.1")
    assert dockerd.created == []


def test_a_network_of_another_driver_is_not_the_one_that_is_wanted(
    dockerd: Dockerd, client: engine_docker.DockerEngine
) -> None:
    dockerd.networks = [{**BRIDGE, "Name": "net-1"}]
    with pytest.raises(errors.EngineError) as caught:
        client.create_network("net-1")
    assert str(caught.value) == (
        "a network net-1 of driver bridge is there; choose another name, or take it away with: docker network rm "
        "net-1"
    )
    assert dockerd.created == []
    dockerd.networks = [{**BRIDGE, "Name": "net-1"}, {**DETAIL, "Name": "net-1"}]
    client.create_network("net-1")


def test_a_name_that_only_looks_alike_is_another_network(
    dockerd: Dockerd, client: engine_docker.DockerEngine
) -> None:
    dockerd.networks = [{**DETAIL, "Name": "net-1"}, {**DETAIL, "Name": "my-net.1"}]
    client.create_network("net.1")
    assert [body["Name"] for body in dockerd.created] == ["net.1"]


def test_a_refused_creation_is_quoted(dockerd: Dockerd, client: engine_docker.DockerEngine) -> None:
    dockerd.failure = (403, "no flannel lease yet")
    with pytest.raises(errors.EngineError, match="no flannel lease yet"):
        client.create_network("net-1")
