"""Messages by which a new process learns what the kernel still waits for."""

from __future__ import annotations

from forebay_fuse.protocol.layout import OUT_HEADER

RESENT = 1 << 63
"""Set in ``unique`` of a request that was sent again; it belongs to the reply as well."""

INTERRUPT_BIT = 1
NOTIFY_RESEND = 7


def resend() -> bytes:
    """A notification: everything that was read and not answered shall be sent again (Linux 6.9)."""
    return OUT_HEADER.pack(OUT_HEADER.size, NOTIFY_RESEND, 0)


def is_awaited(unique: int) -> bytes:
    """Refused with ENOENT unless the kernel waits for the reply to ``unique``; changes nothing.

    It is a good reply to an INTERRUPT, which the kernel looks up by the request that it was for (linux/fs/fuse/dev.c).
    """
    return OUT_HEADER.pack(OUT_HEADER.size, 0, unique | INTERRUPT_BIT)
