"""The one door where errors leave the command line: a sentence, the next step, and the exit code that says what kind.

Exit codes: 0 done. 1 it failed, or was done in part (a load that misses blocks, a doctor that found a switch without
effect). 2 the command line or a setting is wrong; nothing was begun. 3 the cluster does not answer. 130 interrupted.
``forebay up … -- CMD`` ends with CMD's own code (128 + the signal that ended it).
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import time
from collections.abc import Iterable, Iterator

import typer
from rich.console import Console
from rich.markup import escape

from forebay.errors import (
    ConfigError,
    DeadlineExceeded,
    Detail,
    ForebayError,
    NotFound,
    Overloaded,
    PeerUnavailable,
    PermissionDenied,
    Unauthenticated,
)
from forebay.runtime import logs

EXIT_FAILED, EXIT_CONFIG, EXIT_AWAY, EXIT_INTERRUPTED = 1, 2, 3, 130
EXIT_CODES = (
    "Exit codes: 0 done; 1 failed, or done in part; 2 wrong command line or setting; 3 the cluster does not"
    " answer; 130 interrupted; 'up … -- CMD' ends with CMD's own."
)


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def next_step(error: ForebayError) -> str:
    """What to do about it, where the error itself does not say."""
    if isinstance(error, PeerUnavailable | DeadlineExceeded):
        return "is the cluster up, and does --registry (FOREBAY_REGISTRY) name one of its masters?"
    if isinstance(error, Unauthenticated) and error.details.get("reason") == "admin_token":
        return "give --admin-token-file (FOREBAY_ADMIN_TOKEN_FILE)"
    if isinstance(error, PermissionDenied) and "admin token" in error.message:
        return "run it on the service's own host, or configure a token on both sides"
    if isinstance(error, NotFound) and "path" in error.details:
        return f"'forebay ls' and 'forebay mounts' show what is there: {error.details['path']}"
    if "sync_error" in error.details:
        return f"the listing failed ({error.details['sync_error']}); {when_again(error.details.get('retry_at_s'))}"
    return "try again in a moment" if isinstance(error, Overloaded) else ""


def when_again(retry_at_s: Detail) -> str:
    """When the under store is asked again."""
    if not isinstance(retry_at_s, int | float) or retry_at_s <= time.time():
        return "the next request asks the under store again"
    at = time.strftime("%H:%M:%S", time.localtime(retry_at_s))
    return f"the under store is asked again from {at} on ({retry_at_s - time.time():.0f} s), by 'forebay sync' at once"


def exit_code(error: ForebayError) -> int:
    """Which kind of failure. Pure."""
    if isinstance(error, ConfigError):
        return EXIT_CONFIG
    return EXIT_AWAY if isinstance(error, PeerUnavailable | DeadlineExceeded) else EXIT_FAILED


def sentence(error: ForebayError) -> str:
    """One line for a person, secrets struck out."""
    said = str(error) if isinstance(error, ConfigError) else error.message
    step = next_step(error)
    return logs.redact(f"error: {said}" + (f" ({step})" if step else ""))


def errors_console() -> Console:
    """Where people are spoken to: standard error."""
    return Console(stderr=True, highlight=False)


@contextlib.contextmanager
def errors(console: Console | None = None) -> Iterator[None]:
    """Turns what is raised inside into a sentence and an exit code."""
    try:
        yield
    except ForebayError as e:
        (console or errors_console()).print(escape(sentence(e)), soft_wrap=True)
        raise typer.Exit(exit_code(e)) from e
    except BrokenPipeError:
        # The reader of our output went away (head, less): no error, and nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
