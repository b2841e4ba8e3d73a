"""Network namespaces for contract tests.

A namespace is held by a file descriptor alone: it has no name, and is gone with the test however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import socket
import subprocess
from collections.abc import Iterator

import pytest

OWN_NETNS = "/proc/thread-self/ns/net"
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Netns:
    """A network namespace of its own."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as back:
            self._return_on(back)
            _checked(_libc.unshare(CLONE_NEWNET))
            self.fd = os.open(OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        self.run("ip link set lo up")

    @staticmethod
    def _return_on(stack: contextlib.ExitStack) -> None:
        home = os.open(OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, home)
        stack.callback(lambda: _checked(_libc.setns(home, CLONE_NEWNET)))

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it starts, is in the namespace."""
        with contextlib.ExitStack() as back:
            self._return_on(back)
            _checked(_libc.setns(self.fd, CLONE_NEWNET))
            yield

    def close(self) -> None:
        os.close(self.fd)

    def run(self, *lines: str, text: str | None = None) -> str:
        out = ""
        for line in lines:
            with self.inside():
                done = subprocess.run(
                    line.split(), input=text, capture_output=True, text=True, timeout=20, check=False
                )
            assert done.returncode == 0, f"{line}: {done.stderr}"
            out += done.stdout
        return out

    def sysctl(self, key: str, value: str) -> None:
        with self.inside():
            pathlib.Path("/proc/sys/net", key).write_text(value)

    def bind(self, address: str, port: int = 0) -> socket.socket:
        with self.inside():
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((address, port))
        return sock


@pytest.fixture(scope="session")
def make_netns() -> type[Netns]:
    """The class itself: test modules cannot import it from here."""
    return Netns


@pytest.fixture
def netns() -> Iterator[Netns]:
    """An empty network namespace with `lo` up."""
    space = Netns()
    yield space
    space.close()
