"""The one door from our errors to those that users of file systems expect."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from forebay.errors import (
    DeadlineExceeded,
    ForebayError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    StaleVersion,
    UfsDenied,
    Unauthenticated,
)

_ERRNO: tuple[tuple[type[ForebayError], int], ...] = (
    (NotFound, errno.ENOENT),
    (PermissionDenied, errno.EACCES),
    (Unauthenticated, errno.EACCES),
    (UfsDenied, errno.EACCES),
    (StaleVersion, errno.ESTALE),
    (DeadlineExceeded, errno.ETIMEDOUT),
    (InvalidRequest, errno.EINVAL),
)


def os_error(error: ForebayError, path: str) -> OSError:
    """The error as an ``OSError`` of the right kind (``FileNotFoundError``, ``PermissionError``, …)."""
    number = next((number for kind, number in _ERRNO if isinstance(error, kind)), errno.EIO)
    said = os.strerror(errno.ENOENT) if number == errno.ENOENT else error.message
    return OSError(number, said, path)


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Our errors inside leave as ``OSError``."""
    try:
        yield
    except ForebayError as e:
        raise os_error(e, path) from e
