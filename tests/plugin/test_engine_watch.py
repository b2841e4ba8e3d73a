"""The background look at Docker, over the whole plugin in memory and a Docker that is a list."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from driver import desired, engine, errors, names, network, ports
from plugin import engine_watch
from tests.overlay import node_host
from tests.plugin import memory_plugin

Plugin = memory_plugin.MemoryPlugin
until = node_host.until

SEEN = engine.EngineNetwork(
    id=memory_plugin.NETWORK_ID,
    name="flannel",
    ours=True,
    ipam_ours=True,
    pools=(engine.EnginePool(cidr=ipaddress.IPv4Network("10.2.1.0/24"), gateway=ipaddress.IPv4Address("10.2.1.1")),),
    endpoints=(
        engine.EngineEndpoint(id=memory_plugin.ENDPOINT_ID, address=ipaddress.IPv4Interface("10.2.1.2/24"), mac=None),
    ),
)
EMPTY = dataclasses.replace(SEEN, endpoints=())


@pytest.fixture
def full(plugin: Plugin) -> Plugin:
    memory_plugin.fill(plugin)
    plugin.engine.networks = [SEEN]
    return plugin


@pytest.fixture
def run() -> Iterator[Callable[[Plugin], None]]:
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def start(plugin: Plugin) -> None:
        threads.append(threading.Thread(target=plugin.watch.run, args=(stop,)))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def addresses(plugin: Plugin) -> set[str]:
    return {str(one.ip) for one in plugin.ipam.addresses()}


def test_where_all_agree_nothing_is_mended(full: Plugin) -> None:
    before = full.state_of_all()
    assert [full.watch.look() for _ in range(3)] == [[], [], []]
    assert full.state_of_all() == before
    told = full.watch.status()
    assert told.pop("looked_s") < 5.0
    assert told == {
        "reachable": True,
        "confirmed": True,
        "error": None,
        "default_network": None,
        "mended": 0,
        "differences": {},
        "refused": {},
    }


def test_a_network_is_called_by_its_id_until_docker_told_its_name(full: Plugin) -> None:
    pool, other = ipaddress.IPv4Network("10.2.1.0/24"), ipaddress.IPv4Network("10.2.1.0/25")
    assert (full.watch.network_of(pool), full.watch.network_of(other)) == ("4d5d70de7705", "")
    full.watch.look()
    assert (full.watch.network_of(pool), full.watch.network_of(other)) == ("flannel (4d5d70de7705)", "")


def test_a_new_network_has_its_name_long_before_the_next_look(plugin: Plugin, run: Callable[[Plugin], None]) -> None:
    timing = dataclasses.replace(memory_plugin.TIMING, period_s=3600.0, confirm_s=3600.0, retry_s=0.05)
    watch = plugin.watch = plugin.make_watch(timing)
    run(plugin)
    until(lambda: watch.status()["looked_s"] is not None)
    looked_s = watch.status()["looked_s"]
    memory_plugin.fill(plugin)
    time.sleep(0.2)  # Docker lists a network only after the driver made it
    assert watch.network_of(ipaddress.IPv4Network("10.2.1.0/24")) == "4d5d70de7705"
    plugin.engine.networks = [SEEN]
    until(lambda: watch.network_of(ipaddress.IPv4Network("10.2.1.0/24")) == "flannel (4d5d70de7705)")
    assert watch.status()["looked_s"] > looked_s, "names are asked for, and no look comes early"


def test_an_endpoint_goes_only_after_two_looks(full: Plugin) -> None:
    full.engine.networks = [EMPTY]
    full.watch.look()
    assert [end.id for end in full.driver.endpoints()] == [memory_plugin.ENDPOINT_ID]
    done = full.watch.look()
    assert "endpoint 1a2299da1bc9 forgotten: Docker does not know it" in done
    assert full.driver.endpoints() == []
    assert addresses(full) == {"10.2.1.1"}


def test_an_endpoint_that_was_just_being_made_stays(full: Plugin) -> None:
    full.engine.networks = [EMPTY]
    full.watch.look()
    full.engine.networks = [SEEN]
    full.watch.look()
    full.engine.networks = [EMPTY]
    full.watch.look()
    assert [end.id for end in full.driver.endpoints()] == [memory_plugin.ENDPOINT_ID]


def test_what_docker_does_not_know_goes_only_when_it_is_older_than_the_grace(full: Plugin) -> None:
    watch = full.make_watch(dataclasses.replace(memory_plugin.TIMING, grace_s=0.3))
    full.engine.networks = []
    began = time.monotonic()
    until(lambda: watch.look() != [])
    assert time.monotonic() - began >= 0.3
    assert (full.driver.networks(), full.driver.endpoints()) == ([], [])


def test_a_network_that_docker_lost_goes_with_its_addresses(full: Plugin) -> None:
    full.engine.networks = []
    for _ in range(2):
        full.watch.look()
    full.reconciler.run_pass()
    assert (full.driver.networks(), full.driver.endpoints(), full.ipam.usage()) == ([], [], [])
    assert full.watch.status()["mended"] != 0


def test_what_we_lost_is_adopted_with_its_address(plugin: Plugin) -> None:
    plugin.engine.networks = [SEEN]
    for _ in range(2):
        plugin.watch.look()
    assert [net.id for net in plugin.driver.networks()] == [memory_plugin.NETWORK_ID]
    assert [end.joined for end in plugin.driver.endpoints()] == [True]
    assert addresses(plugin) == {"10.2.1.1", "10.2.1.2"}


def looks_until_complete(plugin: Plugin, most: int = 4) -> int:
    told: list[None] = []
    watch = plugin.make_watch(engine_watch.Timing(grace_s=0.1), complete=lambda: told.append(None))
    for looks in range(1, most + 1):
        watch.look()
        if told:
            for _ in range(3):
                watch.look()
            assert told == [None]  # once
            return looks
    return 0


@pytest.mark.parametrize("filtered", [True, False], ids=["rules are there", "rules are gone"])
def test_ports_of_a_lost_state_file_are_published_as_the_packet_filter_has_them(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, filtered: bool
) -> None:
    """Docker tells no ports of a native network; ephemeral ones it never knew."""
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    options = network.Options(gateway_mode=network.GatewayMode.NATIVE)
    before = Plugin(tmp_path / "before", saved=True)
    memory_plugin.fill(before, options)
    before.driver.join(memory_plugin.NETWORK_ID, memory_plugin.ENDPOINT_ID, publishes=True, sandbox="s")
    wishes = ({"Proto": 6, "Port": 80, "HostPort": 8080}, {"Proto": 17, "Port": 53}, {"Proto": 6, "Port": 81})
    before.driver.publisher.publish(memory_plugin.NETWORK_ID, memory_plugin.ENDPOINT_ID, wishes)
    published = set(before.driver.endpoints()[0].published)
    before.close()
    if not filtered:
        before.firewall.flush()
    before.engine.networks = [dataclasses.replace(SEEN, options={"flannelpy.gateway": "native"})]
    after = Plugin(tmp_path / "after", saved=True, host=before)
    for _ in range(2):
        after.watch.look()
    (end,) = after.driver.endpoints()
    assert set(end.published) == (published if filtered else set())
    assert {port for rules in after.firewall.plan for port in rules.published} == set(end.published)
    assert after.host_ports.list_held() == {ports.host_port(port) for port in end.published}
    assert (len(published), LOST_PORTS[filtered] in caplog.text) == (3, True)
    after.close()


LOST_PORTS = {
    True: "ports published again as the packet filter had them: their row was lost endpoint=1a2299da1bc9 ports=",
    False: "what a container published is not known: its row was lost; if it did, start it anew endpoint=1a2299da1b",
}


def test_nothing_is_removed_before_all_that_docker_knows_is_known(plugin: Plugin) -> None:
    assert looks_until_complete(plugin) == 1
    plugin.engine.networks = [SEEN]
    assert looks_until_complete(plugin) == 2
    assert len(plugin.driver.endpoints()) == 1


ELSEWHERE = dataclasses.replace(
    EMPTY,
    pools=(
        engine.EnginePool(cidr=ipaddress.IPv4Network("10.2.77.0/24"), gateway=ipaddress.IPv4Address("10.2.77.1")),
    ),
)
"""On a pool of no lease."""


def test_what_cannot_be_adopted_is_kept_for_good_and_named(plugin: Plugin, caplog: pytest.LogCaptureFixture) -> None:
    plugin.engine.networks = [ELSEWHERE]
    assert looks_until_complete(plugin, most=50) == 0
    assert plugin.driver.networks() == []
    for _ in range(3):
        plugin.watch.look()
    what, why = (
        "network 4d5d70de7705 (flannel) cannot be adopted",
        "pool 10.2.77.0/24 is not part of a lease of this host (10.2.1.0/24)",
    )
    assert plugin.watch.status()["refused"] == {what: why}
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count(f"{what}: {why}") == 2, "once for each of the two watches"
    plugin.engine.networks = []
    assert looks_until_complete(plugin) == 1, "it was removed in Docker"


SILENT = dataclasses.replace(SEEN, pools=tuple(dataclasses.replace(pool, gateway=None) for pool in SEEN.pools))
"""As engines before 29 show a network of `--subnet` without `--gateway`."""


@pytest.mark.parametrize("seen", [SEEN, SILENT], ids=["told", "not told"])
def test_a_lost_state_file_costs_no_running_container_its_links(
    plugin: Plugin, tmp_path: pathlib.Path, seen: engine.EngineNetwork
) -> None:
    memory_plugin.fill(plugin)
    plugin.driver.join(memory_plugin.NETWORK_ID, memory_plugin.ENDPOINT_ID, publishes=False, sandbox="s")
    plugin.reconciler.run_pass()
    links = {link.name for link in plugin.kernel.list_links()}
    plugin.engine.networks = [seen]
    (tmp_path / "lost").mkdir()
    anew = Plugin(tmp_path / "lost", saved=True, host=plugin, gate_open=False)
    anew.watch = anew.make_watch(memory_plugin.TIMING, complete=anew.reconciler.open_gate)
    for _ in range(4):
        anew.watch.look()
        anew.reconciler.run_pass()
    assert {link.name for link in anew.kernel.list_links()} == links
    assert [str(net.gateway) for net in anew.driver.networks()] == ["10.2.1.1/24"]
    assert {str(one.ip): str(one.kind) for one in anew.ipam.addresses()} == {
        "10.2.1.1": "gateway",
        "10.2.1.2": "endpoint",
    }
    assert told_by_audit(anew) == []
    anew.close()


def told_by_audit(plugin: Plugin) -> list[tuple[str, str]]:
    """What the audit tells of networks and addresses."""
    found = plugin.audit(0.0, repair=False)["differences"]
    return [(one["kind"], one["object"]) for one in found if one["kind"].startswith(("network", "address", "pool"))]


FOREIGN = engine.EngineNetwork(id=names.NetworkId("0" * 64), name="", ours=False)
OTHER_ENGINE = engine.Identity(id="OTHER", has_plugin=False)


def test_another_engine_takes_nothing_away_and_is_said(full: Plugin) -> None:
    """DOCKER_HOST, a second dockerd, podman's socket."""
    full.ago_s = -3600.0
    before = full.state_of_all()
    full.engine.identity, full.engine.networks = OTHER_ENGINE, [FOREIGN]
    for _ in range(4):
        with pytest.raises(errors.EngineError, match="the engine OTHER is another one"):
            full.watch.look()
    answer = full.audit(0.0, repair=True)
    assert answer["troubles"]["docker"].startswith(
        "the engine OTHER is another one: this plugin is not among its plug"
    )
    assert full.state_of_all() == before


def test_another_engine_is_told_in_status(full: Plugin, run: Callable[[Plugin], None]) -> None:
    full.engine.identity, full.engine.networks = OTHER_ENGINE, [FOREIGN]
    run(full)
    until(lambda: full.watch.status()["error"] != "not asked yet")
    told = full.watch.status()
    assert (told["reachable"], told["error"].partition(":")[0]) == (False, "the engine OTHER is another one")


def test_an_engine_that_never_listed_a_network_of_ours_takes_nothing_away(full: Plugin) -> None:
    """Beside a plugin that is no managed one, and so has no id that an engine could list."""
    before = full.state_of_all()
    full.engine.identity, full.engine.networks = engine.Identity(id="ONE"), [FOREIGN]
    assert looks_until_complete(full) == 0
    full.audit(0.0, repair=True)
    assert full.state_of_all() == before
    full.engine.networks = [FOREIGN, SEEN]
    assert looks_until_complete(full) == 1
    full.engine.networks = [FOREIGN]
    for _ in range(2):
        full.watch.look()
    assert full.driver.networks() == [], "it had them, and has them no more"


def test_a_network_that_cannot_be_read_is_named_and_keeps_what_it_has(full: Plugin) -> None:
    """And the others are looked at: an endpoint that Docker lost goes."""
    trouble = dataclasses.replace(SEEN, ours=False, endpoints=(), trouble="ValueError: 'x' is no address")
    other = dataclasses.replace(
        ELSEWHERE, id=names.NetworkId("5" * 64), options={"flannelpy.new": "1"}, ipam_options={"flannelpy.new": "1"}
    )
    full.ago_s = 3600.0
    memory_plugin.take(full, "10.2.1.9")
    full.engine.networks = [trouble, other]
    before = full.driver.networks(), full.driver.endpoints(), addresses(full)
    assert looks_until_complete(full) == 0
    named = {
        "network 4d5d70de7705 (flannel)": "ValueError: 'x' is no address",
        "network 555555555555 (flannel)": (
            "unknown option 'flannelpy.new'; flannelpy knows: flannelpy.gateway, flannelpy.spoofing, "
            "flannelpy.outside, com.docker.network.driver.mtu, com.docker.network.bridge.enable_ip_masquerade, "
            "com.docker.network.bridge.enable_icc, com.docker.network.bridge.name, "
            "com.docker.network.container_iface_prefix; --ipam-opt flannelpy.new: no such option; known are: "
            "flannelpy.prefix=/etcd/prefix"
        ),
    }
    full.watch.look()
    assert {what: why for what, why in full.watch.status()["refused"].items() if what.endswith("as it is")} == {
        f"{what} is left as it is": why for what, why in named.items()
    }
    assert full.audit(0.0, repair=True)["troubles"] == named
    assert (full.driver.networks(), full.driver.endpoints()) == before[:2]
    assert addresses(full) >= before[2]


def test_one_that_cannot_be_read_is_kept_where_it_is_not_known(plugin: Plugin) -> None:
    plugin.engine.networks = [dataclasses.replace(SEEN, ours=False, endpoints=(), trouble="odd")]
    assert looks_until_complete(plugin) == 0


def test_addresses_of_both_families_are_taken_from_what_docker_shows(plugin: Plugin) -> None:
    v6 = engine.EnginePool(
        cidr=ipaddress.IPv6Network("fd00:2:0:1::/64"),
        gateway=ipaddress.IPv6Address("fd00:2:0:1::1"),
        ip_range=ipaddress.IPv6Network("fd00:2:0:1::/80"),
        aux=frozenset({ipaddress.IPv6Address("fd00:2:0:1::9")}),
    )
    (end,) = SEEN.endpoints
    dual = dataclasses.replace(end, address_v6=ipaddress.IPv6Interface("fd00:2:0:1::2/64"))
    plugin.engine.networks = [dataclasses.replace(SEEN, pools=(*SEEN.pools, v6), endpoints=(dual,))]
    plugin.watch.look()
    assert addresses(plugin) == {"10.2.1.1", "10.2.1.2", "fd00:2:0:1::1", "fd00:2:0:1::2", "fd00:2:0:1::9"}
    assert [(usage.cidr, usage.subpool) for usage in plugin.ipam.usage()] == [
        (ipaddress.IPv4Network("10.2.1.0/24"), None),
        (ipaddress.IPv6Network("fd00:2:0:1::/64"), ipaddress.IPv6Network("fd00:2:0:1::/80")),
    ]
    plugin.engine.networks = [dataclasses.replace(SEEN, pools=(*SEEN.pools, v6))]  # its container has IPv4 alone
    plugin.watch.look()
    assert "address fd00:2:0:1::2 of pool flannelpy/fd00:2:0:1::/64 released: Docker has no endpoint with it" in (
        plugin.watch.look()
    )


def test_with_networks_the_host_routes_once_docker_answers(plugin: Plugin) -> None:
    """Not before: a dockerd that finds ip_forward on would leave the FORWARD policy open."""
    memory_plugin.fill_network(plugin)
    plugin.engine.networks = [EMPTY]
    assert not plugin.kernel.observe(desired.FORWARDING) & desired.FORWARDING
    plugin.watch.look()
    assert plugin.kernel.observe(desired.FORWARDING) >= desired.FORWARDING


def test_an_engine_that_is_down_is_asked_again_for_ever(
    full: Plugin, run: Callable[[Plugin], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    full.engine.failure = "connection refused"
    run(full)
    until(lambda: full.engine.asked >= 5)
    assert full.watch.status()["error"] == "connection refused"
    told = [record for record in caplog.records if "engine not reached" in record.getMessage()]
    assert len(told) == 1
    full.engine.failure = None
    until(lambda: full.watch.status()["reachable"])


def test_a_bug_does_not_end_the_looks(full: Plugin, run: Callable[[Plugin], None]) -> None:
    full.engine.networks = [None]  # type: ignore[list-item]
    run(full)
    until(lambda: full.engine.asked >= 2)
    full.engine.networks = [SEEN]
    until(lambda: full.watch.status()["reachable"])


def test_the_default_network_is_created_once_the_lease_is_there(
    make_plugin: Callable[..., Plugin], run: Callable[[Plugin], None]
) -> None:
    plugin = make_plugin(default_network="flannel")
    run(plugin)
    until(lambda: plugin.watch.status()["default_network"] == "waits for the lease")
    assert plugin.engine.created == []
    assert plugin.watch.status()["reachable"]
    plugin.join()
    until(lambda: plugin.engine.created == ["flannel"])
    until(lambda: plugin.watch.status()["default_network"] is None)


def test_a_default_network_that_docker_refuses_is_tried_again_without_more_looks(
    make_plugin: Callable[..., Plugin], run: Callable[[Plugin], None]
) -> None:
    """Two looks close together are no two opinions."""
    plugin = make_plugin(default_network="flannel", saved=True)
    patient = dataclasses.replace(memory_plugin.TIMING, period_s=3600.0)
    plugin.watch = plugin.make_watch(patient, "flannel")
    plugin.engine.refusal = "plugin flannelpy not found"
    run(plugin)
    until(lambda: plugin.watch.status()["default_network"] == "plugin flannelpy not found")
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 0.1)
    assert plugin.engine.asked == 1
    plugin.engine.refusal = None
    until(lambda: plugin.engine.created == ["flannel"])
    assert plugin.engine.asked == 1


def test_networks_of_others_are_nobodys_business(plugin: Plugin) -> None:
    foreign = engine.EngineNetwork(id=memory_plugin.NETWORK_ID, name="", ours=False)
    plugin.engine.networks = [foreign]
    before = plugin.state_of_all()
    for _ in range(3):
        plugin.watch.look()
    assert plugin.state_of_all() == before


def test_a_pool_for_another_driver_keeps_its_addresses(full: Plugin) -> None:
    """`-d macvlan --ipam-driver flannelpy`: its endpoints are not asked for, so they say nothing."""
    full.driver.delete_network(memory_plugin.NETWORK_ID)
    full.engine.networks = [dataclasses.replace(EMPTY, ours=False)]
    for _ in range(3):
        full.watch.look()
    assert addresses(full) == {"10.2.1.1", "10.2.1.2"}
