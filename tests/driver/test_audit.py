"""Docker's own data trumps the state file, once two looks agree."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest

from driver import audit, endpoint, engine, names
from overlay import netstate

Host = Any  # the fixture's class lives in conftest.py

NETWORK_ID = names.NetworkId("4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e")
FOREIGN_ID = names.NetworkId("7f84cb89bbd1fc848023e910ba4fdc258d9add842940b85e68dedf598ce9fae8")
ENDPOINT_ID = names.EndpointId("1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809")
SEEN_END = engine.EngineEndpoint(id=ENDPOINT_ID, address=ipaddress.IPv4Interface("10.2.20.5/24"), mac=None)
SEEN = engine.EngineNetwork(
    id=NETWORK_ID,
    name="flannel",
    ours=True,
    ipam_ours=True,
    pools=(
        engine.EnginePool(cidr=ipaddress.IPv4Network("10.2.20.0/24"), gateway=ipaddress.IPv4Address("10.2.20.1")),
    ),
    endpoints=(SEEN_END,),
)
FOREIGN = engine.EngineNetwork(id=FOREIGN_ID, name="", ours=False)
ADOPTED = endpoint.Endpoint(
    id=ENDPOINT_ID,
    network_id=NETWORK_ID,
    address=ipaddress.IPv4Interface("10.2.20.5/24"),
    mac=netstate.Mac("02:42:0a:02:14:05"),
    joined=True,
)


def look(host: Host, *seen: engine.EngineNetwork) -> audit.Findings:
    return audit.find(host.driver.networks(), host.driver.endpoints(), seen)


def test_nothing_is_found_where_both_agree(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    assert look(host, FOREIGN, SEEN) == audit.Findings()
    assert look(host) != audit.Findings()


def test_what_docker_lacks_is_stale(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    empty = dataclasses.replace(SEEN, endpoints=())
    assert look(host, empty) == audit.Findings(stale_endpoints=frozenset({ENDPOINT_ID}))
    assert look(host, FOREIGN) == audit.Findings(stale_networks=frozenset({NETWORK_ID}))


def test_what_we_lack_is_missing(host: Host) -> None:
    assert look(host, FOREIGN, SEEN) == audit.Findings(missing_networks=(SEEN,), missing_endpoints=(ADOPTED,))
    host.create_network()
    assert look(host, SEEN) == audit.Findings(missing_endpoints=(ADOPTED,))


def test_a_network_of_ours_without_a_pool_is_not_adopted(host: Host) -> None:
    assert look(host, dataclasses.replace(SEEN, pools=(), endpoints=())) == audit.Findings()


SILENT = tuple(dataclasses.replace(pool, gateway=None) for pool in SEEN.pools)
"""As engines before 29 show the pool of a `--subnet` without `--gateway`."""


def test_a_network_whose_gateway_docker_does_not_tell_is_adopted_on_the_pools_first_address(host: Host) -> None:
    seen = dataclasses.replace(SEEN, pools=SILENT)
    assert audit.mend(host.driver, look(host, seen)).done == (
        "network 4d5d70de7705 adopted from Docker: 10.2.20.0/24",
        "endpoint 1a2299da1bc9 adopted from Docker: 10.2.20.5",
    )
    assert [str(net.gateway) for net in host.driver.networks()] == ["10.2.20.1/24"]
    assert look(host, seen) == audit.Findings()


def test_a_gateway_that_docker_does_not_tell_stays_when_a_network_is_corrected(host: Host) -> None:
    made = dataclasses.replace(
        SEEN, pools=(dataclasses.replace(SEEN.pools[0], gateway=ipaddress.IPv4Address("10.2.20.9")),), endpoints=()
    )
    audit.mend(host.driver, look(host, made))
    changed = audit.Findings(changed_networks=(dataclasses.replace(made, pools=SILENT, internal=True),))
    assert audit.mend(host.driver, changed) == audit.Mending(done=("network 4d5d70de7705 corrected from Docker",))
    assert [(str(net.gateway), net.internal) for net in host.driver.networks()] == [("10.2.20.9/24", True)]


def test_a_known_network_under_a_name_we_do_not_know_loses_no_endpoint(host: Host) -> None:
    """The engine was not asked for its endpoints: that says nothing about them."""
    host.create_network()
    host.create_endpoint()
    assert look(host, engine.EngineNetwork(id=NETWORK_ID, name="", ours=False)) == audit.Findings()


def test_only_what_two_looks_agree_on_is_mended() -> None:
    one, two, three = (frozenset({names.EndpointId(str(n) * 64)}) for n in range(3))
    networks = frozenset({NETWORK_ID})
    before = audit.Findings(stale_endpoints=one | two, stale_networks=networks)
    now = audit.Findings(stale_endpoints=two | three, missing_networks=(SEEN,), missing_endpoints=(ADOPTED,))
    assert audit.confirm(before, now) == audit.Findings(stale_endpoints=two)
    assert audit.confirm(now, now) == now


def test_what_is_being_deleted_is_not_adopted(host: Host) -> None:
    """Docker shows a network for a moment after DeleteNetwork."""
    late = audit.confirm(audit.Findings(), look(host, SEEN))
    assert audit.mend(host.driver, late) == audit.Mending()
    assert (host.known(), host.links()) == (([], []), set())


def test_the_second_look_tells_how_a_missing_network_is() -> None:
    before = audit.Findings(missing_networks=(dataclasses.replace(SEEN, endpoints=()),))
    now = audit.Findings(missing_networks=(SEEN,))
    assert audit.confirm(before, now) == now


def test_stale_things_go_and_what_is_in_use_stays(host: Host) -> None:
    host.create_network()
    host.create_endpoint()
    host.create_endpoint("2" * 64, "10.2.20.6/24")
    host.join("2" * 64)
    done = audit.mend(host.driver, audit.Findings(stale_endpoints=frozenset({ENDPOINT_ID}))).done
    assert done == ("endpoint 1a2299da1bc9 forgotten: Docker does not know it",)
    assert [end.id for end in host.known()[1]] == ["2" * 64]
    assert host.links() == {"fp-4d5d70de7705", "fph222222222222"}
    done = audit.mend(host.driver, audit.Findings(stale_networks=frozenset({NETWORK_ID}))).done
    assert done == ("network 4d5d70de7705 forgotten: Docker does not know it",)
    assert (host.known(), host.links()) == (([], []), set())


def test_after_the_loss_of_the_state_file_all_is_adopted(host: Host) -> None:
    """A plugin removed and installed anew, while containers run."""
    done = audit.mend(host.driver, look(host, FOREIGN, SEEN)).done
    assert done == (
        "network 4d5d70de7705 adopted from Docker: 10.2.20.0/24",
        "endpoint 1a2299da1bc9 adopted from Docker: 10.2.20.5",
    )
    assert host.known()[1] == [ADOPTED]
    assert host.links() == {"fp-4d5d70de7705"}
    assert audit.mend(host.driver, look(host, FOREIGN, SEEN)) == audit.Mending()
    assert host.delete_endpoint() == {}


def test_one_that_cannot_be_adopted_does_not_keep_the_others_out(host: Host) -> None:
    outside = dataclasses.replace(
        SEEN,
        id=FOREIGN_ID,
        name="old",
        pools=(
            engine.EnginePool(cidr=ipaddress.IPv4Network("10.3.0.0/24"), gateway=ipaddress.IPv4Address("10.3.0.1")),
        ),
        endpoints=(),
    )
    twin = engine.EngineEndpoint(
        id=names.EndpointId(ENDPOINT_ID[:12] + "0" * 52), address=ipaddress.IPv4Interface("10.2.20.7/24"), mac=None
    )
    later = engine.EngineEndpoint(
        id=names.EndpointId("3" * 64), address=ipaddress.IPv4Interface("10.2.20.8/24"), mac=None
    )
    seen = dataclasses.replace(SEEN, endpoints=(SEEN_END, twin, later))
    assert audit.mend(host.driver, look(host, outside, seen)) == audit.Mending(
        done=(
            "network 4d5d70de7705 adopted from Docker: 10.2.20.0/24",
            "endpoint 1a2299da1bc9 adopted from Docker: 10.2.20.5",
            "endpoint 1a2299da1bc9 adopted from Docker: 10.2.20.7",
            "endpoint 333333333333 adopted from Docker: 10.2.20.8",
        ),
        refused={
            "network 7f84cb89bbd1 (old) cannot be adopted": (
                "pool 10.3.0.0/24 is not part of a lease of this host (10.2.20.0/24)"
            )
        },
    )


def test_a_bug_met_with_one_network_does_not_keep_the_others_out(host: Host) -> None:
    odd = dataclasses.replace(SEEN, id=FOREIGN_ID, name="odd", options=None, endpoints=())  # type: ignore[arg-type]
    mending = audit.mend(host.driver, audit.Findings(missing_networks=(odd, SEEN)))
    assert mending.done == ("network 4d5d70de7705 adopted from Docker: 10.2.20.0/24",)
    assert mending.refused == {
        "network 7f84cb89bbd1 (odd) cannot be adopted": (
            "bug: AttributeError: 'NoneType' object has no attribute 'items'"
        )
    }


def test_a_network_the_kernel_holds_on_to_is_forgotten_all_the_same(host: Host) -> None:
    host.create_network()
    host.kernel.refuse(netstate.BridgeLink(name=netstate.IfName("fp-4d5d70de7705"), mac=netstate.Mac(""), mtu=0))
    done = audit.mend(host.driver, audit.Findings(stale_networks=frozenset({NETWORK_ID}))).done
    assert done == ("network 4d5d70de7705 forgotten: Docker does not know it",)
    assert host.known() == ([], [])


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("flannelpy", True),
        ("flannelpy:1", True),
        ("flannelpy:latest", True),
        ("localhost:5000/flannelpy:1.0", True),
        ("registry.example/team/flannelpy", True),
        ("flannelpy2", False),
        ("my-flannelpy:1", False),
        ("bridge", False),
        ("", False),
    ],
)
def test_a_drivers_name_says_whether_it_is_ours(name: str, ours: bool) -> None:
    assert engine.is_ours(name) is ours


SEEN6 = dataclasses.replace(
    SEEN,
    pools=(
        *SEEN.pools,
        engine.EnginePool(
            cidr=ipaddress.IPv6Network("fd00:2:0:14::/64"), gateway=ipaddress.IPv6Address("fd00:2:0:14::1")
        ),
    ),
    endpoints=(dataclasses.replace(SEEN_END, address_v6=ipaddress.IPv6Interface("fd00:2:0:14::5/64")),),
)


def test_a_network_and_an_endpoint_of_both_families_are_adopted(host: Host) -> None:
    host.give_ipv6()
    done = audit.mend(host.driver, look(host, SEEN6)).done
    assert done == (
        "network 4d5d70de7705 adopted from Docker: 10.2.20.0/24, fd00:2:0:14::/64",
        "endpoint 1a2299da1bc9 adopted from Docker: 10.2.20.5",
    )
    adopted = host.known()
    assert adopted[1] == [dataclasses.replace(ADOPTED, address_v6=ipaddress.IPv6Interface("fd00:2:0:14::5/64"))]
    host.call("DeleteNetwork", {"NetworkID": NETWORK_ID})
    host.create_network(pool_v6="fd00:2:0:14::/64")
    assert host.known()[0] == adopted[0]


def test_docker_tells_whether_a_network_of_an_old_state_file_was_made_with_an_mtu(host: Host) -> None:
    """A row of 1.0 says 1450, be it chosen or not."""
    host.create_network(com__docker__network__driver__mtu="1450")
    chosen = dataclasses.replace(SEEN, options={"com.docker.network.driver.mtu": "1450"}, endpoints=())
    assert look(host, chosen) == audit.Findings()
    unreadable = dataclasses.replace(SEEN, options={"com.docker.network.driver.mtu": "x"}, endpoints=())
    assert look(host, unreadable) == audit.Findings()
    unchosen = look(host, dataclasses.replace(SEEN, endpoints=()))
    assert unchosen == audit.Findings(chosen_mtus=frozenset({(NETWORK_ID, None)}))
    assert audit.confirm(audit.Findings(), unchosen) == audit.Findings()
    assert audit.mend(host.driver, audit.confirm(unchosen, unchosen)) == audit.Mending()
    assert [(net.mtu, net.chosen_mtu) for net in host.known()[0]] == [(1450, None)]
    host.change_mtu(8950)
    assert [net.mtu for net in host.known()[0]] == [8950]
