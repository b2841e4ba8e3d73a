"""The object graph: which adapter stands behind which port, and in which order they come to life.

Imported late and in the worker only (see `plugin.app`): it brings every outside client but the docker SDK.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import random
import threading
from collections.abc import Callable, Mapping

from driver import confirmation, host_ports_socket
from driver import endpoints as driver_endpoints
from driver import service as driver_service
from driver import store as driver_store
from ipam import endpoints as ipam_endpoints
from ipam import service as ipam_service
from ipam import store as ipam_store
from overlay import (
    etcd_client,
    etcd_settings,
    firewall_exec,
    firewalld,
    kernel_netlink,
    machine,
    member,
    netstate,
    node,
    nodes,
    nodestore,
    offload_watch,
    probe,
    processes,
    reconciler,
    registry,
    registry_etcd,
    registry_standalone,
    statefile,
    supervisor,
)
from plugin import audit, engine_watch, http, plugin_id, settings, sight

STATE_FILE = "flannelpy.db"
STATE_FILE_S = 5.0
"""Between two looks whether a state file that could not be written can be."""

HOST_PROC = pathlib.Path("/host/procfs")
STANDALONE_CONFIG = '{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan"}}'
"""The network of a host without etcd whose operator chose none."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """What runs."""

    settings: settings.Settings
    state: statefile.StateFile
    nodes: nodes.Nodes
    reconciler: reconciler.Reconciler
    ipam: ipam_service.Ipam
    driver: driver_service.Driver
    watch: engine_watch.EngineWatch
    audit: audit.Audit
    etcd_requests: Callable[[], Mapping[str, int]]
    """Requests sent to etcd since the start, by kind; none standalone."""
    offload: offload_watch.OffloadWatch
    methods: Mapping[str, http.Method]
    halt: threading.Event
    threads: list[threading.Thread]
    supervisor: supervisor.Supervisor = dataclasses.field(default_factory=supervisor.Supervisor)

    def start(self) -> None:
        """Everything saved is declared by now: let the background begin.

        The state file may have been lost, or be an old copy, and links that it does not name be those of containers
        that run: what stays of them is Docker's to say, and nothing is removed before (`_watch`).
        """
        background = (
            (self.reconciler.run, "reconciler"),
            (self.watch.run, "engine"),
            (self.nodes.follow_underlay, "underlay"),
            (self._keep_file_written, "state-file"),
            *([(self.offload.run, "offload")] if self.settings.tx_checksum == "auto" else []),
        )
        for run, name in background:
            thread = self.supervisor.start(name, functools.partial(run, self.halt), self.halt)
            self.threads.append(thread)  # what stops this waits for threads that run
        self.nodes.start()

    def stop(self) -> None:
        """End the background; what is programmed stays."""
        self.halt.set()
        self.nodes.stop()
        for thread in self.threads:
            thread.join(timeout=3)
        self.state.close()

    def _keep_file_written(self, stop: threading.Event) -> None:
        """After a full disk: what could not be written meanwhile is, and /readyz says so."""
        behind = False
        while not stop.wait(STATE_FILE_S):
            behind = behind or self.state.trouble is not None
            self.state.try_again()
            if self.state.trouble is None:
                for one in self.nodes.all():
                    with contextlib.suppress(statefile.StateFileError):  # full again: `trouble` tells
                        one.save_again()
                if behind:
                    self.driver.refresh()
                    behind = False


def build(
    chosen: settings.Settings,
    timing: engine_watch.Timing | None = None,
    supervisor_: supervisor.Supervisor | None = None,
) -> Graph:
    """Open, restore and connect. Raises OverlayError where the state file cannot be used."""
    schemas = (
        nodestore.SCHEMA,
        registry_standalone.SCHEMA,
        ipam_store.SCHEMA,
        driver_store.SCHEMA,
        confirmation.SCHEMA,
    )
    state = statefile.StateFile(pathlib.Path(chosen.state_dir) / STATE_FILE, schemas)
    try:
        return _connect(chosen, timing or engine_watch.Timing(), state, supervisor_ or supervisor.Supervisor())
    except BaseException:
        state.close()
        raise


def _connect(
    chosen: settings.Settings,
    timing: engine_watch.Timing,
    state: statefile.StateFile,
    watched: supervisor.Supervisor,
) -> Graph:
    kernel = kernel_netlink.KernelNetlink(_proc_sys())
    run_dir = pathlib.Path(chosen.run_dir)
    firewall = firewalld.Consenting(
        _firewall(chosen),
        firewalld.Zones(run_dir / "dbus/system_bus_socket"),
    )
    plumbing = reconciler.Reconciler(kernel, firewall, supervisor_=watched)
    store = nodestore.NodeStore(state)
    client = None if chosen.standalone else _etcd(chosen)
    make_registry = _registries(chosen, state, client)
    proc = _proc()

    def make_node(prefix: str) -> node.Node:
        ports = member.Ports(
            registry=make_registry(prefix),
            store=store,
            kernel=kernel,
            publish=plumbing.set,
            in_use=lambda: ipam.is_in_use(prefix),
            unless_in_use=lambda act: ipam.unless_in_use(prefix, act),
            claim_room=holdings.claim_room,
            pick=random.randrange,
            make_mac=_make_mac,
            changed=lambda: driver.refresh(),  # noqa: PLW0108 - the driver is built after the nodes
            flannelds=lambda: processes.find_flannelds(proc),
            previous=lambda: processes.read_subnet_env(run_dir / "flannel/subnet.env"),
            supervisor=watched,
            machine=lambda: machine.read_machine(pathlib.Path("/sys"), proc),
            shared=client is not None,
        )
        initial = chosen.network_config if prefix == chosen.etcd_prefix else ""
        options = member.Options(
            iface=chosen.iface,
            public_ip=chosen.public_ip,
            public_ipv6=chosen.public_ipv6,
            initial_config=initial,
            tx_checksum={"on": True, "off": False}.get(chosen.tx_checksum),
        )
        return node.Node(prefix, options, ports)

    holdings = nodes.Nodes(chosen.etcd_prefix, make_node, watched)
    plumbing.on_events(holdings.notice)
    ipam = ipam_service.Ipam(
        holdings,
        state,
        quarantine_s=chosen.address_quarantine_s,
        network_of=lambda cidr: watch.network_of(cidr),  # noqa: PLW0108 - the watch is built last
    )
    host = host_ports_socket.HostPortsSocket()
    driver = driver_service.Driver(driver_store.DriverStore(state), holdings, plumbing, host, supervisor_=watched)
    sources = sight.Sources(
        docker=_docker(chosen, state),
        state=state,
        driver=driver,
        ipam=ipam,
        nodes=holdings,
        reconciler=plumbing,
        kernel=kernel,
        filters=_firewall(chosen),
        make_registry=make_registry,
        default_prefix=chosen.etcd_prefix,
    )
    watch = _watch(chosen, sources, timing, watched)
    holdings.restore(store.prefixes())
    driver.restore()
    return Graph(
        settings=chosen,
        state=state,
        nodes=holdings,
        reconciler=plumbing,
        ipam=ipam,
        driver=driver,
        watch=watch,
        audit=audit.Audit(sources),
        etcd_requests=client.requests.read if client else dict,
        offload=offload_watch.OffloadWatch(holdings.all, probe.Probe(), random.randrange, supervisor_=watched),
        methods={**driver_endpoints.methods(driver), **ipam_endpoints.methods(ipam)},
        halt=threading.Event(),
        threads=[],
        supervisor=watched,
    )


def _registries(
    chosen: settings.Settings, state: statefile.StateFile, client: etcd_client.EtcdClient | None
) -> Callable[[str], registry.Registry]:
    """One registry for each prefix; those in etcd share one connection."""
    if client is None:
        config = chosen.network_config or STANDALONE_CONFIG
        return lambda prefix: registry_standalone.StandaloneRegistry(
            state, prefix, config if prefix == chosen.etcd_prefix else ""
        )
    return lambda prefix: registry_etcd.EtcdRegistry(client, prefix)


def _etcd(chosen: settings.Settings) -> etcd_client.EtcdClient:
    return etcd_client.EtcdClient(
        etcd_settings.EtcdSettings(
            endpoints=chosen.etcd_endpoints,
            ca_file=chosen.etcd_ca_file,
            cert_file=chosen.etcd_cert_file,
            key_file=chosen.etcd_key_file,
            username=chosen.etcd_username,
            password=chosen.etcd_password,
        )
    )


def _firewall(chosen: settings.Settings) -> firewall_exec.FirewallExec:
    return firewall_exec.FirewallExec(lockfile=str(pathlib.Path(chosen.run_dir) / "xtables.lock"))


def _docker(chosen: settings.Settings, state: statefile.StateFile) -> confirmation.ConfirmedEngine:
    """One for each thread that asks: the SDK's client is not made for two."""
    from driver import engine_docker  # late: the SDK is not needed to answer, and costs 100 ms

    address = chosen.docker_host or f"unix://{chosen.run_dir}/docker.sock"
    return confirmation.ConfirmedEngine(engine_docker.DockerEngine(address, plugin_id.read()), state)


def _watch(
    chosen: settings.Settings, sources: sight.Sources, timing: engine_watch.Timing, watched: supervisor.Supervisor
) -> engine_watch.EngineWatch:
    return engine_watch.EngineWatch(
        _docker(chosen, sources.state),
        sources.driver,
        sources.ipam,
        sources.nodes,
        functools.partial(sight.glance, sources),
        engine_watch.Options(
            default_network=chosen.default_network,
            complete=sources.reconciler.open_gate,
            timing=timing,
            supervisor=watched,
        ),
    )


def _proc_sys() -> pathlib.Path:
    """Docker makes a plugin's own /proc/sys read-only; `plugin/config.json` mounts a writable net part aside."""
    mounted = pathlib.Path("/host/proc/sys")
    return mounted if (mounted / "net").is_dir() else pathlib.Path("/proc/sys")


def _proc() -> pathlib.Path:
    """A managed plugin has a process namespace of its own; `plugin/config.json` mounts the host's /proc aside."""
    return HOST_PROC if (HOST_PROC / "self").is_symlink() else pathlib.Path("/proc")


def _make_mac() -> netstate.Mac:
    """Random, unicast, locally administered. Source: flannel pkg/mac/mac.go."""
    first = random.randrange(256) & 0xFE | 0x02  # noqa: S311 - a name, not a secret
    rest = (random.randrange(256) for _ in range(5))  # noqa: S311
    return netstate.Mac(":".join(f"{octet:02x}" for octet in (first, *rest)))
