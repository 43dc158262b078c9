"""What tuning gains without a pace: images/s over the same epochs, tuned beside untuned, in turn.

Both clusters are up from the first run to the last, over one dataset; after a run of each that does not count, runs are
made in pairs (`compare`). A run is `EPOCHS` epochs and begins without pages of any mount: the page cache serves the
second and third, where a switch allows it. Its clock runs from the call to the last batch, so what starts an epoch
(order hints, opening, the first bytes) counts on both sides. That the bytes of each run came from where they should is
checked by the workers' own counters. What one switch costs is measured in the same way, each on a cluster of its own
beside the tuned one, and is the ratio of its images/s to those of the tuned runs beside it.

Why so: with one run of each side the second found the memory that the first had fetched from the host of the virtual
machine, and processes that had already served; a run took a second or two, of which starting was a tenth, and the same
commit gave 2.9 and 3.5.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

from bench.figures import Figure, Options, Ratio, compare, environment, say
from bench.memory import drop_caches, kept_memory
from bench.train_cluster import UNTUNED, Mounted, mounted
from bench.train_job import ONE_THREAD, TUNED_INPUT, Job, Ran, job
from forebay.data import Files, StreamOptions

GAIN_MIN = 3.36
EPOCHS = 3
SHARDS = 48
"""1.7 GB: a run of the tuned side takes two seconds, one of the untuned seven."""

PAIRS_S = 70.0
"""After which no pair is begun; there are at least five."""

SWITCH_PAIRS = 3
ONE = "one_thread"
KEPT_BYTES = 3 << 30
"""Room for the page cache of a mount, kept from the host of a virtual machine once everything else has its memory: what
had to be fetched from the host first took the gateway's write of a page up to eight times as long."""

REMOTE, REMOTE_OFF_MAX = 0.75, 0.05
"""What workers send of the dataset to a mount with a quarter of it near, which keeps what it has read."""

Part = dict[str, Any]


class Side:
    """One way of reading, on a cluster that is up. Call it for a run: images/s."""

    def __init__(self, name: str, mount: Mounted, options: StreamOptions) -> None:
        self.name, self._mount, self._options = name, mount, options
        self.runs: list[Part] = []

    def __call__(self) -> float:
        made, first = self._mount.job, EPOCHS * len(self.runs)
        drop_caches()
        files, sent = self._mount.files(), self._mount.sent()
        ran = [epoch(made, files, self._options, number) for number in range(first, first + EPOCHS)]
        sent = self._mount.sent() - sent
        rate = sum(ran[1:], ran[0]).images_per_s
        self.runs.append({"by_epoch": [r.images_per_s for r in ran], "sent": sent / made.bytes, "rate": rate})
        return rate

    def told(self) -> Part:
        """Medians of its runs but the first, which does not count."""
        runs = self.runs[1:]
        return {
            "images_per_s": round(median(run["rate"] for run in runs), 1),
            "MBps": round(median(run["rate"] for run in runs) * self._mount.job.record_bytes / 1e6, 1),
            "by_epoch": [round(median(run["by_epoch"][n] for run in runs), 1) for n in range(EPOCHS)],
            "sent_in_datasets": round(median(run["sent"] for run in runs), 2),
        }


def epoch(made: Job, files: Files, options: StreamOptions, number: int) -> Ran:
    """One epoch by the clock around it: the job's own begins with the first batch."""
    began = time.monotonic()
    images = made.run(files, 0.0, options=options, epoch=number).images
    return Ran(images, time.monotonic() - began, 0.0)


def check_sent(told: Part, *, quick: bool) -> None:
    """That three quarters of the dataset came from workers in an ordinary run of the tuned side, and once. (The kernel
    may take pages from the page cache at any time: such a run is slower, and counts.)

    Raises:
        RuntimeError: it was otherwise.
    """
    sent = told["sent_in_datasets"]
    if abs(sent - REMOTE) > REMOTE_OFF_MAX and not quick:
        raise RuntimeError(f"workers sent {sent:.2f} of the dataset to the tuned side, not {REMOTE}")


@contextmanager
def ready(made: Job, switches: Sequence[str]) -> Iterator[Mounted]:
    """A cluster that holds the dataset."""
    with mounted(made, switches=switches) as mount:
        mount.spread()
        mount.warm()
        yield mount


def pairs(ours: Side, made: Job, options: Options) -> Part:
    """Tuned over untuned."""
    with ready(made, tuple(UNTUNED)) as mount, kept_memory(KEPT_BYTES):
        theirs = Side("untuned", mount, ONE_THREAD)
        found = compare(ours, theirs, goal=GAIN_MIN, options=options, name="train: tuned/untuned", budget_s=PAIRS_S)
        check_sent(ours.told(), quick=options.quick)
        firsts = [a["by_epoch"][0] / b["by_epoch"][0] for a, b in zip(ours.runs[1:], theirs.runs[1:], strict=False)]
        return _pairs_told(found, ours, theirs, median(firsts))


def _pairs_told(found: Ratio, ours: Side, theirs: Side, firsts: float) -> Part:
    return {
        "part": "pairs",
        "value": found.value,
        "tuned": ours.told(),
        "untuned": theirs.told(),
        "first_epoch_ratio": round(firsts, 2),
        **found.detail("images_per_s"),
    }


def alone(name: str, tuned: Mounted, made: Job, options: Options) -> Part:
    """What one switch costs, set as the starting point had it while all others are tuned."""
    if name == ONE:
        with kept_memory(KEPT_BYTES):
            return _alone(name, Side("tuned", tuned, TUNED_INPUT), Side(name, tuned, ONE_THREAD), options)
    with ready(made, (name,)) as mount, kept_memory(KEPT_BYTES):
        return _alone(name, Side("tuned", tuned, TUNED_INPUT), Side(name, mount, TUNED_INPUT), options)


def _alone(name: str, beside: Side, side: Side, options: Options) -> Part:
    ratios = []
    for number in range(1 + (1 if options.quick else SWITCH_PAIRS)):
        ratio = side() / beside()
        say(f"train: {name} alone: {ratio:.3f} of tuned{'' if number else ', does not count'}")
        ratios.append(ratio)
    return {
        "part": name,
        "lost": round(1 - median(ratios[1:]), 3),
        "ratios": [round(ratio, 3) for ratio in ratios[1:]],
        **side.told(),
    }


def names(options: Options) -> list[str]:
    """Parts of the whole, the figure's own first."""
    return ["pairs", ONE, *(() if options.quick else UNTUNED)]


def missing(options: Options, known: Sequence[Mapping[str, Any]]) -> list[str]:
    """Parts that no earlier run has measured."""
    return [name for name in names(options) if name not in {part["part"] for part in known}]


def known(options: Options) -> list[Part]:
    """What earlier runs have measured."""
    if options.parts is None or not options.parts.exists():
        return []
    return [json.loads(line) for line in options.parts.read_text().splitlines()]


def measured(options: Options, wanted: Sequence[str]) -> Iterator[Part]:
    """Each part; but for the first, none is begun after the time that was given."""
    until_s = time.monotonic() + options.seconds if options.seconds is not None else None
    with job(options, shards=SHARDS) as made, ready(made, ()) as mount:
        for name in wanted:
            if name != wanted[0] and until_s is not None and time.monotonic() > until_s:
                return
            if name == "pairs":
                yield pairs(Side("tuned", mount, TUNED_INPUT), made, options)
            else:
                yield alone(name, mount, made, options)


def tuned_vs_untuned(options: Options) -> Figure:
    """Images/s without a pace; and with one switch at a time set as the starting point had it."""
    found = known(options)
    wanted = missing(options, found)
    for part in measured(options, wanted) if wanted else ():
        found.append(part)
        if options.parts is not None:
            with options.parts.open("a") as file:
                file.write(json.dumps(part) + "\n")
    return told(found, options)


def told(parts: Sequence[Part], options: Options) -> Figure:
    """All parts as one figure."""
    by_name = {part["part"]: {k: v for k, v in part.items() if k != "part"} for part in parts}
    main = by_name.pop("pairs")
    detail = {
        **{k: v for k, v in main.items() if k != "value"},
        "lost_by_switch": {name: part["lost"] for name, part in by_name.items()},
        "not_measured": missing(options, parts),
        "alone": by_name,
        **environment(),
    }
    return Figure("train", "tuned_vs_untuned", main["value"], "ratio", GAIN_MIN, detail=detail)


FIGURES = {"tuned_vs_untuned": tuned_vs_untuned}
