"""Whoever walks over directories gets many of them with one call, however small the pages that are asked for."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from forebay.client import ClientOptions
from forebay.client.masters import Masters
from forebay.client.names import Names
from forebay.contracts import DirectoryPage, Entry, ListReply, ListRequest, TreeReply, TreeRequest
from forebay.telemetry import quiet

TOP = [f"d{number}" for number in range(6)]


def entries(names: list[str], kind: str) -> tuple[Entry, ...]:
    return tuple(Entry(name=each, kind=cast(Any, kind), inode=9, mode=0o444, mtime_ns=0) for each in names)


class Answers:
    """A master with directories of so many files."""

    def __init__(self, files: int) -> None:
        self.asked: list[str] = []
        self.files = [f"f{number}" for number in range(files)]

    async def call(self, path: str, request: ListRequest | TreeRequest, *_: object, **__: object) -> object:
        self.asked.append(path)
        if isinstance(request, TreeRequest):
            behind = TOP[TOP.index(request.start or "") :]
            return TreeReply(directories=tuple(self.page(f"/{name}") for name in behind), next_page_token=None)
        found = entries(TOP, "dir") if request.path == "/" else entries(self.files[: request.limit], "file")
        token = "more" if len(self.files) > request.limit else None
        return ListReply(entries=found, mount_id="m", next_page_token=token, synced_at_s=1.0, valid_s=None)

    def page(self, path: str) -> DirectoryPage:
        return DirectoryPage(
            path=path,
            entries=entries(self.files, "file"),
            mount_id="m",
            synced_at_s=1.0,
            valid_s=None,
            is_first=True,
            is_last=True,
        )


async def walk(answers: Answers, limit: int) -> list[int]:
    options = ClientOptions(registry="http://h:1", client_id="c")
    names = Names(cast(Masters, answers), options, quiet().metrics)
    await names.list_page("/", limit=limit)
    return [len((await names.list_page(f"/{name}", limit=limit)).entries) for name in TOP]


def test_small_pages_are_filled_from_one_large_one() -> None:
    answers = Answers(files=10)
    assert asyncio.run(walk(answers, limit=10)) == [10] * 6
    assert answers.asked == ["/v1/list", "/v1/list", "/v1/tree"]


def test_directories_larger_than_a_page_are_listed_singly_after_one_try() -> None:
    answers = Answers(files=11)
    assert asyncio.run(walk(answers, limit=10)) == [10] * 6
    assert answers.asked == ["/v1/list", "/v1/list", "/v1/tree", *["/v1/list"] * 5]
