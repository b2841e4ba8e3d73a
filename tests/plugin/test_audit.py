"""The audit over the whole plugin in memory: each kind of difference is made by hand, and told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.plugin import memory_plugin
from tests.plugin.test_engine_watch import SEEN

Plugin = memory_plugin.MemoryPlugin


@pytest.fixture
def full(make_plugin: Callable[..., Plugin]) -> Plugin:
    """With its lease, one network and one container, of which all sides know."""
    plugin = make_plugin(saved=True).join()
    memory_plugin.fill(plugin)
    plugin.engine.networks = [SEEN]
    plugin.watch.look()
    plugin.reconciler.run_pass()
    return plugin


def told(plugin: Plugin) -> list[tuple[str, str]]:
    return [(one["kind"], one["object"]) for one in plugin.audit(0.0)["differences"]]


def test_where_all_agree_nothing_is_told(full: Plugin) -> None:
    sides = ("docker", "etcd", "state", "kernel", "firewall")
    assert full.audit(0.0) == {"differences": [], "looked_at": dict.fromkeys(sides, True), "troubles": {}}
