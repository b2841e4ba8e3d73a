"""Kernel parameters below /proc/sys.

Used by `kernel_netlink` alone. In a managed plugin /proc/sys is mounted read-only; `plugin.graph` then gives the root
of the writable mount that plugin/config.json asks for. Source: sysctl(8) for the spelling of keys.
"""

from __future__ import annotations

import contextlib
import errno
import pathlib
from collections.abc import Collection

from overlay import faults

IPV6_FORWARDING = "net.ipv6.conf.all.forwarding"

_SWAPPED = str.maketrans("./", "/.")


class Sysctls:
    """The parameters of the network namespace that the calling thread is in."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root

    def read(self, key: str) -> str | None:
        """The value, white space made single; None where this kernel has no such parameter."""
        try:
            return " ".join(self._path(key).read_text().split())
        except OSError:
            return None

    def write(self, key: str, value: str, *, routerless: Collection[str] = ()) -> None:
        """Set a parameter. Raises OSError.

        A host that begins to forward IPv6 stops hearing router advertisements and forgets the default routes that it
        heard of, and is cut off: so links that hear them are told first to go on, but for the `routerless`.
        Source: kernel Documentation/networking/ip-sysctl.rst, accept_ra.
        """
        if key == IPV6_FORWARDING and value == "1":
            self._keep_hearing_routers(routerless)
        _write(self._path(key), value)

    def _keep_hearing_routers(self, routerless: Collection[str]) -> None:
        for link in sorted((self._root / "net/ipv6/conf").iterdir()):
            with contextlib.suppress(OSError):  # a link that has just gone
                hears = (link / "accept_ra").read_text().strip(), (link / "forwarding").read_text().strip()
                if link.name not in {"all", "default", *routerless} and hears == ("1", "0"):
                    _write(link / "accept_ra", "2")

    def _path(self, key: str) -> pathlib.Path:
        """`net.ipv4.conf.eth0/7.forwarding` is that of eth0.7: dots and slashes change places."""
        below = pathlib.PurePosixPath(key.translate(_SWAPPED))
        if below.is_absolute() or ".." in below.parts:  # by its text alone: each container's start comes by here
            raise PermissionError(errno.EPERM, f"{key} is no kernel parameter")
        return self._root / below


def _write(path: pathlib.Path, value: str) -> None:
    faults.reached("kernel.sysctl.before")
    path.write_text(value)
    faults.reached("kernel.sysctl.after")
