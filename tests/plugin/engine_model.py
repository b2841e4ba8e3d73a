"""dockerd as its plugin sees it, without dockerd: what it calls, what it repeats, what it does after a failure.

Speaks to a plugin's socket, and tells it about networks and containers on a docker.sock of its own.
Source: moby pkg/plugins/client.go (callWithRetry), daemon/libnetwork; the table of what follows which failure was
made with real daemons.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.server
import ipaddress
import json
import pathlib
import secrets
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

DRIVER = "flannelpy"
GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}
HTTP = {"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8081, "HostPortEnd": 8081}
PORTS = {"com.docker.network.portmap": [HTTP]}
NONE = {"Id": "0" * 64, "Name": "none", "Driver": "null", "IPAM": {"Driver": "default", "Config": []}}
"""The network that every engine has."""

RETRY_S = 0.1
GIVE_UP_S = 30.0
BROKEN = (OSError, http.client.HTTPException)


class Refused(Exception):
    """The call failed, for good: the plugin said no, or the repeats were used up."""


@dataclasses.dataclass(kw_only=True)
class Container:
    """A container on one network. `netns` is a process in the namespace that is the sandbox."""

    id: str
    address: str
    address_v6: str = ""
    netns: subprocess.Popen[bytes]
    interface: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
    """One range of a network, with the address that its bridge has."""

    id: str
    net: str
    gateway: str

    def data(self) -> dict[str, str]:
        """As CreateNetwork tells it."""
        return {"AddressSpace": DRIVER, "Gateway": self.gateway, "Pool": self.net}


@dataclasses.dataclass(kw_only=True)
class Network:
    """What the engine keeps of a network. `pools`: one, or one of each family."""

    id: str
    pools: tuple[Pool, ...]
    internal: bool
    options: Mapping[str, str]
    containers: dict[str, Container] = dataclasses.field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """As `GET /networks/ID` shows it."""
        configs = [{"Subnet": pool.net, "Gateway": _ip(pool.gateway)} for pool in self.pools]
        containers = {
            one.id: {
                "Name": one.id[:8],
                "EndpointID": one.id,
                "MacAddress": "",
                "IPv4Address": one.address,
                "IPv6Address": one.address_v6,
            }
            for one in list(self.containers.values())
        }
        return {
            "Id": self.id,
            "Name": self.id[:8],
            "Driver": DRIVER,
            "Internal": self.internal,
            "EnableIPv6": len(self.pools) > 1,
            "ConfigOnly": False,
            "IPAM": {"Driver": DRIVER, "Options": {}, "Config": configs},
            "Options": dict(self.options),
            "Containers": containers,
        }


class Engine:
    """One dockerd. `modern`: since 27 a failed Join is followed by a Leave."""

    def __init__(self, run_dir: pathlib.Path, host: subprocess.Popen[bytes]) -> None:
        """`host` is a process in the host's network namespace."""
        self._plugin = run_dir / "docker/plugins/flannelpy.sock"
        self._host = host
        self.modern = True
        self.networks: dict[str, Network] = {}
        self.before: Callable[[str], None] = lambda _method: None
        self.refusals: list[str] = []
        self._api = _serve(run_dir / "docker.sock", self)

    def close(self) -> None:
        self._api.shutdown()
        self._api.server_close()
        for net in self.networks.values():
            for one in net.containers.values():
                end(one.netns)

    # -- what a user does ---------------------------------------------------------------------------------------

    def network_create(
        self, pool: str, options: Mapping[str, str], *, pool_v6: str = "", internal: bool = False
    ) -> Network:
        """`docker network create --subnet`, with `pool_v6` of both families. Raises Refused, having undone all."""
        generic: dict[str, Any] = {
            "com.docker.network.generic": dict(options),
            "com.docker.network.enable_ipv6": bool(pool_v6),
            **({"com.docker.network.internal": True} if internal else {}),
        }
        pools: list[Pool] = []
        try:
            pools += [self._request_pool(one) for one in (pool, pool_v6) if one]
            net = Network(id=secrets.token_hex(32), pools=tuple(pools), internal=internal, options=options)
            data = [one.data() for one in pools]
            body = {"NetworkID": net.id, "Options": generic, "IPv4Data": data[:1], "IPv6Data": data[1:]}
            self.call("NetworkDriver.CreateNetwork", body)
        except Refused:
            for one in pools:
                self._release_pool(one)
            raise
        self.networks[net.id] = net
        return net

    def network_rm(self, net: Network) -> None:
        """`docker network rm`."""
        for pool in net.pools:
            self._release_pool(pool)
        self.warned("NetworkDriver.DeleteNetwork", {"NetworkID": net.id})
        del self.networks[net.id]

    def run(self, net: Network, options: Mapping[str, Any] = PORTS) -> Container:
        """`docker run`. Raises Refused, after having undone what was done."""
        addresses = self._request_addresses(net)
        address_v6 = addresses[1] if addresses[1:] else ""
        one = Container(id=secrets.token_hex(32), address=addresses[0], address_v6=address_v6, netns=namespace())
        ids = {"NetworkID": net.id, "EndpointID": one.id}
        try:
            interface = {"Address": one.address, "AddressIPv6": one.address_v6, "MacAddress": ""}
            self.call("NetworkDriver.CreateEndpoint", {**ids, "Interface": interface, "Options": options})
        except Refused:
            self._release_addresses(net, addresses)  # and no DeleteEndpoint
            end(one.netns)
            raise
        net.containers[one.id] = one
        leaves = 1 if self.modern else 0
        try:
            joined = self.call("NetworkDriver.Join", {**ids, "SandboxKey": "/x", "Options": options})
            leaves = 2 if self.modern else 1
            self._enter(one, joined["InterfaceName"]["SrcName"])
            self.call("NetworkDriver.ProgramExternalConnectivity", {**ids, "Options": options})
            self.call("NetworkDriver.EndpointOperInfo", ids)
        except Refused:
            for _ in range(leaves):
                self.warned("NetworkDriver.Leave", ids)
            self._forget(net, one)
            raise
        return one

    def rm(self, net: Network, one: Container) -> None:
        """`docker rm -f`."""
        ids = {"NetworkID": net.id, "EndpointID": one.id}
        self.warned("NetworkDriver.RevokeExternalConnectivity", ids)
        self.warned("NetworkDriver.Leave", ids)
        self._forget(net, one)

    # -- the wire -----------------------------------------------------------------------------------------------

    def call(self, method: str, body: Mapping[str, Any]) -> Any:
        """One call with the engine's repeats. Raises Refused."""
        self.before(method)
        status, text = self._repeat(method, json.dumps(body) + "\n")
        if status != 200:
            self.refusals.append(f"{method}: {status} {text.strip()}")
            raise Refused(self.refusals[-1])
        return json.loads(text)

    def warned(self, method: str, body: Mapping[str, Any]) -> None:
        """A call whose failure the engine only logs."""
        with contextlib.suppress(Refused):
            self.call(method, body)

    def _repeat(self, method: str, body: str) -> tuple[int, str]:
        give_up = time.monotonic() + GIVE_UP_S
        while True:
            with contextlib.closing(_UnixConnection(self._plugin)) as connection:
                try:
                    connection.connect()
                    connection.request("POST", f"/{method}", body)
                    body = ""  # the buffer is drained: a repeat has nothing in it (moby#35459)
                    response = connection.getresponse()
                    return response.status, response.read().decode()
                except BROKEN as exc:
                    if time.monotonic() > give_up:
                        raise Refused(f"{method}: {exc}") from exc
            time.sleep(RETRY_S)

    # -- inside -------------------------------------------------------------------------------------------------

    def _request_pool(self, net: str) -> Pool:
        """A pool and its gateway. Raises Refused, after having undone what was done."""
        wanted = {"AddressSpace": DRIVER, "Pool": net, "SubPool": "", "Options": {}, "V6": ":" in net}
        pool_id = self.call("IpamDriver.RequestPool", wanted)["PoolID"]
        try:
            asked = {"PoolID": pool_id, "Address": "", "Options": GATEWAY}
            return Pool(id=pool_id, net=net, gateway=self.call("IpamDriver.RequestAddress", asked)["Address"])
        except Refused:
            self.warned("IpamDriver.ReleasePool", {"PoolID": pool_id})
            raise

    def _release_pool(self, pool: Pool) -> None:
        self._release(pool.id, pool.gateway)
        self.warned("IpamDriver.ReleasePool", {"PoolID": pool.id})

    def _request_addresses(self, net: Network) -> list[str]:
        """A container's, one of each pool. Raises Refused, after having undone what was done."""
        used = {one for each in net.containers.values() for one in (each.address, each.address_v6)}
        addresses: list[str] = []
        for pool in net.pools:
            try:
                asked = {"PoolID": pool.id, "Address": "", "Options": None}
                addresses.append(self.call("IpamDriver.RequestAddress", asked)["Address"])
            except Refused:
                self._release_addresses(net, addresses)
                raise
            assert addresses[-1] not in used, f"{addresses[-1]} was granted twice"
        return addresses

    def _release_addresses(self, net: Network, addresses: Sequence[str]) -> None:
        for pool, address in zip(net.pools, addresses, strict=False):
            self._release(pool.id, address)

    def _release(self, pool_id: str, address: str) -> None:
        self.warned("IpamDriver.ReleaseAddress", {"PoolID": pool_id, "Address": _ip(address)})

    def _forget(self, net: Network, one: Container) -> None:
        """The interface comes back to the host between Leave and DeleteEndpoint, if it is still there."""
        if one.interface:
            back = ("down", "name", one.interface, "netns", str(self._host.pid))
            with contextlib.suppress(subprocess.CalledProcessError):
                inside(one.netns, "ip", "link", "set", "eth0", *back)
        self.warned("NetworkDriver.DeleteEndpoint", {"NetworkID": net.id, "EndpointID": one.id})
        del net.containers[one.id]
        self._release_addresses(net, [one.address, *filter(None, [one.address_v6])])
        end(one.netns)

    def _enter(self, one: Container, name: str) -> None:
        """Move the container's end into its namespace, as libnetwork does."""
        one.interface = name
        inside(self._host, "ip", "link", "set", name, "netns", str(one.netns.pid))
        inside(one.netns, "ip", "link", "set", name, "name", "eth0")
        for address in filter(None, (one.address, one.address_v6)):
            inside(one.netns, "ip", "addr", "add", address, "dev", "eth0")
        inside(one.netns, "ip", "link", "set", "eth0", "up")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: pathlib.Path) -> None:
        super().__init__("", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


def get(path: pathlib.Path, url: str) -> str:
    """GET, whatever the status. Raises one of BROKEN."""
    with contextlib.closing(_UnixConnection(path)) as connection:
        connection.request("GET", url)
        return connection.getresponse().read().decode()


def namespace() -> subprocess.Popen[bytes]:
    """A process in a network namespace of its own, which lives as long as the process."""
    process = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def inside(process: subprocess.Popen[bytes], *words: str) -> str:
    """Run a program in a process's network namespace. Raises CalledProcessError."""
    netns = f"--net=/proc/{process.pid}/ns/net"
    done = subprocess.run(["nsenter", netns, *words], check=True, timeout=20, capture_output=True, text=True)
    return done.stdout


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours."""
    process.kill()
    process.wait(5)


def _ip(address: str) -> str:
    return str(ipaddress.ip_interface(address).ip)


def _serve(path: pathlib.Path, engine: Engine) -> socketserver.ThreadingUnixStreamServer:
    """The Engine API, as much of it as the plugin asks for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            status, answer = _answer([part for part in path.split("/") if part and not part.startswith("v1.")])
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_words: object) -> None:
            pass

    def _answer(parts: list[str]) -> tuple[int, object]:
        if parts == ["version"]:
            return 200, {"ApiVersion": "1.41", "Version": "20.10.24"}
        if parts == ["info"]:
            return 200, {"ID": "MODEL"}
        shown = [net.shown() for net in list(engine.networks.values())]
        if parts == ["networks"]:
            return 200, [NONE, *({**one, "Containers": {}} for one in shown)]
        for one in shown:
            if one["Id"] == parts[-1]:
                return 200, one
        return 404, {"message": "no such network"}

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    server = Server(str(path), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server
