"""The installed plugin on the lab's bare host, started and forgotten again and again: what `scale` measures."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import lab
from bench import figures, rig, scale
from lab import site


def measure(on: rig.Rig) -> Iterator[figures.Figure]:
    """All of `scale`."""
    with _installed(on) as stage:
        yield from scale.measure(stage)


class Installed:
    """Implements `scale.Stage`."""

    def __init__(self, on: rig.Rig) -> None:
        self._host = on.h3
        self.etcd = on.built.plan.etcd_endpoints[0].removeprefix("http://")

    @property
    def net(self) -> pathlib.Path:
        """The host's."""
        return pathlib.Path(f"/proc/{self._host.pid}/ns/net")

    @property
    def socket(self) -> pathlib.Path:
        """The classic one."""
        return self._host.root / site.SOCKET

    def start(self, prefix: str) -> None:
        """As an operator does."""
        self._host.docker("plugin", "set", site.PLUGIN, f"ETCD_PREFIX={prefix}")
        self._host.docker("plugin", "enable", site.PLUGIN)

    def forget(self) -> None:
        """Take the host back to nothing."""
        with contextlib.suppress(lab.LabError):  # it may not be enabled, and there may be no device
            self._host.docker("plugin", "disable", "-f", site.PLUGIN)
        with contextlib.suppress(lab.LabError):
            self._host.exec(["ip", "link", "del", "flannel.1"])
        for directory in pathlib.Path(self._host.root, "var/lib/docker/plugins").glob("*/propagated-mount"):
            for state in directory.glob("flannelpy.db*"):
                state.unlink()

    def processes(self) -> list[pathlib.Path]:
        """gunicorn's two, and tools that they run at the moment."""
        return [rig.process_dir(self._host, pid) for pid in rig.plugin_pids(self._host)]


@contextlib.contextmanager
def _installed(on: rig.Rig) -> Iterator[Installed]:
    options = ("--disable", "--alias", site.PLUGIN, "--grant-all-permissions", on.image)
    on.h3.docker("plugin", "install", *options, f"ETCD_ENDPOINTS={on.built.etcd_endpoints}", timeout_s=120)
    stage = Installed(on)
    try:
        yield stage
    finally:
        stage.forget()
        on.h3.docker("plugin", "rm", "-f", site.PLUGIN)
