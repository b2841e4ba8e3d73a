"""The whole plugin in memory: real rooms over the kernel, firewall, registry and engine that ship as fakes."""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import pathlib
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flask.testing

from driver import confirmation, creation, endpoint, engine, host_ports_fake, names, network
from driver import endpoints as driver_endpoints
from driver import errors as driver_errors
from driver import service as driver_service
from driver import store as driver_store
from ipam import endpoints as ipam_endpoints
from ipam import requests
from ipam import service as ipam_service
from ipam import store as ipam_store
from overlay import (
    errors,
    firewall_fake,
    flanneld,
    kernel_fake,
    lease,
    member,
    netstate,
    node,
    nodes,
    nodestore,
    offload,
    offload_watch,
    reconciler,
    registry_fake,
    statefile,
    supervisor,
)
from plugin import audit, engine_watch, graph, http, metrics, report, settings, sight, uninstall
from tests.overlay import node_host

CONSTANTS = {**driver_endpoints.CONSTANT, **ipam_endpoints.constants(sticky_mac=False)}
SAVED = nodestore.SavedNode(
    prefix=node_host.PREFIX,
    config=node_host.CONFIG,
    key=node_host.key("10.2.1.0/24"),
    attrs=node_host.attrs("192.0.2.1", node_host.MAC),
    mac=node_host.MAC,
)
DUAL = dataclasses.replace(
    SAVED,
    config=node_host.CONFIG.replace("{", '{"EnableIPv6": true, "IPv6Network": "fd00:2::/48", ', 1),
    key=lease.SubnetKey(v4=SAVED.key.v4, v6=ipaddress.IPv6Network("fd00:2:0:1::/64")),
    attrs=dataclasses.replace(
        SAVED.attrs,
        public_ipv6=ipaddress.IPv6Address("2001:db8::1"),
        backend_v6_data='{"VNI":1,"VtepMAC":"0e:00:00:00:00:02"}',
    ),
    mac_v6=netstate.Mac("0e:00:00:00:00:02"),
)
"""The same host in a flannel network of both families."""

ETH0 = dataclasses.replace(
    node_host.ETH0, addresses_v6=(ipaddress.IPv6Interface("2001:db8::1/64"),), has_default_route_v6=True
)
ADDRESSES = (ipaddress.IPv4Address("192.0.2.1"), ipaddress.IPv6Address("2001:db8::1"))
"""The host's own."""

SUPERVISION = supervisor.Timing(first_s=0.01, cap_s=0.05, well_s=0.3)
TIMING = engine_watch.Timing(period_s=0.01, confirm_s=0.01, retry_s=0.01, grace_s=0.0)


class FakeEngine:
    """Docker as a list that a test writes; fails with `failure` while that is set."""

    def __init__(self) -> None:
        self.networks: list[engine.EngineNetwork] = []
        self.failure: str | None = None
        self.refusal: str | None = None
        self.identity = engine.Identity(id="ENGINE", has_plugin=True)
        self.created: list[str] = []
        self.asked = 0
        self.meanwhile: Callable[[int], None] = lambda _asked: None
        """What else happens just before the look of this number."""

    def identify(self) -> engine.Identity:
        return self.identity

    def list_networks(self, known: Collection[names.NetworkId]) -> list[engine.EngineNetwork]:
        self.asked += 1
        self.meanwhile(self.asked)
        self._check(self.failure)
        return list(self.networks)

    def create_network(self, name: str) -> None:
        self._check(self.failure or self.refusal)
        if name not in self.created:
            self.created.append(name)

    @staticmethod
    def _check(failure: str | None) -> None:
        if failure is not None:
            raise driver_errors.EngineError(failure)


class SilentPeers:
    """Peers that answer no question about checksum offload."""

    def ask(self, _tunnel: offload.Tunnel) -> offload.Answers:
        return offload.Answers(kernel=False, crafted=False)


class MemoryPlugin:
    """One host's plugin, as `plugin.app` builds it. Implements `http.Core`."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        default_network: str = "",
        saved: bool = False,
        dual: bool = False,
        firewall: firewall_fake.FirewallFake | None = None,
        registry: registry_fake.FakeRegistry | None = None,
        host: MemoryPlugin | None = None,
        gate_open: bool = True,
    ) -> None:
        """`saved`: the state file knows the lease already, so that all works without any thread; `dual`: with IPv6.

        `host`: on the kernel, behind the engine and with the registry of that plugin, which has ended. `gate_open`
        False: passes remove nothing yet, as after any start.
        """
        schemas = (nodestore.SCHEMA, ipam_store.SCHEMA, driver_store.SCHEMA, confirmation.SCHEMA)
        self.state = statefile.StateFile(directory / "state.db", schemas)
        self.kernel = host.kernel if host else kernel_fake.KernelFake([ETH0 if dual else node_host.ETH0])
        self.firewall = firewall or (host.firewall if host else firewall_fake.FirewallFake())
        fresh = registry or registry_fake.FakeRegistry((DUAL if dual else SAVED).config)
        self.registry = host.registry if host else fresh
        self.engine = host.engine if host else FakeEngine()
        self.supervisor = supervisor.Supervisor(SUPERVISION)
        self.store = nodestore.NodeStore(self.state)
        self.reconciler = reconciler.Reconciler(self.kernel, self.firewall, supervisor_=self.supervisor)
        self.nodes = nodes.Nodes(node_host.PREFIX, self._make_node, self.supervisor)
        self.ago_s = 0.0
        """How long ago addresses are granted now, and networks and endpoints made."""

        def monotonic() -> float:
            return time.monotonic() - self.ago_s

        clock = ipam_service.Clock(monotonic=monotonic)
        self.ipam = ipam_service.Ipam(self.nodes, self.state, clock=clock, lease_wait_s=0.2)
        self.host_ports = host_ports_fake.HostPortsFake(*ADDRESSES)
        self.driver = driver_service.Driver(
            driver_store.DriverStore(self.state),
            self.nodes,
            self.reconciler,
            self.host_ports,
            timing=driver_service.Timing(guard_wait_s=10.0, monotonic=monotonic),
            supervisor_=self.supervisor,
        )
        self.sources = sight.Sources(
            docker=confirmation.ConfirmedEngine(self.engine, self.state),
            state=self.state,
            driver=self.driver,
            ipam=self.ipam,
            nodes=self.nodes,
            reconciler=self.reconciler,
            kernel=self.kernel,
            filters=self.firewall,
            make_registry=lambda _prefix: self.registry,
            default_prefix=node_host.PREFIX,
        )
        self.watch = self.make_watch(TIMING, default_network)
        self.auditor = audit.Audit(self.sources, wait_s=5.0)
        self.table = {**driver_endpoints.methods(self.driver), **ipam_endpoints.methods(self.ipam)}
        self.graph = graph.Graph(
            settings=settings.Settings(),
            state=self.state,
            nodes=self.nodes,
            reconciler=self.reconciler,
            ipam=self.ipam,
            driver=self.driver,
            watch=self.watch,
            audit=self.auditor,
            etcd_requests=lambda: {"list": 2},
            offload=offload_watch.OffloadWatch(
                self.nodes.all, SilentPeers(), lambda _count: 0, supervisor_=self.supervisor
            ),
            methods=self.table,
            halt=threading.Event(),
            threads=[],
            supervisor=self.supervisor,
        )
        self.not_ready: errors.OverlayError | None = None
        self.flannelds: tuple[flanneld.Flanneld, ...] = ()
        self.observed: list[tuple[str, int]] = []
        self.metered = metrics.Metrics(lambda: report.samples(self.graph))
        if saved:
            nodestore.NodeStore(self.state).save(DUAL if dual else SAVED)
        self.nodes.restore(nodestore.NodeStore(self.state).prefixes())
        self.driver.restore()
        if gate_open:
            self.reconciler.open_gate()

    def make_watch(
        self,
        timing: engine_watch.Timing,
        default_network: str = "",
        complete: Callable[[], None] = lambda: None,
    ) -> engine_watch.EngineWatch:
        return engine_watch.EngineWatch(
            confirmation.ConfirmedEngine(self.engine, self.state),
            self.driver,
            self.ipam,
            self.nodes,
            functools.partial(sight.glance, self.sources),
            engine_watch.Options(
                default_network=default_network, complete=complete, timing=timing, supervisor=self.supervisor
            ),
        )

    def join(self) -> MemoryPlugin:
        """With its lease."""
        self.nodes.start()
        self.nodes.wait(None, 5)
        one = self.nodes.all()[0]
        node_host.until(lambda: one.status().followed and one.status().confirmed)
        return self

    def client(self) -> flask.testing.FlaskClient:
        app = http.make_app(self, CONSTANTS)
        app.testing = True
        return app.test_client()

    def close(self) -> None:
        self.nodes.stop()
        self.state.close()

    def rows(self) -> dict[str, list[statefile.Row]]:
        """All that Docker's calls write into the state file."""
        tables = ("networks", "endpoints", "ipam_pools", "ipam_addresses", "nodes")
        with self.state.read() as tx:
            return {table: tx.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables}  # noqa: S608

    def state_of_all(self) -> object:
        """Whatever a refused call must not change."""
        return (
            self.driver.networks(),
            self.driver.endpoints(),
            self.ipam.usage(),
            [(one.pool_id, one.ip, one.kind) for one in self.ipam.addresses()],
            self.kernel.observe(netstate.EMPTY),
            self.firewall.plan,
            self.firewall.guarded,
            self.rows(),
            self.host_ports.list_held(),
        )

    def methods(self) -> Mapping[str, http.Method]:
        if self.not_ready is not None:
            raise self.not_ready
        return self.table

    def observe(self, name: str, seconds: float, status: int) -> None:
        self.observed.append((name, status))
        self.metered.observe_call(name, seconds, status)

    def peers(self) -> Mapping[str, Any]:
        return {"peers": report.peers(self.graph)}

    def examine(self, subnets: frozenset[str]) -> Mapping[str, Any]:
        return {"peers": report.examine(self.graph, subnets)}

    def status(self) -> Mapping[str, Any]:
        return report.status(self.graph)

    def audit(self, settle_s: float, *, repair: bool) -> Mapping[str, Any]:
        return self.auditor.repair(settle_s) if repair else self.auditor.report(settle_s)

    def uninstall(self) -> Mapping[str, Any]:
        uninstall.require_unused(self.graph)
        return {"left": uninstall.remove_all(self.graph)}

    def missing(self) -> tuple[str, ...]:
        return tuple(report.missing(self.graph))

    def metrics(self) -> tuple[bytes, str]:
        return self.metered.render(), metrics.CONTENT_TYPE

    def _make_node(self, prefix: str) -> node.Node:
        ports = member.Ports(
            registry=self.registry,
            store=self.store,
            kernel=self.kernel,
            publish=self.reconciler.set,
            in_use=lambda: self.ipam.is_in_use(prefix),
            unless_in_use=lambda act: self.ipam.unless_in_use(prefix, act),
            claim_room=self.nodes.claim_room,
            pick=lambda _count: 0,
            make_mac=lambda: node_host.MAC,
            changed=lambda: self.driver.refresh(),  # noqa: PLW0108 - made after the nodes
            flannelds=lambda: self.flannelds,
            supervisor=self.supervisor,
        )
        return node.Node(prefix, member.Options(), ports, timing=node_host.FAST)


NETWORK_ID = names.NetworkId("4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e")
ENDPOINT_ID = names.EndpointId("1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809")
POOL = requests.PoolRequest()
NO_OPTIONS = network.Options()


def moved(plugin: MemoryPlugin, address: str) -> str:
    """The underlay gets another address, and the kernel tells; the address alone."""
    interface = ipaddress.IPv4Interface(address)
    plugin.kernel.set_underlays([dataclasses.replace(node_host.ETH0, addresses=(interface,))])
    return str(interface.ip)


def fill_network(plugin: MemoryPlugin, options: network.Options = NO_OPTIONS) -> str:
    """A network on the whole lease; its pool's id."""
    granted = plugin.ipam.request_pool(POOL)
    gateway = requests.AddressRequest(pool_id=granted.id, purpose=requests.Purpose.GATEWAY)
    data = creation.PoolData(
        address_space="flannelpy",
        pool=ipaddress.IPv4Network(granted.cidr),
        gateway=ipaddress.IPv4Interface(plugin.ipam.request_address(gateway)),
    )
    plugin.driver.create_network(creation.Request(id=NETWORK_ID, v4=(data,), options=options))
    return granted.id


def take(plugin: MemoryPlugin, ip: str) -> None:
    """One address of the only pool, for an endpoint that never comes."""
    (usage,) = plugin.ipam.usage()
    plugin.ipam.request_address(requests.AddressRequest(pool_id=usage.id, ip=ipaddress.ip_address(ip)))


def fill(plugin: MemoryPlugin, options: network.Options = NO_OPTIONS) -> None:
    """A network on the whole lease, and one endpoint in it."""
    address = plugin.ipam.request_address(requests.AddressRequest(pool_id=fill_network(plugin, options)))
    plugin.driver.create_endpoint(
        endpoint.Endpoint(id=ENDPOINT_ID, network_id=NETWORK_ID, address=address, mac=names.mac_of(address.ip))
    )
