"""Docker Compose with this driver and its IPAM: the very file of docs/operations.md."""

from __future__ import annotations

import ipaddress
import pathlib
import textwrap

import pytest

from lab import site

pytestmark = pytest.mark.long("26.1")

DOCS = pathlib.Path(__file__).parents[2] / "docs/operations.md"
APP = "root/app"


@pytest.fixture
def host(solo):
    """With the plugin, and forwarding and `docker_gwbridge`, which stay once they were needed."""
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    site.create_network(solo.host, "warm-up")
    solo.host.docker("run", "--rm", "-p", "80", "--network", "warm-up", "busybox", "true", timeout_s=60)
    solo.host.docker("network", "rm", "warm-up")
    site.wait_for("no container's link", lambda: "fph" not in " ".join(site.kernel_of(solo.host)["links"]))
    site.wait_for("no guard", lambda: "table bridge flannelpy {" not in site.kernel_of(solo.host)["rules"])
    return solo.host


def program(on):
    """`docker compose`, or what came before it."""
    return ["docker", "compose"] if on.try_docker("compose", "version").ok else ["docker-compose"]


def compose(on, *words):
    told = on.try_exec(["sh", "-c", f'cd /{APP} && exec "$@"', "sh", *program(on), *words], timeout_s=120)
    assert told.ok, told.err
    return told.out


def write(on, text):
    (on.root / APP).mkdir(parents=True, exist_ok=True)
    (on.root / APP / "docker-compose.yaml").write_text(text)


def lease_of(on):
    return ipaddress.IPv4Network(site.status(on)["flannel_networks"][0]["subnet"])


def test_the_documents_file_comes_up_talks_and_goes_without_a_trace(host):
    lease = lease_of(host)
    section = DOCS.read_text().split("\n## Compose\n")[1].split("\n## ")[0]
    text = textwrap.dedent("\n".join(line for line in section.splitlines() if not line or line.startswith("    ")))
    write(host, text.replace("10.2.20.", str(lease[0]).removesuffix("0")))
    before = site.kernel_of(host)
    site.create_network(host, "shared", "--subnet", str(list(lease.subnets(new_prefix=26))[3]))

    compose(host, "up", "-d")
    assert len(compose(host, "ps", "-q").split()) == 4
    assert sorted((one["pool"], one["mtu"], one["internal"]) for one in site.status(host)["networks"]) == sorted(
        [
            (str(ipaddress.IPv4Network((lease[0], 26))), 1400, False),
            (str(ipaddress.IPv4Network((lease[64], 26))), 1450, True),
            (str(ipaddress.IPv4Network((lease[192], 26))), 1450, False),
        ]
    )
    for name in ("db", "database"):
        assert f"({lease[9]})" in compose(host, "exec", "-T", "web", "ping", "-c", "1", "-w", "5", name)
    assert "1400" in compose(host, "exec", "-T", "db", "cat", "/sys/class/net/eth0/mtu")
    assert "default" not in compose(host, "exec", "-T", "job", "ip", "route")
    assert "default via" in compose(host, "exec", "-T", "guest", "ip", "route")
    assert "HTTP" in host.exec(["curl", "-sI", "-m", "5", "http://127.0.0.1:8080/"])
    compose(host, "up", "-d", "--force-recreate", "-t", "0")
    assert f"({lease[9]})" in compose(host, "exec", "-T", "web", "ping", "-c", "1", "-w", "5", "db")

    compose(host, "down", "-t", "0")
    told, shared = site.status(host), site.subnet_of(host, "shared")
    assert [one["pool"] for one in told["networks"]] == [shared]
    assert told["endpoints"] == []
    assert [(one["pool"], one["used"]) for one in told["addresses"]] == [(shared, 1)]
    host.docker("network", "rm", "shared")
    site.wait_kernel(host, before)


def test_options_of_the_ipam_arrive_as_the_documents_say(host, pair):
    site.put_config(pair.lab, '{"Network":"10.66.0.0/16","Backend":{"Type":"vxlan","VNI":66}}', "/blue/network")
    write(
        host,
        """
services:
  one: {image: busybox, command: sleep 3600}
networks:
  default:
    driver: flannelpy
    ipam: {driver: flannelpy, options: {flannelpy.prefix: /blue/network}}
""",
    )
    compose(host, "up", "-d")
    kept = program(host) == ["docker-compose"]
    assert [one["prefix"] for one in site.status(host)["networks"]] == ["/blue/network" if kept else site.PREFIX]
    compose(host, "down", "-t", "0")
    site.create_network(host, "blue", "--ipam-opt", "flannelpy.prefix=/blue/network")
    write(
        host,
        """
services:
  one: {image: busybox, command: sleep 3600}
networks:
  default: {external: true, name: blue}
""",
    )
    compose(host, "up", "-d")
    assert site.ip_of(host, compose(host, "ps", "-q").strip(), "blue").startswith("10.66.")
    compose(host, "down", "-t", "0")
    assert [one["prefix"] for one in site.status(host)["networks"]] == ["/blue/network"]
