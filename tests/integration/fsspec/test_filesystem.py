"""``forebay://`` against a real cluster: names, bytes, ranges, processes, and libraries that people use it with."""

from __future__ import annotations

import asyncio
import io
import pickle
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forebay.errors import ConfigError
from forebay.fsspec import ForebayFileSystem
from forebay.testing.cluster import Cluster
from tests.integration.fsspec.kit import FRESH, folder_cluster

pytestmark = [pytest.mark.slow]
BIG = random.Random(3).randbytes(9_000_001)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder below the cluster."""
    source = tmp_path_factory.mktemp("fsspec") / "source"
    (source / "a" / "b").mkdir(parents=True)
    (source / "big.bin").write_bytes(BIG)
    (source / "a" / "one.txt").write_text("eins\nzwei\n")
    (source / "a" / "b" / "two.txt").write_text("2")
    (source / "empty").write_bytes(b"")
    return source


@pytest.fixture(scope="module")
def cluster(source: Path) -> Iterator[Cluster]:
    """One worker."""
    with folder_cluster(source) as cluster:
        yield cluster


@pytest.fixture
def fs(cluster: Cluster) -> Iterator[ForebayFileSystem]:
    """A file system as anybody gets one."""
    fs = fsspec.filesystem("forebay", registry=cluster.registry, skip_instance_cache=True, **FRESH)
    yield fs
    fs.close()


def test_the_protocol_is_known_to_fsspec_once_the_package_is_installed() -> None:
    assert fsspec.get_filesystem_class("forebay") is ForebayFileSystem


def test_names_are_listed_found_and_matched(fs: ForebayFileSystem) -> None:
    names = fs.ls("/", detail=False)

    assert {"/a", "/big.bin", "/empty"} <= set(names)
    assert fs.find("/a") == ["/a/b/two.txt", "/a/one.txt"]
    assert fs.find("forebay:///a", maxdepth=1, withdirs=True) == ["/a", "/a/b", "/a/one.txt"]
    assert fs.glob("/a/**/*.txt") == ["/a/b/two.txt", "/a/one.txt"]
    assert fs.glob("forebay:///*.bin") == ["/big.bin"]
    assert fs.find("/nothing") == []
    assert fs.isdir("/a")
    assert fs.isfile("/big.bin")
    assert not fs.exists("/nothing")
    assert fs.du("/a") == 11


def test_what_is_known_of_a_file_says_size_time_and_version(fs: ForebayFileSystem, source: Path) -> None:
    info = fs.info("forebay:///big.bin")

    assert (info["name"], info["size"], info["type"]) == ("/big.bin", len(BIG), "file")
    assert fs.modified("/big.bin").timestamp() == pytest.approx((source / "big.bin").stat().st_mtime)
    assert fs.ukey("/big.bin") != fs.ukey("/empty")
    assert fs.checksum("/big.bin") == fs.checksum("/big.bin")


def test_bytes_come_whole_in_ranges_and_from_an_open_file(fs: ForebayFileSystem) -> None:
    with fs.open("/big.bin") as file:
        file.seek(4_000_000)
        middle, rest = file.read(200), file.read()
    with fs.open("/a/one.txt", "r") as text:
        lines = text.readlines()

    assert fs.cat("/big.bin") == BIG
    assert fs.cat_file("/big.bin", start=-5) == BIG[-5:]
    assert fs.cat_file("/big.bin", start=10, end=20) == BIG[10:20]
    assert fs.cat_file("/empty") == b""
    assert (middle, rest) == (BIG[4_000_000:4_000_200], BIG[4_000_200:])
    assert lines == ["eins\n", "zwei\n"]
    assert fs.head("/big.bin", 7) == BIG[:7]
    assert fs.read_block("/big.bin", 5, 11) == BIG[5:16]


def test_what_fsspec_makes_of_the_basic_calls_gives_the_same_names_and_bytes(
    fs: ForebayFileSystem, tmp_path: Path
) -> None:
    fs.get("/a", str(tmp_path / "a"), recursive=True)
    fs.download("/empty", str(tmp_path / "empty"))

    assert {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == {
        "a/one.txt": b"eins\nzwei\n",
        "a/b/two.txt": b"2",
        "empty": b"",
    }
    assert [(path, sorted(folders), sorted(files)) for path, folders, files in fs.walk("/a")] == [
        ("/a", ["b"], ["one.txt"]),
        ("/a/b", [], ["two.txt"]),
    ]
    assert fs.cat(["/a/one.txt", "/a/b/two.txt"]) == {"/a/one.txt": b"eins\nzwei\n", "/a/b/two.txt": b"2"}
    assert fs.expand_path("/a/*.txt") == ["/a/one.txt"]
    assert (fs.size("/big.bin"), fs.sizes(["/empty", "/a/one.txt"])) == (len(BIG), [0, 10])
    assert (fs.read_text("/a/one.txt"), fs.read_bytes("/a/b/two.txt")) == ("eins\nzwei\n", b"2")
    assert fs.tail("/big.bin", 9) == BIG[-9:]
    assert dict(fs.get_mapper("/a")) == {"one.txt": b"eins\nzwei\n", "b/two.txt": b"2"}
    assert (fs.info("/")["type"], fs.lexists("/a"), fs.isdir("/nothing")) == ("directory", True, False)
    assert fs.stat("/empty") == fs.info("/empty")


def test_readinto_fills_large_buffers_and_is_short_at_the_end_only(fs: ForebayFileSystem) -> None:
    buffer = bytearray(5_000_000)

    with fs.open("/big.bin") as file:
        first = file.readinto(buffer)
        begun = bytes(buffer[:100])
        second = file.readinto(buffer)
        end = file.readinto(buffer)

    assert (first, second, end) == (5_000_000, len(BIG) - 5_000_000, 0)
    assert begun == BIG[:100]
    assert bytes(buffer[:second]) == BIG[5_000_000:]


def test_ranges_are_given_in_order_and_errors_stand_in_their_places(fs: ForebayFileSystem) -> None:
    found = fs.cat_ranges(["/big.bin", "/nothing", "/a/one.txt"], [0, 0, 5], [3, 1, 9])

    assert found[0] == BIG[:3]
    assert isinstance(found[1], FileNotFoundError)
    assert found[2] == b"zwei"
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(["/nothing"], [0], [1], on_error="raise")
    with pytest.raises(ValueError, match="as many"):
        fs.cat_ranges(["/big.bin"], [0, 1], [1, 2])


def test_what_is_not_there_or_no_file_is_the_error_that_python_has_for_it(
    fs: ForebayFileSystem, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        fs.open("/nothing")
    with pytest.raises(IsADirectoryError):
        fs.open("/a")
    with pytest.raises(IsADirectoryError):
        fs.cat_file("/a")
    with pytest.raises(FileNotFoundError):
        fs.get_file("/nothing", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


REFUSAL = r"forebay:// is read-only: write to the under store itself"
WRITES: dict[str, tuple[Any, ...]] = {
    "put": ("LOCAL", "/new"),
    "put_file": ("LOCAL", "/new"),
    "upload": ("LOCAL", "/new"),
    "rm": ("/big.bin",),
    "rm_file": ("/big.bin",),
    "delete": ("/big.bin",),
    "rmdir": ("/a/b",),
    "cp": ("/big.bin", "/copy"),
    "cp_file": ("/big.bin", "/copy"),
    "copy": ("/big.bin", "/copy"),
    "mv": ("/big.bin", "/new"),
    "move": ("/big.bin", "/new"),
    "rename": ("/big.bin", "/new"),
    "mkdir": ("/new",),
    "makedir": ("/new",),
    "makedirs": ("/new/deep",),
    "mkdirs": ("/new/deep",),
    "pipe": ("/new", b"x"),
    "pipe_file": ("/new", b"x"),
    "write_bytes": ("/new", b"x"),
    "write_text": ("/new", "x"),
    "touch": ("/new",),
}


@pytest.mark.parametrize("name", WRITES)
def test_writing_is_refused_with_words(fs: ForebayFileSystem, source: Path, name: str) -> None:
    local = str(source / "a" / "one.txt")
    before = fs.find("/", withdirs=True)

    with pytest.raises(NotImplementedError, match=REFUSAL):  # promised: what writes is not implemented, and says so
        getattr(fs, name)(*(local if given == "LOCAL" else given for given in WRITES[name]))

    assert fs.find("/", withdirs=True) == before


@pytest.mark.parametrize("mode", ["wb", "ab", "xb", "r+b", "w"])
def test_a_file_is_opened_for_reading_only(fs: ForebayFileSystem, mode: str) -> None:
    with pytest.raises(NotImplementedError, match=REFUSAL):  # promised: open is for reading
        fs.open("/big.bin", mode)
    with pytest.raises(NotImplementedError, match=REFUSAL):  # promised: and so is open_async
        asyncio.run(fs.open_async("/big.bin", mode))


def test_without_a_registry_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOREBAY_REGISTRY", raising=False)

    with pytest.raises(ConfigError, match="FOREBAY_REGISTRY"):
        fsspec.filesystem("forebay", skip_instance_cache=True)
    with pytest.raises(ConfigError, match="colour"):
        fsspec.filesystem("forebay", registry="http://127.0.0.1:1", colour="red", skip_instance_cache=True)


def test_coroutines_read_streams_and_ranges_in_a_loop_of_their_own(cluster: Cluster) -> None:
    async def read() -> tuple[bytes, bytes, list[str]]:
        fs = ForebayFileSystem(cluster.registry, asynchronous=True, skip_instance_cache=True)
        stream = await fs.open_async("/big.bin")
        at = stream.seek(100)
        piece = await stream.read(50)
        await stream.close()
        whole, names = await fs._cat_file("/a/one.txt"), await fs._ls("/a", detail=False)
        await asyncio.to_thread(fs.close)
        assert at == 100
        return piece, whole, names

    piece, whole, names = asyncio.run(read())

    assert piece == BIG[100:150]
    assert whole == b"eins\nzwei\n"
    assert names == ["/a/b", "/a/one.txt"]


def test_a_pickled_file_system_and_an_open_file_go_on_elsewhere(fs: ForebayFileSystem) -> None:
    fs.__class__.clear_instance_cache()
    with fs.open("/big.bin") as file:
        file.seek(77)
        copy = pickle.loads(pickle.dumps(file))

    assert copy.read(3) == BIG[77:80]
    assert pickle.loads(pickle.dumps(fs)).cat("/a/one.txt") == b"eins\nzwei\n"


def test_pandas_reads_tables_by_url(cluster: Cluster, source: Path) -> None:
    table = pd.DataFrame({"name": ["ä", "b"], "count": [1, 2]})
    table.to_csv(source / "table.csv", index=False)
    table.to_parquet(source / "table.parquet")
    options = {"registry": cluster.registry, **FRESH}

    assert pd.read_csv("forebay:///table.csv", storage_options=options).equals(table)
    assert pd.read_parquet("forebay:///table.parquet", storage_options=options).equals(table)


def test_pyarrow_reads_a_partitioned_dataset(fs: ForebayFileSystem, source: Path) -> None:
    table = pa.table({"day": [1, 1, 2], "value": [1.0, 2.0, 3.0]})
    pq.write_to_dataset(table, str(source / "parts"), partition_cols=["day"])

    found = pq.ParquetDataset("/parts", filesystem=fs, filters=[("day", "=", 1)]).read(columns=["value"])

    assert found["value"].to_pylist() == [1.0, 2.0]


def test_tar_shards_are_read_as_streams(fs: ForebayFileSystem, source: Path) -> None:
    with tarfile.open(source / "shard.tar", "w") as tar:
        for number in range(20):
            for suffix, body in (("jpg", BIG[number : number + 1000]), ("cls", str(number).encode())):
                member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))

    with fs.open("/shard.tar") as file, tarfile.open(fileobj=file, mode="r|") as stream:
        bodies = {m.name: (stream.extractfile(m) or io.BytesIO()).read() for m in stream}

    assert len(bodies) == 40
    assert bodies["0007.jpg"] == BIG[7:1007]
    assert bodies["0019.cls"] == b"19"
