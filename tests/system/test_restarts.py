"""dockerd and the plugin end at the worst moments: within calls, with and without live-restore."""

from __future__ import annotations

import dataclasses
import ipaddress
import time

import pytest

import lab
from lab import random_look, random_oracle, site
from tests.system import flags, orders
from tests.system import talk as talks

CREATE = ("network", "create", "-d", "flannelpy", "--ipam-driver", "flannelpy")
RUN = ("run", "-d", "--name", "struck", "--network", "mynet", "busybox", "sleep", "3600")
PUBLISH = ("run", "-d", "--name", "struck", "--network", "native", "-p", "8099:80", "busybox", "sleep", "3600")
ENDS_S = orders.ENDS_S
MENDED_S = 120.0


@dataclasses.dataclass(frozen=True)
class Case:
    """`victim` is killed while the plugin is held at `point` of `method`, which `words` make dockerd call."""

    method: str
    point: str
    victim: str
    words: tuple[str, ...]
    first: tuple[str, ...] = ()

    def __str__(self):
        return f"{self.victim} at {self.point} of {self.method}"

    @property
    def goes_on(self):
        return self.method in GOES_ON


RM, RM_NETWORK = ("rm", "-f", "struck"), ("network", "rm", "struck")
MAKE_NETWORK = (*CREATE, "--subnet", "{spare}", "struck")
CASES = (
    Case("IpamDriver.RequestPool", "state.commit.after", "master", MAKE_NETWORK),
    Case("IpamDriver.RequestPool", "state.commit.before", "worker", MAKE_NETWORK),
    Case("IpamDriver.RequestAddress", "state.commit.after", "worker", RUN),
    Case("IpamDriver.RequestAddress", "state.commit.after", "master", RUN),
    Case("NetworkDriver.CreateNetwork", "firewall.write.after", "worker", MAKE_NETWORK),
    Case("NetworkDriver.CreateNetwork", "kernel.link.after", "master", MAKE_NETWORK),
    Case("NetworkDriver.CreateEndpoint", "kernel.link.after", "master", RUN),
    Case("NetworkDriver.CreateEndpoint", "state.commit.after", "worker", RUN),
    Case("NetworkDriver.Join", "state.commit.after", "worker", RUN),
    Case("NetworkDriver.Join", "state.commit.after", "master", RUN),
    Case("NetworkDriver.ProgramExternalConnectivity", "handler.after", "master", PUBLISH),
    Case("NetworkDriver.ProgramExternalConnectivity", "port.reserve.after", "worker", PUBLISH),
    Case("NetworkDriver.EndpointOperInfo", "handler.before", "worker", RUN),
    Case("NetworkDriver.EndpointOperInfo", "handler.after", "master", RUN),
    Case("NetworkDriver.RevokeExternalConnectivity", "state.commit.after", "worker", RM, PUBLISH),
    Case("NetworkDriver.RevokeExternalConnectivity", "port.release.before", "master", RM, PUBLISH),
    Case("NetworkDriver.Leave", "state.commit.before", "worker", RM, RUN),
    Case("NetworkDriver.Leave", "state.commit.after", "master", RM, RUN),
    Case("NetworkDriver.DeleteEndpoint", "handler.before", "master", RM, RUN),
    Case("NetworkDriver.DeleteEndpoint", "state.commit.after", "worker", RM, RUN),
    Case("IpamDriver.ReleaseAddress", "handler.before", "worker", RM, RUN),
    Case("IpamDriver.ReleaseAddress", "state.commit.after", "master", RM, RUN),
    Case("IpamDriver.ReleasePool", "state.commit.before", "worker", RM_NETWORK, MAKE_NETWORK),
    Case("IpamDriver.ReleasePool", "state.commit.after", "master", RM_NETWORK, MAKE_NETWORK),
    Case("NetworkDriver.DeleteNetwork", "kernel.link.after", "master", RM_NETWORK, MAKE_NETWORK),
    Case("NetworkDriver.DeleteNetwork", "state.commit.after", "worker", RM_NETWORK, MAKE_NETWORK),
)
GOES_ON = frozenset(
    {
        "NetworkDriver.EndpointOperInfo",
        "NetworkDriver.RevokeExternalConnectivity",
        "NetworkDriver.Leave",
        "NetworkDriver.DeleteEndpoint",
        "IpamDriver.ReleaseAddress",
        "IpamDriver.ReleasePool",
        "NetworkDriver.DeleteNetwork",
    }
)
"""What fails in these the engine only logs; the others fail, for the repeat of a broken call has no body."""


def cases_of(engine, *, dealt):
    """Every case, or a share for each engine, all of them over the three."""
    return CASES[lab.ENGINES.index(engine) :: len(lab.ENGINES)] if dealt else CASES


@pytest.fixture
def faulty(pair, solo):
    """The host with a build of the plugin that takes orders, two networks, and a container that nobody touches."""
    orders.install(pair, solo)
    slices = orders.slices_of(solo.host)
    site.create_network(solo.host, "mynet", "--subnet", slices[0])
    site.create_network(solo.host, "native", "--subnet", slices[1], "-o", "flannelpy.gateway=native")
    start(solo.host, "keeper", "mynet")
    return solo.host


def spares_of(host):
    """One for each network that is struck: what is left of it keeps its slice for a while."""
    third, last = (ipaddress.ip_network(one) for one in orders.slices_of(host)[2:])
    return [str(each) for quarter in (third, last) for each in quarter.subnets(new_prefix=29)]


def start(host, name, network, *options, image="busybox"):
    words = ("--name", name, "--network", network, *options, image, "sleep", "3600")
    host.docker("run", "-d", *words, timeout_s=90)
    return name


def leftovers(host):
    return [str(each) for each in random_oracle.differences(random_look.look(host))]


def wait_clean(host, what):
    """Until Docker, the plugin, its file and the kernel agree."""
    last = ["nothing seen yet"]

    def clean():
        nonlocal last
        try:
            last = leftovers(host)
        except lab.LabError as exc:
            last = [str(exc)]
        return not last

    try:
        site.wait_for(what, clean, MENDED_S)
    except lab.LabError as exc:
        raise AssertionError(f"{exc}: {last}") from None


def strike(host, case, spare):
    """Kill where the case says; what docker said."""
    words, first = ([word.replace("{spare}", spare) for word in each] for each in (case.words, case.first))
    if first:
        host.docker(*first, timeout_s=ENDS_S)
    return orders.strike(host, words, case.victim, point=case.point, handler=case.method)


def test_kills_within_the_engines_calls_leave_nothing(request, pair, faulty):
    """What the next case meets is what the last one left; in the end all of it has to be gone."""
    spares = iter(spares_of(faulty))
    address = site.ip_of(faulty, "keeper")
    for case in cases_of(pair.lab.config.engine, dealt=request.config.getoption("--deal")):
        said = strike(faulty, case, next(spares) if "{spare}" in (*case.words, *case.first) else "")
        site.wait_ready(faulty)
        assert said.ok is case.goes_on, f"{case}: {said.err or 'the repeat has no body, and yet it was answered'}"
        faulty.try_docker("rm", "-f", "struck", timeout_s=ENDS_S)
        faulty.try_docker("network", "rm", "struck", timeout_s=ENDS_S)
        start(faulty, "after", "mynet")
        faulty.docker("rm", "-f", "after", timeout_s=ENDS_S)
    wait_clean(faulty, "nothing left")
    assert site.ip_of(faulty, "keeper") == address
    gateway = orders.slices_of(faulty)[0].replace(".0/26", ".1")
    assert "1 packets received" in site.inside(faulty, "keeper", f"ping -c 1 -w 5 {gateway}")


@pytest.fixture
def dockerd(solo):
    """Gives the host's dockerd other flags for one test."""
    with flags.other_flags(solo.host) as restart_with:
        yield restart_with


def away(host, how):
    """dockerd ends, is away for two seconds, and comes back."""
    if how == "stopped":
        host.stop_dockerd(timeout_s=60)
    else:
        host.kill_dockerd()
    time.sleep(2)
    host.start_dockerd()


def test_with_live_restore_traffic_goes_on_while_dockerd_is_away(pair, solo, run, dockerd):
    dockerd("--live-restore")
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    bare = site.kernel_of(solo.host)["links"]
    site.create_network(solo.host, "mynet")
    start(solo.host, "near", "mynet", image="flannelpy-tools")
    start(solo.host, "kept", "mynet", "--restart", "always")
    far = run(pair.h1, image="flannelpy-tools")
    talk = talks.Talk(solo.host, "near", pair.h1, far)
    talk.start()
    addresses = [site.ip_of(solo.host, name) for name in ("near", "kept")]
    for how in ("stopped", "killed"):
        away(solo.host, how)
        assert talk.longest_gap_s() <= talks.GAP_S, how
        assert [site.ip_of(solo.host, name) for name in ("near", "kept")] == addresses, how
        start(solo.host, "after", "mynet")
        solo.host.docker("rm", "-f", "after", timeout_s=60)
    talk.check()
    wait_clean(solo.host, "nothing left")
    solo.host.docker("stop", "-t", "1", "near", timeout_s=60)
    solo.host.docker("rm", "-f", "near", "kept", timeout_s=60)
    solo.host.docker("network", "rm", "mynet", timeout_s=60)
    site.wait_for("links as before", lambda: site.kernel_of(solo.host)["links"] == bare, 20)
    wait_clean(solo.host, "nothing left without networks")


def test_without_live_restore_containers_come_back_however_dockerd_ended(pair, solo, run, dockerd):
    dockerd()
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    slices = orders.slices_of(solo.host)
    site.create_network(solo.host, "mynet", "--subnet", slices[0])
    site.create_network(solo.host, "other", "--subnet", slices[1])
    address = slices[0].replace(".0/26", ".40")
    start(solo.host, "fixed", "mynet", "--restart", "always", "--ip", address)
    start(solo.host, "published", "mynet", "--restart", "always", "-p", "8080:80")
    solo.host.docker("network", "connect", "other", "fixed", timeout_s=60)
    peer = site.ip_of(pair.h1, run(pair.h1))
    for how in ("stopped", "killed"):
        away(solo.host, how)
        for name in ("fixed", "published"):
            site.wait_for(f"{name} is back", lambda name=name: solo.host.try_docker("exec", name, "true").ok, 40)
            pings = solo.host.try_docker("exec", name, "ping", "-c", "2", "-w", "10", peer)
            assert "2 packets received" in pings.out, f"{how}: {name}"
        assert site.ip_of(solo.host, "fixed") == address, how
        assert site.ip_of(solo.host, "fixed", "other"), how
    wait_clean(solo.host, "nothing left")
