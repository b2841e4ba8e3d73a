"""dockerd and the plugin end at the worst moments: within calls, with and without live-restore."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import pytest

import lab
from lab import chaos_hosts, plugin_image, random_look, random_oracle, site
from overlay import faults
from tests.system import flags
from tests.system import talk as talks

CREATE = ("network", "create", "-d", "flannelpy", "--ipam-driver", "flannelpy")
RUN = ("run", "-d", "--name", "struck", "--network", "mynet", "busybox", "sleep", "3600")
PUBLISH = ("run", "-d", "--name", "struck", "--network", "native", "-p", "8099:80", "busybox", "sleep", "3600")
ENDS_S = 60.0
"""A call is repeated for 15 s at the most, and a start or an end has several."""
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


CASES = (
    Case("IpamDriver.RequestAddress", "state.commit.after", "worker", RUN),
    Case("NetworkDriver.CreateEndpoint", "kernel.link.after", "master", RUN),
    Case("NetworkDriver.Join", "state.commit.after", "worker", RUN),
    Case("NetworkDriver.ProgramExternalConnectivity", "handler.after", "master", PUBLISH),
    Case("NetworkDriver.Leave", "state.commit.before", "worker", ("rm", "-f", "struck"), RUN),
    Case("NetworkDriver.DeleteEndpoint", "handler.before", "master", ("rm", "-f", "struck"), RUN),
    Case("IpamDriver.ReleaseAddress", "handler.before", "worker", ("rm", "-f", "struck"), RUN),
    Case("IpamDriver.RequestPool", "state.commit.after", "master", (*CREATE, "--subnet", "{spare}", "struck")),
    Case("NetworkDriver.CreateNetwork", "firewall.write.after", "worker", (*CREATE, "--subnet", "{spare}", "struck")),
    Case(
        *("NetworkDriver.DeleteNetwork", "kernel.link.after", "master", ("network", "rm", "struck")),
        first=(*CREATE, "--subnet", "{spare}", "struck"),
    ),
    Case(
        *("IpamDriver.ReleasePool", "state.commit.before", "worker", ("network", "rm", "struck")),
        first=(*CREATE, "--subnet", "{spare}", "struck"),
    ),
)


def cases_of(engine, *, dealt):
    """Every case, or a share for each engine, all of them over the three."""
    return CASES[lab.ENGINES.index(engine) :: len(lab.ENGINES)] if dealt else CASES


@pytest.fixture
def faulty(pair, solo):
    """The host with a build of the plugin that takes orders, two networks, and a container that nobody touches."""
    variables = {faults.VARIABLE: "/host/run/faults"}
    image = plugin_image.push(pair.lab, plugin_image.build(), tag="faults", by=solo.host, env=variables)
    dataclasses.replace(solo, image=image).install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    (solo.host.root / "run/faults").mkdir(exist_ok=True)
    slices = slices_of(solo.host)
    site.create_network(solo.host, "mynet", "--subnet", slices[0])
    site.create_network(solo.host, "native", "--subnet", slices[1], "-o", "flannelpy.gateway=native")
    start(solo.host, "keeper", "mynet")
    return solo.host


def slices_of(host):
    """Quarters of the host's lease."""
    (told,) = site.status(host)["flannel_networks"]
    lease, _, length = told["subnet"].partition("/")
    assert length == "24"
    head = lease.rpartition(".")[0]
    return [f"{head}.{last}/26" for last in (0, 64, 128, 192)]


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
    """Hold the plugin where the case says, kill, let dockerd end what it does; what it said."""
    words = [word.replace("{spare}", spare) for word in case.words]
    orders = host.root / "run/faults"
    for name in ("held", "order"):
        (orders / name).unlink(missing_ok=True)
    if case.first:
        host.docker(*(word.replace("{spare}", spare) for word in case.first), timeout_s=ENDS_S)
    order = faults.Order(point=case.point, handler=case.method, action="hold")
    (orders / "order.new").write_text(json.dumps(dataclasses.asdict(order)))
    (orders / "order.new").rename(orders / "order")
    said = []
    thread = threading.Thread(target=lambda: said.append(host.try_docker(*words, timeout_s=ENDS_S)))
    thread.start()
    site.wait_for(f"held: {case}", (orders / "held").exists, 20)
    master, worker = chaos_hosts.plugin_pids(host)
    host.exec(["kill", "-9", worker if case.victim == "worker" else master])
    thread.join(ENDS_S + 10)
    assert said, f"{case}: docker did not end"
    (orders / "held").unlink()
    return said[0]


def test_kills_within_the_engines_calls_leave_nothing(request, pair, faulty):
    spare = slices_of(faulty)[2]
    address = site.ip_of(faulty, "keeper")
    for case in cases_of(pair.lab.config.engine, dealt=request.config.getoption("--deal")):
        wait_clean(faulty, f"the slice is free for {case}")
        said = strike(faulty, case, spare)
        site.wait_ready(faulty)
        if case.words[0] in ("run", "network") and case.words[1] != "rm":
            assert not said.ok, f"{case}: the repeat has no body, and yet it was answered"
        else:
            assert said.ok, f"{case}: {said.err}"  # the engine only logs what fails at an end
        faulty.try_docker("rm", "-f", "struck", timeout_s=ENDS_S)
        faulty.try_docker("network", "rm", "struck", timeout_s=ENDS_S)
        start(faulty, "after", "mynet")
        faulty.docker("rm", "-f", "after", timeout_s=ENDS_S)
    wait_clean(faulty, "nothing left")
    assert site.ip_of(faulty, "keeper") == address
    gateway = slices_of(faulty)[0].replace(".0/26", ".1")
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
    slices = slices_of(solo.host)
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
