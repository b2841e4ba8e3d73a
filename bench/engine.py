"""The Engine API of a lab's host, for starts without the price of the docker command."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

import lab

TIMEOUT_S = 60


class Engine:
    """One connection to a host's dockerd, kept open."""

    def __init__(self, on: lab.Host) -> None:
        self._connection = _UnixConnection(str(on.docker_socket))

    def create(self, network: str, *command: str) -> str:
        """Create a container of busybox and give its id."""
        body = {"Image": lab.BUSYBOX, "Cmd": list(command), "HostConfig": {"NetworkMode": network}}
        return str(self._ask("POST", "/containers/create", body)["Id"])

    def start(self, container: str) -> None:
        """Start it; returns when the engine says that it runs."""
        self._ask("POST", f"/containers/{container}/start", None)

    def remove(self, container: str) -> None:
        """End and remove it."""
        self._ask("DELETE", f"/containers/{container}?force=1", None)

    def _ask(self, verb: str, path: str, body: dict[str, Any] | None) -> Any:  # Any: JSON
        text = json.dumps(body) if body is not None else None
        self._connection.request(verb, path, body=text, headers={"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read().decode()
        if response.status >= 300:
            raise lab.LabError(f"{verb} {path}: {response.status} {answer.strip()}")
        return json.loads(answer) if answer else None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Called by http.client."""
        self.sock: Any = socket.socket(socket.AF_UNIX)  # Any: the base declares it untyped
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
