"""A container on several networks of a real engine: it meets the peers of each flannel network under its own address.

Whichever network is its default gateway, which is the engine's choice: the first one by name, where nothing else
says.
"""

from __future__ import annotations

import ipaddress

import pytest

from lab import site

CONFIG = (
    '{{"EnableIPv6": true, "Network": "10.{vni}.0.0/16", "IPv6Network": "fd00:{vni}::/48",'
    ' "Backend": {{"Type": "vxlan", "VNI": {vni}}}}}'
)
FLANNEL = {"blue": (77,), "inner": (78, "--internal")}
DOCKERS = {"app": 18, "zapp": 19}


@pytest.fixture
def networks(pair):
    """Two flannel networks of both families on both hosts, and two of Docker's own on the first."""
    for name, (vni, *options) in FLANNEL.items():
        site.put_config(pair.lab, CONFIG.format(vni=vni), f"/{name}/network")
        for host in (pair.h1, pair.h2):
            prefix = f"flannelpy.prefix=/{name}/network"
            site.create_network(host, name, "--ipam-opt", prefix, "--ipv6", *options)
    for name, number in DOCKERS.items():
        pair.h1.docker("network", "create", "--ipv6", "--subnet", f"fd00:{number}::/64", name, timeout_s=60)
    yield pair
    for host in (pair.h1, pair.h2):
        for name in (*FLANNEL, *DOCKERS):
            for one in host.try_docker("ps", "-aq", "--filter", f"network={name}").out.split():
                host.try_docker("rm", "-f", one, timeout_s=90)
            host.try_docker("network", "rm", name, timeout_s=90)


def addresses_of(host, container, network):
    """Its addresses in a network, IPv4 first."""
    return [one for one in (site.ip_of(host, container, network), site.ip6_of(host, container, network)) if one]


def seen_as(host, container, address):
    """As whom a container is seen by who serves at an address."""
    where = f"[{address}]" if ":" in address else address
    ping = "ping6" if ":" in address else "ping"
    site.inside(host, container, f"{ping} -c 1 -w 10 {address}")
    told = site.inside(host, container, f"timeout 5 wget -qO- http://{where}/cgi-bin/who").strip().strip("[]")
    ip = ipaddress.ip_address(told)
    return str(getattr(ip, "ipv4_mapped", None) or ip)


@pytest.mark.parametrize("options", [(), ("-p", "80")], ids=["no ports", "ports"])
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(names, id="+".join(names), marks=pytest.mark.long(engine))
        for names, engine in (
            (("mynet", "blue"), "28.5"),
            (("blue", "zapp"), "20.10"),
            (("app", "blue"), "26.1"),
            (("inner", "app"), "20.10"),
            (("zapp", "mynet", "inner", "blue"), "28.5"),
        )
    ],
)
def test_it_meets_the_peers_of_each_under_its_address_there(networks, run, names, options):
    first, *rest = names
    one = run(networks.h1, *options, network=first)
    for name in rest:
        networks.h1.docker("network", "connect", name, one, timeout_s=60)
    peers = {name: run(networks.h2, network=name) for name in names if name not in DOCKERS}
    for peer in peers.values():
        site.serve_who(networks.h2, peer, "[::]:80")
    for again in (False, True):
        if again:
            networks.h1.docker("restart", "-t", "0", one, timeout_s=90)  # all of its networks at once
        site.serve_who(networks.h1, one, "[::]:80")
        for name, peer in peers.items():
            own, theirs = addresses_of(networks.h1, one, name), addresses_of(networks.h2, peer, name)
            assert len(own) == len(theirs) == (1 if name == "mynet" else 2)
            assert [seen_as(networks.h1, one, address) for address in theirs] == own
            assert [seen_as(networks.h2, peer, address) for address in own] == theirs
