"""Ports published by the plugin itself: `-o flannelpy.gateway=native`, where a container has one interface.

A flannel network of its own beside `mynet`, of both families. Docker cannot show these ports: `/status` does.
"""

from __future__ import annotations

import ipaddress
import json

import pytest

from lab import chaos_hosts, errors, site

PREFIX = "/native/network"
CONFIG = (
    '{"EnableIPv6": true, "Network": "10.67.0.0/16", "IPv6Network": "fd00:67::/48",'
    ' "Backend": {"Type": "vxlan", "VNI": 67}}'
)
OPTIONS = ("--ipam-opt", f"flannelpy.prefix={PREFIX}", "-o", "flannelpy.gateway=native", "--ipv6")
PUBLISHED = (
    *("-p", "8080:80", "-p", "8053:53/udp", "-p", "127.0.0.1:8081:80", "-p", "80"),
    *("-p", "9000-9002:81", "-p", "9000-9002:82", "-p", "9010-9011:83-84", "-p", "9100:9100"),
)
RANGED = (81, 82, 83, 84)
TAKEN = "port is already allocated"


@pytest.fixture(scope="module")
def native(pair):
    """Network `native` on both hosts."""
    site.put_config(pair.lab, CONFIG, PREFIX)
    for host in (pair.h1, pair.h2):
        site.create_network(host, "native", *OPTIONS)
    yield pair
    for host in (pair.h1, pair.h2):
        for name in host.docker("ps", "-aq", "--filter", "network=native").split():
            host.try_docker("rm", "-f", name, timeout_s=90)
        host.try_docker("network", "rm", "native", timeout_s=90)


@pytest.fixture(scope="module")
def shop(native):
    """A container on h1 that publishes all that can be, and tells every client its address."""
    published = (*PUBLISHED, "-p", f"{native.h1.ip}:8084:80")
    start = ("run", "-d", "--name", "shop", "--network", "native", *published, "flannelpy-tools", "sleep", "3600")
    native.h1.docker(*start, timeout_s=60)
    serve(native.h1, "shop")
    for port in RANGED:  # the port's own number
        site.inside(
            native.h1, "shop", f"mkdir -p /{port}; echo {port} > /{port}/index.html; httpd -p {port} -h /{port}"
        )
    native.h1.exec(["sysctl", "-w", "net.bridge.bridge-nf-call-iptables=1"])  # as Docker does for docker_gwbridge
    return native.h1


def serve(host, name):
    """The client's address over TCP 80 and UDP 53, of both families."""
    site.serve_who(host, name, "[::]:80")
    site.inside(host, name, r"printf '#!/bin/sh\necho $SOCAT_PEERADDR\n' > /tmp/who; chmod +x /tmp/who")
    for where, table in (("UDP4-RECVFROM:53", "udp"), ("UDP6-RECVFROM:53,ipv6only=1", "udp6")):
        site.inside(host, name, f"socat {where},fork EXEC:/tmp/who > /dev/null 2>&1 & echo ok")
        site.wait_for("a listener", lambda at=table: ":0035 " in site.inside(host, name, f"cat /proc/net/{at}"))


def url(host, port, address=""):
    return f"http://{address or host.ip}:{port}/cgi-bin/who"


def seen(done):
    """The address in an answer, "" if there is none. An IPv4 client of an IPv6 socket is one all the same."""
    return done.out.strip().strip("[]").removeprefix("::ffff:") if done.ok else ""


def fetch(machine, *where):
    """What the container says of the client."""
    done = machine.try_exec(["curl", "-sS", "-m", "3", url(*where)])
    return seen(done)


def fetch_inside(host, container, *where):
    done = host.try_docker("exec", container, "timeout", "3", "wget", "-qO-", url(*where))
    return seen(done)


def published(host, container="shop"):
    """What /status says of a container's ports; the ephemeral ones are above all others here."""
    address = site.ip_of(host, container, "native")
    return next(end["published"] for end in site.status(host)["endpoints"] if end["address"] == address)


def ephemeral(host):
    (port,) = {int(line.rpartition(":")[2].partition("-")[0]) for line in published(host) if port_of(line) > 30000}
    return port


def port_of(line):
    return int(line.rpartition("->")[0].rpartition(":")[2])


def test_status_shows_what_docker_cannot(shop):
    lines = published(shop)
    assert {"0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp", "127.0.0.1:8081->80/tcp", "0.0.0.0:8053->53/udp"} <= set(
        lines
    )
    ranged = {line for line in lines if 9000 <= port_of(line) <= 9002 and line.startswith("0.0.0.0")}
    assert {line.rpartition("->")[2] for line in ranged} == {"81/tcp", "82/tcp"}
    assert len({port_of(line) for line in ranged}) == 2
    assert ephemeral(shop) > 30000
    assert shop.docker("port", "shop") == ""
    assert len(site.inside(shop, "shop", "ls /sys/class/net").split()) == 2, "lo and eth0 alone"


def test_a_third_host_gets_the_page_and_keeps_its_address(native, shop):
    client = native.lab.client
    assert fetch(client, shop, 8080) == native.lab.plan.client.ip
    assert fetch(client, shop, ephemeral(shop)) == native.lab.plan.client.ip
    assert fetch(client, shop, 8080, f"[{shop.ip_v6}]") == native.lab.plan.client.ip_v6
    assert fetch(client, shop, 8081) == "", "it is the loopback's"


@pytest.mark.parametrize("family", ["ip", "ip_v6"])
def test_udp_is_published_too(native, shop, family):
    again = "for _ in 1 2 3 4 5; do echo who >&3; timeout 2 head -n 1 <&3 | grep . && break; done; true"
    words = f"exec 3<>/dev/udp/{getattr(shop, family)}/8053; {again}"
    told = native.lab.client.exec(["bash", "-c", words]).strip().strip("[]")
    assert ipaddress.ip_address(told) == ipaddress.ip_address(getattr(native.lab.plan.client, family))


def test_each_port_of_a_range_answers(native, shop):
    ports = {line.rpartition("->")[2]: port_of(line) for line in published(shop)}
    ask = ["curl", "-sS", "-m", "3"]
    told = [native.lab.client.exec([*ask, f"http://{shop.ip}:{ports[f'{one}/tcp']}/"]) for one in RANGED]
    assert [int(page) for page in told] == list(RANGED)
    assert (ports["83/tcp"], ports["84/tcp"]) == (9010, 9011)


def test_a_port_of_one_address_of_the_host_answers_there_alone(native, shop):
    assert [line for line in published(shop) if port_of(line) == 8084] == [f"{shop.ip}:8084->80/tcp"]
    assert fetch(native.lab.client, shop, 8084) == native.lab.plan.client.ip
    assert fetch(shop, shop, 8084) == shop.ip
    assert fetch(native.lab.client, shop, 8084, f"[{shop.ip_v6}]") == ""
    gateway = shop.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "native")
    for other in ("127.0.0.1", gateway, f"[{shop.ip_v6}]"):
        assert fetch(shop, shop, 8084, other) == "", other


def test_the_host_itself_gets_the_page_through_each_of_its_addresses(shop):
    gateway = shop.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "native")
    assert fetch(shop, shop, 8080, "127.0.0.1") == gateway
    assert fetch(shop, shop, 8081, "127.0.0.1") == gateway
    assert fetch(shop, shop, 8080) == shop.ip
    assert fetch(shop, shop, 8080, f"[{shop.ip_v6}]") == shop.ip_v6
    assert fetch(shop, shop, 8080, "localhost") == gateway, "::1 is refused at once, and then 127.0.0.1 is tried"


def test_the_publishing_container_itself_and_its_neighbours_get_the_page(native, shop, run):
    gateway = shop.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "native")
    neighbour = run(shop, network="native")
    assert fetch_inside(shop, "shop", shop, 8080) == gateway
    assert fetch_inside(shop, neighbour, shop, 8080) == gateway
    assert fetch_inside(shop, run(shop), shop, 8080), "from another flannel network of the host"
    assert fetch_inside(native.h2, run(native.h2, network="native"), shop, 8080) == native.h2.ip


def test_the_engines_words_for_a_port_that_another_container_has(shop, run):
    with pytest.raises(errors.CommandFailed, match=rf"Bind for 0\.0\.0\.0:8080 failed: {TAKEN}"):
        run(shop, "-p", "8080:80", network="native")
    run(shop, "-p", "8080-8082:80", network="native")  # there is another one in the range


def listen(port):
    """A server of the host's own, for half a minute."""
    words = f'Listen => 1, LocalAddr => "127.0.0.1:{port}", ReuseAddr => 1'
    return f"perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new({words}) or die $!; sleep 30'"


def test_a_port_of_a_process_of_the_host_is_seen_in_both_directions(shop, run):
    pid = shop.exec(["sh", "-c", f"{listen(8090)} > /dev/null 2>&1 & echo $!"]).strip()
    site.wait_for("it listens", lambda: ":1F9A " in shop.exec(["cat", "/proc/net/tcp"]))
    with pytest.raises(errors.CommandFailed, match=rf"Bind for 0\.0\.0\.0:8090 failed: {TAKEN}"):
        run(shop, "-p", "8090:80", network="native")
    shop.exec(["kill", pid])
    assert "Address already in use" in shop.try_exec(["sh", "-c", listen(8080)]).err


def test_a_port_of_dockers_own_is_seen_in_both_directions(shop, run):
    run(shop, "-p", "8091:80")  # on mynet, where Docker publishes
    with pytest.raises(errors.CommandFailed, match=rf"Bind for 0\.0\.0\.0:8091 failed: {TAKEN}"):
        run(shop, "-p", "8091:80", network="native")
    with pytest.raises(errors.CommandFailed, match=rf"{TAKEN}|address already in use"):
        run(shop, "-p", "8080:80")
    assert fetch(shop, shop, 8080), "the first one still has it"


def test_sctp_is_refused_with_what_to_do(shop, run):
    with pytest.raises(errors.CommandFailed, match=r"port 80/sctp cannot be published.*flannelpy\.gateway=auto"):
        run(shop, "-p", "8095:80/sctp", network="native")


def test_a_stopped_container_gives_its_ports_back_and_a_started_one_has_them_again(native, shop, run):
    name = run(shop, "-p", "8096:80", image="flannelpy-tools", network="native")
    serve(shop, name)
    assert fetch(native.lab.client, shop, 8096)
    shop.docker("stop", "-t", "0", name, timeout_s=60)
    assert "8096" not in shop.exec(["nft", "list", "table", "ip", "flannelpy"])
    other = run(shop, "-p", "8096:80", image="flannelpy-tools", network="native")
    with pytest.raises(errors.CommandFailed, match=TAKEN):
        shop.docker("start", name, timeout_s=60)
    shop.docker("rm", "-f", other, timeout_s=60)
    shop.docker("start", name, timeout_s=60)
    serve(shop, name)
    assert fetch(native.lab.client, shop, 8096) == native.lab.plan.client.ip


def test_flushed_rules_come_back_with_the_ports(native, shop):
    shop.exec(["nft", "delete", "table", "ip", "flannelpy"])
    site.wait_for("the port answers", lambda: fetch(native.lab.client, shop, 8080), 10)


def ghost(host):
    """An endpoint with a published port that Docker does not know, as if it forgot it meanwhile."""
    network = host.docker("network", "inspect", "-f", "{{.Id}}", "native")
    ids = {"NetworkID": network, "EndpointID": "cd" * 32}
    pool = next(net["pool"] for net in site.status(host)["networks"] if net["id"] == network)
    address, length = pool.rpartition(".")[0] + ".250", pool.partition("/")[2]
    wish = {"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8099, "HostPortEnd": 8099}
    for method, more in (
        ("CreateEndpoint", {"Interface": {"Address": f"{address}/{length}"}}),
        ("Join", {"SandboxKey": "/var/run/docker/netns/none", "Options": {}}),
        ("ProgramExternalConnectivity", {"Options": {"com.docker.network.portmap": [wish]}}),
    ):
        code, answer = site.call(host, f"NetworkDriver.{method}", json.dumps(ids | more))
        assert code == 200, answer


def test_kill_9_of_the_plugin_breaks_no_connection_and_forgets_no_port(native, shop, run):
    client = run(native.h2, image="flannelpy-tools", network="native")
    site.inside(shop, "shop", "socat -u TCP-LISTEN:9100 OPEN:/tmp/got,creat > /dev/null 2>&1 & echo ok")
    site.wait_for("a listener", lambda: ":238C " in site.inside(shop, "shop", "cat /proc/net/tcp"))
    loop = "i=0; while [ $i -lt 600 ]; do i=$((i+1)); echo $i; sleep 0.1; done"
    site.inside(native.h2, client, f"({loop}) | socat -u - TCP:{shop.ip}:9100 > /dev/null 2>&1 & echo ok")
    site.wait_for("bytes through the port", lambda: len(received(shop)) > 3)
    ghost(shop)
    before = published(shop)
    old = worker_of(shop)
    shop.exec(["kill", "-9", old])
    assert fetch(native.lab.client, shop, 8080) == native.lab.plan.client.ip, "while the plugin is away"
    site.wait_for("a new worker", lambda: worker_of(shop) not in (old, None), 10)
    site.wait_ready(shop)
    assert published(shop) == before
    count = len(received(shop))
    site.wait_for("the connection goes on", lambda: len(received(shop)) > count + 5)
    got = received(shop)
    assert got == list(range(1, len(got) + 1)), "the connection lost or repeated something"
    assert fetch(native.lab.client, shop, ephemeral(shop)) == native.lab.plan.client.ip
    with pytest.raises(errors.CommandFailed, match=TAKEN):
        run(shop, "-p", "8080:80", network="native")
    rules = ["nft", "list", "table", "ip", "flannelpy"]
    assert "8099" in shop.exec(rules)
    site.wait_for("what Docker does not know is gone", lambda: "8099" not in shop.exec(rules), 60)
    shop.docker("rm", "-f", "shop", timeout_s=60)
    told = [line for end in site.status(shop)["endpoints"] for line in end["published"]]
    assert not [line for line in told if "8080" in line]
    assert "map ports" not in shop.exec(rules)
    run(shop, "-p", "8080:80", network="native")


def test_a_rebooted_host_publishes_the_port_of_a_container_that_comes_back(solo):
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.create_network(solo.host, "native", "-o", "flannelpy.gateway=native")
    ports, network = ("-p", "8080:80", "-p", "80"), ("--network", "native")
    start = ("run", "-d", "--name", "keeper", "--restart", "always", *network, *ports)
    page = "mkdir -p /www && echo hello > /www/index.html && httpd -f -h /www"
    solo.host.docker(*start, "busybox", "sh", "-c", page, timeout_s=60)
    for interrupt in (solo.host.kill_dockerd, solo.host.reboot):
        interrupt()
        if interrupt == solo.host.kill_dockerd:
            solo.host.start_dockerd()
        site.wait_for("the page", lambda: greets(solo.lab.client, solo.host.ip, 8080), 60)
        (lines,) = (end["published"] for end in site.status(solo.host)["endpoints"] if end["published"])
        assert len(lines) == 2
        assert greets(solo.lab.client, solo.host.ip, max(port_of(line) for line in lines))


def greets(machine, address, port):
    return machine.try_exec(["curl", "-sS", "-m", "3", f"http://{address}:{port}/"]).out.strip() == "hello"


def worker_of(host):
    return chaos_hosts.plugin_pids(host)[1]


def received(host):
    return [int(word) for word in site.inside(host, "shop", "cat /tmp/got 2>/dev/null").split()]
