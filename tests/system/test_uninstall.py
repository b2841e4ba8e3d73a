"""Off a host without a trace, in the words of docs/operations.md; and a second plugin beside the first."""

from __future__ import annotations

import json
import re

import pytest

from lab import site

pytestmark = pytest.mark.long("26.1")

CURL = ["curl", "-sS", "--unix-socket", "/run/docker/plugins/flannelpy.sock", "-X", "POST", "http://x/uninstall"]
SECOND = "flannelpy:2"


def take_off(host):
    told = json.loads(host.exec(CURL, timeout_s=90))
    host.docker("plugin", "disable", site.PLUGIN, timeout_s=60)
    host.docker("plugin", "rm", site.PLUGIN, timeout_s=60)
    return told


def test_the_host_is_as_it_was_before_the_plugin(solo):
    host, settings = solo.host, {"ETCD_ENDPOINTS": solo.lab.etcd_endpoints}
    solo.install(**settings)
    site.wait_ready(host)
    assert take_off(host) == {"left": []}  # with what other tests left on this host
    before = site.kernel_of(host)
    assert not re.search(r"flannel|fp-|proto 70", json.dumps(before))
    solo.install(**settings)
    site.wait_ready(host)
    subnet = site.status(host)["flannel_networks"][0]["subnet"]
    site.create_network(host, "mynet")
    host.docker("run", "-d", "--name", "c0", "--network", "mynet", "busybox", "sleep", "3600", timeout_s=60)

    def refusal():
        code, text = site.request(host, "POST", "/uninstall")
        assert code == 409, text
        return json.loads(text)["Err"]

    site.wait_for("its name is known", lambda: refusal().startswith("not uninstalled: networks mynet ("))
    host.docker("rm", "-f", "c0", timeout_s=60)
    host.docker("network", "rm", "mynet", timeout_s=60)
    key = f"{site.PREFIX}/subnets/{subnet.replace('/', '-')}"
    assert solo.lab.etcdctl("get", "--keys-only", key).strip() == key
    assert take_off(host) == {"left": []}
    site.wait_kernel(host, before)
    assert solo.lab.etcdctl("get", "--keys-only", key).strip() == ""
    assert not list((host.root / "run").glob("flannelpy*"))
    assert not (host.root / site.SOCKET).exists()


@pytest.fixture
def second(solo):
    """Installs the plugin once more, by another alias, beside the first."""
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    site.create_network(solo.host, "mynet")
    options = ("--alias", SECOND, "--grant-all-permissions", solo.image)
    yield lambda: solo.host.docker(
        "plugin", "install", *options, f"ETCD_ENDPOINTS={solo.lab.etcd_endpoints}", timeout_s=120
    )
    solo.host.try_docker("plugin", "disable", "-f", SECOND, timeout_s=60)
    solo.host.try_docker("plugin", "rm", "-f", SECOND, timeout_s=60)


def test_a_second_alias_touches_nothing_and_says_who_has_the_host(solo, second):
    host = solo.host
    host.docker("run", "-d", "--name", "c0", "--network", "mynet", "busybox", "sleep", "3600", timeout_s=60)
    before, told = site.kernel_of(host), site.status(host)["networks"]
    second()
    drivers = ("-d", SECOND, "--ipam-driver", SECOND)
    refused = host.try_docker("network", "create", *drivers, "other", timeout_s=60)
    first = host.docker("plugin", "inspect", "-f", "{{.Id}}", site.PLUGIN)
    assert f"another flannelpy serves this host: plugin {first[:12]} (docker plugin ls), pid " in refused.err
    assert site.kernel_of(host) == before
    assert site.status(host)["networks"] == told
    assert site.ask(host, "/readyz")[0] == 200
    host.docker("run", "--rm", "--network", "mynet", "busybox", "true", timeout_s=60)
    host.docker("plugin", "disable", "-f", SECOND, timeout_s=60)
    assert site.ask(host, "/readyz")[0] == 200
