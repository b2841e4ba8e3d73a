"""The errors of the network driver.

    DriverError                 status 500
    ├── BadRequest              400: the request breaks the API, or asks for what cannot be
    ├── WrongIpam               400: the network does not take its addresses from this plugin
    ├── UnknownNetwork          410
    ├── UnknownEndpoint         410
    ├── Conflict                409: the id, or a name made from it, is taken by something else
    ├── PortTaken               409: a port of the host is in use, or is no port of this host
    └── EngineError             the Engine API did not answer, or refused; background work only

`status` is the HTTP status that `plugin` answers with. Never 404: engines take it for a method that is not there, and
go on (moby pkg/plugins, IsNotFound).
"""

from __future__ import annotations

from typing import ClassVar


class DriverError(Exception):
    """Base of every error this package raises on purpose."""

    status: ClassVar[int] = 500


class BadRequest(DriverError):
    """The request breaks the API, or asks for what cannot be; the message says what was expected."""

    status = 400


class WrongIpam(DriverError):
    """The network does not take its addresses from this plugin; the message has the command that does."""

    status = 400


class UnknownNetwork(DriverError):
    """No network of this id is known here."""

    status = 410


class UnknownEndpoint(DriverError):
    """No endpoint of this id is known here."""

    status = 410


class Conflict(DriverError):
    """The id, or a name made from it, is taken by something else."""

    status = 409


class PortTaken(DriverError):
    """A port of the host is in use, or is no port of this host."""

    status = 409


class OutOfDescriptors(DriverError):
    """This process, or the host, has too few descriptors or too little memory for one more reserved port."""

    status = 503


class EngineError(DriverError):
    """The Engine API did not answer, or refused. Raised in the background only."""
