"""The plugin without Docker: its two processes and an etcd in a network namespace of their own, on this machine.

`python -m bench.bare` measures `scale` on them, to see within minutes what a change is worth. The figures that count
are those of the installed plugin: `python -m bench`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import click

import lab
from bench import figures, scale
from lab import roots

CHECKOUT = pathlib.Path(__file__).parent.parent
WAIT_S = 20.0


@dataclasses.dataclass(slots=True, kw_only=True)
class Bare:
    """Implements `scale.Stage`."""

    folder: pathlib.Path
    net: pathlib.Path
    etcd: str
    process: subprocess.Popen[bytes] | None = None

    def start(self, prefix: str) -> None:
        """Start the plugin's master, which forks the worker."""
        environment = {
            **os.environ,
            "ETCD_ENDPOINTS": f"http://{self.etcd}",
            "ETCD_PREFIX": prefix,
            "RUN_DIR": str(self.folder / "run"),
            "STATE_DIR": str(self.folder / "state"),
        }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*_enter(self.net), sys.executable, "-m", "plugin"],
                cwd=CHECKOUT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def forget(self) -> None:
        """Stop it, and nothing of it stays but its log."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(WAIT_S)
            self.process = None
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        subprocess.run([*_enter(self.net), "ip", "link", "del", "flannel.1"], check=False, stderr=subprocess.DEVNULL)

    def processes(self) -> list[pathlib.Path]:
        """The master's and the worker's directories in /proc, and what they started."""
        found = [] if self.process is None else [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                found += map(int, children)
        return [pathlib.Path("/proc", str(pid)) for pid in found]

    @property
    def socket(self) -> pathlib.Path:
        """The plugin's."""
        return self.folder / "run/docker/plugins/flannelpy.sock"


@contextlib.contextmanager
def bring_up() -> Iterator[Bare]:
    """A namespace with one link and an etcd; nothing of it stays."""
    with contextlib.ExitStack() as down:
        folder = pathlib.Path(down.enter_context(tempfile.TemporaryDirectory(prefix="flannelpy-bench-")))
        holder = down.enter_context(_running(["unshare", "--net", "--", "sleep", "infinity"]))
        net = pathlib.Path(f"/proc/{holder.pid}/ns/net")
        _wait_until_apart(net)
        for line in (
            "ip link set lo up",
            "ip link add eth0 type veth peer name beyond",
            "ip link set beyond up",
            "ip addr add 192.0.2.1/24 dev eth0",
            "ip link set eth0 up",
            "ip route add default via 192.0.2.254",
        ):
            subprocess.run([*_enter(net), *line.split()], check=True)
        urls = ["--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379"]
        program = str(roots.path_of("bookworm") / "usr/bin/etcd")
        with (folder / "etcd.log").open("wb") as log:
            words = [*_enter(net), program, "--data-dir", str(folder / "etcd"), "--logger", "zap", *urls]
            down.enter_context(_running(words, log.fileno()))
        made = Bare(folder=folder, net=net, etcd="127.0.0.1:2379")
        down.callback(made.forget)
        yield made


def _enter(net: pathlib.Path) -> list[str]:
    return ["nsenter", f"--net={net}", "--"]


@contextlib.contextmanager
def _running(words: list[str], log: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait_until_apart(net: pathlib.Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while net.readlink() == pathlib.Path("/proc/self/ns/net").readlink():
        if time.monotonic() > deadline:
            raise lab.LabError("unshare made no network namespace")
        time.sleep(0.01)


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(scale.STEPS)), help="One part; all without it.")
def main(only: tuple[str, ...]) -> None:
    """Measure the plugin's processes without Docker."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    found: list[figures.Figure] = []
    with bring_up() as made:
        for name in only or scale.STEPS:
            click.echo(f"{name} ...", err=True)
            made_here = list(scale.STEPS[name](made))
            click.echo(figures.format_table(made_here), err=True)
            found += made_here
    click.echo(figures.format_table(found))


if __name__ == "__main__":
    main(prog_name="python -m bench.bare")
