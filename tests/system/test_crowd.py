"""Many containers started at the same moment on one host: all run, each with an address of its own.

How long 99 of 100 calls take is judged by `make matrix`, which has nothing run beside it.
"""

from __future__ import annotations

import threading

import pytest

from lab import crowd, site

COUNT = 100


@pytest.mark.long("28.5")
def test_a_hundred_containers_started_at_once_all_run_with_addresses_of_their_own(pair):
    """And nothing differs from what Docker knows, while they run and when they are gone."""
    seen = crowd.crowd([pair.h1], COUNT, "mynet")
    print(crowd.format_seen(seen))  # how quick the plugin was: pytest -s
    assert seen.troubles == []
    assert seen.containers == COUNT
    assert crowd.list_sluggish(seen.calls) == []
    assert crowd.judge([pair.h1], 0) == []


def test_many_containers_started_at_once_have_addresses_of_their_own(pair):
    names = [f"many{number}" for number in range(10)]
    threads = [
        threading.Thread(
            target=pair.h1.try_docker,
            args=("run", "-d", "--name", name, "--network", "mynet", "busybox", "sleep", "3600"),
            kwargs={"timeout_s": 120},
        )
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        addresses = [site.ip_of(pair.h1, name) for name in names]
        assert len(set(addresses)) == len(names)
        assert all(addresses)
    finally:
        pair.h1.docker("rm", "-f", *names, timeout_s=120)
