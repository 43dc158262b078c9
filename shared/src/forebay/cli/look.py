"""Small commands that look at a running cluster through the SDK."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from forebay.client import ClientOptions, SyncClient
from forebay.contracts import encode
from forebay.errors import InvalidRequest

PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class Where:
    """Which cluster, and how to reach it. The files are for clusters with TLS."""

    registry: str
    cluster_id: str = "forebay"
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


@contextlib.contextmanager
def _client(where: Where) -> Iterator[SyncClient]:
    options = ClientOptions(
        registry=where.registry,
        client_id=f"cli-{os.getpid()}-{secrets.token_hex(3)}",
        cluster_id=where.cluster_id,
        tls_ca=where.tls_ca,
        tls_cert=where.tls_cert,
        tls_key=where.tls_key,
    )
    with SyncClient(options) as client:
        yield client


def list_directory(where: Where, path: str, out: TextIO) -> None:
    """A line per entry: size (directories: ``-``) and name, directories with a slash."""
    with _client(where) as client:
        if client.lookup(path).entry.kind != "dir":
            raise InvalidRequest(f"{path} is no directory")
        for entry in client.list(path):
            is_dir = entry.kind == "dir"
            out.write(f"{'-' if is_dir else entry.size:>14}  {entry.name}{'/' if is_dir else ''}\n")


def show_entry(where: Where, path: str, out: TextIO) -> None:
    """The lookup's reply as it travels."""
    with _client(where) as client:
        out.write(encode(client.lookup(path)).decode() + "\n")


def copy_file(where: Where, path: str, out: BinaryIO) -> None:
    """All bytes of a file, in order."""
    with _client(where) as client, client.open(path) as reader:
        buffer = bytearray(PIECE_BYTES)
        view, at = memoryview(buffer), 0
        while n := reader.read_into(at, view):
            out.write(view[:n])
            at += n


def sync_path(where: Where, path: str, out: TextIO, *, recursive: bool) -> None:
    """Has the under store asked anew, and says what came of it."""
    with _client(where) as client:
        done = client.sync(path, recursive=recursive)
        out.write(f"{done.directories} directories asked anew, {done.changes} changes\n")


def show_members(where: Where, out: TextIO) -> None:
    """The members of the map as they announced themselves."""
    with _client(where) as client:
        found = client.cluster_map()
        for member in found.members if found else ():
            out.write(encode(member).decode() + "\n")
