"""The command `python -m lab`: labs to play with from a shell. All work is in `lab.lab`."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import click

from lab import command, config, errors, host, images, lab, machine, packages, roots, state

_ENGINES = ", ".join(config.ENGINES)
_name = click.option("--name", default="lab", show_default=True, help="Which lab.")


class _Group(click.Group):
    """Shows a LabError as one line, and ends as a signal asks, cleaning up on the way."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            return super().invoke(ctx)
        except errors.LabError as exc:
            raise click.ClickException(str(exc)) from exc


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Several real Docker hosts on this one machine, each with its own network namespace and dockerd."""


@main.command()
@_name
@click.option("--hosts", default=2, show_default=True, help="How many Docker hosts: h1, h2, ...")
@click.option("--engine", default="28.5", show_default=True, help=f"{_ENGINES}; several with commas.")
@click.option("--etcd", "etcd_members", default=1, show_default=True, help="How many etcd members: 0, 1 or 3.")
@click.option("--registry/--no-registry", default=True, show_default=True, help="A registry for all hosts.")
@click.option(
    "--firewall", default="iptables-nft", show_default=True, help="iptables-nft, iptables-legacy, nftables."
)
@click.option("--dockerd-arg", "dockerd_args", multiple=True, help="A flag for every dockerd; repeatable.")
@click.option("--share", "shares", multiple=True, help="A directory that hosts see too; repeatable.")
@click.option("--mtu", default=1500, show_default=True, help="Of the underlay.")
def up(**wanted: Any) -> None:  # Any: click's values, which LabConfig checks
    """Bring a lab up, and say how to get into it."""
    started = time.monotonic()
    made = lab.Lab.up(config.LabConfig(**wanted))
    name = made.name
    _show(made)
    click.echo(f"\nup in {time.monotonic() - started:.1f} s. Try:")
    option = "" if name == "lab" else f" --name {name}"
    click.echo(f"  python -m lab exec{option} h1 docker ps")
    click.echo(f"  python -m lab exec{option} h1 bash")
    click.echo(f"  python -m lab down{option}")


@main.command()
@_name
@click.option("--all", "everything", is_flag=True, help="Every lab on this machine.")
def down(*, name: str, everything: bool) -> None:
    """Take a lab down: processes, namespaces, mounts, files. Harmless if there is none."""
    for each in state.names() if everything else [name]:
        if state.load(each) is None:
            click.echo(f"no lab {each}")
            continue
        lab.Lab.attach(each).down()
        click.echo(f"lab {each} is down")


@main.command()
@click.option("--name", help="Only this lab.")
def status(*, name: str | None) -> None:
    """Show the labs, their machines and whether they run."""
    found = [name] if name else state.names()
    if not found:
        click.echo("no lab is up: `python -m lab up`")
    for each in found:
        _show(lab.Lab.attach(each))


@main.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_name
@click.argument("machine_name", metavar="MACHINE")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(*, name: str, machine_name: str, command: tuple[str, ...]) -> NoReturn:
    """Run a command on a machine of the lab (h1, etcd1, registry, client, outside), in all of its namespaces."""
    words = [*lab.Lab.attach(name).find(machine_name).enter(), *command]
    os.execvpe(words[0], words, {**machine.ENV, "TERM": os.environ.get("TERM", "dumb")})  # noqa: S606  the terminal is handed over as it is


@main.command()
def engines() -> None:
    """Show the engines that there are, for scripts."""
    click.echo(" ".join(config.ENGINES))


@main.command("roots")
@click.option("--build", is_flag=True, help="Make those that are missing.")
@click.option("--remove", is_flag=True, help="Delete them all.")
def roots_(*, build: bool, remove: bool) -> None:
    """Show the cached root file systems of the engines."""
    if remove:
        for path in roots.remove_all():
            click.echo(f"removed {path}")
    for engine, suite in config.SUITES.items():
        path = roots.ensure(suite) if build else roots.path_of(suite)
        click.echo(f"{engine:6} {suite:10} {path if path.is_dir() else 'not made yet'}")


@main.command()
@click.option("--engine", default="28.5", show_default=True, help=f"One of {_ENGINES}.")
@click.option("--keep", is_flag=True, help="Leave the lab running.")
def demo(*, engine: str, keep: bool) -> None:
    """Tell the classic flannel guide's story, with the plugin on two hosts."""
    from lab import demo as story

    story.tell(engine=engine, keep=keep)


@main.command()
@click.option("--seconds", default=1800.0, show_default=True, help="How long things are broken.")
@click.option("--seed", type=int, help="The same seed breaks the same things; by chance if not given.")
@click.option("--hosts", default=4, show_default=True, help="How many Docker hosts.")
@click.option("--engine", default="28.5", show_default=True, help=f"{_ENGINES}; several with commas.")
@click.option("--keep", is_flag=True, help="Leave the lab running.")
def chaos(*, seconds: float, seed: int | None, hosts: int, engine: str, keep: bool) -> None:
    """Break everything at random for a while and see whether containers still reach each other."""
    from lab import chaos as soak

    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    options = soak.Options(seconds=seconds, seed=seed, hosts=hosts, engine=engine, keep=keep)
    if not soak.run(options):
        raise SystemExit(1)


@main.command()
@click.option("--count", default=50, show_default=True, help="How many reboots, dealt out to the engines.")
@click.option("--seed", type=int, help="Of the schedule; by chance if not given.")
@click.option("--engine", default="28.5", show_default=True, help=f"{_ENGINES}; several with commas.")
@click.option("--keep", is_flag=True, help="Leave the lab running.")
def reboots(*, count: int, seed: int | None, engine: str, keep: bool) -> None:
    """Cut the power of hosts again and again and see whether every restart=always container comes back."""
    from lab import reboots as cuts

    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    engines = engine.split(",")
    passed = 0
    for number, each in enumerate(engines):
        share = count // len(engines) + (number < count % len(engines))
        click.echo(f"seed {seed}: {share} reboots, engine {each}")
        done = cuts.run(cuts.Options(count=share, seed=seed, engine=each, keep=keep))
        passed += sum(not one.troubles for one in done)
        seed += 1
    click.echo(f"{passed} of {count} reboots passed")
    if passed != count:
        raise SystemExit(1)


@main.command("random")
@click.option("--ops", "operations", default=1000, show_default=True, help="How many operations.")
@click.option("--seed", type=int, help="The same seed does the same things; by chance if not given.")
@click.option("--engine", default="28.5", show_default=True, help=f"One of {_ENGINES}.")
@click.option("--firewall", default="iptables-nft", show_default=True, help="As of `up`.")
@click.option("--live-restore", is_flag=True, help="Containers outlive dockerd.")
@click.option("--burst", "only", type=int, help="Only this burst of the run, from 0.")
@click.option("--keep", is_flag=True, help="Leave the lab running.")
def random_(*, seed: int | None, live_restore: bool, **options: Any) -> None:  # Any: click's values
    """Operate Docker at random, kill what can be killed, and see whether anything stays that Docker does not know."""
    from lab import random_run

    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    dockerd_args = ("--live-restore",) if live_restore else ()
    if not random_run.run(random_run.Options(seed=seed, dockerd_args=dockerd_args, **options)):
        raise SystemExit(1)


@main.command("crowd")
@click.option("--hosts", default=10, show_default=True, help="How many Docker hosts.")
@click.option("--containers", default=20, show_default=True, help="How many on each.")
@click.option("--engine", default="28.5", show_default=True, help=f"{_ENGINES}; several with commas.")
@click.option("--keep", is_flag=True, help="Leave the lab running.")
def crowd_(**options: Any) -> None:  # Any: click's values
    """Start many containers at the same moment on all hosts: do all run, and how long do the plugin's calls take?"""
    from lab import crowd

    if not crowd.run(crowd.Options(**options)):
        raise SystemExit(1)


@main.command("matrix")
@click.option("--only", default="", help="Just these cells: patterns with commas, such as 'suite_28.5_*,crowd*'.")
@click.option("--fresh", is_flag=True, help="Run also what passed on this commit.")
@click.option("--width", default=3, show_default=True, help="How many at a time.")
@click.option("--show", is_flag=True, help="Run nothing, show how it stands.")
def matrix_(*, show: bool, **options: Any) -> None:  # Any: click's values
    """Run everything that is too long for `make test`, or go on with it, and show a table."""
    from lab import matrix

    wanted = matrix.Options(**options)
    if show:
        click.echo(matrix.show(wanted))
    elif not matrix.run(wanted):
        raise SystemExit(1)


@main.command()
def plugin() -> None:
    """Build the plugin's image and root file system from the Dockerfile."""
    from lab import plugin_image

    image = plugin_image.build()
    click.echo(f"{image.rootfs}")
    click.echo(f"{image.size_bytes / 1e6:.0f} MB, compressed {image.compressed_bytes() / 1e6:.0f} MB")


@main.command()
def prepare() -> None:
    """Make all that labs and tests take from the cache: the engines' roots, the images, the plugin."""
    from lab import plugin_image

    command.require_root("a lab")
    packages.ensure()
    for suite in config.SUITES.values():
        images.ensure(roots.ensure(suite))
    plugin_image.build()


@main.command()
def clean() -> None:
    """Delete the cache: roots, images, built plugins."""
    if roots.cache_dir().exists():
        shutil.rmtree(roots.cache_dir())
        click.echo(f"removed {roots.cache_dir()}")


@main.command("packages")
@click.argument("names", nargs=-1)
def packages_(*, names: tuple[str, ...]) -> None:
    """Install the Debian packages that a lab needs on this machine, or those named."""
    packages.ensure(names or packages.MACHINE)


def _show(shown: lab.Lab) -> None:
    plan = shown.plan
    click.echo(f"lab {shown.name}: router 198.51.100.1, namespace {plan.router_netns}")
    for seat, each in zip(plan.seats, shown.machines, strict=True):
        click.echo(f"  {seat.machine:9} {seat.ip:15} netns {seat.netns:22} {_describe(each)}")
    if shown.etcd_endpoints:
        click.echo(f"  etcd      {shown.etcd_endpoints}")
    if plan.registry_name:
        click.echo(f"  registry  {plan.registry_name} (plain http)")
    click.echo(f"  outside   {shown.outside_url} answers with the address it sees")
    click.echo(f"  shared    {shown.shared_dir} is {lab.SHARED} on every machine")


def _describe(each: machine.Machine) -> str:
    running: Callable[[str], str] = lambda daemon: "" if each.daemon_pid(daemon) else ", not running"  # noqa: E731
    if not each.is_up:
        return "down"
    if isinstance(each, host.Host):
        return f"docker {each.engine}{running(host.DOCKERD)}"
    daemon = {"registry": "registry", "outside": "web"}.get(each.name, "etcd" if each.name != "client" else "")
    return f"{daemon}{running(daemon)}" if daemon else "no docker"
