"""A host of one's own for the plugin's real process, which takes orders where to be killed: see `overlay.faults`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

from overlay import faults
from tests.overlay import node_host
from tests.plugin import engine_model

until = node_host.until
REPOSITORY = pathlib.Path(faults.__file__).parent.parent
UNDERLAY = (
    "ip link set lo up && ip link add eth0 type veth peer name far && ip addr add 192.0.2.1/24 dev eth0 && "
    "ip link set eth0 up && ip link set far up && ip route add default via 192.0.2.254 && "
    "ip -6 addr add 2001:db8::1/64 dev eth0 nodad && ip -6 route add default via 2001:db8::fe dev eth0 && "
    "iptables -P FORWARD DROP && iptables -N DOCKER-USER && iptables -A FORWARD -j DOCKER-USER"
)
HELD_LOOK_S = 0.01


class Machine:
    """A network namespace with an underlay, and the plugin's process on it once that is started."""

    def __init__(self, directory: pathlib.Path, **env: str) -> None:
        self.directory = directory
        self.netns = engine_model.namespace()
        self.run("sh", "-c", UNDERLAY)
        self.orders = directory / "faults"
        self.orders.mkdir()
        (directory / "run/docker/plugins").mkdir(parents=True)
        self._env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "RUN_DIR": str(directory / "run"),
            "STATE_DIR": str(directory / "state"),
            faults.VARIABLE: str(self.orders),
            **env,
        }
        self.plugin: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """End everything."""
        self.stop()
        engine_model.end(self.netns)

    def start(self) -> None:
        """Start the plugin."""
        output = (self.directory / "output").open("ab")
        with output:
            self.plugin = subprocess.Popen(
                [
                    *("nsenter", f"--net=/proc/{self.netns.pid}/ns/net"),
                    *(sys.executable, str(pathlib.Path(__file__).with_name("quick_plugin.py"))),
                ],
                cwd=REPOSITORY,
                env=self._env,
                stdout=output,
                stderr=output,
            )

    def stop(self) -> None:
        """Kill the plugin as a whole: the master first, or it makes itself another worker."""
        if self.plugin is None:
            return
        worker = self.worker()
        os.kill(self.plugin.pid, signal.SIGKILL)
        if worker:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        self.plugin.wait(5)
        until(lambda: not worker or _has_ended(worker), "the worker has ended")
        self.plugin = None

    def get(self, path: str) -> str:
        """GET over the plugin's socket. Raises OSError, HTTPException."""
        return engine_model.get(self.directory / "run/docker/plugins/flannelpy.sock", path)

    def ready(self) -> bool:
        try:
            return self.get("/readyz") == "ready\n"
        except engine_model.BROKEN:
            return False

    def worker(self) -> int:
        """The pid of gunicorn's worker; 0 where there is none at the moment."""
        assert self.plugin is not None
        pid = self.plugin.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def log(self) -> str:
        return (self.directory / "output").read_text()

    def give(self, order: faults.Order) -> None:
        """Let it strike when its moment comes."""
        written = self.orders / "order.new"
        written.write_text(json.dumps(dataclasses.asdict(order)))
        written.rename(self.orders / "order")

    def struck(self) -> bool:
        """Whether the order was carried out."""
        return not (self.orders / "order").exists()

    @contextlib.contextmanager
    def killed_while_held(self) -> Iterator[None]:
        """Within, the plugin as a whole is killed as soon as it is held, and then started as dockerd does."""
        held = self.orders / "held"
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(HELD_LOOK_S):
                if held.exists():
                    self.stop()
                    held.unlink()
                    self.start()
                    return

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join(30)

    def record(self, act: Callable[[], object]) -> list[tuple[str, str]]:
        """Do something and give (handler or thread, point) of every point passed."""
        path = self.orders / "record"
        path.touch()
        act()
        rows = path.read_text().splitlines()
        path.unlink()
        pairs = (row.rsplit(" ", 1) for row in rows)
        return [(who, point) for who, point in pairs]

    def run(self, *words: str) -> str:
        """Run a program in its namespace. Raises CalledProcessError."""
        return engine_model.inside(self.netns, *words)


def _has_ended(pid: int) -> bool:
    """No such process, or one that nobody has waited for yet."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"
