"""Which threads the plugin starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from plugin import settings
from tests.plugin import memory_plugin


@pytest.mark.parametrize(("setting", "asks"), [("auto", True), ("on", False), ("off", False)])
def test_only_auto_asks_about_checksum_offload(
    make_plugin: Callable[..., memory_plugin.MemoryPlugin], setting: str, asks: bool
) -> None:
    plugin = make_plugin(saved=True)
    chosen = dataclasses.replace(plugin.graph, settings=settings.Settings(tx_checksum=setting))
    chosen.start()
    try:
        names = {thread.name for thread in chosen.threads}
    finally:
        chosen.halt.set()
        for thread in chosen.threads:
            thread.join(timeout=5)
    assert ("offload" in names) is asks
    assert {"reconciler", "engine"} <= names
    assert not any(thread.is_alive() for thread in chosen.threads)


@pytest.mark.parametrize("known", [True, False])
def test_only_who_knows_networks_removes_before_docker_was_asked(
    make_plugin: Callable[..., memory_plugin.MemoryPlugin], monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    plugin = make_plugin(saved=True)
    if known:
        memory_plugin.fill(plugin)
    opened: list[None] = []
    monkeypatch.setattr(plugin.reconciler, "open_gate", lambda: opened.append(None))
    plugin.graph.start()
    plugin.graph.stop()
    assert bool(opened) is known
