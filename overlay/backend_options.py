"""The options under the network config's `Backend`, read as Go reads them: names in any case, unknown ones ignored.

Pure. Used by the backends. Raises `fields.FieldError`, which names the option as flannel spells it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from overlay import fields


class Options:
    """One backend's options. A value of null counts as absent."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._folded = {name.casefold(): value for name, value in options.items()}

    def number(self, name: str, *, default: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._folded.get(name.casefold())
        if value is None:
            return default
        if type(value) is not int or not low <= value <= high:
            raise fields.FieldError(f"{name}: expected a number from {low} to {high}, got {value!r}")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false when absent."""
        try:
            return fields.flag(self._folded, name.casefold(), default=False)
        except fields.FieldError as exc:
            raise fields.FieldError(str(exc).replace(name.casefold(), name, 1)) from exc

    def text(self, name: str) -> str:
        """A string, which must be there."""
        return fields.text(self._folded, name.casefold())

    def has(self, name: str) -> bool:
        """Whether there is such an option."""
        return self._folded.get(name.casefold()) is not None
