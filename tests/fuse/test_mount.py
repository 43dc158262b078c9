"""Programs that know nothing of us, on a real mount: they see the folder below, and cannot change it."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
NOBODY = 65534
TIMEOUT_S = 60


def run(*command: str | Path, user: int | None = None) -> str:
    """Standard output of a program that must succeed, with a watchdog; ``user`` runs it as somebody else."""
    prefix = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user is not None else []
    done = subprocess.run([*prefix, *map(str, command)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 by relative path, computed by other programs."""
    lines = run("sh", "-c", f"cd '{folder}' && find . -type f -print0 | sort -z | xargs -0 sha256sum").splitlines()
    return {line[66:]: line[:64] for line in lines}


def test_every_file_has_the_bytes_of_the_source(mounted: Path, source: Path) -> None:
    assert tree(mounted) == tree(source)


def test_cp_copies_the_whole_tree(mounted: Path, source: Path, tmp_path: Path) -> None:
    run("cp", "-r", f"{mounted}/.", tmp_path / "copy")
    run("chmod", "-R", "u+w", tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(source)


def test_ls_shows_names_sizes_and_read_only_modes(mounted: Path, source: Path) -> None:
    lines = run("ls", "-ln", mounted).splitlines()[1:]
    assert [line[:10] for line in lines if "large.bin" in line] == ["-r--r--r--"]
    assert [line[:10] for line in lines if line.endswith("many")] == ["dr-xr-xr-x"]
    assert {line.split(None, 8)[8] for line in lines} == {p.name for p in source.iterdir()}
    assert (mounted / "large.bin").stat().st_size == (source / "large.bin").stat().st_size
    assert (mounted / "large.bin").stat().st_mtime_ns == (source / "large.bin").stat().st_mtime_ns


def test_another_user_reads(mounted: Path, source: Path) -> None:
    found = run("sha256sum", mounted / "block.bin", user=NOBODY).split()[0]
    assert found == hashlib.sha256((source / "block.bin").read_bytes()).hexdigest()
    assert len(run("ls", mounted / "many", user=NOBODY).splitlines()) == 1000


def test_a_folder_of_a_thousand_files_lists_whole_and_in_order(mounted: Path) -> None:
    assert os.listdir(mounted / "many") == [f"file-{n:04d}" for n in range(1000)]
    assert os.listdir(mounted / "void") == []


def test_dd_reads_ranges_that_cross_blocks(mounted: Path, source: Path, tmp_path: Path) -> None:
    for skip, count in ((0, 1), (4095, 3), (1023, 2), (3072, 13)):
        out = tmp_path / f"out-{skip}"
        run("dd", f"if={mounted}/large.bin", f"of={out}", "bs=4096", f"skip={skip}", f"count={count}", "status=none")
        expected = (source / "large.bin").read_bytes()[skip * 4096 : (skip + count) * 4096]
        assert out.read_bytes() == expected


def test_an_mmap_shows_the_same_bytes(mounted: Path, source: Path) -> None:
    expected = (source / "large.bin").read_bytes()
    with (mounted / "large.bin").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert hashlib.sha256(mapped).digest() == hashlib.sha256(expected).digest()


def test_parallel_readers_of_one_file_agree(mounted: Path, source: Path) -> None:
    expected = hashlib.sha256((source / "large.bin").read_bytes()).hexdigest()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: run("sha256sum", mounted / "large.bin").split()[0], range(6)))
    assert found == [expected] * 6


def test_an_empty_file_and_a_name_in_utf8_are_read(mounted: Path) -> None:
    assert (mounted / "empty").read_bytes() == b""
    assert (mounted / "with space and ümläut ✓.txt").read_text() == "grüezi\n"


def test_a_missing_name_is_enoent_and_a_name_that_is_no_text_as_well(mounted: Path) -> None:
    for name in (b"nothing", b"\xff\xfe", b"large.bin/x"):
        with pytest.raises(OSError, check=lambda e: e.errno in (errno.ENOENT, errno.ENOTDIR)):
            os.stat(os.fsencode(mounted) + b"/" + name)


def test_every_writing_call_is_erofs(mounted: Path) -> None:
    large, new = mounted / "large.bin", mounted / "new"
    attempts = {
        "open for writing": lambda: os.open(large, os.O_WRONLY),
        "create": lambda: os.open(new, os.O_CREAT | os.O_WRONLY),
        "unlink": lambda: os.unlink(large),
        "mkdir": lambda: os.mkdir(new),
        "rmdir": lambda: os.rmdir(mounted / "void"),
        "rename": lambda: os.rename(large, new),
        "link": lambda: os.link(large, new),
        "symlink": lambda: os.symlink("x", new),
        "chmod": lambda: os.chmod(large, 0o777),
        "chown": lambda: os.chown(large, 1, 1),
        "truncate": lambda: os.truncate(large, 0),
        "utime": lambda: os.utime(large, (0, 0)),
        "mknod": lambda: os.mknod(new),
        "setxattr": lambda: os.setxattr(large, "user.x", b"1"),
    }
    assert {name: errno_of(attempt) for name, attempt in attempts.items()} == dict.fromkeys(attempts, errno.EROFS)


def errno_of(attempt: Callable[[], object]) -> int | None:
    """What a call failed with; ``None`` if it did not."""
    try:
        attempt()
    except OSError as e:
        return e.errno
    return None


def test_statfs_answers(mounted: Path) -> None:
    assert os.statvfs(mounted).f_namemax == 255


def test_extended_attributes_say_version_homes_and_what_is_here(mounted: Path, source: Path) -> None:
    path = mounted / "large.bin"
    path.read_bytes()
    names = os.listxattr(path)
    assert names == [f"user.forebay.{name}" for name in ("fingerprint", "location", "cached")]
    fingerprint, location, cached = (os.getxattr(path, name).decode() for name in names)
    assert f"{(source / 'large.bin').stat().st_size:x}" in fingerprint.split("-")
    assert len(location.split(",")) == 4
    assert cached.endswith("/4")
    with pytest.raises(OSError, check=lambda e: e.errno == errno.ENODATA):
        os.getxattr(path, "user.other")
    for name in ("security.selinux", "system.posix_acl_access"):
        with pytest.raises(OSError, check=lambda e: e.errno == errno.ENOTSUP):
            os.getxattr(path, name)
    assert os.listxattr(mounted) == []


def test_the_virtual_directory_is_not_listed_but_its_texts_are_read_by_cat(mounted: Path) -> None:
    assert ".forebay" not in os.listdir(mounted)
    folder = mounted / ".forebay"
    assert sorted(os.listdir(folder)) == ["config", "hints", "stats", "trace", "traces", "version", "waits"]
    assert "forebay_fuse_inodes" in run("cat", folder / "stats")
    assert '"entry_timeout": 3600.0' in run("cat", folder / "config")
    assert run("cat", folder / "version").startswith("forebay-fuse ")
    assert " ms=" in run("cat", folder / "trace")
    with pytest.raises(OSError, check=lambda e: e.errno == errno.EROFS):
        (folder / "new").touch()
