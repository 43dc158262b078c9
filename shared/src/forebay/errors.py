"""The one tree of errors: whose fault it is, whether trying again helps, and how it looks on the wire.

A class says *who* (caller, peer, under store, ourselves); ``code`` is the machine-readable name that travels in
``ErrorReply``; ``details`` carries data, never sentences. Foreign errors are translated where they enter.
"""

from __future__ import annotations

from typing import ClassVar

Detail = str | int | float | bool | None


class ForebayError(Exception):
    """Base of everything this product raises on purpose.

    Attributes: ``code`` (wire name), ``status`` (HTTP status that carries it), ``retryable`` (the same request may
    succeed later or elsewhere), ``message`` (one sentence that says what to do), ``details`` (data).
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Detail) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Detail] = details


class CallerError(ForebayError):
    """The request was wrong; repeating it unchanged cannot help."""

    code = "bad_request"
    status = 400


class InvalidRequest(CallerError):
    """A body, query or header that has the wrong shape or an impossible value."""

    code = "invalid_request"


class UnsupportedWireVersion(CallerError):
    """The peer speaks another wire version; ``details`` name both."""

    code = "unsupported_wire_version"


class Unauthenticated(CallerError):
    """A ticket or admin token is missing, forged or expired."""

    code = "unauthenticated"
    status = 401


class PermissionDenied(CallerError):
    """The right is valid but does not reach this far (prefix, allowed roots, read-only)."""

    code = "permission_denied"
    status = 403


class TicketForged(Unauthenticated):
    """The ticket's signature is not that of its key."""

    code = "ticket_forged"


class TicketExpired(Unauthenticated):
    """The ticket's time is over, its leeway and any grace included; a master gives a new one."""

    code = "ticket_expired"


class TicketOutOfPrefix(PermissionDenied):
    """The ticket is good, and what was asked for is not below its prefix."""

    code = "ticket_out_of_prefix"


class TicketWrongCluster(PermissionDenied):
    """The ticket is genuine, and of another cluster."""

    code = "ticket_wrong_cluster"


class NotFound(CallerError):
    """No such path, mount, member or under-store key."""

    code = "not_found"
    status = 404


class Conflict(CallerError):
    """The change contradicts what is there (a mount path that is taken, a lost compare-and-set)."""

    code = "conflict"
    status = 409


class StaleVersion(CallerError):
    """The under store no longer holds the version asked for; only a new lookup sees the new one."""

    code = "stale_version"
    status = 412


class TooLarge(CallerError):
    """A body or a batch above the named limit."""

    code = "too_large"
    status = 413


class RangeNotSatisfiable(CallerError):
    """A byte range outside the block or file."""

    code = "range_not_satisfiable"
    status = 416


class NotCached(CallerError):
    """Answer to ``Cache-Control: only-if-cached`` when the extents are not here (RFC 9111, section 5.2.1.7)."""

    code = "not_cached"
    status = 504


class PeerError(ForebayError):
    """Another member failed us; another one, or the same one later, may not."""

    code = "peer_error"
    status = 502
    retryable = True


class PeerUnavailable(PeerError):
    """No connection, or it broke before the reply was complete."""

    code = "peer_unavailable"
    status = 503


class PeerMisbehaved(PeerError):
    """The peer answered something that is not the protocol (frames, JSON, lengths, checksums)."""

    code = "peer_misbehaved"


class DeadlineExceeded(ForebayError):
    """Time ran out; what was asked may or may not have happened."""

    code = "deadline_exceeded"
    status = 504
    retryable = True


class Overloaded(ForebayError):
    """A named limit is reached; try again later or elsewhere."""

    code = "overloaded"
    status = 503
    retryable = True


class NotReady(ForebayError):
    """The service is starting or draining."""

    code = "not_ready"
    status = 503
    retryable = True


class NotLeader(ForebayError):
    """A change came to a master that does not lead; ``details["leader"]`` is the leader's address where it is known."""

    code = "not_leader"
    status = 421
    retryable = True


class UfsError(ForebayError):
    """The under store failed."""

    code = "ufs_error"
    status = 502


class UfsUnavailable(UfsError):
    """The under store did not answer, throttled, or failed on its side."""

    code = "ufs_unavailable"
    retryable = True


class UfsDenied(UfsError):
    """The under store refused our credentials for this key or listing."""

    code = "ufs_denied"


class InternalError(ForebayError):
    """A bug of ours."""


class ConfigError(ForebayError):
    """A setting that cannot work, found at start. ``setting`` names it as the user wrote it."""

    code = "config"

    def __init__(self, setting: str, message: str, **details: Detail) -> None:
        super().__init__(message, **details)
        self.setting = setting

    def __str__(self) -> str:
        return f"{self.setting}: {self.message}"


def _subclasses(cls: type[ForebayError]) -> list[type[ForebayError]]:
    return [cls, *(s for sub in cls.__subclasses__() for s in _subclasses(sub))]


WIRE_ERRORS: dict[str, type[ForebayError]] = {
    cls.code: cls for cls in _subclasses(ForebayError) if cls is not ConfigError
} | {"internal": InternalError}
"""Error class by wire code. A code this build does not know is raised as ``PeerMisbehaved``."""
