"""Elements of sets of nftables, put in and taken out by netlink: what changes with every container runs no program.

Used by `guard_exec`. One transaction for all, as of `nft -f`; sets must be there. Messages alone: what the elements
mean is `guard`'s. Each call sees the network namespace of its thread.
Source: linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h, net/netfilter/nf_tables_api.c.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping, Sequence

from overlay import errors, faults, nft_events, rtnl

Sets = Mapping[str, Sequence[bytes]]
"""Keys of elements by the name of their set."""

NFPROTO_BRIDGE = 7
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEWSETELEM, _DELSETELEM = 12, 14
_TABLE, _SET, _ELEMENTS = 1, 2, 3
_LIST_ELEM, _KEY, _VALUE = 1, 1, 1
_NESTED = 0x8000
_NLM_F_ACK, _NLMSG_ERROR = 4, 2
_ANSWER_S = 2.0
_MOST = 500
"""Elements in one message: an attribute's length has 16 bits."""

_NFGENMSG = struct.Struct(">BBH")
_ERROR = struct.Struct("=i")


def change(table: str, *, remove: Sets, add: Sets) -> None:
    """Take elements out of sets of a table of family bridge, and put others in. Raises KernelError; then none is."""
    todo = [(_DELSETELEM, 0, name, keys) for name, keys in remove.items()]
    todo += [(_NEWSETELEM, rtnl.NLM_F_CREATE, name, keys) for name, keys in add.items()]
    changes = [
        (kind, flags, name, keys[at : at + _MOST])
        for kind, flags, name, keys in todo
        for at in range(0, len(keys), _MOST)
    ]
    messages = [
        _pack(kind, flags, number, table, name, keys) for number, (kind, flags, name, keys) in enumerate(changes, 1)
    ]
    faults.reached("firewall.write.before")
    try:
        _send(messages)
    except OSError as exc:
        raise errors.KernelError([f"nftables: elements of {table} not changed: {exc.strerror or exc}"]) from exc
    faults.reached("firewall.write.after")


def _send(messages: Sequence[bytes]) -> None:
    with nft_events.open_socket() as sock:
        sock.settimeout(_ANSWER_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.send(_batch(_BATCH_BEGIN, 0) + b"".join(messages) + _batch(_BATCH_END, len(messages) + 1))
        left = len(messages)
        while left:
            data = sock.recv(nft_events.DATAGRAM)
            for kind, _, _, at, _ in rtnl.parse_messages(data):
                if kind == _NLMSG_ERROR:
                    code = -_ERROR.unpack_from(data, at)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    left -= 1


def _pack(kind: int, flags: int, sequence: int, table: str, name: str, keys: Sequence[bytes]) -> bytes:
    elements = b"".join(_nested(_LIST_ELEM, _nested(_KEY, rtnl.pack_attribute(_VALUE, key))) for key in keys)
    body = (
        _NFGENMSG.pack(NFPROTO_BRIDGE, 0, 0)
        + rtnl.pack_attribute(_TABLE, table.encode() + b"\0")
        + rtnl.pack_attribute(_SET, name.encode() + b"\0")
        + _nested(_ELEMENTS, elements)
    )
    return rtnl.pack_message(
        nft_events.NFNL_SUBSYS_NFTABLES << 8 | kind, rtnl.NLM_F_REQUEST | _NLM_F_ACK | flags, sequence, body
    )


def _batch(kind: int, sequence: int) -> bytes:
    body = _NFGENMSG.pack(socket.AF_UNSPEC, 0, nft_events.NFNL_SUBSYS_NFTABLES)
    return rtnl.pack_message(kind, rtnl.NLM_F_REQUEST, sequence, body)


def _nested(kind: int, body: bytes) -> bytes:
    return rtnl.pack_attribute(kind | _NESTED, body)
