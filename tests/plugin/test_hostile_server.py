"""Hostile requests to the real process, over its socket: what gunicorn and the application make of them together."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from plugin import http as face
from plugin import server
from tests.plugin import hostile, sessions, test_hostile
from tests.plugin.test_server import UNDERLAY, Running, UnixConnection, start, until

__all__ = ["start"]  # the fixture

pytestmark = [pytest.mark.contract, pytest.mark.filterwarnings("ignore:Generating overly large repr")]

CALL = b"POST /NetworkDriver.Leave HTTP/1.1\r\nHost: \r\n"
CHUNKED = CALL + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b"Content-Length: 2\r\n\r\n{}"
MIB = 1 << 20
MOST = face.BODY_LIMIT

RAW = {
    "no HTTP at all": (b"\x00\xff\x16\x03\x01 hello\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /healthz\r\n", 400),
    "HTTP/1.0": (b"POST /NetworkDriver.GetCapabilities HTTP/1.0\r\n\r\n", 200),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/9.9": (b"GET /status HTTP/9.9\r\nHost: \r\n\r\n", 400),
    "blank lines": (b"\r\n\r\n", 400),
    "nothing": (b"", None),
    "a verb in lower case": (b"post /NetworkDriver.Leave HTTP/1.1\r\nHost: \r\n" + BODY, 400),
    "another verb": (b"BREW /status HTTP/1.1\r\nHost: \r\n\r\n", 405),
    "OPTIONS of all": (b"OPTIONS * HTTP/1.1\r\nHost: \r\n\r\n", 405),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nHost: \r\n\r\n", 405),
    "no slash": (b"POST NetworkDriver.Leave HTTP/1.1\r\nHost: \r\n" + BODY, 400),
    "bytes in the path": (b"POST /\xff\xfe HTTP/1.1\r\nHost: \r\n" + BODY, 400),
    "escaped bytes in the path": (b"POST /%ff%fe%00%0a HTTP/1.1\r\nHost: \r\n" + BODY, 404),
    "a path out of here": (b"POST /../../etc/passwd HTTP/1.1\r\nHost: \r\n" + BODY, 404),
    "an escaped path out of here": (b"GET /%2e%2e%2f%2e%2e%2fetc/passwd HTTP/1.1\r\nHost: \r\n\r\n", 404),
    "slashes": (b"POST ///%2fNetworkDriver.Leave HTTP/1.1\r\nHost: \r\n" + BODY, 400),
    "a long path": (b"POST /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n", 414),
    "a path without end": (b"POST /" + b"a" * MIB + b" HTTP/1.1\r\n\r\n", 414),
    "a header without a colon": (CALL + b"nothing here\r\n\r\n", 400),
    "a header with a zero": (CALL + b"X\x00: y\r\n\r\n", 400),
    "a folded header": (CALL + b"X-A: a\r\n b\r\n\r\n", 400),
    "a huge header": (CALL + b"X-A: " + b"x" * MIB + b"\r\n\r\n", 431),
    "many headers": (CALL + b"X-A: b\r\n" * 5000 + b"\r\n", 431),
    "a host that is none": (b"POST /NetworkDriver.Leave HTTP/1.1\r\nHost: a b/\\\xff\r\n" + BODY, 400),
    "two hosts": (b"POST /NetworkDriver.Leave HTTP/1.1\r\nHost: a\r\nHost: b\r\n" + BODY, 400),
    "a front end's path": (CALL + b"SCRIPT_NAME: /x\r\nPATH_INFO: /NetworkDriver.GetCapabilities\r\n" + BODY, 400),
    "a front end's other method": (CALL + b"PATH_INFO: /NetworkDriver.GetCapabilities\r\n" + BODY, 400),
    "a front end's scheme": (CALL + b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n" + BODY, 400),
    "a proxy's line": (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + CALL + BODY, 400),
    "an expectation": (CALL + b"Expect: the-world\r\n" + BODY, 400),
    "a length below zero": (CALL + b"Content-Length: -1\r\n\r\n", 400),
    "a length in letters": (CALL + b"Content-Length: abc\r\n\r\n", 400),
    "two lengths": (CALL + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "a huge length": (CALL + b"Content-Length: 99999999999999999999\r\n\r\n{}", 413),
    "a body shorter than it says": (CALL + b'Content-Length: 50\r\n\r\n{"NetworkID": "', 400),
    "no body at all": (CALL + b"Content-Length: 50\r\n\r\n", 400),
    "a body of 1 MiB and a byte": (CALL + b"Content-Length: %d\r\n\r\n" % (MIB + 1) + b" " * (MIB + 1), 400),
    "the largest body": (CALL + b"Content-Length: %d\r\n\r\n" % MOST + b" " * MOST, 400),
    "the largest body and a byte": (CALL + b"Content-Length: %d\r\n\r\n" % (MOST + 1) + b" " * (MOST + 1), 413),
    "a body of thrice that": (CALL + b"Content-Length: %d\r\n\r\n" % (3 * MOST) + b" " * 3 * MOST, 413),
    "chunks": (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", 400),
    "too many chunks": (CHUNKED + (b"100000\r\n" + b" " * MIB + b"\r\n") * (MOST // MIB + 1) + b"0\r\n\r\n", 413),
    "chunks of no size": (CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", 400),
    "chunks below zero": (CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n", 400),
    "chunks that end early": (CHUNKED + b"20\r\n{}", 400),
    "chunks without an end": (CHUNKED + b"2\r\n{}xx0\r\n\r\n", 400),
    "chunks and a length": (CALL + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "another encoding": (CALL + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    "a compressed body": (CALL + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", 400),
    "a form": (CALL + b"Content-Type: multipart/form-data; boundary=x\r\n" + BODY, 400),
}
"""What is sent, and the status of the answer; None: there is none."""


@pytest.fixture
def plugin(start: Callable[..., Running]) -> Iterator[Running]:
    """A plugin with its lease, whose log has no traceback in the end, and which works on."""
    running = start({}, UNDERLAY)
    until(running.ready, within_s=60)
    yield running
    assert running.call("NetworkDriver.Leave", sessions.IDS) == (200, {})
    assert "Traceback" not in running.log()
    assert " bug: " not in running.log()
    assert max(map(len, running.log().splitlines())) < 8000  # dockerd 20.10 stops reading at 64 KiB


def exchange(plugin: Running, data: bytes) -> bytes:
    """Send, say that it was all, and read to the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(str(plugin.socket))
        with contextlib.suppress(BrokenPipeError):  # answered already
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
        return answer


def test_what_is_hardly_http_is_answered_like_all_else(plugin: Running) -> None:
    found: dict[str, Any] = {}
    for name, (data, status) in RAW.items():
        answer = exchange(plugin, data)
        found[name] = int(answer.split(b" ", 2)[1]) if answer else None
        if status not in (None, 200):
            head, _, body = answer.partition(b"\r\n\r\n")
            told = json.loads(body)
            assert told.keys() == {"Err", "Error"}, name
            assert told["Err"] == told["Error"] != "", name
            assert f"Content-Type: {server.MIMETYPE}".encode() in head, name
    assert found == {name: status for name, (_, status) in RAW.items()}
    assert exchange(plugin, RAW["a body of thrice that"][0]).endswith(
        b'"POST /NetworkDriver.Leave: the body has more than %d bytes"}\n' % face.BODY_LIMIT
    )


def test_the_socket_is_roots_alone(plugin: Running) -> None:
    seen = plugin.socket.stat()
    assert (stat.filemode(seen.st_mode), seen.st_uid, seen.st_gid) == ("srw-rw----", 0, 0)


def test_requests_that_stop_short_hold_no_thread_for_long(plugin: Running) -> None:
    """More than there are threads; those that stop in the body, too, and those that say nothing."""
    cut = (b"", CALL[:20], CALL, CALL + b"Content-Length: 50\r\n\r\n{")
    with contextlib.ExitStack() as stack:
        for number in range(2 * server.THREADS):
            one = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            one.connect(str(plugin.socket))
            one.sendall(cut[number % len(cut)])
        began = time.monotonic()
        assert plugin.ask("GET", "/healthz", within_s=60) == (200, "ok\n")
        took_s = time.monotonic() - began
    print(f"answered after {took_s:.1f} s")
    assert took_s < 4 * server.PATIENCE_S


def test_hostile_requests_on_one_connection_and_ended_connections_leave_it_as_it_was(plugin: Running) -> None:
    """As in test_hostile.py, with fewer of them: what comes between the application and the socket."""
    statuses: list[int] = []

    @hypothesis.given(st.lists(hostile.requests(), min_size=20, max_size=20), st.booleans())
    @hypothesis.settings(
        max_examples=25, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    def send(requests: list[hostile.Request], hurried: bool) -> None:
        with contextlib.closing(UnixConnection(plugin.socket)) as connection:
            for request in requests:
                try:
                    connection.request(request.verb, request.path, request.data)
                    response: Any = connection.getresponse()
                except (BrokenPipeError, ConnectionResetError):  # answered and closed before all of a huge body came
                    connection.close()
                    continue
                response.data, response.status_code = response.read(), response.status
                response.mimetype = response.getheader("Content-Type")
                test_hostile.check_answer(request, response)
                statuses.append(response.status)
            if hurried and requests:  # gone before the answer
                with contextlib.suppress(http.client.HTTPException):
                    connection.request("POST", "/NetworkDriver.Leave", requests[0].data)

    send()
    assert len(statuses) >= 450
    known = json.loads(plugin.ask("GET", "/status")[1])
    for net in known["networks"]:
        assert plugin.call("NetworkDriver.DeleteNetwork", {"NetworkID": net["id"]}) == (200, {})
    for pool in known["addresses"]:
        assert plugin.call("IpamDriver.ReleasePool", {"PoolID": f"flannelpy/{pool['pool']}"}) == (200, {})
    after = json.loads(plugin.ask("GET", "/status")[1])
    assert (after["networks"], after["endpoints"], after["addresses"]) == ([], [], [])
