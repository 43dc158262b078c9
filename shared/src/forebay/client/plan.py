"""Whom to ask for a block, in which order, and how long each may take. Pure.

Only failure or deadline of the home lets another fill (DESIGN 5): the home is asked as an entry worker is; whoever
comes after it is told ``forebay-hop: 1``, which means "answer from your cache or from the under store, do not ask the
home again".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from forebay.contracts import Member
from forebay.errors import (
    DeadlineExceeded,
    ForebayError,
    InternalError,
    NotLeader,
    NotReady,
    Overloaded,
    PeerError,
    UfsUnavailable,
)

STEPS_MAX = 4
"""Members asked in one round of a read."""

SUSPECT_S_MIN, SUSPECT_S_MAX = 0.5, 16.0
"""How long a member that failed is asked last; doubled by each failure in a row."""


@dataclass(frozen=True)
class Step:
    """Ask ``member``; ``hop`` forbids it to forward; ``probe`` forbids it to fill as well (``only-if-cached``);
    ``timeout_s`` is its share of the time left."""

    member: Member
    hop: bool
    timeout_s: float
    probe: bool = False


@dataclass(frozen=True)
class Holders:
    """Who may hold a block, as this client knows it.

    ``entry`` is the location policy's entry worker, if it names one; ``offered`` the member that keeps the block in
    its home's stead; ``lacking`` were asked and do not hold it.
    """

    ranked: Sequence[Member]
    replicas: int = 1
    entry: Member | None = None
    offered: Member | None = None
    lacking: Collection[str] = ()


def steps(
    holders: Holders,
    *,
    suspects: Collection[str],
    remaining_s: float,
    step_s: float,
    pick: Callable[[Sequence[Member]], Member] | None = None,
) -> list[Step]:
    """The order of one round: entry worker, home (or the replica that ``pick`` chooses, by two-choice selection), other
    replicas, next in ranking.

    Members that are down are skipped; suspects are asked last, and still asked, for they may be all there is. A member
    that was offered the block is probed before its home is asked.
    """
    alive = [m for m in holders.ranked if m.state != "down"]
    owners, others = alive[: holders.replicas], alive[holders.replicas :]
    if pick is not None and len(owners) > 1:
        first = pick(owners)
        owners = [first, *(m for m in owners if m.member_id != first.member_id)]
    entry = [holders.entry] if holders.entry is not None else []
    order = _distinct([*entry, *owners, *others])
    if suspects:
        order.sort(key=lambda m: m.member_id in suspects)
    chosen = order[:STEPS_MAX]
    may_forward = {m.member_id for m in (*entry, *holders.ranked[: holders.replicas])}
    asked = [
        Step(m, m.member_id not in may_forward, step_timeout(remaining_s, len(chosen) - i, step_s))
        for i, m in enumerate(chosen)
    ]
    offered = holders.offered
    if offered is not None and not entry and offered.member_id not in {*suspects, *holders.lacking}:
        asked.insert(0, Step(offered, True, step_timeout(remaining_s, len(asked) + 1, step_s), probe=True))
    return asked


def hedge_member(holders: Holders, first: Step, *, suspects: Collection[str]) -> Member | None:
    """Whom to ask a second time while ``first`` does not answer: the next that may hold the block and is not known to
    be in trouble. Asked ``only-if-cached``, so that it can never cause a second fill."""
    likely = [m for m in holders.ranked if m.state != "down"][: max(2, holders.replicas)]
    if holders.offered is not None:
        likely.insert(0, holders.offered)
    shunned = {first.member.member_id, *suspects, *holders.lacking}
    return next((m for m in likely if m.member_id not in shunned), None)


def _distinct(members: Sequence[Member]) -> list[Member]:
    return list({m.member_id: m for m in members}.values())


def step_timeout(remaining_s: float, steps_left: int, step_s: float) -> float:
    """A step's time: ``step_s``, but never so much that the steps after it would get less than a fair share."""
    return min(step_s, remaining_s if steps_left <= 1 else remaining_s / 2)


def goes_on(error: ForebayError) -> bool:
    """Whether the next member may do better than the one that answered ``error``."""
    tries = PeerError | DeadlineExceeded | Overloaded | NotReady | NotLeader | InternalError | UfsUnavailable
    return isinstance(error, tries)


def blames_member(error: ForebayError) -> bool:
    """Whether ``error`` says that the member itself is in trouble (and not the under store behind it)."""
    return isinstance(error, PeerError | DeadlineExceeded | NotReady)


def round_pause_s(round_index: int) -> float:
    """Wait before round ``round_index`` (1-based) after every member failed in the round before."""
    return min(0.05 * 2.0**round_index, 2.0)


@dataclass(frozen=True)
class Suspicion:
    """A member that failed ``failures`` times in a row and is asked last until ``until_s``, and from then on while one
    request tries whether it is well (``on_trial``)."""

    failures: int
    until_s: float
    on_trial: bool = False


class Suspects:
    """Members that failed lately, as this client saw it. Bounded by the members that exist (``forget_others``).

    When its time is over, one request at a time goes to a suspect: a member that swallows requests would otherwise
    catch all readers at once, again and again.
    """

    def __init__(self) -> None:
        self._held: dict[str, Suspicion] = {}

    def failed(self, member_id: str, now_s: float) -> None:
        """One more failure in a row."""
        failures = self._held[member_id].failures + 1 if member_id in self._held else 1
        pause = min(SUSPECT_S_MIN * 2.0 ** min(failures - 1, 10), SUSPECT_S_MAX)
        self._held[member_id] = Suspicion(failures, now_s + pause)

    def asked(self, member_id: str, now_s: float) -> None:
        """A request to the member begins: the trial, if its time is over."""
        held = self._held.get(member_id) if self._held else None
        if held is not None and now_s >= held.until_s and not held.on_trial:
            self._held[member_id] = Suspicion(held.failures, held.until_s, on_trial=True)

    def given_up(self, member_id: str) -> None:
        """A request ended without a word about the member: the next one may be the trial."""
        held = self._held.get(member_id) if self._held else None
        if held is not None and held.on_trial:
            self._held[member_id] = Suspicion(held.failures, held.until_s)

    def answered(self, member_id: str) -> None:
        """The member is well again."""
        self._held.pop(member_id, None)

    def now(self, now_s: float) -> frozenset[str]:
        """Who is to be asked last."""
        return frozenset(m for m, s in self._held.items() if s.on_trial or now_s < s.until_s)

    def forget_others(self, member_ids: Collection[str]) -> None:
        """Drop those that left the map."""
        self._held = {m: s for m, s in self._held.items() if m in member_ids}
