"""An engine for `docker build`, in the machine's own network, which it leaves alone.

It is needed because a build talks to the package indexes and the lab's hosts have no way there. It makes no
bridge, no firewall rule and does not switch forwarding on; containers must use `--network host`. Its data stays in
the cache, so a second build finds its layers. One at a time: the second caller waits for the first to finish.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Final

from lab import boot, command, host, machine, packages, roots

DEBIAN: Final = "debian:bookworm-slim"

_FLAGS: Final = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")


class BuildEngine(machine.Machine):
    """A dockerd for building."""

    def docker(
        self,
        *args: str,
        stdin: bytes | BinaryIO | None = None,
        timeout_s: float = 900,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run the docker command and give what it printed. Only paths under `shares` are seen by it.

        Raises: CommandFailed, Timeout.
        """
        return self.exec(["docker", *args], stdin=stdin, timeout_s=timeout_s, env=env)

    def has_image(self, name: str) -> bool:
        """Whether an image of that name is there."""
        return self.try_exec(["docker", "image", "inspect", name]).ok

    def import_base(self, name: str = DEBIAN, *, suite: str = "bookworm", include: Sequence[str] = ()) -> None:
        """Have a minimal Debian under the very name that a Dockerfile's FROM uses, since there is no registry.

        Harmless if an image of that name is there. The archive is kept in the cache.
        Raises: CommandFailed.
        """
        if self.has_image(name):
            return
        archive = roots.cache_dir() / "bases" / f"{'-'.join((suite, 'slim', *include))}.tar"
        archive.parent.mkdir(parents=True, exist_ok=True)
        if not archive.exists():
            beside = archive.with_suffix(f".tmp-{os.getpid()}")
            roots.debootstrap(suite, beside, include=include, slim=True, tar=True)
            beside.rename(archive)
        with archive.open("rb") as tar:
            self.docker("import", "--change", 'CMD ["bash"]', "-", name, stdin=tar)


@contextlib.contextmanager
def opened(*, engine: str = "28.5", shares: Sequence[pathlib.Path] = ()) -> Iterator[BuildEngine]:
    """Run a build engine for the length of a `with`.

    shares: directories and files of this machine that it sees under the same path: the build's context, a CA file.
    Raises: LabError, with the end of dockerd's log if that dies.
    """
    command.require_root("a build engine")
    packages.ensure()
    root = roots.ensure(roots.suite_of(engine))
    disk = roots.cache_dir() / "build" / engine
    with roots.locked(disk.with_name(f"{engine}.lock")):
        spec = boot.Boot(
            hostname="build",
            root=root,
            disk=disk,
            resolv_conf=pathlib.Path("/etc/resolv.conf").read_text(),
            shares=[(path.resolve(), str(path.resolve())) for path in shares],
            isolated=False,
        )
        # One for each disk, as the lock is: what stops, ends whatever runs in its cgroup.
        seat = hashlib.sha256(str(disk).encode()).hexdigest()[:8]
        builder = BuildEngine("build", netns=None, cgroup=f"flannelpy-lab.build.{engine}.{seat}", spec=spec)
        builder.stop()  # what a killed predecessor left; the lock says that nobody uses it
        try:
            builder.start()
            _start_dockerd(builder)
            yield builder
            builder.end(host.DOCKERD)
        finally:
            builder.stop()


def _start_dockerd(builder: BuildEngine) -> None:
    builder.spawn(host.DOCKERD, ["dockerd", *_FLAGS])
    host.wait_dockerd(builder, timeout_s=45)


def main() -> None:
    """`python -m lab.engine_build ARGS`: one docker command on the build engine, which sees this directory."""
    with opened(shares=[pathlib.Path.cwd()]) as builder:
        sys.stdout.write(builder.docker(*sys.argv[1:]) + "\n")


if __name__ == "__main__":
    main()
