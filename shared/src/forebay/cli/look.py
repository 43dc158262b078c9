"""Small commands that look at a running cluster through the SDK."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import BinaryIO, TextIO

from forebay.client import ClientOptions, SyncClient
from forebay.contracts import encode
from forebay.errors import InvalidRequest

PIECE_BYTES = 8 << 20


@contextlib.contextmanager
def _client(registry: str) -> Iterator[SyncClient]:
    with SyncClient(ClientOptions(registry=registry, client_id=f"cli-{os.getpid()}-{secrets.token_hex(3)}")) as client:
        yield client


def list_directory(registry: str, path: str, out: TextIO) -> None:
    """A line per entry: size (directories: ``-``) and name, directories with a slash."""
    with _client(registry) as client:
        if client.lookup(path).entry.kind != "dir":
            raise InvalidRequest(f"{path} is no directory")
        for entry in client.list(path):
            is_dir = entry.kind == "dir"
            out.write(f"{'-' if is_dir else entry.size:>14}  {entry.name}{'/' if is_dir else ''}\n")


def show_entry(registry: str, path: str, out: TextIO) -> None:
    """The lookup's reply as it travels."""
    with _client(registry) as client:
        out.write(encode(client.lookup(path)).decode() + "\n")


def copy_file(registry: str, path: str, out: BinaryIO) -> None:
    """All bytes of a file, in order."""
    with _client(registry) as client, client.open(path) as reader:
        buffer = bytearray(PIECE_BYTES)
        view, at = memoryview(buffer), 0
        while n := reader.read_into(at, view):
            out.write(view[:n])
            at += n


def show_members(registry: str, out: TextIO) -> None:
    """The members of the map as they announced themselves."""
    with _client(registry) as client:
        found = client.cluster_map()
        for member in found.members if found else ():
            out.write(encode(member).decode() + "\n")
