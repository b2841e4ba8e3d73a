from __future__ import annotations

import ipaddress
import pathlib
from collections.abc import Iterator

import pytest

from overlay import lease, netstate, nodestore, statefile

KEY = lease.SubnetKey(v4=ipaddress.IPv4Network("10.2.20.0/24"))
PEER = lease.SubnetKey(v4=ipaddress.IPv4Network("10.2.21.0/24"))
OTHER = lease.SubnetKey(v4=ipaddress.IPv4Network("10.2.22.0/24"))
ATTRS = lease.LeaseAttrs(
    public_ip=ipaddress.IPv4Address("192.0.2.1"),
    backend_type="vxlan",
    backend_data='{"VNI":1,"VtepMAC":"0e:00:00:00:00:01"}',
)
NODE = nodestore.SavedNode(
    prefix="/coreos.com/network",
    config='{"Network": "10.2.0.0/16"}',
    key=KEY,
    attrs=ATTRS,
    mac=netstate.Mac("0e:00:00:00:00:01"),
)


@pytest.fixture
def state(tmp_path: pathlib.Path) -> Iterator[statefile.StateFile]:
    file = statefile.StateFile(tmp_path / "state.db", [nodestore.SCHEMA])
    yield file
    file.close()


@pytest.fixture
def store(state: statefile.StateFile) -> nodestore.NodeStore:
    return nodestore.NodeStore(state)


def one(key: lease.SubnetKey) -> lease.Lease:
    return lease.Lease(key=key, attrs=ATTRS)


def test_what_is_saved_is_loaded(store: nodestore.NodeStore) -> None:
    assert store.load(NODE.prefix) is None
    store.save(NODE)
    assert store.load(NODE.prefix) == NODE
    assert store.prefixes() == [NODE.prefix]


def test_saving_again_keeps_the_peers(store: nodestore.NodeStore) -> None:
    store.save(NODE)
    store.save_peers(NODE.prefix, {PEER: one(PEER)}, [])
    store.save(NODE)
    assert store.load_peers(NODE.prefix) == {PEER: one(PEER)}


def test_peers_are_written_and_dropped_together(store: nodestore.NodeStore) -> None:
    store.save(NODE)
    store.save_peers(NODE.prefix, {PEER: one(PEER)}, [OTHER])
    store.save_peers(NODE.prefix, {OTHER: one(OTHER)}, [PEER])
    store.save_peers(NODE.prefix, {}, [])
    assert store.load_peers(NODE.prefix) == {OTHER: one(OTHER)}


def test_a_peers_row_that_nobody_can_read_is_left_out(store: nodestore.NodeStore, state: statefile.StateFile) -> None:
    store.save(NODE)
    store.save_peers(NODE.prefix, {PEER: one(PEER)}, [])
    with state.write() as tx:
        tx.run("INSERT INTO peers VALUES (?, 'nonsense', '{}'), (?, '10.2.9.0-24', 'no JSON')", (NODE.prefix,) * 2)
    assert store.load_peers(NODE.prefix) == {PEER: one(PEER)}


def test_forgetting_takes_the_peers_along_and_is_harmless_twice(store: nodestore.NodeStore) -> None:
    store.save(NODE)
    store.save_peers(NODE.prefix, {PEER: one(PEER)}, [])
    store.forget(NODE.prefix)
    store.forget(NODE.prefix)
    assert (store.load(NODE.prefix), store.load_peers(NODE.prefix), store.prefixes()) == (None, {}, [])


def test_peers_of_an_unknown_network_are_refused(store: nodestore.NodeStore) -> None:
    with pytest.raises(statefile.StateFileError):
        store.save_peers("/blue", {PEER: one(PEER)}, [])
