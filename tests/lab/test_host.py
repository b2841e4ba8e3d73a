"""How a host boots and its dockerd is started, by engine and firewall; nothing is."""

from __future__ import annotations

import pathlib

import pytest

from lab import boot, config, host, plan


def make_host(nftables: config.Nftables) -> host.Host:
    layout = plan.plan_lab(config.LabConfig(hosts=1))
    spec = boot.Boot(hostname="h1", root=pathlib.Path("/roots/x"), disk=pathlib.Path("/disk"), resolv_conf="")
    made = host.Host(layout, layout.hosts[0], spec=spec, args=("--live-restore",))
    made.nftables = nftables
    return made


@pytest.mark.parametrize(
    ("nftables", "environment", "flags", "policy"),
    [
        (config.Nftables(), [], [], "DROP"),
        (config.KNOWN["28.5"].nftables, ["DOCKER_FIREWALL_BACKEND=nftables"], [], "DROP"),
        (
            config.KNOWN["29"].nftables,
            [],
            ["--firewall-backend=nftables", "--feature=swarm-nftables=true"],
            "ACCEPT",
        ),
    ],
    ids=["iptables", "28.5", "29"],
)
def test_dockerd_is_told_what_to_filter_with_as_its_engine_wants_it(
    nftables: config.Nftables, environment: list[str], flags: list[str], policy: str
) -> None:
    made = make_host(nftables)
    registry = ["--insecure-registry", "198.51.100.5:5000"]
    assert made.dockerd_command == ["env", *environment, "dockerd", *registry, *flags, "--live-restore"]
    assert made.forward_policy == policy


@pytest.mark.parametrize("forwards", [False, True])
def test_a_host_forwards_at_its_boot_only_where_dockerd_leaves_it_to_the_host(*, forwards: bool) -> None:
    spec = boot.Boot(
        hostname="h1", root=pathlib.Path("/x"), disk=pathlib.Path("/y"), resolv_conf="", forwards=forwards
    )
    assert f"echo {int(forwards)} > /proc/sys/net/ipv4/ip_forward" in boot.script(spec, [])
