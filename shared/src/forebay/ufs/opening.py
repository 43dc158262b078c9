"""From an address to an opened under store, and the check at start that it is there and may be listed."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from forebay.contracts import UfsOptions
from forebay.errors import ConfigError, DeadlineExceeded, ForebayError, NotFound, UfsDenied, UfsUnavailable
from forebay.telemetry import Telemetry
from forebay.ufs.base import LIMITS_DEFAULT, Credentials, Ufs, UfsLimits
from forebay.ufs.posix import PosixUfs
from forebay.ufs.uri import UfsUri

OPTIONS_DEFAULT = UfsOptions()
CREDENTIAL_CODES = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
)
"""What an S3 server says of keys; what else it denies it denies to their owner."""


async def open_ufs(
    uri: UfsUri,
    options: UfsOptions,
    *,
    telemetry: Telemetry,
    credentials: Credentials | None = None,
    limits: UfsLimits = LIMITS_DEFAULT,
) -> Ufs:
    """The under store at ``uri``, nothing read yet. ``credentials`` beats the AWS chain of ``options.profile``.

    The caller has asked ``AllowedRoots.check`` before.

    Raises:
        ConfigError: S3 support is not installed, the profile or CA file is not there.
        UfsDenied: no credentials were found.
    """
    if uri.scheme == "file":
        return PosixUfs(uri, telemetry, limits)
    if uri.scheme != "s3":
        return await _open_foreign(uri, options, telemetry, limits)
    try:
        await asyncio.to_thread(_load_s3)  # on a thread: botocore is a third of a second of imports
        from forebay.ufs.s3 import S3Ufs
    except ImportError as e:
        raise ConfigError("source", "S3 support is not installed; install forebay[s3]") from e
    return await S3Ufs.open(uri, options, telemetry=telemetry, credentials=credentials, limits=limits)


async def check_listable(ufs: Ufs, options: UfsOptions = OPTIONS_DEFAULT) -> None:
    """Passes if the root of ``ufs`` is there and we may list it: the check before a source is mounted.

    Raises:
        NotFound: it does not exist (or is a file, not a folder).
        UfsDenied: it may not be listed.
        UfsUnavailable: nobody answered; the source may be right.
        UfsError: it answered what it should not, as from another region; the message says what to set.
    """
    with explained(ufs.uri, options):
        await ufs.list_page("", limit=1)


@contextmanager
def explained(uri: UfsUri, options: UfsOptions) -> Iterator[None]:
    """Around opening and listing a source that is to be mounted: an error says which of the four is wrong:
    ``details["reason"]`` is ``credentials``, ``endpoint``, ``bucket`` (or ``folder``) or ``permission``."""
    try:
        yield
    except (NotFound, UfsDenied, UfsUnavailable, DeadlineExceeded) as e:
        if "reason" in e.details:
            raise
        reason, message = _diagnosis(uri, options, e)
        raise type(e)(message, **{**e.details, "reason": reason}) from e


def _diagnosis(uri: UfsUri, options: UfsOptions, error: ForebayError) -> tuple[str, str]:
    code = str(error.details.get("s3_code") or "")
    if isinstance(error, NotFound):
        if code == "NoSuchBucket":
            return "bucket", f"the source {uri} does not exist: there is no bucket {uri.root}{_at(options)}"
        return "folder", f"the source {uri} does not exist or is no folder"
    if not isinstance(error, UfsDenied):
        where = f"the endpoint{_at(options)}" if uri.scheme == "s3" else f"the source {uri}"
        return "endpoint", f"{where} does not answer: {error.message}"
    is_about_us = uri.scheme == "s3" and ("s3_code" not in error.details or code in CREDENTIAL_CODES)
    if is_about_us:
        who = f"the credentials of profile {options.profile} do not work{_at(options)}"
        return "credentials", f"the source {uri} may not be listed: {who}: {error.message}"
    return "permission", f"the source {uri} may not be listed by profile {options.profile}: {error.message}"


def _at(options: UfsOptions) -> str:
    return f" {options.endpoint}" if options.endpoint else ""


async def _open_foreign(uri: UfsUri, options: UfsOptions, telemetry: Telemetry, limits: UfsLimits) -> Ufs:
    try:
        await asyncio.to_thread(importlib.import_module, "forebay.ufs.foreign")
        from forebay.ufs.foreign import ForeignUfs
    except ImportError as e:
        raise ConfigError("source", f"{uri.scheme}:// needs fsspec; install forebay[fsspec]") from e
    return await ForeignUfs.open(uri, options, telemetry=telemetry, limits=limits)


def _load_s3() -> None:
    """The extra ``forebay[s3]``; a gateway does without."""
    importlib.import_module("forebay.ufs.s3")
