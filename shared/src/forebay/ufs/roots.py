"""Which under stores this service may touch: a list in its own configuration, per credentials profile.

Without it, whoever reaches an admin port could mount, and so read, any file or bucket the service can. An empty list
allows nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from forebay.contracts import UfsOptions
from forebay.errors import ConfigError, InvalidRequest, PermissionDenied
from forebay.ufs.uri import UfsUri, normal_endpoint

_ROOT = re.compile(
    r"(?:(?P<profile>[A-Za-z0-9_.-]+)=)?(?P<uri>[a-z][a-z0-9+.-]*://.*?)(?:@(?P<endpoint>https?://[^@]*))?"
)


@dataclass(frozen=True)
class AllowedRoot:
    """One line of the configuration: ``[profile=]s3://bucket/prefix[@endpoint]`` or ``file:///directory``."""

    profile: str
    uri: UfsUri
    endpoint: str

    @staticmethod
    def parse(text: str) -> AllowedRoot:
        """Raises ``InvalidRequest`` with what is wrong."""
        match = _ROOT.fullmatch(text)
        if match is None:
            raise InvalidRequest("want [profile=]s3://bucket/prefix[@http(s)://endpoint] or file:///directory")
        uri = UfsUri.parse(match["uri"])
        if uri.scheme == "file" and (match["profile"] or match["endpoint"]):
            raise InvalidRequest("a file root has neither profile nor endpoint")
        return AllowedRoot(match["profile"] or "default", uri, normal_endpoint(match["endpoint"]))

    def covers(self, uri: UfsUri, options: UfsOptions) -> bool:
        """By words alone: same scheme, bucket, profile and endpoint, and below the prefix by whole segments."""
        if not uri.is_within(self.uri):
            return False
        return uri.scheme == "file" or (options.profile, normal_endpoint(options.endpoint)) == (
            self.profile,
            self.endpoint,
        )


@dataclass(frozen=True)
class AllowedRoots:
    """All of them. ``check`` is the gate in front of ``open_ufs``."""

    roots: tuple[AllowedRoot, ...]

    @staticmethod
    def parse(texts: Iterable[str], *, setting: str = "ufs_roots") -> AllowedRoots:
        """Raises ``ConfigError`` that names the setting and the entry by its place (it may hold a password)."""
        roots = []
        for number, text in enumerate(texts, 1):
            try:
                roots.append(AllowedRoot.parse(text))
            except InvalidRequest as e:
                raise ConfigError(setting, f"entry {number}: {e.message}") from None
        return AllowedRoots(tuple(roots))

    def check(self, uri: UfsUri, options: UfsOptions) -> None:
        """Passes if ``uri`` is below an allowed root; for files also after links are followed on both sides.

        Reads links of a local path (``lstat``), so it belongs at mount time, not on a read path.

        Raises:
            PermissionDenied: it is not.
        """
        if not any(root.covers(uri, options) and _is_really_within(uri, root.uri) for root in self.roots):
            raise PermissionDenied(
                "the source is not below any of the roots this service may touch (setting ufs_roots)",
                uri=str(uri),
                profile=options.profile,
            )


def _is_really_within(uri: UfsUri, root: UfsUri) -> bool:
    if uri.scheme != "file":
        return True
    inner, outer = (UfsUri("file", "", os.path.realpath(f"/{u.prefix}").strip("/")) for u in (uri, root))
    return inner.is_within(outer)
