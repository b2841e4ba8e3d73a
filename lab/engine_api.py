"""The Engine API of a host over its socket, for who asks often: a tenth of what a docker command costs.

One connection for each call, so that any thread may ask at any time, and a dockerd that was killed is simply asked
again. An answer with any status is an answer. Called by `random_hand` and `random_look`.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import socket
from typing import Any, Final

from lab import errors, host

_TIMEOUT_S: Final = 150.0
"""Removing a container while the plugin is away takes dockerd a minute: 15 s of repeats for each call."""


class Unreachable(errors.LabError):
    """No answer: dockerd is not there, or went away meanwhile."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What dockerd said. message: of an error, else empty."""

    status: int
    body: Any  # JSON
    message: str

    @property
    def ok(self) -> bool:
        """Whether it did what was asked, or had done so before."""
        return self.status < 400


def ask(on: host.Host, verb: str, path: str, body: object = None, *, timeout_s: float = _TIMEOUT_S) -> Answer:
    """Ask once. Raises Unreachable."""
    connection = http.client.HTTPConnection("docker", timeout=timeout_s)
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(timeout_s)
        connection.sock.connect(str(on.docker_socket))
        text = json.dumps(body) if body is not None else None
        connection.request(verb, path, body=text, headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        return _answer(response.status, response.read().decode(errors="replace"))
    except (OSError, http.client.HTTPException) as exc:
        raise Unreachable(f"{on.name}: {verb} {path}: {exc!r}") from exc
    finally:
        connection.close()


def get(on: host.Host, path: str) -> Any:  # Any: JSON
    """GET what must be there. Raises LabError, Unreachable."""
    answer = ask(on, "GET", path)
    if not answer.ok:
        raise errors.LabError(f"{on.name}: GET {path}: {answer.status} {answer.message}")
    return answer.body


def _answer(status: int, text: str) -> Answer:
    try:
        body = json.loads(text) if text.strip() else None
    except ValueError:
        body = None
    message = ""
    if status >= 400:
        message = str(body.get("message", text)) if isinstance(body, dict) else text
    return Answer(status=status, body=body, message=message.strip())
