"""The audit on real hosts: each kind of difference is made by hand, printed, mended, and gone."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import string
import threading

import pytest

from lab import site
from tests.system.test_interruptions import worker_of

pytestmark = pytest.mark.long("28.5")
SQL = """
import glob, sqlite3, sys

(path,) = glob.glob("/var/lib/docker/plugins/*/propagated-mount/flannelpy.db")
file = sqlite3.connect(path)
for statement in sys.argv[1:]:
    file.execute(statement)
file.commit()
"""


CONTRADICT = (
    "UPDATE endpoints SET mac = '02:42:00:00:00:99' WHERE id = '$ENDPOINT'",
    """
    INSERT INTO endpoints (id, network_id, address, mac, host_end, joined)
    SELECT '3333333333333333333333333333333333333333333333333333333333333333', id, '$STALE/24',
    '02:42:0a:02:01:63', 'fph333333333333', 1 FROM networks LIMIT 1
    """,
    """
    INSERT INTO ipam_addresses (pool_id, ip, kind, since)
    SELECT pool_id, '$STALE', 'endpoint', 0 FROM ipam_pools LIMIT 1
    """,
    """
    INSERT INTO ipam_pools (pool_id, prefix, lease, cidr, since)
    SELECT 'flannelpy/$HALF', prefix, lease, '$HALF', 0 FROM ipam_pools LIMIT 1
    """,
)


LOSE_ADDRESS = "DELETE FROM ipam_addresses WHERE ip = '$IP'"


def audit(host, *, repair=False, settle="0.5"):
    code, text = site.request(host, "POST" if repair else "GET", f"/audit?settle={settle}")
    assert code == 200, text
    told = json.loads(text)
    assert told["troubles"] == {}
    return told


def things(differences):
    return sorted((one["kind"], one["object"]) for one in differences)


def write_rows(host, *statements):
    """Somebody else writes into the state file while the plugin is away."""
    host.docker("plugin", "disable", "-f", site.PLUGIN, timeout_s=60)
    try:
        host.exec(["python3", "-c", SQL, *statements])
    finally:
        host.docker("plugin", "enable", site.PLUGIN, timeout_s=60)
    site.wait_ready(host)


def stop_worker(host):
    """The worker stands still: nothing heals by itself. Give the signal that lets it go on."""
    pid = worker_of(host)
    host.exec(["kill", "-STOP", pid])
    return lambda: host.exec(["kill", "-CONT", pid])


@contextlib.contextmanager
def standing_still(host):
    go_on = stop_worker(host)
    try:
        yield
    finally:
        go_on()


@pytest.fixture
def audited(pair, run):
    """A host on which all agree, with one container."""
    container = run(pair.h1)
    site.wait_ready(pair.h1)
    assert audit(pair.h1)["differences"] == []
    yield pair.h1, container
    assert audit(pair.h1, settle="2")["differences"] == []


def mended(host):
    """What --repair mended; asks again while something is too young, for the time that a grace lasts."""
    found = audit(host, repair=True)
    done = found["mended"]
    if found["differences"]:
        site.wait_for("nothing differs any more", lambda: not audit(host, repair=True)["differences"], 40)
    assert audit(host)["differences"] == []
    return things(done)


def test_rows_that_docker_contradicts_are_told_and_mended(audited):
    host, container = audited
    endpoint = host.docker("inspect", "-f", '{{(index .NetworkSettings.Networks "mynet").EndpointID}}', container)
    address = site.ip_of(host, container)
    pool = site.subnet_of(host, "mynet")
    stale, half = pool.replace(".0/24", ".77"), pool.replace("/24", "/25")
    names = {"ENDPOINT": endpoint, "STALE": stale, "HALF": half}
    write_rows(host, *(string.Template(statement).substitute(names) for statement in CONTRADICT))
    assert set(things(audit(host)["differences"])) == {
        ("endpoint:stale", "333333333333"),
        ("endpoint:changed", endpoint[:12]),
        ("address:stale", stale),
        ("port:lost", "link fph333333333333"),
        ("pool:stale", half),
        ("pool:doubled", pool),
    }
    assert ("endpoint:changed", endpoint[:12]) in mended(
        host
    )  # the stale one must be twenty seconds old, and is gone
    assert site.ip_of(host, container) == address
    assert host.try_docker("exec", container, "ip", "addr").ok


def test_an_address_that_the_file_lost_is_taken_again(audited):
    host, container = audited
    address = site.ip_of(host, container)
    write_rows(host, LOSE_ADDRESS.replace("$IP", address))
    mended(host)
    code, answer = site.call(host, "IpamDriver.RequestAddress", asking_for(host, address))
    assert (code, "is in use" in answer["Err"]) == (409, True)


def asking_for(host, address):
    pool = site.subnet_of(host, "mynet")
    return json.dumps({"PoolID": f"flannelpy/{pool}", "Address": address, "Options": {}})


def test_a_row_lost_under_the_running_plugin_is_written_again_and_the_container_notices_nothing(audited):
    host, container = audited
    endpoint = host.docker("inspect", "-f", '{{(index .NetworkSettings.Networks "mynet").EndpointID}}', container)
    address = site.ip_of(host, container)
    host.exec(["python3", "-c", SQL, "DELETE FROM endpoints", LOSE_ADDRESS.replace("$IP", address)])
    assert set(things(audit(host)["differences"])) == {
        ("row:changed", f"endpoint {endpoint[:12]}"),
        ("endpoint:missing", endpoint[:12]),
        ("row:changed", f"address {address}"),
        ("address:missing", address),
        ("kernel:stale", f"link fph{endpoint[:12]}"),
        ("firewall:changed", "nft-bridge"),
    }
    mended(host)
    gateway = site.subnet_of(host, "mynet").replace(".0/24", ".1")
    assert host.try_docker("exec", container, "ping", "-c", "1", "-w", "2", gateway).ok


def test_what_differs_while_docker_is_away_is_told(audited):
    """Nobody but the driver's own rows can say then that an address is in use."""
    host, container = audited
    address = site.ip_of(host, container)
    host.kill_dockerd()
    try:
        host.exec(["python3", "-c", SQL, LOSE_ADDRESS.replace("$IP", address)])
        told = json.loads(site.request(host, "GET", "/audit?settle=0")[1])
    finally:
        host.start_dockerd()
    assert set(things(told["differences"])) == {("row:changed", f"address {address}"), ("address:missing", address)}
    assert set(told["troubles"]) == {"docker"}
    mended(host)


def test_what_differs_in_the_kernel_is_told(audited):
    host, _ = audited
    bridge = next(net["bridge"] for net in site.status(host)["networks"])
    for words, kind, thing in (
        (
            "ip link add fp-999999999999 type bridge && ip link set fp-999999999999 alias flannelpy",
            "kernel:stale",
            "link fp-999999999999",
        ),
        (
            "ip route add 10.2.250.0/24 via 10.2.250.0 dev flannel.1 onlink proto 70",
            "kernel:stale",
            "route 10.2.250.0/24",
        ),
        (f"ip link set {bridge} mtu 1300", "kernel:changed", f"link {bridge}"),
        ("nft delete table ip flannelpy", "firewall:missing", "nft"),
    ):
        assert any((kind, thing) in seen_standing_still(host, words) for _ in range(4)), words


def seen_standing_still(host, words):
    """What an audit sees that begins when the healing of a change does, which is mostly slower. Then all heals."""
    with standing_still(host):
        host.exec(["sh", "-c", words])
        answers = []
        asking = threading.Thread(target=lambda: answers.append(audit(host, settle="0")))
        asking.start()
    asking.join(90)
    site.wait_for("all is healed", lambda: not audit(host, settle="0")["differences"], 20)
    return things(answers[0]["differences"])


def test_a_link_of_nobodys_with_a_name_like_ours_is_told_and_left_alone(audited):
    host, _ = audited
    host.exec(["sh", "-c", "ip link add fph999999999999 type veth peer name fpc999999999999"])
    try:
        left = [("link:left", "link fpc999999999999"), ("link:left", "link fph999999999999")]
        told = audit(host, repair=True)
        assert (things(told["differences"]), told["mended"]) == (left, [])
    finally:
        host.exec(["ip", "link", "del", "fph999999999999"])


def test_a_container_that_lost_its_link_is_told(audited):
    host, container = audited
    endpoint = host.docker("inspect", "-f", '{{(index .NetworkSettings.Networks "mynet").EndpointID}}', container)
    host.exec(["ip", "link", "del", f"fph{endpoint[:12]}"])
    assert things(audit(host)["differences"]) == [("port:lost", f"link fph{endpoint[:12]}")]
    host.docker("restart", "-t", "0", container, timeout_s=60)


def test_a_config_that_changed_since_it_was_read_is_told(audited, pair):
    host, _ = audited
    site.put_config(pair.lab, site.CONFIG.replace("vxlan", "host-gw"))
    try:
        assert things(audit(host)["differences"]) == [("config:changed", f"{site.PREFIX}/config")]
    finally:
        site.put_config(pair.lab)


def test_a_key_of_another_host_is_told_and_left_alone(audited, pair):
    host, _ = audited
    subnet = site.status(host)["flannel_networks"][0]["subnet"].replace("/", "-")
    own = f"{site.PREFIX}/subnets/{subnet}"
    twin = f"{site.PREFIX}/subnets/10.2.251.0-24"
    value = pair.lab.etcdctl("get", "--print-value-only", own)
    pair.lab.etcdctl("put", twin, value)
    try:
        told = audit(host, repair=True)
        assert ("lease:doubled", twin) in things(told["differences"])
        assert pair.lab.etcdctl("get", "--print-value-only", twin) == value
    finally:
        pair.lab.etcdctl("del", twin)
    site.wait_for("the twin is gone", lambda: not audit(host, settle="0")["differences"], 20)


DUAL_CONFIG = """{
    "EnableIPv6": true, "Network": "10.77.0.0/16", "IPv6Network": "fd00:77::/48",
    "Backend": {"Type": "vxlan", "VNI": 77}
}"""


def test_networks_of_every_kind_agree(solo):
    site.put_config(solo.lab, DUAL_CONFIG, "/audited/network")
    solo.install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints, ETCD_PREFIX="/audited/network")
    site.wait_ready(solo.host)
    (lease,) = site.status(solo.host)["flannel_networks"]
    slices = [str(part) for part in ipaddress.IPv4Network(lease["subnet"]).subnets(new_prefix=27)]
    six = str(next(ipaddress.IPv6Network(lease["subnet_v6"]).subnets(new_prefix=72)))
    first = ipaddress.IPv4Network(slices[0]).network_address
    aux = ("--aux-address", f"printer={first + 9}", "--ip-range", f"{first + 16}/28", "--gateway", f"{first + 3}")
    for number, options in enumerate(
        (
            aux,
            ("--internal",),
            ("--ipv6", "--subnet", six),
            ("-o", "flannelpy.gateway=docker", "-o", "com.docker.network.driver.mtu=1400"),
            ("-o", "flannelpy.gateway=native"),
            ("-o", "com.docker.network.bridge.enable_ip_masquerade=false"),
        )
    ):
        name, publish = f"net{number}", ("-p", f"80{number}0:80") if number in {0, 3, 4} else ()
        site.create_network(solo.host, name, "--subnet", slices[number], *options)
        solo.host.docker("run", "-d", "--network", name, *publish, "busybox", "sleep", "3600", timeout_s=90)
    assert audit(solo.host, settle="1")["differences"] == []
    assert audit(solo.host, repair=True)["mended"] == []
    keep, forget = "CREATE TABLE kept AS SELECT id, published FROM endpoints", "UPDATE endpoints SET published = '[]'"
    solo.host.exec(["python3", "-c", SQL, keep, forget])
    told = things(audit(solo.host)["differences"])
    assert [one for one in told if one[0].startswith("published:")] == [("published:stale", "0.0.0.0:8040/tcp")]
    again = "UPDATE endpoints SET published = (SELECT published FROM kept WHERE kept.id = endpoints.id)"
    solo.host.exec(["python3", "-c", SQL, again, "DROP TABLE kept"])
    assert audit(solo.host)["differences"] == []


def test_no_false_alarm_while_containers_come_and_go(audited):
    host, _ = audited
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            host.try_docker("run", "--rm", "--network", "mynet", "busybox", "true", timeout_s=90)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        alarms = [audit(host, settle="3")["differences"] for _ in range(6)]
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)
    assert alarms == [[]] * 6


def test_the_command_is_in_the_plugin_and_curl_will_do(audited):
    host, _ = audited
    plugin_id = host.docker("plugin", "inspect", "-f", "{{.Id}}", site.PLUGIN)
    runc = ["runc", "--root", "/run/docker/runtime-runc/plugins.moby", "exec", plugin_id]
    assert host.exec([*runc, "flannelpy", "audit"]) == "no differences"
    socket = ["--unix-socket", "/run/docker/plugins/flannelpy.sock"]
    assert json.loads(host.exec(["curl", "-s", *socket, "http://x/audit"]))["differences"] == []
    assert json.loads(host.exec(["curl", "-s", "-X", "POST", *socket, "http://x/audit"]))["mended"] == []
