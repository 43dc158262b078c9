"""curl against a service: what a stranger with no library of ours gets."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PROTOCOLS = {"1.1": "--http1.1", "2": "--http2-prior-knowledge"}


@dataclass(frozen=True)
class Answer:
    """Status, version of HTTP, and body of an answer."""

    status: int
    version: str
    body: str

    @property
    def error(self) -> dict[str, Any]:
        """The body, which must be an error of ours."""
        found: dict[str, Any] = json.loads(self.body)
        assert {"code", "message", "details", "retryable"} <= set(found), found
        return found


def curl(port: int, path: str, *args: str, http: str = "1.1", body: bytes | None = None) -> Answer:
    """One request; ``body`` is sent as it is."""
    data = ["--data-binary", "@-", "-H", "content-type: application/json"] if body is not None else []
    command = ["curl", "-sS", "--max-time", "20", PROTOCOLS[http], "-H", "expect:", *data, *args]
    done = subprocess.run(
        [*command, "-w", "\n%{http_code} %{http_version}", f"http://127.0.0.1:{port}{path}"],
        input=body or b"", capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr.decode())
    text, _, last = done.stdout.decode().rpartition("\n")
    status, version = last.split()
    return Answer(int(status), version, text)


def post(port: int, path: str, body: str | bytes, *, http: str = "1.1", headers: Sequence[str] = ()) -> Answer:
    """A POST with that body."""
    data = body.encode() if isinstance(body, str) else body
    return curl(port, path, *(part for header in headers for part in ("-H", header)), http=http, body=data)
