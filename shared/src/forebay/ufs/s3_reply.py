"""What S3's answers mean: pure functions from status, headers and parsed listings to entries, plans and errors.

Servers differ; what was met is handled by name: ranged GETs answered 200 with the right Content-Range, Range ignored
altogether, If-Match ignored, ETags without quotes or with ``W/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote_to_bytes

from forebay.errors import (
    Detail,
    ForebayError,
    NotFound,
    RangeNotSatisfiable,
    StaleVersion,
    UfsDenied,
    UfsError,
    UfsUnavailable,
)
from forebay.ufs.base import UfsDir, UfsEntry, UfsFile, UfsPage
from forebay.ufs.names import is_file_name, printable

ETAG = re.compile(r"[!#-~]{1,255}")
"""What stands between the quotes of a strong entity tag (RFC 9110, section 8.8.3), ASCII only."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_XML_CODE = re.compile(rb"<Code>([A-Za-z0-9._]{1,64})</Code>")
_XML_REGION = re.compile(rb"<Region>([a-z0-9-]{1,64})</Region>")

_STALE = {"PreconditionFailed"}
_MISSING = {"NoSuchKey", "NoSuchBucket", "NotFound"}
_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_DENIED = {"AccessDenied", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"}
_BUSY = {"SlowDown", "RequestTimeout", "TemporaryRedirect", "InternalError", "ServiceUnavailable"}


@dataclass(frozen=True)
class Wanted:
    """A range of one version of one object; ``start + length`` is exclusive."""

    key: str
    start: int
    length: int
    fingerprint: str
    size: int | None = None


@dataclass(frozen=True)
class Body:
    """The range is in the reply's body, after ``skip`` bytes; behind it there may be more than was wanted."""

    skip: int


def clean_etag(text: str | None) -> str | None:
    """The tag without quotes and ``W/``; ``None`` if there is none that could be sent back."""
    tag = (text or "").strip().removeprefix("W/").strip('"')
    return tag if ETAG.fullmatch(tag) else None


def judge_data_reply(wanted: Wanted, status: int, headers: Mapping[str, str], discard_max_bytes: int) -> Body:
    """Where the wanted bytes are in the body of a 200 or 206.

    Raises:
        StaleVersion: the ETag, or the size, is another version's.
        UfsError: the reply cannot be that range, or is longer; or Range was ignored and too much stands in front of it.
        RangeNotSatisfiable: the object is shorter.
    """
    if clean_etag(headers.get("ETag")) != wanted.fingerprint:
        raise StaleVersion("the object has changed", key=wanted.key)
    if "Content-Range" not in headers:
        if status == 206:
            raise UfsError("the server sent part of the object without saying which", key=wanted.key)
        return _cut_from_whole(wanted, _content_length(headers), discard_max_bytes)
    found = _CONTENT_RANGE.fullmatch(headers["Content-Range"].strip())
    if found is None or (int(found[1]), int(found[2])) != (wanted.start, wanted.start + wanted.length - 1):
        _check_size(wanted, int(found[3]) if found and found[3] != "*" else None)
        raise UfsError("the server sent another range", key=wanted.key, range=printable(headers["Content-Range"][:80]))
    _check_size(wanted, None if found[3] == "*" else int(found[3]))
    length = _content_length(headers)
    if length is not None and length > wanted.length:
        raise UfsError("the body is longer than the range it is said to be", key=wanted.key, length=length)
    return Body(skip=0)


def _cut_from_whole(wanted: Wanted, total: int | None, discard_max_bytes: int) -> Body:
    _check_size(wanted, total)
    if wanted.start > discard_max_bytes:
        raise UfsError(
            "the server ignores Range; objects above the limit cannot be read from it",
            key=wanted.key,
            limit_bytes=discard_max_bytes,
        )
    return Body(skip=wanted.start)


def _check_size(wanted: Wanted, total: int | None) -> None:
    if total is None:
        return
    if wanted.size is not None and wanted.size != total:
        raise StaleVersion("the object has another size than was claimed", key=wanted.key, size=total)
    if wanted.start + wanted.length > total:
        raise RangeNotSatisfiable("the range ends behind the object", key=wanted.key, size=total)


def _content_length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def error_of_reply(key: str, status: int, headers: Mapping[str, str], body: bytes) -> ForebayError:
    """The error that an answer other than 200 and 206 means."""
    code, region = _XML_CODE.search(body), _XML_REGION.search(body)
    return s3_error(
        key,
        status,
        code[1].decode() if code else "",
        headers.get("x-amz-bucket-region") or (region[1].decode() if region else None),
    )


def s3_error(key: str, status: int, code: str, region: str | None) -> ForebayError:
    """Status and S3 error code to our tree; the server's sentence is not taken over: it may quote the access key."""
    details: dict[str, Detail] = {"key": key, "status": status, "s3_code": printable(code[:64])}
    if status == 412 or code in _STALE:
        return StaleVersion("the object has changed", **details)
    if status == 404 or code in _MISSING:
        return NotFound("no such bucket" if code == "NoSuchBucket" else "no such object", **details)
    if status == 301 or code in _REGION:
        return wrong_region(region, **details)
    if status == 416:
        return RangeNotSatisfiable("the range lies behind the object", **details)
    if status in {401, 403} or code in _DENIED:
        return UfsDenied(f"the S3 server refuses our credentials ({details['s3_code'] or status})", **details)
    if status in {307, 408, 429} or status >= 500 or code in _BUSY:
        return UfsUnavailable("the S3 server failed or is too busy", **details)
    return UfsError("the S3 server answered what we do not understand", **details)


def wrong_region(region: str | None, **details: Detail) -> UfsError:
    """The bucket lives elsewhere: names the region to set, if the server told it."""
    advice = (
        f"the bucket is in region {printable(region)}; set the mount's region to it"
        if region
        else ("the bucket is in another region; set the mount's region")
    )
    return UfsError(advice, region=printable(region) if region else None, **details)


def page_of_listing(reply: Mapping[str, Any], *, directory: str, prefix: str, token: str | None) -> UfsPage:
    """A page from one ``ListObjectsV2`` reply with delimiter "/" (as botocore parses it, its keys not decoded).

    ``prefix`` is the full prefix that was asked, "" or ending in "/"; ``directory`` what callers call it.

    Raises:
        NotFound: the first page is empty and not even a marker is there (never for a whole bucket).
        UfsError: keys outside the prefix, or a listing that does not go on.
    """
    objects, prefixes = reply.get("Contents", ()), reply.get("CommonPrefixes", ())
    following = reply.get("NextContinuationToken") if reply.get("IsTruncated") else None
    if reply.get("IsTruncated") and following in {None, "", token}:
        raise UfsError("the listing does not go on", directory=directory)
    if not (objects or prefixes or token or following) and prefix:
        raise NotFound("no such directory", key=directory)
    found = list(_named(objects, prefixes, prefix, is_encoded=reply.get("EncodingType") == "url"))
    usable = [_entry(name, item, directory) for name, item in found if is_file_name(name)]
    entries = sorted((e for e in usable if e is not None), key=_order)
    folders = {e.key for e in entries if isinstance(e, UfsDir)}
    chosen = tuple(e for e in entries if isinstance(e, UfsDir) or e.key not in folders)
    return UfsPage(chosen, following, skipped=len(found) - len(entries))


def _named(
    objects: Any, prefixes: Any, prefix: str, *, is_encoded: bool
) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """(name, object) and (name, ``None``) for directories; the marker of the directory itself is left out. A key that
    is no text has the name "", which no file can have."""
    files = ((str(item.get("Key", "")), item) for item in objects)
    folders = ((str(item.get("Prefix", "")).removesuffix("/"), None) for item in prefixes)
    for sent, item in [*files, *folders]:
        key = _decoded(sent) if is_encoded else sent
        if key is None:
            yield "", item
            continue
        if not key.startswith(prefix.removesuffix("/") if item is None else prefix):
            raise UfsError("the listing holds keys outside its prefix", directory=prefix)
        if item is None or key != prefix:
            yield key[len(prefix) :], item


def _decoded(key: str) -> str | None:
    """A key of a listing with encoding type "url" (a space is "+"); ``None`` if it is not UTF-8: botocore would put
    U+FFFD in place of what it cannot read, which names no object, or another one."""
    if "%" not in key and "+" not in key:
        return key
    try:
        return unquote_to_bytes(key.replace("+", " ")).decode()
    except UnicodeDecodeError:
        return None


def _entry(name: str, item: Mapping[str, Any] | None, directory: str) -> UfsEntry | None:
    key = f"{directory}/{name}" if directory else name
    return UfsDir(key) if item is None else file_of_object(key, item.get("Size"), item)


def file_of_object(key: str, size: object, item: Mapping[str, Any]) -> UfsFile | None:
    """The file that an object shows as; ``None`` without an ETag, for then its versions cannot be told apart, or size.

    Times are cut to seconds: HEAD knows no more, and a file must not change its time with who asked.
    """
    etag, modified = clean_etag(item.get("ETag")), item.get("LastModified")
    if etag is None or not isinstance(size, int) or size < 0:
        return None
    seconds = int(modified.timestamp()) if isinstance(modified, datetime) else 0
    return UfsFile(key, size, seconds * 1_000_000_000, etag)


def _order(entry: UfsEntry) -> bytes:
    return (entry.key + "/" if isinstance(entry, UfsDir) else entry.key).encode()
