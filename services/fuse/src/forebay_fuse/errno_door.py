"""The one door from our errors to what a program sees in errno."""

from __future__ import annotations

import errno

from forebay.errors import (
    DeadlineExceeded,
    ForebayError,
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    PermissionDenied,
    RangeNotSatisfiable,
    StaleVersion,
    TooLarge,
    UfsDenied,
    Unauthenticated,
)

_ERRNO: tuple[tuple[type[ForebayError], int], ...] = (
    (NotFound, errno.ENOENT),
    (StaleVersion, errno.ESTALE),
    (PermissionDenied, errno.EACCES),
    (Unauthenticated, errno.EACCES),
    (UfsDenied, errno.EACCES),
    (DeadlineExceeded, errno.ETIMEDOUT),
    (Overloaded, errno.EAGAIN),
    (NotReady, errno.EAGAIN),
    (TooLarge, errno.ENAMETOOLONG),
    (RangeNotSatisfiable, errno.EINVAL),
    (InvalidRequest, errno.EINVAL),
)


def errno_of(error: BaseException) -> int:
    """The errno of an error; EIO for what nobody expected."""
    return next((number for kind, number in _ERRNO if isinstance(error, kind)), errno.EIO)
