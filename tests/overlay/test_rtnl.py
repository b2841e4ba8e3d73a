"""rtnetlink messages as bytes: packed like pyroute2 packs them, parsed back, and read from a scripted kernel."""

import errno
import ipaddress
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import link_messages, netstate, rtnl, rtnl_links, rtnl_socket

DEVICE = netstate.IfName("flannel.1")
MAC = netstate.Mac("02:00:00:00:01:02")

macs = st.binary(min_size=6, max_size=6).map(lambda raw: netstate.Mac(raw.hex(":")))
ips = st.ip_addresses()
entries: st.SearchStrategy[rtnl.Entry] = st.one_of(
    st.builds(netstate.Neighbour, link=st.just(DEVICE), ip=ips, mac=macs),
    st.builds(netstate.FdbEntry, link=st.just(DEVICE), mac=macs, vtep_ip=ips),
    st.builds(
        lambda ip, length, onlink: netstate.Route(
            destination=ipaddress.ip_network((ip.packed, length % (ip.max_prefixlen + 1)), strict=False),
            gateway=ip,
            link=DEVICE,
            onlink=onlink,
        ),
        ips,
        st.integers(0, 128),
        st.booleans(),
    ),
)


@pytest.mark.parametrize(
    ("entry", "remove", "text"),
    [
        (
            netstate.Neighbour(link=DEVICE, ip=ipaddress.ip_address("10.2.21.0"), mac=MAC),
            False,
            "300000001c0001050700000000000000 0200000005000000 80000001 08000100 0a021500 0a000200 020000000102 0000",
        ),
        (
            netstate.Neighbour(link=DEVICE, ip=ipaddress.ip_address("10.2.21.0"), mac=MAC),
            True,
            "240000001d0001000700000000000000 0200000005000000 80000001 08000100 0a021500",
        ),
        (
            netstate.FdbEntry(link=DEVICE, mac=MAC, vtep_ip=ipaddress.ip_address("198.51.100.2")),
            False,
            "300000001c0001050700000000000000 0700000005000000 80000200 0a000200 020000000102 0000 08000100 c6336402",
        ),
        (
            netstate.FdbEntry(link=DEVICE, mac=MAC, vtep_ip=ipaddress.ip_address("198.51.100.2")),
            True,
            "280000001d0001000700000000000000 0700000005000000 80000200 0a000200 020000000102 0000",
        ),
        (
            netstate.Route(
                destination=ipaddress.ip_network("10.2.21.0/24"),
                gateway=ipaddress.ip_address("10.2.21.0"),
                link=DEVICE,
            ),
            False,
            (
                "34000000180001060700000000000000 02180000 fe460001 04000000 08000100 0a021500"
                " 08000500 0a021500 08000400 05000000"
            ),
        ),
    ],
)
@pytest.mark.skipif(struct.pack("=H", 1) != b"\1\0", reason="the golden bytes are little-endian")
def test_an_entry_is_these_bytes(entry: rtnl.Entry, remove: bool, text: str) -> None:
    assert rtnl.pack_entry(entry, 5, 7, remove=remove) == bytes.fromhex(text)


def test_only_a_route_that_is_to_replace_another_asks_for_it() -> None:
    """NLM_F_EXCL else: docker0's connected route would give way. A neighbour is ours on a device of ours."""
    route = netstate.Route(
        destination=ipaddress.ip_network("10.2.21.0/24"), gateway=ipaddress.ip_address("10.2.21.0"), link=DEVICE
    )
    flags = [
        int.from_bytes(rtnl.pack_entry(route, 5, 7, replace=replace)[6:8], sys.byteorder) for replace in (False, True)
    ]
    created = rtnl.NLM_F_REQUEST | rtnl.NLM_F_CREATE
    assert flags == [created | rtnl.NLM_F_EXCL, created | rtnl.NLM_F_REPLACE]


@given(entries)
def test_an_entry_survives_the_wire(entry: rtnl.Entry) -> None:
    data = rtnl.pack_entry(entry, 5, 7)
    [(kind, _, sequence, at, end)] = rtnl.parse_messages(data)
    assert (sequence, end) == (7, len(data))
    match entry:
        case netstate.Neighbour():
            assert kind == rtnl.RTM_NEWNEIGH
            assert rtnl.parse_neighbour(data, at, end, DEVICE) == entry
        case netstate.FdbEntry():
            assert kind == rtnl.RTM_NEWNEIGH
            assert rtnl.parse_fdb_entry(data, at, end, DEVICE) == entry
        case netstate.Route():
            assert kind == rtnl.RTM_NEWROUTE
            assert rtnl.parse_route(data, at, end) == rtnl.RouteRow(
                destination=entry.destination, gateway=entry.gateway, index=5, onlink=entry.onlink, protocol=70
            )


@given(st.binary(max_size=400))
def test_garbage_ends_the_messages_and_harms_nothing(data: bytes) -> None:
    for _, _, _, at, end in rtnl.parse_messages(data):
        assert 16 <= at <= end <= len(data)
        rtnl.parse_attributes(data, at, end)


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=30)))
def test_attributes_survive_the_wire(attributes: dict[int, bytes]) -> None:
    data = b"".join(rtnl.pack_attribute(kind, value) for kind, value in attributes.items())
    assert rtnl.parse_attributes(data, 0, len(data)) == attributes


def test_neighbours_that_are_not_permanent_are_not_ours() -> None:
    reachable = struct.pack("=BxxxiHBB", 2, 5, 0x02, 0, 1) + rtnl.pack_attribute(1, bytes(4)) + bytes(12)
    assert rtnl.parse_neighbour(reachable, 0, len(reachable), DEVICE) is None
    assert rtnl.parse_fdb_entry(reachable, 0, len(reachable), DEVICE) is None


@given(
    st.builds(
        netstate.VxlanLink,
        name=st.just(DEVICE),
        vni=st.integers(1, 2**24 - 1),
        port=st.integers(1, 65535),
        local=ips.filter(lambda ip: int(ip) != 0),
        underlay=st.just(netstate.IfName("ens33")),
        mac=macs,
        mtu=st.integers(68, 65535),
        learning=st.booleans(),
        gbp=st.booleans(),
        up=st.just(False),
    )
)
def test_a_vxlan_device_survives_the_wire(link: netstate.VxlanLink) -> None:
    data = link_messages.make_vxlan(link, 3, 7)
    [(kind, _, _, at, end)] = rtnl.parse_messages(data)
    row = rtnl_links.parse_link(data, at, end)
    assert kind == rtnl.RTM_NEWLINK
    assert rtnl_links.show_link(row, {3: netstate.IfName("ens33")}) == link


# -- dumps, from a kernel that is the other end of a socket pair -----------------------------------------------------

Answer = Callable[[int], bytes]


def message(kind: int, sequence: int, body: bytes, flags: int = 2) -> bytes:
    return rtnl.pack_message(kind, flags, sequence, body)


def row(sequence: int, flags: int = 2) -> bytes:
    neighbour = netstate.Neighbour(link=DEVICE, ip=ipaddress.ip_address("10.2.21.0"), mac=MAC)
    return message(rtnl.RTM_NEWNEIGH, sequence, rtnl.pack_entry(neighbour, 5, 0)[16:], flags)


def done(sequence: int, code: int = 0, flags: int = 2) -> bytes:
    return message(rtnl.NLMSG_DONE, sequence, struct.pack("=i", -code), flags)


class Scripted:
    """A kernel that answers each request with the next of its answers."""

    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._raw = ours
        self.socket = rtnl_socket.RtnlSocket(ours)
        self.asked = 0
        self._thread: threading.Thread | None = None

    def answer(self, *answers: Answer) -> None:
        self._theirs.settimeout(5)

        def work() -> None:
            for one in answers:
                request = self._theirs.recv(1 << 16)
                self.asked += 1
                self._theirs.send(one(rtnl.HEADER.unpack_from(request)[3]))

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._theirs.close()
        self._raw.close()


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


INTERRUPTED = 2 | rtnl.NLM_F_DUMP_INTR


@pytest.mark.parametrize(
    "broken",
    [
        lambda number: row(number, INTERRUPTED) + done(number),
        lambda number: row(number) + done(number, flags=INTERRUPTED),
    ],
)
def test_an_interrupted_dump_is_read_again(scripted: Scripted, broken: Answer) -> None:
    scripted.answer(broken, broken, lambda number: row(number) + row(number) + done(number))
    assert len(scripted.socket.dump(rtnl.RTM_GETNEIGH, b"")) == 2
    assert scripted.asked == 3


def test_a_dump_that_is_interrupted_for_ever_is_an_error(scripted: Scripted) -> None:
    scripted.answer(*[lambda number: done(number, flags=INTERRUPTED)] * rtnl_socket.DUMP_TRIES)
    with pytest.raises(rtnl_socket.DumpInterrupted):
        scripted.socket.dump(rtnl.RTM_GETNEIGH, b"")


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENODEV])
def test_a_table_that_does_not_exist_is_empty_and_so_is_a_device_that_went(scripted: Scripted, code: int) -> None:
    scripted.answer(lambda number: done(number, code))
    assert scripted.socket.dump(rtnl.RTM_GETROUTE, b"") == []


def test_a_dump_that_is_refused_is_an_error(scripted: Scripted) -> None:
    scripted.answer(lambda number: done(number, errno.EPERM))
    with pytest.raises(rtnl_socket.Refusal, match="Operation not permitted"):
        scripted.socket.dump(rtnl.RTM_GETROUTE, b"")


def test_answers_to_somebody_else_are_passed_over(scripted: Scripted) -> None:
    scripted.answer(lambda number: row(number + 9) + done(number + 9) + row(number) + done(number))
    assert len(scripted.socket.dump(rtnl.RTM_GETNEIGH, b"")) == 1


def test_refusals_are_told_by_number_in_the_kernels_words(scripted: Scripted) -> None:
    said = rtnl.pack_attribute(rtnl_socket.NLMSGERR_ATTR_MSG, b"Nexthop has invalid gateway\0")
    first, last = scripted.socket.next_sequence(), scripted.socket.next_sequence()
    refusal = message(2, first, struct.pack("=i", -22) + bytes(16) + said, rtnl_socket.NLM_F_ACK_TLVS)
    scripted.answer(lambda _: refusal + message(2, last, struct.pack("=i", 0) + bytes(16)))
    refused: Any = scripted.socket.transact([message(24, first, b""), message(24, last, b"")])
    assert {number: (one.errno, one.strerror) for number, one in refused.items()} == {
        first: (errno.EINVAL, "Nexthop has invalid gateway")
    }
