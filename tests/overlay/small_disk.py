"""A test's own code on a small file system, which it fills and frees, in a mount namespace that ends with it."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

PREAMBLE = """
import pathlib, subprocess, sys
disk = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], check=True)

def fill():
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass

def make_room():
    (disk / "filler").unlink()

def remount(how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)
"""


def run(code: str, directory: pathlib.Path) -> list[str]:
    """What `code` printed, which has `disk`, `fill`, `make_room` and `remount`; the lines."""
    directory.mkdir(exist_ok=True)
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", PREAMBLE + code, str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(entry or "." for entry in sys.path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
