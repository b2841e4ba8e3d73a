"""A real lab per engine: up, used, broken, down, and nothing of it left."""

from __future__ import annotations

import pathlib

import pytest

import lab
from lab import cgroups, state

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]  # the first run makes the roots


def _left_of(name: str) -> dict[str, list[str]]:
    """Look for anything that carries the lab's name on this machine."""
    commands = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands[path] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    hierarchies = cgroups.observe()
    mounts = pathlib.Path("/proc/self/mounts").read_text().splitlines()
    return {
        "netns": [path.name for path in pathlib.Path("/run/netns").glob(f"{name}-*")],
        "mounts": [line for line in mounts if f"/{name}/" in line],
        "processes": [text for text in commands.values() if f"/{name}/" in text or f"netns/{name}-" in text],
        "cgroups": [str(p) for h in hierarchies for p in h.mountpoint.glob(f"flannelpy-lab.{name}.*")],
        "files": [str(p) for p in (state.RUN / name, state.data_dir(name)) if p.exists()],
    }


@pytest.mark.parametrize("engine", lab.ENGINES)
def test_two_hosts_of_every_engine_come_up_talk_and_leave_nothing(engine: str) -> None:
    name = f"smoke{engine.replace('.', '')}"
    with lab.Lab.up(lab.LabConfig(name=name, hosts=2, engine=engine)) as made:
        h1, h2 = made.hosts["h1"], made.hosts["h2"]
        h1.exec(["ping", "-c", "1", "-W", "2", h2.ip])
        assert h1.docker("version", "--format", "{{.Server.Version}}").startswith(engine)
        assert h2.docker("run", "--rm", lab.BUSYBOX, "echo", "hello") == "hello"
        h1.docker("run", "--rm", lab.TOOLS, "ping", "-M", "do", "-s", "1472", "-c", "1", "-W", "2", h2.ip)
        assert made.etcdctl("put", "greeting", "hello") == "OK"
        assert made.etcdctl("get", "greeting", "--print-value-only") == "hello"
        assert h1.exec(["iptables", "-S", "FORWARD"]).splitlines()[0] == f"-P FORWARD {h1.forward_policy}"
        # What a host's engine masquerades is seen from outside as the host; the client as itself.
        # (`timeout`, since `wget -T` of bookworm's busybox-static dies of a segmentation fault.)
        seen = h1.docker("run", "--rm", lab.BUSYBOX, "timeout", "5", "wget", "-qO-", made.outside_url)
        assert seen == h1.ip
        assert made.client.exec(["curl", "-fsS", "-m", "5", made.outside_url]) == made.plan.client.ip
    assert not any(_left_of(name).values()), _left_of(name)
    made.down()


def test_a_host_survives_a_dead_dockerd_and_a_reboot() -> None:
    config = lab.LabConfig(name="smokeboot", hosts=1, dockerd_args=("--live-restore",))
    with lab.Lab.up(config) as made:
        host = made.hosts["h1"]
        host.docker("run", "-d", "--name", "lasting", "--restart", "always", lab.BUSYBOX, "sleep", "600")
        started = "{{.State.StartedAt}}"
        before = host.docker("inspect", "-f", started, "lasting")
        host.kill_dockerd()
        assert not host.try_docker("ps").ok
        host.start_dockerd()
        assert host.docker("inspect", "-f", started, "lasting") == before
        host.reboot()
        assert host.docker("inspect", "-f", started, "lasting") != before
        assert lab.Lab.attach("smokeboot").hosts["h1"].docker("ps", "--format", "{{.Names}}") == "lasting"


def test_a_host_filters_packets_with_what_the_lab_names() -> None:
    def looked_at(firewall: str) -> tuple[str, bool, bool]:
        config = lab.LabConfig(name="smokefire", hosts=1, etcd_members=0, registry=False, firewall=firewall)
        with lab.Lab.up(config) as made:
            host = made.hosts["h1"]
            assert f"-P FORWARD {host.forward_policy}" in host.exec(["iptables", "-S", "FORWARD"])
            backend = host.docker("info", "-f", "{{.FirewallBackend.Driver}}")
            rules = host.exec(["nft", "list", "ruleset"])
            return backend, "DOCKER-FORWARD" in rules, "DOCKER-USER" in rules

    assert {firewall: looked_at(firewall) for firewall in lab.FIREWALLS} == {
        "iptables-nft": ("iptables", True, True),
        "iptables-legacy": ("iptables", False, False),
        "nftables": ("nftables", True, False),
    }


def test_a_frozen_etcd_can_be_thawed_and_taken_down_frozen() -> None:
    with lab.Lab.up(lab.LabConfig(name="smokefreeze", hosts=1)) as made:
        member = made.etcd["etcd1"]
        member.freeze()
        asked = ["curl", "-s", "-m", "1", f"{member.endpoint}/health"]
        assert made.client.try_exec(asked).code == 28
        member.thaw()
        assert made.etcdctl("put", "still", "there") == "OK"
        member.freeze()
    assert not any(_left_of("smokefreeze").values()), _left_of("smokefreeze")


def test_a_name_is_taken_once() -> None:
    config = lab.LabConfig(name="smoketwice", hosts=1, etcd_members=0, registry=False)
    with lab.Lab.up(config) as made, pytest.raises(lab.LabError, match="is there already"):
        lab.Lab.up(config)
    made.down()


def test_a_lab_that_fails_half_way_leaves_nothing() -> None:
    config = lab.LabConfig(name="smokefail", hosts=1, etcd_members=0, dockerd_args=("--storage-driver=nosuch",))
    with pytest.raises(lab.LabError, match="nosuch"):
        lab.Lab.up(config)
    assert not any(_left_of("smokefail").values()), _left_of("smokefail")


def test_the_build_engine_builds_and_leaves_the_machine_alone(tmp_path: pathlib.Path) -> None:
    from lab import engine_build

    links = sorted(path.name for path in pathlib.Path("/sys/class/net").iterdir())
    (tmp_path / "Dockerfile").write_text(f"FROM {engine_build.DEBIAN}\nRUN echo built > /proof\n")
    with engine_build.opened(shares=[tmp_path]) as builder:
        builder.import_base()
        builder.docker("build", "--network", "host", "-t", "proof:1", str(tmp_path))
        assert builder.docker("run", "--rm", "--network", "host", "proof:1", "cat", "/proof") == "built"
        builder.docker("rmi", "proof:1")
        assert sorted(path.name for path in pathlib.Path("/sys/class/net").iterdir()) == links
