"""What is wrong is refused, with the error that the README and the issue promise, and changes nothing."""

from __future__ import annotations

import ipaddress
import json

import pytest

from lab import site

CREATE = ("network", "create", "-d", "flannelpy", "--ipam-driver", "flannelpy")


def refused(host, *words):
    result = host.try_docker(*words, timeout_s=90)
    assert not result.ok, f"{words} was accepted"
    return result.err


def test_both_sockets_of_the_plugin_are_for_root_alone(pair):
    plugin = pair.h1.docker("plugin", "inspect", "-f", "{{.Id}}", site.PLUGIN)
    for path in (site.SOCKET, f"run/docker/plugins/{plugin}/flannelpy.sock"):
        assert pair.h1.exec(["stat", "-c", "%F %a %U:%G", f"/{path}"]).strip() == "socket 660 root:root"


def test_without_ipam_driver_the_error_has_the_command(pair):
    error = refused(pair.h1, "network", "create", "-d", "flannelpy", "wrong")
    assert "docker network create -d flannelpy --ipam-driver flannelpy NAME" in error
    assert site.subnet_of(pair.h1, "mynet") in error
    assert not pair.h1.try_docker("network", "inspect", "wrong").ok


def test_a_foreign_subnet_is_refused(pair):
    lease = site.subnet_of(pair.h1, "mynet")
    error = refused(pair.h1, *CREATE, "--subnet", "10.77.0.0/24", "wrong")
    assert "10.77.0.0/24" in error
    assert lease in error


def test_a_second_network_on_the_whole_lease_is_refused(pair):
    error = refused(pair.h1, *CREATE, "second")
    assert site.subnet_of(pair.h1, "mynet") in error
    assert "--subnet" in error


def test_ipv6_and_unknown_options_are_refused_by_name(solo):
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    error = refused(solo.host, *CREATE, "-o", "flannelpy.gatewy=auto", "wrong")
    assert "flannelpy.gatewy" in error
    assert "flannelpy.gateway" in error
    assert "IPv6" in refused(solo.host, *CREATE, "--ipv6", "--subnet", "fd00:2::/64", "wrong")


def test_config_missing_in_etcd(solo):
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints, ETCD_PREFIX="/nothing/here")
    error = refused(solo.host, *CREATE, "mynet")
    assert "/nothing/here/config" in error
    assert "/nothing/here/config" in site.ask(solo.host, "/readyz")[1]


def test_the_config_may_come_later(solo):
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints, ETCD_PREFIX="/late")
    refused(solo.host, *CREATE, "mynet")
    site.put_config(solo.lab, '{"Network":"10.88.0.0/16","Backend":{"Type":"vxlan","VNI":88}}', "/late")
    site.create_network(solo.host, "mynet")
    assert site.subnet_of(solo.host, "mynet").startswith("10.88.")


def test_invalid_json_in_etcd(solo):
    site.put_config(solo.lab, '{"Network": "10.2.0.0/16", ', "/broken")
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints, ETCD_PREFIX="/broken")
    error = refused(solo.host, *CREATE, "mynet")
    assert "JSON" in error or "json" in error


def test_a_config_without_backend_names_the_choice(solo):
    site.put_config(solo.lab, '{"Network": "10.2.0.0/16"}', "/plain")
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints, ETCD_PREFIX="/plain")
    error = refused(solo.host, *CREATE, "mynet")
    assert "udp" in error
    assert "vxlan" in error


def test_a_wrong_setting_is_said_in_every_answer_and_the_plugin_lives(solo):
    solo.install(ETCD_ENDPOINTS="not a url")
    for words in (CREATE, ("network", "create", "-d", "flannelpy", "--subnet", "10.2.3.0/24")):
        assert "ETCD_ENDPOINTS" in refused(solo.host, *words, "mynet")
    assert "true" in solo.host.docker("plugin", "inspect", "-f", "{{.Enabled}}", site.PLUGIN)


def test_a_full_pool_names_network_lease_used_and_total(solo):
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    lease = ipaddress.IPv4Network(site.status(solo.host)["flannel_networks"][0]["subnet"])
    slice_ = next(lease.subnets(new_prefix=29))
    site.create_network(solo.host, "small", "--subnet", str(slice_))
    for _ in range(5):  # of eight: network, broadcast, gateway, five
        solo.host.docker("run", "-d", "--network", "small", "busybox", "sleep", "3600", timeout_s=60)
    error = refused(solo.host, "run", "-d", "--network", "small", "busybox", "sleep", "3600")
    for part in (str(slice_), str(lease), "6 of 6 addresses"):
        assert part in error
    assert site.status(solo.host)["addresses"][0]["used"] == 6


@pytest.mark.parametrize(
    "body", ["", "   ", "{", "[]", "null", "7", '"x"', "{}", '{"NetworkID": 5}', '{"NetworkID": "../../etc/passwd"}']
)
@pytest.mark.parametrize(
    "method",
    [
        *("NetworkDriver.CreateNetwork", "NetworkDriver.DeleteNetwork", "NetworkDriver.CreateEndpoint"),
        *("NetworkDriver.Join", "NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint"),
    ],
)
def test_a_malformed_body_is_a_400_with_both_error_keys(pair, method, body):
    before = json.dumps(site.status(pair.h2)["networks"])
    code, answer = site.call(pair.h2, method, body)
    assert code == 400
    assert answer["Err"] == answer["Error"] != ""
    assert json.dumps(site.status(pair.h2)["networks"]) == before
