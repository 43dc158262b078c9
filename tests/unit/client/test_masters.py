"""What a caller gets from several masters of which none helps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TypeVar

import pytest

from forebay.client.masters import Masters, telling
from forebay.contracts import LookupReply, Record
from forebay.errors import DeadlineExceeded, ForebayError, NotFound, Overloaded, PeerUnavailable, UfsUnavailable
from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.transport import HttpClient

R = TypeVar("R", bound=Record)
SAID, SILENT = UfsUnavailable("the bucket is away"), DeadlineExceeded("m2 did not answer in time")


class Answers(HttpClient):
    """One master says what it has to say; the others say nothing."""

    def __init__(self, errors: Mapping[str, ForebayError]) -> None:
        super().__init__(quiet())
        self.errors = errors

    async def call(
        self,
        peer: str,
        path: str,
        request: Record | None,
        kind: type[R],
        *,
        deadline: Deadline,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> R:
        """Fails."""
        if peer in self.errors:
            raise self.errors[peer]
        await asyncio.sleep(deadline.remaining_s())
        raise SILENT


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ({"m1": SAID}, SAID),
        ({"m1": PeerUnavailable("refused")}, SILENT),
        ({"m1": NotFound("no such path")}, NotFound("no such path")),
    ],
)
def test_what_the_under_store_said_is_told_though_nobody_answered_afterwards(
    errors: Mapping[str, ForebayError], told: ForebayError
) -> None:
    async def main() -> None:
        http = Answers(errors)
        masters = Masters(http, lambda: ["m1", "m2"])
        with pytest.raises(type(told), match=told.message):
            await masters.call("/v1/lookup", None, LookupReply, deadline=Deadline.after(0.05))
        await http.close()

    run(main())


def test_the_last_word_of_an_under_store_beats_the_one_before_it_and_a_master_that_is_busy() -> None:
    later = UfsUnavailable("still away")
    assert telling(SAID, later) is later
    assert telling(later, Overloaded("busy")) is later
    assert telling(Overloaded("busy"), SILENT) is SILENT
