"""One port, two protocols: the first bytes, or TLS's ALPN, decide who serves the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, cast

from forebay.transport.frames import PREFACE

Verdict = Literal["h2", "http/1.1", "more", "bad"]


def sniff(head: bytes, alpn: str | None) -> Verdict:
    """Who speaks: ``head`` are the bytes so far, ``alpn`` what TLS agreed on (``None``: no TLS, or no agreement)."""
    if alpn == "http/1.1":
        return "http/1.1"
    if not PREFACE.startswith(head[: len(PREFACE)]):
        return "bad" if alpn == "h2" else "http/1.1"
    return "h2" if len(head) >= len(PREFACE) else "more"


class Sniffer(asyncio.Protocol):
    """Holds a new connection until its first bytes say what it is; a silent one is dropped after ``timeout_s``."""

    def __init__(
        self,
        h2: Callable[[asyncio.Transport, bytes], None],
        h1: Callable[[], asyncio.BaseProtocol],
        *,
        timeout_s: float,
        on_gone: Callable[[Sniffer], None],
    ) -> None:
        self._h2 = h2
        self._h1 = h1
        self._timeout_s = timeout_s
        self._on_gone = on_gone
        self._head = b""
        self._alpn: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self.transport.abort)
        if (tls := transport.get_extra_info("ssl_object")) is not None:
            self._alpn = tls.selected_alpn_protocol()

    def data_received(self, data: bytes) -> None:
        self._head += data
        verdict = sniff(self._head, self._alpn)
        if verdict != "more":
            self._hand_over(verdict)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._done()

    def _done(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._on_gone(self)

    def _hand_over(self, verdict: Verdict) -> None:
        transport, head = self.transport, self._head
        assert transport is not None
        self._done()
        if verdict == "bad":
            transport.abort()
        elif verdict == "h2":
            self._h2(transport, head[len(PREFACE) :])
        else:
            protocol = cast(asyncio.Protocol, self._h1())
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            protocol.data_received(head)
