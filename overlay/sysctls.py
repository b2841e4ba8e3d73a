"""Kernel parameters below /proc/sys.

Used by `kernel_netlink` alone. In a managed plugin /proc/sys is mounted read-only; its mount is made writable when
the first write meets that, which CAP_SYS_ADMIN allows. Source: sysctl(8) for the spelling of keys, mount(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 2, 4, 8, 32, 4096

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

    def write(self, key: str, value: str) -> None:
        """Set a parameter. Raises OSError."""
        path = self._path(key)
        try:
            path.write_text(value)
        except OSError as exc:
            if exc.errno != errno.EROFS:
                raise
            self._remount()
            path.write_text(value)

    def _path(self, key: str) -> pathlib.Path:
        """`net.ipv4.conf.eth0/7.forwarding` is that of eth0.7: dots and slashes change places."""
        path = self._root / key.translate(_SWAPPED)
        if not path.resolve().is_relative_to(self._root.resolve()):
            raise PermissionError(errno.EPERM, f"{key} is no kernel parameter")
        return path

    def _remount(self) -> None:
        """`mount -o remount,bind,rw /proc/sys`: of this mount alone, with the flags that a runtime gives it."""
        libc = ctypes.CDLL(None, use_errno=True)
        flags = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_NOEXEC
        if libc.mount(None, os.fsencode(self._root), None, flags, None) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"{self._root} is read-only and cannot be remounted: {os.strerror(code)}")
