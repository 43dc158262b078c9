"""Tickets: only what a key of the ring signed for this cluster, until its time."""

from __future__ import annotations

import base64

import pytest

from forebay.contracts import encode
from forebay.contracts.tickets import LEEWAY_S, KeyRing, TicketClaims, parse_key_file, sign, verify
from forebay.errors import ConfigError, PermissionDenied, Unauthenticated

OLD, NEW = ("k1", bytes(range(32))), ("k2", bytes(range(32, 64)))
RING = KeyRing((OLD,))
NOW_S = 1_700_000_000.0
CLAIMS = TicketClaims(
    cluster="forebay",
    mount_id="m1",
    generation=1,
    prefix="train",
    client="fuse-1",
    rights="r",
    expires_at_s=NOW_S + 3600,
)


def refusal(ticket: str, ring: KeyRing = RING, now_s: float = NOW_S) -> object:
    with pytest.raises(Unauthenticated) as caught:
        verify(ring, ticket, cluster="forebay", now_s=now_s)
    return caught.value.details["reason"]


def test_a_signed_ticket_verifies_to_its_claims() -> None:
    assert verify(RING, sign(RING, CLAIMS), cluster="forebay", now_s=NOW_S) == CLAIMS


def test_the_form_is_fixed() -> None:
    claims = TicketClaims(
        cluster="c", mount_id="m", generation=1, prefix="", client="x", rights="r", expires_at_s=2_000_000_000.0
    )

    assert sign(RING, claims) == (
        "v1.k1.eyJjbHVzdGVyIjoiYyIsIm1vdW50X2lkIjoibSIsImdlbmVyYXRpb24iOjEsInByZWZpeCI6IiIsImNsaWVudCI6IngiLCJyaWdodHMi"
        "OiJyIiwiZXhwaXJlc19hdF9zIjoyMDAwMDAwMDAwLjB9.qAciPMu541g-KSi2v6gwfUYNE1wOOD2IB-h2RGXuJh0"
    )


def test_a_ticket_with_any_character_changed_is_refused() -> None:
    ticket = sign(RING, CLAIMS)

    for at in range(len(ticket)):
        changed = ticket[:at] + ("A" if ticket[at] != "A" else "B") + ticket[at + 1 :]
        try:
            assert verify(RING, changed, cluster="forebay", now_s=NOW_S) == CLAIMS, at
        except Unauthenticated:
            continue
        # The last character of a base64 text may hold unused bits; then the bytes are the same.
        assert at in (len(ticket) - 1, len(ticket) - 1 - len(ticket.rsplit(".", 1)[1]) - 1)


def test_claims_under_a_strange_signature_are_forged() -> None:
    stranger = KeyRing((("k1", b"another secret of 32 bytes here!"),))

    assert refusal(sign(stranger, CLAIMS)) == "forged"


def test_a_key_that_is_not_in_the_ring_is_unknown() -> None:
    assert refusal(sign(KeyRing((NEW,)), CLAIMS)) == "unknown_key"


@pytest.mark.parametrize(
    "ticket", ["", "v1", "v1.k1.a", "v1.k1.a.b.c", "v2.k1.a.b", "v1.k1.!!.AA", "v1.k1.AA.!", "v1.k1.ä.AA", "v1.k1.A.AA"]
)
def test_what_is_no_ticket_is_malformed(ticket: str) -> None:
    assert refusal(ticket) == "malformed"


def test_signed_nonsense_is_malformed() -> None:
    import hmac

    payload = base64.urlsafe_b64encode(b'{"cluster":1}').rstrip(b"=").decode()
    head = f"v1.k1.{payload}"
    signature = base64.urlsafe_b64encode(hmac.digest(OLD[1], head.encode(), "sha256")).rstrip(b"=").decode()

    assert refusal(f"{head}.{signature}") == "malformed"


def test_a_ticket_lives_to_its_time_and_a_leeway() -> None:
    ticket = sign(RING, CLAIMS)

    verify(RING, ticket, cluster="forebay", now_s=CLAIMS.expires_at_s + LEEWAY_S)
    assert refusal(ticket, now_s=CLAIMS.expires_at_s + LEEWAY_S + 0.001) == "expired"


def test_grace_keeps_an_expired_ticket_alive() -> None:
    ticket = sign(RING, CLAIMS)
    later_s = CLAIMS.expires_at_s + LEEWAY_S + 1000

    assert verify(RING, ticket, cluster="forebay", now_s=later_s, grace_s=1000) == CLAIMS


def test_a_ticket_of_another_cluster_reaches_nothing() -> None:
    with pytest.raises(PermissionDenied) as caught:
        verify(RING, sign(RING, CLAIMS), cluster="other", now_s=NOW_S)
    assert caught.value.details["reason"] == "wrong_cluster"


def test_keys_rotate_without_a_gap() -> None:
    old_ticket = sign(RING, CLAIMS)
    both_old_signs, both_new_signs, only_new = KeyRing((OLD, NEW)), KeyRing((NEW, OLD)), KeyRing((NEW,))

    assert verify(both_old_signs, old_ticket, cluster="forebay", now_s=NOW_S) == CLAIMS
    new_ticket = sign(both_new_signs, CLAIMS)
    assert verify(both_old_signs, new_ticket, cluster="forebay", now_s=NOW_S) == CLAIMS
    assert verify(both_new_signs, old_ticket, cluster="forebay", now_s=NOW_S) == CLAIMS
    assert refusal(old_ticket, only_new) == "unknown_key"
    assert verify(only_new, new_ticket, cluster="forebay", now_s=NOW_S) == CLAIMS


def test_a_key_file_is_read_in_order_with_comments() -> None:
    ring = parse_key_file(f"# first signs\nk2 {'ab' * 16}  # today\n\nk1 {'cd' * 32}\n", setting="cluster_key_file")

    assert ring.keys == (("k2", bytes.fromhex("ab" * 16)), ("k1", bytes.fromhex("cd" * 32)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# none\n",
        "k1\n",
        f"k1 {'zz' * 16}\n",
        f"k1 {'ab' * 15}\n",
        f"k1 {'ab' * 16} more\n",
        f"k.1 {'ab' * 16}\n",
        f"k1 {'ab' * 16}\nk1 {'cd' * 16}\n",
    ],
)
def test_a_key_file_of_another_shape_is_refused_without_its_secrets(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_key_file(text, setting="cluster_key_file")

    assert caught.value.setting == "cluster_key_file"
    assert "abab" not in str(caught.value)
    assert "zzzz" not in str(caught.value)


def test_a_ring_does_not_print_its_secrets() -> None:
    assert repr(KeyRing((OLD, NEW))) == "KeyRing(k1, k2)"
    assert OLD[1].hex() not in f"{RING!r} {RING!s}"


def test_tickets_hold_no_more_than_their_claims() -> None:
    payload = sign(RING, CLAIMS).split(".")[2]

    assert base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)) == encode(CLAIMS)
