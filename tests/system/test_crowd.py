"""A hundred containers started at the same moment on one host: all run, each with an address of its own.

How long 99 of 100 calls take is judged by `make matrix`, which has nothing run beside it.
"""

from __future__ import annotations

import pytest

from lab import crowd

pytestmark = pytest.mark.long("28.5")

COUNT = 100


def test_a_hundred_containers_started_at_once_all_run_with_addresses_of_their_own(pair):
    """And nothing differs from what Docker knows, while they run and when they are gone."""
    seen = crowd.crowd([pair.h1], COUNT, "mynet")
    print(crowd.format_seen(seen))  # how quick the plugin was: pytest -s
    assert seen.troubles == []
    assert seen.containers == COUNT
    assert crowd.list_sluggish(seen.calls) == []
    assert crowd.judge([pair.h1], 0) == []
