"""`make demo`: the story of the classic flannel guide, told with the plugin on two real Docker hosts.

Every command is shown as a user would type it, with what it printed. Called by `lab.cli`; needs nothing prepared.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator, Sequence
from typing import Final

import click

from lab import config, errors, host, lab, machine, plugin_image, site

NAME: Final = "demo"
STEPS: Final = 9
SHOWN_LINES: Final = 12


class Story:
    """Prints steps, commands and answers, and counts what was checked."""

    def __init__(self, built: lab.Lab) -> None:
        self._lab = built
        self._step = 0
        self.checks = 0

    def step(self, title: str) -> None:
        """Begin a step."""
        self._step += 1
        click.secho(f"\n[{self._step}/{STEPS}] {title}", bold=True)

    def run(self, on: machine.Machine, words: Sequence[str], *, timeout_s: float = 120, only: str = "") -> str:
        """Run a command on a machine and show both; of a long answer only the lines that match `only`."""
        click.echo(f"{on.name}# {' '.join(_quote(word) for word in words)}")
        out = on.exec(words, timeout_s=timeout_s)
        for line in _shorten([line for line in out.splitlines() if re.search(only, line)]):
            click.echo(f"    {line}")
        return out

    def docker(self, on: host.Host, line: str, *, only: str = "") -> str:
        """Run a docker command given as one line."""
        return self.run(on, ["docker", *shlex.split(line)], only=only)

    def etcdctl(self, *words: str, only: str = "") -> str:
        """Run etcdctl on the client machine."""
        click.echo(f"client# etcdctl {' '.join(_quote(word) for word in words)}")
        out = self._lab.etcdctl(*words)
        for line in _shorten([line for line in out.splitlines() if re.search(only, line)]):
            click.echo(f"    {line}")
        return out

    def check(self, what: str, good: object) -> None:
        """Say that something holds. Raises LabError where it does not."""
        if not good:
            raise errors.LabError(f"demo failed: {what}")
        self.checks += 1
        click.secho(f"    ok: {what}", fg="green")


def tell(*, engine: str, keep: bool) -> None:
    """Tell the whole story; the lab goes away in the end, also after a failure or Ctrl-C, unless it is kept.

    Raises: LabError.
    """
    started = time.monotonic()
    click.secho("[0] build the plugin's image from the Dockerfile, and the hosts' root file systems", bold=True)
    click.echo("    the first time takes some minutes; both are kept for the next")
    image = plugin_image.build()
    click.echo(f"    image {image.key[:12]}: {image.size_bytes // 1_000_000} MB")
    built = lab.Lab.up(config.LabConfig(name=NAME, hosts=2, engine=engine))
    try:
        story = Story(built)
        _play(story, built, image)
    except BaseException:
        built.down()
        raise
    if keep:
        _explain_keep(built)
    else:
        built.down()
    took = time.monotonic() - started
    click.secho(f"demo: ok, {story.checks} checks on Docker {engine} in {took:.0f} s", bold=True)


def _play(story: Story, built: lab.Lab, image: plugin_image.Image) -> None:
    h1, h2 = built.hosts["h1"], built.hosts["h2"]
    story.step(f"two Docker hosts and an etcd: h1 {h1.ip}, h2 {h2.ip}, etcd {built.etcd_endpoints}")
    story.docker(h1, "version --format 'docker {{.Server.Version}}'")
    name = plugin_image.push(built, image)
    click.echo(f"    the plugin is in the lab's registry as {name}")

    story.step("flannel's network config, into etcd")
    story.etcdctl("put", f"{site.PREFIX}/config", site.CONFIG)

    story.step("install the plugin on both hosts")
    for one in (h1, h2):
        install = f"plugin install --alias flannelpy:1 --grant-all-permissions {name}"
        story.docker(one, f"{install} ETCD_ENDPOINTS={built.etcd_endpoints}", only="Installed")

    story.step("create the network on both hosts")
    for one in (h1, h2):
        story.docker(one, "network create -d flannelpy --ipam-driver flannelpy mynet")

    story.step("each host has a lease, a device and a route to the other")
    leases = story.etcdctl("get", "--prefix", f"{site.PREFIX}/subnets")
    here, there = site.subnet_of(h1, "mynet"), site.subnet_of(h2, "mynet")
    story.check(f"h1 has {here}, h2 has {there}", all(_key(one) in leases for one in (here, there)))
    story.run(h1, ["ip", "-brief", "address", "show", "dev", "flannel.1"])
    routes = story.run(h1, ["ip", "route"], only="flannel")
    story.check(f"h1 routes {there} through flannel.1", f"{there} via" in routes)

    story.step("bbox1 on h1 and bbox2 on h2 talk")
    for one, container in ((h1, "bbox1"), (h2, "bbox2")):
        story.docker(one, f"run -d --name {container} --network mynet busybox sleep 3600")
    address = site.ip_of(h2, "bbox2")
    pinged = story.docker(h1, f"exec bbox1 ping -c 3 {address}")
    story.check("no packet lost", " 0% packet loss" in pinged)
    hops = story.docker(h1, f"exec bbox1 traceroute -n -q 1 {address}")
    story.check("three hops: own gateway, h2's flannel.1, bbox2", len(hops.splitlines()) == 4)

    story.step("bbox2 sees bbox1's own address")
    site.serve_who(h2, "bbox2")
    seen = story.docker(h1, f"exec bbox1 wget -qO- http://{address}/cgi-bin/who")
    story.check(f"it is bbox1's: {seen}", seen.strip() == site.ip_of(h1, "bbox1"))

    story.step("a published port answers a third host")
    story.docker(h1, "run -d --name web -p 8080:80 --network mynet busybox sleep 3600")
    site.serve_who(h1, "web")
    story.docker(h1, "ps --filter name=web --format '{{.Names}} {{.Ports}}'")
    page = story.run(built.client, ["curl", "-sS", "-m", "5", f"http://{h1.ip}:8080/cgi-bin/who"])
    story.check("the page came", page)

    story.step("a container reaches a server outside the overlay")
    answer = story.docker(h1, f"exec bbox1 wget -qO- {built.outside_url}")
    story.check(f"which sees the host, {h1.ip}", h1.ip in answer)


def _explain_keep(built: lab.Lab) -> None:
    python = ".venv/bin/python -m lab"
    click.echo("\nthe lab stays. Enter it and leave it with")
    click.echo(f"    {python} exec --name {built.name} h1 bash")
    click.echo(f"    {python} exec --name {built.name} h1 docker ps")
    click.echo(f"    {python} down --name {built.name}")


def _key(subnet: str) -> str:
    return f"/subnets/{subnet.replace('/', '-')}"


def _shorten(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:SHOWN_LINES]
    if len(lines) > SHOWN_LINES:
        yield f"… {len(lines) - SHOWN_LINES} more lines"


def _quote(word: str) -> str:
    return shlex.quote(word) if re.search(r"[\s{}'\"$|;&<>*]", word) else word
