"""What a load walks over: the files below a path as the namespace has them now, their blocks, and whose those are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from forebay.balancing import Placement
from forebay.contracts import BlockTarget, ClusterMap, Entry, ListReply, ListRequest, Member, Mount, decode, identity
from forebay.contracts.loads import LoadRequest
from forebay.errors import CallerError, NotFound, NotReady
from forebay_master.catalog import Catalog
from forebay_master.loading import Piece
from forebay_master.mounts import Mounts

BATCH_BLOCKS = 2048
"""Blocks that a walk hands on at a time."""

DIRECTORIES_MAX = 1_000_000

Batch = dict[str, list[Piece]]


class Walk:
    """Over one master's names. ``cluster_map`` reads the map of now."""

    def __init__(self, catalog: Catalog, mounts: Mounts, cluster_map: Callable[[], ClusterMap | None]) -> None:
        self._catalog, self._mounts, self._cluster_map = catalog, mounts, cluster_map

    def placement(self) -> Placement | None:
        """Who owns what now; ``None`` where nobody owns anything."""
        known = self._cluster_map()
        placement = Placement(known) if known is not None else None
        return placement if placement is not None and placement.owners else None

    async def batches(self, request: LoadRequest) -> AsyncIterator[tuple[Batch, dict[str, Member]]]:
        """All blocks below the path by their owners, ``BATCH_BLOCKS`` at a time; the owners are those of the map then.

        Raises:
            NotReady: no worker owns blocks. NotFound: the path or its mount is gone. What the under store said.
        """
        pieces: list[Piece] = []
        async for path, entry, mount in self._files(request.path):
            pieces += pieces_of(path, entry, mount)
            while len(pieces) >= BATCH_BLOCKS:
                yield self._owned(pieces[:BATCH_BLOCKS], request.replicas)
                pieces = pieces[BATCH_BLOCKS:]
        if pieces:
            yield self._owned(pieces, request.replicas)

    def _owned(self, pieces: list[Piece], replicas: int | None) -> tuple[Batch, dict[str, Member]]:
        placement = self.placement()
        if placement is None:
            raise NotReady("no worker owns blocks")
        batch: Batch = {}
        for piece in pieces:
            for member in placement.ranked(piece.block_id, replicas or piece.mount.replicas):
                batch.setdefault(member.member_id, []).append(piece)
        return batch, {m.member_id: m for m in placement.owners}

    async def _files(self, path: str) -> AsyncIterator[tuple[str, Entry, Mount]]:
        found = await self._catalog.lookup(path)
        if found.entry.kind == "file":
            yield path, found.entry, self._mount(found.mount_id)
            return
        pending, seen = [path.rstrip("/")], 0
        while pending:
            directory = pending.pop()
            seen += 1
            if seen > DIRECTORIES_MAX:
                raise CallerError(f"more than {DIRECTORIES_MAX} directories lie below {path}")
            token: str | None = None
            while True:
                request = ListRequest(path=directory or "/", page_token=token)
                page = decode(ListReply, await self._catalog.list_page(request))
                for entry in page.entries:
                    if entry.kind == "dir":
                        pending.append(f"{directory}/{entry.name}")
                    else:
                        yield f"{directory}/{entry.name}", entry, self._mount(page.mount_id)
                token = page.next_page_token
                if token is None:
                    break

    def _mount(self, mount_id: str | None) -> Mount:
        mount = next((m for m in self._mounts.table.mounts if m.mount_id == mount_id), None)
        if mount is None:
            raise NotFound("the mount is gone", mount_id=mount_id)
        return mount


def pieces_of(path: str, entry: Entry, mount: Mount) -> list[Piece]:
    """The blocks of a file; none of an empty one. Pure."""
    layout = entry.layout
    if layout is None:
        return []
    return [
        Piece(
            path,
            identity.block_id(layout.version_id, layout.block_size, index),
            mount,
            BlockTarget(
                mount_id=mount.mount_id, key=layout.key, size=layout.size, fingerprint=layout.fingerprint, index=index
            ),
            identity.block_length(layout.size, layout.block_size, index),
        )
        for index in range(identity.block_count(layout.size, layout.block_size))
    ]
