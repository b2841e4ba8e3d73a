"""Beside a real firewalld: networks work, stay apart, and do so again after a reload."""

from __future__ import annotations

import time

import pytest

from lab import chaos_hosts, command, site

pytestmark = pytest.mark.long("20.10")


def firewall_cmd(host, *words):
    return host.exec(["firewall-cmd", *words], timeout_s=60)


@pytest.fixture
def guarded(solo):
    """The bare host with firewalld in front of dockerd, as distributions start them; the tunnel's port is open."""
    host = solo.host
    host.stop_dockerd()
    host.exec(["mkdir", "-p", "/run/dbus"])
    host.spawn("dbus", ["dbus-daemon", "--system", "--nofork", "--nopidfile"])
    command.wait_until("the bus is up", (host.root / "run/dbus/system_bus_socket").is_socket, timeout_s=10)
    host.spawn("firewalld", ["firewalld", "--nofork", "--nopid"])
    site.wait_for("firewalld runs", lambda: host.try_exec(["firewall-cmd", "--state"]).ok)
    firewall_cmd(host, "--permanent", "--add-port=8472/udp")
    firewall_cmd(host, "--reload")
    host.start_dockerd()
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    yield solo
    host.end("firewalld")
    host.end("dbus")
    host.exec(["rm", "-rf", "/etc/firewalld/zones", "/run/dbus"])
    site.remove(host)
    host.reboot()  # what firewalld and Docker made of each other in the packet filter goes with the namespace


def talks(host, container, to):
    return host.try_docker("exec", container, "ping", "-c", "1", "-W", "1", to).ok


def wait_all(checks, within_s):
    """One after the other, or those that take long to fail would eat up the time of all."""
    deadline = time.monotonic() + within_s
    for name, check in checks.items():
        site.wait_for(name, check, deadline - time.monotonic())


@pytest.fixture
def green(pair):
    """A second flannel network, on h1 too."""
    site.put_config(pair.lab, '{"Network":"10.67.0.0/16","Backend":{"Type":"vxlan","VNI":67}}', "/green/network")
    options = ("--ipam-opt", "flannelpy.prefix=/green/network")
    site.create_network(pair.h1, "green", *options)
    pair.h1.docker("run", "-d", "--name", "far-green", "--network", "green", "busybox", "sleep", "3600")
    yield options
    pair.h1.try_docker("rm", "-f", "far-green")
    pair.h1.docker("network", "rm", "green")


def test_containers_talk_beside_firewalld_and_networks_stay_apart(guarded, pair, green, run):
    host, lab = guarded.host, guarded.lab
    site.create_network(host, "mynet")
    site.create_network(host, "green", *green)
    host.docker("run", "-d", "--name", "one", "--network", "mynet", "-p", "8080:80", "busybox", "sleep", "3600")
    host.docker("run", "-d", "--name", "two", "--network", "mynet", "busybox", "sleep", "3600")
    host.docker("run", "-d", "--name", "other", "--network", "green", "busybox", "sleep", "3600")
    site.serve_who(host, "one")
    far = run(pair.h1)
    near, there = site.ip_of(host, "two"), site.ip_of(pair.h1, far)
    near_green, there_green = site.ip_of(host, "other", "green"), site.ip_of(pair.h1, "far-green", "green")

    page = ["curl", "-fsS", "-m", "1", f"http://{host.ip}:8080/cgi-bin/who"]
    checks = {
        "to the other host": lambda: talks(host, "two", there),
        "from the other host": lambda: talks(pair.h1, far, near),
        "to the other host, in green": lambda: talks(host, "other", there_green),
        "from the other host, in green": lambda: talks(pair.h1, "far-green", near_green),
        "to the neighbour": lambda: talks(host, "two", site.ip_of(host, "one")),
        "outside": lambda: host.ip in site.inside(host, "two", f"timeout 1 wget -qO- {lab.outside_url} || true"),
        "the published port": lambda: lab.client.try_exec(page).ok,
    }
    strangers = [
        *((host, name, to) for name in ("one", "two") for to in (near_green, there_green)),
        *((host, "other", to) for to in (near, there)),
        (pair.h1, far, near_green),
        (pair.h1, "far-green", near),
    ]
    wait_all(checks, 5)
    assert not [(name, to) for on, name, to in strangers if talks(on, name, to)]
    firewall_cmd(host, "--reload")
    wait_all(checks, 10)
    assert not [(name, to) for on, name, to in strangers if talks(on, name, to)]
    bridges = {net["bridge"] for net in site.status(host)["networks"]}
    assert bridges <= set(firewall_cmd(host, "--zone=trusted", "--list-interfaces").split())
    host.docker("rm", "-f", "one", "two", "other")
    host.docker("network", "rm", "mynet", "green")
    site.wait_for("nothing of ours is left", lambda: not firewall_cmd(host, "--zone=trusted", "--list-interfaces"))
    firewall_cmd(host, "--zone=trusted", "--add-interface=fp-leftover", "--add-interface=flannel.99")
    host.exec(["kill", "-9", chaos_hosts.plugin_pids(host)[0]])
    left = "flannel.99"  # the operator's, for all that the plugin knows
    site.wait_for("what we left is gone", lambda: firewall_cmd(host, "--zone=trusted", "--list-interfaces") == left)
