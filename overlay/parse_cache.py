"""Texts of other nodes, remembered as parsed: each is read twice at a start, and again after an outage.

Pure but for what it remembers. Used by the codecs of keys and values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TEXTS = 1 << 14
"""How many texts each codec remembers."""

LENGTH = 1 << 10
"""Characters. What flannel writes has some 200; longer texts are parsed each time, or they would fill the memory."""


def remember(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The same function, which parses a short text once. What it raises is not remembered."""
    remembered = functools.lru_cache(maxsize=TEXTS)(parse)

    @functools.wraps(parse)
    def parse_once(text: str) -> T:
        return remembered(text) if len(text) <= LENGTH else parse(text)

    return parse_once
