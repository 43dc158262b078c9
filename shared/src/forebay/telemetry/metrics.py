"""Counters, gauges and histograms as plain Python numbers, shown at ``/metrics`` and, when asked, over OTLP.

The read path observes several values a request, so an instrument is a dict of numbers behind one lock and never a call
into the OpenTelemetry SDK. `Metrics.render` shapes them as Prometheus text; `forebay.telemetry.export` reads the same
numbers from observable instruments. Names are ``forebay_<service>_<noun>_<unit>[_total]``, or the dotted names of the
OpenTelemetry conventions (``http.server.request.duration``), which Prometheus sees as
``http_server_request_duration_seconds``. Labels never hold paths or block ids.
"""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from threading import Lock
from typing import Literal, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from forebay.errors import InternalError

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bucket bounds for durations: the conventions' own, widened downward, where our replies are."""

SERIES_MAX = 1000
"""Label sets an instrument holds; further ones are counted under `OVERFLOW` in every label."""

OVERFLOW = "_other"

Labels = tuple[str, ...]
Kind = Literal["counter", "gauge", "histogram"]

_NAME = re.compile(r"[a-z][a-z0-9]*([_.][a-z0-9]+)*")
_DOTTED_UNITS = {"duration": "seconds", "size": "bytes"}


class _Guard:
    """The lock around every update: one for all, held for nanoseconds, made anew in a forked child."""

    def __init__(self) -> None:
        self.lock = Lock()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self.lock = Lock()


_GUARD = _Guard()


@dataclass(frozen=True)
class Description:
    """What an instrument is called and what it means."""

    name: str
    doc: str
    kind: Kind
    labels: Labels
    buckets: tuple[float, ...] = ()


class Instrument:
    """Shared half of the three kinds: a description and a bounded set of series. Safe from any thread."""

    def __init__(self, description: Description) -> None:
        self.description = description

    def _admit(self, labels: Labels, series_count: int) -> Labels:
        if len(labels) != len(self.description.labels):
            raise InternalError(f"{self.description.name} takes the labels {self.description.labels}, not {labels}")
        return (OVERFLOW,) * len(labels) if series_count >= SERIES_MAX else labels


class Number(Instrument):
    """One number per label set."""

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        self._values: dict[Labels, float] = {} if description.labels else {(): 0.0}

    def _add(self, delta: float, labels: Labels) -> None:
        with _GUARD.lock:
            before = self._values.get(labels)
            if before is None:
                labels = self._admit(labels, len(self._values))
                before = self._values.get(labels, 0.0)
            self._values[labels] = before + delta

    def values(self) -> dict[Labels, float]:
        """A copy of all series."""
        with _GUARD.lock:
            return dict(self._values)

    def value(self, *labels: str) -> float:
        """One series; 0 when it was never touched."""
        return self._values.get(labels, 0.0)


class Cell:
    """One series of a counter, for the one thread that adds to it: ``count`` without the lock, a tenth of the time."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Counter(Number):
    """A sum that only grows."""

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        self._cells: dict[Labels, Cell] = {}

    def cell(self, *labels: str) -> Cell:
        """The series of ``labels`` as a number to be raised by one thread; asked for again, the same one. What `add`
        adds to the series counts as well."""
        with _GUARD.lock:
            known = self._cells.get(labels)
            if known is None:
                labels = self._admit(labels, len(self._values) + len(self._cells))
                known = self._cells.setdefault(labels, Cell())
        return known

    def values(self) -> dict[Labels, float]:
        """A copy of all series."""
        found = super().values()
        with _GUARD.lock:
            for labels, cell in self._cells.items():
                found[labels] = found.get(labels, 0.0) + cell.count
        return found

    def value(self, *labels: str) -> float:
        """One series; 0 when it was never touched."""
        cell = self._cells.get(labels)
        return super().value(*labels) + (0 if cell is None else cell.count)

    def add(self, amount: float, *labels: str) -> None:
        """Adds ``amount`` (≥ 0) to the series of ``labels``, given in the order of the declaration."""
        if amount < 0:
            raise InternalError(f"{self.description.name} is a counter and cannot fall by {-amount}")
        self._add(amount, labels)


class Gauge(Number):
    """A number that rises and falls; at rest it is where it was at the start."""

    def set(self, value: float, *labels: str) -> None:
        """Replaces the value."""
        with _GUARD.lock:
            if labels not in self._values:
                labels = self._admit(labels, len(self._values))
            self._values[labels] = value

    def add(self, delta: float, *labels: str) -> None:
        """Changes the value by ``delta``."""
        self._add(delta, labels)


class Observed(Instrument):
    """A gauge that is read when somebody looks."""

    def __init__(self, description: Description, read: Callable[[], float]) -> None:
        super().__init__(description)
        self.read = read

    def values(self) -> dict[Labels, float]:
        """The value now."""
        return {(): float(self.read())}


class ObservedBy(Observed):
    """As ``Observed``, with one value per label set."""

    def __init__(self, description: Description, read: Callable[[], Mapping[Labels, float]]) -> None:
        super().__init__(description, lambda: 0.0)
        self.read_all = read

    def values(self) -> dict[Labels, float]:
        """The values now; at most `SERIES_MAX` of them."""
        return {labels: float(value) for labels, value in islice(self.read_all().items(), SERIES_MAX)}


@dataclass(frozen=True)
class Distribution:
    """One series of a histogram. ``counts`` has one more item than there are bounds: the last is above them all."""

    counts: tuple[int, ...]
    total: float
    low: float
    high: float

    @property
    def count(self) -> int:
        """Observations in all buckets."""
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """Observations at or below each bound, the last one being all of them."""
        return list(accumulate(self.counts))


class _Series:
    __slots__ = ("counts", "high", "low", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.total = 0.0
        self.low, self.high = math.inf, -math.inf

    def frozen(self) -> Distribution:
        return Distribution(tuple(self.counts), self.total, self.low, self.high)


class Histogram(Instrument):
    """Counts per fixed bucket."""

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        self._series: dict[Labels, _Series] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Counts ``value`` in the bucket of the first bound that is not below it."""
        index = bisect_left(self.description.buckets, value)
        with _GUARD.lock:
            series = self._series.get(labels)
            if series is None:
                series = self._new(labels)
            series.counts[index] += 1
            series.total += value
            series.low, series.high = min(series.low, value), max(series.high, value)

    def _new(self, labels: Labels) -> _Series:
        labels = self._admit(labels, len(self._series))
        return self._series.setdefault(labels, _Series(len(self.description.buckets)))

    def distributions(self) -> dict[Labels, Distribution]:
        """A copy of all series."""
        with _GUARD.lock:
            return {labels: s.frozen() for labels, s in self._series.items()}


AnyInstrument = Counter | Gauge | Observed | Histogram
K = TypeVar("K", Counter, Gauge, Histogram)


class Metrics:
    """The instruments of one service, by name."""

    def __init__(self) -> None:
        self._instruments: dict[str, AnyInstrument] = {}
        self._watchers: list[Callable[[AnyInstrument], None]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Families(self))

    def counter(self, name: str, doc: str, labels: Labels = ()) -> Counter:
        """The counter ``name`` (ending in ``_total``); asked for again, the same one."""
        if not name.endswith("_total"):
            raise InternalError(f"the counter {name} must end in _total")
        return self._get(Counter, Description(name, doc, "counter", labels))

    def gauge(self, name: str, doc: str, labels: Labels = ()) -> Gauge:
        """The gauge ``name``; asked for again, the same one."""
        return self._get(Gauge, Description(name, doc, "gauge", labels))

    def histogram(self, name: str, doc: str, labels: Labels = (), buckets: tuple[float, ...] = SECONDS) -> Histogram:
        """The histogram ``name`` with rising ``buckets`` (upper bounds); asked for again, the same one."""
        if not buckets or any(a >= b for a, b in pairwise(buckets)):
            raise InternalError(f"the bounds of {name} do not rise")
        return self._get(Histogram, Description(name, doc, "histogram", labels, buckets))

    def observed(self, name: str, doc: str, read: Callable[[], float]) -> None:
        """A gauge whose value ``read`` gives at collection, from any thread; registered again, the new one counts."""
        known = self._instruments.get(name)
        if isinstance(known, Observed):
            known.read = read
            return
        self._add(Observed(Description(name, doc, "gauge", ()), read))

    def observed_by(self, name: str, doc: str, labels: Labels, read: Callable[[], Mapping[Labels, float]]) -> None:
        """A gauge per label set, read at collection, from any thread; registered again, the new one counts."""
        known = self._instruments.get(name)
        if isinstance(known, ObservedBy):
            known.read_all = read
            return
        self._add(ObservedBy(Description(name, doc, "gauge", labels), read))

    def render(self) -> bytes:
        """All instruments in the Prometheus text form (version 0.0.4)."""
        return generate_latest(self._registry)

    def __iter__(self) -> Iterator[AnyInstrument]:
        return iter(tuple(self._instruments.values()))

    def on_new(self, watcher: Callable[[AnyInstrument], None]) -> None:
        """Calls ``watcher`` for each instrument, those there are and those to come."""
        self._watchers.append(watcher)
        for instrument in self:
            watcher(instrument)

    def _get(self, kind: type[K], description: Description) -> K:
        known = self._instruments.get(description.name)
        if known is None:
            made = kind(description)
            self._add(made)
            return made
        d = known.description
        if not isinstance(known, kind) or (d.labels, d.buckets) != (description.labels, description.buckets):
            raise InternalError(f"{d.name} exists as a {d.kind} with labels {d.labels}")
        return known

    def _add(self, instrument: AnyInstrument) -> None:
        name = instrument.description.name
        if name in self._instruments or not _NAME.fullmatch(name):
            raise InternalError(f"{name} is taken, or no metric name")
        self._instruments[name] = instrument
        for watcher in self._watchers:
            watcher(instrument)


def prometheus_name(name: str) -> str:
    """The name as Prometheus shows it: dots become underscores, a dotted name gets its unit."""
    unit = _DOTTED_UNITS.get(name.rpartition(".")[2]) if "." in name else None
    return name.replace(".", "_") + (f"_{unit}" if unit else "")


class _Families(Collector):
    """Shapes instruments for prometheus_client when it renders."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return [_family(instrument) for instrument in self._metrics]


def _family(instrument: AnyInstrument) -> Metric:
    d = instrument.description
    name, labels = prometheus_name(d.name), [label.replace(".", "_") for label in d.labels]
    if isinstance(instrument, Histogram):
        return _histogram_family(instrument, name, labels)
    family = (CounterMetricFamily if d.kind == "counter" else GaugeMetricFamily)(name, d.doc, labels=labels)
    for values, number in sorted(instrument.values().items()):
        family.add_metric(values, number)
    return family


def _histogram_family(instrument: Histogram, name: str, labels: Sequence[str]) -> Metric:
    family = HistogramMetricFamily(name, instrument.description.doc, labels=labels)
    bounds = [*map(str, instrument.description.buckets), "+Inf"]
    for values, d in sorted(instrument.distributions().items()):
        family.add_metric(values, list(zip(bounds, d.cumulative(), strict=True)), d.total)
    return family
