"""Every bound of the transport, by name. The defaults suit a worker; tests and tools pass their own."""

from __future__ import annotations

from dataclasses import dataclass

from forebay.errors import ConfigError
from forebay.transport.frames import FRAME_BYTES_MAX, FRAME_BYTES_MIN, WINDOW_DEFAULT, WINDOW_MAX

SMALL_UPDATE_BYTES = 4096


@dataclass(frozen=True)
class Limits:
    """Bounds of one server or one client. Rates are per second and per connection, with a burst of one second's worth.

    Measured on 2 cores, loopback: ``frame_bytes_max`` 256 KiB to 4 MiB move blocks equally fast, 16 KiB less than half
    as fast; a stream window of 65,535 bytes costs a factor of several.
    """

    # what we announce to the peer
    frame_bytes_max: int = 1 << 20
    streams_max: int = 512
    header_list_bytes_max: int = 32 << 10
    header_block_bytes_max: int = 32 << 10
    continuations_max: int = 8

    # flow control: bytes a peer may have under way to us
    request_window_bytes: int = 1 << 20
    request_connection_window_bytes: int = 16 << 20
    rpc_window_bytes: int = 4 << 20
    rpc_connection_window_bytes: int = 16 << 20
    data_window_bytes: int = 64 << 20
    data_connection_window_bytes: int = 64 << 20

    # what a peer may do, per second (CVE-2023-44487, CVE-2019-9512 and relatives, CVE-2025-8671)
    resets_per_s: int = 512
    faults_per_s: int = 128
    settings_per_s: int = 32
    pings_per_s: int = 128
    idle_frames_per_s: int = 1024
    small_updates_per_s: int = 4096
    """WINDOW_UPDATEs of less than `SMALL_UPDATE_BYTES`: who grants single bytes makes us send frames of them."""
    settings_entries_max: int = 64

    # our own side
    send_frame_bytes_max: int = 1 << 20
    write_high_water_bytes: int = 2 << 20
    local_send_buffer_bytes: int = 512 << 10
    """The kernel's buffer towards peers on this host: what is under way then stays in the processor's cache (1.5 to 1.8
    times the rate of the kernel's own choice). Towards other hosts the kernel chooses."""
    body_read_ahead_bytes: int = 1 << 16
    linger_s: float = 1.0
    linger_bytes_max: int = 4 << 20
    """How much of a request body is taken after its reply, for clients that cannot read before they have written."""
    reply_bytes_max: int = 64 << 20
    error_reply_bytes_max: int = 64 << 10
    waiters_max: int = 4096
    data_streams_max: int = 2
    """Bulk reads under way at one peer."""
    data_patience_s: float = 0.05
    data_waiting_max: int = 16
    """A bulk read that has no answer after so long lets the next go first, up to so many at one peer: two that wait
    for the under store would hold up all others, whose bytes are there."""
    bulk_streams_max: int = 2
    """Streams that write a piece of bulk, or connections that go on reading it, in one turn of the loop: RPCs wait for
    no more. More of them move no more bytes: there is one loop."""
    bulk_piece_bytes_max: int = 1 << 20
    bulk_arrival_bytes_max: int = 2 << 20
    """Bulk that is read in one turn before connections are stopped until the next."""
    connections_max: int = 4096
    attempts_max: int = 3
    """Tries of one request that peers refused before they began it (REFUSED_STREAM, or above GOAWAY's last id)."""

    # time
    handshake_timeout_s: float = 10.0
    keepalive_interval_s: float = 15.0
    keepalive_timeout_s: float = 10.0
    server_idle_timeout_s: float = 300.0
    client_idle_timeout_s: float = 120.0
    write_stall_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        """A window below the protocol's default, or a frame outside its range, would break honest peers."""
        windows = (self.request_window_bytes, self.rpc_window_bytes, self.data_window_bytes)
        if min(windows) < WINDOW_DEFAULT or max(windows) > WINDOW_MAX:
            raise ConfigError("limits", f"a stream window must be between {WINDOW_DEFAULT} and {WINDOW_MAX} bytes")
        if not FRAME_BYTES_MIN <= self.frame_bytes_max <= FRAME_BYTES_MAX:
            raise ConfigError("limits", f"frames must be between {FRAME_BYTES_MIN} and {FRAME_BYTES_MAX} bytes")
        if self.header_block_bytes_max < FRAME_BYTES_MIN:
            raise ConfigError("limits", f"header blocks of {FRAME_BYTES_MIN} bytes must be taken")
