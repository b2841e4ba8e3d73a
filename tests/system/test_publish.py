"""Published ports: Docker shows them, and they answer from everywhere."""

from __future__ import annotations

import pytest

from lab import site


@pytest.fixture(scope="module")
def web(pair):
    """A web server on h1 with port 8080 published, as (host, name)."""
    name = "web"
    pair.h1.docker("run", "-d", "--name", name, "-p", "8080:80", "--network", "mynet", "busybox", "sleep", "3600")
    site.serve_who(pair.h1, name)
    yield pair.h1, name
    pair.h1.docker("rm", "-f", name)


def test_docker_shows_the_port(web):
    host, name = web
    assert "0.0.0.0:8080->80/tcp" in host.docker("ps", "--filter", f"name={name}", "--format", "{{.Ports}}")
    assert "0.0.0.0:8080" in host.docker("port", name, "80/tcp")


def test_a_third_host_gets_the_page(pair, web):
    host, _ = web
    assert pair.lab.client.exec(["curl", "-fsS", "-m", "5", f"http://{host.ip}:8080/cgi-bin/who"])


def test_containers_of_both_hosts_get_the_page(pair, web, run):
    host, _ = web
    for other in (pair.h1, pair.h2):
        assert site.inside(other, run(other), f"timeout 5 wget -qO- http://{host.ip}:8080/cgi-bin/who")


def test_the_hosts_own_loopback_gets_the_page(web):
    host, _ = web
    assert host.exec(["curl", "-fsS", "-m", "5", "http://127.0.0.1:8080/cgi-bin/who"])


def test_the_publishing_container_itself_gets_the_page(web):
    host, name = web
    assert site.inside(host, name, f"timeout 5 wget -qO- http://{host.ip}:8080/cgi-bin/who")


def test_over_the_overlay_it_still_has_its_own_address(pair, web, run):
    host, name = web
    server = run(pair.h2)
    site.serve_who(pair.h2, server)
    seen = site.inside(host, name, f"timeout 5 wget -qO- http://{site.ip_of(pair.h2, server)}/cgi-bin/who")
    assert seen == site.ip_of(host, name)


def test_a_network_may_send_all_its_containers_through_docker(pair, solo, run):
    """`flannelpy.gateway=docker`: a second interface, and the overlay all the same, without a published port too."""
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.create_network(solo.host, "mynet", "-o", "flannelpy.gateway=docker")
    one, peer = run(solo.host), run(pair.h1)
    gateway = solo.host.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "docker_gwbridge")
    assert site.inside(solo.host, one, "ls /sys/class/net").split() == ["eth0", "eth1", "lo"]
    routes = site.inside(solo.host, one, "ip route").splitlines()
    assert [line.strip() for line in routes if "default" in line] == [f"default via {gateway} dev eth1"]
    assert solo.host.ip in site.inside(solo.host, one, f"timeout 5 wget -qO- {solo.lab.outside_url}")
    for near, client, far, server in ((solo.host, one, pair.h1, peer), (pair.h1, peer, solo.host, one)):
        site.serve_who(far, server)
        seen = site.inside(near, client, f"timeout 5 wget -qO- http://{site.ip_of(far, server)}/cgi-bin/who")
        assert seen == site.ip_of(near, client)


def test_it_reaches_a_server_outside(pair, web):
    host, name = web
    assert host.ip in site.inside(host, name, f"timeout 5 wget -qO- {pair.lab.outside_url}")
