"""An etcd that answers only over TLS, to clients with a certificate, asked from inside a managed plugin."""

from __future__ import annotations

import json
import shutil

import pytest

from lab import site
from tests.overlay import etcd_server

PORT = 12379
DIRECTORY = "etc/etcd-tls"  # below each machine's root, as docs/operations.md has it
PREFIX = "/tls/network"


@pytest.fixture
def tls(pair, tmp_path):
    """One more etcd on the machine of the first; its URL, and etcdctl to it."""
    machine = next(iter(pair.lab.etcd.values()))
    address = machine.endpoint.split("//")[1].split(":")[0]
    url = f"https://{address}:{PORT}"
    etcd_server.make_files(tmp_path / "pem", address)
    shutil.copytree(tmp_path / "pem", machine.root / DIRECTORY)
    server = ("--cert-file", f"/{DIRECTORY}/server_cert", "--key-file", f"/{DIRECTORY}/server_key")
    client = ("--client-cert-auth", "--trusted-ca-file", f"/{DIRECTORY}/ca")
    data, peer = ("--data-dir", "/var/lib/etcd-tls"), f"http://127.0.0.1:{PORT + 1}"
    urls = ("--listen-client-urls", url, "--advertise-client-urls", url)
    peers = ("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"tls={peer}")

    def etcdctl(*words):
        pems = [f"--{name}=/{DIRECTORY}/{file}" for name, file in (("cacert", "ca"), ("cert", "client_cert"))]
        argv = ["etcdctl", f"--endpoints={url}", *pems, f"--key=/{DIRECTORY}/client_key", *words]
        return machine.try_exec(["env", "ETCDCTL_API=3", *argv])

    machine.spawn("etcd-tls", ["etcd", "--name", "tls", *data, *urls, *peers, *server, *client])
    try:
        config = site.CONFIG.replace("10.2.", "10.66.")
        site.wait_for("etcd over TLS takes the config", lambda: etcdctl("put", f"{PREFIX}/config", config).ok)
        yield url, etcdctl
    finally:
        machine.end("etcd-tls")
        machine.exec(["rm", "-rf", "/var/lib/etcd-tls", f"/{DIRECTORY}"])


def test_the_mounted_files_open_an_etcd_that_asks_for_a_certificate(solo, tls, tmp_path):
    url, etcdctl = tls
    files = {"ETCD_CA_FILE": "ca.pem", "ETCD_CERT_FILE": "client.pem", "ETCD_KEY_FILE": "client-key.pem"}
    directory = solo.host.root / DIRECTORY
    directory.mkdir()
    for made, file in zip(("ca", "client_cert", "client_key"), files.values(), strict=True):
        shutil.copy(tmp_path / "pem" / made, directory / file)
    files = {name: f"/etcd-tls/{file}" for name, file in files.items()}
    try:
        solo.install(ETCD_ENDPOINTS=url, ETCD_PREFIX=PREFIX, **{"etcd-tls.source": f"/{DIRECTORY}"}, **files)
        site.wait_ready(solo.host)
        [network] = site.status(solo.host)["flannel_networks"]
        key = f"{PREFIX}/subnets/{network['subnet'].replace('/', '-')}"
        assert json.loads(etcdctl("get", "--print-value-only", key).out)["PublicIP"] == solo.host.ip
        site.create_network(solo.host, "safe")
        assert "10.66." in solo.host.docker("run", "--rm", "--network", "safe", "busybox", "ip", "addr", timeout_s=60)
    finally:
        site.remove(solo.host)
        solo.host.exec(["rm", "-rf", f"/{DIRECTORY}"])


def test_without_the_files_the_plugin_says_which_one_is_missing(solo, tls):
    url, _ = tls
    solo.install(ETCD_ENDPOINTS=url, ETCD_PREFIX=PREFIX, ETCD_CA_FILE="/etcd-tls/ca.pem")
    refused = solo.host.try_docker(
        "network", "create", "-d", "flannelpy", "--ipam-driver", "flannelpy", "safe", timeout_s=60
    )
    assert not refused.ok
    assert "cannot read etcd's TLS file /etcd-tls/ca.pem: No such file or directory" in refused.err
    assert "their directory is given with etcd-tls.source" in refused.err
