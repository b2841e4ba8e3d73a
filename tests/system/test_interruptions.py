"""The plugin goes away and comes back under running containers: no connection and no address is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
import time

import pytest

from lab import command, plugin_image, site
from tests.system import talk as talks


@pytest.fixture
def talk(pair, run):
    client, server = (run(host, image="flannelpy-tools") for host in (pair.h1, pair.h2))
    made = talks.Talk(pair.h1, client, pair.h2, server)
    made.start()
    return made


def state_of(host):
    """What must be the same afterwards: the endpoints, the lease and the addresses used, the MAC that peers know."""
    told = site.status(host)
    endpoints = sorted(end["address"] for end in told["endpoints"])
    leases = [net["subnet"] for net in told["flannel_networks"]]
    used = [(pool["pool"], pool["used"]) for pool in told["addresses"]]
    return endpoints, leases, used, host.exec(["cat", "/sys/class/net/flannel.1/address"])


def plugin_pids(host):
    """(master, worker) of the plugin as the host sees them; None for one that is not there at the moment."""
    rows = [line.split(None, 2) for line in host.exec(["ps", "-eo", "pid,ppid,args"]).splitlines()]
    plugin = {pid: ppid for pid, ppid, args in rows if "-m plugin" in args and "docker" not in args}
    master = next((pid for pid, ppid in plugin.items() if ppid not in plugin), None)
    return master, next((pid for pid, ppid in plugin.items() if ppid == master), None)


def worker_of(host):
    return plugin_pids(host)[1]


@contextlib.contextmanager
def disabled(host, alias=site.PLUGIN):
    """The plugin is off meanwhile, and ready again afterwards."""
    host.docker("plugin", "disable", "-f", alias, timeout_s=60)
    try:
        yield
    finally:
        host.docker("plugin", "enable", alias, timeout_s=60)
    site.wait_ready(host)


def test_kill_9_of_the_worker_loses_nothing(pair, talk):
    pair.h1.docker("run", "--rm", "--network", "mynet", "busybox", "true", timeout_s=60)  # is not to come back
    before = state_of(pair.h1)
    old = worker_of(pair.h1)
    pair.h1.exec(["kill", "-9", old])
    site.wait_for("a new worker", lambda: worker_of(pair.h1) not in (old, None), 10)
    site.wait_ready(pair.h1)
    assert state_of(pair.h1) == before
    talk.check()
    pair.h1.docker("run", "--rm", "--network", "mynet", "busybox", "true", timeout_s=60)
    site.wait_for("addresses as before", lambda: state_of(pair.h1) == before)


def test_kill_9_of_the_whole_plugin_loses_nothing(pair, talk):
    before = state_of(pair.h1)
    master, _ = plugin_pids(pair.h1)
    pair.h1.exec(["kill", "-9", master])
    time.sleep(0.5)
    site.wait_ready(pair.h1)
    assert state_of(pair.h1) == before
    talk.check()


def test_disable_and_enable_lose_nothing(pair, talk):
    before = state_of(pair.h1)
    with disabled(pair.h1):
        assert not (pair.h1.root / site.SOCKET).exists(), "the classic socket would answer 'connection refused'"
    assert state_of(pair.h1) == before
    talk.check()
    pair.h1.docker("run", "--rm", "--network", "mynet", "busybox", "true", timeout_s=60)


@pytest.fixture
def newer(pair, tmp_path):
    """A later build in the registry, which says so in /status."""
    built = plugin_image.build()
    command.check(command.run(["cp", "-a", "--reflink=auto", str(built.rootfs), str(tmp_path / "rootfs")]))
    package = tmp_path / "rootfs/app/plugin"
    for compiled in package.glob("__pycache__/__init__*"):
        compiled.unlink()
    (package / "__init__.py").write_text('__version__ = "99.0.0"\n')
    return plugin_image.push(pair.lab, dataclasses.replace(built, rootfs=tmp_path / "rootfs"), tag="99.0", by=pair.h2)


@pytest.fixture
def chosen(pair):
    """What an upgrade must keep; afterwards it is as before.

    A mount's source is given at the installation (test_tls): once dockerd was restarted it cannot be set any more.
    """
    yield ("LOG_LEVEL=debug",)
    with disabled(pair.h1):
        pair.h1.docker("plugin", "set", site.PLUGIN, "LOG_LEVEL=info")


@pytest.fixture
def page(pair):
    """Gives the address that a third machine has at a port of h1 that the plugin publishes itself."""
    config, prefix = '{"Network": "10.65.0.0/16", "Backend": {"Type": "vxlan", "VNI": 65}}', "/upgrade/network"
    site.put_config(pair.lab, config, prefix)
    options = ("--ipam-opt", f"flannelpy.prefix={prefix}", "-o", "flannelpy.gateway=native")
    site.create_network(pair.h1, "native", *options)
    start = ("run", "-d", "--name", "page", "--network", "native", "-p", "8080:80")
    pair.h1.docker(*start, "busybox", "sleep", "3600", timeout_s=60)
    site.serve_who(pair.h1, "page")
    yield lambda: pair.lab.client.exec(["curl", "-sS", "-m", "3", f"http://{pair.h1.ip}:8080/cgi-bin/who"]).strip()
    pair.h1.docker("rm", "-f", "page", timeout_s=60)
    pair.h1.docker("network", "rm", "native", timeout_s=60)


def settings_of(host):
    return json.loads(host.docker("plugin", "inspect", "-f", "{{json .Settings}}", site.PLUGIN))


def test_an_upgrade_loses_nothing(pair, talk, newer, chosen, page):
    before = state_of(pair.h1)
    options = ("--grant-all-permissions", "--skip-remote-check")  # or it asks whether another tag is meant
    with disabled(pair.h1):
        pair.h1.docker("plugin", "set", site.PLUGIN, *chosen)
        settings = settings_of(pair.h1)
        pair.h1.docker("plugin", "upgrade", *options, site.PLUGIN, newer, timeout_s=120)
    assert site.status(pair.h1)["version"] == "99.0.0"
    assert settings_of(pair.h1) == settings
    assert "LOG_LEVEL=debug" in settings["Env"]
    assert page() == pair.lab.plan.client.ip
    assert state_of(pair.h1) == before
    talk.check()
    pair.h1.docker("run", "--rm", "--network", "mynet", "busybox", "true", timeout_s=60)


LOSE_STATE = """
import glob, os

for path in glob.glob("/var/lib/docker/plugins/*/propagated-mount/flannelpy.db*"):
    os.remove(path)
"""


def test_a_lost_state_file_is_made_again_of_what_docker_knows(pair, talk):
    before = state_of(pair.h1)
    with disabled(pair.h1):
        pair.h1.exec(["python3", "-c", LOSE_STATE])
    site.wait_for("all is known again", lambda: state_of(pair.h1) == before, 60)
    talk.check(lost=50)  # between a network's adoption and its endpoints' its guard knows no container
    site.wait_for("nothing differs", lambda: not site.audit(pair.h1)["differences"], 60)


ALIAS = "overlaynet:2"


@pytest.fixture
def aliased(solo):
    """The plugin under a name of the operator's own, with a network on a slice and no --gateway."""
    site.install(solo.host, solo.image, alias=ALIAS, ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    lease = ipaddress.ip_network(site.status(solo.host)["flannel_networks"][0]["subnet"])
    slice_ = next(lease.subnets(prefixlen_diff=2))
    drivers = ("-d", ALIAS, "--ipam-driver", ALIAS, "--subnet", str(slice_))
    solo.host.docker("network", "create", *drivers, "mynet", timeout_s=60)
    yield solo.host
    site.remove(solo.host, alias=ALIAS)


def test_a_lost_state_file_costs_nothing_under_an_alias_of_the_operators_own(pair, aliased, run):
    """Nothing in the state file, and no name of ours, tells that the network is the plugin's."""
    peer = site.ip_of(pair.h2, run(pair.h2))
    one = run(aliased)
    before = state_of(aliased), aliased.exec(["ls", "/sys/class/net"])
    assert "2 packets received" in site.inside(aliased, one, f"ping -c 2 -w 10 {peer}")
    with disabled(aliased, ALIAS):
        aliased.exec(["python3", "-c", LOSE_STATE])
    site.wait_for("all is known again", lambda: state_of(aliased) == before[0], 60)
    site.wait_for("nothing differs", lambda: not site.audit(aliased)["differences"], 60)
    engine = site.status(aliased)["engine"]
    assert (engine["reachable"], engine["confirmed"], engine["refused"]) == (True, True, {})
    assert aliased.exec(["ls", "/sys/class/net"]) == before[1]
    assert "2 packets received" in site.inside(aliased, one, f"ping -c 2 -w 10 {peer}")


def test_containers_start_while_etcd_is_down(pair, run):
    peer = site.ip_of(pair.h2, run(pair.h2))
    members = list(pair.lab.etcd.values())
    for member in members:
        member.stop_etcd()
    try:
        one = run(pair.h1)
        assert "2 packets received" in site.inside(pair.h1, one, f"ping -c 2 -w 5 {peer}")
        pair.h1.docker("plugin", "disable", "-f", site.PLUGIN, timeout_s=60)
        started = time.monotonic()
        pair.h1.docker("plugin", "enable", site.PLUGIN, timeout_s=60)
        assert time.monotonic() - started < 8
        another = run(pair.h1)
        assert "2 packets received" in site.inside(pair.h1, another, f"ping -c 2 -w 5 {peer}")
    finally:
        for member in members:
            member.start_etcd()
    site.wait_ready(pair.h1)


def test_a_restarted_dockerd_finds_its_containers_network(pair, run):
    peer = site.ip_of(pair.h2, run(pair.h2))
    one = run(pair.h1, "--restart", "always")
    pair.h1.restart_dockerd()
    site.wait_for("the container is back", lambda: pair.h1.try_docker("exec", one, "true").ok)
    assert "2 packets received" in site.inside(pair.h1, one, f"ping -c 2 -w 10 {peer}")


def leases_of(pair, host):
    """A host's keys in etcd, and what they hold."""
    lines = pair.lab.etcdctl("get", "--prefix", f"{site.PREFIX}/subnets/").splitlines()
    found = {key: json.loads(value) for key, value in zip(lines[::2], lines[1::2], strict=True)}
    return {key: value for key, value in found.items() if value["PublicIP"] == host.ip}


@pytest.mark.parametrize("etcd_is_up", [True, False])
def test_a_rebooted_host_brings_its_containers_back(pair, solo, run, etcd_is_up):
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.create_network(solo.host, "mynet")
    start = ("run", "-d", "--name", "keeper", "--restart", "always", "--network", "mynet")
    solo.host.docker(*start, "busybox", "sleep", "3600", timeout_s=60)
    subnet, leases = site.subnet_of(solo.host, "mynet"), leases_of(pair, solo.host)
    mac = solo.host.exec(["cat", "/sys/class/net/flannel.1/address"])
    peer = site.ip_of(pair.h1, run(pair.h1))
    try:
        if not etcd_is_up:
            for member in pair.lab.etcd.values():
                member.stop_etcd()
        solo.host.reboot()
        site.wait_for("the container is back", lambda: solo.host.try_docker("exec", "keeper", "true").ok)
        assert "2 packets received" in site.inside(solo.host, "keeper", f"ping -c 2 -w 10 {peer}")
        assert site.subnet_of(solo.host, "mynet") == subnet
        assert solo.host.exec(["cat", "/sys/class/net/flannel.1/address"]) == mac, "peers would send to the old one"
        policy = solo.host.exec(["iptables", "-S", "FORWARD"]).splitlines()[0]
        assert policy == f"-P FORWARD {solo.host.forward_policy}", "forwarding was let on too early"
    finally:
        for member in pair.lab.etcd.values():
            member.start_etcd()
    site.wait_ready(solo.host)
    assert list(leases) == [f"{site.PREFIX}/subnets/{subnet.replace('/', '-')}"]
    assert leases_of(pair, solo.host) == leases
    assert "2 packets received" in site.inside(solo.host, run(solo.host), f"ping -c 2 -w 10 {peer}")


def test_what_is_deleted_by_hand_comes_back(pair, run):
    peer = site.ip_of(pair.h2, run(pair.h2))
    one = run(pair.h1)
    there = site.subnet_of(pair.h2, "mynet")
    bridge = next(net["bridge"] for net in site.status(pair.h1)["networks"])
    before = sum(site.status(pair.h1)["repairs"].values())
    for words in (
        f"ip route del {there}",
        "ip neigh flush dev flannel.1 nud permanent",
        "ip link set flannel.1 down",
        "ip link del flannel.1",
        f"ip addr flush dev {bridge}",
        "nft delete table ip flannelpy",
        "iptables -F FLANNELPY-FORWARD",
        "iptables -D FORWARD -j FLANNELPY-FORWARD",
    ):
        pair.h1.try_exec(["sh", "-c", words])
        with contextlib.suppress(site.errors.Timeout):
            site.wait_for(words, lambda: pings(pair.h1, one, peer), 10)
        assert pings(pair.h1, one, peer), f"after {words!r}"
        wait_outside(pair, one)
    assert sum(site.status(pair.h1)["repairs"].values()) > before


def wait_outside(pair, container):
    site.wait_for(
        "outside as the host",
        lambda: (
            pair.h1.ip
            in pair.h1.try_docker("exec", container, "timeout", "2", "wget", "-qO-", pair.lab.outside_url).out
        ),
        10,
    )


def pings(host, container, address):
    return host.try_docker("exec", container, "ping", "-c", "1", "-W", "1", address).ok


def test_a_crash_leaves_no_endpoint_that_docker_does_not_know(pair, solo):
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.create_network(solo.host, "mynet")
    solo.host.docker("run", "-d", "--name", "keeper", "--network", "mynet", "busybox", "sleep", "3600", timeout_s=60)
    network = solo.host.docker("network", "inspect", "-f", "{{.Id}}", "mynet")
    pool = site.subnet_of(solo.host, "mynet")
    # what dockerd killed between RequestAddress and CreateEndpoint, or after it, leaves: nobody will release these
    asked = {"PoolID": f"flannelpy/{pool}", "Address": "", "Options": None}
    code, answer = site.call(solo.host, "IpamDriver.RequestAddress", json.dumps(asked))
    assert code == 200
    body = {"NetworkID": network, "EndpointID": "ab" * 32, "Interface": {"Address": answer["Address"]}}
    assert site.call(solo.host, "NetworkDriver.CreateEndpoint", json.dumps(body))[0] == 200
    assert len(site.status(solo.host)["endpoints"]) == 2
    solo.host.exec(["kill", "-9", worker_of(solo.host)])
    site.wait_ready(solo.host)
    site.wait_for(
        "only what Docker knows",
        lambda: len(site.status(solo.host)["endpoints"]) == 1 and site.status(solo.host)["addresses"][0]["used"] == 2,
        60,  # 20 s of looks that agree, and a busy machine
    )
    site.wait_for("no link of it", lambda: "fphabababababab" not in site.kernel_of(solo.host)["links"], 10)
    assert solo.host.try_docker("exec", "keeper", "ip", "route").ok
