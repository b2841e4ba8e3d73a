"""Where log lines go, and the last bad ones for /status.

dockerd takes each line of a plugin's stdout as info and of stderr as error, and 20.10 stops reading at a line of
64 KiB: lines are cut well before. Caller: `plugin.__main__` and `plugin.app`.
"""

from __future__ import annotations

import collections
import copy
import logging
import sys
import time

LINE_LIMIT = 4000
KEPT = 20


class Recent(logging.Handler):
    """Keeps the last warnings and errors."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: collections.deque[str] = collections.deque(maxlen=KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        self._lines.append(f"{stamp} {record.levelname.lower()} {_escape(record.getMessage())}"[:LINE_LIMIT])

    def lines(self) -> list[str]:
        """Oldest first."""
        return list(self._lines)


class _Short(logging.Formatter):
    """Changes a copy of the record, since other handlers get it too. A traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        line = copy.copy(record)
        line.levelname, line.message = record.levelname.lower(), _escape(record.message)
        text = super().formatMessage(line)
        return text if len(text) <= LINE_LIMIT else text[:LINE_LIMIT] + " [cut]"


def _escape(text: str) -> str:
    """One line in any encoding: what others sent us must neither look like a line of ours nor break the log."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def configure(level: str) -> Recent:
    """Set the process's logging up; a second call replaces the first."""
    shape = _Short("%(levelname)s %(name)s: %(message)s")
    out, err = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    out.addFilter(lambda record: record.levelno < logging.ERROR)
    err.setLevel(logging.ERROR)
    recent = Recent()
    for handler in (out, err):
        handler.setFormatter(shape)
    logging.basicConfig(level=level.upper(), handlers=[out, err, recent], force=True)
    for chatty in ("urllib3", "docker", "pyroute2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return recent
