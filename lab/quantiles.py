"""What many measurements come to: values that were measured themselves, never between two. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed: always one that was measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def share_within(values: Sequence[float], limit: float) -> float:
    """How many of them are at most that, 0 to 1. At least one value."""
    return sum(one <= limit for one in values) / len(values)
