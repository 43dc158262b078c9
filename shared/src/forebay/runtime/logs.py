"""Logs: one JSON object a line on standard error, with the current trace, and never a secret.

Two nets keep secrets out: a field whose name says that it holds one is masked, and text that was registered with
`hide`, or has the shape of a ticket or a bearer token, is masked wherever it stands in a line.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from forebay.errors import ConfigError
from forebay.telemetry import current_context

LEVELS = ("debug", "info", "warning", "error")
HIDDEN_MAX = 1024
MASK = "[hidden]"
SPARSE_S = 60.0

_HIDDEN: OrderedDict[str, None] = OrderedDict()
_SECRET_NAME = re.compile(r"(?i)(secret|password|passwd|token|ticket|authorization|credential|private|access_?key)")
_SECRET_NAME_NOT = re.compile(r"(?i)(_file|_count|_id|_ttl_s|_total|_s|_seconds)$")
_SECRET_TEXT = re.compile(
    r"v1\.[A-Za-z0-9]+\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}"  # a ticket
    r"|(?<=[Bb]earer )[^\s\"']+"
    r"|(?<=X-Amz-Signature=)[0-9a-fA-F]+|(?<=X-Amz-Security-Token=)[^&\s\"']+|(?<=Signature=)[0-9a-f]{32,}"
    r"|(?<=://)[^/\s\"'@:]+:[^/\s\"'@]+(?=@)"  # user:password in a URL
)


def hide(secret: str) -> None:
    """Masks ``secret`` in every later line (the newest `HIDDEN_MAX` are remembered; under 8 characters: not at all)."""
    if len(secret) < 8:
        return
    _HIDDEN[secret] = None
    _HIDDEN.move_to_end(secret)
    while len(_HIDDEN) > HIDDEN_MAX:
        _HIDDEN.popitem(last=False)


def redact(text: str) -> str:
    """``text`` without registered secrets, tickets, bearer tokens, signatures and passwords in URLs."""
    for secret in _HIDDEN:
        if secret in text:
            text = text.replace(secret, MASK)
    return _SECRET_TEXT.sub(MASK, text)


RECENT_MAX = 50
TROUBLE_CHARS_MAX = 300


@dataclass(frozen=True)
class Line:
    """A warning or an error that was logged."""

    at_s: float
    level: str
    event: str
    reason: str


_RECENT: deque[Line] = deque(maxlen=RECENT_MAX)


def recent() -> list[Line]:
    """The last warnings and errors of this process, newest first; secrets are masked."""
    return list(reversed(_RECENT))


class _Recent(logging.Handler):
    """Keeps the last warnings and errors for the status page."""

    def emit(self, record: logging.LogRecord) -> None:
        said = record.msg if isinstance(record.msg, dict) else {"event": record.getMessage()}
        reason = next((str(said[name]) for name in ("reason", "error", "message") if said.get(name)), "")
        event, why = (redact(text)[:TROUBLE_CHARS_MAX] for text in (str(said.get("event", "")), reason))
        _RECENT.append(Line(record.created, record.levelname.lower(), event, why))


def setup(service: str, level: str, json: bool) -> None:
    """Configures this process's logging, the standard library's loggers of third parties included.

    Raises:
        ConfigError: ``level`` is none of `LEVELS`.
    """
    if level not in LEVELS:
        raise ConfigError("log_level", f"{level!r} is none of {', '.join(LEVELS)}")
    number = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(service, json=json))
    handler.addFilter(_Sparse("opentelemetry."))
    root = logging.getLogger()
    root.handlers[:] = [handler, _Recent(logging.WARNING)]
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger("forebay").setLevel(number)


def get(name: str) -> FilteringBoundLogger:
    """The logger ``name``, below ``forebay`` (``forebay_master.app`` becomes ``forebay.master.app``).

    In a program that did not call `setup` (a user's own), lines go where that program's ``logging`` sends them.
    """
    dotted = name.replace("forebay_", "forebay.", 1)
    full = dotted if dotted == "forebay" or dotted.startswith("forebay.") else f"forebay.{dotted}"
    logger = structlog.wrap_logger(
        logging.getLogger(full),
        processors=[structlog.stdlib.filter_by_level, *_SHARED, _hand_over],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return cast(FilteringBoundLogger, logger)


class _Sparse(logging.Filter):
    """Lets through one line a minute of a third party that repeats itself while its peer is away."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix
        self._next_s = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(self._prefix):
            return True
        due = record.created >= self._next_s
        self._next_s = record.created + SPARSE_S if due else self._next_s
        return due


class _Redacting(logging.Formatter):
    """Masks secrets in the finished line, tracebacks included."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return redact(self._inner.format(record))


def _formatter(service: str, *, json: bool) -> logging.Formatter:
    # Plain tracebacks: rich ones print locals, and a wrapped secret escapes the mask.
    last: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if json
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    clean = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return _Redacting(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=[clean, _service(service), *last])
    )


def _service(service: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    return add


def _trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    context = current_context()
    if context is not None:
        event["trace_id"], event["span_id"] = context.trace_id, context.span_id
    return event


def _mask(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for name in event:
        if _SECRET_NAME.search(name) and not _SECRET_NAME_NOT.search(name):
            event[name] = MASK
    return event


def _hand_over(logger: WrappedLogger, method: str, event: EventDict) -> tuple[Any, ...] | str:
    if any(isinstance(handler.formatter, _Redacting) for handler in logging.getLogger().handlers):
        return structlog.stdlib.ProcessorFormatter.wrap_for_formatter(logger, method, event)
    for name in ("level", "logger", "timestamp"):  # the program's own format has them
        event.pop(name, None)
    said = f"{event.pop('event', '')} "
    return redact(said + str(_LOGFMT(logger, method, structlog.processors.format_exc_info(logger, method, event))))


_LOGFMT = structlog.processors.KeyValueRenderer(repr_native_str=False)
_SHARED: list[Processor] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _trace,
    _mask,
]
