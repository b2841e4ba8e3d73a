"""The plugin as users get it: built with `docker build` from the Dockerfile, made and pushed with `docker plugin`.

`build` gives the root file system, from the cache if none of its inputs changed; `push` puts it with
plugin/config.json into a lab's registry, so that hosts can run the literal `docker plugin install`; `publish` does
both. Called by
`make demo`, the system tests, bench and `python -m lab plugin`.

The build is the one that users run. What differs stands outside of the Dockerfile: the base image is imported under
its own name, since the lab has no registry to pull from, and this machine's CA bundle, package index and proxies are
handed in, as anyone behind a proxy would do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Final

from lab import command, engine_build, errors, host, lab, roots

log = logging.getLogger(__name__)

CHECKOUT: Final = pathlib.Path(__file__).parent.parent
MAX_BYTES: Final = 130_000_000
"""What the root file system may take on a disk."""
MAX_COMPRESSED_BYTES: Final = 45_000_000

_IMAGE: Final = "flannelpy-rootfs"
_TREES: Final = ("overlay", "ipam", "driver", "plugin")
_FILES: Final = ("Dockerfile", ".dockerignore", "requirements.lock", "requirements-build.lock")
_CA_NAME: Final = "ca-certificates.crt"
_CA_VARIABLES: Final = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_CA_DEFAULT: Final = "/etc/ssl/certs/ca-certificates.crt"
_PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy")
_ARGUMENTS: Final = ("PIP_INDEX_URL", *_PROXIES, *(name.upper() for name in _PROXIES))
_KEPT: Final = 4
_FORMAT: Final = "1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The plugin's root file system. key: the hash of everything it was built from."""

    rootfs: pathlib.Path
    key: str

    @property
    def size_bytes(self) -> int:
        """What it takes on a disk, as du(1) counts."""
        return int(command.check(command.run(["du", "-s", "-B1", str(self.rootfs)])).out.split()[0])

    def compressed_bytes(self) -> int:
        """Say what it takes on the wire: tar and gzip, as a registry keeps it. Some five seconds."""
        script = f'tar -C "{self.rootfs}" -c . | gzip | wc -c'
        return int(command.check(command.run(["sh", "-c", script], timeout_s=120)).out)


def build(*, engine: str = "28.5", checkout: pathlib.Path = CHECKOUT) -> Image:
    """Give the root file system that this checkout builds, at once if it was built before.

    A change of our sources costs a few seconds, of the locks half a minute, the first build a minute or two.
    Raises: CommandFailed with the end of the build's output, LabError if the result is larger than MAX_BYTES.
    """
    sources = _sources(checkout)
    key = _key(checkout, sources)
    made = _cache() / key
    with roots.locked(_cache() / "lock"):
        for leftover in _cache().glob("tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not made.is_dir():
            log.info("building the plugin's image engine=%s key=%s", engine, key)
            _build(checkout, sources, engine, made)
            _forget_old(_cache())
        os.utime(made)
    return Image(rootfs=made / "rootfs", key=key)


def push(
    to: lab.Lab, image: Image, *, tag: str = "1.0", by: host.Host | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Put the plugin into the lab's registry and give its full name; `by` (any host) does it and keeps nothing.

    `env`: variables beyond those of plugin/config.json; with FAULT_POINTS tests can break what is installed.
    The engine refuses the same content under a second name, so what it made is removed at once.
    Raises: CommandFailed, LabError if the lab has no registry.
    """
    name = f"{to.registry}/flannelpy:{tag}"
    engine = by or next(iter(to.hosts.values()))
    staged = pathlib.Path(tempfile.mkdtemp(dir=to.shared_dir, prefix="plugin-"))
    try:
        _link_tree(image.rootfs, staged / "rootfs")
        (staged / "config.json").write_text(_config_json(env or {}))
        engine.docker("plugin", "create", name, f"{lab.SHARED}/{staged.name}", timeout_s=180)
        try:
            engine.docker("plugin", "push", name, timeout_s=180)
        finally:
            engine.docker("plugin", "rm", name)
    finally:
        shutil.rmtree(staged)
    return name


def _config_json(env: Mapping[str, str]) -> str:
    config = json.loads((CHECKOUT / "plugin/config.json").read_text())
    config["env"] += [
        {"name": name, "description": "", "settable": ["value"], "value": value} for name, value in env.items()
    ]
    return json.dumps(config)


def publish(to: lab.Lab, *, tag: str = "1.0") -> str:
    """Build, push, and give the name for `docker plugin install`."""
    return push(to, build(), tag=tag)


def _cache() -> pathlib.Path:
    path = roots.cache_dir() / "plugin"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _sources(checkout: pathlib.Path) -> list[pathlib.Path]:
    """List what the build reads, relative to the checkout, as .dockerignore has it."""
    return [pathlib.Path(name) for name in _FILES] + sorted(
        path.relative_to(checkout) for tree in _TREES for path in _walk(checkout / tree)
    )


def _walk(tree: pathlib.Path) -> Iterator[pathlib.Path]:
    for path in tree.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.parts[-2:] != ("plugin", "config.json"):
            yield path


def _key(checkout: pathlib.Path, sources: list[pathlib.Path]) -> str:
    digest = hashlib.sha256(_FORMAT.encode())
    for source in sources:
        digest.update(f"{source}\0{hashlib.sha256((checkout / source).read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _build(checkout: pathlib.Path, sources: list[pathlib.Path], engine: str, target: pathlib.Path) -> None:
    """Build beside the target and rename: an interrupted build must not be taken for a whole one."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="tmp-") as work:
        context, result = pathlib.Path(work, "context"), pathlib.Path(work, "result")
        for source in sources:
            (context / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkout / source, context / source)
        _add_ca_bundle(context)
        base = _base_of((context / "Dockerfile").read_text())
        with engine_build.opened(engine=engine, shares=[pathlib.Path(work)]) as builder:
            builder.import_base(base, suite=base.partition(":")[2].removesuffix("-slim"))
            given = [name for name in _ARGUMENTS if os.environ.get(name)]
            arguments = [f"--build-arg={name}" for name in given]
            builder.docker(
                *("build", "--network=host", *arguments, "--tag", _IMAGE, str(context)),
                env={name: os.environ[name] for name in given},
            )
            _export(builder, pathlib.Path(work, "rootfs.tar"), result / "rootfs")
        size = Image(rootfs=result / "rootfs", key="").size_bytes
        if size > MAX_BYTES:
            raise errors.LabError(f"the plugin's root file system has {size} bytes, at most {MAX_BYTES} are promised")
        result.rename(target)


def _export(builder: engine_build.BuildEngine, archive: pathlib.Path, target: pathlib.Path) -> None:
    container = builder.docker("create", _IMAGE)
    try:
        builder.docker("export", "--output", str(archive), container)
    finally:
        builder.docker("rm", container)
    target.mkdir(parents=True)
    command.check(command.run(["tar", "-C", str(target), "-xf", str(archive)], timeout_s=120))
    (target / ".dockerenv").unlink(missing_ok=True)


def _base_of(dockerfile: str) -> str:
    """Name the base image, Debian's slim one of some suite.

    Raises: LabError.
    """
    found = re.search(r"^FROM (debian:[a-z]+-slim)\b", dockerfile, re.MULTILINE)
    if found is None:
        raise errors.LabError("Dockerfile: expected `FROM debian:SUITE-slim`, the only base that the lab can make")
    return found[1]


def _add_ca_bundle(context: pathlib.Path) -> None:
    """Trust whom this machine trusts: its bundle has the CA of a proxy that re-signs TLS, if there is one."""
    for name in (*(os.environ.get(variable) for variable in _CA_VARIABLES), _CA_DEFAULT):
        if name and pathlib.Path(name).is_file():
            shutil.copyfile(name, context / _CA_NAME)
            return


def _link_tree(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a tree as links; as files, where the target is on another disk."""
    linked = command.run(["cp", "-a", "--link", str(source), str(target)], timeout_s=120)
    if not linked.ok:
        shutil.rmtree(target, ignore_errors=True)
        command.check(command.run(["cp", "-a", str(source), str(target)], timeout_s=120))


def _forget_old(cache: pathlib.Path) -> None:
    """Keep the newest few: every change of a source makes another 100 MB."""
    made = sorted((path for path in cache.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in made[:-_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
