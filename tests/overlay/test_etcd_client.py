"""The etcd client without etcd: settings, targets, the shim, the translation of errors."""

from __future__ import annotations

import ipaddress
import os
import pathlib
import subprocess
import sys
import types

import pytest

from overlay import errors, etcd_client, etcd_errors, etcd_resolve, etcd_settings, etcd_shim, lease
from tests.overlay import etcd_server

IP = ipaddress.ip_address


def settings(*endpoints: str, **more: str) -> etcd_settings.EtcdSettings:
    return etcd_settings.EtcdSettings(endpoints=endpoints, **more)  # type: ignore[arg-type]  # timeout_s is never given


@pytest.mark.parametrize(
    ("endpoints", "members", "tls"),
    [
        (("http://192.0.2.1:2379",), "192.0.2.1:2379", False),
        (("http://192.0.2.1:2379,http://etcd.example:4001/",), "192.0.2.1:2379,etcd.example:4001", False),
        ((" https://192.0.2.1 ", "https://[2001:db8::1]:4001"), "192.0.2.1:2379,[2001:db8::1]:4001", True),
        (("192.0.2.1",), "192.0.2.1:2379", False),
        (("etcd:4001",), "etcd:4001", False),
    ],
)
def test_endpoints_are_read(endpoints: tuple[str, ...], members: str, tls: bool) -> None:
    cluster = etcd_settings.parse_cluster(settings(*endpoints))
    assert (str(cluster), cluster.tls) == (members, tls)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (settings(), "no etcd endpoint"),
        (settings(" , "), "no etcd endpoint"),
        (settings("http://192.0.2.1", "https://192.0.2.2"), "mix http and https"),
        (settings("ftp://192.0.2.1"), "expected such as"),
        (settings("http://"), "expected such as"),
        (settings("http://192.0.2.1:0"), "expected such as"),
        (settings("http://192.0.2.1:99999"), "expected such as"),
        (settings("http://2001:db8::1:2379"), "expected such as"),
        (settings("http://[2001:db8::zz]:2379"), "expected such as"),
        (settings("http://192.0.2.1/v3"), "expected such as"),
        (settings("http://root:secret@192.0.2.1"), "must not hold a user"),
        (settings("https://192.0.2.1", cert_file="c"), "certificate needs its key"),
        (settings("http://192.0.2.1", ca_file="c"), "write https"),
        (settings("http://192.0.2.1", username="root"), "user needs a password"),
        (settings("http://192.0.2.1", password="secret"), "user needs a password"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(wrong: etcd_settings.EtcdSettings, message: str) -> None:
    with pytest.raises(errors.SettingsError, match=message) as caught:
        etcd_client.EtcdClient(wrong)
    assert "secret" not in str(caught.value)


def test_the_password_does_not_show() -> None:
    assert "secret" not in repr(settings("http://192.0.2.1", username="root", password="secret"))


def test_without_tls_all_members_are_one_channel() -> None:
    cluster = etcd_settings.parse_cluster(settings("http://a:1,http://b:2"))
    found = {"a": (IP("192.0.2.1"), IP("2001:db8::1")), "b": (IP("192.0.2.2"),)}
    assert etcd_settings.plan_targets(cluster, found, "") == [
        etcd_settings.Target(address="ipv4:192.0.2.1:1,192.0.2.2:2")
    ]


def test_a_channel_of_both_families_reaches_ipv4_by_mapped_addresses() -> None:
    cluster = etcd_settings.parse_cluster(settings("http://a:1,http://b:2"))
    found = {"a": (IP("2001:db8::1"),), "b": (IP("192.0.2.2"),)}
    assert etcd_settings.plan_targets(cluster, found, "") == [
        etcd_settings.Target(address="ipv6:[2001:db8::1]:1,[::ffff:192.0.2.2]:2")
    ]


def test_with_tls_each_name_is_a_channel_of_its_own() -> None:
    cluster = etcd_settings.parse_cluster(settings("https://a:1,https://b:2,https://b:3,https://gone:4"))
    found = {"a": (IP("192.0.2.1"),), "b": (IP("192.0.2.2"),), "gone": ()}
    assert etcd_settings.plan_targets(cluster, found, "") == [
        etcd_settings.Target(address="ipv4:192.0.2.1:1", tls_name="a"),
        etcd_settings.Target(address="ipv4:192.0.2.2:2,192.0.2.2:3", tls_name="b"),
    ]


def test_a_name_that_all_certificates_share_makes_one_channel() -> None:
    cluster = etcd_settings.parse_cluster(settings("https://a:1,https://b:2"))
    found = {"a": (IP("192.0.2.1"),), "b": (IP("192.0.2.2"),)}
    assert etcd_settings.plan_targets(cluster, found, "etcd") == [
        etcd_settings.Target(address="ipv4:192.0.2.1:1,192.0.2.2:2", tls_name="etcd")
    ]


def test_names_are_resolved_and_one_that_is_unknown_is_left_to_the_others() -> None:
    cluster = etcd_settings.parse_cluster(settings("http://localhost,http://unknown.invalid"))
    found = etcd_resolve.Resolver(cluster, 5.0).resolve()
    assert IP("127.0.0.1") in found["localhost"]
    assert found["unknown.invalid"] == ()


def test_no_known_name_at_all_is_an_outage() -> None:
    cluster = etcd_settings.parse_cluster(settings("http://unknown.invalid"))
    with pytest.raises(errors.RegistryUnavailable, match=r"cannot resolve .*unknown\.invalid"):
        etcd_resolve.Resolver(cluster, 5.0).resolve()


@pytest.mark.parametrize(("name", "size"), [("kv_pb2", 319), ("auth_pb2", 308), ("rpc_pb2", 10911)])
def test_the_shim_finds_the_descriptors_of_etcd3(name: str, size: int) -> None:
    import etcd3

    source = (pathlib.Path(etcd3.__file__).parent / "etcdrpc" / f"{name}.py").read_text()
    assert len(etcd_shim.extract_descriptor(source)) == size


def test_the_shim_refuses_other_sources() -> None:
    with pytest.raises(ImportError, match=r"0\.12\.0"):
        etcd_shim.extract_descriptor("x = 1")


def test_import_is_quiet_and_twice_is_harmless() -> None:
    code = "from overlay import etcd_shim, etcd_client; etcd_shim.install(); etcd_shim.install()"
    path = os.pathsep.join(entry or "." for entry in sys.path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


class Refusal(Exception):
    """What a gRPC error looks like to those who don't import gRPC."""

    def __init__(self, name: str, details: str) -> None:
        super().__init__(details)
        self._name, self._details = name, details

    def code(self) -> object:
        return types.SimpleNamespace(name=self._name)

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        ("UNAVAILABLE", "connection refused", errors.RegistryUnavailable),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", errors.RegistryUnavailable),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", errors.RegistryUnavailable),
        ("UNKNOWN", "?", errors.RegistryUnavailable),
        ("UNAUTHENTICATED", "etcdserver: invalid auth token", errors.RegistryDenied),
        ("PERMISSION_DENIED", "etcdserver: permission denied", errors.RegistryDenied),
        ("INVALID_ARGUMENT", "etcdserver: authentication failed, invalid user", errors.RegistryDenied),
        ("INVALID_ARGUMENT", "etcdserver: user name is empty", errors.RegistryDenied),
        ("UNAVAILABLE", "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", errors.RegistryDenied),
        ("NOT_FOUND", "etcdserver: requested lease not found", errors.LeaseLost),
    ],
)
def test_every_refusal_becomes_ours(code: str, details: str, kind: type[errors.RegistryError]) -> None:
    error = etcd_errors.read_failure(Refusal(code, details)).as_error("read /x", "192.0.2.1:2379")
    assert type(error) is kind
    assert str(error) == f"etcd at 192.0.2.1:2379: cannot read /x: {details}"


def test_the_reason_is_found_behind_etcd3s_own_errors() -> None:
    outer = RuntimeError("etcd connection failed")
    outer.__context__ = Refusal("UNAVAILABLE", "connection refused")
    assert etcd_errors.read_failure(outer) == etcd_errors.Failure(code="UNAVAILABLE", details="connection refused")


def test_an_error_without_status_keeps_its_text() -> None:
    assert etcd_errors.read_failure(RuntimeError("x")) == etcd_errors.Failure(code="", details="x")
    assert etcd_errors.read_failure(RuntimeError()).details == "RuntimeError"


@pytest.mark.parametrize(
    ("prefix", "clean"),
    [
        ("/coreos.com/network", "/coreos.com/network"),
        ("/coreos.com//network/", "/coreos.com/network"),
        ("coreos.com/network", "coreos.com/network"),
        ("/a/./b/../c", "/a/c"),
        ("/../a", "/a"),
        ("../a", "../a"),
        ("a/../../b", "../b"),
        ("//a", "/a"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_a_prefix_is_joined_as_go_does(prefix: str, clean: str) -> None:
    assert lease.clean_prefix(prefix) == clean


@pytest.fixture
def nowhere() -> etcd_settings.EtcdSettings:
    """An endpoint where nobody listens."""
    (port,) = etcd_server.free_ports(1)
    return settings(f"http://127.0.0.1:{port}")


def test_a_client_can_be_made_while_etcd_is_down_and_its_calls_say_why(nowhere: etcd_settings.EtcdSettings) -> None:
    client = etcd_client.EtcdClient(nowhere)
    with pytest.raises(errors.RegistryUnavailable, match=r"cannot read /x: .*Connection refused"):
        client.get("/x")
    client.close()
    client.close()
    with pytest.raises(errors.RegistryUnavailable, match="closed"):
        client.get("/x")


def test_a_certificate_file_that_is_missing_is_named() -> None:
    client = etcd_client.EtcdClient(settings("https://127.0.0.1:1", ca_file="/nowhere/ca.pem"))
    with pytest.raises(errors.SettingsError, match=r"/nowhere/ca\.pem"):
        client.get("/x")


WAITING = """
import sys, threading, time
from overlay import etcd_client, etcd_settings, registry, registry_etcd

client = etcd_client.EtcdClient(etcd_settings.EtcdSettings(endpoints=(sys.argv[1],)))
stop = threading.Event()
events = registry_etcd.EtcdRegistry(client, "/x").watch(stop)
assert isinstance(next(events), registry.Outage)
threading.Thread(target=lambda: list(events), daemon=True).start()
used = time.process_time()
stop.wait(8)
print(time.process_time() - used)
"""


def test_waiting_for_an_etcd_that_is_down_costs_less_than_one_percent_of_a_core(
    nowhere: etcd_settings.EtcdSettings,
) -> None:
    """In a process of its own: the threads of other tests would count."""
    argv = [sys.executable, "-c", WAITING, nowhere.endpoints[0]]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout) < 0.08
