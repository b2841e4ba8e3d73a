"""The guard's table as text."""

from __future__ import annotations

import ipaddress
import re
import struct

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
ETHER = struct.pack("=HH", 1, 0)

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
		typeof iiftype . @th,64,128
		elements = { ether . 0x0064ff9b000000000000000000000005 }
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
        ("local", "ether . 0xfe8000000000000000420afffe021405"),
        ("free", '"fph2b3d5839100a" . ether'),
        ("local", "ether . 0xfe8000000000000000420afffe021406"),
        ("local", "ether . 0xfe8000000000000000420afffe021401"),
    }


def test_a_link_gives_itself_the_address_that_the_standard_says() -> None:
    assert str(guard.link_local(netstate.Mac("34:56:78:9a:bc:de"))) == "fe80::3656:78ff:fe9a:bcde"


def test_an_element_is_known_to_the_kernel_by_its_parts_padded() -> None:
    name = b"fph1a2299da1bc9" + bytes(1)
    assert guard.keys(guard.elements(frozenset({PORT}))) == {
        "local": [ETHER + ipaddress.ip_address("fe80::42:aff:fe02:1405").packed],
        "macs": [name + bytes.fromhex("02420a021405") + bytes(2)],
        "v4": [name + bytes((10, 2, 20, 5))],
        "v6": [
            name + ipaddress.ip_address("64:ff9b::5").packed,
            name + ipaddress.ip_address("fe80::42:aff:fe02:1405").packed,
        ],
    }
    assert guard.keys({("free", '"fph1" . ether')}) == {"free": [b"fph1" + bytes(12) + ETHER]}


def test_what_nft_lists_is_read_whatever_its_line_breaks_and_leading_zeros() -> None:
    seen = guard.parse_listing(LISTED)
    assert seen.elements == {
        ("macs", '"fph1a2299da1bc9" . 02:42:0a:02:14:05'),
        ("macs", '"fph2b3d5839100a" . 02:42:0a:02:14:06'),
        ("local", "ether . 0x64ff9b000000000000000000000005"),
    }
    lines = LISTED.splitlines(keepends=True)
    assert seen.rest == "".join(line for line in lines if "fph" not in line and "0x" not in line)


def test_an_empty_plan_is_no_table() -> None:
    assert guard.whole_script(frozenset()) == "table bridge flannelpy\ndelete table bridge flannelpy\n"


def test_every_set_has_keys_of_several_parts():
    """Where nft 1.1 has made one with a plain key, `nft list ruleset` of nft 1.0.6 ends with a segmentation fault."""
    kinds = re.findall(r"\tset \w+ \{\n\t\t(.*)\n", guard.whole_script(PLAN))
    assert len(kinds) == 5
    assert [kind for kind in kinds if " . " not in kind] == []
