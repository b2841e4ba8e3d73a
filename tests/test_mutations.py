"""The table of mutations fits the sources of today: who changes a line that one of them breaks hears of it."""

from __future__ import annotations

import importlib
import pathlib
from typing import Any

import pytest


@pytest.fixture
def mutations(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, which is run by hand from its own directory."""
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parent)
    return importlib.import_module("mutations")


def test_every_edit_finds_its_line_exactly_once_and_changes_it(mutations: Any) -> None:
    assert mutations.check_edits() == []


def test_every_mutation_has_a_name_of_its_own_and_tests_that_are_there(mutations: Any) -> None:
    names = [one.name for one in mutations.MUTATIONS]
    assert sorted(set(names)) == sorted(names)
    assert [one.name for one in mutations.MUTATIONS if not (mutations.CHECKOUT / one.where).exists()] == []
