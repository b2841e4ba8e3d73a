"""METRICS_ADDRESS is there for whoever reaches the port: silent and slow ones cost little, and that for seconds."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from overlay import supervisor
from plugin import metrics, metrics_server
from tests.overlay import node_host

until = node_host.until
DEADLINE_S = 1.0

Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Serves, and gives the port."""
    with contextlib.ExitStack() as stack:

        def serve(render: Callable[[], bytes] = lambda: b"text\n", deadline_s: float = DEADLINE_S) -> int:
            watched = supervisor.Supervisor(supervisor.Timing(first_s=0.01))
            server = metrics_server.MetricsServer(
                "127.0.0.1", 0, render, "text/plain", watched, deadline_s=deadline_s
            )
            stack.callback(server.close)
            return int(server.server_address[1])

        yield serve


def fetch(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return bytes(response.read())


def descriptors() -> int:
    return len(list(pathlib.Path("/proc/self/fd").iterdir()))


@contextlib.contextmanager
def connected(port: int, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(count)]


def test_silent_connections_cost_a_bounded_number_of_threads_and_descriptors_and_keep_no_scrape_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = metrics.Metrics(lambda: [("flannelpy_peers", "Peers known.", {}, 3.0)])
    told.serve("127.0.0.1", port, supervisor.Supervisor())
    threads, open_before = threading.active_count(), descriptors()
    most, ends = metrics_server.CONNECTIONS + 1, 100
    try:
        with connected(port, ends):
            assert b"flannelpy_peers 3.0" in fetch(port)
            until(lambda: threading.active_count() <= threads + most, "threads are few")
            until(lambda: descriptors() <= open_before + ends + most, "descriptors are few")
            assert b"flannelpy_peers 3.0" in fetch(port)
    finally:
        told.close()


def test_silent_and_slow_connections_end_at_the_deadline(start: Start) -> None:
    port = start()
    threads = threading.active_count()
    began = time.monotonic()
    with connected(port, 2) as (silent, slow):
        until(lambda: threading.active_count() == threads + 2, "both are served")
        with contextlib.suppress(OSError):  # each byte comes before any timeout of a single read
            for byte in b"GET / HTTP/1.1\r\n" * 100:
                slow.sendall(bytes([byte]))
                if time.monotonic() - began > 10 or slow in _readable(slow, within_s=0.05):
                    break
        assert DEADLINE_S / 2 < time.monotonic() - began < 4 * DEADLINE_S
        assert silent.recv(1) == b""
    until(lambda: threading.active_count() == threads, "their threads have ended")


def _readable(sock: socket.socket, *, within_s: float) -> list[socket.socket]:
    """Itself once it was closed from the other side."""
    sock.settimeout(within_s)
    try:
        return [sock] if sock.recv(1) == b"" else []
    except TimeoutError:
        return []
    finally:
        sock.settimeout(10)


def test_who_does_not_read_the_answer_is_ended(start: Start) -> None:
    port = start(lambda: b"x" * (64 << 20))
    threads = threading.active_count()
    with connected(port, 1) as (deaf,):
        deaf.sendall(b"GET / HTTP/1.1\r\n\r\n")
        until(lambda: threading.active_count() > threads, "it is served")
        until(lambda: threading.active_count() == threads, "its thread has ended", 4 * DEADLINE_S)


def test_a_request_without_end_is_cut(start: Start) -> None:
    port = start(deadline_s=60.0)
    with connected(port, 1) as (long,):
        long.sendall(b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * metrics_server.HEAD_LIMIT)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := long.recv(65536):
                answer += part
    assert len(answer) < 2000


def test_many_scrapes_render_once_a_second(start: Start) -> None:
    rendered: list[float] = []

    def render() -> bytes:
        rendered.append(time.monotonic())
        return b"%d\n" % len(rendered)

    port = start(render)
    began = time.monotonic()
    for _ in range(50):
        fetch(port)
    took_s = time.monotonic() - began
    assert len(rendered) <= 1 + took_s / metrics_server.RENDER_S
    until(lambda: fetch(port) != b"1\n", "a later scrape has later values")


@pytest.mark.parametrize("request_line", [b"\x00\xff\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"\r\n\r\n", b""])
def test_what_is_no_scrape_is_refused_and_logged_nowhere(
    start: Start, request_line: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    port = start()
    with connected(port, 1) as (odd,):
        odd.sendall(request_line)
        odd.shutdown(socket.SHUT_WR)
        answer = odd.recv(65536)
    assert b" 200 " not in answer
    assert fetch(port) == b"text\n"
    assert capfd.readouterr() == ("", "")


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_out_of_descriptors_it_waits_quietly_and_goes_on(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    port = start()
    with socket.socket() as client:
        client.settimeout(0.5)
        with no_descriptor_left():
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            began = time.process_time()
            with pytest.raises(TimeoutError):
                client.recv(1)
            assert time.process_time() - began < 0.25
        client.settimeout(10)
        assert client.recv(15) == b"HTTP/1.0 200 OK"
    assert [record.getMessage() for record in caplog.records] == [
        "metrics: no connection can be taken, trying on: Too many open files"
    ]


def test_a_thread_that_fails_serves_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [RuntimeError("injected")]

    def fail_once(self: metrics_server.MetricsServer) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(metrics_server.MetricsServer, "service_actions", fail_once)
    port = start()
    until(lambda: not failures)
    assert fetch(port) == b"text\n"
