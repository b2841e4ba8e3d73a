"""What etcd and gRPC say when they refuse, turned into our errors: the one place where that is decided.

Pure: reads the status by its name, so that only `etcd_channel` needs gRPC. etcd3 hides the reason behind exceptions
without a text; it is still in their `__context__`.
Source: etcd api/v3rpc/rpctypes/error.go, grpc doc/statuscodes.md.
"""

from __future__ import annotations

import dataclasses

from overlay import errors

_LOGIN_WANTED = ("user name is empty", "invalid auth token", "revision of auth store is old")
_DENIED_CODES = ("UNAUTHENTICATED", "PERMISSION_DENIED")
_DENIED_WORDS = ("authentication failed", "permission denied", *_LOGIN_WANTED)
_TLS_WORDS = ("CERTIFICATE_VERIFY_FAILED", "handshake failed", "SSL_ERROR", "certificate")
_OUR_CERTIFICATE = "TSI_DATA_CORRUPTED"  # how gRPC shows the alert that a server sends after its own handshake
_LONGEST = 300


class Compacted(errors.RegistryError):
    """The history that a watch asked for is no longer kept: list again. Never leaves `registry_etcd`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed call: the status' name ("" where there was none) and the words that came with it."""

    code: str
    details: str

    @property
    def asks_for_login(self) -> bool:
        """A new token may help."""
        return self.code == "UNAUTHENTICATED" or any(words in self.details for words in _LOGIN_WANTED)

    @property
    def needs_no_login(self) -> bool:
        """The answer to a log-in where etcd has authentication switched off."""
        return "authentication is not enabled" in self.details

    @property
    def unanswered(self) -> bool:
        """Nobody said no: the same call may work on another member, or here when an election is over."""
        return self.code in ("UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED")

    @property
    def stuck(self) -> bool:
        """The member is there but answers nothing, or says that it is cut off: another one may be fine."""
        return self.code == "DEADLINE_EXCEEDED" or (self.code == "UNAVAILABLE" and "etcdserver" in self.details)

    def as_error(self, what: str, where: str) -> errors.RegistryError:
        """The error to raise for `what` ("read /key") at `where` (the endpoints)."""
        text = f"etcd at {where}: cannot {what}: {self.details[:_LONGEST] or self.code}"
        if "requested lease not found" in self.details:
            return errors.LeaseLost(text)
        if self.code in _DENIED_CODES or any(words in self.details for words in _DENIED_WORDS):
            return errors.RegistryDenied(text)
        if _OUR_CERTIFICATE in self.details:
            return errors.RegistryDenied(f"{text}: etcd refused our client certificate, or wants one")
        if self.code == "UNAVAILABLE" and any(words in self.details for words in _TLS_WORDS):
            return errors.RegistryDenied(text)
        return errors.RegistryUnavailable(text)


def read_failure(exc: BaseException) -> Failure:
    """Where `exc` or what it came from has a gRPC status, that; its own text otherwise.

    gRPC says by a ValueError that the channel was closed meanwhile; any other ValueError is a bug, and raised again.
    """
    if isinstance(exc, ValueError):
        if "closed channel" not in str(exc):
            raise exc
        return Failure(code="CANCELLED", details="the channel was closed")
    seen: BaseException | None = exc
    while seen is not None:
        code, details = getattr(seen, "code", None), getattr(seen, "details", None)
        if callable(code) and callable(details):
            return Failure(code=getattr(code(), "name", ""), details=str(details() or ""))
        seen = seen.__context__
    return Failure(code="", details=str(exc) or type(exc).__name__)
