"""Which machine this is, as far as the machine itself can tell: a name that a copied disk does not take along.

Built by `plugin.graph`. The plugin sees neither /etc/machine-id nor, were it mounted, one that differs from that of
the machine it was cloned from: images keep it. Firmware's UUID is another for every virtual machine; boards without
firmware have the serial number of their processor. Containers share their host's: to be equal proves nothing.
"""

from __future__ import annotations

import hashlib
import pathlib

_LENGTH = 32


def read_machine(sys: pathlib.Path, proc: pathlib.Path) -> str | None:
    """A hash of the firmware's UUID or of the processor's serial number; None where there is neither."""
    name = _read(sys / "class/dmi/id/product_uuid").strip() or _read_serial(proc / "cpuinfo")
    return hashlib.sha256(name.lower().encode()).hexdigest()[:_LENGTH] if name else None


def _read_serial(cpuinfo: pathlib.Path) -> str:
    serials = (line for line in _read(cpuinfo).splitlines() if line.startswith("Serial"))
    return next(serials, "").partition(":")[2].strip()


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
