"""What the page shows, made of what workers answered. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from forebay.contracts import Member, StatusReply
from forebay.contracts.overview import ReadSample, TierView, Trouble, WorkerView

SOURCES = ("local", "mem", "ssd", "peer", "ufs")
STALE_S = 15.0
SLOW_FACTOR = 4.0
SLOW_S = 0.1
"""A worker is slow whose status takes this long and so many times as long as the median worker's."""

LOW_SHARE = 0.25
"""A serving weight below this share of the median is shown."""

TROUBLES_MAX = 50


@dataclass(frozen=True)
class Answer:
    """A worker's status, when it came (seconds since the epoch) and how long it took. ``reads`` are sums since the
    worker's start."""

    status: StatusReply
    at_s: float
    took_s: float
    reads: Mapping[str, int] = field(default_factory=dict)


def answer_of(status: StatusReply, at_s: float, took_s: float) -> Answer:
    """An answer with its sums."""
    reads = status.detail.get("reads")
    sums = {name: _int(reads.get(name)) for name in SOURCES} if isinstance(reads, dict) else {}
    return Answer(status, at_s, took_s, sums)


def worker_view(member: Member, answer: Answer | None, others: Iterable[Answer], now_s: float) -> WorkerView:
    """One worker beside all that answered."""
    if answer is None:
        return WorkerView(member=member, age_s=None, slow_because=("it has not answered",))
    detail = answer.status.detail
    return WorkerView(
        member=member,
        age_s=round(max(0.0, now_s - answer.at_s), 1),
        serving_weight=_share(detail.get("serving_weight")),
        reads_in_flight=_int(detail.get("reads_in_flight")),
        tiers=tuple(_tiers(detail)),
        slow_because=tuple(_faults(member, answer, list(others), now_s)),
    )


def _tiers(detail: Mapping[str, Any]) -> Iterable[TierView]:
    for name, value in detail.items():
        if name.startswith("tier") and isinstance(value, dict) and value.get("tier") in ("MEM", "SSD"):
            yield TierView(
                tier=value["tier"],
                capacity_bytes=_int(value.get("capacity_bytes")),
                used_bytes=_int(value.get("used_bytes")),
                in_service=value.get("in_service") is True,
            )


def _faults(member: Member, answer: Answer, others: list[Answer], now_s: float) -> Iterable[str]:
    detail = answer.status.detail
    if member.state != "live":
        yield f"it is {member.state}"
    if now_s - answer.at_s > STALE_S:
        yield f"it has not answered for {now_s - answer.at_s:.0f} s"
    if not answer.status.ready:
        yield f"it waits for {', '.join(answer.status.waiting_for)}"
    if answer.took_s > max(SLOW_S, SLOW_FACTOR * median(other.took_s for other in others)):
        yield f"it took {answer.took_s * 1000:.0f} ms to answer"
    weight = _share(detail.get("serving_weight"))
    if weight < LOW_SHARE * median(_share(other.status.detail.get("serving_weight")) for other in others):
        yield f"its serving weight is {weight:.2f}"
    if any(not tier.in_service for tier in _tiers(detail)):
        yield "a tier directory errs"
    for name, value in detail.items():
        if name.startswith("health ") and isinstance(value, dict) and _share(value.get("score")) < 1.0:
            yield f"{name.removeprefix('health ')} gives {_share(value.get('score')):.2f}: {value.get('reason') or ''}"


def sample_of(before: Mapping[str, Answer], after: Mapping[str, Answer], at_s: float, span_s: float) -> ReadSample:
    """What was read between two rounds. A worker that started anew counts from zero."""
    sums = dict.fromkeys(SOURCES, 0)
    for member_id, answer in after.items():
        old = before.get(member_id)
        if old is None:
            continue
        anew = old.status.started_at_s != answer.status.started_at_s
        for name in SOURCES:
            sums[name] += max(0, answer.reads.get(name, 0) - (0 if anew else old.reads.get(name, 0)))
    return ReadSample(at_s=at_s, span_s=span_s, **sums)


def held_bytes(answers: Iterable[Answer]) -> dict[str, int]:
    """By mount id."""
    sums: dict[str, int] = {}
    for answer in answers:
        held = answer.status.detail.get("held_bytes")
        for mount_id, size in held.items() if isinstance(held, dict) else ():
            sums[mount_id] = sums.get(mount_id, 0) + _int(size)
    return sums


def troubles(answers: Iterable[Answer]) -> list[Trouble]:
    """The newest first."""
    found = [
        Trouble(
            at_s=float(value.get("at_s") or 0.0),
            member_id=answer.status.member_id,
            level=str(value.get("level")),
            event=str(value.get("event")),
            reason=str(value.get("reason") or ""),
        )
        for answer in answers
        for name, value in answer.status.detail.items()
        if name.startswith("recent ") and isinstance(value, dict)
    ]
    return sorted(found, key=lambda trouble: -trouble.at_s)[:TROUBLES_MAX]


def _int(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) and value >= 0 else 0


def _share(value: object) -> float:
    return min(1.0, max(0.0, float(value))) if isinstance(value, (int, float)) else 0.0
