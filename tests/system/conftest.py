"""The plugin installed for real: one lab of three hosts for each engine, brought up once for a test session.

h1 and h2 share one flannel network and stay as they are; h3 is for the tests that install the plugin their own way.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator

import pytest

import lab
from lab import plugin_image, site


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--engine 28.5` for one of them: `make test` runs one process for each, the others make a matrix."""
    parser.addoption("--engine", choices=lab.ENGINES, action="append", help="only this engine; may be repeated")
    parser.addoption("--firewall", choices=lab.FIREWALLS, default="iptables-nft", help="what the hosts filter with")
    parser.addoption("--live-restore", action="store_true", help="run every dockerd with live-restore")
    parser.addoption("--deal", action="store_true", help="of the tests marked long those of this engine alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that touches the lab runs on every engine asked for."""
    if "pair" in metafunc.fixturenames:
        engines = metafunc.config.getoption("--engine", default=None) or lab.ENGINES
        params = [pytest.param(each, marks=pytest.mark.system) for each in engines]
        metafunc.parametrize("pair", params, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """What takes long runs on one engine each with `--deal`, as in `make test`; on all of them in `make matrix`."""
    if not config.getoption("--deal"):
        return
    away = [item for item in items if not _is_dealt_here(item)]
    config.hook.pytest_deselected(items=away)
    items[:] = [item for item in items if item not in away]


def _is_dealt_here(item: pytest.Function) -> bool:
    mark = item.get_closest_marker("long")
    return mark is None or item.callspec.params["pair"] == mark.args[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A lab with the plugin on h1 and h2, and network `mynet` on both; h3 is bare."""

    lab: lab.Lab
    image: str

    @property
    def h1(self) -> lab.Host:
        return self.lab.hosts["h1"]

    @property
    def h2(self) -> lab.Host:
        return self.lab.hosts["h2"]


@pytest.fixture(scope="session")
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two hosts with plugin and network, a third one bare."""
    engine = request.param
    config = lab.LabConfig(
        name=f"sys{engine.replace('.', '')}p{os.getpid() % 100_000}",
        hosts=3,
        engine=engine,
        firewall=request.config.getoption("--firewall"),
        dockerd_args=("--live-restore",) if request.config.getoption("--live-restore") else (),
    )
    with lab.Lab.up(config) as built:
        made = Pair(built, plugin_image.push(built, plugin_image.build()))
        site.put_config(built)
        for host in (made.h1, made.h2):
            site.install(host, made.image, ETCD_ENDPOINTS=built.etcd_endpoints)
            site.create_network(host, "mynet")
        yield made
        # whatever all these tests did to the two, nothing is left that Docker, rows, kernel and etcd disagree about
        left = {host.name: site.audit(host)["differences"] for host in (made.h1, made.h2)}
        assert left == {"h1": [], "h2": []}


@dataclasses.dataclass(frozen=True, slots=True)
class Solo:
    """A host on which a test installs the plugin with settings of its own."""

    host: lab.Host
    lab: lab.Lab
    image: str

    def install(self, **settings: str) -> None:
        site.install(self.host, self.image, **settings)


@pytest.fixture
def solo(pair: Pair) -> Iterator[Solo]:
    """A host without the plugin; afterwards it is taken off again."""
    host = pair.lab.hosts["h3"]
    yield Solo(host, pair.lab, pair.image)
    site.remove(host)


Run = Callable[..., str]


@pytest.fixture
def run() -> Iterator[Run]:
    """Run a container that stays, give its name, remove it in the end."""
    made: list[tuple[lab.Host, str]] = []

    def start(host: lab.Host, *options: str, image: str = "busybox", network: str = "mynet") -> str:
        name = f"c{len(made)}"
        made.append((host, name))
        host.docker("run", "-d", "--name", name, "--network", network, *options, image, "sleep", "3600", timeout_s=90)
        return name

    yield start
    for host, name in made:
        host.try_docker("rm", "-f", name, timeout_s=90)
