"""One end of a connection, with a transport that fails in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from forebay.testing import run
from forebay.transport.channel import ClientConnection
from forebay.transport.fields import FieldEncoder, Memo
from forebay.transport.limits import Limits
from forebay.transport.turns import Arrivals


class Gone(asyncio.Transport):
    """As uvloop's between the close of a handle that failed and the call that tells of it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: Any) -> None:
        self.writes += 1
        raise RuntimeError("unable to perform operation; the handler is closed")

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))


def test_a_write_to_a_socket_that_has_just_gone_waits_for_the_word_of_its_loss() -> None:
    async def main() -> None:
        limits, lost = Limits(), list[ClientConnection]()
        connection = ClientConnection(
            "10.0.0.1:1",
            limits,
            encoder=FieldEncoder(),
            memo=Memo(),
            windows=(1 << 20, 1 << 20),
            arrivals=Arrivals(limits.bulk_arrival_bytes_max, limits.bulk_streams_max),
            on_change=lost.append,
        )
        transport = Gone()

        connection.connection_made(transport)

        assert transport.writes == 1  # the preface
        assert not connection.engine.outbox
        connection.connection_lost(None)
        assert lost == [connection]
        assert not connection.is_usable

    run(main())
