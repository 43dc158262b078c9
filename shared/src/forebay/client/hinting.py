"""Telling workers what a reader will read: the files are looked up, and each worker is told of its own blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from forebay.client.hints import FILES_MAX, MISSING_NAMED, Part, directories_to_list, parts
from forebay.client.members import Members
from forebay.client.names import Names, normal
from forebay.client.options import ClientOptions
from forebay.client.tickets import TicketCache
from forebay.client.wanted import FileVersion
from forebay.contracts import HintReply
from forebay.contracts.blocks import HINT_PATH, TICKET_HEADER
from forebay.errors import ForebayError, InvalidRequest, NotFound
from forebay.runtime import Deadline, logs
from forebay.transport import HttpClient


class Hinting:
    """``home_of`` names the worker that is home of a block, if there is one."""

    def __init__(
        self,
        http: HttpClient,
        names: Names,
        tickets: TicketCache,
        members: Members,
        *,
        options: ClientOptions,
        home_of: Callable[[str], str | None],
    ) -> None:
        self._http = http
        self._names = names
        self._tickets = tickets
        self._members = members
        self._options = options
        self._home_of = home_of
        self._log = logs.get("forebay.client")

    async def hint(self, files: Sequence[str], *, epoch: int, seed: int, rank: int, is_next: bool = False) -> int:
        """`Client.hint`."""
        if len(files) > FILES_MAX or epoch < 0 or rank < 0:
            raise InvalidRequest(f"want at most {FILES_MAX} files, and no negative epoch or rank")
        paths = [normal(path) for path in files]
        for folder in directories_to_list(paths):
            with contextlib.suppress(NotFound):
                async for _ in self._names.list(folder):
                    pass
        versions = await self._versions(paths)
        stream = f"{self._options.client_id[:128]}:{seed}:{rank}"
        told = parts(versions, stream=stream, epoch=epoch, home_of=self._home_of, is_next=is_next)
        return await self._tell(list(told))

    async def _versions(self, paths: Sequence[str]) -> Sequence[FileVersion]:
        found, missing = list[FileVersion](), list[str]()
        for path in paths:
            try:
                reply = await self._names.lookup(path)
            except NotFound:
                missing.append(path)
                continue
            if reply.entry.layout is None or reply.mount_id is None:
                raise InvalidRequest(f"is a directory: {path}", path=path)
            found.append(FileVersion(reply.mount_id, reply.entry.layout, path))
        if missing:
            named = ", ".join(missing[:MISSING_NAMED]) + (" …" if len(missing) > MISSING_NAMED else "")
            raise NotFound(f"{len(missing)} of {len(paths)} files of the hint are not there: {named}", path=missing[0])
        return found

    async def _tell(self, told: Sequence[Part]) -> int:
        addresses = self._members.addresses()
        failed: dict[str, ForebayError] = {}
        count = 0
        for part in told:
            peer = addresses.get(part.member_id)
            if peer is None or part.member_id in failed:
                continue
            deadline = Deadline.after(self._options.metadata_deadline_s)
            try:
                ticket = (await self._tickets.get(part.mount_id, part.ticket_path)).ticket
                headers = {TICKET_HEADER: ticket}
                await self._http.call(peer, HINT_PATH, part.request, HintReply, deadline=deadline, headers=headers)
                count += len(part.request.blocks)
            except ForebayError as e:
                failed[part.member_id] = e
                self._log.warning("a worker was not told what will be read", member=part.member_id, error=str(e))
        if failed and not count:
            raise next(iter(failed.values()))
        return count
