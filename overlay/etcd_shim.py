"""Makes etcd3 0.12.0 importable with today's protobuf.

etcd3's generated messages were written by protoc 3 and fail at import with any protobuf of the last years. The
message definitions in them are sound, though: each file holds its descriptor as a serialized literal. `install`
builds the same modules from those literals, before etcd3 looks for them. Nothing is vendored, no .proto is needed.
Called by `etcd_channel` right before it imports etcd3; knows protobuf, neither etcd3 nor grpc.
Source: google.protobuf.internal.builder is what every generated file since 3.20 imports.
"""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import re
import sys
import types

NAMES = ("kv_pb2", "auth_pb2", "rpc_pb2")
"""The generated modules, each after those that it imports."""

_PACKAGE = "etcd3.etcdrpc"
_LITERAL = re.compile(r"serialized_pb=_b\(('(?:[^'\\]|\\.)*')\)")


def extract_descriptor(source: str) -> bytes:
    """The serialized FileDescriptorProto in the source of a generated module. Raises ImportError."""
    found = _LITERAL.search(source)
    if found is None:
        raise ImportError("no serialized descriptor in etcd3's generated source: is this etcd3 0.12.0?")
    literal: str = ast.literal_eval(found[1])
    return literal.encode("latin1")


def install() -> None:
    """Put working message modules where etcd3 will look. Twice is safe. Raises ImportError without etcd3."""
    if all(f"{_PACKAGE}.{name}" in sys.modules for name in NAMES):
        return
    from google.protobuf import descriptor_pool

    folder = _find_folder()
    pool = descriptor_pool.DescriptorPool()  # a pool of our own: "rpc.proto" is a name that others have, too
    for name in NAMES:
        serialized = extract_descriptor((folder / f"{name}.py").read_text(encoding="utf-8"))
        sys.modules[f"{_PACKAGE}.{name}"] = _build_module(pool, name, serialized)


def _find_folder() -> pathlib.Path:
    spec = importlib.util.find_spec("etcd3")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("etcd3 is not installed")
    return pathlib.Path(spec.submodule_search_locations[0]) / "etcdrpc"


def _build_module(pool: object, name: str, serialized: bytes) -> types.ModuleType:
    from google.protobuf.internal import builder

    module = types.ModuleType(f"{_PACKAGE}.{name}")
    descriptor = pool.AddSerializedFile(serialized)  # type: ignore[attr-defined]  # the stubs leave it out
    builder.BuildMessageAndEnumDescriptors(descriptor, module.__dict__)
    builder.BuildTopDescriptorsAndMessages(descriptor, module.__name__, module.__dict__)
    module.__dict__["DESCRIPTOR"] = descriptor
    return module
