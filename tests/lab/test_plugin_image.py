"""The plugin's image: what the build reads, and what comes out of it."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable

import pytest

import plugin
from lab import errors, plugin_image

CHECKOUT = plugin_image.CHECKOUT


@pytest.fixture
def copy(tmp_path: pathlib.Path) -> pathlib.Path:
    """What the build reads of this checkout, to be changed at will."""
    for source in plugin_image._sources(CHECKOUT):
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / source, tmp_path / source)
    return tmp_path


def key_of(checkout: pathlib.Path) -> str:
    return plugin_image._key(checkout, plugin_image._sources(checkout))


def append(name: str) -> Callable[[pathlib.Path], None]:
    def change(checkout: pathlib.Path) -> None:
        with (checkout / name).open("a") as file:
            file.write("\n")

    return change


def write(name: str) -> Callable[[pathlib.Path], None]:
    def change(checkout: pathlib.Path) -> None:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("new")

    return change


@pytest.mark.parametrize(
    "change",
    [
        append("Dockerfile"),
        append("requirements.lock"),
        append("plugin/__main__.py"),
        write("overlay/new/table.json"),
    ],
)
def test_what_the_build_reads_makes_another_image(copy: pathlib.Path, change: Callable[[pathlib.Path], None]) -> None:
    before = key_of(copy)
    change(copy)
    assert key_of(copy) != before


@pytest.mark.parametrize(
    "change", [write("plugin/config.json"), write("ipam/__pycache__/x.cpython-311.pyc"), write("README.md")]
)
def test_what_it_does_not_read_leaves_the_image(copy: pathlib.Path, change: Callable[[pathlib.Path], None]) -> None:
    before = key_of(copy)
    change(copy)
    assert key_of(copy) == before


def test_a_copy_has_the_same_key(copy: pathlib.Path) -> None:
    assert key_of(copy) == key_of(CHECKOUT)


def test_the_lab_hands_in_just_what_the_dockerfile_copies() -> None:
    """A user's build reads the checkout through .dockerignore, ours a copy: all three lists must agree."""
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", (CHECKOUT / "Dockerfile").read_text(), re.MULTILINE)
    copied = {word.replace("[t]", "t") for line in copies for word in line.split()}
    allowed = {line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    handed_in = {source.parts[0] for source in plugin_image._sources(CHECKOUT)}
    assert copied == allowed == handed_in - {"Dockerfile", ".dockerignore"} | {plugin_image._CA_NAME}


def test_the_base_is_one_that_the_lab_can_make() -> None:
    assert re.fullmatch(r"debian:[a-z]+-slim", plugin_image._base_of((CHECKOUT / "Dockerfile").read_text()))
    with pytest.raises(errors.LabError, match="FROM debian:SUITE-slim"):
        plugin_image._base_of("FROM alpine\n")


@pytest.mark.system
def test_the_image_is_as_small_as_promised() -> None:
    image = plugin_image.build()
    assert image.size_bytes <= plugin_image.MAX_BYTES
    assert image.compressed_bytes() <= plugin_image.MAX_COMPRESSED_BYTES


@pytest.mark.system
def test_everything_in_the_image_is_compiled() -> None:
    """What is not costs its share of a second at each start: the image's own python never writes there again."""
    image = plugin_image.build()
    packages = [image.rootfs / "app", image.rootfs / "usr/lib/python3/dist-packages"]
    sources = [source for package in packages for source in package.rglob("*.py")]
    assert len(sources) > 500
    uncompiled = [s for s in sources if not list((s.parent / "__pycache__").glob(f"{s.stem}.cpython-*.pyc"))]
    assert uncompiled == []


@pytest.mark.system
@pytest.mark.parametrize(
    "argv",
    [
        ("nft", "--version"),
        ("iptables-nft", "--version"),
        ("iptables-nft-restore", "--version"),
        ("iptables-legacy-restore", "--version"),
        ("ip6tables-nft-restore", "--version"),
        ("ip6tables-legacy-restore", "--version"),
        ("python3", "-c", "import overlay.etcd_shim as s, ssl, sqlite3, grpc, pyroute2, docker, flask, gunicorn"),
        ("python3", "-m", "plugin", "--version"),
    ],
    ids=" ".join,
)
def test_its_programs_run(argv: tuple[str, ...]) -> None:
    image = plugin_image.build()
    subprocess.run(
        ["chroot", str(image.rootfs), *argv],
        env={"PATH": "/usr/sbin:/usr/bin", "PYTHONPATH": "/app"},
        check=True,
        capture_output=True,
        timeout=60,
    )


@pytest.mark.system
def test_the_image_tells_scanners_its_version() -> None:
    (metadata,) = (plugin_image.build().rootfs / "app").glob("flannelpy-*.dist-info/METADATA")
    assert f"Version: {plugin.__version__}\n" in metadata.read_text()


def test_variables_of_a_tests_own_build_are_added_to_those_of_config_json() -> None:
    shipped = json.loads((plugin_image.CHECKOUT / "plugin/config.json").read_text())
    made = json.loads(plugin_image._config_json({"FAULT_POINTS": "/host/run/faults"}))
    added = {"name": "FAULT_POINTS", "description": "", "settable": ["value"], "value": "/host/run/faults"}
    assert made == {**shipped, "env": [*shipped["env"], added]}
