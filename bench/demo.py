"""``make demo``: a dataset in a real S3 server, read by programs that know nothing of us, through a mount.

Brings up SeaweedFS, writes TFRecord shards of JPEG images and a folder of small files, starts a cluster (one master,
two workers, a gateway), and reads three epochs with four reader processes in a new order each; then the same files
straight from S3 and from local disk; then compares the SHA-256 of every file, untimed. Takes everything down. The
last line of standard output is the figure as JSON; the exit status says whether every file was right.

Environment: ``SMALL=1`` (a folder, one worker, one epoch: seconds), ``SOURCE=s3://bucket/prefix`` or a folder (your
own data; ``AWS_…`` as usual), ``REGISTRY=zookeeper`` (a real ZooKeeper for the registry).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench.demo_readers import Pass, Place, Readers
from bench.demo_report import Row, Sources, figure, sources_between, table
from bench.demo_source import SMALL_SIZES, Source, listed_source, made_folder, made_s3, uploaded
from forebay.cli.children import get
from forebay.cli.cluster import GATEWAY, WORKER, ClusterSpec, LocalCluster
from forebay.cli.sources import mount_setting, root_setting
from forebay.cli.up import stop_on_signals
from forebay.errors import ForebayError
from forebay.testing.cluster import parse_metrics
from forebay.testing.s3 import S3Server
from forebay.testing.tools import ToolMissing
from forebay.testing.zookeeper import ZooKeeperServer

READERS = 4
EPOCHS = 3
WARM_S = 2.0
WARM_PASSES_MAX = 50
SPARE_BYTES = 256 << 20
SEED = 7


@dataclass(frozen=True)
class Wish:
    """What the environment asks for."""

    small: bool = False
    source: str = ""
    zookeeper: bool = False

    @staticmethod
    def of(environ: Mapping[str, str]) -> Wish:
        """Raises ValueError for a registry that is neither empty, ``embedded`` nor ``zookeeper``."""
        registry = environ.get("REGISTRY", "")
        if registry not in ("", "embedded", "zookeeper"):
            raise ValueError(f"REGISTRY={registry}: want embedded or zookeeper")
        return Wish(environ.get("SMALL", "") not in ("", "0"), environ.get("SOURCE", ""), registry == "zookeeper")


class Demo:
    """One run: the steps, with what they need of each other. ``stack`` takes everything down again."""

    def __init__(self, wish: Wish, progress: Progress, stack: contextlib.ExitStack) -> None:
        self.wish = wish
        self.epochs = 1 if wish.small else EPOCHS
        self._progress, self._stack = progress, stack
        self._task = progress.add_task("starting", total=(6 if wish.small else 10) + self.epochs)
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forebay-demo-")))
        self._rng = random.Random(SEED)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """A phase, shown."""
        self._progress.update(self._task, description=what)
        yield
        self._progress.advance(self._task)

    def run(self) -> tuple[list[Row], bool, Source]:
        """All of it: the table's rows, whether every file was right, and what was read."""
        with self.step("readers"):
            readers = self._stack.enter_context(Readers(READERS))
        source = self._source()
        with self.step("cluster"):
            cluster, mount = self._cluster(source)
        with self.step("listing through the mount"):
            self._list(mount, source)
        rows = self._epochs(readers, cluster, mount, source)
        if not self.wish.small:
            rows += self._beside(readers, source)
        with self.step("SHA-256 of every file"):
            right = self._compare(readers, mount, source)
        return rows, right, source

    def _source(self) -> Source:
        """The data: made, or the user's own."""
        if self.wish.source:
            with self.step(f"listing {self.wish.source}"):
                return listed_source(self.wish.source, os.environ)
        local = self.folder / "dataset"
        with self.step("dataset of photographs"):
            made = made_folder(local, SMALL_SIZES if self.wish.small else None)
        if self.wish.small:
            return made
        with self.step("S3 server"):
            server = self._stack.enter_context(S3Server())
        source = made_s3(server, made)
        with self.step(f"{source.size >> 20} MiB into S3"):
            uploaded(server, source, local)
        return source

    def _cluster(self, source: Source) -> tuple[LocalCluster, Place]:
        mount = self.folder / "mount"
        mount.mkdir()
        spec = ClusterSpec(
            mounts=(mount_setting("/", source.uri, source.options),),
            ufs_roots=(root_setting(source.uri, source.options),),
            workers=1 if self.wish.small else 2,
            worker_mem_bytes=source.size * 5 // 4 + SPARE_BYTES,
            mount_dirs=(mount,),
            environ=source.place.environ,
        )
        if self.wish.zookeeper:
            server = self._stack.enter_context(ZooKeeperServer())
            spec = replace(spec, registry=f"zookeeper://{server.address}/forebay-demo")
        return self._stack.enter_context(LocalCluster(spec)), Place("folder", str(mount))

    def _list(self, mount: Place, source: Source) -> None:
        """As any training program does first; raises RuntimeError when a file is missing or has another size."""
        shown = {
            os.path.relpath(os.path.join(top, name), mount.root): os.stat(os.path.join(top, name)).st_size
            for top, _, names in os.walk(mount.root)
            for name in names
        }
        wrong = [f.path for f in source.files if shown.get(f.path) != f.size]
        if wrong:
            raise RuntimeError(f"{len(wrong)} files are not in the mount as they are at the source: {wrong[:3]}")

    def _epochs(self, readers: Readers, cluster: LocalCluster, mount: Place, source: Source) -> list[Row]:
        rows: list[Row] = []
        for epoch in range(1, self.epochs + 1):
            with self.step(f"epoch {epoch} of {self.epochs}"):
                before = _sources(cluster)
                passes = self._passes(readers, mount, source, at_least_s=0.0 if epoch == 1 else WARM_S)
                found = sources_between(before, _sources(cluster))
            name = f"epoch {epoch}" + (" (cold)" if epoch == 1 else "")
            rows.append(Row.of(name, passes, found))
            if epoch == 1 and source.size and found.under_store == 0:
                raise RuntimeError("the first epoch took nothing from the under store: it was not cold")
        return rows

    def _beside(self, readers: Readers, source: Source) -> list[Row]:
        """The same reads without us."""
        rows: list[Row] = []
        with self.step("the same, straight from the source"):
            name = "straight from S3" if source.place.kind == "s3" else "straight from the folder"
            rows.append(Row.of(name, self._passes(readers, source.place, source, at_least_s=WARM_S)))
        if source.local is not None and source.local != source.place:
            with self.step("the same, from local disk"):
                passes = self._passes(readers, source.local, source, at_least_s=WARM_S)
                rows.append(Row.of("local disk (in its page cache)", passes))
        return rows

    def _passes(self, readers: Readers, place: Place, source: Source, *, at_least_s: float) -> list[Pass]:
        passes: list[Pass] = []
        while not passes or (sum(p.seconds for p in passes) < at_least_s and len(passes) < WARM_PASSES_MAX):
            order = list(source.files)
            self._rng.shuffle(order)
            passes.append(readers.run(place, order))
        return passes

    def _compare(self, readers: Readers, mount: Place, source: Source) -> bool:
        """Whether each file's hash through the mount is the one it was written with (or has at the source)."""
        seen = readers.run(mount, source.files, hashes=True).hashes
        wanted: Mapping[str, str | None] = {f.path: f.sha256 for f in source.files}
        if None in wanted.values():
            wanted = readers.run(source.place, source.files, hashes=True).hashes
        return bool(seen) and seen == wanted


def _sources(cluster: LocalCluster) -> Sources:
    """What gateway and workers have counted so far."""
    samples: dict[str, dict[str, float]] = {}
    for name, child in cluster.children.items():
        if name.startswith((GATEWAY, WORKER)):
            reply = get(child.spec.port, "/metrics", timeout_s=5.0)
            samples[name] = parse_metrics(reply[1]) if reply is not None else {}
    return Sources.of(samples)


def _report(rows: Sequence[Row], right: bool, demo: Demo, source: Source, out: Console) -> None:
    out.print(table(rows, source))
    out.print("What the kernel's page cache served of the mount is invisible to us: it is in MB/s, in no other column.")
    out.print(f"SHA-256 of {len(source.files)} files through the mount: {'all right' if right else 'WRONG'}")
    sys.stdout.flush()
    sys.stdout.write(json.dumps(figure(rows, right, source, small=demo.wish.small)) + "\n")
    sys.stdout.flush()


def main() -> int:
    """The demo; its exit status."""
    errors = Console(stderr=True, highlight=False)
    stop_on_signals()
    columns = (SpinnerColumn(), TextColumn("{task.description:<36}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=errors) as progress, contextlib.ExitStack() as stack:
            demo = Demo(Wish.of(os.environ), progress, stack)
            rows, right, source = demo.run()
            with demo.step("taking everything down"):
                stack.close()
    except (ForebayError, ToolMissing, ValueError, RuntimeError) as e:
        errors.print(f"error: {e}", markup=False)
        return 1
    except KeyboardInterrupt:
        errors.print("stopped")
        return 130
    _report(rows, right, demo, source, Console(highlight=False, width=None if sys.stdout.isatty() else 110))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
