"""The master's settings, and what follows from them before anything is opened: mounts, where the state lies."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import SettingsConfigDict

from forebay.contracts import MountRequest
from forebay.errors import ConfigError, InvalidRequest
from forebay.runtime import MemberSettings, Size, parse_size
from forebay_master.mounts import canonical
from forebay_master.namespace import MOUNTS_MAX

MOUNT_SETTING = "mount"
IMMUTABLE = "immutable"
KEY_FILE_NAME = "cluster.key"


def parse_max_age(value: object) -> object:
    """Seconds, or ``immutable`` for ``None``. Raises ValueError."""
    if not isinstance(value, str):
        return value
    if value == IMMUTABLE:
        return None
    seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"want seconds (0: always ask) or {IMMUTABLE}")
    return seconds


MaxAge = Annotated[float | None, BeforeValidator(parse_max_age)]


class MasterSettings(MemberSettings):
    """What a master can be told."""

    model_config = SettingsConfigDict(env_prefix="FOREBAY_MASTER_")

    port: int = Field(7070, ge=0, le=65535, description="port to listen on; 0 takes any")
    mount: tuple[str, ...] = Field(
        (),
        description="what is mounted where, PATH=URI[,OPTION=VALUE...]; repeatable; options: endpoint, region,"
        " path-style, profile, anonymous, ca-file, block-size, replicas, max-age-s, pin, ttl-s, quota, read-only"
        " (they beat the settings below; as a variable with options, write a JSON array)",
    )
    state_dir: Path | None = Field(
        None, description="where mounts, map and listings are kept; default: below $XDG_STATE_HOME or ~/.local/state"
    )
    ticket_ttl_s: float = Field(3600.0, ge=1, le=7 * 86_400, description="how long a ticket lives")
    block_size: Size = Field(256 << 20, ge=4 << 20, le=1 << 34, description="block size of mounts that name none")
    replicas: int = Field(1, ge=1, le=16, description="workers that may hold a block, for mounts that name none")
    max_age_s: MaxAge = Field(
        60.0, description=f"how old a listing may be, for mounts that name none: seconds, or {IMMUTABLE}"
    )
    ufs_endpoint: str | None = Field(None, description="S3 endpoint of mounts that name none, http(s)://host[:port]")
    ufs_region: str | None = Field(None, description="S3 region of mounts that name none")
    ufs_path_style: bool = Field(False, description="S3 addresses with the bucket in the path")
    ufs_profile: str = Field("default", min_length=1, max_length=255, description="credentials profile of mounts")
    ufs_anonymous: bool = Field(False, description="S3 without credentials")
    ufs_ca_file: str | None = Field(None, description="authorities of S3 endpoints (PEM)")
    source_timeout_s: float = Field(30.0, ge=0, description="how long to wait at start for a source that is silent")
    registry_timeout_s: float = Field(60.0, gt=0, description="how long to try to reach ZooKeeper at start")
    session_s: float = Field(
        10.0, ge=1, le=300, description="how long a master that ZooKeeper does not hear keeps leading"
    )
    down_s: float = Field(60.0, gt=0, le=86_400, description="how long a vanished member keeps its share of blocks")
    drain_timeout_s: float = Field(10.0, ge=0, description="how long running requests may take at the end")

    @field_validator("block_size")
    @classmethod
    def _whole_extents(cls, value: int) -> int:
        if value % (4 << 20):
            raise ValueError("want a multiple of 4MiB")
        return value


_MOUNT = re.compile(r"(?P<path>/.*?)=(?P<uri>[a-z][a-z0-9+.-]*://.*)", re.DOTALL)
_OPTION = re.compile(
    r",(?P<name>endpoint|region|path-style|profile|anonymous|ca-file|block-size|replicas|max-age-s|pin|ttl-s|quota"
    r"|read-only)"
    r"=(?P<value>[^,]*)$"
)
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def mount_requests(settings: MasterSettings) -> list[MountRequest]:
    """What the settings mount, in canonical form.

    Raises:
        ConfigError: an entry that cannot be read, two for one path, too many; names ``mount``.
    """
    requests: dict[str, MountRequest] = {}
    for number, text in enumerate(settings.mount, 1):
        try:
            request = parse_mount(text, settings)
        except InvalidRequest as e:
            raise ConfigError(MOUNT_SETTING, f"entry {number}: {e.message}") from e
        if request.path in requests:
            raise ConfigError(MOUNT_SETTING, f"entry {number}: {request.path} is mounted twice")
        requests[request.path] = request
    if len(requests) > MOUNTS_MAX:
        raise ConfigError(MOUNT_SETTING, f"there are more than {MOUNTS_MAX}")
    return list(requests.values())


def parse_mount(text: str, defaults: MasterSettings) -> MountRequest:
    """Reads ``PATH=URI[,OPTION=VALUE...]``. A URI may hold commas: options are taken from the end.

    Raises:
        InvalidRequest: it cannot be read. The text is not quoted: an endpoint may hold a password.
    """
    said: dict[str, str] = {}
    rest = text
    while (option := _OPTION.search(rest)) is not None:
        said.setdefault(option["name"], option["value"])
        rest = rest[: option.start()]
    match = _MOUNT.fullmatch(rest)
    if match is None:
        raise InvalidRequest("want PATH=URI, such as /data=s3://bucket/prefix or /data=file:///folder")
    try:
        return canonical(msgspec.convert(_fields(match["path"], match["uri"], said, defaults), MountRequest))
    except msgspec.ValidationError as e:
        raise InvalidRequest(str(e)) from e
    except (ValueError, KeyError) as e:
        raise InvalidRequest(f"an option has an impossible value: {e}") from e


def _fields(path: str, uri: str, said: dict[str, str], defaults: MasterSettings) -> dict[str, Any]:
    is_s3 = uri.startswith("s3:")
    options = {
        "profile": said.get("profile", defaults.ufs_profile),
        "endpoint": said.get("endpoint", defaults.ufs_endpoint if is_s3 else None),
        "region": said.get("region", defaults.ufs_region if is_s3 else None),
        "path_style": _BOOLEANS[said["path-style"]] if "path-style" in said else defaults.ufs_path_style,
        "anonymous": _BOOLEANS[said["anonymous"]] if "anonymous" in said else defaults.ufs_anonymous,
        "ca_file": said.get("ca-file", defaults.ufs_ca_file),
    }
    return {
        "path": path,
        "ufs_uri": uri,
        "options": options if not uri.startswith("file:") else {},
        "block_size": parse_size(said["block-size"]) if "block-size" in said else defaults.block_size,
        "replicas": int(said["replicas"]) if "replicas" in said else defaults.replicas,
        "max_age_s": parse_max_age(said["max-age-s"]) if "max-age-s" in said else defaults.max_age_s,
        "read_only": _BOOLEANS[said.get("read-only", "true")],
        "pin": _BOOLEANS[said.get("pin", "false")],
        "ttl_s": float(said["ttl-s"]) if "ttl-s" in said else None,
        "quota_bytes": parse_size(said["quota"]) if "quota" in said else None,
    }


def state_directory(settings: MasterSettings) -> Path:
    """Where the state lies: as set, else one directory per cluster in the user's state."""
    if settings.state_dir is not None:
        return settings.state_dir
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in settings.cluster_id)
    return Path(home).expanduser() / "forebay" / f"master-{safe}"
