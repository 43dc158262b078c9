"""From an address to an opened under store, and the check at start that it is there and may be listed."""

from __future__ import annotations

import asyncio
import importlib

from forebay.contracts import UfsOptions
from forebay.errors import ConfigError, NotFound, UfsDenied
from forebay.telemetry import Telemetry
from forebay.ufs.base import LIMITS_DEFAULT, Credentials, Ufs, UfsLimits
from forebay.ufs.posix import PosixUfs
from forebay.ufs.uri import UfsUri


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
    try:
        await asyncio.to_thread(_load_s3)  # on a thread: botocore is a third of a second of imports
        from forebay.ufs.s3 import S3Ufs
    except ImportError as e:
        raise ConfigError("source", "S3 support is not installed; install forebay[s3]") from e
    return await S3Ufs.open(uri, options, telemetry=telemetry, credentials=credentials, limits=limits)


async def check_listable(ufs: Ufs) -> None:
    """Passes if the root of ``ufs`` is there and we may list it: the check before a source is mounted.

    Raises:
        NotFound: it does not exist (or is a file, not a folder).
        UfsDenied: it may not be listed.
        UfsUnavailable: nobody answered; the source may be right.
        UfsError: it answered what it should not, as from another region; the message says what to set.
    """
    try:
        await ufs.list_page("", limit=1)
    except NotFound as e:
        raise NotFound(f"the source {ufs.uri} does not exist or is no folder", **e.details) from e
    except UfsDenied as e:
        raise UfsDenied(f"the source {ufs.uri} may not be listed: {e.message}", **e.details) from e


def _load_s3() -> None:
    """The extra ``forebay[s3]``; a gateway does without."""
    importlib.import_module("forebay.ufs.s3")
