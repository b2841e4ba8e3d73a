"""The host's own tools of the packet filter: the only module that runs programs.

Used by `firewall_exec` and `guard_exec`. Tools run in the network namespace of the calling thread. Holds no policy.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import time
from typing import TypedDict

from overlay import errors, faults

PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
LOCKFILE = "/run/xtables.lock"

_PACKAGES = {"nft": "nftables"}
_ABSENT = "No such file or directory"


class Options(TypedDict, total=False):
    """What a caller may say of its tools: see Tools."""

    lockfile: str
    path: str
    timeout_s: float
    budget_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Where the tools are and how long they may take.

    `lockfile` is the host's, as seen from here, or `-w` waits for nobody; iptables-nft needs and takes none. `path`
    is where the tools are looked for. Units: `timeout_s` seconds for each tool, `budget_s` for all of one `begin`.
    """

    lockfile: str = LOCKFILE
    path: str = PATH
    timeout_s: float = 6.0
    budget_s: float = 10.0

    def begin(self) -> Run:
        """Tools for one piece of work, which ends in time even where they hang."""
        return Run(self, time.monotonic() + self.budget_s)


class Run:
    """The tools for one piece of work, of one thread."""

    def __init__(self, tools: Tools, ends_at: float) -> None:
        self._tools = tools
        self._ends_at = ends_at
        self._env = {"PATH": tools.path, "LC_ALL": "C", "XTABLES_LOCKFILE": tools.lockfile}

    def has(self, tool: str) -> bool:
        """Whether there is such a tool."""
        return shutil.which(tool, path=self._tools.path) is not None

    def run(self, *argv: str, script: str | None = None) -> str:
        """The tool's output. Raises KernelError with what it said."""
        if script is None:
            return output(self.spawn(*argv))
        faults.reached("firewall.write.before")
        done = self.spawn(*argv, script=script)
        faults.reached("firewall.write.after")
        return output(done)

    def list_nft(self, *what: str) -> str | None:
        """What `nft list` prints, None if there is no such table or chain. Raises KernelError."""
        done = self.spawn("nft", "list", *what)
        if done.returncode == 0:
            return done.stdout
        if _ABSENT in done.stderr:
            return None
        raise failed(done)

    def spawn(self, *argv: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run one tool to its end, killing it at the timeout. Raises KernelError if it cannot be run."""
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise errors.KernelError([f"{' '.join(argv)}: not run, the tools before took {self._tools.budget_s:g} s"])
        timeout_s = min(self._tools.timeout_s, left_s)
        try:
            return subprocess.run(
                argv,
                input=script or "",
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout_s,
                env=self._env,
                check=False,
            )
        except FileNotFoundError as exc:
            raise missing(argv[0]) from exc
        except OSError as exc:
            raise errors.KernelError([f"{' '.join(argv)}: {exc.strerror}"]) from exc
        except subprocess.TimeoutExpired as exc:
            raise errors.KernelError([f"{' '.join(argv)}: no answer within {timeout_s:.3g} s"]) from exc


def output(done: subprocess.CompletedProcess[str]) -> str:
    """What a tool printed. Raises KernelError with what it said if it failed."""
    if done.returncode != 0:
        raise failed(done)
    return done.stdout


def missing(tool: str) -> errors.KernelError:
    """There is no such tool."""
    return errors.KernelError([f"{tool}: not found; install the package {_PACKAGES.get(tool, 'iptables')}"])


def failed(done: subprocess.CompletedProcess[str]) -> errors.KernelError:
    """The tool failed."""
    said = " ".join(done.stderr.split())[:400] or "said nothing"
    return errors.KernelError([f"{' '.join(done.args)}: exit {done.returncode}: {said}"])
