"""What a vxlan node publishes of its device: BackendData and BackendV6Data, which have one form.

Pure. Used by `backend_vxlan`. Source: flannel pkg/backend/vxlan/vxlan.go (vxlanLeaseAttrs), Go net.ParseMAC.
"""

from __future__ import annotations

import dataclasses
import json
import re

from overlay import backend_options, errors, fields, netstate, parse_cache

_MAC_SHAPES = re.compile(r"[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}|(?:[0-9a-f]{4}\.){2}[0-9a-f]{4}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VxlanData:
    """The device's network and MAC. `vni` is None where the peer wrote none."""

    vni: int | None
    mac: netstate.Mac


def parse_vxlan_data(text: str, name: str = "BackendData") -> VxlanData:
    """The data in `text`, which the lease holds under `name`. Raises CodecError."""
    try:
        return _parse(text)
    except fields.FieldError as exc:
        raise errors.CodecError(f"{name}: {exc}") from exc


def format_vxlan_data(data: VxlanData) -> str:
    """The data as flannel writes it: compact, VNI first."""
    return json.dumps({"VNI": data.vni or 0, "VtepMAC": data.mac}, separators=(",", ":"))


@parse_cache.remember
def _parse(text: str) -> VxlanData:
    options = backend_options.Options(fields.parse_object(text))
    vni = options.number("VNI", default=0, low=0, high=2**32 - 1) if options.has("VNI") else None
    mac = options.text("VtepMAC")
    if f'"{mac}"' not in text:
        raise fields.FieldError(
            f"VtepMAC: expected no escapes, which flannel does not undo in a MAC, got {mac[:40]!r}"
        )
    return VxlanData(vni=vni, mac=_parse_mac(mac))


def _parse_mac(text: str) -> netstate.Mac:
    """The three notations that Go's net.ParseMAC takes for six bytes; no device here has an address of more."""
    lower = text.lower()
    if not _MAC_SHAPES.fullmatch(lower):
        raise fields.FieldError(f"VtepMAC: expected six bytes such as c6:d2:32:6f:8f:44, got {text[:40]!r}")
    digits = re.sub(r"[:.-]", "", lower)
    if int(digits[:2], 16) & 1 or not int(digits, 16):
        raise fields.FieldError(f"VtepMAC: {text} is no unicast address")
    return netstate.Mac(":".join(digits[at : at + 2] for at in range(0, 12, 2)))
