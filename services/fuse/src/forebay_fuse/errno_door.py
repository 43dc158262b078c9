"""The one door from errors to what a program sees in errno.

EAGAIN is not behind it: on a blocking descriptor programs take it for the end of what can be read (Python's
``FileIO.readall`` returns what it has), and a file would silently be cut short. A limit that is reached is EBUSY.
"""

from __future__ import annotations

import errno

from forebay.errors import (
    CallerError,
    DeadlineExceeded,
    ForebayError,
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    PermissionDenied,
    RangeNotSatisfiable,
    StaleVersion,
    UfsDenied,
    Unauthenticated,
)


class Refused(CallerError):
    """The request gets this errno; the gateway's own answer to what the kernel or a program asked."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message, errno=errno.errorcode.get(number))
        self.errno = number


_ERRNO: tuple[tuple[type[ForebayError], int], ...] = (
    (NotFound, errno.ENOENT),
    (StaleVersion, errno.ESTALE),
    (PermissionDenied, errno.EACCES),
    (Unauthenticated, errno.EACCES),
    (UfsDenied, errno.EACCES),
    (DeadlineExceeded, errno.ETIMEDOUT),
    (Overloaded, errno.EBUSY),
    (NotReady, errno.EBUSY),
    (RangeNotSatisfiable, errno.EINVAL),
    (InvalidRequest, errno.EINVAL),
)


def errno_of(error: BaseException) -> int:
    """The errno of an error; EIO for what nobody expected, an operating system's error of our own included."""
    if isinstance(error, Refused):
        return error.errno
    return next((number for kind, number in _ERRNO if isinstance(error, kind)), errno.EIO)
