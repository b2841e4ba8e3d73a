from __future__ import annotations

import dataclasses
import ipaddress
import json
import pathlib
import typing

import pytest

from plugin import settings

CONFIG_JSON = pathlib.Path(settings.__file__).parent / "config.json"
CONFIG = '{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan"}}'

GOOD = [
    ("ETCD_ENDPOINTS", "http://10.0.0.3:2379", ("http://10.0.0.3:2379",)),
    ("ETCD_ENDPOINTS", " https://a:2379 ,https://b/,", ("https://a:2379", "https://b/")),
    ("ETCD_ENDPOINTS", "http://[2001:db8::1]:2379", ("http://[2001:db8::1]:2379",)),
    ("ETCD_PREFIX", "/blue/network", "/blue/network"),
    ("ETCD_PREFIX", "/blue//network/", "/blue/network"),
    ("ETCD_CA_FILE", "/etcd-tls/ca.pem", "/etcd-tls/ca.pem"),
    ("IFACE", "eth[01]", "eth[01]"),
    ("PUBLIC_IP", "192.0.2.7", ipaddress.IPv4Address("192.0.2.7")),
    ("PUBLIC_IPV6", "2001:db8::7", ipaddress.IPv6Address("2001:db8::7")),
    ("TX_CHECKSUM", "Off", "off"),
    ("TX_CHECKSUM", "on", "on"),
    ("NETWORK_CONFIG", CONFIG, CONFIG),
    ("DEFAULT_NETWORK", "flannel_1.x-y", "flannel_1.x-y"),
    ("ADDRESS_QUARANTINE", "0", 0),
    ("ADDRESS_QUARANTINE", "86400", 86400),
    ("STICKY_MAC", "True", True),
    ("STICKY_MAC", "false", False),
    ("LOG_LEVEL", "DEBUG", "debug"),
    ("METRICS_ADDRESS", "127.0.0.1:9410", settings.Address(host="127.0.0.1", port=9410)),
    ("METRICS_ADDRESS", "[::1]:9410", settings.Address(host="::1", port=9410)),
    ("DOCKER_HOST", "unix:///run/docker.sock", "unix:///run/docker.sock"),
    ("DOCKER_HOST", "tcp://192.0.2.1:2375", "tcp://192.0.2.1:2375"),
    ("STATE_DIR", "/var/lib/flannelpy", "/var/lib/flannelpy"),
    ("RUN_DIR", "/run", "/run"),
]

BAD = [
    ("ETCD_ENDPOINTS", ",", "expected URLs such as http://10.0.0.3:2379, separated by commas; got ','"),
    ("ETCD_ENDPOINTS", "10.0.0.3:2379", "expected URLs such as http://10.0.0.3:2379"),
    ("ETCD_ENDPOINTS", "http://10.0.0.3:99999", "expected URLs such as http://10.0.0.3:2379"),
    ("ETCD_ENDPOINTS", "http://10.0.0.3:0", "expected URLs such as http://10.0.0.3:2379"),
    ("ETCD_ENDPOINTS", "http://a b", "expected URLs such as http://10.0.0.3:2379"),
    ("ETCD_ENDPOINTS", "http://u:p@a:2379", "expected URLs such as http://10.0.0.3:2379"),
    ("ETCD_ENDPOINTS", "http://a,https://b", "expected either http:// or https:// for all endpoints, got both"),
    ("ETCD_PREFIX", "coreos.com/network", "expected a key prefix such as /coreos.com/network"),
    ("ETCD_PREFIX", "/", "expected a key prefix such as /coreos.com/network, got '/'"),
    ("ETCD_PREFIX", "/a/../b", "expected a key prefix such as /coreos.com/network"),
    ("ETCD_PREFIX", "/a b", "expected a key prefix such as /coreos.com/network"),
    ("ETCD_PREFIX", "/" + "a" * 600, "expected a key prefix such as /coreos.com/network"),
    ("ETCD_CA_FILE", "ca.pem", "expected an absolute path inside the plugin, got 'ca.pem'"),
    ("ETCD_CERT_FILE", "cert.pem", "expected an absolute path inside the plugin"),
    ("ETCD_KEY_FILE", "./key.pem", "expected an absolute path inside the plugin"),
    ("IFACE", "eth[", "expected an interface name, an IP or a regular expression, got 'eth['"),
    ("PUBLIC_IP", "192.0.2", "expected an IPv4 address, got '192.0.2'"),
    ("PUBLIC_IP", "2001:db8::1", "expected an IPv4 address"),
    ("PUBLIC_IP", "127.0.0.1", "expected an address other hosts can reach, got '127.0.0.1'"),
    ("PUBLIC_IP", "0.0.0.0", "expected an address other hosts can reach"),
    ("PUBLIC_IP", "224.0.0.1", "expected an address other hosts can reach"),
    ("PUBLIC_IP", "255.255.255.255", "expected an address other hosts can reach"),
    ("PUBLIC_IPV6", "192.0.2.1", "expected an IPv6 address, got '192.0.2.1'"),
    ("PUBLIC_IPV6", "fe80::1", "expected an address other hosts can reach, got 'fe80::1'"),
    ("PUBLIC_IPV6", "::ffff:192.0.2.1", "expected an address other hosts can reach"),
    ("PUBLIC_IPV6", "2001:db8::1%eth0", "expected an address other hosts can reach"),
    ("PUBLIC_IPV6", "::1", "expected an address other hosts can reach"),
    ("PUBLIC_IPV6", "ff02::1", "expected an address other hosts can reach"),
    ("TX_CHECKSUM", "no", "expected one of auto, on, off; got 'no'"),
    ("NETWORK_CONFIG", "{", "flannel would refuse this config"),
    ("NETWORK_CONFIG", '{"Network": "10.2.0.0/31"}', "flannel would refuse this config"),
    ("DEFAULT_NETWORK", "-x", "expected a Docker network name, got '-x'"),
    ("DEFAULT_NETWORK", "a/b", "expected a Docker network name"),
    ("ADDRESS_QUARANTINE", "1m", "expected seconds, 0 to 86400; got '1m'"),
    ("ADDRESS_QUARANTINE", "-1", "expected seconds, 0 to 86400; got '-1'"),
    ("ADDRESS_QUARANTINE", "86401", "expected seconds, 0 to 86400; got '86401'"),
    ("STICKY_MAC", "yes", "expected true or false, got 'yes'"),
    ("LOG_LEVEL", "loud", "expected one of debug, info, warning, error; got 'loud'"),
    ("METRICS_ADDRESS", "9410", "expected IP:PORT such as 127.0.0.1:9410, got '9410'"),
    ("METRICS_ADDRESS", "localhost:9410", "expected IP:PORT such as 127.0.0.1:9410"),
    ("METRICS_ADDRESS", "127.0.0.1:0", "expected IP:PORT such as 127.0.0.1:9410"),
    ("METRICS_ADDRESS", "127.0.0.1:65536", "expected IP:PORT such as 127.0.0.1:9410"),
    ("DOCKER_HOST", "/run/docker.sock", "expected an address such as unix:///host/run/docker.sock"),
    ("STATE_DIR", "data", "expected an absolute path inside the plugin"),
    ("RUN_DIR", "run", "expected an absolute path inside the plugin"),
]


def field_of(name: str) -> str:
    return next(known.field for known in settings.KNOWN if known.name == name)


def test_nothing_set_is_a_standalone_host_with_the_defaults() -> None:
    chosen, problems = settings.parse_settings({})
    assert (chosen, problems) == (settings.Settings(), ())
    assert chosen.standalone


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_a_good_value_is_taken(name: str, text: str, value: object) -> None:
    chosen, problems = settings.parse_settings({name: text})
    assert problems == ()
    assert chosen == dataclasses.replace(settings.Settings(), **{field_of(name): value})


@pytest.mark.parametrize(("name", "text", "expected"), BAD)
def test_a_bad_value_is_named_and_changes_nothing(name: str, text: str, expected: str) -> None:
    chosen, problems = settings.parse_settings({name: text})
    assert chosen == settings.Settings()
    assert len(problems) == 1
    assert str(problems[0]).startswith(f"setting {name}: {expected}")


@pytest.mark.parametrize("name", [known.name for known in settings.KNOWN])
def test_every_setting_has_a_test_and_an_empty_one_counts_as_not_set(name: str) -> None:
    assert settings.parse_settings({name: " "}) == (settings.Settings(), ())
    if name not in {"ETCD_USERNAME", "ETCD_PASSWORD", "ETCD_CERT_FILE", "ETCD_KEY_FILE"}:  # these come in pairs
        assert name in {good[0] for good in GOOD}
    if name not in {"ETCD_USERNAME", "ETCD_PASSWORD"}:
        assert name in {bad[0] for bad in BAD}


def test_all_problems_are_told_at_once() -> None:
    _, problems = settings.parse_settings({"LOG_LEVEL": "loud", "PUBLIC_IP": "x", "ETCD_USERNAME": "root"})
    assert [problem.name for problem in problems] == ["PUBLIC_IP", "LOG_LEVEL", "ETCD_PASSWORD"]


@pytest.mark.parametrize(
    ("env", "name", "expected"),
    [
        ({"ETCD_CERT_FILE": "/c"}, "ETCD_KEY_FILE", "a client certificate needs both"),
        ({"ETCD_KEY_FILE": "/k"}, "ETCD_CERT_FILE", "a client certificate needs both"),
        ({"ETCD_USERNAME": "root"}, "ETCD_PASSWORD", "set both ETCD_USERNAME and ETCD_PASSWORD, or neither"),
        ({"ETCD_PASSWORD": "x"}, "ETCD_USERNAME", "set both ETCD_USERNAME and ETCD_PASSWORD, or neither"),
        (
            {"ETCD_CA_FILE": "/ca", "ETCD_ENDPOINTS": "http://a"},
            "ETCD_ENDPOINTS",
            "TLS files are set, so endpoints must start with https://",
        ),
    ],
)
def test_settings_that_need_each_other_are_checked_together(env: dict[str, str], name: str, expected: str) -> None:
    _, (problem,) = settings.parse_settings(env)
    assert problem.name == name
    assert expected in problem.text


def test_pairs_are_taken() -> None:
    env = {
        "ETCD_ENDPOINTS": "https://a",
        "ETCD_CERT_FILE": "/c",
        "ETCD_KEY_FILE": "/k",
        "ETCD_USERNAME": "root",
        "ETCD_PASSWORD": "secret word",
    }
    chosen, problems = settings.parse_settings(env)
    assert problems == ()
    assert (chosen.etcd_cert_file, chosen.etcd_key_file, chosen.etcd_username, chosen.etcd_password) == (
        "/c",
        "/k",
        "root",
        "secret word",
    )


def test_the_password_is_never_shown() -> None:
    chosen, _ = settings.parse_settings({"ETCD_USERNAME": "root", "ETCD_PASSWORD": "secret"})
    assert "secret" not in repr(chosen)


def test_every_setting_has_its_field_and_parses_to_the_fields_type() -> None:
    hints = typing.get_type_hints(settings.Settings)
    assert [known.field for known in settings.KNOWN] == [
        field.name for field in dataclasses.fields(settings.Settings)
    ]
    for name, text, _ in GOOD:
        known = next(known for known in settings.KNOWN if known.name == name)
        value = known.parse(text.strip())
        allowed = typing.get_args(hints[known.field]) or (hints[known.field],)
        origin = typing.get_origin(hints[known.field])
        assert isinstance(value, (origin,) if origin is tuple else allowed)


def test_docker_plugin_set_knows_every_managed_setting_and_its_default() -> None:
    listed = {one["name"]: one for one in json.loads(CONFIG_JSON.read_text())["env"]}
    managed = {known.name: known for known in settings.KNOWN if known.managed}
    assert listed.keys() == managed.keys()
    for name, one in listed.items():
        default = getattr(settings.Settings(), managed[name].field)
        assert settings.parse_settings({name: one["value"]}) == (settings.Settings(), ())
        if isinstance(default, str):
            assert one["value"] in {default, ""}
        assert one["settable"] == ["value"]
        assert one["description"] == managed[name].description
