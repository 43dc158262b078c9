"""How a source on the command line becomes settings of the services. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from forebay.ufs import UfsUri


@dataclass(frozen=True)
class SourceOptions:
    """How an S3 source is reached; ignored for folders."""

    endpoint: str | None = None
    region: str | None = None
    profile: str = "default"
    path_style: bool = False
    anonymous: bool = False


def root_setting(uri: UfsUri, options: SourceOptions) -> str:
    """The one root that services of ``forebay up`` may touch (setting ``ufs_roots``)."""
    if uri.scheme == "file":
        return str(uri)
    profile = f"{options.profile}=" if options.profile != "default" else ""
    return f"{profile}{uri}" + (f"@{options.endpoint}" if options.endpoint else "")


def mount_setting(path: str, uri: UfsUri, options: SourceOptions) -> str:
    """The master's setting ``mount``."""
    return f"{path}={uri}"
