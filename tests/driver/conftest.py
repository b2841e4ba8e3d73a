"""A driver over a kernel and a firewall in memory, with a real state file."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from driver import endpoint, endpoints, host_ports_fake, names, network, service, store
from overlay import errors, fields, firewall_fake, kernel_fake, lease, netstate, reconciler, statefile

NETWORK_ID = names.NetworkId("4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e")
OTHER_NETWORK_ID = names.NetworkId("7f84cb89bbd1fc848023e910ba4fdc258d9add842940b85e68dedf598ce9fae8")
ENDPOINT_ID = names.EndpointId("1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809")
OTHER_ENDPOINT_ID = names.EndpointId("2b3d5839100ae6fd7bc96fd96e49592f486cc36c69dc46fcb34c794e9954bbcf")

HELD = lease.HeldSubnet(
    prefix="/coreos.com/network",
    network=ipaddress.IPv4Network("10.2.0.0/16"),
    subnet=ipaddress.IPv4Network("10.2.20.0/24"),
    device="flannel.1",
    overlay_mtu=1450,
)


HELD_V6 = lease.HeldSubnetV6(
    network=ipaddress.IPv6Network("fd00:2::/48"),
    subnet=ipaddress.IPv6Network("fd00:2:0:14::/64"),
    device="flannel-v6.1",
)


class FixedHoldings:
    """This host's leases as a list that a test writes."""

    def __init__(self, *leases: lease.HeldSubnet) -> None:
        self.leases = list(leases)

    def wait(self, prefix: str | None, timeout_s: float) -> lease.HeldSubnet:
        for one in self.leases:
            if prefix in (None, one.prefix):
                return one
        raise errors.NotReady(f"no lease under {prefix} within {timeout_s:g} s")

    def held(self) -> list[lease.HeldSubnet]:
        return list(self.leases)

    def holds(self, held: lease.HeldSubnet) -> bool:
        return held in self.leases

    def leave(self, prefix: str) -> None:
        self.leases = [one for one in self.leases if one.prefix != prefix]


@dataclasses.dataclass
class Host:
    """One host: what outlives the plugin (file, kernel, firewall, leases), and the driver of the moment."""

    path: pathlib.Path
    files: list[statefile.StateFile]
    holdings: FixedHoldings = dataclasses.field(default_factory=lambda: FixedHoldings(HELD))
    kernel: kernel_fake.KernelFake = dataclasses.field(default_factory=kernel_fake.KernelFake)
    firewall: firewall_fake.FirewallFake = dataclasses.field(default_factory=firewall_fake.FirewallFake)
    ports: host_ports_fake.HostPortsFake = dataclasses.field(default_factory=host_ports_fake.HostPortsFake)
    reconciler: reconciler.Reconciler = dataclasses.field(init=False)
    driver: service.Driver = dataclasses.field(init=False)

    def start(self) -> Host:
        """A new process on the same host."""
        for file in self.files:
            file.close()
        self.files.append(statefile.StateFile(self.path, [store.SCHEMA]))
        self.reconciler = reconciler.Reconciler(self.kernel, self.firewall)
        self.ports.held.clear()  # sockets go with their process
        rows = store.DriverStore(self.files[-1])
        # However busy the machine: the fake's guard is written at once, and a test looks at it
        self.driver = service.Driver(
            rows, self.holdings, self.reconciler, self.ports, timing=service.Timing(guard_wait_s=10.0)
        )
        self.driver.restore()
        self.reconciler.open_gate()
        return self

    def store(self) -> store.DriverStore:
        return store.DriverStore(self.files[-1])

    def links(self) -> set[str]:
        """The links of ours in the kernel, once the background has done its work."""
        self.reconciler.run_pass()
        seen = self.kernel.observe(netstate.EMPTY)
        return {obj.name for obj in seen if isinstance(obj, netstate.Link)}

    def call(self, name: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """One call of the engine, past HTTP."""
        return endpoints.methods(self.driver)[f"NetworkDriver.{name}"](fields.parse_object(json.dumps(body)))

    def create_network(
        self, network_id: str = NETWORK_ID, pool: str = "10.2.20.0/24", pool_v6: str = "", **options: str
    ) -> None:
        generic = {key.replace("__", "."): value for key, value in options.items()}
        told = {"com.docker.network.enable_ipv6": bool(pool_v6), "com.docker.network.generic": generic}
        pools = {"IPv4Data": [pool_data(pool)], "IPv6Data": [pool_data(pool_v6)] if pool_v6 else []}
        self.call("CreateNetwork", {"NetworkID": network_id, "Options": told, **pools})

    def give_ipv6(self) -> None:
        """This host's lease has IPv6 from now on."""
        self.holdings.leases[0] = dataclasses.replace(self.holdings.leases[0], v6=HELD_V6)

    def change_mtu(self, overlay_mtu: int) -> None:
        """The underlay's MTU changed, and the lease tells."""
        self.holdings.leases[0] = dataclasses.replace(self.holdings.leases[0], overlay_mtu=overlay_mtu)
        self.driver.refresh()

    def create_endpoint(
        self,
        endpoint_id: str = ENDPOINT_ID,
        address: str = "10.2.20.5/24",
        network_id: str = NETWORK_ID,
        address_v6: str = "",
    ) -> Mapping[str, Any]:
        interface = {"Address": address, "AddressIPv6": address_v6, "MacAddress": ""}
        ids = {"NetworkID": network_id, "EndpointID": endpoint_id}
        return self.call("CreateEndpoint", {**ids, "Interface": interface, "Options": {}})

    def join(self, endpoint_id: str = ENDPOINT_ID, ports: int = 0, network_id: str = NETWORK_ID) -> Mapping[str, Any]:
        portmap = [{"Proto": 6, "IP": "", "Port": 80 + n, "HostIP": "", "HostPort": 8080 + n} for n in range(ports)]
        ids = {"NetworkID": network_id, "EndpointID": endpoint_id, "SandboxKey": "/var/run/docker/netns/b6f0529d4689"}
        return self.call("Join", {**ids, "Options": {"com.docker.network.portmap": portmap}})

    def leave(self, endpoint_id: str = ENDPOINT_ID) -> Mapping[str, Any]:
        return self.call("Leave", {"NetworkID": NETWORK_ID, "EndpointID": endpoint_id})

    def delete_endpoint(self, endpoint_id: str = ENDPOINT_ID) -> Mapping[str, Any]:
        return self.call("DeleteEndpoint", {"NetworkID": NETWORK_ID, "EndpointID": endpoint_id})

    def known(self) -> tuple[list[network.Network], list[endpoint.Endpoint]]:
        """What the driver knows, which must be what the file says."""
        told = self.driver.networks(), self.driver.endpoints()
        assert self.store().load() == told
        return told


def pool_data(pool: str) -> dict[str, str]:
    """An element of IPv4Data or IPv6Data."""
    net = ipaddress.ip_network(pool)
    return {"AddressSpace": "flannelpy", "Pool": pool, "Gateway": f"{net[1]}/{net.prefixlen}"}


@pytest.fixture
def make_host(tmp_path: pathlib.Path) -> Iterator[Callable[[], Host]]:
    files: list[statefile.StateFile] = []
    yield lambda: Host(path=tmp_path / "state.db", files=files).start()
    for file in files:
        file.close()


@pytest.fixture
def host(make_host: Callable[[], Host]) -> Host:
    return make_host()
