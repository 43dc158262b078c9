"""Which strings may name an under-store object inside a mount: one check for keys from listings and from the wire."""

from __future__ import annotations

from forebay.errors import InvalidRequest

NAME_BYTES_MAX = 255
"""NAME_MAX of every Linux file system we show names through."""

KEY_BYTES_MAX = 4096
"""PATH_MAX; S3 itself stops at 1024."""


def is_file_name(name: str) -> bool:
    """Whether ``name`` can be shown as one name in a directory: not empty, ".", "..", no "/" or NUL, valid UTF-8,
    at most 255 bytes."""
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        return False
    try:
        return len(name.encode()) <= NAME_BYTES_MAX
    except UnicodeEncodeError:
        return False


def check_key(key: str) -> str:
    """``key`` itself, if every segment can be a file name; "" is the root.

    Raises:
        InvalidRequest: an empty, "." or ".." segment, a slash at either end, NUL, not UTF-8, too long.
    """
    if key and not all(is_file_name(segment) for segment in key.split("/")):
        raise InvalidRequest("a key is names joined by '/', without empty, '.' and '..' segments", key=printable(key))
    if len(key.encode()) > KEY_BYTES_MAX:
        raise InvalidRequest(f"a key has at most {KEY_BYTES_MAX} bytes", key=printable(key[:80]))
    return key


def printable(text: str) -> str:
    """``text`` with what a log line or JSON cannot hold (control characters, lone surrogates) escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
