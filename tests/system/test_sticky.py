"""Addresses come back to who had them, rest before others get them, and run out with a word."""

from __future__ import annotations

import ipaddress
import re
import time

from lab import site

MAC = "02:00:00:00:0a:77"
SHORT_S = 5
"""A quarantine in which a container can go and come again, on a busy machine too."""


def start(host, name, *options):
    host.docker("run", "-d", "--name", name, "--network", "mynet", *options, "busybox", "sleep", "3600", timeout_s=60)
    return site.ip_of(host, name)


def start_again(host, *settings):
    host.docker("plugin", "disable", "-f", site.PLUGIN, timeout_s=60)
    if settings:
        host.docker("plugin", "set", site.PLUGIN, *settings)
    host.docker("plugin", "enable", site.PLUGIN, timeout_s=60)
    site.wait_ready(host)


def test_a_container_made_again_with_its_mac_gets_its_address_where_macs_are_told(solo):
    """By the alias: for the classic name dockerd keeps what a plugin once said of MACs until it ends."""
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints, STICKY_MAC="true")
    site.wait_ready(solo.host)
    solo.host.docker("network", "create", "-d", site.PLUGIN, "--ipam-driver", site.PLUGIN, "mynet", timeout_s=60)
    first, other = start(solo.host, "first", "--mac-address", MAC), start(solo.host, "other")
    assert site.inside(solo.host, "first", "cat /sys/class/net/eth0/address") == MAC
    solo.host.docker("rm", "-f", "first", "other")
    assert start(solo.host, "stranger") not in (first, other)
    assert start(solo.host, "again", "--mac-address", MAC) == first
    solo.host.docker("rm", "-f", "again")
    start_again(solo.host)
    assert start(solo.host, "thirdly", "--mac-address", MAC) == first
    assert "1 packets received" in site.inside(solo.host, "stranger", f"ping -c 1 -w 5 {first}")
    start_again(solo.host, f"ADDRESS_QUARANTINE={SHORT_S}")
    solo.host.docker("rm", "-f", "thirdly")
    assert start(solo.host, "soon", "--mac-address", MAC) == first
    solo.host.docker("rm", "-f", "soon")
    released = time.monotonic()
    site.wait_for("the quarantine is over", lambda: time.monotonic() > released + SHORT_S)
    never_used = ipaddress.ip_address(other) + 2
    assert start(solo.host, "late", "--mac-address", MAC) == str(never_used), "those come first, for it as for others"


def test_a_released_address_rests_and_a_full_pool_says_so(solo):
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    lease = ipaddress.IPv4Network(site.status(solo.host)["flannel_networks"][0]["subnet"])
    small = next(lease.subnets(new_prefix=29))
    site.create_network(solo.host, "mynet", "--subnet", str(small))
    time.sleep(3)  # the plugin asks Docker for a new network's name, long before it looks at Docker again
    network = solo.host.docker("network", "inspect", "-f", "{{.Id}}", "mynet")[:12]
    addresses = [str(ip) for ip in small.hosts()]
    assert start(solo.host, "first") == addresses[1]
    solo.host.docker("rm", "-f", "first")
    # the gateway, the first's, and those never used; then the one that rested, and no more
    assert [start(solo.host, f"next{n}") for n in range(4)] == addresses[2:]
    assert site.status(solo.host)["addresses"] == [
        {"pool": str(small), "prefix": site.PREFIX, "used": 5, "total": 6, "short": True}
    ]
    assert site.ask(solo.host, "/readyz")[0] == 200
    warning = (
        rf"warning ipam\.service: pool nearly used up pool=flannelpy/{small} lease={lease} prefix={site.PREFIX} "
        rf"network=mynet \({network}\) used=5 total=6\b"
    )
    assert len(re.findall(warning, solo.host.log_path("dockerd").read_text())) == 1
    assert start(solo.host, "short") == addresses[1]
    full = solo.host.try_docker("run", "--rm", "--network", "mynet", "busybox", "true", timeout_s=60)
    assert (
        f": network mynet ({network}): pool {small} of lease {lease} ({site.PREFIX}) is full: 6 of 6 addresses used; "
        "remove containers of this network, or use another network or host"
    ) in full.err
    solo.host.docker("rm", "-f", "next2")
    assert start(solo.host, "last") == addresses[4]
