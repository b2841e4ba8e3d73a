"""The cache's keys."""

from __future__ import annotations

import pytest

from lab import errors, roots


def test_only_newer_suites_have_the_split_client() -> None:
    assert "docker-buildx" not in roots.packages_of("bookworm")
    assert "docker-buildx" in roots.packages_of("trixie")


def test_each_suite_has_a_root_of_its_own() -> None:
    assert roots.path_of("trixie").name.startswith("trixie-")
    assert roots.path_of("trixie") != roots.path_of("forky")


def test_an_unknown_engine_is_answered_with_those_there_are() -> None:
    with pytest.raises(errors.ConfigError, match=r"engine 19: one of 20\.10, 26\.1, 28\.5"):
        roots.suite_of("19")
