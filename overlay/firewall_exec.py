"""The firewall port on nft and iptables: the only module that runs programs.

Thin: `firewall` knows what the rules are; here they are compared with what is there and handed to the tools, which
run in the network namespace of the calling thread. Called by `reconciler` on its timer and after every change of a
network. Two iptables flavours can be in use at once (an engine on one, an older tool on the other), and a packet must
pass both. A flavour that nobody uses is left alone: asking iptables-legacy loads its modules and makes its tables.
Source: nft(8), xtables-nft(8), iptables-restore(8).
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from overlay import errors, firewall

log = logging.getLogger(__name__)

PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
LOCKFILE = "/run/xtables.lock"
LOCK_WAIT_S = 5
LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")

_PACKAGES = {"nft": "nftables"}
_ABSENT = "No such file or directory"
_UNREADABLE = "Table `filter' is incompatible"


class FirewallExec:
    """The host's own packet filter. Safe to call from any thread: one lock, held while tools run."""

    def __init__(self, *, lockfile: str = LOCKFILE, path: str = PATH, timeout_s: float = 10.0) -> None:
        """`lockfile` is the host's, as seen from here, or `-w` waits for nobody. iptables-nft needs and takes none.

        `path` is where the tools are looked for. Units: `timeout_s` seconds for each tool, above LOCK_WAIT_S.
        """
        self._env = {"PATH": path, "LC_ALL": "C", "XTABLES_LOCKFILE": lockfile}
        self._path = path
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._written: tuple[firewall.FirewallPlan, str] | None = None

    def ensure(self, plan: firewall.FirewallPlan) -> tuple[str, ...]:
        """Make the host's rules be those of `plan`; names each place that had to be written.

        Drops are written before permissions, and with an empty plan they go after them: nothing is let through
        unguarded, and permissions are not written when the drops were refused. Idempotent. Raises KernelError after
        all other places were tried.
        """
        places: list[tuple[str, Callable[[firewall.FirewallPlan], bool]]] = [
            ("nft", self._ensure_table),
            ("iptables-nft", lambda plan: self._ensure_chain("iptables-nft", self._list_nft_filter(plan), plan)),
            ("iptables-legacy", lambda plan: self._ensure_chain("iptables-legacy", self._list_legacy_filter(), plan)),
        ]
        written: list[str] = []
        failures: list[str] = []
        with self._lock:
            for name, ensure_place in places if plan else reversed(places):
                try:
                    if ensure_place(plan):
                        written.append(name)
                except errors.KernelError as exc:
                    failures.extend(exc.failures)
                    if name == "nft":
                        break
        if written:
            log.info("firewall written places=%s bridges=%d", ",".join(written), len(plan))
        if failures:
            raise errors.KernelError(failures)
        return tuple(written)

    def _ensure_table(self, plan: firewall.FirewallPlan) -> bool:
        listing = self._list_nft("table", "ip", firewall.TABLE)
        if listing is None and not plan:
            return False
        if listing is not None and (plan, listing) == self._written:
            return False
        script = firewall.nft_script(plan)
        self._run("nft", "-f", "-", script=script)
        self._written = None
        if plan:
            self._remember(plan, script)
        return True

    def _remember(self, plan: firewall.FirewallPlan, script: str) -> None:
        """Keep nft's own text of what was written; a later text that differs means somebody changed the table.

        Not kept if somebody was quicker and took rules away in between: then the next round writes again.
        """
        listing = self._list_nft("table", "ip", firewall.TABLE)
        if listing is not None and firewall.nft_shape(listing) == firewall.nft_shape(script):
            self._written = (plan, listing)

    def _ensure_chain(self, flavour: str, listing: str | None, plan: firewall.FirewallPlan) -> bool:
        if listing is None:
            return False
        if _UNREADABLE in listing:
            raise errors.KernelError([f"{flavour}-save -t filter: {_UNREADABLE}; rename the table that nft made"])
        script = firewall.forward_script(plan, listing)
        if script:
            self._run(f"{flavour}-restore", "--noflush", "-w", str(LOCK_WAIT_S), script=script)
        return bool(script)

    def _list_nft_filter(self, plan: firewall.FirewallPlan) -> str | None:
        """iptables-nft's filter table, None if nothing is to be done there.

        iptables-nft-save shows an empty table where there is none, and may fail on one that nft made: unless our
        chain is in what it shows, nft is asked (the slower of the two, hence second).
        """
        tool = "iptables-nft-save"
        saved = self._spawn(tool, "-t", "filter") if shutil.which(tool, path=self._path) else None
        if saved is not None and f":{firewall.CHAIN} " in saved.stdout:
            return _output(saved)
        if self._list_nft("chain", "ip", "filter", "FORWARD" if plan else firewall.CHAIN) is None:
            return None
        if saved is None:
            raise _missing(tool)
        return _output(saved)

    def _list_legacy_filter(self) -> str | None:
        """iptables-legacy's filter table, None if nobody uses it in this network namespace."""
        try:
            tables = LEGACY_TABLES.read_text(encoding="ascii").split()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise errors.KernelError([f"cat {LEGACY_TABLES}: {exc.strerror}"]) from exc
        return self._run("iptables-legacy-save", "-t", "filter") if "filter" in tables else None

    def _list_nft(self, *what: str) -> str | None:
        """What `nft list` prints, None if there is no such table or chain."""
        done = self._spawn("nft", "list", *what)
        if done.returncode == 0:
            return done.stdout
        if _ABSENT in done.stderr:
            return None
        raise _failed(done)

    def _run(self, *argv: str, script: str | None = None) -> str:
        """The tool's output. Raises KernelError with what it said."""
        return _output(self._spawn(*argv, script=script))

    def _spawn(self, *argv: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run one tool to its end, killing it at the timeout. Raises KernelError if it cannot be run."""
        try:
            return subprocess.run(
                argv,
                input=script or "",
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=self._timeout_s,
                env=self._env,
                check=False,
            )
        except FileNotFoundError as exc:
            raise _missing(argv[0]) from exc
        except OSError as exc:
            raise errors.KernelError([f"{' '.join(argv)}: {exc.strerror}"]) from exc
        except subprocess.TimeoutExpired as exc:
            raise errors.KernelError([f"{' '.join(argv)}: no answer within {self._timeout_s:g} s"]) from exc


def _output(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode != 0:
        raise _failed(done)
    return done.stdout


def _missing(tool: str) -> errors.KernelError:
    return errors.KernelError([f"{tool}: not found; install the package {_PACKAGES.get(tool, 'iptables')}"])


def _failed(done: subprocess.CompletedProcess[str]) -> errors.KernelError:
    said = " ".join(done.stderr.split())[:400] or "said nothing"
    return errors.KernelError([f"{' '.join(done.args)}: exit {done.returncode}: {said}"])
