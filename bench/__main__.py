"""`python -m bench`: bring up the lab, measure, print the table, write bench/results.json, take the lab down."""

from __future__ import annotations

import datetime
import logging
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence

import click

import lab
from bench import addresses, converge, figures, installed, listening, machine, rig, starts, traffic

RESULTS = pathlib.Path(__file__).with_name("results.json")

STEPS: dict[str, Callable[[rig.Rig], Iterable[figures.Figure]]] = {
    "starts": starts.against_bridge,
    "handlers": starts.in_handlers,
    "addresses": addresses.measure,
    "traffic": traffic.measure,
    "converge": converge.measure,
    "listen": listening.measure,
    "scale": installed.measure,
}
"""In this order: `starts` makes h1's network and `handlers` h2's, which the two after them use."""

ALONE = ("converge", "listen", "scale")
"""Steps that need no other."""


@click.command()
@click.option("--out", type=click.Path(path_type=pathlib.Path), default=RESULTS, help="Where the JSON goes.")
@click.option("--only", multiple=True, type=click.Choice(ALONE), help="This step alone; needs --out as well.")
def main(out: pathlib.Path, only: tuple[str, ...]) -> None:
    """Measure flannelpy in a lab of real Docker hosts; some thirteen minutes."""
    if only and out == RESULTS:
        raise click.UsageError(f"--only would leave {RESULTS.name} without the other figures: give --out")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _run(out, only or tuple(STEPS))
    except (lab.LabError, OSError, RuntimeError, subprocess.SubprocessError) as exc:
        raise click.ClickException(f"{type(exc).__name__}: {exc}") from exc


def _run(out: pathlib.Path, names: Sequence[str]) -> None:
    began = time.monotonic()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    found: list[figures.Figure] = []
    with rig.bring_up() as made:
        described = machine.describe(made.h1)
        for number, name in enumerate(names, 1):
            click.echo(f"[{number}/{len(names)}] {name} ...", err=True)
            found += STEPS[name](made)
            click.echo(f"      {time.monotonic() - began:.0f} s", err=True)
    out.write_text(figures.format_results(described, date, found))
    click.echo(f"{described}\n\n{figures.format_table(found)}\n\nwritten to {out}")


if __name__ == "__main__":
    main(prog_name="python -m bench")
