"""The rules as an operator would read them: golden text, and the way from any listing to the wanted one."""

from __future__ import annotations

import ipaddress
import pathlib

import hypothesis
import pytest
from hypothesis import strategies as st

from overlay import firewall, netstate

LISTINGS = pathlib.Path(__file__).parent / "firewall"
JUMP = "-A FORWARD -j FLANNELPY-FORWARD"


def rules(
    bridge: str, subnet: str, *, device: str = "flannel.1", internal: bool = False, masquerade: bool = True
) -> firewall.BridgeRules:
    return firewall.BridgeRules(
        bridge=netstate.IfName(bridge),
        subnet=ipaddress.IPv4Network(subnet),
        overlay=ipaddress.IPv4Network(subnet).supernet(new_prefix=16),
        device=netstate.IfName(device),
        internal=internal,
        masquerade=masquerade,
    )


OPEN = rules("fp-open", "10.2.20.0/25")
INTERNAL = rules("fp-int", "10.2.20.128/25", internal=True)
BLUE = rules("fp-blue", "10.9.20.0/24", device="flannel.9")


def apply(script: str, listing: str) -> str:
    """What iptables-restore --noflush makes of a filter table, for the few commands that we use."""
    lines = listing.splitlines()
    for line in script.splitlines():
        match line.split(" ", 2):
            case [name, _, _] if name.startswith(":"):
                chain = name[1:]
                lines = [old for old in lines if not old.startswith((f"-A {chain} ", f":{chain} "))]
                lines.insert(1, line)
            case ["-D", chain, spec]:
                lines.remove(f"-A {chain} {spec}")
            case ["-I", chain, spec]:
                place, rule = spec.split(" ", 1)
                at = [i for i, old in enumerate(lines) if old.startswith(f"-A {chain} ")] + [len(lines) - 1]
                assert int(place) <= len(at), "Index of insertion too big."
                lines.insert(at[int(place) - 1], f"-A {chain} {rule}")
            case ["-A", _, _]:
                lines.insert(len(lines) - 1, line)
            case ["-F", chain]:
                lines = [old for old in lines if not old.startswith(f"-A {chain} ")]
            case ["-X", chain]:
                assert not any(old.endswith(f"-j {chain}") for old in lines), "Device or resource busy"
                lines = [old for old in lines if not old.startswith(f":{chain} ")]
            case _:
                assert line in ("*filter", "COMMIT"), line
    return "\n".join(lines) + "\n"


def docker(version: str) -> str:
    """The filter table of an engine with the bridges docker0 and shop, the latter named by its operator."""
    return (LISTINGS / f"docker-{version}.rules").read_text().split("*nat")[0]


def test_the_table_of_one_network_keeps_sources_inside_the_overlay_and_rewrites_them_at_its_edge() -> None:
    assert firewall.nft_script(frozenset({OPEN})) == (
        "table ip flannelpy\n"
        "delete table ip flannelpy\n"
        "table ip flannelpy {\n"
        "\tchain postrouting {\n"
        "\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
        "\t\tip saddr 10.2.20.0/25 ip daddr != { 10.2.0.0/16, 224.0.0.0/4 }"
        ' oifname != { "flannel.1", "fp-open" } masquerade fully-random\n'
        '\t\toifname "flannel.1" ip saddr != 10.2.0.0/16 masquerade fully-random\n'
        "\t}\n"
        "}\n"
    )


def test_the_table_keeps_internal_bridges_and_flannel_networks_apart() -> None:
    assert firewall.nft_script(frozenset({OPEN, INTERNAL, BLUE})) == (
        "table ip flannelpy\n"
        "delete table ip flannelpy\n"
        "table ip flannelpy {\n"
        "\tchain postrouting {\n"
        "\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
        "\t\tip saddr 10.2.20.0/25 ip daddr != { 10.2.0.0/16, 224.0.0.0/4 }"
        ' oifname != { "flannel.1", "fp-int", "fp-open" } masquerade fully-random\n'
        '\t\toifname "flannel.1" ip saddr != 10.2.0.0/16 masquerade fully-random\n'
        "\t\tip saddr 10.9.20.0/24 ip daddr != { 10.9.0.0/16, 224.0.0.0/4 }"
        ' oifname != { "flannel.9", "fp-blue" } masquerade fully-random\n'
        '\t\toifname "flannel.9" ip saddr != 10.9.0.0/16 masquerade fully-random\n'
        "\t}\n"
        "\n"
        "\tchain forward {\n"
        "\t\ttype filter hook forward priority filter; policy accept;\n"
        '\t\tiifname "fp-int" oifname != { "flannel.1", "fp-int", "fp-open" } drop\n'
        '\t\toifname "fp-int" iifname != { "flannel.1", "fp-int", "fp-open" } drop\n'
        '\t\tiifname { "flannel.1", "fp-int", "fp-open" } oifname { "flannel.9", "fp-blue" } drop\n'
        '\t\tiifname { "flannel.9", "fp-blue" } oifname { "flannel.1", "fp-int", "fp-open" } drop\n'
        "\t}\n"
        "}\n"
    )


def test_an_empty_plan_deletes_the_table() -> None:
    assert firewall.nft_script(frozenset()) == "table ip flannelpy\ndelete table ip flannelpy\n"


def test_without_masquerade_only_foreign_sources_are_rewritten() -> None:
    script = firewall.nft_script(frozenset({rules("fp-open", "10.2.20.0/24", masquerade=False)}))
    assert [line.strip() for line in script.splitlines() if "masquerade" in line] == [
        'oifname "flannel.1" ip saddr != 10.2.0.0/16 masquerade fully-random'
    ]


def test_overlapping_overlays_of_one_device_become_one() -> None:
    """nft refuses a set with overlapping intervals; both may be there while the network config changes."""
    wider = firewall.BridgeRules(
        bridge=netstate.IfName("fp-wide"),
        subnet=ipaddress.IPv4Network("10.3.1.0/24"),
        overlay=ipaddress.IPv4Network("10.2.0.0/15"),
        device=OPEN.device,
    )
    assert "ip daddr != { 10.2.0.0/15, 224.0.0.0/4 }" in firewall.nft_script(frozenset({OPEN, wider}))


def test_the_chain_opens_one_network_and_its_way_out_but_not_the_way_in() -> None:
    assert firewall.forward_rules(frozenset({OPEN}), ()) == [
        "-A FLANNELPY-FORWARD -i flannel.1 -o fp-open -j ACCEPT",
        "-A FLANNELPY-FORWARD -i fp-open -o flannel.1 -j ACCEPT",
        "-A FLANNELPY-FORWARD -i fp-open -o fp-open -j ACCEPT",
        "-A FLANNELPY-FORWARD -o fp-open -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FLANNELPY-FORWARD -o docker+ -j RETURN",
        "-A FLANNELPY-FORWARD -o br-+ -j RETURN",
        "-A FLANNELPY-FORWARD -i fp-open -j ACCEPT",
    ]


def test_an_internal_bridge_gets_no_way_out() -> None:
    assert firewall.forward_rules(frozenset({INTERNAL}), ()) == [
        "-A FLANNELPY-FORWARD -i flannel.1 -o fp-int -j ACCEPT",
        "-A FLANNELPY-FORWARD -i fp-int -o flannel.1 -j ACCEPT",
        "-A FLANNELPY-FORWARD -i fp-int -o fp-int -j ACCEPT",
    ]


def test_nothing_opens_a_way_between_two_flannel_networks() -> None:
    written = "\n".join(firewall.forward_rules(frozenset({OPEN, INTERNAL, BLUE}), ()))
    assert "-i flannel.1 -o fp-blue" not in written
    assert "-i fp-open -o fp-int -j ACCEPT" in written


@pytest.mark.parametrize("version", ["20.10", "28"])
def test_bridges_that_the_engine_guards_are_left_to_it_whatever_their_name(version: str) -> None:
    assert firewall.docker_bridges(docker(version)) == {"docker0", "shop"}
    returns = [rule for rule in firewall.forward_rules(frozenset({OPEN}), {"docker0", "shop"}) if "RETURN" in rule]
    assert returns == [f"-A FLANNELPY-FORWARD -o {name} -j RETURN" for name in ("docker+", "br-+", "shop")]


def test_an_operators_rule_in_docker_user_does_not_make_a_bridge_dockers() -> None:
    assert firewall.docker_bridges("-A DOCKER-USER -o eth0 -j DROP\n-A FORWARD -o eth1 -j ACCEPT\n") == set()


@pytest.mark.parametrize("version", ["20.10", "28"])
def test_the_jump_stands_directly_after_docker_user(version: str) -> None:
    before = docker(version)
    after = apply(firewall.forward_script(frozenset({OPEN}), before), before)
    forward = [line for line in after.splitlines() if line.startswith("-A FORWARD ")]
    assert forward[:2] == ["-A FORWARD -j DOCKER-USER", JUMP]
    assert firewall.forward_script(frozenset({OPEN}), after) == ""


def test_the_jump_stands_first_without_docker_user() -> None:
    before = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n"
    script = firewall.forward_script(frozenset({INTERNAL}), before)
    assert script.splitlines()[:3] == [
        "*filter",
        ":FLANNELPY-FORWARD - [0:0]",
        "-I FORWARD 1 -j FLANNELPY-FORWARD",
    ]


def test_an_empty_plan_takes_chain_and_jumps_away_and_nothing_else() -> None:
    before = docker("28")
    doubled = apply(firewall.forward_script(frozenset({OPEN, BLUE}), before), before).replace(JUMP, f"{JUMP}\n{JUMP}")
    assert apply(firewall.forward_script(frozenset(), doubled), doubled) == before
    assert firewall.forward_script(frozenset(), before) == ""


OTHERS = ("-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-FORWARD", "-A FORWARD -j REJECT", JUMP, JUMP)
LEFT_OVER = ("-A FLANNELPY-FORWARD -i old -j ACCEPT", "-A FLANNELPY-FORWARD -o docker+ -j RETURN")


@hypothesis.given(
    forward=st.lists(st.sampled_from(OTHERS), max_size=6),
    chain=st.lists(st.sampled_from(LEFT_OVER), max_size=3),
    plan=st.frozensets(st.sampled_from((OPEN, INTERNAL, BLUE))),
)
def test_from_whatever_is_there_one_script_reaches_the_plan(
    forward: list[str], chain: list[str], plan: firewall.FirewallPlan
) -> None:
    ours = [":FLANNELPY-FORWARD - [0:0]"] if chain or JUMP in forward else []
    before = "\n".join(["*filter", ":FORWARD DROP [0:0]", *ours, *forward, *chain, "COMMIT"])
    after = apply(firewall.forward_script(plan, before), before)
    assert firewall.forward_script(plan, after) == ""
    assert [line for line in after.splitlines() if line in OTHERS and line != JUMP] == [
        line for line in forward if line != JUMP
    ]
    assert after.count(JUMP) == bool(plan)


def test_the_shape_of_a_table_does_not_depend_on_how_sets_are_printed() -> None:
    script = firewall.nft_script(frozenset({OPEN, INTERNAL, BLUE}))
    assert firewall.nft_shape(script) == (2, 4, 4)
    assert firewall.nft_shape(script.replace("10.2.20.0/25", "10.2.20.0-10.2.20.127")) == (2, 4, 4)
    assert firewall.nft_shape("") == (0, 0, 0)
