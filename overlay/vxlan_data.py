"""What a vxlan node publishes of its device: BackendData and BackendV6Data, which have one form.

Pure. Used by `backend_vxlan`. Source: flannel pkg/backend/vxlan/vxlan.go (vxlanLeaseAttrs), Go net.ParseMAC.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re

from overlay import backend_options, errors, fields, lease, netstate

_MAC_DIGITS = re.compile(r"[0-9a-f]{12}")
_MAC_SHAPES = re.compile(r"([0-9a-f]{2}[:-]){5}[0-9a-f]{2}|([0-9a-f]{4}\.){2}[0-9a-f]{4}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VxlanData:
    """The device's network and MAC. `vni` is None where the peer wrote none."""

    vni: int | None
    mac: netstate.Mac


@functools.lru_cache(maxsize=lease.PARSED)
def parse_vxlan_data(text: str, name: str = "BackendData") -> VxlanData:
    """The data in `text`, which the lease holds under `name`. Raises CodecError."""
    try:
        options = backend_options.Options(fields.parse_object(text))
        vni = options.number("VNI", default=0, low=0, high=2**32 - 1) if options.has("VNI") else None
        return VxlanData(vni=vni, mac=_parse_mac(options.text("VtepMAC")))
    except fields.FieldError as exc:
        raise errors.CodecError(f"{name}: {exc}") from exc


def format_vxlan_data(data: VxlanData) -> str:
    """The data as flannel writes it: compact, VNI first."""
    return json.dumps({"VNI": data.vni or 0, "VtepMAC": data.mac}, separators=(",", ":"))


def _parse_mac(text: str) -> netstate.Mac:
    """The three notations that Go's net.ParseMAC takes for six bytes."""
    lower = text.lower()
    digits = re.sub(r"[:.-]", "", lower)
    if not _MAC_SHAPES.fullmatch(lower) or not _MAC_DIGITS.fullmatch(digits):
        raise fields.FieldError(f"VtepMAC: expected six bytes such as c6:d2:32:6f:8f:44, got {text[:40]!r}")
    if int(digits[:2], 16) & 1 or not int(digits, 16):
        raise fields.FieldError(f"VtepMAC: {text} is no unicast address")
    return netstate.Mac(":".join(digits[at : at + 2] for at in range(0, 12, 2)))
