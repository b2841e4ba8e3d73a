"""What a flanneld's command line, environment and file say."""

from __future__ import annotations

import ipaddress

import pytest

from overlay import flanneld, lease


@pytest.mark.parametrize(
    ("comm", "argv", "is_one"),
    [
        ("flanneld", ["/opt/bin/flanneld"], True),
        ("flanneld", ["/bin/sh", "/usr/local/bin/flanneld", "--ip-masq"], True),
        ("5", ["/proc/self/fd/5/flanneld"], True),
        ("flanneld-ppc64l", ["./flanneld-ppc64le"], True),
        ("flanneld", [], False),  # it has ended and waits for its parent
        ("tail", ["tail", "-f", "/var/log/flanneld"], False),
        ("flanneld-watch", ["flanneld-watch.sh"], False),
        ("python3", ["python3", "-m", "plugin"], False),
    ],
)
def test_a_flanneld_is_known_by_either_of_its_names(comm: str, argv: list[str], is_one: bool) -> None:
    assert flanneld.is_flanneld(comm, argv) is is_one


@pytest.mark.parametrize(
    ("words", "environ", "prefix"),
    [
        ("", {}, "/coreos.com/network"),
        ("--ip-masq --iface=eth1", {}, "/coreos.com/network"),
        ("-etcd-prefix=/a/b", {}, "/a/b"),
        ("--etcd-prefix=/a/b", {}, "/a/b"),
        ("--etcd-prefix /a/b --ip-masq", {}, "/a/b"),
        ("-etcd-prefix /a -etcd-prefix=/b", {}, "/b"),
        ("--etcd-prefix=/a//b/", {}, "/a/b"),
        ("--etcd-prefix", {}, "/coreos.com/network"),
        ("--etcd-prefixes=/a", {}, "/coreos.com/network"),
        ("", {"FLANNELD_ETCD_PREFIX": "/env"}, "/env"),
        ("--etcd-prefix=/a", {"FLANNELD_ETCD_PREFIX": "/env"}, "/a"),
        ("--kube-subnet-mgr", {}, None),
        ("-kube-subnet-mgr=true --etcd-prefix=/a", {}, None),
        ("--kube-subnet-mgr=false --etcd-prefix=/a", {}, "/a"),
        ("--kube-subnet-mgr --etcd-prefix=/a", {}, None),
        ("", {"FLANNELD_KUBE_SUBNET_MGR": "true"}, None),
    ],
)
def test_where_it_keeps_its_leases_is_read_as_go_reads_it(
    words: str, environ: dict[str, str], prefix: str | None
) -> None:
    argv = ["/opt/bin/flanneld", *words.split()]
    assert flanneld.parse_flanneld(7, argv, environ) == flanneld.Flanneld(pid=7, prefix=prefix)


V4 = ipaddress.IPv4Network("10.5.72.0/24")
V6 = ipaddress.IPv6Network("2001:db8:42::/64")


@pytest.mark.parametrize(
    ("text", "subnet"),
    [
        (
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
            lease.SubnetKey(v4=V4),
        ),
        ("FLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_IPV6_SUBNET=2001:db8:42::1/64\n", lease.SubnetKey(v4=V4, v6=V6)),
        ("FLANNEL_SUBNET=bad,10.5.72.1/24,\n", lease.SubnetKey(v4=V4)),
        ("FLANNEL_SUBNET=10.5.72.1/24,10.5.73.1/24\n", None),
        ("FLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_IPV6_SUBNET=nonsense\n", lease.SubnetKey(v4=V4)),
        ("FLANNEL_SUBNET=2001:db8:42::1/64\n", None),
        ('# by hand\nexport FLANNEL_SUBNET="10.5.72.1/24"\n', lease.SubnetKey(v4=V4)),
        ("FLANNEL_NETWORK=10.5.0.0/16\n", None),
        ("\0\xff", None),
        ("", None),
    ],
)
def test_the_file_for_docker_is_read_as_loosely_as_flannel_does(text: str, subnet: lease.SubnetKey | None) -> None:
    assert flanneld.parse_subnet_env(text) == subnet
