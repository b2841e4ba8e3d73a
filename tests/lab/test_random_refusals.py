"""Which refusals a random run lets pass: real ones of the three engines, and what must not be among them."""

from __future__ import annotations

import pytest

from lab import random_refusals

REAL = {
    "404 No such container: c4": "it is not there",
    "404 cannot kill container: c5: No such container: c5": "it is not there",
    "404 network n2 not found": "it is not there",
    "500 Cannot restart container c2: network n1 not found": "it is not there",
    "409 cannot kill container: c6: container 6ea28c0953d9 is not running": "its state forbids it",
    "500 Container 6ea28c0953d9 is not paused": "its state forbids it",
    "500 Cannot unpause container aafa986ae85d: cannot resume a stopped container": "its state forbids it",
    "500 Cannot pause container a6dac9b6dcf2: cannot pause a stopped container: unknown": "its state forbids it",
    "500 Cannot unpause container 0c43b1645d3f: OCI runtime resume failed: container not paused: unknown": (
        "its state forbids it"
    ),
    "409 cannot start a paused container, try unpause instead": "its state forbids it",
    "500 cannot pause container cc180ec8270b: OCI runtime pause failed: container not running: unknown": (
        "its state forbids it"
    ),
    '409 Conflict. The container name "/c3" is already in use by container "77212d1d".': "its state forbids it",
    "500 failed to set up container networking: IpamDriver.RequestAddress: address 10.2.45.66 of pool 10.2.45.64/26 "
    "is in use (explicit); take another.": "the address is taken",
    "500 Cannot restart container c1: invalid endpoint settings:\nno configured subnet contains IP address": (
        "its address is of a network that is gone"
    ),
    "500 Cannot restart container c1: Invalid address 10.2.3.9: It does not belong to any of this network": (
        "its address is of a network that is gone"
    ),
    "500 Bind for 0.0.0.0:8082 failed: port is already allocated": "the port is taken",
    "500 IpamDriver.RequestPool: subnet 10.2.45.192/26: lease 10.2.45.0/24 of this host is taken whole by pool "
    "10.2.45.0/24; remove that network": "the lease is taken",
}
AFTER_FAULTS = {
    "0 h1: POST /containers/create: ConnectionResetError": "nobody answers",
    "500 NetworkDriver.CreateEndpoint: expected a JSON object, got an empty body: the engine's repeat of a broken "
    "call": "the plugin was killed in the call",
}
NEVER = (
    "500 IpamDriver.RequestAddress: pool 10.2.45.0/26 of lease 10.2.45.0/24 is full",
    "500 NetworkDriver.Join: endpoint aabbccddeeff is not known to flannelpy; start the container anew",
    "500 NetworkDriver.CreateEndpoint: unexpected KeyError; see the plugin's log",
    "500 address already in use",
)


@pytest.mark.parametrize(("refused", "name"), REAL.items())
def test_what_the_plan_asks_for_in_vain_may_be_refused_at_any_time(refused: str, name: str) -> None:
    assert random_refusals.name_of(refused, after_fault=False) == name
    assert random_refusals.name_of(refused, after_fault=True) == name


@pytest.mark.parametrize(("refused", "name"), AFTER_FAULTS.items())
def test_what_a_kill_cuts_off_may_fail_after_a_kill_alone(refused: str, name: str) -> None:
    assert random_refusals.name_of(refused, after_fault=True) == name
    assert random_refusals.name_of(refused, after_fault=False) is None


@pytest.mark.parametrize("refused", NEVER)
def test_anything_else_is_never_in_order(refused: str) -> None:
    assert random_refusals.name_of(refused, after_fault=True) is None
