"""Where a walk over directories goes on: pre-order over the listings in the store, and the token that says where. Pure,
but for reading the store.

Directories that mounts put in the way are not entered: they are of another mount.
"""

from __future__ import annotations

import base64
import binascii
import math
import sqlite3
import struct
from dataclasses import dataclass

from forebay.contracts import Mount
from forebay.errors import InvalidRequest
from forebay.ufs import check_key, is_file_name
from forebay_master import listings
from forebay_master.listings import DirectoryName

_HEAD = struct.Struct(">B8sd")
_VERSION = 2


@dataclass(frozen=True)
class Spot:
    """``directory`` (a key below the mount) is being listed: behind the name ``after``, with the sync it began with
    if that is not ""."""

    directory: str
    after: str = ""
    begun_with_s: float = 0.0


def make_token(tag: bytes, spot: Spot) -> str:
    """The token that goes on at ``spot`` in the tree that ``tag`` names."""
    text = f"{spot.directory}\0{spot.after}".encode()
    return base64.urlsafe_b64encode(_HEAD.pack(_VERSION, tag, spot.begun_with_s) + text).decode()


def parse_token(tag: bytes, token: str) -> Spot:
    """Where to go on.

    Raises:
        InvalidRequest: not a token of ours, or of another directory (``details["reason"]``).
    """
    try:
        data = base64.b64decode(token, altchars=b"-_", validate=True)
        version, tree, begun_with_s = _HEAD.unpack_from(data)
        directory, separator, after = data[_HEAD.size :].decode().partition("\0")
    except (binascii.Error, struct.error, ValueError) as e:
        raise InvalidRequest("the page token is malformed", reason="malformed_token") from e
    if version != _VERSION or not math.isfinite(begun_with_s) or not separator or (after and not is_file_name(after)):
        raise InvalidRequest("the page token is malformed", reason="malformed_token")
    if tree != tag:
        raise InvalidRequest("the page token is of another directory; begin anew", reason="other_directory")
    return Spot(check_key(directory), after, begun_with_s)


@dataclass(frozen=True)
class Walk:
    """The directories of a mount at and below ``root`` (a key), at most ``depth`` levels below it, without the
    ``hidden`` ones."""

    mount: Mount
    root: str
    depth: int
    hidden: frozenset[str] = frozenset()

    def level(self, directory: str) -> int:
        """How far below the root."""
        return len(self._parts(directory))

    def contains(self, directory: str) -> bool:
        """Whether the walk comes by ``directory``."""
        is_below = directory == self.root or not self.root or directory.startswith(f"{self.root}/")
        return is_below and self.level(directory) <= self.depth

    def following(self, db: sqlite3.Connection, directory: str, *, enter: bool = True) -> str | None:
        """The directory after ``directory`` in pre-order, going by the listings that are there; ``None`` at the end.
        Without ``enter`` nothing below ``directory`` is meant."""
        if enter and self.level(directory) < self.depth:
            inside = self._subdirectory(db, directory, "")
            if inside is not None:
                return inside
        while directory != self.root:
            parent, _, name = directory.rpartition("/")
            beside = self._subdirectory(db, parent, name)
            if beside is not None:
                return beside
            directory = parent
        return None

    def _subdirectory(self, db: sqlite3.Connection, parent: str, after: str) -> str | None:
        found: str | None = after
        while found is not None:
            found = listings.next_directory(db, DirectoryName.of(self.mount, parent), found)
            if found is not None:
                key = f"{parent}/{found}" if parent else found
                if key not in self.hidden:
                    return key
        return None

    def _parts(self, directory: str) -> list[str]:
        rest = directory[len(self.root) :].strip("/")
        return rest.split("/") if rest else []
