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
    """The master's setting ``mount``: ``PATH=URI[,OPTION=VALUE...]``."""
    if uri.scheme == "file":
        return f"{path}={uri}"
    said = {
        "endpoint": options.endpoint,
        "region": options.region,
        "profile": options.profile if options.profile != "default" else None,
        "path-style": "true" if options.path_style else None,
        "anonymous": "true" if options.anonymous else None,
    }
    return f"{path}={uri}" + "".join(f",{name}={value}" for name, value in said.items() if value is not None)
