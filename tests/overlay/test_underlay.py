"""Which link carries the overlay."""

import dataclasses
import ipaddress

import pytest

from overlay import errors, kernel, netstate, underlay


def link(name: str, *addresses: str, default: bool = False, mtu: int = 1500, up: bool = True) -> kernel.UnderlayLink:
    return kernel.UnderlayLink(
        name=netstate.IfName(name),
        index=1,
        mtu=mtu,
        up=up,
        addresses=tuple(ipaddress.IPv4Interface(address) for address in addresses),
        has_default_route=default,
    )


ENS = link("ens33", "198.51.100.1/24", "198.51.100.8/24", default=True)
BOND = link("bond0.7", "192.0.2.1/25", mtu=9000)
IDLE = link("eno9", up=False)
LINKS = [BOND, ENS, IDLE]

ON_ENS = underlay.Underlay(
    name=netstate.IfName("ens33"),
    ip=ipaddress.IPv4Address("198.51.100.1"),
    mtu=1500,
    public_ip=ipaddress.IPv4Address("198.51.100.1"),
    prefixes=(ipaddress.IPv4Network("198.51.100.0/24"),),
)
ON_BOND = underlay.Underlay(
    name=netstate.IfName("bond0.7"),
    ip=ipaddress.IPv4Address("192.0.2.1"),
    mtu=9000,
    public_ip=ipaddress.IPv4Address("192.0.2.1"),
    prefixes=(ipaddress.IPv4Network("192.0.2.0/25"),),
)


@pytest.mark.parametrize(
    ("iface", "expected"),
    [
        ("", ON_ENS),
        ("bond0.7", ON_BOND),
        ("192.0.2.1", ON_BOND),
        (r"192\.0\.2\.", ON_BOND),
        ("bond", ON_BOND),
        ("^e", ON_ENS),
    ],
)
def test_iface_is_an_address_a_name_or_an_expression(iface: str, expected: underlay.Underlay) -> None:
    assert underlay.choose_underlay(LINKS, iface, None) == expected


def test_a_named_address_is_the_one_used() -> None:
    chosen = underlay.choose_underlay(LINKS, "198.51.100.8", None)
    assert chosen.ip == chosen.public_ip == ipaddress.IPv4Address("198.51.100.8")


def test_addresses_are_matched_before_names() -> None:
    named_like = link("a192", "203.0.113.1/24")
    assert underlay.choose_underlay([named_like, BOND], "192", None).name == "bond0.7"


def test_the_owner_of_the_public_address_goes_before_the_default_route() -> None:
    public = ipaddress.IPv4Address("192.0.2.1")
    assert underlay.choose_underlay(LINKS, "", public) == ON_BOND


def test_a_public_address_behind_nat_needs_no_owner() -> None:
    public = ipaddress.IPv4Address("203.0.113.7")
    assert underlay.choose_underlay(LINKS, "", public) == dataclasses.replace(ON_ENS, public_ip=public)


CANDIDATES = "bond0.7 (192.0.2.1), ens33 (198.51.100.1, 198.51.100.8, default route), eno9 (no address, down)"


@pytest.mark.parametrize(
    ("links", "iface", "message"),
    [
        (LINKS, "wlan0", f"IFACE='wlan0' matches no interface; there are: {CANDIDATES}"),
        (LINKS, "eno9", f"interface eno9 has no IPv4 address; set IFACE to another of: {CANDIDATES}"),
        ([BOND], "", "no default route on this host; set IFACE to one of: bond0.7 (192.0.2.1)"),
        ([], "", "no default route on this host; set IFACE to one of: none at all"),
        (
            [link("odd", "192.0.2.9/24", mtu=0)],
            "odd",
            "interface odd has no MTU; set IFACE to another of: odd (192.0.2.9)",
        ),
    ],
)
def test_what_does_not_fit_names_the_candidates(links: list[kernel.UnderlayLink], iface: str, message: str) -> None:
    with pytest.raises(errors.UnderlayError) as caught:
        underlay.choose_underlay(links, iface, None)
    assert str(caught.value) == message


def test_a_broken_expression_is_said_to_be_one() -> None:
    with pytest.raises(errors.UnderlayError, match=r"IFACE='eth\[' is no interface and no regular expression"):
        underlay.choose_underlay(LINKS, "eth[", None)
