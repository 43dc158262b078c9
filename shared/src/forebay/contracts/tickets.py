"""Tickets: an HMAC-signed right of one client to read below one mount prefix, and the ring of keys behind it.

Form: ``v1.<key id>.<payload>.<signature>``, base64url without padding; the signature is HMAC-SHA-256 over everything
before its dot. The first key of the ring signs, all verify, so keys rotate without a gap. Pure: time comes in.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from forebay.contracts.codec import Record, decode_stored, encode
from forebay.errors import (
    ConfigError,
    InvalidRequest,
    TicketExpired,
    TicketForged,
    TicketWrongCluster,
    Unauthenticated,
)

LEEWAY_S = 60.0
"""Clock difference between members that a ticket survives."""

KEY_BYTES_MIN = 16


class TicketClaims(Record, frozen=True):
    """What a ticket says: cluster, mount and its generation, prefix below which it reads, who, until when."""

    cluster: str
    mount_id: str
    generation: int
    prefix: str
    client: str
    rights: str
    expires_at_s: Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class KeyRing:
    """Named secrets: ``keys[0]`` signs, all verify. Never printed."""

    keys: tuple[tuple[str, bytes], ...]

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(name for name, _ in self.keys)})"


def parse_key_file(text: str, *, setting: str) -> KeyRing:
    """Reads lines ``<key id> <hex secret>``; blank lines and ``#`` comments are skipped.

    Raises:
        ConfigError: no key, a line of another shape, a secret under 16 bytes, an id twice. Secrets are not quoted.
    """
    keys: list[tuple[str, bytes]] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].split()
        if not line:
            continue
        try:
            name, secret = line[0], bytes.fromhex(line[1])
        except (IndexError, ValueError) as e:
            raise ConfigError(setting, f"line {number} is not '<key id> <hex secret>'") from e
        if len(line) != 2 or not name.isalnum() or len(secret) < KEY_BYTES_MIN or name in dict(keys):
            raise ConfigError(setting, f"line {number}: want a unique alphanumeric id and at least 32 hex digits")
        keys.append((name, secret))
    if not keys:
        raise ConfigError(
            setting, "holds no key; write '<key id> <hex secret>', for example from `openssl rand -hex 32`"
        )
    return KeyRing(tuple(keys))


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def sign(ring: KeyRing, claims: TicketClaims) -> str:
    """The ticket for ``claims``, signed by the ring's first key."""
    name, secret = ring.keys[0]
    head = f"v1.{name}.{_b64(encode(claims))}"
    return f"{head}.{_b64(hmac.digest(secret, head.encode(), 'sha256'))}"


def verify(
    ring: KeyRing, ticket: str, *, cluster: str, now_s: float, grace_s: float = 0.0, leeway_s: float = LEEWAY_S
) -> TicketClaims:
    """The claims of a genuine, living ticket of this cluster.

    ``grace_s`` keeps an expired ticket alive (for a worker that itself sees no master), ``leeway_s`` always.

    Raises:
        Unauthenticated: malformed, or an unknown key; ``details["reason"]`` says which. TicketForged: another
            signature. TicketExpired: after its time. TicketWrongCluster: a ticket of another cluster.
    """
    parts = ticket.split(".")
    if len(parts) != 4 or parts[0] != "v1":
        raise Unauthenticated("the ticket is malformed; ask a master for a new one", reason="malformed")
    secret = dict(ring.keys).get(parts[1])
    if secret is None:
        raise Unauthenticated("the ticket's key is unknown here; ask a master for a new one", reason="unknown_key")
    try:
        given, payload = _unb64(parts[3]), _unb64(parts[2])
    except (binascii.Error, ValueError) as e:
        raise Unauthenticated("the ticket is malformed; ask a master for a new one", reason="malformed") from e
    if not hmac.compare_digest(given, hmac.digest(secret, ".".join(parts[:3]).encode(), "sha256")):
        raise TicketForged("the ticket's signature is wrong; ask a master for a new one", reason="forged")
    try:
        claims = decode_stored(TicketClaims, payload)
    except InvalidRequest as e:
        raise Unauthenticated("the ticket is malformed; ask a master for a new one", reason="malformed") from e
    if claims.cluster != cluster:
        raise TicketWrongCluster("the ticket belongs to another cluster", reason="wrong_cluster")
    if now_s > claims.expires_at_s + leeway_s + grace_s:
        raise TicketExpired("the ticket has expired; ask a master for a new one", reason="expired")
    return claims
