"""Addresses of under stores: ``s3://bucket/prefix``, ``file:///directory``, and what fsspec knows.

The text is taken as it stands: no percent-decoding, as in ``aws s3`` and as paths are typed. ``?`` and ``#`` are
ordinary characters of a key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from forebay.contracts import UfsOptions, identity
from forebay.errors import InvalidRequest
from forebay.ufs.names import check_key, printable

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
_ROOT = re.compile(r"(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9._-]*(?::\d{1,5})?|\[[0-9a-f:]+\](?::\d{1,5})?")
"""Bucket, or host with its port; before an "@" a container, never a password."""

REFUSED_SCHEMES = frozenset({"local", "forebay", "data", "generic", "reference", "dir", "zip", "tar", "libarchive"})
"""What fsspec has beside stores: files of this machine by another name, ourselves, things inside other things."""

# AWS wants 3 to 63 lower-case characters; other servers allow more, and they are the judges.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class UfsUri:
    """``root`` is the bucket ("" for files); ``prefix`` the path below it, without a slash at either end.

    For files ``prefix`` is the absolute directory without its leading slash, so that one file has one full key
    however deep the mount sits.
    """

    scheme: str
    root: str
    prefix: str

    @staticmethod
    def parse(text: str) -> UfsUri:
        """Reads ``s3://bucket[/prefix]``, ``file:///directory`` or
        ``SCHEME://root[/prefix]``; one slash at the end is dropped.

        Raises:
            InvalidRequest: another scheme, no or a malformed bucket, a relative directory, a segment that is empty,
                "." or "..", a control character.
        """
        scheme, separator, rest = text.partition("://")
        if not separator or not _SCHEME.fullmatch(scheme) or scheme in REFUSED_SCHEMES or "::" in text:
            raise InvalidRequest(
                "a source is s3://bucket/prefix, file:///directory, or what fsspec knows as SCHEME://",
                uri=printable(text),
            )
        if printable(text) != text:
            raise InvalidRequest("a source holds no control characters", uri=printable(text))
        root, _, path = rest.partition("/")
        if scheme == "file" and (root or not rest):
            raise InvalidRequest("a file source is file:// and an absolute directory: file:///data", uri=text)
        if scheme == "s3" and (not _BUCKET.fullmatch(root) or ".." in root):
            raise InvalidRequest("the bucket of an s3:// source is missing or malformed", uri=text)
        if scheme != "file" and not _ROOT.fullmatch(root):
            raise InvalidRequest("the part before the path is malformed, or holds a password")
        return UfsUri(scheme, root, check_key(path.removesuffix("/")))

    def full_key(self, key: str) -> str:
        """The key below ``root`` of ``key`` below this prefix ("" is the prefix itself).

        Raises:
            InvalidRequest: ``key`` would leave the prefix, or cannot be a path.
        """
        check_key(key)
        return f"{self.prefix}/{key}" if self.prefix and key else self.prefix or key

    def ufs_id(self, options: UfsOptions) -> str:
        """Names the under store and its root; prefix and credentials do not matter, so data mounted twice is one."""
        endpoint = normal_endpoint(options.endpoint) if self.scheme != "file" else ""
        return identity.ufs_id(self.scheme, endpoint, self.root)

    def version_id(self, options: UfsOptions, key: str, fingerprint: str) -> str:
        """Names one version of ``key`` below this prefix."""
        return identity.version_id(self.ufs_id(options), self.full_key(key), fingerprint)

    def is_within(self, outer: UfsUri) -> bool:
        """Whether everything below this address is below ``outer``, by whole path segments."""
        same_root = (self.scheme, self.root) == (outer.scheme, outer.root)
        inside = not outer.prefix or f"{self.prefix}/".startswith(f"{outer.prefix}/")
        return same_root and inside

    def __str__(self) -> str:
        path = f"/{self.prefix}" if self.prefix or self.scheme == "file" else ""
        return f"{self.scheme}://{self.root}{path}"


def normal_endpoint(endpoint: str | None) -> str:
    """The endpoint in one spelling (lower-case host, no default port, no slash at the end); "" for the scheme's own.

    Raises:
        InvalidRequest: not ``http(s)://host[:port]``, or with user, path or query. It is not quoted: it may hold a
            password.
    """
    if endpoint is None:
        return ""
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        raise InvalidRequest("an endpoint is http(s)://host[:port]") from None  # the cause would quote the text
    extra = parts.username or parts.password or parts.query or parts.fragment or parts.path not in {"", "/"}
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or extra or printable(endpoint) != endpoint:
        raise InvalidRequest("an endpoint is http(s)://host[:port], without user, path or query")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown = "" if port in {None, _DEFAULT_PORTS[parts.scheme]} else f":{port}"
    return f"{parts.scheme}://{host}{shown}"
