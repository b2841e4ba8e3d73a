"""Reserved ports of the host, the fake and real sockets alike; then what only sockets can show."""

from __future__ import annotations

import concurrent.futures
import ctypes
import ipaddress
import os
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from driver import errors, host_ports, host_ports_fake, host_ports_socket, ports
from overlay import firewall, netstate

TCP, UDP = firewall.Protocol.TCP, firewall.Protocol.UDP
V4, V6 = ipaddress.ip_address("0.0.0.0"), ipaddress.ip_address("::")
HERE = ipaddress.ip_address("192.0.2.1")
LOOPBACK = ipaddress.ip_address("127.0.0.1")
ELSEWHERE = ipaddress.ip_address("192.0.2.7")
CLONE_NEWNET = 0x40000000

Inside = Callable[[Callable[[], None]], None]


def at(number: int, protocol: firewall.Protocol = TCP, ip: netstate.IPAddress = V4) -> ports.HostPort:
    return ports.HostPort(protocol=protocol, ip=ip, number=number)


def leave_for_a_host_of_ones_own() -> None:
    """The calling thread gets a network namespace with HERE on its loopback, that ends with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for line in ("ip link set lo up", f"ip addr add {HERE} dev lo"):
        subprocess.run(line.split(), check=True, timeout=10)


@pytest.fixture
def inside() -> Iterator[Inside]:
    """Calls in a thread that has a host of its own."""
    with concurrent.futures.ThreadPoolExecutor(1, initializer=leave_for_a_host_of_ones_own) as pool:
        yield lambda call: pool.submit(call).result(timeout=20)


@pytest.fixture(params=["fake", pytest.param("socket", marks=pytest.mark.contract)])
def host(request: pytest.FixtureRequest) -> Iterator[tuple[host_ports.HostPorts, Inside]]:
    if request.param == "fake":
        yield host_ports_fake.HostPortsFake(HERE), lambda call: call()
    else:
        table = host_ports_socket.HostPortsSocket()
        yield table, request.getfixturevalue("inside")
        table.close()


@pytest.fixture
def table() -> Iterator[host_ports_socket.HostPortsSocket]:
    made = host_ports_socket.HostPortsSocket()
    yield made
    made.close()


Host = tuple[host_ports.HostPorts, Inside]


def test_a_port_is_reserved_once_and_again_when_it_was_given_back(host: Host) -> None:
    table, inside = host

    def body() -> None:
        assert table.reserve(at(8080))
        assert not table.reserve(at(8080))
        assert not table.reserve_again(at(8080))
        table.release(at(8080))
        table.release(at(8080))
        assert table.reserve_again(at(8080))

    inside(body)


def test_what_is_reserved_is_listed(host: Host) -> None:
    table, inside = host

    def body() -> None:
        assert table.list_held() == frozenset()
        assert table.reserve(at(8080))
        assert table.reserve(at(8081))
        table.release(at(8080))
        assert table.list_held() == {at(8081)}

    inside(body)


def test_protocols_families_and_numbers_do_not_stand_in_each_others_way(host: Host) -> None:
    table, inside = host

    def body() -> None:
        for port in (at(8080), at(8080, UDP), at(8080, ip=V6), at(8080, UDP, V6), at(8081)):
            assert table.reserve(port)

    inside(body)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_all_addresses_and_one_of_them_exclude_each_other(host: Host, protocol: firewall.Protocol) -> None:
    table, inside = host

    def body() -> None:
        assert table.reserve(at(8080, protocol, HERE))
        assert table.reserve(at(8080, protocol, LOOPBACK))
        assert not table.reserve(at(8080, protocol))
        assert table.reserve(at(8081, protocol))
        assert not table.reserve(at(8081, protocol, HERE))

    inside(body)


def test_any_port_is_a_free_one_and_reserved(host: Host) -> None:
    table, inside = host

    def body() -> None:
        one, other = table.reserve_any(TCP, V4), table.reserve_any(TCP, V4)
        assert one is not None
        assert other is not None
        assert one.number != other.number
        assert (one.protocol, one.ip) == (TCP, V4)
        assert one.number >= 32768
        assert not table.reserve(one)

    inside(body)


def test_an_address_that_the_host_has_not_is_named_and_waited_for_after_a_restart(host: Host) -> None:
    table, inside = host

    def body() -> None:
        with pytest.raises(errors.PortTaken) as caught:
            table.reserve(at(8080, ip=ELSEWHERE))
        assert str(caught.value) == (
            "Bind for 192.0.2.7:8080 failed: Cannot assign requested address; it is no address of this host"
        )
        assert table.reserve_again(at(8080, ip=ELSEWHERE))
        assert not table.reserve_again(at(8080, ip=ELSEWHERE))

    inside(body)


@pytest.mark.contract
def test_more_ports_than_there_are_descriptors_for_is_no_port_taken(inside: Inside) -> None:
    fake = host_ports_fake.HostPortsFake(HERE)
    fake.most = 3
    real = host_ports_socket.HostPortsSocket(descriptors=4)

    def body(table: host_ports.HostPorts) -> None:
        for number in (8080, 8081, 8082):
            assert table.reserve(at(number))
        for reserve in (
            lambda: table.reserve(at(8083)),
            lambda: table.reserve_any(TCP, V4),
            lambda: table.reserve_again(at(8083)),
        ):
            with pytest.raises(errors.OutOfDescriptors, match="3 ports are reserved"):
                reserve()
        table.release(at(8081))
        assert table.reserve(at(8083))

    body(fake)
    inside(lambda: body(real))
    real.close()


@pytest.mark.contract
def test_out_of_descriptors_is_said_as_what_it_is(inside: Inside, table: host_ports_socket.HostPortsSocket) -> None:
    def body() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with pytest.raises(errors.OutOfDescriptors) as caught:
                table.reserve(at(8080))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert str(caught.value).startswith("Bind for 0.0.0.0:8080 failed: Too many open files, and each needs")
        assert caught.value.status == 503
        assert table.reserve(at(8080))

    inside(body)


KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}


def listen(protocol: firewall.Protocol, ip: str, number: int, *, reuse: bool) -> socket.socket:
    """Another process: dockerd and most servers set SO_REUSEADDR, some do not."""
    sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, KINDS[protocol])
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        sock.bind((ip, number))
        if protocol is TCP:
            sock.listen()
    except OSError:
        sock.close()
        raise
    return sock


@pytest.mark.contract
@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("ip", ["0.0.0.0", "127.0.0.1", "::"])
def test_nobody_else_can_listen_on_a_reserved_port(
    inside: Inside, table: host_ports_socket.HostPortsSocket, ip: str, reuse: bool
) -> None:
    def body() -> None:
        for protocol in KINDS:
            reserved = at(8080, protocol, V6 if ":" in ip else V4)
            assert table.reserve(reserved)
            with pytest.raises(OSError, match="Address already in use"):
                listen(protocol, ip, 8080, reuse=reuse)
            table.release(reserved)
            listen(protocol, ip, 8080, reuse=reuse).close()

    inside(body)


@pytest.mark.contract
@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("ip", ["0.0.0.0", "127.0.0.1"])
def test_where_somebody_listens_nothing_is_reserved(
    inside: Inside, table: host_ports_socket.HostPortsSocket, ip: str, reuse: bool
) -> None:
    def body() -> None:
        for protocol in KINDS:
            with listen(protocol, ip, 8080, reuse=reuse and protocol is TCP):
                assert not table.reserve(at(8080, protocol))
                assert not table.reserve_again(at(8080, protocol))
            assert table.reserve(at(8080, protocol))

    inside(body)


@pytest.mark.contract
def test_a_connection_that_was_closed_just_now_does_not_take_the_port(
    inside: Inside, table: host_ports_socket.HostPortsSocket
) -> None:
    def body() -> None:
        server = listen(TCP, "127.0.0.1", 8080, reuse=True)
        with server, socket.create_connection(("127.0.0.1", 8080), timeout=2) as client:
            server.accept()[0].close()  # first, so that the host's side is the one that waits
            assert client.recv(1) == b""
        assert table.reserve(at(8080))

    inside(body)


@pytest.mark.contract
@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_who_comes_to_a_reserved_port_past_the_rules_is_refused_at_once(
    inside: Inside, table: host_ports_socket.HostPortsSocket, ip: str
) -> None:
    def body() -> None:
        assert table.reserve(at(8080, ip=V6 if ":" in ip else V4))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((ip, 8080), timeout=2)

    inside(body)
