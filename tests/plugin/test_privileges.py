"""The real process with less than it is granted: what fails then, and that nothing more is needed.

As `docs/privileges.md` says it. Docker's own refusals need an engine: tests/mutations.py, PRIVILEGES.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.plugin import sessions
from tests.plugin.test_server import UNDERLAY, Running, start, until

__all__ = ["start"]  # the fixture

pytestmark = pytest.mark.contract

DEFAULT = (
    "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,mknod,"
    "audit_write,setfcap"
)
"""What Docker grants every plugin, asked for or not. Source: moby daemon/pkg/oci/caps/defaults.go."""

GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}


def only(*capabilities: str) -> str:
    """A setup that leaves the plugin these capabilities; the command that follows it is sh's."""
    kept = ",".join(["-all", *(f"+{one}" for one in capabilities)])
    return f"{UNDERLAY} exec setpriv --bounding-set {kept} --inh-caps {kept} sh -c '\"$@\"' sh "


READ_ONLY_SYSCTLS = (
    f"{UNDERLAY} exec unshare --mount sh -c 'mount --bind /proc/sys /proc/sys && "
    'mount -o remount,bind,ro /proc/sys && "$@"\' sh '
)
"""As in a plugin without the mount `sysctl`."""


def make_container(plugin: Running) -> list[tuple[str, int, Any]]:
    """A network and a container in it, as far as it goes: each call with its status and answer."""
    told: list[tuple[str, int, Any]] = []

    def call(method: str, **body: object) -> Any:
        told.append((method, *plugin.call(method, body)))
        return told[-1][2]

    pool = call("IpamDriver.RequestPool", AddressSpace="flannelpy", Pool="")
    if told[-1][1] != 200:
        return told
    gateway = call("IpamDriver.RequestAddress", PoolID=pool["PoolID"], Options=GATEWAY)
    data = [{"AddressSpace": "flannelpy", "Pool": pool["Pool"], "Gateway": gateway["Address"]}]
    call("NetworkDriver.CreateNetwork", NetworkID=sessions.NETWORK_ID, IPv4Data=data)
    address = call("IpamDriver.RequestAddress", PoolID=pool["PoolID"])
    call("NetworkDriver.CreateEndpoint", **sessions.IDS, Interface={"Address": address["Address"]})
    call("NetworkDriver.Join", **sessions.IDS, SandboxKey="/x", Options={})
    return told


def refusals(told: list[tuple[str, int, Any]]) -> dict[str, str]:
    return {method: answer["Err"] for method, status, answer in told if status != 200}


def test_net_admin_alone_is_enough(start: Callable[..., Running]) -> None:
    plugin = start({"TX_CHECKSUM": "on"}, only("net_admin"))
    assert refusals(make_container(plugin)) == {}, plugin.log()
    until(plugin.ready, plugin.log(), within_s=30)
    assert json.loads(plugin.ask("GET", "/status")[1])["kernel"]["failures"] == []
    for method in ("Leave", "DeleteEndpoint", "DeleteNetwork"):
        assert plugin.call(f"NetworkDriver.{method}", sessions.IDS) == (200, {})
    assert "Traceback" not in plugin.log()


def test_without_net_admin_nothing_is_programmed_and_the_plugin_answers(start: Callable[..., Running]) -> None:
    plugin = start({}, only(*DEFAULT.split(",")))
    told = make_container(plugin)
    assert "Operation not permitted" in refusals(told)["IpamDriver.RequestPool"], told
    assert plugin.ask("GET", "/healthz") == (200, "ok\n")
    assert "Traceback" not in plugin.log()


def test_without_writable_sysctls_packets_are_not_forwarded_and_readyz_says_so(start: Callable[..., Running]) -> None:
    plugin = start({}, READ_ONLY_SYSCTLS)
    make_container(plugin)
    until(lambda: "net.ipv4.ip_forward" in plugin.ask("GET", "/readyz")[1], plugin.log(), within_s=30)
    assert "read-only" in plugin.ask("GET", "/readyz")[1].lower()


def test_without_the_hosts_network_there_is_no_lease(start: Callable[..., Running]) -> None:
    plugin = start({}, "ip link set lo up && ")
    told = make_container(plugin)
    assert [method for method, *_ in told] == ["IpamDriver.RequestPool"]
    assert "no default route on this host" in refusals(told)["IpamDriver.RequestPool"]
