"""Images without a registry: an archive for `docker load`, made once from a root and the same on every host.

    busybox:latest           busybox-static with all its applets
    flannelpy-tools:latest   that, and iperf3, ping, traceroute, curl, socat, tcpdump, ip with their libraries

The archive is written here rather than imported into an engine, so it needs none, and every host gets the same ids.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from typing import Final

from lab import command, roots

BUSYBOX: Final = "busybox:latest"
TOOLS: Final = "flannelpy-tools:latest"

_PROGRAMS: Final = (
    *("/usr/bin/iperf3", "/usr/bin/ping", "/usr/bin/curl", "/usr/bin/socat", "/usr/bin/tcpdump"),
    *("/usr/bin/traceroute", "/usr/bin/ip"),
)
# Busybox's own shell runs its applets before it looks at PATH, and its ping knows no DF bit.
_SHELL: Final = "/usr/bin/dash"
_FILES: Final[Mapping[str, str]] = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
_DIRS: Final = ("bin", "etc", "root", "tmp", "usr", "usr/bin", "usr/sbin", "var", "var/www")
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FORMAT: Final = "3"


def ensure(root: pathlib.Path) -> pathlib.Path:
    """Give the archive made from a root, made first if need be (a second, some 20 MB)."""
    archive = roots.cache_dir() / "images" / f"{root.name}-{_FORMAT}.tar"
    if not archive.exists():
        with roots.locked(archive.with_suffix(".lock")):
            if not archive.exists():
                beside = archive.with_suffix(f".tmp-{os.getpid()}")
                beside.write_bytes(_archive(root))
                beside.rename(archive)
    return archive


def _archive(root: pathlib.Path) -> bytes:
    """Compose docker's image archive (moby image/spec/v1.2.md): layers, configurations, manifest.json."""
    busybox, tools = _busybox_layer(root), _tools_layer(root)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        manifest = [_add_image(tar, BUSYBOX, [busybox]), _add_image(tar, TOOLS, [busybox, tools])]
        for layer in (busybox, tools):
            _add(tar, _layer_name(layer), layer)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return out.getvalue()


def _add_image(tar: tarfile.TarFile, name: str, layers: list[bytes]) -> dict[str, object]:
    configuration = {
        "architecture": command.check(command.run(["dpkg", "--print-architecture"])).out.strip(),
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {"Env": [_PATH], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha(layer)}" for layer in layers]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "flannelpy lab"} for _ in layers],
    }
    text = json.dumps(configuration, sort_keys=True).encode()
    _add(tar, f"{_sha(text)}.json", text)
    return {"Config": f"{_sha(text)}.json", "RepoTags": [name], "Layers": [_layer_name(b) for b in layers]}


def _busybox_layer(root: pathlib.Path) -> bytes:
    program = root / "usr/bin/busybox"
    applets = command.check(command.run([str(program), "--list"])).out.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for directory in _DIRS:
            _add_directory(tar, directory)
        for path, text in _FILES.items():
            _add(tar, path, text.encode())
        _add(tar, "bin/busybox", program.read_bytes(), mode=0o755)
        for applet in sorted(set(applets) - {"busybox"}):
            _add_link(tar, f"bin/{applet}", "busybox")
    return out.getvalue()


def _tools_layer(root: pathlib.Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        _add(tar, "bin/sh", _resolve(root, _SHELL).read_bytes(), mode=0o755)
        for path in sorted({*_PROGRAMS, *_libraries(root, (*_PROGRAMS, _SHELL))}):
            _add(tar, path.lstrip("/"), _resolve(root, path).read_bytes(), mode=0o755)
    return out.getvalue()


def _libraries(root: pathlib.Path, programs: Iterable[str]) -> set[str]:
    """Ask the root's own ldd; its paths are the ones the loader will look at.

    libgcc_s is no program's by ldd, but glibc loads it when iperf3 ends its threads, and aborts without it.
    """
    said = subprocess.run(
        ["chroot", str(root), "ldd", *programs], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    late = {f"/{path.relative_to(root)}" for path in root.glob("usr/lib/*-linux-gnu/libgcc_s.so.1")}
    words = {word for line in said.splitlines() for word in line.split()}
    return late | {word for word in words if word.startswith("/") and ":" not in word}


def _resolve(root: pathlib.Path, path: str) -> pathlib.Path:
    """Follow links as the root would: absolute ones start at the root."""
    real = command.check(command.run(["chroot", str(root), "readlink", "-f", path])).out.strip()
    return root / real.lstrip("/")


def _layer_name(layer: bytes) -> str:
    return f"{_sha(layer)}/layer.tar"


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _add(tar: tarfile.TarFile, name: str, data: bytes, *, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


def _add_directory(tar: tarfile.TarFile, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
    tar.addfile(info)


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
    tar.addfile(info)
