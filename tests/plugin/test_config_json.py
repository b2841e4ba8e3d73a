"""plugin/config.json: what dockerd reads, held against what the program reads and the documents promise."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

from overlay import faults
from plugin import graph, server, settings

CHECKOUT = pathlib.Path(__file__).parents[2]
CONFIG: dict[str, Any] = json.loads((CHECKOUT / "plugin/config.json").read_text())
# moby api/types/plugin/plugin.go: dockerd ignores what it does not know, so a misspelt key is silently lost
KEYS = {
    *("description", "documentation", "interface", "entrypoint", "workdir", "network", "linux", "mounts", "env"),
    "propagatedmount",
}
BOOT_PROOF = {"/run", "/proc", "/proc/sys/net"}


def test_no_key_is_misspelt() -> None:
    assert set(CONFIG) == KEYS
    assert set(CONFIG["linux"]) == {"capabilities"}
    for mount in CONFIG["mounts"]:
        assert set(mount) - {"settable"} == {"name", "description", "type", "source", "destination", "options"}
    for variable in CONFIG["env"]:
        assert set(variable) == {"name", "description", "settable", "value"}


def test_fault_points_cannot_be_switched_on() -> None:
    """dockerd sets no variable that is not listed."""
    assert faults.VARIABLE not in {variable["name"] for variable in CONFIG["env"]}


def test_it_is_a_network_and_an_ipam_driver() -> None:
    assert CONFIG["interface"] == {
        "types": ["docker.networkdriver/1.0", "docker.ipamdriver/1.0"],
        "socket": server.SOCKET_NAME,
    }


def test_the_image_starts_what_dockerd_starts() -> None:
    dockerfile = (CHECKOUT / "Dockerfile").read_text()
    assert f"ENTRYPOINT {json.dumps(CONFIG['entrypoint'])}\n" in dockerfile
    assert f"WORKDIR {CONFIG['workdir']}\n" in dockerfile


def test_only_net_admin_is_asked_for() -> None:
    assert CONFIG["linux"] == {"capabilities": ["CAP_NET_ADMIN"]}
    assert CONFIG["network"] == {"type": "host"}


def test_every_mount_exists_at_every_boot() -> None:
    """A missing source makes dockerd panic at start, again and again."""
    assert {mount["source"] for mount in CONFIG["mounts"]} == BOOT_PROOF


def test_mounts_are_private_and_not_recursive() -> None:
    """A recursive or shared /run would show the namespaces of containers in the plugin, and keep them busy."""
    for mount in CONFIG["mounts"]:
        assert mount["type"] == "bind"
        assert {"bind", "private"} < set(mount["options"]) <= {"bind", "private", "ro", "rw"}


def test_only_the_mounts_that_are_written_to_are_writable() -> None:
    writable = {mount["destination"] for mount in CONFIG["mounts"] if "ro" not in mount["options"]}
    assert writable == {"/host/run", "/host/proc/sys/net"}


def test_the_defaults_of_the_program_are_where_dockerd_mounts() -> None:
    defaults = settings.Settings()
    assert defaults.state_dir == CONFIG["propagatedmount"]
    assert defaults.run_dir == {mount["name"]: mount["destination"] for mount in CONFIG["mounts"]}["run"]


def test_flannelds_are_looked_for_where_dockerd_mounts() -> None:
    assert {mount["source"]: mount["destination"] for mount in CONFIG["mounts"]}["/proc"] == str(graph.HOST_PROC)


def test_every_setting_can_be_set_and_no_other() -> None:
    """dockerd refuses `docker plugin set` of a name that is not listed here."""
    offered = {variable["name"]: variable["description"] for variable in CONFIG["env"]}
    assert offered == {known.name: known.description for known in settings.KNOWN if known.managed}
    assert all(variable["settable"] == ["value"] for variable in CONFIG["env"])


def test_defaults_are_those_of_the_program() -> None:
    """An upgrade keeps the old list of variables, so the program's own defaults must say the same."""
    offered = {variable["name"]: variable["value"] for variable in CONFIG["env"]}
    assert settings.parse_settings(offered) == (settings.Settings(), ())


def test_every_privilege_has_its_reason() -> None:
    reasons = (CHECKOUT / "docs/privileges.md").read_text()
    for name in CONFIG["linux"]["capabilities"]:
        assert f"| `{name}` |" in reasons
    for mount in CONFIG["mounts"]:
        assert f"| mount `{mount['source']}` → `{mount['destination']}`" in reasons


def test_the_systemd_unit_leaves_the_plugin_the_capabilities_that_it_uses() -> None:
    """Overlay and firewall; diagnosis and questions about offload; ports below 1024 that containers publish."""
    unit = (CHECKOUT / "docs/flannelpy.service").read_text()
    (bounding,) = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"} <= set(bounding.split())
