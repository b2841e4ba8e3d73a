"""`IpamDriver.*`: the engine's words in and out.

Decodes strictly, since nothing but dockerd should call, and tolerantly of null and of fields newer engines add.
`plugin.http` reads the bodies and turns errors into statuses. Releasing what is unknown is success: the engine
forgets it whatever we say. Source: moby daemon/libnetwork/ipams/remote/api/api.go, daemon/libnetwork/docs/ipam.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ipam import errors, pool, requests, service
from overlay import fields, netstate

Answer = dict[str, Any]
Method = Callable[[fields.JsonObject], Answer]

ADDRESS_SPACE = "flannelpy"
OPTION_OWN = "flannelpy."
OPTION_PREFIX = "flannelpy.prefix"
OPTION_PURPOSE = "RequestAddressType"
PURPOSE_GATEWAY = "com.docker.network.gateway"
OPTION_NAME = "com.docker.network.endpoint.name"
OPTION_MAC = "com.docker.network.endpoint.macaddress"
PREFIX_LIMIT = 255
HOLDER_LIMIT = 255
"""Characters of a container's name: one with a longer name gets no address back."""


def constants(*, sticky_mac: bool) -> Mapping[str, Answer]:
    """What is answered without a look at the body, before anything else of the plugin is up.

    `sticky_mac`: have the engine make MACs and tell them, so that addresses can follow them.
    """
    return {
        # no replay: rows outlive us, and an address of a running container would look like a second request for it
        "IpamDriver.GetCapabilities": {"RequiresMACAddress": sticky_mac, "RequiresRequestReplay": False},
        # both the same: engines from 27 on then do not compare our pool with the host's routes and ask for ever
        "IpamDriver.GetDefaultAddressSpaces": {
            "LocalDefaultAddressSpace": ADDRESS_SPACE,
            "GlobalDefaultAddressSpace": ADDRESS_SPACE,
        },
    }


def methods(ipam: service.Ipam) -> Mapping[str, Method]:
    """The methods that need an Ipam, by their name on the wire."""
    table: dict[str, Callable[[service.Ipam, fields.JsonObject], Answer]] = {
        "IpamDriver.RequestPool": _request_pool,
        "IpamDriver.ReleasePool": _release_pool,
        "IpamDriver.RequestAddress": _request_address,
        "IpamDriver.ReleaseAddress": _release_address,
    }
    return {name: functools.partial(_call, method, ipam) for name, method in table.items()}


def parse_prefix(options: Mapping[str, str]) -> str | None:
    """The flannel network that a network's IPAM options name; None: the default one.

    Options of others are ignored, as Docker's own IPAM does: one compose file may serve several drivers. An unknown
    one of ours is an error, since a typo would silently put the network into the wrong flannel network.
    Raises BadRequest.
    """
    unknown = sorted(key for key in options if key.startswith(OPTION_OWN) and key != OPTION_PREFIX)
    if unknown:
        raise errors.BadRequest(f"--ipam-opt {unknown[0]}: no such option; known are: {OPTION_PREFIX}=/etcd/prefix")
    if OPTION_PREFIX not in options:
        return None
    prefix = options[OPTION_PREFIX]
    normal = prefix.rstrip("/")
    parts = normal.split("/")
    if (
        parts[0] != ""  # no slash in front
        or len(parts) < 2
        or any(part in ("", ".", "..") for part in parts[1:])
        or len(normal) > PREFIX_LIMIT
        or not normal.isascii()
        or not normal.isprintable()
        or " " in normal
    ):
        raise errors.BadRequest(
            f"--ipam-opt {OPTION_PREFIX}={prefix[:80]!r}: expected the etcd prefix of a flannel network, such as "
            f"/blue/network (at most {PREFIX_LIMIT} ASCII characters, no blanks, no empty or .. parts)"
        )
    return normal


def _call(
    method: Callable[[service.Ipam, fields.JsonObject], Answer], ipam: service.Ipam, body: fields.JsonObject
) -> Answer:
    try:
        return method(ipam, body)
    except fields.FieldError as exc:
        raise errors.BadRequest(str(exc)) from exc


def _request_pool(ipam: service.Ipam, body: fields.JsonObject) -> Answer:
    space = fields.text(body, "AddressSpace", ADDRESS_SPACE)
    if space not in ("", ADDRESS_SPACE):
        raise errors.BadRequest(f"AddressSpace: expected {ADDRESS_SPACE!r}, got {space!r}")
    cidr, subpool = fields.text(body, "Pool", ""), fields.text(body, "SubPool", "")
    is_v6 = fields.flag(body, "V6", default=False)
    parse = fields.ipv6_network if is_v6 else fields.ipv4_network
    granted = ipam.request_pool(
        requests.PoolRequest(
            prefix=parse_prefix(_options(body)),
            version=6 if is_v6 else 4,
            cidr=parse(cidr, "Pool (--subnet)") if cidr else None,
            subpool=parse(subpool, "SubPool (--ip-range)") if subpool else None,
        )
    )
    return {"PoolID": granted.id, "Pool": str(granted.cidr), "Data": {}}


def _release_pool(ipam: service.Ipam, body: fields.JsonObject) -> Answer:
    ipam.release_pool(fields.text(body, "PoolID"))
    return {}


def _request_address(ipam: service.Ipam, body: fields.JsonObject) -> Answer:
    address, options = fields.text(body, "Address", ""), _options(body)
    granted = ipam.request_address(
        requests.AddressRequest(
            pool_id=fields.text(body, "PoolID"),
            ip=_address(address) if address else None,
            purpose=_purpose(options),
            holder=pool.Holder(name=_mark(options, OPTION_NAME), mac=_mark(options, OPTION_MAC).lower()),
        )
    )
    return {"Address": str(granted), "Data": {}}


def _release_address(ipam: service.Ipam, body: fields.JsonObject) -> Answer:
    ipam.release_address(fields.text(body, "PoolID"), _address(fields.text(body, "Address")))
    return {}


def _address(text: str) -> netstate.IPAddress:
    return fields.address(text, "Address")


def _options(body: fields.JsonObject) -> dict[str, str]:
    options = fields.mapping(body, "Options")
    return {key: fields.text(options, key, "") for key in options}


def _purpose(options: Mapping[str, str]) -> requests.Purpose:
    if options.get(OPTION_PURPOSE) == PURPOSE_GATEWAY:
        return requests.Purpose.GATEWAY
    if OPTION_NAME in options or OPTION_MAC in options:
        return requests.Purpose.ENDPOINT
    return requests.Purpose.UNSAID


def _mark(options: Mapping[str, str], key: str) -> str:
    """What a holder is known by. Docker's names are plain ASCII; of anything else nothing is kept."""
    text = options.get(key, "")
    return text if len(text) <= HOLDER_LIMIT and text.isascii() and text.isprintable() else ""
