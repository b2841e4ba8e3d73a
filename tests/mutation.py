"""One way to break the product, as a value. The tables are in `mutations` and `mutations_no_lab`."""

from __future__ import annotations

import dataclasses

SYSTEM = "tests/system"


@dataclasses.dataclass(frozen=True, slots=True)
class Edit:
    """`old` stands exactly once in `file`."""

    file: str
    old: str
    new: str


@dataclasses.dataclass(frozen=True, slots=True)
class Mutation:
    """`tests` is a -k expression within `where`, and all that it selects must fail.

    `setup`: the fixture cannot but fail too.
    """

    name: str
    requirement: str
    tests: str
    edits: tuple[Edit, ...]
    setup: bool = False
    where: str = SYSTEM

    @property
    def needs_lab(self) -> bool:
        """Whether its tests are of the system suite."""
        return self.where == SYSTEM


def one(file: str, old: str, new: str = "") -> tuple[Edit, ...]:
    """The edit of a mutation that needs but one; without `new` the text goes."""
    return (Edit(file, old, new),)
