"""Marks where a training's steps begin and end, and has everything that reads for it record what it waits for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import orjson

from forebay.errors import InvalidRequest
from forebay.steps.attribution import GATEWAY
from forebay.telemetry import waits

T = TypeVar("T")

GATEWAY_POLL_S = 2.0
"""How often gateways are asked: they remember the last ``waits.RING`` spans."""

ASKED = ".forebay/waits"


class Steps:
    """See the package. For one thread of one process; ``folder`` is made, and must have no steps of another run.

    What the accelerator computes is the time between ``ready`` and the next ``waiting``: let it finish its work there
    (``torch.cuda.synchronize``) if it runs beside the program.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._file: waits.SpanFile | None = None
        self._before: waits.Sink | None = None
        self._environ: str | None = None
        self._epoch, self._since_s, self._is_waiting, self._images = 0, 0.0, False, 0
        self._ended = threading.Event()
        self._asking: threading.Thread | None = None
        self._seen: dict[str, int] = {}

    def __enter__(self) -> Steps:
        self.folder.mkdir(parents=True, exist_ok=True)
        if any(self.folder.glob(f"*{waits.SUFFIX}")):
            raise InvalidRequest(f"{self.folder} has steps of another run; give another folder")
        self._file = waits.SpanFile(self.folder)
        self._before = waits.record_to(self._file.add)
        self._environ = os.environ.get(waits.VARIABLE)
        os.environ[waits.VARIABLE] = str(self.folder)
        self._asking = threading.Thread(target=self._ask_gateways, name="forebay-steps", daemon=True)
        self._asking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done()
        self._ended.set()
        assert self._asking is not None
        assert self._file is not None
        self._asking.join()
        self._ask_once()
        waits.record_to(self._before)
        self._file.close()
        os.environ.pop(waits.VARIABLE)
        if self._environ is not None:
            os.environ[waits.VARIABLE] = self._environ

    def __call__(self, batches: Iterable[T], *, images: int | Callable[[T], int], epoch: int = 0) -> Iterator[T]:
        """The batches; what lies between two of them is a step of ``images``."""
        self.waiting(epoch)
        for batch in batches:
            self.ready(images if isinstance(images, int) else images(batch))
            yield batch
            self.waiting(epoch)
        self._since_s, self._is_waiting = 0.0, False  # the last wait was for a batch that does not come

    # -- for callbacks

    def waiting(self, epoch: int | None = None) -> None:
        """A step has ended; the training waits for the next batch."""
        now_s = time.monotonic()
        if self._since_s and not self._is_waiting:
            waits.mark("compute", self._since_s, now_s, epoch=self._epoch, count=self._images)
        self._epoch = self._epoch if epoch is None else epoch
        self._since_s, self._is_waiting = now_s, True

    def ready(self, images: int) -> None:
        """The batch is here, with so many images; a step begins."""
        now_s = time.monotonic()
        if self._is_waiting:
            waits.mark("wait", self._since_s, now_s, epoch=self._epoch, count=images)
        self._since_s, self._is_waiting, self._images = now_s, False, images

    def done(self) -> None:
        """The last step has ended."""
        self.waiting()
        self._since_s, self._is_waiting = 0.0, False

    # -- the gateways of the mounts in use

    def _ask_gateways(self) -> None:
        while not self._ended.wait(GATEWAY_POLL_S):
            self._ask_once()

    def _ask_once(self) -> None:
        for root in waits.mounts_used():
            text = _gateway_says(Path(root))
            if text:
                self._take(root, text)

    def _take(self, root: str, text: bytes) -> None:
        """Appends what is new of a gateway's spans."""
        last, name = self._seen.get(root, -1), f"gateway-{sorted(waits.mounts_used()).index(root)}{waits.SUFFIX}"
        with (self.folder / name).open("ab") as file:
            for line in text.splitlines():
                number, _, span = line.partition(b" ")
                if int(number) > last:
                    self._seen[root] = int(number)
                    file.write(orjson.dumps({**orjson.loads(span), "by": GATEWAY}) + b"\n")


def _gateway_says(inside: Path) -> bytes:
    """The last spans of the gateway whose mount ``inside`` lies in; nothing where it tells none."""
    for folder in (inside, *inside.parents):
        if os.path.ismount(folder):
            try:
                return (folder / ASKED).read_bytes()
            except OSError:  # told not to show it, or an older one: calls to the mount are not told apart
                return b""
    return b""
