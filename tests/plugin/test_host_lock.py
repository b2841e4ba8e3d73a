"""Which plugin has the host: the lock itself. Two real plugins: test_second_plugin.py."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest

from plugin import host_lock, plugin_id, server

ID = "3f2a" * 16
Make = Callable[..., host_lock.HostLock]


@pytest.fixture
def host() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory() as directory:  # a socket's path has at most 107 characters
        yield pathlib.Path(directory)


@pytest.fixture
def make(host: pathlib.Path) -> Iterator[Make]:
    """A plugin's lock, by the name of its state directory."""
    with contextlib.ExitStack() as stack:

        def create(state: str = "one", gives_way_s: float = 0.0) -> host_lock.HostLock:
            lock = host_lock.HostLock(host, host / "classic.sock", host / state, gives_way_s=gives_way_s)
            stack.callback(lock.release)
            return lock

        yield create


@contextlib.contextmanager
def listening(path: pathlib.Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        sock.listen(1)
        yield


def test_the_second_is_told_who_has_the_host_and_gets_it_when_that_ends(make: Make) -> None:
    one, other = make("one"), make("other")
    assert one.take() == ""
    told = other.take()
    assert re.fullmatch(
        rf"another flannelpy serves this host: pid {os.getpid()}, version [\d.]+, since 2\d{{3}}-\S+Z; "
        rf"one flannelpy per host: this one touches nothing, and takes over once that one has ended",
        told,
    ), told
    assert other.take() == told
    one.release()
    assert other.take() == ""
    assert one.take() != ""


def test_taking_it_twice_is_harmless(make: Make) -> None:
    one = make()
    assert one.take() == one.take() == ""


def test_a_file_left_behind_is_in_nobodys_way(make: Make, host: pathlib.Path) -> None:
    (host / host_lock.LOCK_NAME).write_text('{"pid": "1"}')
    assert make().take() == ""


def test_where_the_file_was_deleted_the_socket_that_answers_shows_the_first(make: Make, host: pathlib.Path) -> None:
    one, other = make("one"), make("other")
    assert one.take() == ""
    with listening(host / "classic.sock"):
        (host / host_lock.LOCK_NAME).unlink()
        assert other.take().startswith(f"another plugin answers at {host / 'classic.sock'}, and has no lock at ")
    assert other.take() == ""


def test_the_first_that_crashes_gets_it_back_and_a_boot_changes_nothing(make: Make) -> None:
    one, other = make("one", gives_way_s=60), make("other", gives_way_s=60)
    assert one.take() == ""
    assert "another flannelpy" in other.take()
    one.release()  # killed; Docker starts it again
    assert other.take() == host_lock.FREE
    assert make("one").take() == ""
    assert "another flannelpy" in other.take()


def test_after_a_boot_the_one_that_gave_way_still_does(make: Make) -> None:
    one, other = make("one"), make("other")
    assert one.take() == ""
    assert other.take() != ""
    one.release()
    assert make("other", gives_way_s=60).take() == host_lock.FREE
    assert make("one", gives_way_s=60).take() == ""


def test_the_one_that_took_over_gives_way_no_more(make: Make) -> None:
    one, other = make("one"), make("other")
    assert one.take() == ""
    assert other.take() != ""
    one.release()
    assert other.take() == ""
    other.release()
    assert make("other", gives_way_s=60).take() == ""


def test_the_worker_has_it_as_long_as_it_lives(make: Make, host: pathlib.Path) -> None:
    """A master that is killed leaves its worker behind for a second."""
    script = """
import os, pathlib, sys
from plugin import host_lock
host = pathlib.Path(sys.argv[1])
assert host_lock.HostLock(host, host / "classic.sock", host / "one").take() == ""
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
sys.stdin.read()
"""
    root = pathlib.Path(server.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", script, str(host)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    ) as master:
        assert master.stdout is not None
        assert master.stdin is not None
        assert int(master.stdout.readline()) != master.pid
        assert master.wait(10) == 0
        other = make("other", gives_way_s=60)
        assert other.take() == host_lock.ENDING
        master.stdin.close()
        assert master.stdout.read() == ""  # the worker has ended
        assert other.take() == ""  # at once: there was no other plugin to give way to


def test_programs_that_the_plugin_runs_do_not_keep_it(make: Make) -> None:
    one = make("one")
    assert one.take() == ""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as tool:
        one.release()
        assert make("other").take() == ""
        tool.terminate()


def test_where_there_can_be_no_lock_containers_start_all_the_same(
    host: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (host / "file").write_text("")
    lock = host_lock.HostLock(host / "file", host / "classic.sock", host / "one")
    assert lock.take() == lock.take() == ""
    (record,) = caplog.records
    assert record.getMessage().startswith("no lock, so a second flannelpy on this host would not notice this one: ")


def test_a_link_in_its_place_is_not_followed(make: Make, host: pathlib.Path) -> None:
    (host / "precious").write_text("precious")
    (host / host_lock.LOCK_NAME).symlink_to(host / "precious")
    assert make().take() == ""
    assert (host / "precious").read_text() == "precious"


@pytest.mark.parametrize("told", [b"", b"\xff{", b"[1]", b'{"version": {}}' * 2, b"null"])
def test_what_cannot_be_read_is_another_flannelpy_all_the_same(told: bytes) -> None:
    assert host_lock.explain(host_lock.parse_holder(told)).startswith(
        "another flannelpy serves this host: it does not say which; "
    )


def test_a_managed_plugin_is_named_as_docker_names_it() -> None:
    assert "plugin 3f2a3f2a3f2a (docker plugin ls), pid 7" in host_lock.explain({"plugin": ID, "pid": "7"})


def test_mounts_with_any_name_keep_nobody_from_the_host(
    make: Make, host: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host / "mountinfo").write_bytes(b"36 35 98:0 / /mnt/\xff\xfe rw - ext4 /dev/sda rw\n")
    monkeypatch.setattr(plugin_id, "MOUNTINFO", host / "mountinfo")
    assert make().take() == ""
    assert json.loads((host / host_lock.LOCK_NAME).read_text())["plugin"] == ""


def test_a_file_system_that_knows_no_locks_is_no_other_plugin(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_file: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = make()
    assert lock.take() == lock.take() == ""
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_whether_somebody_listens(host: pathlib.Path) -> None:
    path = host / "x.sock"
    assert not host_lock.is_live(path)
    path.write_text("")
    assert not host_lock.is_live(path)
    path.unlink()
    with listening(path), contextlib.ExitStack() as stack:
        assert host_lock.is_live(path)
        for _ in range(2):  # its queue is full
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
        assert host_lock.is_live(path)
    assert path.exists()
    assert not host_lock.is_live(path)


def test_a_live_socket_is_never_cleared_away(host: pathlib.Path) -> None:
    path = host / "x.sock"
    with listening(path):
        before = path.stat().st_ino
        with pytest.raises(OSError, match="another process listens at"):
            server.prepare_socket(path)
        assert path.stat().st_ino == before
    server.prepare_socket(path)
    assert not path.exists()
