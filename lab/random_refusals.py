"""Which refusals of a random operation are in order. Pure.

Called by `random_run`. The plan knows nothing of refusals, so that it asks for what is not there, or not possible;
and what is under way when something is killed may fail, if it says so.
"""

from __future__ import annotations

import re
from typing import Final

_STATES: Final = (
    *("is not running", "is paused", "is already paused", "is not paused", "cannot start a paused container"),
    *("cannot (pause|resume) a stopped container", "OCI runtime pause failed: container not running"),
    "OCI runtime resume failed: container not paused",
    *("is already in use by container", "already exists", "is not connected to", "has active endpoints"),
    *("removal of container .* is already in progress", "is marked for removal", "is restarting", "is being removed"),
)
ALWAYS: Final = {
    "it is not there": r"^(404 .*[Nn]o such container|\d+ .*network \S+ not found)",
    "its state forbids it": rf"^(403|409|500) .*({'|'.join(_STATES)})",
    "its address is of a network that is gone": r"^(400|500) .*(invalid endpoint settings:|does not belong to any)",
    "the address is taken": r"^(403|500) .*address \S+ of pool \S+ is in use",
    "the port is taken": r"^500 .*port is already allocated",
    "the lease is taken": r"^500 IpamDriver.RequestPool: .*(is taken|overlaps pool)",
}
"""A name for each, and what Docker's status and words look like."""

AFTER_FAULTS: Final = {
    "nobody answers": r"^0 ",
    "the plugin was killed in the call": r"expected a JSON object, got an empty body",
    "the plugin is not there": r"flannelpy.*(not found|disabled|no such file|connection refused|EOF|reset by peer)",
}
"""Only where something was killed or stopped on the host not long ago."""


def name_of(refused: str, *, after_fault: bool) -> str | None:
    """The name of the rule that allows it; None for a refusal that is not in order."""
    rules = ALWAYS | AFTER_FAULTS if after_fault else ALWAYS
    return next((name for name, pattern in rules.items() if re.search(pattern, refused, re.DOTALL)), None)
