"""Debian packages that the machine itself needs: the one place that installs any.

The lab needs little, since dockerd, etcd and all tools live in roots of their own (`roots`). Others (`make demo`,
tests) may ask for more through `ensure`. Fresh Debian 12 and 13 are what this is written for.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from typing import Final

from lab import command, errors

log = logging.getLogger(__name__)

MACHINE: Final = ("debian-archive-keyring", "iproute2", "mmdebstrap", "mount", "util-linux")


def ensure(packages: Iterable[str] = MACHINE) -> None:
    """Install what is missing, after one `apt-get update`; nothing is asked of the network if nothing is missing.

    Raises: LabError if this is no Debian, or not run by root.
    """
    wanted = tuple(packages)
    if shutil.which("dpkg-query") is None or shutil.which("apt-get") is None:
        raise errors.LabError(f"this is no Debian: install {' '.join(wanted)} by your own means")
    missing = [package for package in wanted if not _is_installed(package)]
    if not missing:
        return
    command.require_root(f"installing {' '.join(missing)}")
    log.info("installing packages=%s", ",".join(missing))
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command.check(command.run(["apt-get", "update", "-q"], timeout_s=300, env=env))
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing]
    command.check(command.run(install, timeout_s=900, env=env))


def mirror() -> str:
    """Say where this machine takes Debian from, so that roots come from the same place.

    Raises: LabError if apt does not know, as before its first update.
    """
    targets = ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]
    for line in command.run(targets).out.splitlines():
        label, _, uri = line.partition(" ")
        if label == "Debian" and uri.startswith(("http:", "https:")):
            return uri
    raise errors.LabError("apt knows no Debian mirror yet: `apt-get update`, or add one to its sources")


def _is_installed(package: str) -> bool:
    asked = command.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package])
    return asked.ok and asked.out == "installed"
