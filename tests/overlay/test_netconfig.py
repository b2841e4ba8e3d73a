from __future__ import annotations

import contextlib
import ipaddress
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import errors, netconfig

VXLAN = {"Backend": {"Type": "vxlan"}}

GOOD = [
    ({"Network": "10.3.0.0/16"}, 24, "10.3.1.0", "10.3.255.0", 255),
    ({"Network": "10.2.7.9/16"}, 24, "10.2.1.0", "10.2.255.0", 255),
    ({"Network": "10.0.0.0/8"}, 24, "10.0.1.0", "10.255.255.0", 65535),
    ({"Network": "10.3.0.0/22"}, 24, "10.3.1.0", "10.3.3.0", 3),
    ({"Network": "10.3.0.0/23"}, 25, "10.3.0.128", "10.3.1.128", 3),
    ({"Network": "10.3.0.0/24"}, 26, "10.3.0.64", "10.3.0.192", 3),
    ({"Network": "10.3.0.0/28"}, 30, "10.3.0.4", "10.3.0.12", 3),
    ({"Network": "10.43.116.192/27"}, 29, "10.43.116.200", "10.43.116.216", 3),
    ({"Network": "10.3.0.0/16", "SubnetLen": 18}, 18, "10.3.64.0", "10.3.192.0", 3),
    ({"Network": "10.3.0.0/16", "SubnetLen": 30}, 30, "10.3.0.4", "10.3.255.252", 16383),
    (
        {"Network": "10.3.0.0/16", "SubnetMin": "10.3.5.0", "SubnetMax": "10.3.8.0", "SubnetLen": 28},
        *(28, "10.3.5.0", "10.3.8.0", 49),
    ),
    ({"Network": "10.3.0.0/16", "SubnetMin": "10.3.0.0"}, 24, "10.3.0.0", "10.3.255.0", 256),
    ({"Network": "10.3.0.0/16", "SubnetMin": "0.0.0.0"}, 24, "10.3.1.0", "10.3.255.0", 255),
    (
        {"Network": "10.3.0.0/16", "SubnetMin": "10.3.9.0", "SubnetMax": "10.3.8.0"},
        *(24, "10.3.9.0", "10.3.8.0", 0),
    ),
    (
        {"Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0"},
        *(20, "10.10.0.0", "10.99.0.0", 1425),
    ),
    ({"Network": "255.255.0.0/16"}, 24, "255.255.1.0", "255.255.255.0", 255),
]

BAD = [
    ({"Network": "10.3.0.0/29"}, "network is too small. Minimum useful network prefix is /28"),
    ({"Network": "10.3.0.0/16", "SubnetLen": 17}, "network must be able to accommodate at least four subnets"),
    ({"Network": "10.3.0.0/16", "SubnetLen": 31}, "SubnetLen must be less than /31"),
    (
        {"Network": "10.3.0.0/16", "SubnetMin": "10.3.5.128", "SubnetLen": 24},
        "SubnetMin is not on a SubnetLen boundary: 10.3.5.128",
    ),
    (
        {"Network": "10.3.0.0/16", "SubnetMax": "10.3.5.128", "SubnetLen": 24},
        "SubnetMax is not on a SubnetLen boundary: 10.3.5.128",
    ),
    ({"Network": "10.3.0.0/16", "SubnetMin": "10.4.1.0"}, "SubnetMin is not in the range of the Network"),
    ({"Network": "10.3.0.0/16", "SubnetMax": "10.4.1.0"}, "SubnetMax is not in the range of the Network"),
    ({"Network": "0.0.0.0/0"}, "please define a correct Network parameter in the flannel config"),
    ({}, "please define a correct Network parameter in the flannel config"),
    ({"EnableIPv4": False}, "none defined stack"),
    (
        {"EnableIPv4": False, "EnableIPv6": True},
        "please define a correct IPv6Network parameter in the flannel config",
    ),
    (
        {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fc00::/125"},
        "IPv6Network is too small. Minimum useful network prefix is /124",
    ),
    (
        {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fc00::/48", "IPv6SubnetLen": 127},
        "SubnetLen must be less than /127",
    ),
    (
        {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fc00::/48", "IPv6SubnetMin": "fd00::"},
        "IPv6SubnetMin is not in the range of the IPv6Network",
    ),
    (
        {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fc00::/48", "IPv6SubnetMax": "fc00::1"},
        "IPv6SubnetMax is not on a SubnetLen boundary: fc00::1",
    ),
]

UNREADABLE = [
    '{"Network": "10.3.0.0/16", "SubnetLen": -1}',
    '{"Network": "10.3.0.0/16", "SubnetLen": "24"}',
    '{"Network": "10.3.0.0/16", "SubnetLen": 24.0}',
    '{"Network": "10.3.0.0/16", "SubnetLen": -0}',
    '{"Network": "10.3.0.0/16", "SubnetLen": 18446744073709551616}',
    '{"Network": "10.3.0.0/16", "SubnetLen": true}',
    '{"Network": "10.3.0.0/16", "SubnetLen": NaN}',
    '{"Network": "10.3.0.0/16", "EnableIPv6": 1}',
    '{"Network": "10.3.0.0"}',
    '{"Network": "10.3.0.0/255.255.0.0"}',
    '{"Network": "10.3.0.0/33"}',
    '{"Network": "fc00::/48"}',
    '{"Network": null}',
    '{"Network": 10}',
    '{"Network": "10.3.0.0/16", "SubnetMin": ""}',
    '{"Network": "10.3.0.0/16", "SubnetMin": "fc00::"}',
    '{"Network": "10.3.0.0/16", "SubnetMin": null}',
    '{"Network": "10.3.0.0/16"',
    "[]",
    "",
    pytest.param("[" * 100_000, id="deep"),
]


def parse(config: dict[str, object]) -> netconfig.NetworkConfig:
    return netconfig.parse_network_config(json.dumps(config | VXLAN))


@pytest.mark.parametrize(("config", "length", "first", "last", "count"), GOOD)
def test_the_range_is_flannels(config: dict[str, object], length: int, first: str, last: str, count: int) -> None:
    v4 = parse(config).require_v4()
    assert (v4.subnet_len, str(v4.first.network_address), str(v4.last.network_address), v4.count) == (
        *(length, first, last, count),
    )


@pytest.mark.parametrize(("config", "message"), BAD)
def test_refusals_use_flannels_words(config: dict[str, object], message: str) -> None:
    with pytest.raises(errors.ConfigInvalid) as caught:
        parse(config)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_go_cannot_decode_is_refused(text: str) -> None:
    with pytest.raises(errors.ConfigInvalid):
        netconfig.parse_network_config(text)


def test_host_bits_are_masked() -> None:
    assert str(parse({"Network": "10.2.7.9/16"}).require_v4().network) == "10.2.0.0/16"


def test_names_come_in_any_case_and_the_last_duplicate_wins() -> None:
    text = '{"network": "10.3.0.0/16", "NETWORK": "10.4.0.0/16", "subnetlen": 20, "BACKEND": {"type": "VXLAN"}}'
    config = netconfig.parse_network_config(text)
    assert str(config.require_v4().network) == "10.4.0.0/16"
    assert config.require_v4().subnet_len == 20
    assert config.backend_type == "vxlan"


def test_an_early_duplicate_must_be_readable_too() -> None:
    with pytest.raises(errors.ConfigInvalid):
        netconfig.parse_network_config('{"Network": "x", "network": "10.4.0.0/16", "Backend": {"Type": "vxlan"}}')


def test_null_leaves_numbers_and_switches_alone() -> None:
    text = '{"Network": "10.3.0.0/16", "SubnetLen": null, "EnableIPv4": null, "Backend": {"Type": "vxlan"}}'
    assert netconfig.parse_network_config(text).require_v4().subnet_len == 24


def test_mapped_addresses_count_as_ipv4() -> None:
    v4 = parse({"Network": "10.3.0.0/16", "SubnetMin": "::ffff:10.3.5.0"}).require_v4()
    assert str(v4.first) == "10.3.5.0/24"


def test_ipv6_alone_parses_but_has_no_ipv4_to_write_keys_with() -> None:
    config = parse({"enableIPv6": True, "ipv6Network": "fc00::/48", "enableIPv4": False})
    assert config.v6 is not None
    assert (str(config.v6.first), str(config.v6.last)) == ("fc00:0:0:1::/64", "fc00:0:0:ffff::/64")
    with pytest.raises(errors.ConfigInvalid, match="IPv4"):
        config.require_v4()


def test_ipv6_range_as_given() -> None:
    config = parse(
        {
            "Network": "10.3.0.0/16",
            "EnableIPv6": True,
            "IPv6Network": "fc00::/48",
            "IPv6SubnetMin": "fc00:0:0:1::",
            "IPv6SubnetMax": "fc00:0:0:f::",
            "IPv6SubnetLen": 124,
        }
    )
    assert config.v6 is not None
    assert (str(config.v6.first), str(config.v6.last)) == ("fc00:0:0:1::/124", "fc00:0:0:f::/124")


def test_no_backend_is_refused_with_the_choice_to_make() -> None:
    with pytest.raises(
        errors.ConfigInvalid, match=re.escape('set "Backend" in the network config to {"Type": "vxlan"}')
    ):
        netconfig.parse_network_config('{"Network": "10.3.0.0/16"}')


@pytest.mark.parametrize("backend", ["{}", "null", '{"Type": null}'])
def test_a_backend_without_type_is_left_to_the_chooser(backend: str) -> None:
    assert netconfig.parse_network_config(f'{{"Network": "10.3.0.0/16", "Backend": {backend}}}').backend_type == ""


@pytest.mark.parametrize("backend", ['"vxlan"', "[]", "1", '{"Type": 1}'])
def test_a_backend_of_the_wrong_kind_is_refused(backend: str) -> None:
    with pytest.raises(errors.ConfigInvalid, match="error decoding Backend property of config"):
        netconfig.parse_network_config(f'{{"Network": "10.3.0.0/16", "Backend": {backend}}}')


def test_backend_options_are_kept_as_written() -> None:
    config = netconfig.parse_network_config('{"Network": "10.3.0.0/16", "Backend": {"type": "Host-GW", "vni": 7}}')
    assert (config.backend_type, config.backend) == ("host-gw", {"type": "Host-GW", "vni": 7})


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(errors.ConfigInvalid):
        netconfig.parse_network_config(text)


@given(st.integers(1, 28), st.ip_addresses(v=4))
def test_subnets_lie_in_the_network_and_do_not_overlap(prefix_len: int, address: ipaddress.IPv4Address) -> None:
    v4 = parse({"Network": f"{address}/{prefix_len}"}).require_v4()
    some = [v4.at(position) for position in (0, 1, v4.count - 1)]
    assert all(subnet.subnet_of(v4.network) and v4.holds(subnet) for subnet in some)
    assert not some[0].overlaps(some[1])
    assert not v4.holds(v4.at(-1))
    assert some[2] == v4.last
