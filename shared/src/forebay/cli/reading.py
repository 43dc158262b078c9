"""Commands that look: names, bytes, sizes, members."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO

import typer

from forebay.cli import output
from forebay.cli.api import Api, run
from forebay.cli.door import errors
from forebay.cli.options import Json, PathArgument, Registry, where
from forebay.contracts import Entry, LookupReply, Mount
from forebay.errors import ConfigError, InvalidRequest, NotFound, UfsError
from forebay.ufs import UfsUri

PIECE_BYTES = 8 << 20
DIRECTORIES_MAX = 100_000
"""Directories that one walk visits."""


def ls(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="absolute path in the namespace")] = "/",
    long: Annotated[bool, typer.Option("--long", "-l", help="with the time of modification")] = False,
    as_json: Json = False,
    registry: Registry = None,
) -> None:
    """List a directory: size and name, directories with a slash."""

    async def work(api: Api) -> list[Entry]:
        try:
            return [entry async for entry in api.client.list(path)]
        except (NotFound, UfsError) as e:
            if "sync_error" in e.details:  # a listing that failed says why, and when it is tried again
                raise
            found = await api.client.lookup(path)
            if found.entry.kind == "dir":
                raise
            return [found.entry]

    with errors():
        entries = run(where(context, registry), work)
        if as_json:
            output.show_json([_shown(entry) for entry in entries])
            return
        for entry in entries:
            is_dir = entry.kind == "dir"
            when = f"  {time.strftime('%Y-%m-%d %H:%M', time.localtime(entry.mtime_ns / 1e9))}" if long else ""
            sys.stdout.write(f"{'-' if is_dir else entry.size:>14}{when}  {entry.name}{'/' if is_dir else ''}\n")
        sys.stdout.flush()


def _shown(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "kind": entry.kind, "size": entry.size, "mtime_s": entry.mtime_ns / 1e9}


def stat(context: typer.Context, path: PathArgument, as_json: Json = False, registry: Registry = None) -> None:
    """Attributes of a path, its version, and where its blocks live."""

    async def work(api: Api) -> tuple[LookupReply, tuple[str, ...]]:
        found = await api.client.lookup(path)
        layout = found.entry.layout
        return found, tuple(api.client.homes(layout, 256)) if layout is not None else ()

    with errors():
        found, homes = run(where(context, registry), work)
        entry, layout = found.entry, found.entry.layout
        if as_json:
            version = {"fingerprint": layout.fingerprint, "version_id": layout.version_id} if layout else {}
            blocks = {"block_size": layout.block_size, "homes": homes} if layout else {}
            more = {"mount_id": found.mount_id, "synced_at_s": found.synced_at_s, "valid_s": found.valid_s}
            output.show_json({**_shown(entry), "mode": f"{entry.mode:04o}", **more, **version, **blocks})
            return
        pairs: list[tuple[str, object]] = [
            ("path", path),
            ("kind", "directory" if entry.kind == "dir" else "file"),
            ("size", f"{entry.size} ({output.size(entry.size)})"),
            ("mode", f"{entry.mode:04o}"),
            ("modified", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.mtime_ns / 1e9))),
            ("mount", found.mount_id or "-"),
            ("known for", f"{max(0.0, time.time() - found.synced_at_s):.1f} s"),
        ]
        if layout is not None:
            pairs += [("fingerprint", layout.fingerprint), ("block size", output.size(layout.block_size))]
            pairs += [("homes", ", ".join(homes) or "no worker is there")]
        output.show_pairs(pairs)


def cat(context: typer.Context, path: PathArgument, registry: Registry = None) -> None:
    """Write a file's bytes to standard output."""
    with errors():
        run(where(context, registry), lambda api: copy(api, path, sys.stdout.buffer, output.Bar(None, "", None)))
        sys.stdout.flush()


async def copy(api: Api, path: str, out: BinaryIO, bar: output.Bar, *, begin: int = 0) -> int:
    """All bytes of a file, in order; how many. ``begin`` is where the bar stands."""
    reader = await api.client.open(path)
    try:
        view, at = memoryview(bytearray(min(PIECE_BYTES, max(1, reader.size)))), 0
        while n := await reader.read_into(at, view):
            out.write(view[:n])
            at += n
            bar.at(begin + at)
        return at
    finally:
        await reader.close()


def check_target(local: Path, *, force: bool) -> None:
    """Whether a file may be put there. What is no plain file is never replaced: it may be a device.

    Raises:
        ConfigError: something is there, and not to be replaced.
    """
    if not local.exists():
        return
    if not local.is_file() or local.is_symlink():
        raise ConfigError("TARGET", f"{local} is no plain file; 'forebay cat' writes to whatever is there")
    if not force:
        raise ConfigError("TARGET", f"{local} is there already; replace it with --force")


@dataclass
class _Copied:
    files: int = 0
    bytes: int = 0
    names: list[str] = field(default_factory=list)


def cp(
    context: typer.Context,
    path: PathArgument,
    target: Annotated[Path, typer.Argument(help="local file, or an existing directory")],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="a directory with all that is below it")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="replace files that are there")] = False,
    registry: Registry = None,
) -> None:
    """Copy a file (with -r: a directory) out of the namespace. A file is there whole or not at all."""
    with errors():
        done = run(where(context, registry), lambda api: _copy_all(api, path, target, recursive, force))
        output.say(f"{done.files} files, {output.size(done.bytes)} copied to {target}")


async def _copy_all(api: Api, path: str, target: Path, recursive: bool, force: bool) -> _Copied:
    found = await api.client.lookup(path)
    name = PurePosixPath(path).name
    if found.entry.kind == "dir" and not recursive:
        raise InvalidRequest(f"{path} is a directory; copy it with -r")
    base = target / name if name != "" and await asyncio.to_thread(target.is_dir) else target
    wanted: list[tuple[str, Path, int]] = []
    if found.entry.kind == "file":
        wanted.append((path, base, found.entry.size))
    else:
        async for below, entry in walk(api, path):
            wanted.append((below, base / PurePosixPath(below).relative_to(path), entry.size))
    for _, local, _ in wanted:
        check_target(local, force=force)
    done = _Copied()
    with output.progress(f"copying {path}", sum(size for _, _, size in wanted)) as bar:
        for source, local, _ in wanted:
            done.bytes += await _copy_one(api, source, local, bar, done.bytes)
            done.files += 1
    return done


async def _copy_one(api: Api, source: str, local: Path, bar: output.Bar, begin: int) -> int:
    part = local.with_name(f".{local.name}.{os.getpid()}.part")
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as out:
            count = await copy(api, source, out, bar, begin=begin)
        os.replace(part, local)
    except OSError as e:
        raise ConfigError("TARGET", f"{local}: {e.strerror}") from e
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return count


async def walk(api: Api, path: str) -> AsyncIterator[tuple[str, Entry]]:
    """All files below a directory, with their paths."""
    pending, seen = [path.rstrip("/")], 0
    while pending:
        directory = pending.pop()
        seen += 1
        if seen > DIRECTORIES_MAX:
            raise InvalidRequest(f"more than {DIRECTORIES_MAX} directories lie below {path}")
        async for entry in api.client.list(directory or "/"):
            below = f"{directory}/{entry.name}"
            if entry.kind == "dir":
                pending.append(below)
            else:
                yield below, entry


def du(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="absolute path in the namespace")] = "/",
    as_json: Json = False,
    registry: Registry = None,
) -> None:
    """How much lies in each directory below a path, and in all."""

    async def work(api: Api) -> dict[str, list[int]]:
        found = await api.client.lookup(path)
        sums: dict[str, list[int]] = {}
        if found.entry.kind == "file":
            return {path: [1, found.entry.size]}
        with output.progress(f"counting {path}", in_bytes=False) as bar:
            count = 0
            base = path.rstrip("/")
            async for below, entry in walk(api, path):
                rest = below.removeprefix(base).lstrip("/")
                top = f"{base}/{rest.partition('/')[0]}/" if "/" in rest else f"{base}/"
                held = sums.setdefault(top, [0, 0])
                held[0] += 1
                held[1] += entry.size
                count += 1
                bar.at(count)
        return sums

    with errors():
        sums = run(where(context, registry), work)
        files, size = sum(s[0] for s in sums.values()), sum(s[1] for s in sums.values())
        if as_json:
            parts = [{"path": name, "files": s[0], "bytes": s[1]} for name, s in sorted(sums.items())]
            output.show_json({"path": path, "files": files, "bytes": size, "parts": parts})
            return
        rows: list[tuple[object, ...]] = [(output.size(s[1]), s[0], name) for name, s in sorted(sums.items())]
        output.show_table(["size", "files", "path"], [*rows, (output.size(size), files, "in all")], right=(0, 1))


def status(context: typer.Context, as_json: Json = False, registry: Registry = None) -> None:
    """The cluster in one look: members, tiers and how full they are, mounts."""

    async def work(api: Api) -> dict[str, Any]:
        from forebay.cli.workers import told

        masters = [{"member_id": m.member_id, "address": m.tcp, "state": m.state} for m in api.members("master")]
        workers = [await told(api, m) for m in api.members("worker")]
        known = api.client.cluster_map
        return {
            "registry": api.where.registry,
            "epoch": known.epoch if known else None,
            "masters": masters,
            "workers": workers,
            "mounts": [_mount(m) for m in await api.mounts()],
        }

    with errors():
        found = run(where(context, registry), work)
        if as_json:
            output.show_json(found)
            return
        from forebay.cli.workers import show

        output.say(f"cluster at {found['registry']}, map epoch {found['epoch']}")
        for master in found["masters"]:
            output.say(f"master {master['member_id']} at {master['address']}: {master['state']}")
        show(found["workers"])
        output.show_table(
            ["mount", "source", "replicas", "max age", "pinned"],
            [(m["path"], m["source"], m["replicas"], m["max_age"], m["pinned"]) for m in found["mounts"]],
        )


def _mount(mount: Mount) -> dict[str, Any]:
    age = "immutable" if mount.max_age_s is None else f"{mount.max_age_s:g} s"
    return {
        "path": mount.path,
        "mount_id": mount.mount_id,
        "source": str(UfsUri.parse(mount.ufs_uri)),
        "replicas": mount.replicas,
        "max_age": age,
        "pinned": mount.pin,
    }
