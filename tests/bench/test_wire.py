"""Whole HTTP messages out of a stream of bytes, and the recorder between two of them."""

from __future__ import annotations

import pathlib
import socket
import tempfile
import threading
from collections.abc import Iterator

import pytest

from bench import recorder, wire

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def test_a_message_is_not_whole_before_its_last_byte() -> None:
    whole = wire.post("NetworkDriver.Join", b'{"a": 1}')
    assert [wire.length(whole[:cut]) for cut in (0, 20)] == [None, None]
    assert wire.length(whole[:-1]) == wire.length(whole) == len(whole)


def test_messages_that_come_together_are_told_apart() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(wire.post("A.B", b"xy") + ANSWER)
        reader = wire.Reader(ours)
        first, second = reader.message(), reader.message()
    assert (first.target, first.body, second.status, second.body) == ("A.B", b"xy", 200, b"{}")


def test_a_message_cut_short_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(ANSWER[:-1])
        with pytest.raises(wire.Closed):
            wire.Reader(ours).message()


@pytest.fixture
def host_root() -> Iterator[pathlib.Path]:
    """A host's root with a plugin that answers one connection. Not tmp_path: a socket's path is short."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        root = pathlib.Path(directory)
        (root / recorder.CLASSIC).parent.mkdir(parents=True)
        listener.bind(str(root / recorder.CLASSIC))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                while peer.recv(1000):
                    peer.sendall(ANSWER)

        plugin = threading.Thread(target=serve, daemon=True)
        plugin.start()
        yield root
        plugin.join(timeout=5)


def test_the_recorder_hands_on_and_writes_down(host_root: pathlib.Path) -> None:
    with recorder.recording(host_root) as seen, socket.socket(socket.AF_UNIX) as engine:
        engine.connect(str(host_root / recorder.CLASSIC))
        answers = wire.Reader(engine)
        for method in ("IpamDriver.RequestAddress", "NetworkDriver.Join"):
            engine.sendall(wire.post(method, b"{}"))
            assert answers.message().raw == ANSWER
            assert [(call.method, call.status) for call in seen.taken()] == [(method, 200)]
        assert seen.taken() == []
    assert (host_root / recorder.CLASSIC).is_socket()
    assert not (host_root / recorder.ASIDE).exists()
