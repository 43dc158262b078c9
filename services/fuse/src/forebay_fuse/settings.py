"""The gateway's settings: where to mount, how it looks, what the kernel may keep, where blocks of this host lie."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from forebay.balancing import LocationPolicy
from forebay.client.options import ShortCircuit
from forebay.runtime import ServiceSettings, Size

HELPERS_MAX = 16


class FuseSettings(ServiceSettings):
    """``forebay-fuse``: one mount."""

    model_config = SettingsConfigDict(env_prefix="FOREBAY_FUSE_")
    changing_endpoints: ClassVar[bool] = False
    checks_tickets: ClassVar[bool] = False

    mountpoint: Path = Field(description="directory to mount on: it exists, is empty, and nothing is mounted there")
    root: str = Field("/", description="directory of the namespace that the mount shows")
    uid: int = Field(0, ge=0, lt=1 << 32, description="owner of everything in the mount")
    gid: int = Field(0, ge=0, lt=1 << 32, description="group of everything in the mount")
    umask: str = Field(
        "000", description="permissions taken away, octal (of 0444 for files in S3, 0555 for directories)"
    )
    allow_other: bool | None = Field(
        None, description="other users may read as well; unset: yes as root, else no (fusermount3 must allow it)"
    )
    entry_timeout: float = Field(3600.0, ge=0, description="seconds the kernel may keep a name")
    attr_timeout: float = Field(3600.0, ge=0, description="seconds the kernel may keep attributes")
    negative_timeout: float = Field(1.0, ge=0, description="seconds the kernel may keep that a name is not there")
    kernel_cache: bool = Field(True, description="the page cache keeps a version's bytes from one open to the next")
    direct_io: bool = Field(False, description="reads bypass the page cache")
    passthrough: bool = Field(True, description="the kernel reads whole files of this host itself, where it can")
    small_file: Size = Field(
        4 << 20, ge=0, description="files up to this many bytes whose home is this host are fetched whole when opened"
    )
    xattrs: bool = Field(True, description="files have extended attributes (user.forebay.fingerprint and others)")
    virtual: Literal["hidden", "shown", "off"] = Field(
        "hidden", description="the directory .forebay at the root: there but not listed, listed, or not there"
    )
    hints: bool = Field(
        True,
        description=".forebay/hints takes the order in which files will be read; the kernel is then not told that the"
        " mount is read-only, and what would change something is refused here",
    )
    threads: int | Literal["auto"] = Field(
        0,
        description="data helpers: processes that answer reads of blocks in memory of this host beside the gateway;"
        " 'auto' starts them from 4 CPUs on, if a measurement at start says that it is faster",
    )
    splice: bool = Field(True, description="blocks in memory of this host reach the kernel without a copy of ours")
    read_ahead_kib: int = Field(
        4096, ge=0, le=1 << 20, description="the kernel's readahead for this mount; 0 leaves it"
    )
    max_background: int = Field(64, ge=1, le=1024, description="reads the kernel has under way at once")
    short_circuit: ShortCircuit = Field(
        "file", description="'file' reads blocks of workers on this host in place; 'uds' over their Unix sockets; 'off'"
    )
    short_circuit_dirs: tuple[Path, ...] = Field(
        (), description="tier directories (or directories of the sockets) of workers on this host; repeatable"
    )
    readahead: Size = Field(16 << 20, ge=0, description="bytes fetched ahead of one sequential reader")
    readahead_budget: Size | None = Field(
        None,
        ge=0,
        description="bytes of readahead of all files together; default: an eighth of the memory, at most 256 MiB",
    )
    metadata_cache: bool = Field(True, description="keep names in the gateway; off: every lookup asks a master")
    metadata_cache_entries: int = Field(20_000, ge=1, description="names kept in the gateway")
    metadata_cache_s: float = Field(
        10.0, ge=0, description="seconds names are kept in the gateway; the kernel keeps them longer"
    )
    update_access_time: bool = Field(
        False, description="tell the masters, in batches, which files are opened, and show it as their access time"
    )
    location_policy: LocationPolicy = Field(
        "deterministic-hash",
        description="whom to ask first: deterministic-hash (who may hold the block), local-first,"
        " local-first-avoid-eviction, round-robin or most-available",
    )
    reserved_bytes: Size = Field(0, ge=0, description="what local-first-avoid-eviction leaves free on this host")
    worker_list_refresh_interval: float = Field(
        30.0, ge=0.1, description="seconds: how old the cluster map may get when no watch says anything"
    )
    hedge: bool = Field(True, description="ask a second worker when the first is later than 95 of 100 answers")
    read_deadline: float = Field(30.0, gt=0, description="seconds after which a read fails with ETIMEDOUT")
    registry_timeout: float = Field(60.0, gt=0, description="seconds to wait for the registry at start")
    keeper: Path | None = Field(
        None, description="socket of a keeper (forebay-fuse-keeper), which keeps the mount when this process dies"
    )
    guard: bool = Field(True, description="with a keeper: a parent process starts a gateway that died at once")
    on_stop: str = Field(
        "unmount", description="at SIGTERM 'unmount', or 'leave' the mount to the keeper's next gateway"
    )
    resend: bool = Field(True, description="a successor has the kernel send again what was in flight, where it can")
    fd: int | None = Field(None, ge=0, description="an open /dev/fuse that is mounted on the mount point already")
    busy_timeout: float = Field(10.0, ge=0, description="seconds to wait at the end for open files, then detach")

    @field_validator("root")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/") or any(part in (".", "..") for part in value.split("/")):
            raise ValueError("want an absolute path of the namespace, as /data")
        return "/" + "/".join(part for part in value.split("/") if part)

    @field_validator("threads")
    @classmethod
    def _so_many(cls, value: int | Literal["auto"]) -> int | Literal["auto"]:
        if value != "auto" and not 0 <= value <= HELPERS_MAX:
            raise ValueError(f"want auto, or 0 to {HELPERS_MAX}")
        return value

    @field_validator("umask")
    @classmethod
    def _octal(cls, value: str) -> str:
        if not 1 <= len(value) <= 4 or any(c not in "01234567" for c in value):
            raise ValueError("want octal digits, as 022")
        return value

    @model_validator(mode="after")
    def _leaves_to_somebody(self) -> FuseSettings:
        if self.on_stop not in ("unmount", "leave"):
            raise ValueError("on_stop: want unmount or leave")
        if self.on_stop == "leave" and self.keeper is None:
            raise ValueError("on_stop=leave needs a keeper to leave the mount to")
        return self
