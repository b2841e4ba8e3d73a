"""One machine of a lab: a set of namespaces with an init of its own.

All of its processes live in one pid namespace, so ending the init ends everything, containers and shims included,
and with the last process its mounts are gone too. Docker hosts, etcd members, the registry, the client and the
outside server are all machines; what runs on them is the business of `host` and `services`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Final

from lab import boot, cgroups, command, errors, process, underlay

log = logging.getLogger(__name__)

ENV: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
_BOOT_S: Final = 20


class Machine:
    """A machine; `start` boots it, after that commands can be run on it."""

    def __init__(self, name: str, *, netns: str | None, cgroup: str, spec: boot.Boot) -> None:
        """Take names only. netns None: the machine's own network, for the build engine."""
        self.name = name
        self.netns = netns
        self.spec = spec
        self.init: process.ProcessId | None = None
        self.cgroup = cgroup
        self._hierarchies = cgroups.observe()

    @property
    def is_up(self) -> bool:
        """Whether its init runs."""
        return self.init is not None and process.is_alive(self.init)

    @property
    def pid(self) -> int:
        """Its init's pid as this machine sees it.

        Raises: LabError if it is down.
        """
        if self.init is None or not self.is_up:
            raise errors.LabError(f"{self.name} is down")
        return self.init.pid

    @property
    def root(self) -> pathlib.Path:
        """Its file system, seen from outside; valid until it is rebooted."""
        return pathlib.Path(f"/proc/{self.pid}/root")

    def start(self) -> None:
        """Boot it.

        Raises: LabError with the end of the boot's log, Timeout.
        """
        self.spec.disk.mkdir(parents=True, exist_ok=True)
        log_path = self.spec.disk / "boot.log"
        net = [] if self.netns is None else ["nsenter", f"--net={underlay.netns_path(self.netns)}"]
        new = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork"]
        argv = [*net, *new, "sh", "-c", boot.script(self.spec, self._hierarchies)]
        procs = cgroups.ensure(self.cgroup, self._hierarchies)
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb", buffering=0) as said, log_path.open("ab") as errs:
            try:
                _start(argv, join=procs, out=writer, err=errs.fileno(), detach=True)
            finally:
                os.close(writer)
            self._await_boot(said, log_path)

    def stop(self) -> None:
        """End everything on it and forget its cgroups; its disk stays. Stopping a stopped machine is harmless.

        The init first, alone: all the rest ends with it and is waited for by its own parents. Whatever is left
        then in our cgroups and namespace came from a boot cut short, before the init was known, or is an nsenter
        that someone stopped with Ctrl-Z: it never takes note of its child's end, and the init waits for that.
        """
        init = [self.init] if self.init else []
        with contextlib.suppress(errors.Timeout):
            process.kill(init, timeout_s=3)
        orphans = cgroups.pids(self.cgroup, self._hierarchies)
        if self.netns is not None:
            orphans |= underlay.pids(self.netns)
        found = (process.identify(pid) for pid in sorted(orphans - {os.getpid()}))
        process.kill([*init, *(p for p in found if p)])
        cgroups.remove(self.cgroup, self._hierarchies)
        self.init = None

    def erase(self) -> None:
        """Delete its disk."""
        if self.spec.disk.exists():
            shutil.rmtree(self.spec.disk)

    def try_exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | BinaryIO | None = None,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> command.Result:
        """Run a command on it, to its end; a non-zero code is an answer.

        The bound is also kept inside, or a command given up on would run on behind our back.
        Raises: Timeout, LabError if it is down.
        """
        bounded = [*self.enter(), "timeout", "--kill-after=2", f"{timeout_s:g}", *argv]
        shown = (f"{self.name}:", *argv)
        result = command.run(bounded, stdin=stdin, timeout_s=timeout_s + 5, env={**ENV, **(env or {})}, shown=shown)
        if result.code in (124, 137) and not result.err.strip():
            raise errors.Timeout(f"{self.name}: `{shlex.join(argv)}` did not end within {timeout_s:g} s")
        return result

    def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | BinaryIO | None = None,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command on it and give what it printed, without the last newline.

        Raises: CommandFailed, Timeout, LabError if it is down.
        """
        return command.check(self.try_exec(argv, stdin=stdin, timeout_s=timeout_s, env=env)).out.rstrip("\n")

    def enter(self) -> list[str]:
        """Give the words that put any command onto this machine.

        nsenter, not `ip netns exec`: that one mounts /sys anew, and dockerd then finds no cgroups.
        """
        names = ["--mount", "--uts", "--ipc", "--pid", "--cgroup", *(["--net"] if self.netns else [])]
        return ["nsenter", f"--target={self.pid}", *names, "--"]

    def spawn(self, daemon: str, argv: Sequence[str]) -> None:
        """Start a daemon on it, its output in <disk>/<daemon>.log, its pid (inside) in /run/lab/<daemon>.pid.

        Raises: Timeout if it does not even begin.
        """
        pid_file = self.root / f"run/lab/{daemon}.pid"
        pid_file.unlink(missing_ok=True)
        # In the background inside: its parent is then the init, which reaps it, and not an nsenter out here.
        inside = f'setsid sh -c \'echo $$ > /run/lab/{daemon}.pid; exec "$@"\' {daemon} "$@" &'
        procs = cgroups.joinable(cgroups.ensure(self.cgroup, self._hierarchies))
        with self.log_path(daemon).open("ab") as out:
            words = [*self.enter(), "sh", "-c", inside, daemon, *argv]
            _start(words, join=procs, out=out.fileno(), err=out.fileno())
        command.wait_until(
            f"{self.name}: {daemon} begun", lambda: _is_written(pid_file), timeout_s=10, interval_s=0.005
        )

    def log_path(self, daemon: str) -> pathlib.Path:
        """Say where a daemon's output goes, on this machine."""
        return self.spec.disk / f"{daemon}.log"

    def log_tail(self, daemon: str, *, lines: int = 15) -> str:
        """Give the end of a daemon's output."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log_path(daemon).read_text(errors="replace").splitlines()[-lines:])
        return ""

    def daemon_pid(self, daemon: str) -> int | None:
        """Give a daemon's pid inside the machine; None if it is not running."""
        try:
            pid = int((self.root / f"run/lab/{daemon}.pid").read_text())
        except (FileNotFoundError, ValueError, errors.LabError):
            return None
        return pid if process.runs_below(self.root / "proc", pid) else None

    def signal(self, daemon: str, name: str) -> None:
        """Send a daemon a signal ("TERM", "STOP", ...); one that is not running is not missed."""
        pid = self.daemon_pid(daemon)
        if pid is not None:
            self.try_exec(["kill", f"-{name}", str(pid)])

    def end(self, daemon: str, *, signal: str = "TERM", timeout_s: float = 20) -> None:
        """End a daemon and wait until it is gone.

        Raises: Timeout.
        """
        self.signal(daemon, signal)
        gone = f"{self.name}: {daemon} ended after SIG{signal}"
        command.wait_until(gone, lambda: self.daemon_pid(daemon) is None, timeout_s=timeout_s)

    def _await_boot(self, said: BinaryIO, log_path: pathlib.Path) -> None:
        """Read the pid, then `ready`; the end of the stream before that means the boot failed."""
        text, deadline = b"", time.monotonic() + _BOOT_S
        while b"ready\n" not in text:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([said], [], [], left)[0]:
                raise errors.Timeout(f"{self.name}: no boot within {_BOOT_S} s, see {log_path}")
            chunk = said.read(100)
            if not chunk:
                tail = log_path.read_text(errors="replace")[-1000:].strip()
                raise errors.LabError(f"{self.name}: boot failed: {tail}")
            text += chunk
            if self.init is None and b"\n" in text:
                self.init = process.identify(int(text.split()[0]))


def _is_written(pid_file: pathlib.Path) -> bool:
    """Whether the pid is there; for a moment the file is there without it, and its daemon would be taken for dead."""
    return pid_file.exists() and pid_file.read_text().endswith("\n")


def _start(argv: Sequence[str], *, join: Sequence[pathlib.Path], out: int, err: int, detach: bool = False) -> None:
    """Run a command in its cgroups; detached, it outlives us in a session of its own, where no Ctrl-C reaches it."""
    joins = "".join(f"echo $$ > {shlex.quote(str(path))}; " for path in join)
    script = joins + ('setsid "$@" < /dev/null &' if detach else 'exec "$@" < /dev/null')
    subprocess.run(["sh", "-c", script, "sh", *argv], stdout=out, stderr=err, env=ENV, check=True, timeout=20)
