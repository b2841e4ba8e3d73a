"""What a random run takes for a difference: every way in which a host and Docker may disagree."""

from __future__ import annotations

import dataclasses

import pytest

from lab import random_look, random_oracle

NET = "aa" * 32
END = "bb" * 32
BRIDGE = "fp-aaaaaaaaaaaa"
PORT = "fphbbbbbbbbbbbb"

GOOD = random_look.Seen(
    name="h1",
    networks={NET: ("10.2.5.1",)},
    endpoints=(
        random_look.DockerEndpoint(id=END, network_id=NET, container="c" * 64, addresses=("10.2.5.2", "fd00:2::2")),
    ),
    running={"c0": frozenset({END})},
    told_networks=frozenset({NET}),
    told_endpoints=frozenset({(END, ("10.2.5.2", "fd00:2::2"))}),
    filed_networks=frozenset({NET}),
    filed_endpoints=frozenset({END}),
    rows={"10.2.5.1": "gateway", "10.2.5.2": "endpoint", "fd00:2::1": "gateway", "fd00:2::2": "endpoint"},
    pools=frozenset({"10.2.5.0/24", "fd00:2::/64"}),
    docker_pools=frozenset({"10.2.5.0/24", "fd00:2::/64"}),
    links={BRIDGE: "", PORT: BRIDGE, "flannel.1": "", "flannel-v6.1": ""},
    rules=f"""table ip flannelpy {{
\tmap ports {{
\t\telements = {{ tcp . 8081 : 10.2.5.2 . 80,
\t\t\t     tcp . 32768 : 10.2.5.2 . 443 }}
\t}}
\t\toifname != {{ "{BRIDGE}", "flannel.1" }} masquerade
}}
table ip6 flannelpy {{
\t\telements = {{ tcp . 8081 : fd00:2::2 . 80, tcp . 32768 : fd00:2::2 . 443 }}
}}
table ip docker {{
\t\telements = {{ tcp . 9 : 172.17.0.2 . 9 }}
}}
""",
    asked={END: random_look.Asked(ports=frozenset({"8081->80/tcp", "->443/tcp"}), certain=True)},
    told_ports={
        END: frozenset({"0.0.0.0:8081->80/tcp", "[::]:8081->80/tcp", "0.0.0.0:32768->443/tcp", "[::]:32768->443/tcp"})
    },
)
EMPTY = random_look.Seen(
    name="h2",
    networks={},
    endpoints=(),
    running={},
    told_networks=frozenset(),
    told_endpoints=frozenset(),
    filed_networks=frozenset(),
    filed_endpoints=frozenset(),
    rows={},
    pools=frozenset(),
    docker_pools=frozenset(),
    links={"flannel.1": ""},
    rules="",
    asked={},
    told_ports={},
)


def told(**changes: object) -> list[str]:
    return list(map(str, random_oracle.differences(dataclasses.replace(GOOD, **changes))))  # type: ignore[arg-type]


@pytest.mark.parametrize("seen", [GOOD, EMPTY])
def test_a_host_that_has_what_docker_knows_has_no_difference(seen: random_look.Seen) -> None:
    assert random_oracle.differences(seen) == []


def test_an_address_that_docker_does_not_know_is_leaked() -> None:
    assert told(rows={**GOOD.rows, "10.2.5.9": "endpoint"}) == ["leaked: h1: address in use: 10.2.5.9"]


def test_a_second_gateway_in_one_pool_is_leaked() -> None:
    assert told(rows={**GOOD.rows, "10.2.5.9": "gateway"}) == ["leaked: h1: address in use: 10.2.5.9"]


def test_an_address_of_docker_that_is_free_here_is_missing() -> None:
    rows = {ip: kind for ip, kind in GOOD.rows.items() if ip != "10.2.5.2"}
    assert told(rows=rows) == ["missing: h1: address in use: 10.2.5.2"]


def test_pools_are_compared() -> None:
    assert told(pools=GOOD.pools | {"10.2.5.0/26"}) == ["leaked: h1: pool: 10.2.5.0/26"]
    assert told(pools=frozenset({"10.2.5.0/24"})) == ["missing: h1: pool: fd00:2::/64"]


def test_networks_are_compared_in_memory_and_in_the_file() -> None:
    other = "dd" * 32
    assert told(told_networks=GOOD.told_networks | {other}) == [f"leaked: h1: network in memory: {other}"]
    assert told(filed_networks=frozenset()) == [f"missing: h1: network in the file: {NET}"]


def test_endpoints_are_compared_with_their_addresses() -> None:
    assert told(told_endpoints=frozenset({(END, ("10.2.5.2",))})) == [
        "leaked: h1: endpoint in memory: bbbbbbbbbbbb 10.2.5.2",
        "missing: h1: endpoint in memory: bbbbbbbbbbbb 10.2.5.2 fd00:2::2",
    ]
    assert told(filed_endpoints=frozenset({END, "ee" * 32})) == ["leaked: h1: endpoint in the file: eeeeeeeeeeee"]


def test_links_are_compared_with_their_bridges() -> None:
    assert told(links={**GOOD.links, "fphffffffffffff": BRIDGE}) == ["leaked: h1: link fphffffffffffff"]
    assert told(links={BRIDGE: ""}) == [f"missing: h1: link {PORT}"]
    assert told(links={**GOOD.links, PORT: ""}) == [f"missing: h1: {PORT} is in bridge '', not {BRIDGE}"]


def test_an_endpoint_without_a_sandbox_needs_no_link() -> None:
    bare = dataclasses.replace(GOOD.endpoints[0], container="")
    assert told(endpoints=(bare,), links={BRIDGE: ""}) == []


def test_a_port_that_a_running_container_asks_for_and_has_not_is_missing() -> None:
    ports = GOOD.told_ports[END] - {"[::]:8081->80/tcp"}
    assert told(told_ports={END: ports}) == [
        "missing: h1: port of bbbbbbbbbbbb: v6 8081->80/tcp",
        "leaked: h1: redirection: tcp 8081 to fd00:2::2 80",
    ]
    assert [line for line in told(told_ports={}) if "port of" in line] == [
        f"missing: h1: port of bbbbbbbbbbbb: v{version} {port}"
        for version in (4, 6)
        for port in ("->443/tcp", "8081->80/tcp")
    ]


def test_a_port_that_nobody_running_asks_for_is_leaked() -> None:
    ports = GOOD.told_ports[END] | {"0.0.0.0:8082->80/tcp"}
    assert told(told_ports={END: ports}) == [
        "leaked: h1: port of bbbbbbbbbbbb: v4 8082->80/tcp",
        "missing: h1: redirection: tcp 8082 to 10.2.5.2 80",
    ]
    assert told(asked={}) == [
        f"leaked: h1: port of bbbbbbbbbbbb: v{version} {port}"
        for version in (4, 6)
        for port in ("32768->443/tcp", "8081->80/tcp")
    ]


def test_of_a_container_on_several_networks_docker_chooses_where_ports_are_published() -> None:
    asked = {END: dataclasses.replace(GOOD.asked[END], certain=False)}
    assert told(asked=asked) == []
    ports = GOOD.told_ports[END] | {"0.0.0.0:8082->80/tcp"}
    assert told(asked=asked, told_ports={END: ports})[0] == "leaked: h1: port of bbbbbbbbbbbb: v4 8082->80/tcp"


def test_redirections_are_those_of_published_ports_to_their_containers() -> None:
    assert told(rules=GOOD.rules.replace("tcp . 8081 : 10.2.5.2 . 80", "tcp . 8081 : 10.2.5.9 . 80")) == [
        "leaked: h1: redirection: tcp 8081 to 10.2.5.9 80",
        "missing: h1: redirection: tcp 8081 to 10.2.5.2 80",
    ]


def test_rules_name_what_is_there_and_nothing_else() -> None:
    assert told(rules=f"{GOOD.rules} iifname fp-cccccccccccc drop") == ["leaked: h1: a rule for fp-cccccccccccc"]
    assert told(rules=f"{GOOD.rules} iifname fphcccccccccccc drop") == ["leaked: h1: a rule for fphcccccccccccc"]
    assert told(rules="")[0] == f"missing: h1: rules for {BRIDGE}"


def test_a_container_with_an_endpoint_that_no_network_has_is_dockers_own_matter() -> None:
    lost = "ee" * 32
    assert told(running={"c0": frozenset({END, lost})}) == [
        "docker: h1: container c0 has eeeeeeeeeeee, no network has it"
    ]


def test_one_address_at_two_endpoints_is_doubled_on_one_host_and_on_two() -> None:
    twin = dataclasses.replace(GOOD.endpoints[0], id="ee" * 32, addresses=("10.2.5.2",))
    text = "doubled: 10.2.5.2: h1 endpoint bbbbbbbbbbbb, {} endpoint eeeeeeeeeeee"
    one = dataclasses.replace(GOOD, endpoints=(*GOOD.endpoints, twin))
    other = dataclasses.replace(EMPTY, endpoints=(twin,))
    assert list(map(str, random_oracle.doubled([one]))) == [text.format("h1")]
    assert list(map(str, random_oracle.doubled([GOOD, other]))) == [text.format("h2")]
    assert random_oracle.doubled([GOOD, EMPTY]) == []


def test_an_endpoint_with_the_gateways_address_is_doubled() -> None:
    thief = dataclasses.replace(GOOD.endpoints[0], addresses=("10.2.5.1",))
    assert list(map(str, random_oracle.doubled([dataclasses.replace(GOOD, endpoints=(thief,))]))) == [
        "doubled: 10.2.5.1: h1 gateway of aaaaaaaaaaaa, h1 endpoint bbbbbbbbbbbb"
    ]
