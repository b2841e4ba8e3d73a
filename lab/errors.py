"""The errors of the lab.

LabError                what a user of the lab can read and act on; the command line prints it without a traceback
├── ConfigError         the lab that was asked for cannot be built: which field, and what is possible
├── CommandFailed       a command answered with a non-zero code; carries the Result
└── Timeout             something did not come about in its time
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab import command


class LabError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(LabError):
    """The lab that was asked for cannot be built."""


class CommandFailed(LabError):
    """A command ended with a non-zero code."""

    def __init__(self, result: command.Result) -> None:
        """Message: the command as one would type it, the code, and the end of what it said."""
        said = (result.err.strip() or result.out.strip())[-2000:]
        super().__init__(f"`{result.line}` ended with code {result.code}: {said or 'it said nothing'}")
        self.result = result


class Timeout(LabError):
    """A bounded wait came to its end."""
