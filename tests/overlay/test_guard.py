"""The guard's table as text."""

from __future__ import annotations

import ipaddress

import hypothesis
from hypothesis import strategies as st

from overlay import guard, netstate

PORT = guard.GuardedPort(
    name=netstate.IfName("fph1a2299da1bc9"),
    mac=netstate.Mac("02:42:0a:02:14:05"),
    addresses=(ipaddress.ip_address("10.2.20.5"), ipaddress.ip_address("64:ff9b::5")),
)
FREE = guard.GuardedPort(
    name=netstate.IfName("fph2b3d5839100a"), mac=netstate.Mac("02:42:0a:02:14:06"), addresses=(), free=True
)
BRIDGE = guard.GuardedBridge(name=netstate.IfName("fp-a"), mac=netstate.Mac("02:42:0a:02:14:01"))
PLAN: guard.GuardPlan = frozenset({PORT, FREE, BRIDGE})

V6_NUMBER, LOCAL_NUMBER = "0x64ff9b000000000000000000000005", "0xfe8000000000000000420afffe021405"

LISTED = """\
table bridge flannelpy {
	set macs {
		type ifname . ether_addr
		elements = { "fph1a2299da1bc9" . 02:42:0a:02:14:05,
				"fph2b3d5839100a" . 02:42:0a:02:14:06 }
	}

	set v4 {
		type ifname . ipv4_addr
	}

	set local {
		typeof @th,64,128
		elements = { 0x0064ff9b000000000000000000000005 }
	}

	chain port {
		icmpv6 type { nd-router-advert, nd-redirect } drop
	}
}
"""


def test_a_port_is_a_few_elements_and_a_bridge_one() -> None:
    assert guard.elements(PLAN) == {
        ("macs", '"fph1a2299da1bc9" . 02:42:0a:02:14:05'),
        ("v4", '"fph1a2299da1bc9" . 10.2.20.5'),
        ("v6", '"fph1a2299da1bc9" . 0x64ff9b000000000000000000000005'),
        ("v6", '"fph1a2299da1bc9" . 0xfe8000000000000000420afffe021405'),
        ("local", "0xfe8000000000000000420afffe021405"),
        ("free", '"fph2b3d5839100a"'),
        ("local", "0xfe8000000000000000420afffe021406"),
        ("local", "0xfe8000000000000000420afffe021401"),
    }


def test_a_link_gives_itself_the_address_that_the_standard_says() -> None:
    assert str(guard.link_local(netstate.Mac("34:56:78:9a:bc:de"))) == "fe80::3656:78ff:fe9a:bcde"


def test_one_more_and_one_less_is_one_script_of_what_differs() -> None:
    before, after = guard.elements(frozenset({PORT, BRIDGE})), guard.elements(frozenset({FREE, BRIDGE}))
    sixes = [f'"fph1a2299da1bc9" . {number}' for number in (V6_NUMBER, LOCAL_NUMBER)]
    assert guard.change_script(before, after).splitlines() == [
        "delete element bridge flannelpy local { 0xfe8000000000000000420afffe021405 }",
        'delete element bridge flannelpy macs { "fph1a2299da1bc9" . 02:42:0a:02:14:05 }',
        'delete element bridge flannelpy v4 { "fph1a2299da1bc9" . 10.2.20.5 }',
        f"delete element bridge flannelpy v6 {{ {', '.join(sixes)} }}",
        'add element bridge flannelpy free { "fph2b3d5839100a" }',
        "add element bridge flannelpy local { 0xfe8000000000000000420afffe021406 }",
    ]
    assert guard.change_script(after, after) == ""


def test_two_with_one_mac_keep_what_both_need_when_one_goes() -> None:
    twin = guard.GuardedPort(name=netstate.IfName("fph3"), mac=PORT.mac, addresses=PORT.addresses)
    script = guard.change_script(guard.elements(frozenset({PORT, twin})), guard.elements(frozenset({PORT})))
    assert " local " not in script


def test_what_nft_lists_is_read_whatever_its_line_breaks_and_leading_zeros() -> None:
    seen = guard.parse_listing(LISTED)
    assert seen.elements == {
        ("macs", '"fph1a2299da1bc9" . 02:42:0a:02:14:05'),
        ("macs", '"fph2b3d5839100a" . 02:42:0a:02:14:06'),
        ("local", "0x64ff9b000000000000000000000005"),
    }
    lines = LISTED.splitlines(keepends=True)
    assert seen.rest == "".join(line for line in lines if "fph" not in line and "0x" not in line)


def test_an_empty_plan_is_no_table() -> None:
    assert guard.whole_script(frozenset()) == "table bridge flannelpy\ndelete table bridge flannelpy\n"


numbers = st.integers(min_value=1, max_value=60)


@hypothesis.given(st.frozensets(numbers), st.frozensets(numbers))
def test_a_change_names_each_element_that_differs_and_no_other(some: frozenset[int], others: frozenset[int]) -> None:
    before, after = (guard.elements(frozenset(map(numbered, one))) for one in (some, others))
    script = guard.change_script(before, after)
    told = {
        verb: {
            (words.split()[0], text)
            for line in script.splitlines()
            if line.startswith(verb)
            for words in [line.removeprefix(f"{verb} element bridge flannelpy ")]
            for text in words.partition("{ ")[2].removesuffix(" }").split(", ")
        }
        for verb in ("delete", "add")
    }
    assert told == {"delete": before - after, "add": after - before}


def numbered(number: int) -> guard.GuardedPort:
    mac = netstate.Mac(f"02:42:0a:02:14:{number:02x}")
    address = ipaddress.ip_address(f"10.2.20.{number}")
    return guard.GuardedPort(name=netstate.IfName(f"fph{number}"), mac=mac, addresses=(address,))
