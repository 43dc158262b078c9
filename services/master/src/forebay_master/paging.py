"""Page tokens: where a listing goes on. Opaque to clients, bound to the directory and to the sync it began with. Pure.

Form: base64url of a version byte, 8 bytes that name the directory, the first page's ``synced_at_s`` (a double), and the
last name given. They carry no right, so they are not signed: a forged one lists the same directory from another name.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from dataclasses import dataclass
from hashlib import blake2b

from forebay.contracts import Mount
from forebay.errors import InvalidRequest
from forebay.ufs import is_file_name

_HEAD = struct.Struct(">B8sd")
_VERSION = 1


@dataclass(frozen=True)
class Cursor:
    """``after`` is the last name that was given; ``begun_with_s`` the first page's ``synced_at_s``."""

    begun_with_s: float
    after: str


def directory_tag(path: str, mount: Mount | None) -> bytes:
    """8 bytes that name the directory ``path`` as long as the same thing is mounted there."""
    source = f"{mount.mount_id} {mount.generation}" if mount else ""
    return blake2b(f"{source}\0{path}".encode(), digest_size=8, person=b"fb-page").digest()


def make_token(tag: bytes, cursor: Cursor) -> str:
    """The token that goes on at ``cursor`` in the directory that ``tag`` names."""
    return base64.urlsafe_b64encode(_HEAD.pack(_VERSION, tag, cursor.begun_with_s) + cursor.after.encode()).decode()


def parse_token(tag: bytes, token: str | None) -> Cursor | None:
    """Where to go on; ``None`` at the beginning.

    Raises:
        InvalidRequest: not a token of ours, or of another directory (``details["reason"]``).
    """
    if token is None:
        return None
    try:
        data = base64.b64decode(token, altchars=b"-_", validate=True)
        version, directory, begun_with_s = _HEAD.unpack_from(data)
        after = data[_HEAD.size :].decode()
    except (binascii.Error, struct.error, ValueError) as e:
        raise InvalidRequest("the page token is malformed", reason="malformed_token") from e
    if version != _VERSION or not math.isfinite(begun_with_s) or not is_file_name(after):
        raise InvalidRequest("the page token is malformed", reason="malformed_token")
    if directory != tag:
        raise InvalidRequest(
            "the page token is of another directory; list from its beginning", reason="other_directory"
        )
    return Cursor(begun_with_s, after)
