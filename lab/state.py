"""What is written down about a running lab, so that another process can find it and end it.

    /run/flannelpy-lab/<name>/state.json    configuration and the init of every machine
    /var/lib/flannelpy-lab/<name>/          disks, logs, the shared directory ($FLANNELPY_LAB_DATA)

The configuration is written before anything is made, and all names follow from it: a lab that died half-way can be
taken down as well as a whole one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Final

from lab import config, errors, process

RUN: Final = pathlib.Path("/run/flannelpy-lab")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A lab as it was last seen."""

    config: config.LabConfig
    inits: Mapping[str, process.ProcessId]


def data_dir(name: str) -> pathlib.Path:
    """Say where a lab keeps its disks."""
    return pathlib.Path(os.environ.get("FLANNELPY_LAB_DATA", "/var/lib/flannelpy-lab")) / name


def names() -> list[str]:
    """List the labs that are written down."""
    return sorted(path.parent.name for path in RUN.glob("[a-z]*/state.json"))


def reserve(conf: config.LabConfig) -> None:
    """Claim the name, for one caller only.

    Raises: LabError if a lab of that name is there.
    """
    beside = RUN / f".{conf.name}.{os.getpid()}"
    beside.mkdir(parents=True, exist_ok=True)
    _write(beside, State(config=conf, inits={}))
    try:
        beside.rename(RUN / conf.name)  # fails if the other holds a file: a claim is whole or not there
    except OSError as exc:
        shutil.rmtree(beside)
        raise errors.LabError(
            f"lab {conf.name} is there already: end it with `python -m lab down --name {conf.name}`"
        ) from exc


def save(state: State) -> None:
    """Write it whole or not at all."""
    _write(RUN / state.config.name, state)


def load(name: str) -> State | None:
    """Read it back; None if there is no such lab.

    Raises: LabError if the file is no state, for example from another version.
    """
    try:
        data = json.loads(_path(name).read_text())
        inits = {machine: process.ProcessId(**init) for machine, init in data["inits"].items()}
        return State(config=config.parse_config(data["config"]), inits=inits)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise errors.LabError(f"{_path(name)} cannot be read: {exc}") from exc


def forget(name: str) -> None:
    """Delete what is written down and the disks."""
    shutil.rmtree(data_dir(name), ignore_errors=True)
    shutil.rmtree(RUN / name, ignore_errors=True)


def _path(name: str) -> pathlib.Path:
    return RUN / name / "state.json"


def _write(directory: pathlib.Path, state: State) -> None:
    inits = {name: dataclasses.asdict(init) for name, init in state.inits.items()}
    text = json.dumps({"config": config.format_config(state.config), "inits": inits}, indent=1)
    beside = directory / f"state.{os.getpid()}"
    beside.write_text(text)
    beside.replace(directory / "state.json")
