"""Commands of docs/operations.md as they are written there, for tests that run them."""

from __future__ import annotations

import pathlib

OPERATIONS = pathlib.Path(__file__).parents[1] / "docs/operations.md"


def cleaning_after_flanneld() -> list[str]:
    """The step that removes what flanneld left: chains and tables, and in the last line its files."""
    _, _, step = OPERATIONS.read_text().partition("\n5. Clean up what flanneld left")
    return [line for line in step.partition("\n## ")[0].splitlines() if line.startswith(" " * 8)]
