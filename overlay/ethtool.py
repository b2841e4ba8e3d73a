"""The device feature tx-checksum-ip-generic: who finishes the checksums of what a device sends.

On, the kernel leaves them to whatever hardware is below; off, it computes them itself. Used by `kernel_netlink` and
`link_writer`; acts on the network namespace of the calling thread. An ioctl, since all kernels since 2.6 have it.
Source: linux/ethtool.h; net/ethtool/ioctl.c (ETHTOOL_STXCSUM sets every checksum feature that the device can change,
and a VXLAN device has this one).
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

from overlay import netstate

SIOCETHTOOL = 0x8946
GET_TX_CHECKSUM, SET_TX_CHECKSUM = 0x16, 0x17


def read_tx_checksum(name: netstate.IfName) -> bool:
    """Whether the feature is on. Raises OSError."""
    return bool(_call(name, GET_TX_CHECKSUM))


def write_tx_checksum(name: netstate.IfName, on: bool) -> None:
    """Switch the feature; the link stays up. Raises OSError."""
    _call(name, SET_TX_CHECKSUM, int(on))


def _call(name: netstate.IfName, command: int, data: int = 0) -> int:
    """One struct ethtool_value there and back, by way of a struct ifreq. Source: netdevice(7)."""
    value = array.array("I", (command, data))
    address, _ = value.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))
    return value[1]
