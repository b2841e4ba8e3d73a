"""flannelpy on a lab's hosts: installed, asked, and seen from outside.

Used by the system tests and by `bench`. Everything goes through the words a user would type: `docker …`, and HTTP on
the plugin's own socket.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from lab import errors, host, lab

CONFIG: Final = '{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan"}}'
PREFIX: Final = "/coreos.com/network"
PLUGIN: Final = "flannelpy:1"
SOCKET: Final = "run/docker/plugins/flannelpy.sock"


def put_config(built: lab.Lab, text: str = CONFIG, prefix: str = PREFIX) -> None:
    """Put flannel's network config into etcd."""
    built.etcdctl("put", f"{prefix}/config", text)


def install(on: host.Host, image: str, *, alias: str = PLUGIN, **settings: str) -> None:
    """The README's command."""
    words = [f"{name}={value}" for name, value in settings.items()]
    options = ("--alias", alias, "--grant-all-permissions", image)
    on.docker("plugin", "install", *options, *words, timeout_s=120)


def create_network(on: host.Host, name: str, *options: str) -> None:
    """The README's command."""
    drivers = ("-d", "flannelpy", "--ipam-driver", "flannelpy")
    on.docker("network", "create", *drivers, *options, name, timeout_s=60)


def remove(on: host.Host, *, alias: str = PLUGIN) -> None:
    """Take containers, networks and the plugin off a host, whatever state they are in."""
    for name in on.docker("ps", "-aq").split():
        on.try_docker("rm", "-f", name, timeout_s=90)
    for name in on.docker("network", "ls", "-q", "--filter", "type=custom").split():
        on.try_docker("network", "rm", name, timeout_s=90)
    on.try_docker("plugin", "disable", "-f", alias, timeout_s=90)
    on.try_docker("plugin", "rm", "-f", alias, timeout_s=90)


def subnet_of(on: host.Host, network: str) -> str:
    """A network's subnet as Docker tells it."""
    return on.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", network)


def ip_of(on: host.Host, container: str, network: str = "mynet") -> str:
    """A container's address in a network."""
    return _address_of(on, container, network, "IPAddress")


def ip6_of(on: host.Host, container: str, network: str = "mynet") -> str:
    """A container's IPv6 address in a network; "" where it has none."""
    return _address_of(on, container, network, "GlobalIPv6Address")


def inside(on: host.Host, container: str, words: str, timeout_s: float = 60) -> str:
    """Run a shell line in a container. Raises CommandFailed."""
    return on.docker("exec", container, "sh", "-c", words, timeout_s=timeout_s)


def serve_who(on: host.Host, container: str, listen: str = "0.0.0.0:80") -> None:
    """Start a web server in a container that answers /cgi-bin/who with the address of who asks."""
    page = r"printf '#!/bin/sh\necho\necho $REMOTE_ADDR\n'"
    inside(on, container, f"mkdir -p /www/cgi-bin; {page} > /www/cgi-bin/who; chmod +x /www/cgi-bin/who")
    inside(on, container, f"httpd -h /www -p '{listen}'")


def ask(on: host.Host, path: str) -> tuple[int, str]:
    """GET from the plugin's classic socket. Raises OSError where nobody listens."""
    return request(on, "GET", path, None)


def status(on: host.Host) -> Any:  # Any: JSON
    """/status."""
    return json.loads(ask(on, "/status")[1])


def audit(on: host.Host) -> Any:  # Any: JSON
    """What the plugin finds where it looks anew at Docker, etcd, its file and the kernel."""
    return json.loads(ask(on, "/audit")[1])


def call(on: host.Host, method: str, body: str) -> tuple[int, Any]:  # Any: JSON
    """POST to the plugin as the engine does: no content type."""
    code, text = request(on, "POST", f"/{method}", body.encode())
    return code, json.loads(text)


def wait_for(what: str, check: Callable[[], object], timeout_s: float = 30) -> None:
    """Poll until `check` gives something true. Raises Timeout."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            raise errors.Timeout(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.1)


def wait_ready(on: host.Host, timeout_s: float = 30) -> None:
    """Wait until /readyz is 200. Raises Timeout with what is missing."""
    last = "nobody listens"

    def ready() -> bool:
        nonlocal last
        try:
            code, last = ask(on, "/readyz")
        except OSError as exc:
            last = str(exc)
            return False
        return code == 200

    try:
        wait_for(f"{on.name} ready", ready, timeout_s)
    except errors.Timeout as exc:
        raise errors.Timeout(f"{exc}: {last.strip()}") from None


def kernel_of(on: host.Host) -> dict[str, list[str]]:
    """Everything flannelpy could leave behind on a host, without counters and indexes."""
    links = [re.sub(r"@\S+", "", line.split(": ")[1]) for line in on.exec(["ip", "-o", "link"]).splitlines()]
    addresses = [" ".join(line.split()[1:4]) for line in on.exec(["ip", "-o", "addr"]).splitlines()]
    rules = re.sub(r"counter packets \d+ bytes \d+", "counter", on.exec(["nft", "list", "ruleset"]))
    return {
        "links": sorted(links),
        "addresses": sorted(addresses),
        "routes": sorted(line.strip() for line in on.exec(["ip", "route"]).splitlines()),
        "routes_v6": sorted(
            line.strip()
            for line in on.exec(["ip", "-6", "route"]).splitlines()
            if not line.startswith("fe80::")  # the kernel's own, some time after the link
        ),
        "rules": rules.splitlines(),
    }


def wait_kernel(on: host.Host, before: dict[str, list[str]], timeout_s: float = 15) -> None:
    """Wait until a host is as it was. Raises Timeout with what is left or missing."""
    now: dict[str, list[str]] = {}

    def is_as_before() -> bool:
        now.update(kernel_of(on))
        return now == before

    try:
        wait_for(f"{on.name} as before", is_as_before, timeout_s)
    except errors.Timeout as exc:
        changed = [
            f"{kind}: {sorted(set(now[kind]) ^ set(before[kind]))}" for kind in now if now[kind] != before[kind]
        ]
        raise errors.Timeout(f"{exc}: {'; '.join(changed)}") from None


def request(on: host.Host, verb: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    """One request to the plugin's classic socket. Raises OSError where nobody listens."""
    connection = _UnixConnection(str(on.root / SOCKET))
    try:
        connection.request(verb, path, body=body)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def _address_of(on: host.Host, container: str, network: str, field: str) -> str:
    """As JSON: for an address that is not there a template of newer engines' prints "invalid IP"."""
    networks = json.loads(on.docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", container))
    return str(networks[network][field])


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, whose path may be longer than the 107 bytes a socket address holds."""

    def __init__(self, path: str) -> None:
        super().__init__("plugin", timeout=40)
        self._directory, _, self._name = path.rpartition("/")

    def connect(self) -> None:
        """Called by http.client."""
        self.sock: Any = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)  # Any: the base declares it untyped
        self.sock.settimeout(self.timeout)
        descriptor = os.open(self._directory, os.O_PATH)
        try:
            self.sock.connect(f"/proc/self/fd/{descriptor}/{self._name}")
        finally:
            os.close(descriptor)
