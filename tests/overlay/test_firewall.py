"""The rules as an operator would read them: golden text, and the way from any listing to the wanted one."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib

import hypothesis
import pytest
from hypothesis import strategies as st

from overlay import firewall, firewall_chain, firewall_ports, firewall_table, netstate

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


def dual(one: firewall.BridgeRules, subnet: str) -> firewall.BridgeRules:
    """The same bridge with IPv6, from a network of 48 bits."""
    network = ipaddress.IPv6Network(subnet)
    device = one.device.replace("flannel.", "flannel-v6.")
    half = firewall.BridgeRulesV6(
        subnet=network, overlay=network.supernet(new_prefix=48), device=netstate.IfName(device)
    )
    return dataclasses.replace(one, v6=half)


def hosted(one: firewall.BridgeRules) -> firewall.BridgeRules:
    """The same bridge in a flannel network of host-gw, known by its prefix alone."""
    return dataclasses.replace(one, device=netstate.IfName(""), prefix=f"/{one.device}")


def published(one: firewall.BridgeRules, *ports: str) -> firewall.BridgeRules:
    """The same bridge with ports such as "tcp 0.0.0.0 8080 10.2.20.5 80"."""
    return dataclasses.replace(one, published=frozenset(port(*words.split()) for words in ports))


def port(protocol: str, host_ip: str, host_port: str, address: str, own_port: str) -> firewall.PublishedPort:
    return firewall.PublishedPort(
        protocol=firewall.Protocol(protocol),
        host_ip=ipaddress.ip_address(host_ip),
        host_port=int(host_port),
        address=ipaddress.ip_address(address),
        port=int(own_port),
    )


V4, V6 = firewall.IPV4, firewall.IPV6
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


PLANS = {
    "v4": frozenset({OPEN}),
    "no-masquerade": frozenset({rules("fp-open", "10.2.20.0/24", masquerade=False)}),
    "internal": frozenset({INTERNAL}),
    "two-networks": frozenset({OPEN, INTERNAL, BLUE}),
    "dual": frozenset({dual(OPEN, "2001:db8:2:20::/64"), INTERNAL}),
    "dual-and-v4": frozenset({dual(OPEN, "2001:db8:2:20::/64"), dual(INTERNAL, "2001:db8:2:21::/64"), BLUE}),
    "host-gw": frozenset({hosted(OPEN), hosted(INTERNAL)}),
    "host-gw-dual": frozenset({dual(hosted(OPEN), "2001:db8:2:20::/64")}),
    "direct-routing": frozenset({dataclasses.replace(OPEN, direct=True)}),
    "vxlan-and-host-gw": frozenset({OPEN, hosted(BLUE)}),
    "outside": frozenset(
        {dataclasses.replace(OPEN, outside=True), dataclasses.replace(INTERNAL, outside=True), BLUE}
    ),
    "outside-host-gw": frozenset({dataclasses.replace(hosted(OPEN), outside=True), hosted(INTERNAL)}),
    "no-icc": frozenset({dataclasses.replace(OPEN, icc=False), BLUE}),
    "published": frozenset(
        {
            published(OPEN, "tcp 0.0.0.0 8080 10.2.20.5 80", "udp 0.0.0.0 53 10.2.20.5 5353"),
            published(INTERNAL, "tcp 0.0.0.0 8081 10.2.20.130 80"),
        }
    ),
    "published-dual": frozenset(
        {
            published(
                dual(OPEN, "2001:db8:2:20::/64"),
                "tcp 192.0.2.1 8080 10.2.20.5 80",
                "tcp 127.0.0.1 8080 10.2.20.6 80",
                "tcp :: 8080 2001:db8:2:20::5 80",
                "tcp 2001:db8::1 8081 2001:db8:2:20::6 80",
                *(f"udp :: {number} 2001:db8:2:20::5 53" for number in (53, 54, 55, 5353)),
                "udp ::1 56 2001:db8:2:20::5 53",
                "udp 2001:db8::1 58 2001:db8:2:20::5 53",
            ),
            BLUE,
        }
    ),
    "two-host-gw": frozenset(
        {dual(hosted(OPEN), "2001:db8:2:20::/64"), dual(hosted(BLUE), "2001:db8:9:20::/64"), hosted(INTERNAL)}
    ),
}


def texts(plan: firewall.FirewallPlan) -> dict[str, str]:
    """All that is written for a plan, by the ending of its golden file; what is empty has none."""
    written = {"nft": "".join(firewall_table.nft_script(plan, family) for family in written_families(plan))}
    for family in firewall.FAMILIES:
        written[family.iptables] = "".join(f"{rule}\n" for rule in firewall_chain.forward_rules(plan, family, ()))
    return {ending: text for ending, text in written.items() if text}


def written_families(plan: firewall.FirewallPlan) -> list[firewall.Family]:
    return [family for family in firewall.FAMILIES if firewall.domains(plan, family)]


@pytest.mark.parametrize("name", PLANS)
def test_the_rules_of_a_plan_are_those_of_its_golden_files(name: str) -> None:
    """The texts in the folder beside this file: what an operator reads in `nft list` and `iptables -S`."""
    golden = {path.suffix[1:]: path.read_text() for path in (LISTINGS / "plans").glob(f"{name}.*")}
    assert texts(PLANS[name]) == golden


def test_every_golden_file_has_its_plan() -> None:
    assert {path.stem for path in (LISTINGS / "plans").iterdir()} == set(PLANS)


def test_nothing_of_ipv6_is_written_where_no_bridge_has_it() -> None:
    for name in ("v4", "two-networks", "host-gw"):
        assert written_families(PLANS[name]) == [V4]
        assert firewall_chain.forward_rules(PLANS[name], V6, ()) == []


def test_an_empty_plan_deletes_the_table() -> None:
    for family in firewall.FAMILIES:
        name = f"table {family.table} flannelpy"
        assert firewall_table.nft_script(frozenset(), family) == f"{name}\ndelete {name}\n"
        assert firewall_table.nft_script(PLANS["v4"], V6) == "table ip6 flannelpy\ndelete table ip6 flannelpy\n"


def test_overlapping_overlays_of_one_device_become_one() -> None:
    """nft refuses a set with overlapping intervals; both may be there while the network config changes."""
    wider = firewall.BridgeRules(
        bridge=netstate.IfName("fp-wide"),
        subnet=ipaddress.IPv4Network("10.3.1.0/24"),
        overlay=ipaddress.IPv4Network("10.2.0.0/15"),
        device=OPEN.device,
    )
    assert "ip daddr != { 10.2.0.0/15, 224.0.0.0/4 }" in firewall_table.nft_script(frozenset({OPEN, wider}), V4)


def test_nothing_opens_a_way_between_two_flannel_networks() -> None:
    written = "\n".join(firewall_chain.forward_rules(frozenset({OPEN, INTERNAL, BLUE}), V4, ()))
    assert "-i flannel.1 -o fp-blue" not in written
    assert "-i fp-open -o fp-int -j ACCEPT" in written


@pytest.mark.parametrize("version", ["20.10", "28"])
def test_bridges_that_the_engine_guards_are_left_to_it_whatever_their_name(version: str) -> None:
    assert firewall_chain.docker_bridges(docker(version)) == {"docker0", "docker_gwbridge", "shop"}
    returns = [
        rule for rule in firewall_chain.forward_rules(frozenset({OPEN}), V4, {"docker0", "shop"}) if "RETURN" in rule
    ]
    assert returns == [f"-A FLANNELPY-FORWARD -o {name} -j RETURN" for name in ("docker+", "br-+", "shop")]


def test_an_operators_rule_in_docker_user_does_not_make_a_bridge_dockers() -> None:
    assert firewall_chain.docker_bridges("-A DOCKER-USER -o eth0 -j DROP\n-A FORWARD -o eth1 -j ACCEPT\n") == set()


@pytest.mark.parametrize("version", ["20.10", "28"])
def test_the_jump_stands_directly_after_docker_user(version: str) -> None:
    before = docker(version)
    after = apply(firewall_chain.forward_script(frozenset({OPEN}), V4, before), before)
    forward = [line for line in after.splitlines() if line.startswith("-A FORWARD ")]
    assert forward[:2] == ["-A FORWARD -j DOCKER-USER", JUMP]
    assert firewall_chain.forward_script(frozenset({OPEN}), V4, after) == ""


def test_the_jump_stands_first_without_docker_user() -> None:
    before = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n"
    script = firewall_chain.forward_script(frozenset({INTERNAL}), V4, before)
    assert script.splitlines()[:3] == [
        "*filter",
        ":FLANNELPY-FORWARD - [0:0]",
        "-I FORWARD 1 -j FLANNELPY-FORWARD",
    ]


def test_an_empty_plan_takes_chain_and_jumps_away_and_nothing_else() -> None:
    before = docker("28")
    doubled = apply(firewall_chain.forward_script(frozenset({OPEN, BLUE}), V4, before), before).replace(
        JUMP, f"{JUMP}\n{JUMP}"
    )
    assert apply(firewall_chain.forward_script(frozenset(), V4, doubled), doubled) == before
    assert firewall_chain.forward_script(frozenset(), V4, before) == ""


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
    after = apply(firewall_chain.forward_script(plan, V4, before), before)
    assert firewall_chain.forward_script(plan, V4, after) == ""
    assert [line for line in after.splitlines() if line in OTHERS and line != JUMP] == [
        line for line in forward if line != JUMP
    ]
    assert after.count(JUMP) == bool(plan)


def test_a_published_port_counts_in_the_shape_of_a_table() -> None:
    """Each map is used once; a colon is in its type, and one in each element."""
    assert firewall_table.nft_shape(firewall_table.nft_script(PLANS["published"], V4))[4:] == (1, 3)
    assert firewall_table.nft_shape(firewall_table.nft_script(PLANS["published-dual"], V6))[4:] == (2, 10)


def test_of_two_containers_with_one_port_one_has_it() -> None:
    """It cannot be, but nft would refuse the whole table, and with it all isolation."""
    twice = published(OPEN, "tcp 0.0.0.0 8080 10.2.20.5 80", "tcp 0.0.0.0 8080 10.2.20.6 80")
    assert firewall_table.nft_script(frozenset({twice}), V4).count("tcp . 8080 : ") == 1


def test_the_shape_of_a_table_does_not_depend_on_how_sets_are_printed() -> None:
    script = firewall_table.nft_script(frozenset({OPEN, INTERNAL, BLUE}), V4)
    assert firewall_table.nft_shape(script) == (4, 4, 12, 2, 0, 0)
    assert firewall_table.nft_shape(script.replace("10.2.20.0/25", "10.2.20.0-10.2.20.127")) == (4, 4, 12, 2, 0, 0)
    assert firewall_table.nft_shape("") == (0, 0, 0, 0, 0, 0)


def test_published_ports_are_read_where_nft_lists_protocols_by_number() -> None:
    """It knows their names from /etc/protocols alone, which not every root file system has."""
    listing = """\
table ip flannelpy {
	map ports-at {
		type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
		elements = { 192.0.2.1 . 6 . 8080 : 10.2.20.5 . 80 }
	}

	map ports {
		type inet_proto . inet_service : ipv4_addr . inet_service
		elements = { 17 . 53 : 10.2.20.5 . 5353, 6 . 8080 : 10.2.20.5 . 80 }
	}
}
"""
    expected = ("tcp 192.0.2.1 8080 10.2.20.5 80", "udp 0.0.0.0 53 10.2.20.5 5353", "tcp 0.0.0.0 8080 10.2.20.5 80")
    assert firewall_ports.parse_published(listing) == {port(*words.split()) for words in expected}
