"""What only the real kernel can show: marks, adoption, timing, events, /proc/sys."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import json
import os
import pathlib
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from overlay import (
    backend,
    backend_vxlan,
    diff,
    errors,
    firewall_fake,
    kernel_netlink,
    lease,
    netstate,
    reconciler,
    rtnl,
    rtnl_links,
    rtnl_socket,
    sysctls,
    underlay,
)
from tests.overlay import node_host

pytestmark = pytest.mark.contract

DEVICE = netstate.IfName("flannel.1")
UNDERLAY = netstate.IfName("ens33")
MAC = netstate.Mac("02:00:00:00:00:01")
VXLAN = netstate.VxlanLink(
    name=DEVICE,
    vni=1,
    port=8472,
    local=ipaddress.ip_address("198.51.100.1"),
    underlay=UNDERLAY,
    mac=MAC,
    mtu=1450,
)
BRIDGE = netstate.BridgeLink(name=netstate.IfName("br-a"), mac=netstate.Mac("02:00:00:00:00:02"), mtu=1450)
PAIR = netstate.VethPair(name=netstate.IfName("v1"), peer=netstate.IfName("c1"), bridge=BRIDGE.name, mtu=1450)
RTMGRP_LINK, IFLA_EVENT, FEATURES = 0x1, 44, b"\2\0\0\0"
"""Why a link is told of; FEATURES is IFLA_EVENT_FEATURES. Source: linux/rtnetlink.h, linux/if_link.h."""
ADDRESS = netstate.Address(link=DEVICE, interface=ipaddress.ip_interface("10.254.0.0/32"))


def run(line: str) -> str:
    done = subprocess.run(line.split(), capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def link(name: str) -> dict[str, Any]:
    [found] = json.loads(run(f"ip -d -j link show dev {name}"))
    assert isinstance(found, dict)
    return found


def peers(count: int) -> list[netstate.KernelObject]:
    objects: list[netstate.KernelObject] = []
    for number in range(count):
        gateway = ipaddress.IPv4Address("10.0.0.0") + number * 256
        mac = netstate.Mac(f"02:01:{number >> 8:02x}:{number & 255:02x}:00:01")
        objects += [
            netstate.Neighbour(link=DEVICE, ip=gateway, mac=mac),
            netstate.FdbEntry(link=DEVICE, mac=mac, vtep_ip=ipaddress.IPv4Address("172.16.0.1") + number),
            netstate.Route(destination=ipaddress.IPv4Network((gateway, 24)), gateway=gateway, link=DEVICE),
        ]
    return objects


def add(host: kernel_netlink.KernelNetlink, *objects: netstate.KernelObject) -> None:
    assert host.apply([netstate.Add(obj=obj) for obj in objects]) == []


@pytest.fixture
def host(netns: Any) -> Iterator[kernel_netlink.KernelNetlink]:
    netns.run(
        f"ip link add {UNDERLAY} up mtu 1500 type veth peer name wire",
        "ip link set wire up",
        f"ip addr add 198.51.100.1/24 dev {UNDERLAY}",
        f"ip -6 addr add 2001:db8::1/64 dev {UNDERLAY} nodad",
    )
    with netns.inside():
        yield kernel_netlink.KernelNetlink()


# -- links -----------------------------------------------------------------------------------------------------------


def test_a_vxlan_device_is_made_as_flannel_makes_it(host: kernel_netlink.KernelNetlink) -> None:
    add(host, VXLAN)
    made = link("flannel.1")
    data = made["linkinfo"]["info_data"]
    assert made["address"] == MAC
    assert made["mtu"] == 1450
    assert made["ifalias"] == netstate.LINK_ALIAS
    assert "UP" in made["flags"]
    assert {key: data[key] for key in ("id", "link", "local", "port", "learning", "udp_csum")} == {
        "id": 1,
        "link": "ens33",
        "local": "198.51.100.1",
        "port": 8472,
        "learning": False,
        "udp_csum": True,
    }
    assert pathlib.Path("/proc/sys/net/ipv6/conf/flannel.1/accept_ra").read_text() == "0\n"


def test_checksum_offload_is_off_before_the_device_is_up(host: kernel_netlink.KernelNetlink) -> None:
    with rtnl_socket.open_socket(RTMGRP_LINK, 1 << 20) as sock:
        add(host, dataclasses.replace(VXLAN, tx_checksum=False))
        told = [
            (rtnl_links.parse_link(data, at, end), rtnl.parse_attributes(data, at + 16, end).get(IFLA_EVENT))
            for datagram in iter(lambda: sock.wait(0.3), [])
            for data, kind, at, end in datagram
            if kind == rtnl.RTM_NEWLINK
        ]
    ours = [(row.up, event == FEATURES) for row, event in told if row.name == DEVICE]
    assert [up for up, switched in ours if switched] == [False]
    assert ours[-1][0]


def test_a_bridge_keeps_its_mtu_and_mac_whatever_joins_it(host: kernel_netlink.KernelNetlink) -> None:
    for mtu in (1450, 1500):
        bridge = dataclasses.replace(BRIDGE, name=netstate.IfName(f"br-{mtu}"), mtu=mtu)
        add(host, bridge)
        run(
            f"ip link add low{mtu} mtu 1300 address 02:00:00:00:00:00 master {bridge.name} type veth peer name p{mtu}"
        )
        assert link(bridge.name)["mtu"] == mtu
        assert link(bridge.name)["address"] == bridge.mac


def test_a_bridge_forwards_at_once_and_its_ports_do_not_hairpin(host: kernel_netlink.KernelNetlink) -> None:
    add(host, BRIDGE, PAIR)
    bridge, port, peer = link("br-a"), link("v1"), link("c1")
    assert bridge["linkinfo"]["info_data"]["stp_state"] == 0
    assert bridge["linkinfo"]["info_data"]["forward_delay"] == 0
    assert port["linkinfo"]["info_slave_data"]["hairpin"] is False
    assert port["ifalias"] == netstate.LINK_ALIAS
    assert (port["mtu"], peer["mtu"]) == (1450, 1450)
    assert "UP" in port["flags"]
    assert "UP" not in peer["flags"]


def test_flannelds_device_is_adopted_with_its_entries(host: kernel_netlink.KernelNetlink) -> None:
    run(
        "ip link add flannel.1 up address c6:d2:32:6f:8f:44 mtu 1400 type vxlan id 1 dev ens33 local 198.51.100.1"
        " dstport 8472 nolearning"
    )
    run("bridge fdb add 02:00:00:00:01:02 dev flannel.1 dst 198.51.100.2 self permanent")
    before = link("flannel.1")["ifindex"]
    mac = host.vtep_mac(DEVICE)
    assert mac == "c6:d2:32:6f:8f:44"
    wanted = dataclasses.replace(VXLAN, mac=mac)
    add(host, wanted)
    entry = netstate.FdbEntry(
        link=DEVICE, mac=netstate.Mac("02:00:00:00:01:02"), vtep_ip=ipaddress.ip_address("198.51.100.2")
    )
    assert host.observe(netstate.EMPTY) == frozenset({wanted, entry})
    assert link("flannel.1")["ifindex"] == before


def test_an_incompatible_device_is_made_anew(host: kernel_netlink.KernelNetlink) -> None:
    run("ip link add flannel.1 type vxlan id 1 dev ens33 dstport 4789 local 198.51.100.1")
    before = link("flannel.1")["ifindex"]
    add(host, VXLAN)
    assert host.observe(netstate.EMPTY) == frozenset({VXLAN})
    assert link("flannel.1")["ifindex"] != before


def test_a_link_of_ours_of_another_kind_makes_room(host: kernel_netlink.KernelNetlink) -> None:
    add(host, dataclasses.replace(BRIDGE, name=DEVICE), VXLAN)
    assert host.observe(netstate.EMPTY) == frozenset({VXLAN})


def test_an_mtu_that_the_underlay_cannot_carry_is_refused_in_the_kernels_words(
    host: kernel_netlink.KernelNetlink,
) -> None:
    add(host, VXLAN)
    op = netstate.Change(old=VXLAN, new=dataclasses.replace(VXLAN, mtu=1500))
    [failure] = host.apply([op])
    assert failure.op == op
    assert failure.reason == "Invalid argument"


def test_refusals_carry_what_the_kernel_says(host: kernel_netlink.KernelNetlink) -> None:
    add(host, VXLAN)
    twin = dataclasses.replace(VXLAN, name=netstate.IfName("flannel.x"))
    [failure] = host.apply([netstate.Add(obj=twin)])
    assert failure.reason == "A VXLAN device with the specified VNI already exists"


def test_many_threads_that_make_one_host_all_succeed(host: kernel_netlink.KernelNetlink, netns: Any) -> None:
    objects: list[netstate.KernelObject] = [VXLAN, BRIDGE, PAIR, ADDRESS]

    def make(_: int) -> list[Any]:
        with netns.inside():
            return list(host.apply([netstate.Add(obj=obj) for obj in objects]))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            assert list(pool.map(make, range(8))) == [[]] * 8
            assert host.observe(netstate.EMPTY) == frozenset({VXLAN, BRIDGE, diff.host_end(PAIR), ADDRESS})
            assert host.apply(diff.plan(netstate.EMPTY, frozenset(objects))) == []


def test_a_devices_ipv6_address_is_usable_at_once_even_where_new_links_have_no_ipv6(
    host: kernel_netlink.KernelNetlink, netns: Any
) -> None:
    netns.sysctl("ipv6/conf/default/disable_ipv6", "1")
    own = backend.Own(
        key=lease.parse_subnet_key("10.254.0.0-24&fd00:12:14::-64"),
        underlay=underlay.Underlay(
            name=UNDERLAY,
            ip=ipaddress.IPv4Address("198.51.100.1"),
            mtu=1500,
            public_ip=ipaddress.IPv4Address("198.51.100.1"),
            v6=underlay.UnderlayV6(
                ip=ipaddress.IPv6Address("2001:db8::1"), public_ip=ipaddress.IPv6Address("2001:db8::1")
            ),
        ),
        mac=MAC,
        mac_v6=netstate.Mac("02:00:00:00:06:01"),
    )
    state, _ = backend_vxlan.VxlanBackend().desired(own, {})
    assert host.apply(diff.plan(state, netstate.EMPTY)) == []
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("fd00:12:14::", 0))  # refused while an address is tentative
    assert host.observe(state) == state
    assert link("flannel-v6.1")["mtu"] == 1430


def test_ipv6_takes_the_same_path(host: kernel_netlink.KernelNetlink) -> None:
    device = netstate.IfName("flannel-v6.1")
    gateway = ipaddress.ip_address("fd00:12:13::")
    mac = netstate.Mac("02:00:00:00:01:02")
    vxlan = dataclasses.replace(VXLAN, name=device, local=ipaddress.ip_address("2001:db8::1"), mtu=1430)
    state: netstate.NetState = frozenset(
        {
            vxlan,
            netstate.Address(link=device, interface=ipaddress.ip_interface("fd00:12:14::/128")),
            netstate.Neighbour(link=device, ip=gateway, mac=mac),
            netstate.FdbEntry(link=device, mac=mac, vtep_ip=ipaddress.ip_address("2001:db8::2")),
            netstate.Route(destination=ipaddress.ip_network("fd00:12:13::/64"), gateway=gateway, link=device),
        }
    )
    assert host.apply(diff.plan(state, netstate.EMPTY)) == []
    assert host.observe(state) == state
    assert host.apply(diff.plan(netstate.EMPTY, state)) == []
    assert host.observe(state) == netstate.EMPTY


# -- many ------------------------------------------------------------------------------------------------------------


def test_a_thousand_peers_are_written_and_read_in_a_fraction_of_a_second(host: kernel_netlink.KernelNetlink) -> None:
    state = frozenset([VXLAN, ADDRESS, *peers(1000)])
    ops = diff.plan(state, netstate.EMPTY)
    started = time.process_time()
    assert host.apply(ops) == []
    written = time.process_time()
    assert host.observe(state) == state
    read = time.process_time()
    assert written - started < 0.3
    assert read - written < 0.3
    assert host.apply([netstate.Remove(obj=obj) for obj in peers(1000)]) == []
    assert host.observe(state) == frozenset({VXLAN, ADDRESS})


def test_more_refusals_than_a_batch_holds_are_all_told(host: kernel_netlink.KernelNetlink) -> None:
    add(host, VXLAN, ADDRESS)
    unreachable = [dataclasses.replace(obj, onlink=False) for obj in peers(700) if isinstance(obj, netstate.Route)]
    failures = host.apply([netstate.Add(obj=obj) for obj in unreachable])
    assert [failure.op for failure in failures] == [netstate.Add(obj=obj) for obj in unreachable]
    assert {failure.reason for failure in failures} == {"Nexthop has invalid gateway"}


def test_no_descriptor_stays_open(host: kernel_netlink.KernelNetlink, netns: Any) -> None:
    def work() -> None:
        with netns.inside():
            add(host, BRIDGE, PAIR)
            host.observe(netstate.EMPTY)
            host.vtep_mac(DEVICE)
            host.list_underlays()

    work()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the link targets are gone by the time one looks
    for _ in range(20):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(timeout=10)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_reading_while_links_come_and_go_is_whole_or_an_error(host: kernel_netlink.KernelNetlink, netns: Any) -> None:
    steady = [dataclasses.replace(BRIDGE, name=netstate.IfName(f"br-{n}")) for n in range(30)]
    add(host, *steady)
    stop = threading.Event()

    def churn() -> None:
        with netns.inside():
            while not stop.is_set():
                add(host, dataclasses.replace(BRIDGE, name=netstate.IfName("br-x")))
                host.apply([netstate.Remove(obj=dataclasses.replace(BRIDGE, name=netstate.IfName("br-x")))])

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        whole = 0
        for _ in range(60):
            try:
                seen = host.observe(netstate.EMPTY)
            except errors.KernelError:
                continue
            whole += 1
            assert frozenset(steady) <= seen
        assert whole > 0
    finally:
        stop.set()
        thread.join(timeout=10)


# -- events ----------------------------------------------------------------------------------------------------------


class Listener:
    """Counts the events of a host in a thread of its own."""

    def __init__(self, host: kernel_netlink.KernelNetlink, netns: Any) -> None:
        self.count = 0
        self.heard = threading.Event()
        self._stop = threading.Event()

        def listen() -> None:
            with netns.inside():
                for _ in host.events(self._stop):
                    self.count += 1
                    self.heard.set()

        self._thread = threading.Thread(target=listen, daemon=True)
        self._thread.start()
        self.await_quiet()

    def await_quiet(self) -> None:
        """Until nothing was heard for a second: new links settle their IPv6 addresses and groups."""
        until = time.monotonic() + 20
        assert self.heard.wait(5)
        while self.heard.is_set():
            assert time.monotonic() < until, "events never end"
            self.heard.clear()
            self.heard.wait(1)
        self.count = 0

    def close(self) -> float:
        started = time.monotonic()
        self._stop.set()
        self._thread.join(timeout=5)
        assert not self._thread.is_alive()
        return time.monotonic() - started


def test_events_of_many_changes_are_few_and_stop_is_quick(host: kernel_netlink.KernelNetlink, netns: Any) -> None:
    add(host, VXLAN, ADDRESS)
    host.observe(netstate.EMPTY)
    listener = Listener(host, netns)
    add(host, *peers(300))
    assert listener.heard.wait(5)
    time.sleep(0.7)
    assert 1 <= listener.count < 20
    assert listener.close() < 1.0


@pytest.mark.parametrize("key", ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"])
def test_forwarding_switched_off_by_hand_is_an_event(
    host: kernel_netlink.KernelNetlink, netns: Any, key: str
) -> None:
    switch = f"sysctl -q -w {key.replace('/', '.')}="
    netns.run(f"{switch}1")
    listener = Listener(host, netns)
    netns.run(f"{switch}0")
    assert listener.heard.wait(2)
    listener.close()


def test_lost_events_are_an_event_and_the_next_ones_are_heard(host: kernel_netlink.KernelNetlink, netns: Any) -> None:
    add(host, VXLAN, ADDRESS)
    stop = threading.Event()
    events = host.events(stop)
    next(events)  # the socket is open now, and nobody reads it while this overflows it
    add(host, BRIDGE, *peers(4000))
    next(events)
    timer = threading.Timer(0.3, lambda: add_inside(netns, host, PAIR))
    timer.start()
    next(events)
    timer.join(timeout=5)
    stop.set()
    assert list(events) == []


def add_inside(netns: Any, host: kernel_netlink.KernelNetlink, obj: netstate.KernelObject) -> None:
    with netns.inside():
        add(host, obj)


def test_neighbours_of_others_are_no_event(host: kernel_netlink.KernelNetlink, netns: Any) -> None:
    add(host, VXLAN, ADDRESS)
    host.observe(netstate.EMPTY)
    listener = Listener(host, netns)
    run("ip neigh add 198.51.100.9 lladdr 02:00:00:00:00:09 dev ens33 nud permanent")
    assert not listener.heard.wait(0.7)
    run("ip neigh add 10.2.21.0 lladdr 02:00:00:00:00:09 dev flannel.1 nud permanent")
    assert listener.heard.wait(5)
    listener.close()


# -- /proc/sys -------------------------------------------------------------------------------------------------------

WRITABLE_ASIDE = """
    import pathlib
    from overlay import sysctls
    aside = sysctls.Sysctls(pathlib.Path("/mnt"))
    wanted = "0" if aside.read("net.ipv4.ip_forward") == "1" else "1"
    aside.write("net.ipv4.ip_forward", wanted)
    print(pathlib.Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == wanted)
    try:
        sysctls.Sysctls(pathlib.Path("/proc/sys")).write("net.ipv4.ip_forward", wanted)
    except OSError as exc:
        print(exc.strerror)
"""


def test_a_read_only_proc_sys_is_written_through_the_mount_aside() -> None:
    """As in a managed plugin: /proc/sys read-only, its net part bound to another place."""
    mounts = (
        "mount -t tmpfs tmpfs /mnt && mkdir /mnt/net && mount --bind /proc/sys/net /mnt/net"
        " && mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys"
    )
    script = f'{mounts} && exec "$0" -c "$1"'
    command = ["unshare", "-n", "-m", "sh", "-c", script, sys.executable, textwrap.dedent(WRITABLE_ASIDE)]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd=root)
    assert (done.returncode, done.stdout) == (0, "True\nRead-only file system\n"), done.stderr


def test_a_parameter_that_does_not_exist_is_a_failure(host: kernel_netlink.KernelNetlink) -> None:
    wanted = netstate.Sysctl(key="net.ipv4.no_such", value="1")
    assert host.observe(frozenset({wanted})) == netstate.EMPTY
    [failure] = host.apply([netstate.Add(obj=wanted)])
    assert failure.reason == "No such file or directory"


def test_a_link_without_ipv6_needs_no_optional_parameter_of_it(host: kernel_netlink.KernelNetlink) -> None:
    """As all links where the kernel has none; here one whose MTU is too small for it."""
    small = dataclasses.replace(BRIDGE, mtu=1200)
    wanted = netstate.Sysctl(key=f"net.ipv6.conf.{BRIDGE.name}.accept_ra", value="0", optional=True)
    state = frozenset({small, wanted})
    assert host.apply(diff.plan(state, netstate.EMPTY)) == []
    assert host.observe(state) == state
    assert host.apply([netstate.Change(old=small, new=BRIDGE)]) == []
    [change] = diff.plan(frozenset({BRIDGE, wanted}), host.observe(state))
    assert change == netstate.Change(old=dataclasses.replace(wanted, value="1"), new=wanted)
    assert host.apply([change]) == []


def test_forwarding_ipv6_leaves_the_links_that_hear_routers_hearing(tmp_path: pathlib.Path) -> None:
    links = {"all": "10", "default": "10", "eth0": "10", "deaf": "00", "always": "20", "routing": "11"}
    for name, (hears, forwards) in links.items():
        (tmp_path / "net/ipv6/conf" / name).mkdir(parents=True)
        (tmp_path / "net/ipv6/conf" / name / "accept_ra").write_text(f"{hears}\n")
        (tmp_path / "net/ipv6/conf" / name / "forwarding").write_text(f"{forwards}\n")
    (tmp_path / "net/ipv6/conf/gone").mkdir()
    parameters = sysctls.Sysctls(tmp_path)

    def heard() -> dict[str, str | None]:
        return {name: parameters.read(f"net.ipv6.conf.{name}.accept_ra") for name in links}

    before = heard()
    parameters.write("net.ipv6.conf.all.forwarding", "0")
    assert heard() == before
    parameters.write("net.ipv6.conf.all.forwarding", "1")
    assert parameters.read("net.ipv6.conf.all.forwarding") == "1"
    assert heard() == before | {"eth0": "2"}


def test_dots_in_a_name_are_slashes_in_the_key(tmp_path: pathlib.Path) -> None:
    (tmp_path / "conf" / "flannel.1").mkdir(parents=True)
    parameters = sysctls.Sysctls(tmp_path)
    parameters.write("conf.flannel/1.accept_ra", "0")
    assert (tmp_path / "conf" / "flannel.1" / "accept_ra").read_text() == "0"
    with pytest.raises(PermissionError):
        parameters.write("//.//.etc.x", "0")


ADVERTISE = """
    import socket, struct, sys
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    index = socket.if_nametoindex("wire")
    sock.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0, 0, index))
"""


def test_a_default_route_learned_from_a_router_survives_forwarding(netns: Any, make_netns: Any) -> None:
    """Without a word to the links first, the kernel forgets it at once, and hears of no other."""
    router = make_netns()
    netns.run(
        "ip link add eth0 type veth peer name wire",
        f"ip link set wire netns {router.path}",
    )
    for space, name in ((netns, "eth0"), (router, "wire")):
        space.sysctl(f"ipv6/conf/{name}/accept_dad", "0")
        space.run(f"ip link set {name} up")

    def learned() -> bool:
        return "proto ra" in netns.run("ip -6 route show default dev eth0")

    def advertise() -> bool:
        with router.inside():
            subprocess.run([sys.executable, "-c", textwrap.dedent(ADVERTISE)], check=False, timeout=20)
        return learned()

    node_host.until(advertise)
    with netns.inside():
        port = kernel_netlink.KernelNetlink()
        wanted = netstate.Sysctl(key="net.ipv6.conf.all.forwarding", value="1")
        assert port.apply([netstate.Add(obj=wanted)]) == []
    assert learned()
    netns.run("ip -6 route del default dev eth0")
    node_host.until(advertise)
    router.close()


def test_no_link_of_ours_and_no_port_of_a_bridge_is_told_to_go_on_hearing_routers(netns: Any) -> None:
    """A container would be the host's router, and is behind nothing else."""
    bridge = netstate.BridgeLink(name=netstate.IfName("blue"), mac=netstate.Mac("02:42:0a:02:14:01"), mtu=1450)
    pair = netstate.VethPair(
        name=netstate.IfName("fph1"), peer=netstate.IfName("fpc1"), bridge=bridge.name, mtu=bridge.mtu
    )
    netns.run(
        "ip link add eth0 type veth peer name eth1",
        "ip link add br0 type bridge",
        "ip link set eth1 master br0",
    )
    with netns.inside():
        port = kernel_netlink.KernelNetlink()
        wanted = netstate.Sysctl(key="net.ipv6.conf.all.forwarding", value="1")
        assert port.apply([netstate.Add(obj=obj) for obj in (bridge, pair, wanted)]) == []
        conf = pathlib.Path("/proc/sys/net/ipv6/conf")
        hears = {link: (conf / link / "accept_ra").read_text() for link in ("eth0", "br0", "eth1", "blue", "fph1")}
    assert hears == {"eth0": "2\n", "br0": "2\n", "eth1": "1\n", "blue": "0\n", "fph1": "0\n"}


def test_a_gateway_answers_at_once_on_a_bridge_without_a_port(netns: Any) -> None:
    """Else it would be tentative until a first container has joined, and a second longer."""
    name = netstate.IfName("fp-1")
    bridge = netstate.BridgeLink(name=name, mac=netstate.Mac("02:42:0a:02:14:01"), mtu=1450)
    parameter = netstate.Sysctl(key="net.ipv6.conf.fp-1.accept_dad", value="0")
    address = netstate.Address(link=name, interface=ipaddress.ip_interface("2001:db8::1/64"))
    with netns.inside():
        port = kernel_netlink.KernelNetlink()
        assert port.apply(diff.plan(frozenset({bridge, parameter, address}), netstate.EMPTY)) == []
    node_host.until(lambda: "tentative" not in netns.run("ip -6 addr show dev fp-1"))


# -- the reconciler over the real kernel -----------------------------------------------------------------------------


class Counting(kernel_netlink.KernelNetlink):
    """Counts full passes."""

    passes = 0

    def observe(self, desired: netstate.NetState) -> netstate.NetState:
        self.passes += 1
        return super().observe(desired)


def test_a_route_deleted_by_hand_is_back_in_seconds_and_passes_are_few(
    host: kernel_netlink.KernelNetlink,
) -> None:
    counting = Counting()
    made = reconciler.Reconciler(counting, firewall_fake.FirewallFake())
    state = frozenset([VXLAN, ADDRESS, *peers(1000)])
    stop = threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,))
    thread.start()  # it inherits the namespace
    try:
        made.set("node", state)
        made.open_gate()
        until_quiet(counting)
        before = counting.passes
        run("ip route del 10.0.1.0/24")
        until = time.monotonic() + 4  # 0.3 s on an idle machine; other tests may be busy
        while not made.repairs:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert made.repairs == {"route": 1}
        until_quiet(counting)
        assert counting.passes - before <= 3  # one that repairs, its second look, one for its own event
        assert host.observe(netstate.EMPTY) == state
    finally:
        stop.set()
        thread.join(timeout=5)
    assert not thread.is_alive()


def until_quiet(counting: Counting) -> None:
    """Until no pass has begun for longer than `Timing` lets one be put off."""
    seen, since, until = counting.passes, time.monotonic(), time.monotonic() + 30
    while time.monotonic() - since < 2.5:
        assert time.monotonic() < until, "it never rests"
        time.sleep(0.05)
        if counting.passes != seen:
            seen, since = counting.passes, time.monotonic()


@pytest.mark.parametrize(
    ("connected", "ours"),
    [
        ("172.17.0.1/16", "172.17.0.0/16"),
        ("fd00:21::1/64", "fd00:21::/64"),
    ],
)
def test_a_connected_route_of_the_host_stays_whatever_is_desired(netns: Any, connected: str, ours: str) -> None:
    """The kernel gives back no such route when ours is removed again: docker0 would be without its network."""
    family = f"-{ipaddress.ip_interface(connected).version}"
    netns.run(
        "ip link add docker0 up type bridge",
        f"ip addr add {connected} dev docker0 {'nodad' if family == '-6' else ''}",
        "ip link add ens33 up type bridge",
        "ip addr add 198.51.100.1/24 dev ens33",
    )
    before = netns.run(f"ip {family} route show {ours}")
    assert "dev docker0" in before
    destination = ipaddress.ip_network(ours)
    route = netstate.Route(destination=destination, gateway=destination.network_address, link=DEVICE)
    with netns.inside():
        host = kernel_netlink.KernelNetlink()
        assert host.apply([netstate.Add(obj=VXLAN)]) == []
        failures = host.apply([netstate.Add(obj=route)])
        assert netns.run(f"ip {family} route show {ours} dev docker0").split() == [
            word for word in before.split() if word not in {"dev", "docker0"}
        ]
        host.apply([netstate.Remove(obj=route)])
    assert netns.run(f"ip {family} route show {ours}") == before
    if destination.version == 4:  # an IPv6 one of ours would have another metric, and never be taken
        (failure,) = failures
        assert failure.reason.startswith(f"there is a route that is not ours: {ours} dev docker0")
