"""What the figures were measured on, in one line."""

from __future__ import annotations

import os
import pathlib
import platform

import lab


def describe(engine_host: lab.Host) -> str:
    """Processor, memory, kernel, distribution, engine, how busy the machine was."""
    version = engine_host.docker("version", "--format", "{{.Server.Version}}")
    return ", ".join(
        (
            f"{os.cpu_count()} x {_field('/proc/cpuinfo', 'model name', ':')}",
            f"{int(_field('/proc/meminfo', 'MemTotal', ':').split()[0]) / 1e6:.0f} GB",
            f"Linux {platform.release()}",
            _field("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
            f"Docker {version}",
            f"load {os.getloadavg()[0]:.1f}",
        )
    )


def _field(path: str, name: str, separator: str) -> str:
    for line in pathlib.Path(path).read_text().splitlines():
        key, _, value = line.partition(separator)
        if key.strip() == name:
            return value.strip()
    return "unknown"
