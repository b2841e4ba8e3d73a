"""A fake of `overlay.holdings.Holdings`, and an Ipam on a real state file."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
from collections.abc import Callable, Iterator

import pytest

from ipam import service, store
from overlay import errors, lease, statefile

DEFAULT = "/coreos.com/network"


V6 = lease.HeldSubnetV6(
    network=ipaddress.IPv6Network("fd00:2::/48"),
    subnet=ipaddress.IPv6Network("fd00:2:0:14::/64"),
    device="flannel-v6.1",
)


def held(prefix: str, network: str, subnet: str, v6: lease.HeldSubnetV6 | None = None) -> lease.HeldSubnet:
    return lease.HeldSubnet(
        prefix=prefix,
        network=ipaddress.IPv4Network(network),
        subnet=ipaddress.IPv4Network(subnet),
        device="flannel.1",
        overlay_mtu=1450,
        v6=v6,
    )


class FakeHoldings:
    """Leases from a list; `wait` joins, `leave` forgets all but the default."""

    def __init__(self, *offered: lease.HeldSubnet) -> None:
        self.offered = {item.prefix: item for item in offered}
        self.joined = [DEFAULT] if DEFAULT in self.offered else []
        self.waited: list[tuple[str | None, float]] = []

    def wait(self, prefix: str | None, timeout_s: float) -> lease.HeldSubnet:
        self.waited.append((prefix, timeout_s))
        name = prefix or DEFAULT
        if name not in self.offered:
            raise errors.NotReady(f"no lease under {name} within {timeout_s:g} s: etcd does not answer")
        if name not in self.joined:
            self.joined.append(name)
        return self.offered[name]

    def held(self) -> list[lease.HeldSubnet]:
        return [self.offered[name] for name in self.joined]

    def holds(self, held: lease.HeldSubnet) -> bool:
        return held in self.held()

    def leave(self, prefix: str) -> None:
        if prefix != DEFAULT and prefix in self.joined:
            self.joined.remove(prefix)


class FakeClock:
    """Both clocks stand still until told."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000.0
        self.mono = 1000.0

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.mono += seconds

    def clock(self) -> service.Clock:
        return service.Clock(now=lambda: self.wall, monotonic=lambda: self.mono)


@dataclasses.dataclass
class World:
    """What outlives an Ipam: the file, the leases, the time."""

    path: pathlib.Path
    holdings: FakeHoldings
    clock: FakeClock
    files: list[statefile.StateFile]

    def start(self) -> service.Ipam:
        """A new process's Ipam on the same file."""
        state = statefile.StateFile(self.path, [store.SCHEMA])
        self.files.append(state)
        return service.Ipam(self.holdings, state, clock=self.clock.clock())

    def rows(self, sql: str) -> list[statefile.Row]:
        """What is on disk, read past the Ipam."""
        with self.files[-1].read() as tx:
            return tx.rows(sql)


@pytest.fixture(scope="session")
def world_in() -> Callable[[pathlib.Path], World]:
    """A world with one lease in a directory of its own, for properties: the caller closes the file."""

    def make(directory: pathlib.Path) -> World:
        holdings = FakeHoldings(held(DEFAULT, "10.2.0.0/16", "10.2.20.0/24"))
        return World(path=directory / "state.db", holdings=holdings, clock=FakeClock(), files=[])

    return make


@pytest.fixture
def make_world(tmp_path: pathlib.Path) -> Iterator[Callable[..., World]]:
    files: list[statefile.StateFile] = []

    def make(*leases: lease.HeldSubnet) -> World:
        return World(path=tmp_path / "state.db", holdings=FakeHoldings(*leases), clock=FakeClock(), files=files)

    yield make
    for state in files:
        state.close()


@pytest.fixture
def offer() -> Callable[..., lease.HeldSubnet]:
    """A lease under the default prefix: network, subnet, and an IPv6 network that is the subnet too."""

    def make(network: str, subnet: str, v6: str | None = None) -> lease.HeldSubnet:
        wide = ipaddress.IPv6Network(v6) if v6 else None
        return held(
            DEFAULT, network, subnet, None if wide is None else dataclasses.replace(V6, network=wide, subnet=wide)
        )

    return make


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """One lease, 10.2.20.0/24, under the default prefix; others on offer under /blue/network and /clash/network."""
    return make_world(
        held(DEFAULT, "10.2.0.0/16", "10.2.20.0/24"),
        held("/blue/network", "10.9.0.0/16", "10.9.7.0/24"),
        held("/clash/network", "10.0.0.0/8", "10.2.20.0/23"),
    )


@pytest.fixture
def dual_world(make_world: Callable[..., World]) -> World:
    """One lease of both families, 10.2.20.0/24 and fd00:2:0:14::/64; others on offer under /blue and /clash."""
    blue = dataclasses.replace(V6, subnet=ipaddress.IPv6Network("fd00:9:0:7::/64"))
    clash = dataclasses.replace(V6, subnet=ipaddress.IPv6Network("fd00:2::/56"))
    return make_world(
        held(DEFAULT, "10.2.0.0/16", "10.2.20.0/24", V6),
        held("/blue/network", "10.9.0.0/16", "10.9.7.0/24", blue),
        held("/clash/network", "10.10.0.0/16", "10.10.1.0/24", clash),
    )


@pytest.fixture
def dual(dual_world: World) -> service.Ipam:
    return dual_world.start()


@pytest.fixture
def ipam(world: World) -> service.Ipam:
    return world.start()
