"""firewalld's consent, as far as it goes without a firewalld; tests/system/test_firewalld.py has a real one."""

from __future__ import annotations

import ipaddress
import socket
import threading

import pytest

from overlay import errors, firewall, firewall_fake, firewalld, netstate

RED = firewall.BridgeRules(
    bridge=netstate.IfName("fp-red"),
    subnet=ipaddress.IPv4Network("10.2.20.0/24"),
    overlay=ipaddress.IPv4Network("10.2.0.0/16"),
    device=netstate.IfName("flannel.1"),
    prefix="/red",
    v6=firewall.BridgeRulesV6(
        subnet=ipaddress.IPv6Network("2001:db8:2:20::/64"),
        overlay=ipaddress.IPv6Network("2001:db8:2::/48"),
        device=netstate.IfName("flannel-v6.1"),
    ),
)
GREEN = firewall.BridgeRules(
    bridge=netstate.IfName("fp-green"),
    subnet=ipaddress.IPv4Network("10.9.20.0/24"),
    overlay=ipaddress.IPv4Network("10.9.0.0/16"),
    device=netstate.IfName(""),
    prefix="/green",
)


def test_bridges_and_devices_are_bound_by_name():
    assert firewalld.bindings(frozenset({RED})) == (["flannel-v6.1", "flannel.1", "fp-red"], [])


def test_an_overlay_that_crosses_the_underlay_as_it_is_is_bound_by_its_addresses():
    assert firewalld.bindings(frozenset({GREEN})) == (["fp-green"], ["10.9.0.0/16"])


def test_without_a_bus_there_is_nothing_to_do(tmp_path):
    assert firewalld.Zones(tmp_path / "bus").ensure(["fp-red"], []) is False


def test_a_bus_that_hangs_is_given_up_and_named(tmp_path):
    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(tmp_path / "bus"))
        bus.listen()
        with pytest.raises(errors.KernelError, match="firewalld: "):
            firewalld.Zones(tmp_path / "bus", timeout_s=0.2).ensure(["fp-red"], [])


def test_a_bus_that_hangs_up_is_named(tmp_path):
    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(tmp_path / "bus"))
        bus.listen()

        def hang_up() -> None:
            bus.accept()[0].close()

        server = threading.Thread(target=hang_up, daemon=True)
        server.start()
        with pytest.raises(errors.KernelError, match="firewalld: "):
            firewalld.Zones(tmp_path / "bus", timeout_s=5).ensure(["fp-red"], [])
        server.join(timeout=5)


def test_the_rules_are_written_even_if_firewalld_does_not_answer(tmp_path):
    inner = firewall_fake.FirewallFake()
    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(tmp_path / "bus"))
        bus.listen()
        both = firewalld.Consenting(inner, firewalld.Zones(tmp_path / "bus", timeout_s=0.2))
        with pytest.raises(errors.KernelError):
            both.ensure(frozenset({RED}))
    assert inner.plan == frozenset({RED})
    assert firewalld.Consenting(inner, firewalld.Zones(tmp_path / "none")).ensure(frozenset({GREEN})) == ("nft",)
