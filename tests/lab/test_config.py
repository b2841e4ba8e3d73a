"""The configuration of a lab: what is refused, and that writing and reading back loses nothing."""

from __future__ import annotations

import json

import pytest

from lab import config, errors


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "Lab"},
        {"name": "../x"},
        {"name": "a-b"},
        {"name": "a" * 17},
        {"hosts": 0},
        {"hosts": 51},
        {"engine": "19.03"},
        {"engine": "28.5,"},
        {"etcd_members": 2},
        {"firewall": "ufw"},
        {"firewall": "nftables", "engine": "28.5,26.1"},
        {"engine": "29"},  # until a suite has it
        {"mtu": 1279},
        {"mtu": 9001},
        {"shares": ("relative",)},
        {"shares": ("/with blank",)},
    ],
)
def test_what_cannot_be_built_is_refused_by_name(wrong: dict[str, object]) -> None:
    field = "etcd" if "etcd_members" in wrong else next(iter(wrong)).removesuffix("s")
    with pytest.raises(errors.ConfigError, match=field):
        config.LabConfig(**wrong)  # type: ignore[arg-type]


def test_reading_back_gives_the_same_configuration() -> None:
    wanted = config.LabConfig(
        name="x1", hosts=3, engine="28.5,20.10", dockerd_args=("--live-restore",), shares=("/srv",)
    )
    assert config.parse_config(json.loads(json.dumps(config.format_config(wanted)))) == wanted


def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match="not a lab's configuration"):
        config.parse_config({"name": "x", "dockerd_args": [], "shares": [], "colour": "blue"})


def test_several_engines_are_dealt_out_in_turn() -> None:
    mixed = config.LabConfig(hosts=3, engine="28.5,20.10")
    assert [mixed.engine_of(i) for i in range(3)] == ["28.5", "20.10", "28.5"]
    assert mixed.suites == ("forky", "bookworm")


def test_the_engines_are_those_that_a_suite_has() -> None:
    assert config.ENGINES == ("20.10", "26.1", "28.5")
    assert {name: engine.firewalls for name, engine in config.KNOWN.items()} == {
        "20.10": ("iptables-nft", "iptables-legacy"),
        "26.1": ("iptables-nft", "iptables-legacy"),
        "28.5": ("iptables-nft", "iptables-legacy", "nftables"),
        "29": ("iptables-nft", "iptables-legacy", "nftables"),
    }


def test_nftables_are_asked_for_only_where_the_lab_has_them() -> None:
    assert config.LabConfig(engine="28.5").nftables_of("28.5") == config.Nftables()
    assert config.LabConfig(engine="28.5", firewall="nftables").nftables_of("28.5") == config.KNOWN["28.5"].nftables
