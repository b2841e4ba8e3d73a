"""Random operations with kills, a short run: `python -m lab random` is the long one."""

from __future__ import annotations

import pytest

from lab import random_run, site

pytestmark = pytest.mark.long("28.5")

PREFIX = "/random/network"
OPERATIONS = 60
SEED = 38
"""Of which containers publish natively, and are killed, stopped and disconnected."""


@pytest.fixture
def bare(pair):
    """h3 alone, which is bare, in a flannel network of its own: those of the others have their leases whole."""
    host = pair.lab.hosts["h3"]
    site.put_config(pair.lab, random_run.NETWORK_CONFIG, PREFIX)
    site.install(host, pair.image, ETCD_ENDPOINTS=pair.lab.etcd_endpoints, ETCD_PREFIX=PREFIX)
    yield host
    site.remove(host)


def test_nothing_leaks_and_nothing_is_doubled(pair, bare, capsys):
    options = random_run.Options(operations=OPERATIONS, seed=SEED)
    passed = random_run.RandomRun(options, pair.lab, [bare], prefix=PREFIX).run()
    assert passed, capsys.readouterr().out[-5000:]
