"""Whatever an engine does to the API, and whatever breaks on the way: nothing stays that Docker does not know.

A model of the engine makes its calls in its own orders (libnetwork.md §2.7, §2.8, §2.10), and one of them goes wrong:
its answer is lost, so that the engine repeats it without a body and takes the refusal for the answer; it never comes;
the plugin is killed after it; the packet filter refuses it. After every step addresses, endpoints, links, rules and
rows are those that the model knows, where the engine told nothing after the background's looks.
`--hypothesis-profile long` makes it longer, and other than the last time.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import pathlib
import tempfile
from typing import Any

import hypothesis
import pytest
from hypothesis import stateful
from hypothesis import strategies as st

from driver import desired, engine, names
from overlay import firewall_fake, kernel_fake, netstate
from tests.plugin import memory_plugin
from tests.plugin.test_hostile import SHM, no_tracebacks

LONG = hypothesis.settings.get_current_profile_name() == "long"
SLICES = ("10.2.1.0/26", "10.2.1.64/28", "10.2.1.128/25")
SHORT_IDS = ("4d5d70de7705", "1a2299da1bc9")
"""Ids begin with one of these: many are alike in what names are made from."""

ENGINES = st.sampled_from(("20.10", "29"))
FAULTS = st.tuples(st.sampled_from(("none", "none", "unheard", "never", "crash", "refused")), st.integers(0, 6))
LOOKS = 6


@dataclasses.dataclass(slots=True)
class Net:
    """A network that Docker knows."""

    id: str
    pool_id: str
    cidr: str
    gateway: str
    internal: bool


@dataclasses.dataclass(slots=True)
class End:
    """An endpoint that Docker knows."""

    id: str
    net: Net
    address: str


class Leaks(stateful.RuleBasedStateMachine):
    """The engine. A call that fails is None to it."""

    def __init__(self) -> None:
        super().__init__()
        self._silence = no_tracebacks()
        self._silence.__enter__()
        self.directory = tempfile.TemporaryDirectory(dir=SHM)
        self.plugin = memory_plugin.MemoryPlugin(pathlib.Path(self.directory.name), saved=True)
        self.client = self.plugin.client()
        self.nets: dict[str, Net] = {}
        self.ends: dict[str, End] = {}
        self.made = 0
        self.fault, self.fault_at, self.calls = "none", 0, 0
        self.untold = False

    def teardown(self) -> None:
        self.plugin.close()
        self.directory.cleanup()
        self._silence.__exit__(None, None, None)

    # what goes over the wire

    def begin(self, fault: tuple[str, int]) -> None:
        (self.fault, self.fault_at), self.calls = fault, 0

    def post(self, method: str, data: bytes) -> tuple[int, Any]:
        response = self.client.post(f"/{method}", data=data)
        return response.status_code, json.loads(response.data)

    def call(self, method: str, **body: object) -> Any:
        """One call with its fault."""
        fault = self.fault if self.calls == self.fault_at else "none"
        self.calls += 1
        if fault == "never":
            self.untold = True
            return None
        self.plugin.firewall.refusal = "nft: no" if fault == "refused" else None
        status, answer = self.post(method, json.dumps(body).encode())
        self.plugin.firewall.refusal = None
        if fault == "crash":
            self.restart()
        if fault == "unheard":
            assert self.post(method, b"")[0] == 400
            status = 400
        if status != 200:
            assert fault in ("unheard", "refused"), (method, body, answer)
            self.untold = True
            return None
        return answer

    def restart(self) -> None:
        self.plugin.close()
        self.plugin = memory_plugin.MemoryPlugin(pathlib.Path(self.directory.name), host=self.plugin)
        self.client = self.plugin.client()

    def new_id(self) -> str:
        self.made += 1
        return f"{SHORT_IDS[self.made % 2]}{self.made:052x}"

    # networks

    @stateful.precondition(lambda self: len(self.nets) < len(SLICES))
    @stateful.rule(fault=FAULTS, internal=st.booleans())
    def create_network(self, fault: tuple[str, int], internal: bool) -> None:
        self.begin(fault)
        cidr = next(one for one in SLICES if one not in {net.cidr for net in self.nets.values()})
        pool = self.call("IpamDriver.RequestPool", AddressSpace="flannelpy", Pool=cidr, SubPool="", Options={})
        if pool is None:
            return
        purpose = {"RequestAddressType": "com.docker.network.gateway"}
        gateway = self.call("IpamDriver.RequestAddress", PoolID=pool["PoolID"], Address="", Options=purpose)
        if gateway is not None:
            net = Net(self.new_id(), pool["PoolID"], cidr, gateway["Address"], internal)
            data = {"AddressSpace": "flannelpy", "Pool": pool["Pool"], "Gateway": net.gateway}
            options = {"com.docker.network.generic": {}, "com.docker.network.internal": internal}
            made = self.call("NetworkDriver.CreateNetwork", NetworkID=net.id, Options=options, IPv4Data=[data])
            if made is not None:
                self.nets[net.id] = net
                return
            self.release(pool["PoolID"], net.gateway)
        self.call("IpamDriver.ReleasePool", PoolID=pool["PoolID"])  # and no DeleteNetwork

    @stateful.precondition(lambda self: self.free_nets())
    @stateful.rule(fault=FAULTS, data=st.data())
    def remove_network(self, fault: tuple[str, int], data: st.DataObject) -> None:
        self.begin(fault)
        net = data.draw(st.sampled_from(self.free_nets()))
        self.release(net.pool_id, net.gateway)
        self.call("IpamDriver.ReleasePool", PoolID=net.pool_id)
        self.call("NetworkDriver.DeleteNetwork", NetworkID=net.id)
        del self.nets[net.id]

    def free_nets(self) -> list[Net]:
        used = {end.net.id for end in self.ends.values()}
        return [net for net in self.nets.values() if net.id not in used]

    # containers

    @stateful.precondition(lambda self: self.nets and len(self.ends) < 12)
    @stateful.rule(fault=FAULTS, version=ENGINES, data=st.data())
    def start(self, fault: tuple[str, int], version: str, data: st.DataObject) -> None:
        self.begin(fault)
        net = data.draw(st.sampled_from(list(self.nets.values())))
        named = {"com.docker.network.endpoint.name": f"c{self.made % 4}"} if version == "29" else None
        granted = self.call("IpamDriver.RequestAddress", PoolID=net.pool_id, Address="", Options=named)
        if granted is None:
            return
        assert granted["Address"] not in {net.gateway, *(end.address for end in self.ends.values())}
        end = End(self.new_id(), net, granted["Address"])
        ids = {"NetworkID": net.id, "EndpointID": end.id}
        interface = {"Address": end.address, "AddressIPv6": "", "MacAddress": ""}
        if self.call("NetworkDriver.CreateEndpoint", **ids, Interface=interface, Options={}) is None:
            self.release(net.pool_id, end.address)  # and no DeleteEndpoint
            return
        if not self.join(end):
            self.tear_down(end, leaves={"20.10": 0, "29": 1}[version])
        elif self.call("NetworkDriver.ProgramExternalConnectivity", **ids, Options={}) is None:
            self.tear_down(end, leaves={"20.10": 1, "29": 2}[version])
        elif self.call("NetworkDriver.EndpointOperInfo", **ids) is None and version == "20.10":
            self.tear_down(end, leaves=1)
        else:
            self.ends[end.id] = end

    def join(self, end: End) -> bool:
        ids = {"NetworkID": end.net.id, "EndpointID": end.id}
        joined = self.call("NetworkDriver.Join", **ids, SandboxKey="/var/run/docker/netns/x", Options={})
        if joined is not None:
            self.plugin.kernel.take_away(netstate.IfName(joined["InterfaceName"]["SrcName"]))
        return joined is not None

    def tear_down(self, end: End, *, leaves: int = 1, revoke: bool = False) -> None:
        ids = {"NetworkID": end.net.id, "EndpointID": end.id}
        for method in (*("RevokeExternalConnectivity",) * revoke, *("Leave",) * leaves, "DeleteEndpoint"):
            self.call(f"NetworkDriver.{method}", **ids)
        self.release(end.net.pool_id, end.address)
        self.ends.pop(end.id, None)

    def release(self, pool_id: str, address: str) -> None:
        self.call("IpamDriver.ReleaseAddress", PoolID=pool_id, Address=address.partition("/")[0])

    @stateful.precondition(lambda self: self.ends)
    @stateful.rule(fault=FAULTS, data=st.data())
    def stop(self, fault: tuple[str, int], data: st.DataObject) -> None:
        self.begin(fault)
        self.tear_down(data.draw(st.sampled_from(list(self.ends.values()))), revoke=True)

    @stateful.precondition(lambda self: self.ends)
    @stateful.rule(fault=FAULTS, died=st.booleans(), data=st.data())
    def leave_and_join_again(self, fault: tuple[str, int], died: bool, data: st.DataObject) -> None:
        """As with legacy links: Docker brings the container's end back, unless it died with its namespace."""
        self.begin(fault)
        end = data.draw(st.sampled_from(list(self.ends.values())))
        ours = {one.id: one for one in self.plugin.driver.endpoints()}[names.EndpointId(end.id)]
        left = self.call("NetworkDriver.Leave", NetworkID=end.net.id, EndpointID=end.id) is not None
        if left and died:
            nowhere = netstate.BridgePort(name=ours.host_end, bridge=netstate.IfName(""), mtu=0)
            self.plugin.kernel.delete(nowhere)
        elif not self.plugin.kernel.has_link(ours.container_end):
            self.plugin.kernel.bring_back(ours.container_end)
        if not self.join(end):
            self.tear_down(end)

    # lives

    @stateful.rule()
    def kill_the_plugin(self) -> None:
        self.restart()

    @stateful.precondition(lambda self: self.ends)
    @stateful.rule(fault=FAULTS, version=ENGINES, reboot=st.booleans())
    def kill_dockerd(self, fault: tuple[str, int], version: str, reboot: bool) -> None:
        """The next dockerd ends what it finds in its file; after a reboot there is nothing in the kernel either."""
        self.begin(fault)
        if reboot:
            self.plugin.kernel = kernel_fake.KernelFake([memory_plugin.node_host.ETH0])
            self.plugin.firewall = firewall_fake.FirewallFake()
        self.restart()
        for end in list(self.ends.values()):
            self.tear_down(end, revoke=version == "20.10")

    @stateful.invariant()
    def nothing_is_there_but_what_docker_knows(self) -> None:
        self.plugin.reconciler.run_pass()
        if self.untold:
            self.look_until_nothing_is_left()
            self.untold = False
        plugin = self.plugin
        networks, endpoints = plugin.driver.networks(), plugin.driver.endpoints()
        assert {net.id for net in networks} == set(self.nets)
        assert {(end.id, str(end.address), end.joined) for end in endpoints} == {
            (end.id, end.address, True) for end in self.ends.values()
        }
        granted = sorted(str(one.ip) for one in plugin.ipam.addresses())
        known = [one.gateway for one in self.nets.values()] + [one.address for one in self.ends.values()]
        assert granted == sorted(one.partition("/")[0] for one in known)
        assert {str(usage.cidr) for usage in plugin.ipam.usage()} == {net.cidr for net in self.nets.values()}
        rows = plugin.rows()
        assert [len(rows[table]) for table in ("networks", "endpoints", "ipam_pools")] == [
            len(networks), len(endpoints), len(self.nets),
        ]  # fmt: skip
        links = {obj.name for obj in plugin.kernel.observe(netstate.EMPTY) if isinstance(obj, netstate.Link)}
        ours = [*(net.bridge for net in networks), *(end.host_end for end in endpoints)]
        assert links - {"flannel.1"} == set(ours)
        assert len(ours) == len(set(ours))
        assert plugin.firewall.plan == desired.firewall_plan(networks)

    def look_until_nothing_is_left(self) -> None:
        """As the background does, some minutes later."""
        self.plugin.engine.networks = [self.shown(net) for net in self.nets.values()]
        for _ in range(LOOKS):
            done = self.plugin.watch.look()
            self.plugin.reconciler.run_pass()
        assert done == []

    def shown(self, net: Net) -> engine.EngineNetwork:
        """What Docker's API tells of a network."""
        gateway = ipaddress.IPv4Interface(net.gateway)
        ends = (
            engine.EngineEndpoint(id=names.EndpointId(end.id), address=ipaddress.IPv4Interface(end.address), mac=None)
            for end in self.ends.values()
            if end.net is net
        )
        return engine.EngineNetwork(
            id=names.NetworkId(net.id),
            name=net.id[:12],
            ours=True,
            ipam_ours=True,
            pools=(engine.EnginePool(cidr=gateway.network, gateway=gateway.ip),),
            internal=net.internal,
            endpoints=tuple(ends),
        )


Leaks.TestCase.settings = hypothesis.settings(
    max_examples=1500 if LONG else 150,
    stateful_step_count=50 if LONG else 20,
    derandomize=not LONG,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.mark.timeout(7200 if LONG else 300)
class TestNothingLeaks(Leaks.TestCase):  # type: ignore[misc, name-defined]
    """unittest's way to run a state machine."""
