from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
from collections.abc import Iterator

import pytest

from driver import endpoint, errors, names, network, store
from overlay import netstate, statefile

NETWORK_ID = names.NetworkId("4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e")
OTHER_NETWORK_ID = names.NetworkId("7f84cb89bbd1fc848023e910ba4fdc258d9add842940b85e68dedf598ce9fae8")
ENDPOINT_ID = names.EndpointId("1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809")
NET = network.Network(
    id=NETWORK_ID,
    bridge=names.bridge_name(NETWORK_ID),
    pool=ipaddress.IPv4Network("10.2.20.0/25"),
    gateway=ipaddress.IPv4Interface("10.2.20.1/25"),
    prefix="/coreos.com/network",
    overlay=ipaddress.IPv4Network("10.2.0.0/16"),
    device=netstate.IfName("flannel.1"),
    mtu=1450,
)
OTHER_NET = dataclasses.replace(
    NET,
    id=OTHER_NETWORK_ID,
    bridge=netstate.IfName("blue"),
    pool=ipaddress.IPv4Network("10.2.20.128/25"),
    gateway=ipaddress.IPv4Interface("10.2.20.129/25"),
    internal=True,
    masquerade=False,
    gateway_mode=network.GatewayMode.DOCKER,
    chosen_mtu=1300,
    direct=True,
    iface_prefix="blue",
    route_level=3,
    icc=False,
    spoofing=True,
    outside=True,
    v6=network.NetworkV6(
        pool=ipaddress.IPv6Network("fd00:2:0:14::/64"),
        gateway=ipaddress.IPv6Interface("fd00:2:0:14::1/64"),
        overlay=ipaddress.IPv6Network("fd00:2::/48"),
        device=netstate.IfName("flannel-v6.1"),
    ),
)
END = endpoint.Endpoint(
    id=ENDPOINT_ID,
    network_id=NETWORK_ID,
    address=ipaddress.IPv4Interface("10.2.20.5/25"),
    mac=netstate.Mac("02:42:0a:02:14:05"),
)


@pytest.fixture
def state(tmp_path: pathlib.Path) -> Iterator[statefile.StateFile]:
    file = statefile.StateFile(tmp_path / "state.db", [store.SCHEMA])
    yield file
    file.close()


@pytest.fixture
def rows(state: statefile.StateFile) -> store.DriverStore:
    return store.DriverStore(state)


def test_what_is_saved_is_loaded_in_the_order_of_creation(rows: store.DriverStore) -> None:
    rows.save_network(OTHER_NET)
    rows.save_network(NET)
    rows.save_endpoint(END)
    assert rows.load() == ([OTHER_NET, NET], [END])


def test_everything_is_there_after_a_restart(tmp_path: pathlib.Path) -> None:
    for turn in range(2):
        file = statefile.StateFile(tmp_path / "state.db", [store.SCHEMA])
        rows = store.DriverStore(file)
        if turn == 0:
            rows.save_network(NET)
            rows.save_endpoint(dataclasses.replace(END, joined=True))
        else:
            assert rows.load() == ([NET], [dataclasses.replace(END, joined=True)])
        file.close()


def test_saving_a_network_again_keeps_its_endpoints(rows: store.DriverStore) -> None:
    rows.save_network(NET)
    rows.save_endpoint(END)
    rows.save_network(NET)
    assert rows.load() == ([NET], [END])


def test_saving_an_endpoint_again_changes_it_in_place(rows: store.DriverStore) -> None:
    later = dataclasses.replace(END, id=names.EndpointId("2" * 64))
    rows.save_network(NET)
    rows.save_endpoint(END)
    rows.save_endpoint(later)
    rows.save_endpoint(dataclasses.replace(END, joined=True))
    assert rows.load() == ([NET], [dataclasses.replace(END, joined=True), later])


@pytest.mark.parametrize(
    "clash",
    [
        dataclasses.replace(OTHER_NET, bridge=NET.bridge),
        dataclasses.replace(OTHER_NET, pool=NET.pool),
    ],
)
def test_a_bridge_or_a_pool_has_one_network(rows: store.DriverStore, clash: network.Network) -> None:
    rows.save_network(NET)
    with pytest.raises(errors.Conflict) as caught:
        rows.save_network(clash)
    assert str(caught.value) == "network 4d5d70de7705 has bridge fp-4d5d70de7705 and pool 10.2.20.0/25 already"
    assert rows.load() == ([NET], [])


def test_two_endpoints_with_one_short_id_cannot_share_an_interface(rows: store.DriverStore) -> None:
    twin = dataclasses.replace(END, id=names.EndpointId(ENDPOINT_ID[:12] + "f" * 52))
    rows.save_network(NET)
    rows.save_endpoint(END)
    with pytest.raises(errors.Conflict, match="has the interface fph1a2299da1bc9 already"):
        rows.save_endpoint(twin)
    assert rows.load() == ([NET], [END])


def test_an_endpoint_without_its_network_is_not_saved(rows: store.DriverStore) -> None:
    with pytest.raises(statefile.StateFileError):
        rows.save_endpoint(END)
    assert rows.load() == ([], [])


def test_a_network_takes_its_endpoints_along(rows: store.DriverStore) -> None:
    rows.save_network(NET)
    rows.save_endpoint(END)
    rows.delete_network(NETWORK_ID)
    assert rows.load() == ([], [])


def test_deleting_what_is_gone_is_success(rows: store.DriverStore) -> None:
    rows.delete_network(NETWORK_ID)
    rows.delete_endpoint(ENDPOINT_ID)
    assert rows.load() == ([], [])


def test_an_ipv6_pool_has_one_network(rows: store.DriverStore) -> None:
    rows.save_network(OTHER_NET)
    clash = dataclasses.replace(NET, v6=OTHER_NET.v6)
    with pytest.raises(errors.Conflict, match=r"network 7f84cb89bbd1 has bridge blue and pool 10\.2\.20\.128/25 al"):
        rows.save_network(clash)
    assert rows.load() == ([OTHER_NET], [])


def test_saving_a_network_again_changes_what_follows_the_lease(rows: store.DriverStore) -> None:
    rows.save_network(OTHER_NET)
    rows.save_endpoint(dataclasses.replace(END, network_id=OTHER_NETWORK_ID))
    assert OTHER_NET.v6 is not None
    changed = dataclasses.replace(
        OTHER_NET,
        mtu=1300,
        chosen_mtu=None,
        direct=False,
        device=netstate.IfName("flannel.9"),
        overlay=ipaddress.IPv4Network("10.0.0.0/8"),
        v6=dataclasses.replace(
            OTHER_NET.v6, overlay=ipaddress.IPv6Network("fd00::/16"), device=netstate.IfName("flannel-v6.9")
        ),
    )
    rows.save_network(changed)
    assert rows.load() == ([changed], [dataclasses.replace(END, network_id=OTHER_NETWORK_ID)])


def test_an_endpoint_keeps_its_ipv6_address_and_its_pairs_mtu(rows: store.DriverStore) -> None:
    rows.save_network(OTHER_NET)
    end = dataclasses.replace(
        END, network_id=OTHER_NETWORK_ID, address_v6=ipaddress.IPv6Interface("fd00:2:0:14::5/64"), mtu=1450
    )
    rows.save_endpoint(end)
    rows.save_endpoint(dataclasses.replace(end, joined=True))
    assert rows.load() == ([OTHER_NET], [dataclasses.replace(end, joined=True)])


def test_a_state_file_of_1_0_is_read_on(tmp_path: pathlib.Path) -> None:
    """Its rows do not tell whether an MTU was chosen: each counts as chosen, until Docker is asked."""
    old = statefile.Schema(room="driver", steps=store.SCHEMA.steps[:1])
    file = statefile.StateFile(tmp_path / "state.db", [old])
    with file.write() as tx:
        tx.run(
            "INSERT INTO networks VALUES (?, ?, '10.2.20.0/25', '10.2.20.1/25', '/coreos.com/network', '10.2.0.0/16',"
            " 'flannel.1', 1450, 0, 1, 'auto')",
            (NETWORK_ID, NET.bridge),
        )
        tx.run(
            "INSERT INTO endpoints VALUES (?, ?, '10.2.20.5/25', '02:42:0a:02:14:05', 'fph1a2299da1bc9', 1)",
            (ENDPOINT_ID, NETWORK_ID),
        )
    file.close()
    for _ in range(2):
        file = statefile.StateFile(tmp_path / "state.db", [store.SCHEMA])
        assert store.DriverStore(file).load() == (
            [dataclasses.replace(NET, chosen_mtu=1450)],
            [dataclasses.replace(END, joined=True, mtu=1450)],
        )
        file.close()


def test_networks_of_1_2_are_closed_to_the_outside(tmp_path: pathlib.Path) -> None:
    old = statefile.Schema(room="driver", steps=store.SCHEMA.steps[:3])
    file = statefile.StateFile(tmp_path / "state.db", [old])
    with file.write() as tx:
        tx.run(
            "INSERT INTO networks (id, bridge, pool, gateway, prefix, overlay, device, mtu, internal, masquerade,"
            " gateway_mode, icc, spoofing) VALUES (?, ?, '10.2.20.0/25', '10.2.20.1/25', '/coreos.com/network',"
            " '10.2.0.0/16', 'flannel.1', 1450, 0, 1, 'auto', 0, 1)",
            (NETWORK_ID, NET.bridge),
        )
    file.close()
    file = statefile.StateFile(tmp_path / "state.db", [store.SCHEMA])
    assert store.DriverStore(file).load() == ([dataclasses.replace(NET, icc=False, spoofing=True, outside=False)], [])
    file.close()
