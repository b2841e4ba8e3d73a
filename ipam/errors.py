"""The errors of pools and addresses.

    IpamError                       status 500
    ├── BadRequest                  400: the request can never be granted as it stands
    │   ├── PoolOutsideLease        the subnet is no part of this host's lease
    │   ├── PoolUnusable            the pool or its --ip-range has no address to hand out
    │   └── AddressOutsidePool      not in the pool, or its network or broadcast address
    ├── UnknownPool                 410: no such pool here (404 tells engines that there is no such method)
    ├── PoolTaken                   409: another pool has some or all of these addresses
    ├── LeasesOverlap               409: two flannel networks gave this host the same addresses
    ├── AddressTaken                409: another endpoint, or the gateway, has the address
    └── PoolFull                    503: no address is free now

`status` is the HTTP status that `plugin` answers with. What the state file or the lease refuses comes through as
`overlay.errors.OverlayError`.
"""

from __future__ import annotations

from typing import ClassVar


class IpamError(Exception):
    """Base of every error this package raises on purpose."""

    status: ClassVar[int] = 500


class BadRequest(IpamError):
    """The request can never be granted as it stands; the message says what was expected."""

    status = 400


class PoolOutsideLease(BadRequest):
    """The subnet asked for is no part of this host's lease."""


class PoolUnusable(BadRequest):
    """The pool, or the range in it, has no address to hand out."""


class AddressOutsidePool(BadRequest):
    """The address is not in the pool, or is its network or broadcast address."""


class UnknownPool(IpamError):
    """There is no such pool here."""

    status = 410


class PoolTaken(IpamError):
    """Another pool has some or all of these addresses; the message says which and what is free."""

    status = 409


class LeasesOverlap(IpamError):
    """Two flannel networks gave this host overlapping subnets."""

    status = 409


class AddressTaken(IpamError):
    """The address asked for is in use."""

    status = 409


class PoolFull(IpamError):
    """Every address of the pool is in use; the message names pool, lease, used and total."""

    status = 503
