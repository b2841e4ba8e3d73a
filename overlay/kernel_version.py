"""Whether this host's kernel is new enough.

Pure. Caller: `plugin.__main__`, with what `rtnl_socket` found out: distributions put new features into old kernels,
so the feature decides, and the release is for people.
"""

from __future__ import annotations

from overlay import errors

LEAST = (4, 20)
"""Since then dumps of links and neighbours are checked strictly: kernels before ignore the filter and tell all.

Source: netlink(7), NETLINK_GET_STRICT_CHK.
"""


def find_obstacle(release: str, *, has_strict_dumps: bool) -> errors.KernelTooOld | None:
    """Why nothing can work on this kernel, None where it can. `release`: as uname(2) tells it."""
    if has_strict_dumps:
        return None
    least = ".".join(map(str, LEAST))
    return errors.KernelTooOld(
        f"Linux {release} is too old: it does not check netlink requests strictly (NETLINK_GET_STRICT_CHK); "
        f"flannelpy needs Linux {least} or newer"
    )
