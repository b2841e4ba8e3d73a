"""`python -m plugin`, or `flannelpy`: serve; with `status`, `audit` and so on: ask the plugin that serves.

The serving process is gunicorn's master and stays small: the application is imported in the worker only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import socket
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

import plugin
from plugin import host_lock, server

if TYPE_CHECKING:
    from plugin import engine_watch


@click.group(invoke_without_command=True)
@click.version_option(plugin.__version__, message="%(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """flannelpy: flannel's leases and VXLAN overlay as a Docker network plugin."""
    if context.invoked_subcommand is None:
        serve()


SIDES = ("docker", "etcd", "state", "memory", "kernel")
"""In the order in which their words count."""

AUDIT_TIMEOUT_S = 300.0
"""Above what all looks take where nobody answers, one call after another."""

SOCKET = click.option("--socket", "path", type=click.Path(path_type=pathlib.Path), help="The plugin's socket.")


@main.command()
@SOCKET
@click.argument("what", type=click.Choice(["status", "readyz", "metrics"]), default="status")
def status(path: pathlib.Path | None, what: str) -> None:
    """Print what the running plugin says of itself."""
    code, text = _get(path, f"/{what}")
    click.echo(json.dumps(json.loads(text), indent=2) if what == "status" else text, nl=what == "status")
    sys.exit(0 if code == 200 else 1)


@main.command()
@SOCKET
def peers(path: pathlib.Path | None) -> None:
    """List the peers: subnet, address, seconds since a peer last changed, and what is wrong with it."""
    _, text = _get(path, "/peers")
    for one in json.loads(text)["peers"]:
        click.echo(f"{one['subnet']}  {one['public_ip']}  {one['age_s']:.0f} s  {one['problem'] or 'ok'}")


@main.command()
@SOCKET
@click.argument("subnets", nargs=-1, required=True, metavar="SUBNET...")
def diagnose(path: pathlib.Path | None, subnets: tuple[str, ...]) -> None:
    """Find out what keeps this host and peers apart, with a few packets to each."""
    code, text = _get(path, "/diagnose?" + urllib.parse.urlencode([("peer", subnet) for subnet in subnets]))
    found = json.loads(text)
    if code != 200:
        raise click.ClickException(found["Err"])
    for subnet, sentence in found["peers"].items():
        click.echo(f"{subnet}: {sentence}")
    sys.exit(0 if set(found["peers"].values()) == {"reachable"} else 1)


class _NotLooked(click.ClickException):
    """Nothing is known: neither that all agree, nor that they do not."""

    exit_code = 2


@main.command()
@SOCKET
@click.option("--repair", is_flag=True, help="Mend what can be mended, and show what is left.")
@click.option("--json", "as_json", is_flag=True, help="Print the plugin's whole answer.")
@click.option(
    "--settle", default=3.0, show_default=True, help="Seconds between looks, all of which must agree; 0: one."
)
def audit(path: pathlib.Path | None, *, repair: bool, as_json: bool, settle: float) -> None:
    """Compare Docker, etcd, the state file and the kernel: a line for each difference.

    Ends with 0 where there is none, 1 where some are left, 2 where something could not be looked at.
    """
    try:
        code, text = _ask(path, "POST" if repair else "GET", f"/audit?settle={settle:g}", AUDIT_TIMEOUT_S)
    except click.ClickException as exc:
        raise _NotLooked(exc.message) from exc
    found = json.loads(text)
    if code != 200:
        raise _NotLooked(found["Err"])
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(_audit_lines(found)))
    sys.exit(1 if found["differences"] else _NotLooked.exit_code if found["troubles"] else 0)


@main.command()
@SOCKET
def uninstall(path: pathlib.Path | None) -> None:
    """Remove everything of flannelpy from this host, before `docker plugin rm`: links, routes, rules, the lease.

    Refused while there are networks. Ends with 0 where nothing is left, 1 where something is, 2 where it was refused.
    """
    try:
        code, text = _ask(path, "POST", "/uninstall", AUDIT_TIMEOUT_S)
    except click.ClickException as exc:
        raise _NotLooked(exc.message) from exc
    told = json.loads(text)
    if code != 200:
        raise _NotLooked(told["Err"])
    click.echo(
        "\n".join(f"left: {line}" for line in told["left"]) or "nothing is left; now: docker plugin disable, rm"
    )
    sys.exit(1 if told["left"] else 0)


def _audit_lines(found: dict[str, Any]) -> Iterator[str]:
    for side, reason in found["troubles"].items():
        yield f"{side} could not be looked at: {reason}"
    for verb, listed in (("mended", found.get("mended", ())), ("differs", found["differences"])):
        for one in listed:
            says = "; ".join(f"{side}: {one['says'][side]}" for side in SIDES if side in one["says"])
            repair = f"; --repair: {one['repair']}" if one["repair"] and verb == "differs" else ""
            yield f"{verb}: {one['kind']} {one['object']}: {says}{repair}"
    if not found["differences"]:
        yield "no differences" if not found.get("mended") else "no differences are left"


def _get(path: pathlib.Path | None, url: str) -> tuple[int, str]:
    """Ask the running plugin. Raises ClickException where none answers."""
    return _ask(path, "GET", url)


def _ask(path: pathlib.Path | None, verb: str, url: str, timeout_s: float = 20) -> tuple[int, str]:
    connection = _UnixConnection(path or server.choose_sockets(_run_dir())[0], timeout_s)
    try:
        with contextlib.closing(connection):
            connection.request(verb, url)
            response = connection.getresponse()
            return response.status, response.read().decode()
    except OSError as exc:
        raise click.ClickException(f"no plugin answers at {connection.path}: {exc}") from exc


def serve(timing: engine_watch.Timing | None = None, *, gives_way_s: float = host_lock.GIVES_WAY_S) -> None:
    """Listen first, then build the application; returns when gunicorn ends.

    `timing`: of the look at Docker. `gives_way_s`: how long a second plugin leaves a host to the first after its end.
    """
    server.raise_descriptor_limit()
    run_dir = _run_dir()
    sockets = server.choose_sockets(run_dir)
    _take_host(run_dir, sockets, gives_way_s)
    for path in sockets:
        server.prepare_socket(path)
    stops: list[Callable[[], None]] = []

    def load() -> server.WSGI:
        from overlay import faults, kernel_version, rtnl_socket
        from plugin import app

        if os.environ.get(faults.VARIABLE):  # tests only: see there
            faults.switch_on(pathlib.Path(os.environ[faults.VARIABLE]))
        obstacle = kernel_version.find_obstacle(os.uname().release, has_strict_dumps=rtnl_socket.has_strict_dumps())
        built = app.App({**os.environ, "RUN_DIR": str(run_dir)}, timing, obstacle=obstacle)
        stops.append(built.stop)
        return built.start()

    def stop() -> None:
        for one in stops:
            one()

    server.Server(sockets, load, stop).run()


def _take_host(run_dir: pathlib.Path, sockets: Sequence[pathlib.Path], gives_way_s: float) -> None:
    """Return when this host is ours alone, for as long as this process and those it forks live."""
    *own, classic = sockets
    state_dir = pathlib.Path(os.environ.get("STATE_DIR") or "/data")
    lock = host_lock.HostLock(run_dir, classic, state_dir, gives_way_s=gives_way_s)
    if occupant := lock.take():
        from plugin import standby

        standby.wait(lock.take, occupant, own, {**os.environ, "RUN_DIR": str(run_dir)})


def _run_dir() -> pathlib.Path:
    """The host's /run: mounted into a managed plugin, itself anywhere else."""
    given = os.environ.get("RUN_DIR")
    if given:
        return pathlib.Path(given)
    return server.MANAGED_RUN_DIR if server.MANAGED_RUN_DIR.is_dir() else pathlib.Path("/run")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: pathlib.Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.path = path

    def connect(self) -> None:
        """Called by http.client."""
        self.sock: Any = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


if __name__ == "__main__":
    main()
