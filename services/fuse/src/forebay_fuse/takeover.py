"""Taking a session over from a gateway that died: what it had told the kernel, and what it was at.

Everything in flight stands in the journal's slots. Where the kernel can send it again (Linux 6.9) it is asked to, else
it is answered from the slots. The one thing that the journal cannot say is whether the reply to its last group went
out; the kernel can: if it still waits for that reply, it was told nothing of the group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from forebay.errors import ConfigError, NotReady
from forebay.runtime import logs
from forebay_fuse import logbook, mounting
from forebay_fuse.backing import Backings
from forebay_fuse.device import Device, is_awaited
from forebay_fuse.journal import InitRecord, Kept
from forebay_fuse.keeping import SETTING
from forebay_fuse.memfd import MemfdJournal, Waiting
from forebay_fuse.protocol.layout import ROOT_ID, Init, Op
from forebay_fuse.protocol.recovery import RESENT
from forebay_fuse.view import View

FORGETS = (Op.FORGET, Op.BATCH_FORGET)
LOG = logs.get(__name__)


@dataclass(frozen=True)
class Plan:
    """What becomes of the requests that were in flight. ``untold``: the kernel never heard of the last group."""

    untold: bool
    answer: tuple[Waiting, ...]
    over: tuple[Waiting, ...]


def plan(left: Iterable[Waiting], last_unique: int, awaited: Callable[[int], bool]) -> Plan:
    """Pure but for ``awaited``, which asks the kernel. ``last_unique`` is the request of the last group (0: none).

    A FORGET gets no reply: its group is its end. An INTERRUPT comes after the request that it is for.
    """
    untold, answer, over = False, list[Waiting](), list[Waiting]()
    for waiting in sorted(left, key=lambda w: w.unique & ~RESENT):
        if waiting.opcode in FORGETS:
            is_open = waiting.unique != last_unique
        elif waiting.opcode == Op.INTERRUPT:
            is_open = True
        else:
            is_open = awaited(waiting.unique)
            untold = untold or (is_open and waiting.unique == last_unique)
        (answer if is_open else over).append(waiting)
    return Plan(untold, tuple(answer), tuple(over))


@dataclass(frozen=True)
class Left:
    """What a dead gateway left: its journal, what that says, and the plan for what was in flight."""

    journal: MemfdJournal
    kept: Kept
    plan: Plan
    untold_backing: tuple[int, ...] = ()


def read_kept(held: Sequence[int], open_kept: Callable[[Sequence[int]], MemfdJournal | None]) -> Left:
    """Reads what a keeper held, and cuts off what is torn or was never told.

    Raises:
        NotReady: the kernel has ended the session. ConfigError: it is no journal that we can read.
    """
    device = held[0]
    if not mounting.is_alive(device):
        raise NotReady("the mount that the keeper held is gone")
    journal = open_kept(held[1:])
    if journal is None:
        raise ConfigError(SETTING, "holds a mount of a gateway whose journal has another form: unmount it first")
    return read(journal, lambda unique: is_awaited(device, unique))


def read(journal: MemfdJournal, awaited: Callable[[int], bool]) -> Left:
    """As `read_kept`, with the journal and the kernel as arguments."""
    tables, last = logbook.Tables(), logbook.Framed(0, len(logbook.MAGIC), logbook.Group(0, ()))
    for framed in logbook.groups(journal.log()):
        tables.add(last.group.entries)  # all but the last are known to be told
        last = framed
    found = plan(journal.left(), last.group.unique, awaited)
    untold = last.group.entries if found.untold else ()
    if not found.untold:
        tables.add(last.group.entries)
    kept = tables.kept()
    if kept.session is None or ROOT_ID not in kept.inodes:
        raise ConfigError(SETTING, "what it holds is no mount of ours")
    journal.cut(last.start if found.untold else last.end, len(kept.inodes))
    known = set(kept.backing.values())
    lost = tuple(e.backing_id for e in untold if isinstance(e, logbook.OpenedEntry) and e.backing_id not in {0, *known})
    return Left(journal, kept, found, lost)


def settle(left: Left, device: Device, *, resend: bool) -> dict[str, int]:
    """Sees to what was in flight, before anything new is read; gives counts for the log."""
    journal, init = left.journal, left.kept.init
    can = resend and init is not None and bool(init.flags & Init.HAS_RESEND)
    resent = can and device.resend()
    for waiting in left.plan.over:
        journal.drop(waiting)
    answered = 0
    for waiting in left.plan.answer:
        if resent and waiting.opcode not in FORGETS:
            journal.drop(waiting, resent=True)
        else:
            answered += 1
            device.again(waiting.request, poisoned=not journal.keep(waiting))
    return {"in_flight": len(left.plan.answer), "from_slots": answered, "told_already": len(left.plan.over)}


def give_back(backing: Iterable[int], backings: Backings) -> None:
    """Backing files of opens that the kernel never heard of."""
    for number in backing:
        try:
            backings.close(number)
        except OSError as e:
            LOG.warning("backing_not_closed", error=str(e))


def session_of(kept: Kept, device: int) -> mounting.Session:
    """The session, as it was mounted."""
    assert kept.session is not None
    _, _, mountpoint, privileged, number = kept.session
    return mounting.Session(device, Path(mountpoint), privileged, number)


def asked_for(mountpoint: Path) -> str:
    """The mount point as it was asked for, without a look at it."""
    return os.path.abspath(mountpoint)


def root_of(kept: Kept) -> str:
    """The directory of the namespace that the mount shows, whatever the settings say now."""
    assert kept.session is not None
    return kept.session.root


def check_mountpoint(kept: Kept, asked: Path) -> None:
    """Raises ConfigError if the keeper holds another mount than the one that is wanted."""
    assert kept.session is not None
    if asked_for(asked) != kept.session.asked:
        raise ConfigError(SETTING, f"holds the mount on {kept.session.asked}, not one on {asked}")


def as_agreed(view: View, init: InitRecord | None) -> View:
    """The view with what was agreed on with the kernel, whatever the settings say now."""
    return view if init is None else replace(view, max_pages=init.max_pages, max_background=init.max_background)
