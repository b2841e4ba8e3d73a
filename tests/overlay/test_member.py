"""Joining, one attempt at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import json
import pathlib
import re
import threading
from collections.abc import Iterator

import pytest

from overlay import clones, errors, flanneld, lease, member, netstate, nodestore, registry, registry_fake, underlay
from tests.overlay import node_host

STOP = threading.Event()
WATCH_S = 150.0
OURS = node_host.attrs("192.0.2.1", node_host.MAC)


class RacingRegistry(registry_fake.FakeRegistry):
    """Another host is quicker, `races` times."""

    races = 0

    def put_lease(self, key: lease.SubnetKey, attrs: lease.LeaseAttrs, over: lease.Lease | None) -> lease.Lease:
        if self.races:
            self.races -= 1
            self.put_peer(key, node_host.attrs("192.0.2.9"))
        return super().put_lease(key, attrs, over)


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Iterator[node_host.NodeHost]:
    one = node_host.NodeHost(tmp_path, RacingRegistry(node_host.CONFIG))
    yield one
    one.close()


def join(host: node_host.NodeHost) -> member.Joined | member.Refused:
    return member.join(node_host.PREFIX, host.options, host.ports(), STOP, clones.Origins(WATCH_S))


def save(host: node_host.NodeHost, subnet: str, attrs: lease.LeaseAttrs = OURS) -> None:
    host.store.save(
        nodestore.SavedNode(
            prefix=node_host.PREFIX,
            config=node_host.CONFIG,
            key=node_host.key(subnet),
            attrs=attrs,
            mac=node_host.MAC,
        )
    )


def test_a_new_host_publishes_its_underlay_address_and_vtep_mac(host: node_host.NodeHost) -> None:
    joined = join(host)
    assert isinstance(joined, member.Joined)
    assert joined.lease.key == node_host.key("10.2.1.0/24")
    assert joined.member.own.key == joined.lease.key
    assert joined.member.own.underlay == underlay.Underlay(
        name=netstate.IfName("eth0"),
        ip=ipaddress.IPv4Address("192.0.2.1"),
        mtu=1500,
        public_ip=ipaddress.IPv4Address("192.0.2.1"),
    )
    assert host.registry.read_leases().leases[joined.lease.key].attrs == OURS


def test_the_mac_of_a_device_that_is_there_is_kept(host: node_host.NodeHost) -> None:
    """flanneld was here before us: its peers know that MAC."""
    device = netstate.VxlanLink(
        name=netstate.IfName("flannel.1"),
        vni=1,
        port=8472,
        local=ipaddress.IPv4Address("192.0.2.1"),
        underlay=netstate.IfName("eth0"),
        mac=netstate.Mac("0e:00:00:00:00:42"),
        mtu=1450,
    )
    assert host.kernel.apply([netstate.Add(obj=device)]) == []
    assert join(host).member.own.mac == "0e:00:00:00:00:42"


def test_the_lease_of_a_flanneld_is_taken_over_without_a_write(host: node_host.NodeHost) -> None:
    """No other host hears of it: there is no event, and the etcd lease behind the key lives on."""
    left = host.registry.put_peer(node_host.key("10.2.20.0/24"), OURS)
    revision = host.registry.read_leases().revision
    joined = join(host)
    assert isinstance(joined, member.Joined)
    assert joined.lease == dataclasses.replace(left, ttl_s=None)
    assert host.registry.read_leases().revision == revision


def test_the_lease_of_a_flanneld_that_left_its_file_is_taken_over_without_a_write(host: node_host.NodeHost) -> None:
    """The normal case: /run/flannel/subnet.env outlives flanneld, and says which subnet, not who wrote the key."""
    left = host.registry.put_peer(node_host.key("10.2.20.0/24"), OURS)
    host.previous = left.key
    revision = host.registry.read_leases().revision
    joined = join(host)
    assert isinstance(joined, member.Joined)
    assert joined.lease == dataclasses.replace(left, ttl_s=None)
    assert host.registry.read_leases().revision == revision


def test_nothing_is_written_while_a_flanneld_of_the_prefix_runs(host: node_host.NodeHost) -> None:
    host.flannelds = (flanneld.Flanneld(pid=1234, prefix=node_host.PREFIX),)
    host.registry.set_config(None)
    host.options = member.Options(initial_config=node_host.CONFIG)
    with pytest.raises(errors.FlanneldRunning, match=r"flanneld \(pid 1234\) runs on this host"):
        join(host)
    with pytest.raises(errors.ConfigMissing):
        host.registry.read_config()
    assert host.registry.read_leases().leases == {}


def test_a_device_of_a_flanneld_in_kubernetes_is_not_taken(host: node_host.NodeHost) -> None:
    host.flannelds = (flanneld.Flanneld(pid=99, prefix=None),)
    assert isinstance(join(host), member.Joined)
    device = dataclasses.replace(node_host.ETH0, name=netstate.IfName("flannel.1"), addresses=())
    host.kernel = type(host.kernel)([node_host.ETH0, device])
    with pytest.raises(errors.FlanneldRunning, match="pid 99 with leases in Kubernetes"):
        join(host)


def test_the_subnet_that_flanneld_left_in_its_file_is_asked_for(host: node_host.NodeHost) -> None:
    """Its lease has ended meanwhile."""
    host.previous = node_host.key("10.2.20.0/24")
    host.in_use = True  # pools, but none of ours: nothing was saved
    assert join(host).member.own.key == host.previous


def test_a_subnet_in_flanneld_s_file_that_another_host_has_is_let_go(host: node_host.NodeHost) -> None:
    host.previous = node_host.key("10.2.20.0/24")
    host.registry.put_peer(host.previous, node_host.attrs("192.0.2.9"))
    assert join(host).member.own.key == node_host.key("10.2.1.0/24")


def test_of_two_leases_with_our_address_flanneld_s_file_names_the_one_that_counts(host: node_host.NodeHost) -> None:
    host.registry.put_peer(node_host.key("10.2.7.0/24"), OURS)
    host.registry.put_peer(node_host.key("10.2.20.0/24"), OURS)
    host.previous = node_host.key("10.2.20.0/24")
    revision = host.registry.read_leases().revision
    assert join(host).member.own.key == host.previous
    assert host.registry.read_leases().revision == revision


def test_what_we_saved_ourselves_counts_more_than_flanneld_s_file(host: node_host.NodeHost) -> None:
    save(host, "10.2.7.0/24")
    host.previous = node_host.key("10.2.20.0/24")
    assert join(host).member.own.key == node_host.key("10.2.7.0/24")


def test_a_lost_race_is_looked_at_again(host: node_host.NodeHost) -> None:
    host.registry.races = 2  # type: ignore[attr-defined]
    joined = join(host)
    assert isinstance(joined, member.Joined)
    assert joined.lease.key == node_host.key("10.2.3.0/24")


def test_races_lost_without_end_are_an_error_that_says_the_last_reason(host: node_host.NodeHost) -> None:
    host.registry.races = 100  # type: ignore[attr-defined]
    with pytest.raises(errors.RegistryUnavailable) as caught:
        join(host)
    assert str(caught.value) == (
        "no subnet under /coreos.com/network after 10 tries: subnet 10.2.10.0/24 is leased by 192.0.2.9"
    )


def test_a_saved_subnet_without_containers_gives_way_to_nonsense_under_its_key(host: node_host.NodeHost) -> None:
    save(host, "10.2.20.0/24")
    host.registry.put_garbage("10.2.20.0-24")
    joined = join(host)
    assert isinstance(joined, member.Joined)
    assert joined.lease.key == node_host.key("10.2.1.0/24")


def test_a_saved_subnet_with_containers_is_kept_beside_another_lease_of_ours(host: node_host.NodeHost) -> None:
    save(host, "10.2.20.0/24")
    host.registry.put_peer(node_host.key("10.2.7.0/24"), OURS)
    host.in_use = True
    joined = join(host)
    assert isinstance(joined, member.Joined)
    assert joined.lease.key == node_host.key("10.2.20.0/24")


def test_a_saved_subnet_without_containers_gives_way_to_the_lease_of_our_address(host: node_host.NodeHost) -> None:
    save(host, "10.2.20.0/24")
    host.registry.put_peer(node_host.key("10.2.7.0/24"), OURS)
    joined = join(host)
    assert isinstance(joined, member.Joined)
    assert joined.lease.key == node_host.key("10.2.7.0/24")


def test_a_saved_subnet_that_another_host_has_is_refused(host: node_host.NodeHost) -> None:
    save(host, "10.2.20.0/24")
    host.in_use = True
    by = host.registry.put_peer(node_host.key("10.2.20.0/24"), node_host.attrs("192.0.2.9"))
    refused = join(host)
    assert isinstance(refused, member.Refused)
    assert refused.by == dataclasses.replace(by, ttl_s=None)
    assert host.registry.read_leases().leases == {by.key: refused.by}


def test_a_host_whose_address_changed_takes_its_own_key_over(host: node_host.NodeHost) -> None:
    before = node_host.attrs("192.0.2.200", node_host.MAC)
    host.registry.put_peer(node_host.key("10.2.20.0/24"), before)
    save(host, "10.2.20.0/24", before)
    host.in_use = True
    with pytest.raises(errors.NotReady, match="once nobody has renewed it for 150 s"):
        join(host)
    host.registry.let_age(node_host.key("10.2.20.0/24"), 200)
    origins = clones.Origins(0.02)
    with pytest.raises(errors.NotReady):
        member.join(node_host.PREFIX, host.options, host.ports(), STOP, origins)
    threading.Event().wait(0.02)
    joined = member.join(node_host.PREFIX, host.options, host.ports(), STOP, origins)
    assert isinstance(joined, member.Joined)
    assert joined.lease.attrs == OURS


def test_a_missing_config_is_an_error(host: node_host.NodeHost) -> None:
    host.registry.set_config(None)
    with pytest.raises(errors.ConfigMissing):
        join(host)


def test_a_missing_config_is_created_from_the_setting_once(host: node_host.NodeHost) -> None:
    host.registry.set_config(None)
    host.options = member.Options(initial_config='{"Network": "10.9.0.0/16", "Backend": {"Type": "vxlan"}}')
    assert join(host).member.own.key == node_host.key("10.9.1.0/24")
    assert json.loads(host.registry.read_config())["Network"] == "10.9.0.0/16"


def test_a_config_that_is_there_trumps_the_setting(host: node_host.NodeHost) -> None:
    host.options = member.Options(initial_config='{"Network": "10.9.0.0/16", "Backend": {"Type": "vxlan"}}')
    assert join(host).member.own.key == node_host.key("10.2.1.0/24")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            '{"Network":"10.2.0.0/16", "Backend":{"Type":"vxlan", "MTU":9000}}',
            "at most 1500",
        ),
        ('{"Network": "10.2.0.0/16", "Backend": {"Type": "udp"}}', 'flannel\'s backend "udp" is not spoken here'),
        (
            '{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan", "MTU": 9000}}',
            "MTU is 9000, but eth0 carries 1500: at most 1500",
        ),
        ('{"Network": "10.2.0.0/16"}', "names no Backend"),
        ("{", "expected a JSON object|JSON"),
    ],
)
def test_a_config_we_cannot_follow_is_refused(host: node_host.NodeHost, config: str, expected: str) -> None:
    host.registry.set_config(config)
    with pytest.raises(errors.ConfigInvalid, match=expected):
        join(host)
    assert host.registry.read_leases().leases == {}


def test_a_host_without_an_underlay_says_which_setting_helps(host: node_host.NodeHost) -> None:
    host.kernel = type(host.kernel)([])
    with pytest.raises(errors.UnderlayError, match="set IFACE"):
        join(host)


def test_a_full_network_says_so(host: node_host.NodeHost) -> None:
    host.registry.set_config('{"Network": "10.2.0.0/22", "SubnetLen": 24, "Backend": {"Type": "vxlan"}}')
    for number in range(1, 4):
        host.registry.put_peer(node_host.key(f"10.2.{number}.0/24"), node_host.attrs(f"192.0.2.{number + 10}"))
    with pytest.raises(errors.OutOfSubnets, match=r"out of subnets in 10\.2\.0\.0/22"):
        join(host)


class AskedRegistry(registry_fake.FakeRegistry):
    """Remembers whose time was asked for."""

    def __init__(self, config: str) -> None:
        super().__init__(config)
        self.asked: list[str] = []
        self.answers = True

    def time_left(self, held: lease.Lease) -> registry.TimeLeft | None:
        self.asked.append(str(held.key))
        if not self.answers:
            raise errors.RegistryUnavailable("no answer")
        return registry.TimeLeft(seconds=3600) if held.lease_id else None


def full(tmp_path: pathlib.Path) -> tuple[node_host.NodeHost, AskedRegistry]:
    """A network of 8 subnets, all taken, the first reserved."""
    asked = AskedRegistry('{"Network": "10.2.0.0/21", "SubnetMin": "10.2.0.0", "Backend": {"Type": "vxlan"}}')
    for number in range(8):
        name = node_host.key(f"10.2.{number}.0/24")
        asked.put_peer(name, node_host.attrs(f"192.0.2.{number + 10}"), reserved=number == 0)
    return node_host.NodeHost(tmp_path, asked), asked


def test_a_full_network_says_until_when_the_holders_hold_and_asks_for_five_at_most(tmp_path: pathlib.Path) -> None:
    host, asked = full(tmp_path)
    before = datetime.datetime.now(datetime.UTC)
    with contextlib.closing(host), pytest.raises(errors.OutOfSubnets) as caught:
        join(host)
    told = re.findall(
        r"(10\.2\.\d\.0/24) (by|reserved for) (192\.0\.2\.\d+)(?: until (\S+ \S+) UTC)?", str(caught.value)
    )
    assert [(subnet, how, who) for subnet, how, who, _ in told] == [
        ("10.2.0.0/24", "reserved for", "192.0.2.10"),
        *((f"10.2.{number}.0/24", "by", f"192.0.2.{number + 10}") for number in range(1, 5)),
    ]
    ends = {datetime.datetime.fromisoformat(f"{end}+00:00") for *_, end in told if end}
    assert all(abs(end - before - datetime.timedelta(hours=1)) <= datetime.timedelta(minutes=1) for end in ends)
    assert [bool(end) for *_, end in told] == [False, True, True, True, True]
    assert asked.asked == [f"10.2.{number}.0/24" for number in range(5)]
    assert "and 3 more" in str(caught.value)


def test_a_full_network_is_explained_without_times_where_nobody_answers(tmp_path: pathlib.Path) -> None:
    host, asked = full(tmp_path)
    asked.answers = False
    with contextlib.closing(host), pytest.raises(errors.OutOfSubnets, match=r"10\.2\.1\.0/24 by 192\.0\.2\.11, "):
        join(host)
    assert asked.asked == ["10.2.0.0/24"]


def test_whose_time_is_left_is_not_asked_where_a_subnet_is_free(tmp_path: pathlib.Path) -> None:
    host, asked = full(tmp_path)
    asked.delete_peer(node_host.key("10.2.7.0/24"))
    with contextlib.closing(host):
        assert isinstance(join(host), member.Joined)
    assert asked.asked == []


def test_a_host_with_containers_makes_do_with_an_underlay_that_became_narrow(
    host: node_host.NodeHost,
) -> None:
    wide = '{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan", "MTU": 9000}}'
    host.registry.set_config(wide)
    save(host, "10.2.20.0/24")
    host.in_use = True
    joined = join(host)
    assert isinstance(joined, member.Joined)
    assert joined.member.backend.overlay_mtu(joined.member.own) == 1450


def test_a_vni_that_old_peers_cannot_read_is_warned_of(
    host: node_host.NodeHost, caplog: pytest.LogCaptureFixture
) -> None:
    host.registry.set_config('{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan", "VNI": 70000}}')
    join(host)
    told = "VNI is 70000: flanneld before v0.24.0 reads at most 65535 and leaves this host out"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"{told} prefix={node_host.PREFIX}"]
